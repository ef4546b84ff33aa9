"""One kind of GPU and its nodes -> the fields of a cluster spec, each with how it came about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from autopar.errors import SpecError
from autopar.ingest.cluster.findings import Findings, Level, Node, Said
from autopar.ingest.cluster.hostlist import compress
from autopar.ingest.cluster.names import Catalogue, is_near
from autopar.ingest.cluster.select import Kind, equal_counts
from autopar.specs import Link
from autopar.units import plural

_SHOWN_NODES = 400  # characters of a host list in a description


@dataclass(frozen=True, slots=True)
class Given:
    """What the user says in place of the input; bandwidths per GPU and direction."""

    name: str | None = None
    num_nodes: int | None = None
    domain_gpus: int | None = None
    bandwidths: Mapping[Level, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Draft:
    """A cluster spec in the making.

    nodes: as autopar numbers them. said: one entry per field. doubts: warnings about a link, which
    a measurement of it settles.
    """

    name: str
    gpu: str
    num_nodes: int
    gpus_per_node: int
    gpus_per_domain: int
    links: Mapping[Level, Link]
    nodes: tuple[str, ...]
    sources: tuple[str, ...]
    said: tuple[Said, ...]
    remarks: tuple[str, ...]
    doubts: Mapping[Level, Sequence[str]]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person has to look at."""
        doubts = (text for texts in self.doubts.values() for text in texts)
        return tuple(dict.fromkeys((*self.remarks, *doubts)))

    @property
    def description(self) -> str:
        """What the cluster is, in a sentence."""
        names = compress(self.nodes)
        size = f"{plural(self.num_nodes, 'node')} of {self.gpus_per_node} {self.gpu}"
        if len(self.nodes) < self.num_nodes:
            return f"{size}, each like {names}."
        return f"{size}: {names}." if len(names) <= _SHOWN_NODES else f"{size}."

    def document(self) -> dict[str, Any]:
        """Return the spec as it stands in a file; the GPU by its name in the catalogue."""
        return {
            "schema": 1,
            "kind": "cluster",
            "name": self.name,
            "description": self.description,
            "sources": list(self.sources),
            "gpu": self.gpu,
            "num_nodes": self.num_nodes,
            "gpus_per_node": self.gpus_per_node,
            "gpus_per_domain": self.gpus_per_domain,
            "links": {level: link.model_dump() for level, link in self.links.items()},
        }

    def with_link(self, level: Level, link: Link, said: Said, warnings: Sequence[str]) -> "Draft":
        """Return the same with another bandwidth of one level."""
        return replace(
            self,
            links={**self.links, level: link},
            said=tuple(said if old.field == said.field else old for old in self.said),
            doubts={**self.doubts, level: warnings},
        )


@dataclass(slots=True)
class Notes:
    """What is to be said about a draft while it is made."""

    said: list[Said] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    doubts: dict[Level, list[str]] = field(default_factory=dict)

    def doubt(self, level: Level, text: str) -> None:
        """Note a warning about a link, which a measurement settles."""
        self.doubts.setdefault(level, []).append(text)


@dataclass(frozen=True, slots=True)
class Counts:
    """The nodes of a draft in their order, and the GPUs of a node and of a domain."""

    nodes: tuple[Node, ...]
    num_nodes: int
    gpus_per_node: int
    gpus_per_domain: int

    @property
    def is_one_domain(self) -> bool:
        """Whether no traffic leaves a domain."""
        largest = max(self.gpus_per_node, self.gpus_per_domain)
        return self.num_nodes * self.gpus_per_node <= largest


def count(
    kind: Kind, findings: Findings, catalogue: Catalogue, given: Given, notes: Notes
) -> Counts:
    """Return the counts of a cluster, and say in `notes` how they came about.

    Raises SpecError if nodes or domains are not equal, or what is given contradicts them.
    """
    _gpu(kind, catalogue, notes)
    gpus_per_node = equal_counts(kind)
    num_nodes = _num_nodes(kind, findings, given, notes)
    first = kind.nodes[0]
    notes.said.append(Said("gpus_per_node", gpus_per_node, "read", f"{first.where}, and so on"
                           if len(kind.nodes) > 1 else first.where))  # fmt: skip
    for node in kind.nodes:
        notes.warnings += [f"{node.name}: {note}" for note in node.notes]
    nodes, domain = _domain(kind, findings, catalogue, given, gpus_per_node, num_nodes, notes)
    last = num_nodes * gpus_per_node % domain
    if last and domain < num_nodes * gpus_per_node:
        notes.warnings.append(f"the last domain has {last} GPUs, the others {domain}")
    return Counts(nodes, num_nodes, gpus_per_node, domain)


def _gpu(kind: Kind, catalogue: Catalogue, notes: Notes) -> None:
    match, expected = kind.match, catalogue.gpus[kind.gpu]
    notes.said.append(Said("gpu", kind.gpu, match.how, match.why))
    if match.doubt:
        notes.warnings.append(
            f"{kind.nodes[0].where}: {match.why}; {match.doubt} (--gpu says which)"
        )
    for node in kind.nodes:
        if node.memory_bytes is None or is_near(node.memory_bytes, expected):
            continue
        text = (
            f"{node.where}: found {node.memory_bytes / 2**20:.0f} MiB of memory, expected the "
            f"{expected / 2**20:.0f} MiB of {kind.gpu}"
        )
        if match.how != "given":
            raise SpecError(f"{text}; if it is that GPU all the same, say so by --gpu {kind.gpu}")
        notes.warnings.append(text)
        return


def _num_nodes(kind: Kind, findings: Findings, given: Given, notes: Notes) -> int:
    found = len(kind.nodes)
    if given.num_nodes is None:
        names = compress(node.name for node in kind.nodes)
        why = f"{names}, in the order in which autopar numbers them" if found > 1 else names
        notes.said.append(Said("num_nodes", found, "read", why))
        return found
    if found > 1 and found != given.num_nodes:
        raise SpecError(
            f"--num-nodes: found {given.num_nodes}, expected the {found} nodes of the input, or "
            "one node in it that stands for all"
        )
    if findings.from_scheduler and found != given.num_nodes:
        raise SpecError(
            f"--num-nodes: found {given.num_nodes}, expected the {found} that the scheduler lists"
        )
    why = f"--num-nodes; {kind.nodes[0].name} stands for all of them"
    notes.said.append(Said("num_nodes", given.num_nodes, "given", why))
    return given.num_nodes


def _domain(
    kind: Kind,
    findings: Findings,
    catalogue: Catalogue,
    given: Given,
    gpus_per_node: int,
    num_nodes: int,
    notes: Notes,
) -> tuple[tuple[Node, ...], int]:
    """Return the nodes, those of a domain side by side, and the GPUs of a domain."""
    like = catalogue.like(kind.gpu, gpus_per_node)
    is_rack = like is not None and like.gpus_per_domain > like.gpus_per_node
    if given.domain_gpus is not None:
        notes.said.append(Said("gpus_per_domain", given.domain_gpus, "given", "--domain-gpus"))
        return kind.nodes, given.domain_gpus
    units = {node.name: node.unit for node in kind.nodes if node.unit is not None}
    if units:
        return _by_units(kind, units, "NVLink cliques (label nvidia.com/gpu.clique)", "read",
                         gpus_per_node, notes)  # fmt: skip
    blocks = {} if findings.network is None else findings.network.blocks
    units = {node.name: blocks[node.name] for node in kind.nodes if node.name in blocks}
    if units and is_rack and findings.network is not None:
        what = f"blocks of {findings.network.where}, taken for NVLink domains"
        return _by_units(kind, units, what, "inferred", gpus_per_node, notes)
    if like is not None and is_rack:
        size = min(like.gpus_per_domain, num_nodes * gpus_per_node)
        why = f"as in {like.name} of the catalogue; no input says which nodes share NVLink"
        notes.said.append(Said("gpus_per_domain", size, "assumed", why))
        notes.warnings.append(
            f"NVLink domains of {size} GPUs are assumed, in the order of the nodes; state them by "
            "--domain-gpus, or read them from the clique labels of Kubernetes"
        )
        return kind.nodes, size
    why = "nothing says that the links between the GPUs of a node leave it"
    notes.said.append(Said("gpus_per_domain", gpus_per_node, "inferred", why))
    return kind.nodes, gpus_per_node


def _by_units(
    kind: Kind,
    units: Mapping[str, str],
    what: str,
    how: Any,
    gpus_per_node: int,
    notes: Notes,
) -> tuple[tuple[Node, ...], int]:
    """Return the nodes by domain, the smallest domain last, and the GPUs of a full one."""
    without = [node.name for node in kind.nodes if node.name not in units]
    place = kind.nodes[0].where.split(": ")[0]
    if without:
        raise SpecError(
            f"{place}: {compress(without)} in none of the {what}, expected every node in one; "
            "leave them out by --without, or say --domain-gpus"
        )
    groups: dict[str, list[Node]] = {}
    for node in kind.nodes:
        groups.setdefault(units[node.name], []).append(node)
    ordered = sorted(groups.values(), key=lambda nodes: -len(nodes))
    sizes = [len(nodes) for nodes in ordered]
    if len(set(sizes[:-1])) > 1:
        listed = "; ".join(f"{len(ns)} nodes: {compress(n.name for n in ns)}" for ns in ordered)
        raise SpecError(
            f"{place}: {what} of different sizes: {listed}; expected equal ones, of which the last "
            "may be smaller: leave nodes of the larger ones out by --without"
        )
    listed = "; ".join(compress(n.name for n in nodes) for nodes in ordered[:8])
    more = f"; and {len(ordered) - 8} more" if len(ordered) > 8 else ""
    why = f"{plural(len(ordered), 'domain')} by {what}: {listed}{more}"
    size = sizes[0] * gpus_per_node
    notes.said.append(Said("gpus_per_domain", size, how, why))
    return tuple(node for nodes in ordered for node in nodes), size
