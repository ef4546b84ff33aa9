"""Files and folders -> all that they say: which file is what, and which belong to one node."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from autopar.errors import SpecError, shorten
from autopar.ingest.cluster import kubernetes, nccl, slurm, smi, topo
from autopar.ingest.cluster.findings import MIG, Findings, Matrix, Network, Node
from autopar.ingest.cluster.text import Output
from autopar.units import plural

Kind = Literal["kubernetes", "matrix", "cards", "slurm", "network", "test"]

COMMANDS = {
    "kubernetes": kubernetes.COMMAND,
    "matrix": "nvidia-smi topo -m",
    "cards": smi.QUERY,
    "slurm": "scontrol show node",
    "network": "topology.conf",
    "test": "nccl-tests",
}
MAX_FILES = 20_000
_NAMED_FILES = 4  # of one command, in the spec
_EXPECTED = (
    "the output of nvidia-smi topo -m, "
    f"{smi.QUERY}, {kubernetes.COMMAND} or scontrol show node, or a topology.conf"
)
# How outputs of other commands, or other forms of these, begin: what to give instead.
_OTHERS: Sequence[tuple[Callable[[str], bool], str]] = (
    (lambda line: "NVIDIA-SMI" in line and "|" in line, "the table of nvidia-smi"),
    (smi.is_row_of_others, "a list of nvidia-smi without the header that names its columns"),
    (lambda line: line.startswith("apiVersion:"), "YAML of Kubernetes"),
    (lambda line: line.split()[:3] == ["NAME", "STATUS", "ROLES"], "a table of kubectl"),
    (lambda line: line.split()[:2] == ["PARTITION", "AVAIL"], "a table of sinfo"),
    (lambda line: line.startswith("PartitionName="), "partitions of Slurm"),
)


@dataclass(frozen=True, slots=True)
class _File:
    """A file, what it is, and the node that it may be about: its folder's name, or its own."""

    output: Output
    kinds: tuple[Kind, ...]
    folder: str
    stem: str


def gather(sources: Sequence[str]) -> Findings:
    """Return all that files and folders say; `-` is standard input.

    A folder holds the files of one node, or folders and files of several. Raises SpecError, which
    names file and line, for what cannot be read.
    """
    files = list(_files(sources))
    tests = [file for file in files if "test" in file.kinds]
    if tests:
        raise SpecError(
            f"{tests[0].output.label}: found the output of nccl-tests, expected {_EXPECTED}; give "
            "this one by --bandwidth"
        )
    network = _network(files)
    listed = [file for file in files if {"kubernetes", "slurm"} & {*file.kinds}]
    seen = _nodes_of_machines(files)
    said = tuple(_said(files))
    if not listed:
        if not seen:
            raise SpecError(
                f"{files[0].output.label}: a topology.conf alone, expected scontrol show node too"
            )
        return Findings(said, tuple(seen), from_scheduler=False, network=network)
    nodes, idle = _listed(listed)
    if network is not None and "kubernetes" in listed[0].kinds:
        raise SpecError(f"{network.where}: a topology.conf is of Slurm, the nodes of Kubernetes")
    names = {node.name for node in nodes}
    return Findings(
        said,
        tuple(_with_wiring(nodes, seen)),
        from_scheduler=True,
        idle_nodes=idle,
        network=network,
        examples=tuple(node for node in seen if node.name not in names),
    )


def _said(files: Iterable[_File]) -> Iterable[str]:
    """Yield which files hold the output of which command, a line per command."""
    labels: dict[str, list[str]] = {}
    for file in files:
        command = " and ".join(COMMANDS[kind] for kind in file.kinds)
        labels.setdefault(command, []).append(file.output.label)
    for command, found in labels.items():
        first = ", ".join(found[:_NAMED_FILES])
        more = len(found) - _NAMED_FILES
        yield f"{command}: {first}" + (f", and {plural(more, 'other file')}" if more > 0 else "")


def kinds_of(output: Output) -> tuple[Kind, ...]:
    """Return what an output holds; the two commands for one node may stand in one file.

    Raises SpecError, which names the first line, if it is nothing that is read here.
    """
    if kubernetes.is_kubernetes(output.text):
        return ("kubernetes",)
    lines = [line for _, line in output.numbered()]
    tests: Sequence[tuple[Kind, Callable[[str], bool]]] = (
        ("test", nccl.is_test),
        ("slurm", slurm.is_nodes),
        ("network", slurm.is_network),
    )
    for kind, is_kind in tests:
        if any(map(is_kind, lines)):
            return (kind,)
    found: list[Kind] = []
    if any(map(topo.is_header, lines)):
        found.append("matrix")
    if any(map(smi.is_query, lines)):
        found.append("cards")
    if found:
        return tuple(found)
    number, line = next(output.numbered())
    for is_other, name in _OTHERS:
        if any(map(is_other, lines[:3])):
            raise output.error(number, line.strip(), f"{_EXPECTED}; this is {name}")
    raise output.error(number, line.strip(), _EXPECTED)


def _files(sources: Sequence[str]) -> Iterable[_File]:
    for source in sources:
        if source == "-" or not Path(source).is_dir():
            yield _file(source, "")
            continue
        folder = Path(source)
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        inner = [(p, e) for e in entries if e.is_dir() for p in sorted(e.iterdir())]
        found = [(p, folder) for p in entries if not p.is_dir()]
        found += [(p, e) for p, e in inner if not p.name.startswith(".") and not p.is_dir()]
        if not found:
            raise SpecError(f"{shorten(source)}: no file in the folder, expected {_EXPECTED}")
        if len(found) > MAX_FILES:
            raise SpecError(f"{shorten(source)}: more than {MAX_FILES:,} files in the folder")
        for path, place in found:
            yield _file(str(path), place.resolve().name)


def _file(source: str, folder: str) -> _File:
    output = Output.read(source)
    stem = "" if source == "-" else Path(source).name.split(".")[0]
    return _File(output, kinds_of(output), folder, stem)


def _network(files: Iterable[_File]) -> Network | None:
    found = [file for file in files if "network" in file.kinds]
    if len(found) > 1:
        raise SpecError(f"{found[1].output.label}: a second topology.conf, expected one")
    return slurm.read_network(found[0].output) if found else None


def _listed(files: Sequence[_File]) -> tuple[list[Node], int]:
    """Return the nodes of a scheduler: of one kind, and each node once."""
    kinds = {kind for file in files for kind in file.kinds}
    if len(kinds) > 1:
        raise SpecError(
            f"{files[1].output.label}: found nodes of Slurm and of Kubernetes, expected one of them"
        )
    read = kubernetes.read_nodes if "kubernetes" in kinds else slurm.read_nodes
    nodes: list[Node] = []
    places: dict[str, str] = {}
    idle = 0
    for file in files:
        more, without = read(file.output)
        for node in more:
            if places.setdefault(node.name, file.output.label) != file.output.label:
                raise SpecError(
                    f"{node.where}: node {shorten(node.name)} again, {places[node.name]} has it too"
                )
        nodes += more
        idle += without
    return nodes, idle


def _nodes_of_machines(files: Sequence[_File]) -> list[Node]:
    """Return the nodes on which nvidia-smi ran: files of one folder, or of one name, are one."""
    machines = [file for file in files if {"matrix", "cards"} & {*file.kinds}]
    nodes: list[Node] = []
    for folder in dict.fromkeys(file.folder for file in machines):
        here = [file for file in machines if file.folder == folder]
        if all(sum(kind in file.kinds for file in here) <= 1 for kind in ("matrix", "cards")):
            nodes += _machine(folder or here[0].stem or "node", here)
            continue
        for stem in dict.fromkeys(file.stem for file in here):
            of_node = [file for file in here if file.stem == stem]
            nodes += _machine(stem or "node", of_node)
    return nodes


def _machine(name: str, files: Sequence[_File]) -> list[Node]:
    """Return the GPUs of one node, an entry per kind.

    Raises SpecError if the two commands do not speak of the same GPUs.
    """
    matrices = [file for file in files if "matrix" in file.kinds]
    lists = [file for file in files if "cards" in file.kinds]
    for found in (matrices, lists):
        if len(found) > 1:
            raise SpecError(
                f"{found[1].output.label}: a second {found[1].kinds[0]} of node {shorten(name)} "
                f"({found[0].output.label} is the first); name the files of a node alike, such as "
                "node1.topo.txt and node1.csv, or give each node a folder"
            )
    matrix = topo.read_matrix(matrices[0].output) if matrices else None
    if not lists:
        assert matrix is not None
        return [Node(name, matrix.where, None, len(matrix.gpus), matrix=matrix)]
    output = lists[0].output
    cards = smi.read_cards(output)
    indices = tuple(card.index for card in cards)
    if matrix is not None and sorted(indices) != sorted(matrix.gpus):
        raise SpecError(
            f"{output.at(cards[0].line)}: {len(cards)} GPUs with the indices {_numbers(indices)}, "
            f"expected those of {matrix.where}: {_numbers(matrix.gpus)}; are both of one node?"
        )
    return [
        _of_kind(name, output, [card for card in cards if card.name == kind], cards, matrix)
        for kind in dict.fromkeys(card.name for card in cards)
    ]


def _of_kind(
    name: str,
    output: Output,
    same: Sequence[smi.Card],
    cards: Sequence[smi.Card],
    matrix: Matrix | None,
) -> Node:
    sizes = [card.memory_bytes for card in same if card.memory_bytes is not None]
    if sizes and max(sizes) > 1.02 * min(sizes):
        odd = next(card for card in same if card.memory_bytes != sizes[0])
        raise output.error(
            odd.line, f"{(odd.memory_bytes or 0) / 2**20:.0f} MiB",
            f"the memory of the other {same[0].name}, {sizes[0] / 2**20:.0f} MiB",
        )  # fmt: skip
    return Node(
        name,
        output.at(same[0].line),
        same[0].name,
        len(same),
        memory_bytes=sizes[0] if sizes else None,
        matrix=matrix,
        parts=MIG if any(card.is_sliced for card in same) else "",
        indices=tuple(card.index for card in same) if len(same) < len(cards) else (),
    )


def _with_wiring(nodes: list[Node], seen: list[Node]) -> list[Node]:
    """Give each node of a scheduler what nvidia-smi said on it.

    Raises SpecError if they do not speak of the same number of GPUs.
    """
    result = []
    for node in nodes:
        own = [other for other in seen if other.name == node.name]
        same = [other for other in own if other.num_gpus == node.num_gpus]
        if own and not same and node.down is None and not node.parts:
            raise SpecError(
                f"{own[0].where}: {own[0].num_gpus} GPUs in node {node.name}, expected the "
                f"{node.num_gpus} of {node.where}"
            )
        if not same:
            result.append(node)
            continue
        machine = same[0]
        memory = machine.memory_bytes or node.memory_bytes
        result.append(
            replace(
                node,
                matrix=machine.matrix,
                memory_bytes=memory,
                device=machine.gpu,
                indices=machine.indices,
            )
        )
    return result


def _numbers(indices: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(indices)))
