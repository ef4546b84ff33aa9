"""Two levels of containers in a cluster: GPUs handed out in units, units in blocks.

A *unit* lies inside one inner container; what is left over in it stays idle. A *block* is made of
consecutive units of one outer container. Equal blocks, packed greedily, leave the least unused, so
counting them is exact.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Containers:
    """The sizes of the inner and of the outer containers, in GPUs; the last ones may be smaller."""

    num_gpus: int
    inner: int
    outer: int

    def num_blocks(self, block_gpus: IntArray, unit: IntArray) -> IntArray:
        """Blocks of `block_gpus[i]` GPUs, cut from units of `unit[i]`, that the cluster holds."""
        full, rest = divmod(self.num_gpus, self.outer)
        whole = self._usable(self.outer, unit) // block_gpus
        return full * whole + self._usable(rest, unit) // block_gpus

    def tiles(self, block_gpus: IntArray, unit: IntArray) -> NDArray[np.bool_]:
        """Whether blocks of `block_gpus[i]` GPUs, cut from units, leave no GPU over anywhere."""
        result: NDArray[np.bool_] = self.inner % unit == 0
        for size in (self.outer, self.num_gpus % self.outer):
            result &= ((size % self.inner) % unit == 0) & (size % block_gpus == 0)
        return result

    def block_gpus(
        self, block_gpus: int, unit: int, count: int, after: int = 0
    ) -> list[tuple[int, ...]]:
        """Return the GPU ids of the first `count` blocks from GPU `after` on, in rank order.

        Raises ValueError if the cluster does not hold that many.
        """
        blocks: list[tuple[int, ...]] = []
        whole = after // self.outer * self.outer
        for start in range(whole, self.num_gpus, self.outer):
            if len(blocks) >= count:
                break
            stop = min(start + self.outer, self.num_gpus)
            ids = usable_gpus(start, stop, self.inner, unit)
            if start < after:  # a unit that has begun before is no longer whole
                ids = ids[-(-sum(gpu < after for gpu in ids) // unit) * unit :]
            fits = min(len(ids) // block_gpus, count - len(blocks))
            blocks += [tuple(ids[i * block_gpus : (i + 1) * block_gpus]) for i in range(fits)]
        if len(blocks) < count:
            raise ValueError(f"{count} blocks of {block_gpus} GPUs do not fit, {len(blocks)} do")
        return blocks

    def taken_from_the_first(
        self, block_gpus: IntArray, unit: IntArray, count: IntArray
    ) -> IntArray:
        """GPUs from the first one of the cluster to the last of `count[i]` blocks, in order.

        count: at least 1 and at most `num_blocks`.
        """
        each = np.maximum(self._usable(self.outer, unit) // block_gpus, 1)
        container, place = (count - 1) // each, (count - 1) % each
        last = self._nth_usable((place + 1) * block_gpus - 1, unit)
        stop: IntArray = container * self.outer + last + 1
        return stop

    def taken_from_the_last(
        self, block_gpus: IntArray, unit: IntArray, count: IntArray
    ) -> IntArray:
        """GPUs from the last one of the cluster back to the first of `count[i]` blocks.

        Blocks that begin after GPU g are as many as fit with the last block as far back as it
        goes, so blocks of two kinds fit side by side, first ones first, if and only if what the
        first take from the first GPU on and the others from the last back do not overlap.
        """
        full, rest = divmod(self.num_gpus, self.outer)
        usable, usable_rest = self._usable(self.outer, unit), self._usable(rest, unit)
        each, in_rest = np.maximum(usable // block_gpus, 1), usable_rest // block_gpus
        from_rest = count <= in_rest
        container = np.where(from_rest, full, full - 1 - (count - 1 - in_rest) // each)
        place = np.where(from_rest, count - 1, (count - 1 - in_rest) % each)
        room = np.where(from_rest, usable_rest, usable)
        first = self._nth_usable(np.maximum(room - (place + 1) * block_gpus, 0), unit)
        return self.num_gpus - container * self.outer - first

    def _nth_usable(self, place: IntArray, unit: IntArray) -> IntArray:
        """Where in its outer container the GPU is that whole units hand out as number `place`."""
        each = np.maximum(self.inner // unit * unit, 1)
        nth: IntArray = place // each * self.inner + place % each
        return nth

    def _usable(self, size: int, unit: IntArray) -> IntArray:
        groups, rest = divmod(size, self.inner)
        return (groups * (self.inner // unit) + rest // unit) * unit


@lru_cache(maxsize=64)
def usable_gpus(start: int, stop: int, container: int, unit: int) -> list[int]:
    """GPU ids of `[start, stop)` that whole units of each container cover, in order."""
    ids: list[int] = []
    for low in range(start, stop, container):
        high = min(low + container, stop)
        ids.extend(range(low, low + (high - low) // unit * unit))
    return ids
