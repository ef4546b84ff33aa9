"""What experts are placed on, and under which rules."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopar.errors import SpecError
from autopar.units import plural

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Machine:
    """GPUs of an expert-parallel group, each with as many slots for experts as any other.

    GPU g owns the slots g*slots_per_gpu to (g+1)*slots_per_gpu - 1; a node is a run of GPUs.
    speeds: of each GPU relative to the others, shape (GPUs,); None where all are alike.
    """

    num_gpus: int
    slots_per_gpu: int
    num_nodes: int = 1
    speeds: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.num_gpus < 1 or self.slots_per_gpu < 1 or self.num_nodes < 1:
            raise SpecError("GPUs, slots per GPU and nodes: expected at least 1 of each")
        if self.num_gpus % self.num_nodes:
            raise SpecError(
                f"{plural(self.num_gpus, 'GPU')} on {plural(self.num_nodes, 'node')}: expected as "
                "many GPUs on each node"
            )
        if self.speeds is not None and len(self.speeds) != self.num_gpus:
            raise SpecError(
                f"found {plural(len(self.speeds), 'speed')} for {plural(self.num_gpus, 'GPU')}; "
                "expected one each"
            )
        if self.speeds is not None and not all(0 < speed < np.inf for speed in self.speeds):
            raise SpecError("speeds of GPUs: expected numbers above zero")

    @property
    def num_slots(self) -> int:
        """Slots of all GPUs."""
        return self.num_gpus * self.slots_per_gpu

    @property
    def gpus_per_node(self) -> int:
        """GPUs of one node."""
        return self.num_gpus // self.num_nodes

    @property
    def node_of(self) -> IntArray:
        """The node of each GPU, shape (GPUs,)."""
        return np.arange(self.num_gpus) // self.gpus_per_node

    @property
    def speed(self) -> FloatArray:
        """Speed of each GPU over the mean of all, shape (GPUs,)."""
        if self.speeds is None:
            return np.ones(self.num_gpus)
        given = np.asarray(self.speeds, dtype=np.float64)
        return np.asarray(given / given.mean())


@dataclass(frozen=True, slots=True)
class Rules:
    """What a placement must satisfy beyond one replica of an expert per GPU.

    distinct_nodes: replicas of an expert lie on nodes of their own. forbidden_pairs: experts that
    may not share a GPU. num_groups: of consecutive experts, each of which lies on one node, as many
    on every node (node-limited routing); 1 is no rule.
    """

    distinct_nodes: bool = False
    forbidden_pairs: tuple[tuple[int, int], ...] = ()
    num_groups: int = 1

    @property
    def are_none(self) -> bool:
        """Whether nothing is asked for but distinct GPUs."""
        return not (self.distinct_nodes or self.forbidden_pairs or self.num_groups > 1)

    def most_replicas(self, machine: Machine) -> int:
        """Return how many replicas of one expert there may be."""
        if self.distinct_nodes:
            return machine.num_nodes if self.num_groups == 1 else 1
        return machine.num_gpus if self.num_groups == 1 else machine.gpus_per_node


NO_RULES = Rules()


@dataclass(frozen=True, slots=True)
class LayerTask:
    """One layer to place.

    load: of each expert, shape (experts,). current: the expert in each slot now, shape (slots,);
    max_moves: how many replicas may come to a GPU that does not have their expert now.
    """

    load: FloatArray
    machine: Machine
    rules: Rules = NO_RULES
    current: IntArray | None = None
    max_moves: int | None = None


def gpu_loads(loads: FloatArray, slots: IntArray, machine: Machine) -> FloatArray:
    """Return the load of each GPU over its speed, shape (layers, GPUs).

    loads: of each expert, shape (layers, experts), split evenly over its replicas. slots: the
    expert in each slot, shape (layers, slots).
    """
    counts = replica_counts(slots, loads.shape[1])
    share = loads / np.maximum(counts, 1)
    per_slot = np.take_along_axis(share, slots, axis=1)
    summed = per_slot.reshape(len(slots), machine.num_gpus, machine.slots_per_gpu).sum(axis=2)
    return np.asarray(summed / machine.speed)


def replica_counts(slots: IntArray, num_experts: int) -> IntArray:
    """Return how many slots each expert has, shape (layers, experts)."""
    num_layers = len(slots)
    flat = slots + num_experts * np.arange(num_layers)[:, None]
    counts = np.bincount(flat.ravel(), minlength=num_layers * num_experts)
    return counts.reshape(num_layers, num_experts)
