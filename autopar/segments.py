"""Segments of layers as stages: their integer costs, grouped by candidates that share them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from autopar.costs.scaling import rates_to_int, sizes_to_int, times_to_int
from autopar.problem import BoolArray, Candidates, IntArray, Plan, Problem, StageCosts


@dataclass(frozen=True, slots=True)
class SegmentTable:
    """Segments that a set of candidates may use as stages, all arrays of shape (segments,).

    members: rows of the candidate table to which these segments and costs apply alike.
    Integers in the quanta of `autopar.costs.scaling`; tpot is None where there is no TPOT.
    """

    members: tuple[int, ...]
    first: IntArray
    stop: IntArray
    time: IntArray
    rate: IntArray
    tpot: IntArray | None
    memory: IntArray
    gpus: int  # of all replicas
    handover: IntArray | None = None  # where the cache of a prompt leaves or enters the stage
    service: IntArray | None = None  # of one prompt by a group, if the stage is the bottleneck

    def pair_rows(self, rows: Candidates) -> Candidates:
        """Return the first member, once per segment."""
        return rows.take(np.full(len(self.first), self.members[0]))

    def keep(self, index: BoolArray) -> "SegmentTable":
        """Return the table of the selected segments."""
        return SegmentTable(
            self.members,
            self.first[index],
            self.stop[index],
            self.time[index],
            self.rate[index],
            None if self.tpot is None else self.tpot[index],
            self.memory[index],
            self.gpus,
            None if self.handover is None else self.handover[index],
            None if self.service is None else self.service[index],
        )


# Pipelines of so few stages use few of the segments, so that all of them are not looked at.
_FEW_STAGES = 2

ShapeCache = dict[tuple[int, ...], tuple[IntArray, IntArray]]


def segment_table(
    problem: Problem,
    row: Candidates,
    constraints: Sequence[object],
    cache: ShapeCache | None = None,
) -> SegmentTable:
    """Return the segments that the filters of `constraints` leave to one candidate, with costs.

    row: a table of one candidate. The member is numbered 0. cache: remembers what depends on the
    shape of a stage alone, for calls with the same problem and constraints.
    """
    candidate = row.row(0)
    shape = replace(candidate, replicas=0, pp=0)
    key = tuple(getattr(shape, field.name) for field in fields(shape))
    known = None if cache is None else cache.get(key)
    if known is None and candidate.pp <= _FEW_STAGES:
        segments = _ends(problem.num_layers, candidate.pp)
        first, stop = _filtered(problem, row, constraints, segments, shapes=True)
    else:
        if known is None:
            first, stop = np.triu_indices(problem.num_layers)
            segments = first.astype(np.int64), stop + 1
            known = _filtered(problem, row, constraints, segments, shapes=True)
            if cache is not None:
                cache[key] = known
        first, stop = known
        keep = _may_be_a_stage(first, stop, problem.num_layers, candidate.pp)
        first, stop = first[keep], stop[keep]
    first, stop = _filtered(problem, row, constraints, (first, stop), shapes=False)
    costs = problem.cost_model.stage_costs(
        row.take(np.zeros(len(first), dtype=np.int64)), first, stop
    )
    return SegmentTable(
        members=(0,),
        first=first,
        stop=stop,
        time=times_to_int(costs.time_us),
        rate=rates_to_int(costs.tokens_per_s),
        tpot=None if costs.tpot_us is None else times_to_int(costs.tpot_us),
        memory=sizes_to_int(costs.memory_bytes),
        gpus=int(row.gpus_used(problem.num_layers)[0]),
        handover=None if costs.handover_us is None else times_to_int(costs.handover_us),
        service=None if costs.service_us is None else times_to_int(costs.service_us),
    )


def _ends(num_layers: int, pp: int) -> tuple[IntArray, IntArray]:
    """Return the segments of pipelines of one or two stages: all layers, or the two parts."""
    if pp == 1:
        return np.array([0]), np.array([num_layers])
    cuts = np.arange(1, num_layers)
    first, stop = np.zeros_like(cuts), np.full_like(cuts, num_layers)
    return np.concatenate([first, cuts]), np.concatenate([cuts, stop])


def _may_be_a_stage(first: IntArray, stop: IntArray, num_layers: int, pp: int) -> BoolArray:
    """Return which segments leave the right number of layers to the other stages.

    With k stages before and the others after it, none of which is empty, and none where nothing is
    left.
    """
    after = num_layers - stop
    most_before = np.where(after > 0, np.minimum(first, pp - 2), np.minimum(first, pp - 1))
    fewest_before = np.maximum(pp - 1 - after, (first > 0).astype(np.int64))
    allowed: BoolArray = fewest_before <= most_before
    return allowed


def _filtered(
    problem: Problem,
    row: Candidates,
    constraints: Sequence[object],
    segments: tuple[IntArray, IntArray],
    *,
    shapes: bool,
) -> tuple[IntArray, IntArray]:
    """Apply the filters that look at shapes alone, or the others."""
    first, stop = segments
    for constraint in constraints:
        allowed_segments = getattr(constraint, "allowed_segments", None)
        if allowed_segments is None or getattr(constraint, "filters_shapes", False) != shapes:
            continue
        pairs = row.take(np.zeros(len(first), dtype=np.int64))
        allowed = allowed_segments(problem, pairs, first, stop)
        if allowed is not None:
            first, stop = first[allowed], stop[allowed]
    return first, stop


def group_segments(tables: Iterable[SegmentTable]) -> list[SegmentTable]:
    """Merge the tables of candidates 0, 1, ... that are equal in everything but the member."""
    groups: dict[tuple[object, ...], tuple[SegmentTable, list[int]]] = {}
    for index, table in enumerate(tables):
        arrays = (
            table.first, table.stop, table.time, table.rate, table.tpot, table.memory,
            table.handover, table.service,
        )  # fmt: skip
        key = (table.gpus, *(None if a is None else a.tobytes() for a in arrays))
        groups.setdefault(key, (table, []))[1].append(index)
    return [replace(t, members=tuple(members)) for t, members in groups.values()]


def plan_costs(plan: Plan, problem: Problem) -> StageCosts:
    """Return what the cost tables say about an explicit plan, shape (stages,)."""
    per_layer = len({stage.spread for stage in plan.stages}) > 1
    columns = {
        "replicas": [plan.replicas for _ in plan.stages],
        "pp": [plan.pp for _ in plan.stages],
        "tp": [stage.tp for stage in plan.stages],
        "cp": [stage.cp for stage in plan.stages],
        "attn_dp": [0 if per_layer else stage.attn_dp for stage in plan.stages],
        "ep": [stage.ep for stage in plan.stages],
        "etp": [stage.etp for stage in plan.stages],
        "spread": [0 if per_layer else stage.spread for stage in plan.stages],
        "batch": [plan.batch for _ in plan.stages],
        "chunks": [plan.chunks for _ in plan.stages],
    }
    rows = Candidates(**{key: np.array(value, dtype=np.int64) for key, value in columns.items()})
    first = np.array([stage.layers[0] for stage in plan.stages], dtype=np.int64)
    stop = np.array([stage.layers[-1] + 1 for stage in plan.stages], dtype=np.int64)
    return problem.cost_model.stage_costs(rows, first, stop)
