"""The three links of a cluster: what nvidia-smi shows, what is given, and what is assumed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autopar.errors import SpecError
from autopar.ingest.cluster.draft import Counts, Given, Notes
from autopar.ingest.cluster.findings import How, Level, Node, Said
from autopar.ingest.cluster.hardware import NVLINKS, PCIE
from autopar.ingest.cluster.hostlist import compress
from autopar.ingest.cluster.names import Catalogue, KnownCluster
from autopar.ingest.cluster.select import Kind
from autopar.ingest.cluster.wiring import Wiring, wiring
from autopar.specs import Link
from autopar.units import plural

_LATENCY_US: Mapping[Level, float] = {"node": 1.0, "domain": 1.0, "fabric": 4.0}  # as the catalogue
_MANY = 8  # GPUs or nodes that a message names


@dataclass(frozen=True, slots=True)
class _Found:
    """A bandwidth, how it came about, and the latency that goes with it, if it is another one."""

    bytes_per_s: float
    how: How
    why: str
    latency_us: float | None = None


@dataclass(frozen=True, slots=True)
class _Question:
    """What links are asked about."""

    kind: Kind
    counts: Counts
    like: KnownCluster | None
    given: Mapping[Level, float]
    notes: Notes


def links(
    kind: Kind, counts: Counts, catalogue: Catalogue, given: Given, notes: Notes
) -> dict[Level, Link]:
    """Return the links of a cluster, and say in `notes` how they came about.

    Raises SpecError if NVLink is not the same everywhere, or nothing says how fast a level is.
    """
    like = catalogue.like(kind.gpu, counts.gpus_per_node)
    question = _Question(kind, counts, like, given.bandwidths, notes)
    nodes, wirings = _wirings(kind)
    if "node" not in given.bandwidths:
        _refuse_uneven(kind, nodes, wirings)
    node = _given(question, "node") or _node(question, nodes, wirings)
    domain = _given(question, "domain") or _domain(question, node)
    fabric = _given(question, "fabric") or _fabric(question)
    _say_about_nics(question, nodes, wirings)
    found: tuple[tuple[Level, _Found], ...] = (
        ("node", node),
        ("domain", domain),
        ("fabric", fabric),
    )
    return {level: _link(question, level, each) for level, each in found}


def _wirings(kind: Kind) -> tuple[list[Node], list[Wiring]]:
    """Return the nodes on which nvidia-smi showed its matrix, and what it showed."""
    known = NVLINKS.get(kind.gpu)
    read = list(kind.nodes)
    if not any(node.matrix for node in read) and kind.example is not None:
        read = [kind.example]
    pairs = [(node, wiring(node, known.number if known else None)) for node in read]
    seen = [(node, found) for node, found in pairs if found is not None]
    return [node for node, _ in seen], [found for _, found in seen]


def _refuse_uneven(kind: Kind, nodes: Sequence[Node], wirings: Sequence[Wiring]) -> None:
    """Raise SpecError where some GPUs of a node have NVLink and some not, or some nodes."""
    broken = [(n, w) for n, w in zip(nodes, wirings, strict=True) if w.kind == "uneven"]
    if broken:
        node, found = broken[0]
        gpus = ", ".join(f"GPU{gpu}" for gpu in found.weak[:_MANY])
        how = f"{gpus} reach fewer GPUs over it than the others"
        if not gpus:
            how = (
                f"each GPU reaches {found.reach} of the {node.num_gpus - 1} others over it, with "
                f"{found.nvlinks} links"
            )
        names = compress(n.name for n, _ in broken)
        leave = f"leave the node out by --without {names}, or " * (len(broken) < len(kind.nodes))
        raise SpecError(
            f"{_matrix_of(node)}: NVLink of node {node.name} is not whole: {how}; {leave}state the "
            "bandwidth that you plan with by --node-bandwidth"
        )
    shapes = {w.kind for w in wirings if w.kind != "alone"}
    if len(shapes) > 1:
        listed = "; ".join(
            f"{compress(n.name for n, w in zip(nodes, wirings, strict=True) if w.kind == shape)}: "
            f"{_WORDS[shape]}"
            for shape in sorted(shapes)
        )
        raise SpecError(
            f"{_matrix_of(nodes[0])}: nodes with {kind.gpu} are wired in different ways: {listed}; "
            "leave some out by --without, or state the bandwidth by --node-bandwidth"
        )


_WORDS = {
    "switched": "NVLink between all GPUs",
    "mesh": "NVLink between all GPUs, without a switch",
    "cube": "NVLink from each GPU to some of the others",
    "parts": "NVLink in groups",
    "pcie": "no NVLink",
}


def _given(question: _Question, level: Level) -> _Found | None:
    rate = question.given.get(level)
    return None if rate is None else _Found(rate, "given", f"--{level}-bandwidth")


def _node(question: _Question, nodes: Sequence[Node], wirings: Sequence[Wiring]) -> _Found:
    kind = question.kind
    if not wirings:
        return _assumed(question, "node", "no nvidia-smi topo -m was given")
    node, first = nodes[0], wirings[0]
    where = _matrix_of(node)
    if len(nodes) < len(kind.nodes) or kind.example is node:
        where += f", taken for all {len(kind.nodes)} nodes"
    elif len(nodes) > 1:
        where += f", and {plural(len(nodes) - 1, 'other node')}"
    if first.kind in ("switched", "mesh", "cube"):
        return _nvlink(question, nodes, wirings, where)
    if first.kind == "alone":
        return _assumed(question, "node", "one GPU per node, so that the link is idle")
    return _pcie(question, first, where)


def _nvlink(
    question: _Question, nodes: Sequence[Node], wirings: Sequence[Wiring], where: str
) -> _Found:
    """Return the bandwidth of NVLinks that were counted: the fewest that a GPU has."""
    gpu, notes = question.kind.gpu, question.notes
    known = NVLINKS.get(gpu)
    counted = [w.nvlinks for w in wirings if w.nvlinks is not None]
    if known is None:
        return _assumed(question, "node", f"NVLink: {where}; the rate of one link is not known")
    if not counted:
        why = f"NVLink between all GPUs: {where}; {known.number} links, as this GPU has"
        return _Found(known.number * known.bytes_per_s, "inferred", why)
    fewest = min(counted)
    if max(counted) > known.number:
        raise SpecError(
            f"{_matrix_of(nodes[0])}: found NV{max(counted)}, expected at most the {known.number} "
            f"NVLinks of {gpu}; is it another GPU (--gpu NAME), or state --node-bandwidth"
        )
    for node, found in zip(nodes, wirings, strict=True):
        if found.weak:
            weak = ", ".join(f"GPU{i}" for i in found.weak[:_MANY])
            notes.warnings.append(
                f"{_matrix_of(node)}: {weak} of node {node.name} has fewer NVLinks than the "
                f"others; all are taken to have {fewest}"
            )
    if fewest < known.number and not any(w.weak for w in wirings):
        notes.warnings.append(
            f"{where}: {fewest} NVLinks per GPU, {gpu} has {known.number}; the {fewest} are taken"
        )
    is_cube = wirings[0].kind == "cube"
    if is_cube:
        notes.warnings.append(
            f"{where}: a hybrid cube mesh: NVLink from each GPU to {wirings[0].reach} others, and "
            "to the rest over one of these or PCIe; the bandwidth is that of all NVLinks of a GPU "
            "together, which rings of all-reduce use, and all-to-all gets less: state or measure "
            "it where that counts (--node-bandwidth, --bandwidth node=FILE)"
        )
    is_mesh = wirings[0].kind == "mesh"
    if is_mesh:
        notes.warnings.append(
            f"{where}: no NVLink switch; the bandwidth is that of all NVLinks of a GPU together, "
            "which all-to-all uses, and a message between two GPUs does not"
        )
    shape = f"{fewest} NVLinks in sum" if is_mesh or is_cube else f"NV{fewest}"
    why = f"{shape} x {known.bytes_per_s / 1e9:.0f} GB/s per link and direction; {where}"
    return _Found(fewest * known.bytes_per_s, "inferred", why)


def _pcie(question: _Question, found: Wiring, where: str) -> _Found:
    """Return the bandwidth of GPUs that NVLink does not join, or not all of them."""
    gpu, notes = question.kind.gpu, question.notes
    if found.kind == "parts":
        notes.warnings.append(
            f"{where}: NVLink joins groups of {found.part_gpus} GPUs alone (NV{found.nvlinks}); a "
            "spec has one bandwidth inside a node, and PCIe's is taken, which joins all"
        )
    elif gpu in NVLINKS and "-pcie-" not in gpu:
        notes.warnings.append(
            f"{where}: no NVLink, which {gpu} has: is it a virtual machine, or does the fabric "
            "manager not run? PCIe is taken, as it was found"
        )
    known = PCIE.get(gpu)
    if known is None:
        return _assumed(question, "node", f"PCIe: {where}")
    why = f"PCIe x16 of this GPU; not all have NVLink, the longest way is {found.worst}; {where}"
    if found.worst in ("NODE", "SYS"):
        notes.doubt(
            "node",
            f"{where}: the longest way between two GPUs ({found.worst}) crosses the processor, "
            "where less than the full rate may arrive; measure it (--bandwidth node=FILE)",
        )
    return _Found(known.bandwidth_bytes_per_s, "inferred", why, known.latency_us)


def _domain(question: _Question, node: _Found) -> _Found:
    counts = question.counts
    if counts.gpus_per_domain <= counts.gpus_per_node:
        return _Found(node.bytes_per_s, node.how, "that of the node", node.latency_us)
    if node.how in ("inferred", "given"):
        why = "the links of a GPU are the same inside a node and beyond it"
        return _Found(node.bytes_per_s, "inferred", why)
    return _assumed(question, "domain", "no input states it")


def _fabric(question: _Question) -> _Found:
    if question.counts.is_one_domain:
        return _assumed(question, "fabric", "idle, as all GPUs are in one domain")
    found = _assumed(question, "fabric", "no input states it")
    question.notes.doubt(
        "fabric",
        f"a fabric of {found.bytes_per_s / 1e9:g} GB/s per GPU is assumed; state yours by "
        "--fabric-bandwidth, or measure it (--bandwidth fabric=FILE)",
    )
    return found


def _assumed(question: _Question, level: Level, reason: str) -> _Found:
    """Return the bandwidth that the catalogue's cluster of this GPU has.

    Raises SpecError if there is none, naming the option that states it.
    """
    if question.like is None:
        raise SpecError(
            f"{question.kind.nodes[0].where}: nothing says how fast the {level} link of "
            f"{question.kind.gpu} is, and no cluster of the catalogue has it; state it by "
            f"--{level}-bandwidth RATE, such as '50 GB/s'"
        )
    link = getattr(question.like.links, level)
    why = f"as in {question.like.name} of the catalogue: {reason}"
    return _Found(link.bandwidth_bytes_per_s, "assumed", why)


def _link(question: _Question, level: Level, found: _Found) -> Link:
    """Return the link, and say how its bandwidth and its latency came about."""
    if found.latency_us is not None:
        latency_us, why = found.latency_us, "that of PCIe nodes in the catalogue, not measured here"
    elif question.like is not None:
        latency_us = getattr(question.like.links, level).latency_us
        why = f"as in {question.like.name} of the catalogue, not measured here"
    else:
        latency_us, why = _LATENCY_US[level], "about as in the catalogue, not measured here"
    field = f"links.{level}"
    question.notes.said.append(
        Said(f"{field}.bandwidth_bytes_per_s", found.bytes_per_s, found.how, found.why)
    )
    question.notes.said.append(Said(f"{field}.latency_us", latency_us, "assumed", why))
    return Link(bandwidth_bytes_per_s=found.bytes_per_s, latency_us=latency_us)


def _say_about_nics(question: _Question, nodes: Sequence[Node], wirings: Sequence[Wiring]) -> None:
    """Warn where there are fewer network cards than the assumed fabric wants: one per GPU."""
    if "fabric" in question.given or question.counts.is_one_domain:
        return
    for node, found in zip(nodes, wirings, strict=True):
        if found.num_nics is not None and found.num_nics < question.counts.gpus_per_node:
            question.notes.doubt(
                "fabric",
                f"{_matrix_of(node)}: {plural(found.num_nics, 'network card')} for "
                f"{plural(question.counts.gpus_per_node, 'GPU')} of node {node.name}; the fabric "
                "that is assumed has one per GPU",
            )
            return


def _matrix_of(node: Node) -> str:
    return node.where if node.matrix is None else node.matrix.where
