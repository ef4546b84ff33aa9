"""What is left of a candidate's segments beside a known pair, and what no split of them beats.

A metric of a split is a bottleneck or a sum, and its best value alone may belong to a split that is
poor in another one: the fastest way through the layers need not have the shortest handover. TTFT
adds both. So segments that no pair as good as the known one can use are left out, which lifts what
each metric can reach, which leaves out more of them, until nothing changes. Without it, bounds stay
a few nanoseconds of rounding below a pair that is optimal, and nothing but CP-SAT could tell.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autopar.disaggregated.task import PairTask
from autopar.disaggregated.values import Values
from autopar.problem import BoolArray, Candidates, IntArray
from autopar.search import Vector
from autopar.segments import SegmentTable
from autopar.splits import least_time, least_time_through, least_worst

_LARGEST = 2**42  # beyond every rate and time, and a thousand times it an int64


def narrowed(
    task: PairTask,
    role: int,
    row: Candidates,
    table: SegmentTable,
    partner: Values,
    vector: Vector | None,
) -> tuple[SegmentTable, Values] | None:
    """Return the segments of a candidate that a pair as good as `vector` may use.

    row: a table of one candidate, whose segments are `table`. partner: what the other role does not
    beat, shape (1,). vector: the objectives of the known pair, oriented; None where there is none.
    Returns them with what no path of them beats, each value for itself, shape (1,); None where they
    have no path.
    """
    while True:
        best = unbeaten(task, role, row, table)
        if best is None:
            return None
        if vector is None:
            return table, best
        first = np.zeros(len(table.first), dtype=np.int64)
        others = partner.take(first)
        through = _through(task, role, row, table, best)
        columns = task.unbeaten(vector, *in_order(role, best, partner))
        optimistic = [int(column[0]) for column in columns]
        good = _as_good(task, in_order(role, through, others), vector, optimistic)
        if good.all():
            return table, best
        table = table.keep(good)


def unbeaten(task: PairTask, role: int, row: Candidates, table: SegmentTable) -> Values | None:
    """Return the best that any path of a table has in each value for itself, shape (1,).

    None without a path.
    """
    pp, num_layers = int(row.pp[0]), task.problem.num_layers
    assert table.handover is not None  # tables of a role state it
    assert table.service is not None
    rate = least_worst(table, num_layers, pp, -table.rate)
    if rate is None:
        return None
    none = np.zeros_like(table.rate)
    tpot = none if table.tpot is None else table.tpot
    handover, memory, service, step = (
        least_worst(table, num_layers, pp, column) or 0
        for column in (table.handover, table.memory, table.service, tpot)
    )
    time = least_time(table, num_layers, pp) if role == 0 else 0
    numbers = (-rate, time or 0, handover, step, pp - 1, memory, table.gpus, service)
    return Values(*(np.array([n], dtype=np.int64) for n in numbers))


def anything() -> Values:
    """Return a partner that no role beats, shape (1,)."""
    none = np.zeros(1, dtype=np.int64)
    return replace(Values(*(none,) * 8), rate=none + _LARGEST)


def in_order(role: int, mine: Values, others: Values) -> tuple[Values, Values]:
    """Return the values of a role and of the other one as those of prefill and of decode."""
    return (mine, others) if role == 0 else (others, mine)


def _as_good(
    task: PairTask, pair: tuple[Values, Values], vector: Vector, optimistic: Sequence[int]
) -> BoolArray:
    """Return which segments of a candidate leave a pair as good as the best known one.

    pair: what no pair with each segment beats. optimistic: what no pair of the candidate beats.
    Where that equals the best known value, a pair must reach the value, and may not be worse in the
    next objective either; so on, up to the first in which the candidate might be better.
    """
    good = np.ones(len(pair[0].rate), dtype=np.bool_)
    columns = task.unbeaten(vector, *pair)
    for column, value, bound in zip(columns, vector, optimistic, strict=True):
        good &= column <= value
        if bound != value:
            break
    return good


def _through(
    task: PairTask, role: int, row: Candidates, table: SegmentTable, best: Values
) -> Values:
    """Return what no split of a candidate beats that uses a segment, shape (segments,).

    best: what no split of it beats.
    """
    none = np.zeros(len(table.first), dtype=np.int64)
    time = none
    if role == 0:
        least = least_time_through(table, task.problem.num_layers, int(row.pp[0]))
        time = np.minimum(least, _LARGEST).astype(np.int64)

    def at_least(column: IntArray | None, floor: IntArray) -> IntArray:
        return none if column is None else np.maximum(column, floor)

    return Values(
        rate=np.minimum(table.rate, best.rate),
        time=time,
        handover=at_least(table.handover, best.handover),
        tpot=at_least(table.tpot, best.tpot),
        boundaries=none + best.boundaries,
        memory=at_least(table.memory, best.memory),
        gpus=none + table.gpus,
        service=at_least(table.service, best.service),
    )
