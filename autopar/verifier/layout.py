"""An explicit plan as flat arrays, one entry per place (replica, stage, rank), right or wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from autopar.problem import Plan

IntArray = NDArray[np.int64]

NONE = -1
_COPY = 2  # the column of `Plan.placement` that names the replica
_MOST_KEYS = 2**62  # numbers that fit in one key of int64


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Every place of a plan.

    copy, stage, rank, gpu: shape (places,). stage_gpus: shape (replicas, stages), GPUs listed;
    starts: the same shape, the first place of each. layer_stage: shape (layers,), the first stage
    that lists the layer, or NONE.
    used_gpus: distinct GPUs, ascending.
    own, followers: replicas whose experts the placement lists, the first always among them, and
    those of which it has no row at all: their experts lie as those of the first, rank by rank.
    """

    copy: IntArray
    stage: IntArray
    rank: IntArray
    gpu: IntArray
    stage_gpus: IntArray
    starts: IntArray
    layer_stage: IntArray
    used_gpus: IntArray
    own: IntArray
    followers: IntArray

    def blocks(self, position: int) -> Iterator[tuple[IntArray, IntArray]]:
        """Yield replicas (n,) whose stage lists equally many GPUs, and these (n, ranks)."""
        sizes = self.stage_gpus[:, position]
        for size in np.unique(sizes[sizes > 0]).tolist():
            copies = np.flatnonzero(sizes == size)
            yield copies, self.gpu[self.starts[copies, position][:, None] + np.arange(size)]

    def followed(self, position: int) -> tuple[IntArray, IntArray, IntArray]:
        """Return the followers of the first replica (n,), its GPUs (ranks,), theirs (n, ranks).

        Of one stage; followers that list another number of GPUs are left out.
        """
        size = int(self.stage_gpus[0, position]) if len(self.stage_gpus) else 0
        equal = self.followers[self.stage_gpus[self.followers, position] == size]
        ranks = np.arange(size)
        first = self.gpu[self.starts[0, position] + ranks] if size else ranks
        return equal, first, self.gpu[self.starts[equal, position][:, None] + ranks]


def layout_of(plan: Plan, num_layers: int) -> Layout:
    """Return the arrays of a plan; stages beyond those that have degrees are left out."""
    num_stages = len(plan.stages)
    lists = [(c, s, ids) for c, r in enumerate(plan.gpus) for s, ids in enumerate(r[:num_stages])]
    lengths = np.array([len(ids) for _, _, ids in lists], dtype=np.int64)
    copy = np.array([c for c, _, _ in lists], dtype=np.int64)
    stage = np.array([s for _, s, _ in lists], dtype=np.int64)
    total = int(lengths.sum())
    starts = np.cumsum(lengths) - lengths
    stage_gpus, first = np.zeros((2, len(plan.gpus), num_stages), dtype=np.int64)
    stage_gpus[copy, stage], first[copy, stage] = lengths, starts
    layer_stage = np.full(num_layers, NONE, dtype=np.int64)
    for position in reversed(range(num_stages)):
        layers = np.asarray(plan.stages[position].layers, dtype=np.int64)
        layer_stage[layers[layers < num_layers]] = position
    gpu = np.fromiter(chain.from_iterable(ids for _, _, ids in lists), np.int64, total)
    # A stable sort of what is nearly in order is fast, and np.unique is not.
    ascending = np.sort(gpu, kind="stable")
    listed_copies = np.zeros(len(plan.gpus), dtype=np.bool_)
    listed_copies[:1] = True
    copies = plan.placement[:, _COPY]
    listed_copies[copies[(copies >= 0) & (copies < len(plan.gpus))]] = True
    return Layout(
        copy=np.repeat(copy, lengths),
        stage=np.repeat(stage, lengths),
        rank=np.arange(total) - np.repeat(starts, lengths),
        gpu=gpu,
        stage_gpus=stage_gpus,
        starts=first,
        layer_stage=layer_stage,
        used_gpus=ascending[np.diff(ascending, prepend=NONE) != 0],
        own=np.flatnonzero(listed_copies),
        followers=np.flatnonzero(~listed_copies),
    )


def stage_degrees(plan: Plan, key: str) -> IntArray:
    """Return one degree of every stage, shape (stages,)."""
    return np.array([getattr(stage, key) for stage in plan.stages], dtype=np.int64)


def distinct(*columns: IntArray) -> tuple[IntArray, IntArray]:
    """Return the distinct tuples of equally long columns, sorted, and how often each occurs.

    Shapes (columns, tuples) and (tuples,).
    """
    widths = [int(column.max(initial=0)) + 1 for column in columns]
    is_small = all(int(column.min(initial=0)) >= 0 for column in columns)
    if not is_small or np.prod(np.array(widths, dtype=np.float64)) > _MOST_KEYS:
        table, counts = np.unique(np.stack(columns), axis=1, return_counts=True)
        return table, counts
    key = np.zeros(len(columns[0]), dtype=np.int64)
    for column, width in zip(columns, widths, strict=True):
        key = key * width + column
    keys, counts = np.unique(key, return_counts=True)
    table = np.empty((len(columns), len(keys)), dtype=np.int64)
    for index in reversed(range(len(columns))):
        keys, table[index] = np.divmod(keys, widths[index])
    return table, counts


def listed(numbers: Sequence[int], limit: int = 6) -> str:
    """Return numbers for a message: "3", "3, 5", "0, 1, 2, 3, 4, ... 511 (512 in all)"."""
    if len(numbers) <= limit:
        return ", ".join(map(str, numbers))
    head = ", ".join(map(str, numbers[: limit - 1]))
    return f"{head}, ... {numbers[-1]} ({len(numbers):,} in all)"
