"""An explicit plan as flat arrays, one entry per place (replica, stage, rank), right or wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from autopar.problem import Plan

IntArray = NDArray[np.int64]

NONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Every place of a plan.

    copy, stage, rank, gpu: shape (places,). stage_gpus: shape (replicas, stages), GPUs listed.
    layer_stage: shape (layers,), the first stage that lists the layer, or NONE.
    """

    copy: IntArray
    stage: IntArray
    rank: IntArray
    gpu: IntArray
    stage_gpus: IntArray
    layer_stage: IntArray

    @property
    def used_gpus(self) -> IntArray:
        """Distinct GPUs, ascending."""
        return np.unique(self.gpu)


def layout_of(plan: Plan, num_layers: int) -> Layout:
    """Return the arrays of a plan; stages beyond those that have degrees are left out."""
    num_stages = len(plan.stages)
    lists = [(c, s, ids) for c, r in enumerate(plan.gpus) for s, ids in enumerate(r[:num_stages])]
    lengths = np.array([len(ids) for _, _, ids in lists], dtype=np.int64)
    copy = np.array([c for c, _, _ in lists], dtype=np.int64)
    stage = np.array([s for _, s, _ in lists], dtype=np.int64)
    stage_gpus = np.zeros((len(plan.gpus), num_stages), dtype=np.int64)
    stage_gpus[copy, stage] = lengths
    total = int(lengths.sum())
    starts = np.cumsum(lengths) - lengths
    gpu = np.fromiter(chain.from_iterable(ids for _, _, ids in lists), np.int64, total)
    layer_stage = np.full(num_layers, NONE, dtype=np.int64)
    for position in reversed(range(num_stages)):
        layers = np.asarray(plan.stages[position].layers, dtype=np.int64)
        layer_stage[layers[layers < num_layers]] = position
    return Layout(
        copy=np.repeat(copy, lengths),
        stage=np.repeat(stage, lengths),
        rank=np.arange(total) - np.repeat(starts, lengths),
        gpu=gpu,
        stage_gpus=stage_gpus,
        layer_stage=layer_stage,
    )


def stage_degrees(plan: Plan, key: str) -> IntArray:
    """Return one degree of every stage, shape (stages,)."""
    return np.array([getattr(stage, key) for stage in plan.stages], dtype=np.int64)


def distinct(*columns: IntArray) -> tuple[IntArray, IntArray]:
    """Return the distinct tuples of equally long columns, sorted, and how often each occurs.

    Shapes (columns, tuples) and (tuples,).
    """
    order = np.lexsort(columns[::-1])
    table = np.stack(columns)[:, order]
    new = np.ones(table.shape[1], dtype=np.bool_)
    new[1:] = np.any(table[:, 1:] != table[:, :-1], axis=0)
    starts = np.flatnonzero(new)
    return table[:, starts], np.diff(np.append(starts, table.shape[1]))


def listed(numbers: Sequence[int], limit: int = 6) -> str:
    """Return numbers for a message: "3", "3, 5", "0, 1, 2, 3, 4, ... 511 (512 in all)"."""
    if len(numbers) <= limit:
        return ", ".join(map(str, numbers))
    head = ", ".join(map(str, numbers[: limit - 1]))
    return f"{head}, ... {numbers[-1]} ({len(numbers):,} in all)"
