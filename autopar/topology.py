"""Where groups of GPUs fit: containers (node, domain, cluster), units and blocks.

A tensor-parallel group may be confined to a container, and so may a whole stage. Groups of tp and
of etp GPUs both tile the stage, so inside a container of tensor-parallel groups GPUs are handed out
in *units* of lcm(tp, etp); what is left over in it stays idle. A *block* is a stage: consecutive
units of one stage container. Equal blocks, packed greedily, leave the least unused, so counting
them is exact.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from autopar.specs import Cluster

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Topology:
    """Sizes of the containers that confine tensor-parallel groups and stages, in GPUs."""

    num_gpus: int
    group_container: int  # a tensor-parallel group lies inside one of these
    stage_container: int  # so does a stage

    @classmethod
    def of(
        cls, cluster: Cluster, tensor_parallel_within: str, all_to_all_within: str
    ) -> "Topology":
        """Return the topology of a cluster under the two confinements (node, domain, cluster)."""
        stage = cluster.container_gpus(all_to_all_within)
        return cls(
            cluster.num_gpus, min(cluster.container_gpus(tensor_parallel_within), stage), stage
        )

    def unit(self, tp: IntArray, etp: IntArray) -> IntArray:
        """GPUs that are handed out together: groups of tp and of etp must both tile a container."""
        if self.group_container == self.num_gpus:
            return np.ones_like(tp)
        return np.lcm(tp, etp)

    def num_blocks(self, block_gpus: IntArray, unit: IntArray) -> IntArray:
        """Blocks of `block_gpus[i]` GPUs, cut from units of `unit[i]`, that the cluster holds."""
        full, rest = divmod(self.num_gpus, self.stage_container)
        whole = self._usable(self.stage_container, unit) // block_gpus
        return full * whole + self._usable(rest, unit) // block_gpus

    def tiles(self, unit: IntArray) -> NDArray[np.bool_]:
        """Whether units of `unit[i]` GPUs leave no GPU of any container over."""
        result: NDArray[np.bool_] = self.group_container % unit == 0
        for size in (self.stage_container, self.num_gpus % self.stage_container):
            result &= (size % self.group_container) % unit == 0
        return result

    def block_gpus(self, block_gpus: int, unit: int, count: int) -> list[tuple[int, ...]]:
        """Return the GPU ids of the first `count` blocks, in rank order.

        Raises ValueError if the cluster does not hold that many.
        """
        blocks: list[tuple[int, ...]] = []
        for start in range(0, self.num_gpus, self.stage_container):
            if len(blocks) >= count:
                break
            stop = min(start + self.stage_container, self.num_gpus)
            ids = usable_gpus(start, stop, self.group_container, unit)
            fits = min(len(ids) // block_gpus, count - len(blocks))
            blocks += [tuple(ids[i * block_gpus : (i + 1) * block_gpus]) for i in range(fits)]
        if len(blocks) < count:
            raise ValueError(f"{count} blocks of {block_gpus} GPUs do not fit, {len(blocks)} do")
        return blocks

    def same_stage_container(self, first_gpu: IntArray, last_gpu: IntArray) -> NDArray[np.bool_]:
        """Whether two GPUs lie in one stage container."""
        same: NDArray[np.bool_] = (
            first_gpu // self.stage_container == last_gpu // self.stage_container
        )
        return same

    def _usable(self, size: int, unit: IntArray) -> IntArray:
        groups, rest = divmod(size, self.group_container)
        return (groups * (self.group_container // unit) + rest // unit) * unit


@lru_cache(maxsize=64)
def usable_gpus(start: int, stop: int, container: int, unit: int) -> list[int]:
    """GPU ids of `[start, stop)` that whole units of each container cover, in order."""
    ids: list[int] = []
    for low in range(start, stop, container):
        high = min(low + container, stop)
        ids.extend(range(low, low + (high - low) // unit * unit))
    return ids
