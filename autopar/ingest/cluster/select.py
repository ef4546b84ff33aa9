"""Which of the nodes that were found make up a cluster, by kind of GPU; the others, and why."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from autopar.errors import SpecError, shorten, suggest
from autopar.ingest.cluster.findings import Findings, LeftOut, Node
from autopar.ingest.cluster.hostlist import compress, expand, natural
from autopar.ingest.cluster.names import Match, Names
from autopar.units import plural


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user said about the nodes: host lists of those to count and to leave out.

    all_nodes: count those that are down too. kind: the one GPU to plan with.
    """

    nodes: str | None = None
    without: str | None = None
    all_nodes: bool = False
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """The nodes of one kind of GPU, in order, and an example on which nvidia-smi ran."""

    gpu: str
    match: Match
    nodes: tuple[Node, ...]
    example: Node | None = None

    @property
    def num_gpus(self) -> int:
        """GPUs of all nodes."""
        return sum(node.num_gpus for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Selection:
    """The kinds of GPU, by name, and the nodes that are in none of them."""

    kinds: tuple[Kind, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...] = field(default=())


def select(findings: Findings, names: Names, wanted: Wanted) -> Selection:
    """Return the nodes to plan with, by kind of GPU.

    Raises SpecError if none is left, if a GPU is unknown, or if a named node or kind is not there.
    """
    left: list[LeftOut] = []
    nodes = [node for node in _asked_for(findings, wanted, left) if _is_usable(node, wanted, left)]
    if not nodes:
        reasons = "; ".join(f"{compress(ns)}: {why}" for why, ns in _by_reason(left).items())
        without = f"{plural(findings.idle_nodes, 'node')} without GPUs" * bool(findings.idle_nodes)
        down = any(LeftOut(node.name, node.down or "") in left for node in findings.nodes)
        raise SpecError(
            f"{_first_file(findings)}: no node with GPUs is left, expected one"
            f" ({reasons or without or 'none was listed'})"
            f"{'; --all-nodes counts those that are down' * down}"
        )
    kinds = _kinds(findings, nodes, names, wanted, left)
    return Selection(
        tuple(kinds), tuple(dict.fromkeys(left)), tuple(_unused_examples(findings, kinds, names))
    )


def refuse_several(kinds: Sequence[Kind]) -> None:
    """Raise SpecError if there are several kinds of GPU, which one cluster cannot have."""
    if len(kinds) > 1:
        listed = ", ".join(describe(kind) for kind in kinds)
        raise SpecError(
            f"found {len(kinds)} kinds of GPU: {listed}; a cluster has one: choose it by --kind "
            "NAME, or write a file for each with -o DIR, an existing folder"
        )


def describe(kind: Kind) -> str:
    """Return a kind as messages list it."""
    size = f"{plural(len(kind.nodes), 'node')}, {plural(kind.num_gpus, 'GPU')}"
    return f"{kind.gpu} ({size})"


def equal_counts(kind: Kind) -> int:
    """Return the GPUs of every node.

    Raises SpecError, which lists the counts, if the nodes do not have the same.
    """
    counts: dict[int, list[str]] = {}
    for node in kind.nodes:
        counts.setdefault(node.num_gpus, []).append(node.name)
    if len(counts) == 1:
        return next(iter(counts))
    common = max(counts, key=lambda count: (len(counts[count]), count))
    listed = ", ".join(f"{c} in {compress(counts[c])}" for c in sorted(counts, reverse=True))
    odd = compress(name for count, ns in counts.items() if count != common for name in ns)
    notes = [f"{node.name}: {note}" for node in kind.nodes for note in node.notes]
    raise SpecError(
        f"{kind.nodes[0].where.split(': ')[0]}: nodes with different numbers of {kind.gpu}: "
        f"{listed}; expected as many in each: leave some out, by --without {odd}"
        + (f" ({'; '.join(notes[:3])})" if notes else "")
    )


def _asked_for(findings: Findings, wanted: Wanted, left: list[LeftOut]) -> Iterable[Node]:
    """Return the nodes that --nodes and --without leave."""
    known = {node.name for node in findings.nodes}
    picked = _named("--nodes", wanted.nodes, known) or known
    dropped = _named("--without", wanted.without, known)
    for node in findings.nodes:
        if node.name in dropped:
            left.append(LeftOut(node.name, "--without"))
        elif node.name not in picked:
            left.append(LeftOut(node.name, "not in --nodes"))
        else:
            yield node


def _named(option: str, text: str | None, known: set[str]) -> set[str]:
    if text is None:
        return set()
    names = expand(text, option)
    for name in names:
        if name not in known:
            raise SpecError(
                f"{option}: found {shorten(name)}, expected nodes that the input lists"
                f"{suggest(name, known)}"
            )
    return set(names)


def _is_usable(node: Node, wanted: Wanted, left: list[LeftOut]) -> bool:
    why = None
    if node.parts:
        why = f"its GPUs are cut into {node.parts}; autopar plans with whole GPUs"
    elif not node.num_gpus:
        why = "none of its GPUs can be had"
    elif node.down is not None and not wanted.all_nodes:
        why = node.down
    if why is not None:
        left.append(LeftOut(node.name, why))
    return why is None


def _kinds(
    findings: Findings, nodes: Sequence[Node], names: Names, wanted: Wanted, left: list[LeftOut]
) -> list[Kind]:
    if names.given.get("") is not None:
        raw = sorted({node.device or node.gpu or "" for node in nodes})
        if len(raw) > 1:
            raise SpecError(
                f"--gpu: found {len(raw)} names of GPUs, {', '.join(map(shorten, raw[:5]))}; "
                "expected --gpu FOUND=NAME for each that is to be named"
            )
    groups: dict[str, list[Node]] = {}
    matches: dict[str, Match] = {}
    unknown: SpecError | None = None
    drivers = _drivers(findings, nodes, names)
    for node in nodes:
        try:
            match = _match(node, names, drivers)
        except SpecError as error:
            unknown = unknown or error
            left.append(LeftOut(node.name, f"its GPU is unknown: {shorten(node.gpu)}"))
            continue
        groups.setdefault(match.gpu, []).append(node)
        matches.setdefault(match.gpu, match)
    if wanted.kind is not None and wanted.kind in groups:
        for gpu in set(groups) - {wanted.kind}:
            left += [LeftOut(node.name, f"its GPU is {gpu}") for node in groups[gpu]]
        groups = {wanted.kind: groups[wanted.kind]}
    elif unknown is not None:
        raise unknown
    elif wanted.kind is not None:
        raise SpecError(
            f"--kind: no GPU is {shorten(wanted.kind)}{suggest(wanted.kind, groups)}; expected one "
            f"of {', '.join(groups)}"
        )
    return [
        Kind(
            gpu,
            matches[gpu],
            tuple(_ordered(findings, groups[gpu])),
            _example(findings, gpu, names),
        )
        for gpu in sorted(groups)
    ]


@dataclass(frozen=True, slots=True)
class _Driver:
    """The GPU that nvidia-smi names; of: the scheduler's name of the same node, if it has one."""

    gpu: str
    device: str
    node: Node
    of: str | None

    def may_be(self, node: Node) -> bool:
        """Whether a node may have the same GPUs: by its scheduler's name, or by their number."""
        if self.of is not None:
            return self.of == node.gpu
        return node.gpu is not None or self.node.num_gpus == node.num_gpus


def _drivers(findings: Findings, nodes: Sequence[Node], names: Names) -> list[_Driver]:
    """Return what nvidia-smi says, on nodes of the scheduler and on examples of them."""
    found = []
    pairs = [(node, node.device, node.gpu) for node in nodes if node.device is not None]
    pairs += [(node, node.gpu, None) for node in findings.examples if node.gpu is not None]
    for node, device, of in pairs:
        with suppress(SpecError):  # an unknown one is said where it matters
            gpu = names.match(device, node.memory_bytes, node.where).gpu
            found.append(_Driver(gpu, device or "", node, of))
    return found


def _match(node: Node, names: Names, drivers: Sequence[_Driver]) -> Match:
    """Return the GPU of a node: what nvidia-smi says of it, or of others of the same name.

    A scheduler's name is short: gpu:h100 is said of both forms. Raises SpecError if the driver and
    the scheduler name two kinds, or nvidia-smi says several of what the scheduler calls one.
    """
    if node.means in names.catalogue.gpus and not names.is_given(node.gpu):
        possible = {node.means}
    else:
        possible = names.candidates(node.gpu)
    if node.device is not None:
        by_driver = names.match(node.device, node.memory_bytes, node.where)
        if possible and by_driver.gpu not in possible:
            raise SpecError(
                f"{node.where}: found the GPU {shorten(node.gpu)} in node {node.name}, and "
                f"nvidia-smi says {shorten(node.device)}; expected the same"
            )
        return by_driver
    if possible == {node.means}:
        return Match(node.means, "inferred", f"{shorten(node.gpu)}, {node.machine}")
    told = {d.gpu: d for d in drivers if d.gpu in possible and d.may_be(node)}
    if len(possible) == 1 or not told:
        return names.match(node.gpu, node.memory_bytes, node.where)
    if len(told) > 1:
        listed = " and ".join(f"{gpu} ({d.node.where})" for gpu, d in sorted(told.items()))
        raise SpecError(
            f"{node.where}: node {node.name} has {shorten(node.gpu)}, of which nvidia-smi says "
            f"{listed}; expected one, or its output for every node, named after it"
        )
    (driver,) = told.values()
    shown = "no name" if node.gpu is None else shorten(node.gpu)
    why = f"{shown}, of which nvidia-smi says {shorten(driver.device)} ({driver.node.where})"
    doubt = "the scheduler names no type, and nodes may have others too" if node.gpu is None else ""
    return Match(driver.gpu, "inferred", why, doubt)


def _example(findings: Findings, gpu: str, names: Names) -> Node | None:
    found = [node for node in findings.examples if _gpu_of(node, names) in (None, gpu)]
    if len(found) > 1:
        raise SpecError(
            f"{found[1].where}: a second node with {gpu} that the scheduler does not list; name "
            "files or folders after their nodes, or give one as an example"
        )
    return found[0] if found else None


def _gpu_of(node: Node, names: Names) -> str | None:
    return None if node.gpu is None else names.match(node.gpu, node.memory_bytes, node.where).gpu


def _unused_examples(findings: Findings, kinds: Sequence[Kind], names: Names) -> Iterable[str]:
    gpus = {kind.gpu for kind in kinds}
    for node in findings.examples:
        gpu = _gpu_of(node, names)
        if gpu is not None and gpu not in gpus:
            yield f"{node.where}: not used, no node that is counted has {gpu}"


def _ordered(findings: Findings, nodes: Iterable[Node]) -> list[Node]:
    """Return nodes with those of a domain, block or switch side by side."""
    network = findings.network
    blocks = {} if network is None else network.blocks
    leaves = {} if network is None else network.leaves
    return sorted(
        nodes,
        key=lambda node: (
            natural(node.unit or ""),
            natural(blocks.get(node.name, "")),
            natural(leaves.get(node.name, "")),
            natural(node.name),
        ),
    )


def _by_reason(left: Iterable[LeftOut]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for node in left:
        reasons.setdefault(node.why, []).append(node.node)
    return reasons


def _first_file(findings: Findings) -> str:
    return findings.sources[0].partition(": ")[2] if findings.sources else "input"
