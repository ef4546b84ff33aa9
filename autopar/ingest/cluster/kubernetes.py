"""`kubectl get nodes -o json` -> the GPUs of the nodes.

Labels: GPU feature discovery of NVIDIA (README of k8s-device-plugin, docs/gpu-feature-discovery),
the node labeller of AMD (ROCm/k8s-device-plugin, cmd/k8s-node-labeller), and those of Google's GKE
for accelerators, MIG and sharing (docs.cloud.google.com, "Running multi-instance GPUs", "Share GPUs
with multiple workloads").
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autopar import documents
from autopar.errors import SpecError, shorten
from autopar.ingest.cluster.findings import MIG, Node
from autopar.ingest.cluster.text import Output, is_digits

COMMAND = "kubectl get nodes -o json"

_NVIDIA, _AMD = "nvidia.com/gpu", "amd.com/gpu"
# What the device plugin of NVIDIA offers instead where it shares GPUs and renameByDefault is set
# (README of k8s-device-plugin, "Shared Access to GPUs").
_RENAMED = f"{_NVIDIA}.shared"
_AMD_NAME = "amd.com/gpu.product-name"
# How GPUs of AMD are cut: by compute units and by memory, such as cpx_nps4; spx: not at all. The
# labeller writes it as a label, and the device plugin as a resource if it is told so ("mixed").
_AMD_PARTS = re.compile(r"(?:beta\.)?amd\.com/(?:gpu\.)?compute-memory-partition")
_AMD_PART = re.compile(r"amd\.com/([a-z]+_nps\d+)", re.ASCII)
_AMD_WHOLE = "spx_"
_MIG = re.compile(r"nvidia\.com/mig-\d+g\.\d+gb\S*")
_MIG_NAME = re.compile(r"-MIG-\d+g\.\d+gb\S*$")
_SHARED = "-SHARED"
_GOOGLE = "cloud.google.com/gke-accelerator"
_GOOGLE_SLICE = "cloud.google.com/gke-gpu-partition-size"  # of MIG, such as 1g.10gb
# How often one GPU is offered: by time-slicing or MPS of NVIDIA's device plugin, and of GKE's.
_COPIES = (f"{_NVIDIA}.replicas", "cloud.google.com/gke-max-shared-clients-per-gpu")
# Its values -> the GPU, and the machines that have it, with SXM modules where a GPU has two forms.
# Sources: docs.cloud.google.com, "About GPUs in GKE" and "GPU machine types" of Compute Engine.
_GOOGLE_GPUS: Mapping[str, tuple[str, str]] = {
    "nvidia-tesla-v100": ("v100-sxm-16gb", "N1"),
    "nvidia-tesla-a100": ("a100-sxm-40gb", "A2 Standard"),
    "nvidia-a100-80gb": ("a100-sxm-80gb", "A2 Ultra"),
    "nvidia-h100-80gb": ("h100-sxm-80gb", "A3 High"),
    "nvidia-h100-mega-80gb": ("h100-sxm-80gb", "A3 Mega"),
    "nvidia-h200-141gb": ("h200-sxm-141gb", "A3 Ultra"),
    "nvidia-b200": ("b200-sxm-180gb", "A4"),
    "nvidia-gb200": ("gb200-186gb", "A4X"),
    "nvidia-l4": ("l4-24gb", "G2"),
    "nvidia-rtx-pro-6000": ("rtx-pro-6000-96gb", "G4"),
}
_NO_UUID = "00000000-0000-0000-0000-000000000000."  # of a GPU that is in no fabric
_AMD_MEMORY = re.compile(r"(\d{1,5})\s*(?:G|GB|GiB)", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Source:
    """What one node says; usable: the allocatable resources. down: why it takes no new pods."""

    name: str
    where: str
    labels: Mapping[str, Any]
    usable: Mapping[str, Any]
    capacity: Mapping[str, Any]
    down: str | None


def is_kubernetes(text: str) -> bool:
    """Whether a text is an object of Kubernetes."""
    return text.lstrip().startswith("{")


def read_nodes(output: Output) -> tuple[list[Node], int]:
    """Return the GPUs of the nodes, an entry per node and maker, and how many nodes have none.

    Raises SpecError, which names the field, for what cannot be read or contradicts itself.
    """
    nodes: list[Node] = []
    seen: set[str] = set()
    idle = 0
    for where, item in _items(output):
        name = _mapping(item, "metadata", where).get("name")
        if not isinstance(name, str) or not name:
            raise SpecError(f"{where}.metadata.name: found {documents.found(name)}, expected text")
        if name in seen:
            raise SpecError(f"{where}.metadata.name: found node {shorten(name)} a second time")
        seen.add(name)
        found = _of_makers(name, where, item)
        idle += not found
        nodes += found
    return nodes, idle


def _items(output: Output) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each node of a list, or the one that the document is, and how messages name it."""
    data = documents.parse(output.text, output.label)
    kind, items = data.get("kind"), data.get("items")
    if kind == "Node":
        yield f"{output.label}: Node", data
        return
    if kind not in ("List", "NodeList") or not isinstance(items, list):
        raise SpecError(
            f"{output.label}: kind: found {documents.found(kind)}, expected a List of nodes, as "
            f"{COMMAND} prints it"
        )
    for index, item in enumerate(items):
        where = f"{output.label}: items[{index}]"
        if not isinstance(item, dict) or item.get("kind") != "Node":
            inner = item.get("kind") if isinstance(item, dict) else item
            raise SpecError(
                f"{where}.kind: found {documents.found(inner)}, expected Node; give the output of "
                f"{COMMAND}"
            )
        yield where, item


def _of_makers(name: str, where: str, item: Mapping[str, Any]) -> list[Node]:
    """Return the GPUs of one node, an entry per maker; none if it has no GPU."""
    status = _mapping(item, "status", where)
    place = f"{where}.status"
    source = _Source(
        name,
        where,
        _mapping(_mapping(item, "metadata", where), "labels", f"{where}.metadata"),
        _mapping(status, "allocatable", place),
        _mapping(status, "capacity", place),
        _down(item, status, where),
    )
    found = [node for node in (_nvidia(source), _amd(source)) if node is not None]
    # A device plugin that found no GPU, and its resource once it is gone, offer 0 of them.
    return [node for node in found if node.num_gpus or node.parts] or found[:1]


def _nvidia(source: _Source) -> Node | None:
    """Return the GPUs of NVIDIA in one node, None if it has none."""
    where, labels, usable = source.where, source.labels, source.usable
    place = f"{where}.status"
    labelled = _count(labels, f"{_NVIDIA}.count", f"{where}.metadata.labels")
    slices = sorted(key for key in usable if _MIG.fullmatch(key) and _count(usable, key, place))
    product, (means, machine) = _text(labels, f"{_NVIDIA}.product"), ("", "")
    if product is None:
        product = _text(labels, _GOOGLE)
        means, machine = _GOOGLE_GPUS.get(product or "", ("", ""))
    allocatable = _nvidia_counts(usable, f"{place}.allocatable")
    if not labelled and not any(allocatable.values()) and not slices:
        return None
    # GKE names no slices in the product and none in the resource: 56 nvidia.com/gpu are 8 GPUs.
    is_sliced = bool(
        slices or _MIG_NAME.search(product or "") or _text(labels, _GOOGLE_SLICE) is not None
    )
    copies = max(_count(labels, key, f"{where}.metadata.labels") or 1 for key in _COPIES)
    count, notes = _num_gpus(where, labelled, allocatable, copies, is_sliced=is_sliced)
    capacity = _nvidia_counts(source.capacity, f"{place}.capacity")
    notes += _not_healthy(
        _unshared(allocatable, allocatable, copies), _unshared(capacity, allocatable, copies)
    )
    memory = _count(labels, f"{_NVIDIA}.memory", f"{where}.metadata.labels")
    clique = _text(labels, f"{_NVIDIA}.clique")
    return Node(
        source.name,
        where,
        None if product is None else _MIG_NAME.sub("", product).removesuffix(_SHARED),
        count,
        memory_bytes=None if not memory or is_sliced else memory * 2.0**20,
        unit=None if clique is None or clique.startswith(_NO_UUID) else clique,
        down=source.down,
        notes=tuple(notes),
        parts=MIG if is_sliced else "",
        means=means,
        machine=machine and f"{_GOOGLE} of {machine} machines",
    )


def _nvidia_counts(resources: Mapping[str, Any], where: str) -> dict[str, int]:
    """Return how many GPUs of NVIDIA are offered, by resource, of those that there are."""
    counts = {key: _count(resources, key, where) for key in (_NVIDIA, _RENAMED)}
    return {key: count for key, count in counts.items() if count is not None}


def _num_gpus(
    where: str,
    labelled: int | None,
    allocatable: Mapping[str, int],
    copies: int,
    *,
    is_sliced: bool,
) -> tuple[int, list[str]]:
    """Return the whole GPUs of a node that can be had, and what is to be said about it."""
    if not allocatable:
        return labelled or 0, ["no allocatable nvidia.com/gpu; the label's count is taken"]
    renamed = allocatable.get(_RENAMED)
    if renamed and copies == 1 and not is_sliced:
        if labelled is None:
            raise SpecError(
                f"{where}: found {renamed} allocatable {_RENAMED} and no label {_COPIES[0]}, "
                "expected it to say how often each GPU is offered"
            )
        return labelled, [f"shared, and no label {_COPIES[0]}; the label's count is taken"]
    notes = [f"shared: each GPU is offered {copies} times; whole GPUs are counted"]
    taken = sum(_unshared(allocatable, allocatable, copies).values())
    if copies == 1:
        notes = []
    elif not renamed or not allocatable.get(_NVIDIA):
        return taken, notes
    if labelled is None or is_sliced:
        return taken, notes
    if taken > labelled:
        raise SpecError(
            f"{where}: found {taken} allocatable nvidia.com/gpu and the label "
            f"nvidia.com/gpu.count={labelled}, expected no more than the label says"
        )
    if taken < labelled:
        notes.append(f"{taken} GPUs are allocatable, {labelled} by the label")
    return taken, notes


def _unshared(
    counts: Mapping[str, int], allocatable: Mapping[str, int], copies: int
) -> dict[str, int]:
    """Return how many GPUs of NVIDIA those of each resource are, where some are copies."""
    named, renamed = allocatable.get(_NVIDIA), allocatable.get(_RENAMED)
    # Beside copies of another name, what is left of nvidia.com/gpu is not shared.
    shared = _NVIDIA if renamed is None or (named and not renamed) else _RENAMED
    return {key: count // copies if key == shared else count for key, count in counts.items()}


def _not_healthy(usable: Mapping[str, int], capacity: Mapping[str, int]) -> list[str]:
    """Return what is to be said of GPUs that a node has and does not offer, by resource."""
    # A resource that the device plugin offered under another name before stays a while, with all
    # of its capacity and 0 of it allocatable: it is the same GPUs.
    live = [key for key, count in usable.items() if count]
    found, most = sum(usable.values()), max((capacity.get(key, 0) for key in usable), default=0)
    whole = sum(capacity.get(key, 0) for key in live) if live else most
    if found >= whole:
        return []
    return [f"{found} of {whole} GPUs are allocatable: the others are not healthy"]


def _amd(source: _Source) -> Node | None:
    """Return the GPUs of AMD in one node, None if it has none."""
    where, labels = source.where, source.labels
    usable = _amd_counts(source.usable, f"{where}.status.allocatable")
    capacity = _amd_counts(source.capacity, f"{where}.status.capacity")
    product = _text(labels, _AMD_NAME) or _text(labels, f"beta.{_AMD_NAME}")
    if not any(usable.values()) and not any(capacity.values()) and product is None:
        return None
    stated = {str(labels[key]).lower() for key in labels if _AMD_PARTS.fullmatch(key)}
    offered = {part for counts in (usable, capacity) for part, n in counts.items() if n}
    cut = sorted(part for part in (stated | offered) - {""} if not part.startswith(_AMD_WHOLE))
    vram = _text(labels, f"{_AMD}.vram") or _text(labels, f"beta.{_AMD}.vram")
    match = _AMD_MEMORY.fullmatch(vram or "")
    memory = None if match is None else int(match[1]) * 2.0**30
    whole = {part: n for part, n in usable.items() if not part or part.startswith(_AMD_WHOLE)}
    return Node(
        source.name,
        where,
        product,
        sum(whole.values()),
        memory_bytes=None if cut else memory,
        down=source.down,
        notes=() if cut else tuple(_not_healthy(whole, capacity)),
        parts=f"partitions ({', '.join(cut)})" if cut else "",
    )


def _amd_counts(resources: Mapping[str, Any], where: str) -> dict[str, int]:
    """Return how many GPUs of AMD there are by how they are cut, "" where that is not said."""
    parts = {key: match[1] for key in resources if (match := _AMD_PART.fullmatch(key))}
    return {part: _count(resources, key, where) or 0 for key, part in ({_AMD: ""} | parts).items()}


def _down(item: Mapping[str, Any], status: Mapping[str, Any], where: str) -> str | None:
    """Return why a node takes no new pods, None if it does."""
    if _mapping(item, "spec", where).get("unschedulable") is True:
        return "cordoned"
    conditions = status.get("conditions") or []
    if not isinstance(conditions, list):
        raise SpecError(
            f"{where}.status.conditions: found {documents.found(conditions)}, expected a list"
        )
    ready = [c for c in conditions if isinstance(c, dict) and c.get("type") == "Ready"]
    return "NotReady" if ready and ready[0].get("status") != "True" else None


def _mapping(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SpecError(f"{where}.{key}: found {documents.found(value)}, expected a mapping")
    return value


def _text(labels: Mapping[str, Any], key: str) -> str | None:
    value = labels.get(key)
    return value if isinstance(value, str) and value else None


def _count(data: Mapping[str, Any], key: str, where: str) -> int | None:
    """Return a count, which Kubernetes writes as text, None if there is none."""
    value = data.get(key)
    if value is None:
        return None
    text = str(value)
    if isinstance(value, bool) or not is_digits(text) or len(text) > 9:
        raise SpecError(f"{where}[{key}]: found {documents.found(value)}, expected a count")
    return int(text)
