"""Best split of the layers of one candidate by dynamic programmes over its segments.

Chain partition has exact programmes for a bottleneck and for a sum. Taking the objectives in order,
bottlenecks narrow the segments and the first sum picks the path: a plan that is feasible in every
constraint which filters segments, and optimal unless several sums compete. CP-SAT starts from it.
"""

from collections.abc import Sequence

import numpy as np

from autopar.objectives import Objective
from autopar.objectives.per_gpu import ThroughputPerGpu
from autopar.objectives.worst_stage import WorstStage
from autopar.problem import BoolArray, Candidates, FloatArray, IntArray
from autopar.segments import SegmentTable


def best_split(
    row: Candidates,
    table: SegmentTable,
    num_layers: int,
    objectives: Sequence[Objective],
    *,
    to_the_end: bool = False,
) -> IntArray | None:
    """Return indices of the segments of a good path with exactly pp steps, or None if none exists.

    row: a table of one candidate, whose segments are `table`. It is the best of all paths by the
    objectives up to the first sum; `to_the_end`, which takes longer, by those after it as well.
    """
    pp = int(row.pp[0])
    allowed = np.ones(len(table.first), dtype=np.bool_)
    if not _reaches(table, allowed, num_layers, pp):
        return None
    time = table.time.astype(np.float64)
    path: IntArray | None = None
    for objective in objectives:
        worst = worst_column(objective, table)
        if worst is not None:
            most = None if path is None else float(time[path].sum())
            allowed &= worst <= _bottleneck(table, allowed, num_layers, pp, worst, most)
        elif objective.name == "ttft":  # else the degrees fix it
            path = _shortest(table, allowed, num_layers, pp, time)
            if not to_the_end:
                return path
    cost = np.zeros(len(table.first)) if path is None else time
    return _shortest(table, allowed, num_layers, pp, cost)


def least_worst(table: SegmentTable, num_layers: int, pp: int, column: IntArray) -> int | None:
    """Return the least value that the worst stage of a path of pp steps has; None without a path.

    column: the value of each segment, shape (segments,).
    """
    every = np.ones(len(table.first), dtype=np.bool_)
    if not _reaches(table, every, num_layers, pp):
        return None
    return _bottleneck(table, every, num_layers, pp, column)


def least_time(table: SegmentTable, num_layers: int, pp: int) -> int | None:
    """Return the least sum of times of a path of pp steps; None without a path."""
    every = np.ones(len(table.first), dtype=np.bool_)
    chosen = _shortest(table, every, num_layers, pp, table.time.astype(np.float64))
    return None if chosen is None else int(table.time[chosen].sum())


def least_time_through(table: SegmentTable, num_layers: int, pp: int) -> FloatArray:
    """Return the least sum of times of a path of pp steps through each segment, shape (segments,).

    Infinite for a segment that lies on none.
    """
    time = table.time.astype(np.float64)
    forward, backward = np.full((2, pp + 1, num_layers + 1), np.inf)
    forward[0, 0] = backward[0, num_layers] = 0.0
    for step in range(pp):
        np.minimum.at(forward[step + 1], table.stop, forward[step, table.first] + time)
        np.minimum.at(backward[step + 1], table.first, backward[step, table.stop] + time)
    through = np.full(len(time), np.inf)
    for step in range(pp):
        rest = backward[pp - step - 1, table.stop]
        through = np.minimum(through, forward[step, table.first] + time + rest)
    return through


def on_a_path(table: SegmentTable, num_layers: int, pp: int) -> BoolArray:
    """Return which segments lie on some path of exactly pp steps, shape (segments,)."""
    if not _reaches(table, np.ones(len(table.first), dtype=np.bool_), num_layers, pp):
        return np.zeros(len(table.first), dtype=np.bool_)
    forward = np.zeros((pp + 1, num_layers + 1), dtype=np.bool_)
    backward = np.zeros_like(forward)
    forward[0, 0] = backward[0, num_layers] = True
    for step in range(pp):
        forward[step + 1, table.stop[forward[step, table.first]]] = True
        backward[step + 1, table.first[backward[step, table.stop]]] = True
    useful = np.zeros(len(table.first), dtype=np.bool_)
    for step in range(pp):
        useful |= forward[step, table.first] & backward[pp - step - 1, table.stop]
    return useful


def not_worse(
    objective: Objective, table: SegmentTable, num_layers: int, pp: int, limit: int
) -> BoolArray:
    """Return which segments leave a plan no worse than `limit` in an objective, shape (segments,).

    limit: an integer value turned so that less is better.
    """
    worst = worst_column(objective, table)
    if worst is not None:
        return worst <= limit
    if objective.name == "ttft":
        return least_time_through(table, num_layers, pp) <= limit
    return np.ones(len(table.first), dtype=np.bool_)


def worst_column(objective: Objective, table: SegmentTable) -> IntArray | None:
    """Return what the worst stage makes small, per segment; None if the objective is not such."""
    if isinstance(objective, WorstStage):
        return objective.column(table)
    if isinstance(objective, ThroughputPerGpu):
        return -objective.column(table)
    return -table.rate if objective.name == "throughput" else None


def _reaches(table: SegmentTable, allowed: BoolArray, num_layers: int, pp: int) -> bool:
    first, stop = table.first[allowed], table.stop[allowed]
    here = np.zeros(num_layers + 1, dtype=np.bool_)
    here[0] = True
    for _ in range(pp):
        there = np.zeros_like(here)
        there[stop[here[first]]] = True
        if not there.any():
            return False
        here = there
    return bool(here[num_layers])


def _has_path(
    table: SegmentTable, allowed: BoolArray, num_layers: int, pp: int, most: float
) -> bool:
    """Whether allowed segments form a path of pp steps whose times sum up to `most` at most."""
    first, stop = table.first[allowed], table.stop[allowed]
    time = table.time[allowed].astype(np.float64)
    here = np.full(num_layers + 1, np.inf)
    here[0] = 0.0
    for _ in range(pp):
        there = np.full_like(here, np.inf)
        np.minimum.at(there, stop, here[first] + time)
        here = there
    return bool(here[num_layers] <= most)


def _bottleneck(
    table: SegmentTable,
    allowed: BoolArray,
    num_layers: int,
    pp: int,
    worst: IntArray,
    most: float | None = None,
) -> int:
    """Return the least value v such that segments of at most v still form a path.

    most: the largest sum of times that the path may have; None for any.
    """
    least = _least_bottleneck(table, allowed, num_layers, pp, worst)
    if most is None:
        return least
    enough = worst[allowed & (worst >= least)]
    levels: list[int] = sorted(set(enough.tolist()))  # np.unique would import numpy.ma, 40 ms
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        if _has_path(table, allowed & (worst <= levels[middle]), num_layers, pp, most):
            high = middle
        else:
            low = middle + 1
    return levels[low]


def _least_bottleneck(
    table: SegmentTable, allowed: BoolArray, num_layers: int, pp: int, worst: IntArray
) -> int:
    """Return the least value that the worst segment of a path has; there is one."""
    first, stop, worst = table.first[allowed], table.stop[allowed], worst[allowed]
    none, least = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    here = np.full(num_layers + 1, none)
    here[0] = least
    for _ in range(pp):
        there = np.full_like(here, none)
        np.minimum.at(there, stop, np.maximum(here[first], worst))
        here = there
    return int(here[num_layers])


def _shortest(
    table: SegmentTable, allowed: BoolArray, num_layers: int, pp: int, cost: FloatArray
) -> IntArray | None:
    """Return the segments of a path of pp steps with the least total cost, in order."""
    index = np.flatnonzero(allowed)
    # Longer segments first, so that among equals the stages come out balanced from the front.
    index = index[np.argsort(table.first[index] - table.stop[index], kind="stable")]
    first, stop, cost = table.first[index], table.stop[index], cost[index]
    distance = np.full((pp + 1, num_layers + 1), np.inf)
    distance[0, 0] = 0.0
    for step in range(pp):
        np.minimum.at(distance[step + 1], stop, distance[step, first] + cost)
    if not np.isfinite(distance[pp, num_layers]):
        return None
    path, layer = [], num_layers
    for step in range(pp, 0, -1):
        through = distance[step - 1, first] + cost
        best = np.flatnonzero((stop == layer) & (through == distance[step, layer]))
        # the segment that is nearest to an equal share of what is left
        share = layer / step
        chosen = best[np.argmin(np.abs(stop[best] - first[best] - share))]
        path.append(int(index[chosen]))
        layer = int(first[chosen])
    return np.array(path[::-1], dtype=np.int64)
