"""The exhaustive answer on small problems: every candidate, batch, split and packing.

Nothing here is clever, so that it can be believed: no bounds, no programmes, no solver. It shares
the candidate table and the cost tables with the solver, and judges plans by `check` alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import combinations, pairwise, permutations
from math import ceil
from typing import Any

import numpy as np

from autopar.candidates import every_batch
from autopar.constraints.base import PlugIn
from autopar.costs.scaling import rates_to_int, sizes_to_int, times_to_int
from autopar.problem import (
    Candidate,
    Candidates,
    CostModel,
    FloatArray,
    IntArray,
    Plan,
    Problem,
    RowBounds,
    StageCosts,
)
from autopar.segments import plan_costs
from autopar.unfold import unfold

Vector = tuple[int, ...]


def splits(num_layers: int, num_stages: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to cut `num_layers` layers in `num_stages` non-empty runs."""
    for cuts in combinations(range(1, num_layers), num_stages - 1):
        edges = (0, *cuts, num_layers)
        yield tuple(b - a for a, b in pairwise(edges))


def plans(problem: Problem, candidate: Candidate, *, every_packing: bool) -> Iterator[Plan]:
    """Yield every plan of one candidate that differs in its split or, if asked, in its blocks.

    every_packing: with one grid per layer, also every order of blocks (factorially many).
    """
    for split in splits(problem.num_layers, candidate.pp):
        if candidate.spread == 0 and every_packing:
            for blocks in permutations(range(problem.num_layers)):
                yield unfold(problem, candidate, split, layer_blocks=blocks)
        else:
            yield unfold(problem, candidate, split)


def feasible_plans(
    problem: Problem, constraints: Sequence[PlugIn], *, every_packing: bool = False
) -> Iterator[tuple[Plan, StageCosts]]:
    """Yield every plan that all constraints accept, with the costs of its stages."""
    candidates = every_batch(problem, problem.candidates)
    costs = _Remembered(problem.cost_model, candidates, problem.num_layers)
    problem = replace(problem, cost_model=costs)
    for candidate in candidates:
        for plan in plans(problem, candidate, every_packing=every_packing):
            if not any(True for c in constraints for _ in c.check(plan, problem)):
                yield plan, plan_costs(plan, problem)


def best(
    problem: Problem,
    constraints: Sequence[PlugIn],
    objectives: Sequence[str],
    *,
    every_packing: bool = False,
) -> tuple[Vector, list[Plan]] | None:
    """Return the lexicographically best value and all plans that reach it; None if there is none.

    objectives: names of `autopar.objectives`. Values are integers in the quanta of
    `costs.scaling`, turned so that less is better, since ties are decided on integers.
    """
    found: list[tuple[Vector, Plan]] = []
    for plan, costs in feasible_plans(problem, constraints, every_packing=every_packing):
        found.append((tuple(value(name, problem, plan, costs) for name in objectives), plan))
    if not found:
        return None
    left = found
    for level in range(len(objectives)):
        top = min(vector[level] for vector, _ in left)
        left = [item for item in left if item[0][level] == top]
    return left[0][0], [plan for _, plan in left]


def value(name: str, problem: Problem, plan: Plan, costs: StageCosts) -> int:
    """Return one objective of an explicit plan, an integer of which less is better."""
    rate, gpus = int(min(rates_to_int(costs.tokens_per_s))), plan.num_gpus
    match name:
        case "throughput":
            return -rate
        case "throughput_per_gpu":
            return -(rate * 1000 // gpus)
        case "cost":  # millionths of a USD for a million tokens; rates are in thousandths
            usd_per_second = gpus * (problem.scenario.cluster.gpu.usd_per_hour or 0.0) / 3600
            return ceil(usd_per_second / (max(rate, 1) * 1e-3) * 1e12 - 1e-6)
        case "ttft":
            return int(sum(times_to_int(costs.time_us)))
        case "tpot":
            assert costs.tpot_us is not None
            return int(max(times_to_int(costs.tpot_us)))
        case "memory":
            return int(max(sizes_to_int(costs.memory_bytes)))
    return gpus if name == "gpus" else plan.pp - 1


class _Remembered:
    """A cost model whose numbers for all pairs of a small problem are looked up, to save time."""

    def __init__(self, model: CostModel, rows: Candidates, num_layers: int) -> None:
        self._model, self.name, self.notes = model, model.name, model.notes
        first, stop = (edge.astype(np.int64) for edge in np.triu_indices(num_layers))
        stop = stop + 1
        self._row = {row: index * len(first) for index, row in enumerate(rows)}
        edges = zip(first.tolist(), stop.tolist(), strict=True)
        self._segment = {edge: index for index, edge in enumerate(edges)}
        every = rows.take(np.repeat(np.arange(len(rows)), len(first)))
        self._table = model.stage_costs(every, np.tile(first, len(rows)), np.tile(stop, len(rows)))

    def stage_costs(self, rows: Candidates, first: IntArray, stop: IntArray) -> StageCosts:
        """Return what the model says; it is asked again for rows that were not foreseen."""
        starts = [self._row.get(row) for row in rows]
        if None in starts:
            return self._model.stage_costs(rows, first, stop)
        edges = zip(first.tolist(), stop.tolist(), strict=True)
        places = np.array(starts, dtype=np.int64) + [self._segment[edge] for edge in edges]
        columns: dict[str, Any] = {}
        for field in fields(StageCosts):
            column = getattr(self._table, field.name)
            columns[field.name] = None if column is None else column[places]
        return StageCosts(**columns)

    def bounds(self, rows: Candidates) -> RowBounds:
        """Return the model's own."""
        return self._model.bounds(rows)

    def look_ahead(self, rows: Candidates) -> None:
        """Nothing: all is looked up."""

    def over_batches(self, growth: FloatArray) -> CostModel:
        """Return the model's own."""
        return self._model.over_batches(growth)
