"""What the readers find, before it becomes one spec: nodes, their wiring, where it was read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

How = Literal["read", "inferred", "assumed", "given", "measured"]
MIG = "MIG slices"
Level = Literal["node", "domain", "fabric"]
LEVELS: tuple[Level, ...] = ("node", "domain", "fabric")


@dataclass(frozen=True, slots=True)
class Said:
    """One field of the spec and how it came about; why: in words, for a person who checks it."""

    field: str
    value: int | float | str
    how: How
    why: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """The GPUs of one node in `nvidia-smi topo -m`: cells[i][j] is how i reaches j.

    nics: how each GPU reaches each network card, by the card's name.
    """

    where: str
    gpus: tuple[int, ...]
    cells: tuple[tuple[str, ...], ...]
    nics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """The GPUs of one kind in one node.

    gpu: as the source names it, None where it does not. memory_bytes: of one GPU. unit: the name
    of the NVLink domain, or of what stands for it. down: why it takes no work now. indices: of
    these GPUs in the node, where it has others too. device: the name that the driver gives, where
    a scheduler gives another. parts: what its GPUs are cut into, empty for whole ones. means: the
    GPU of the catalogue that the source's name is, by `machine`, the kind of machine that has it;
    both empty where the name tells no more than itself.
    """

    name: str
    where: str
    gpu: str | None
    num_gpus: int
    memory_bytes: float | None = None
    matrix: Matrix | None = None
    unit: str | None = None
    down: str | None = None
    notes: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    device: str | None = None
    parts: str = ""
    means: str = ""
    machine: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """What topology.conf says: the leaf switch of each node, and its block.

    blocks: the name of a node's block; leaves: of its leaf switch.
    """

    where: str
    leaves: Mapping[str, str]
    blocks: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the files say.

    from_scheduler: whether the nodes are those that Kubernetes or Slurm lists, which are all there
    are, or those on which somebody ran nvidia-smi. examples: nodes on which somebody did, and whose
    names no scheduler lists: they stand for nodes with the same GPUs.
    """

    sources: tuple[str, ...]
    nodes: tuple[Node, ...]
    from_scheduler: bool
    idle_nodes: int = 0  # without GPUs
    network: Network | None = None
    examples: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A node that the spec does not count, and why."""

    node: str
    why: str
