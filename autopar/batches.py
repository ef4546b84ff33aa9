"""Which batches of which layouts may hold the optimum, where the batch is to be found.

Every whole batch from 1 up is a candidate of its own. What no batch from a to b beats is told of a:
memory grows with the batch, and the cost model says what time a step takes at least in which there
is as much to do as with a, or up to b / a times as much (`Problem.over_batches`; kernels may be
faster with more rows). So a layout whose bounds over all batches from a on break a limit has no
plan from a on, and no batch of an interval [a, b] has a rate above b / a times that of a in the
least time: intervals are cut until that rules them out or a single batch is left. This is exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from autopar.candidates import with_batch
from autopar.constraints import Constraint, PlugIn
from autopar.costs.steps import most_sequences
from autopar.objectives import Objective
from autopar.problem import BoolArray, Candidate, Candidates, FloatArray, IntArray, Problem

_PARTS = 8  # into which an interval is cut
_LEVELS = 5  # doublings of a batch that are looked at together, as long as they are few:
_AT_ONCE = 20_000  # intervals whose bounds are computed together: hundredths of a second
_TRIES = 3  # layouts that are solved for a first plan
_BATCHES = 3  # of each, before the largest one is searched for by bisection
_MOST_AT_ONCE = 4096  # batches of one layout that are bounded together for it

Vector = tuple[int, ...]
Try = Callable[[Candidates], Vector | None]  # one candidate -> the values of its best plan


@dataclass(frozen=True, slots=True)
class Intervals:
    """Batches [low, high] of layouts, shape (intervals,)."""

    layout: IntArray
    low: IntArray
    high: IntArray

    @property
    def ratio(self) -> FloatArray:
        """Return how many times its lowest batch the highest is; 1 where the batch is given (0)."""
        ratio: FloatArray = self.high / np.maximum(self.low, 1) + (self.high == 0)
        return ratio

    def take(self, index: IntArray | BoolArray) -> "Intervals":
        """Return the intervals that `index` selects, in its order."""
        return Intervals(self.layout[index], self.low[index], self.high[index])

    @classmethod
    def joined(cls, parts: "Sequence[Intervals]") -> "Intervals":
        """Return the intervals of all parts."""
        none = np.zeros(0, dtype=np.int64)
        return cls(
            *(np.concatenate([none, *(getattr(p, f.name) for p in parts)]) for f in fields(cls))
        )

    @classmethod
    def doubling(cls, layouts: IntArray, most: IntArray, low: int) -> "tuple[Intervals, int]":
        """Return intervals [low, 2 low - 1], [2 low, 4 low - 1], ... of layouts, and the next low.

        most: the largest batch of every layout, by its number.
        """
        levels = max(1, min(_LEVELS, _AT_ONCE // len(layouts)))
        layout = np.tile(layouts, levels)
        lows = np.repeat(low << np.arange(levels), len(layouts))
        every = cls(layout, lows, np.minimum(2 * lows - 1, most[layout]))
        return every.take(lows <= most[layout]), low << levels

    def last(self, low: int, most: IntArray) -> IntArray:
        """Return the layouts that may have batches from `low` on: their last interval is left."""
        layouts = self.layout[self.low == low // 2]
        result: IntArray = layouts[most[layouts] >= low]
        return result

    def cut(self) -> "Intervals":
        """Return every interval in equal parts; single batches stay as they are."""
        width = self.high - self.low + 1
        parts = np.minimum(width, _PARTS)
        index = np.repeat(np.arange(len(width)), parts)
        part = np.arange(len(index)) - np.repeat(np.cumsum(parts) - parts, parts)
        low = self.low[index] + width[index] * part // parts[index]
        high = self.low[index] + width[index] * (part + 1) // parts[index] - 1
        return Intervals(self.layout[index], low, high)


@dataclass(frozen=True, slots=True)
class Overview:
    """Batches of all layouts that pass the filters, in few intervals, before any plan is known.

    matrix: what no batch of an interval beats, shape (intervals, objectives), turned so that less
    is better. low: the same of the low ends alone. tried: values of candidates that were solved.
    """

    _ask: "_Ask"
    work: Intervals
    matrix: IntArray
    low: IntArray
    tried: dict[Candidate, Vector]

    @classmethod
    def of(
        cls, problem: Problem, constraints: Sequence[PlugIn], objectives: Sequence[Objective]
    ) -> Self:
        """Return the overview of a problem's candidates."""
        rows = problem.candidates
        most = most_sequences(problem.scenario.workload, rows.chunks)
        rows, most = rows.take(most > 0), most[most > 0]
        fits = _passes(problem, constraints, rows, lambda c: c.depends_on_batch == "not")
        rows, most = rows.take(fits), most[fits]
        ask = _Ask(problem, constraints, objectives, rows)
        return cls(ask, *ask.doubling(most), {})

    @property
    def layouts(self) -> Candidates:
        """The layouts that the intervals speak of."""
        return self._ask.rows

    def of_layouts(self, wanted: BoolArray) -> "Overview":
        """Return what is known of some layouts."""
        keep = wanted[self.work.layout]
        return replace(
            self, work=self.work.take(keep), matrix=self.matrix[keep], low=self.low[keep]
        )

    def worth_looking(
        self,
        attempt: Try,
        *,
        better_than: Vector | None = None,
        tries: int = _TRIES,
        ties: bool = True,
    ) -> tuple[Candidates, IntArray]:
        """Return the candidates that may be optimal, and their optimistic vectors, in that order.

        attempt: solves one candidate with a given batch; its best value prunes the others, unless
        values that a plan must reach are known already (`better_than`). tries: layouts that are
        solved for a first plan. ties: whether those are of interest that are as good as the best
        plan found, but not better; if not, that plan's candidate stands for all.
        """

        def remembered(row: Candidates) -> Vector | None:
            found = attempt(row)
            if found is not None:
                self.tried[row.row(0)] = found
            return found

        work, matrix = self.work, self.matrix
        best = better_than
        if best is None:
            best = self._ask.first_plan(work, self.low, remembered, tries)
        while True:
            if best is not None:
                keep = not_after(matrix, best) if ties else is_before(matrix, best)
                work, matrix = work.take(keep), matrix[keep]
            if bool((work.low == work.high).all()):
                break
            work, matrix, _ = self._ask.possible(work.cut())
        rows = self._ask.at_low(work)
        if not ties and best is not None:
            known = [row for row, values in self.tried.items() if values == best][:1]
            rows = Candidates.of([*rows, *known])
            matrix = np.array([*matrix.tolist(), *([best] * len(known))], dtype=np.int64)
        order = np.lexsort(matrix.T[::-1])
        return rows.take(order), matrix[order]


@dataclass(frozen=True, slots=True)
class _Ask:
    """What is asked of intervals of batches, again and again."""

    problem: Problem
    constraints: Sequence[PlugIn]
    objectives: Sequence[Objective]
    rows: Candidates  # the layouts that the intervals speak of

    def at_low(self, work: Intervals) -> Candidates:
        """Return the candidates with the lowest batch of each interval."""
        return with_batch(self.rows.take(work.layout), work.low)

    def doubling(self, most: IntArray) -> tuple[Intervals, IntArray, IntArray]:
        """Return intervals [1, 1], [2, 3], [4, 7], ... that may hold a plan, and their vectors.

        The second of these are of the low ends, without what the batch may grow.

        A layout that fails what grows with the batch, with bounds over all batches from a low end
        on, has no larger batch that passes; one with too low a rate may have a higher one later.
        """
        parts, low, layouts = [], 1, np.arange(len(self.rows))
        while len(layouts):
            work, low = Intervals.doubling(layouts, most, low)
            wide = self.problem.over_batches(most[work.layout] / work.low)
            kept = work.take(self._grows(wide, self.at_low(work)))
            parts.append(kept)
            layouts = kept.last(low, most)
        return self.possible(Intervals.joined(parts))

    def possible(self, work: Intervals) -> tuple[Intervals, IntArray, IntArray]:
        """Return the intervals that may hold a plan, and their optimistic vectors.

        The second of these are of the low ends, without what the batch may grow.
        """
        rows, ratio = self.at_low(work), work.ratio
        problem = self.problem.over_batches(ratio)
        keep = self._grows(problem, rows) & _may_pass(problem, self.constraints, rows, ratio)
        # The model remembers its bounds of these rows, so that the second matrix costs little.
        matrix, ends = (
            over_batches(problem, self.objectives, rows, r) for r in (ratio, np.ones(len(rows)))
        )
        return work.take(keep), matrix[keep], ends[keep]

    def _grows(self, problem: Problem, rows: Candidates) -> BoolArray:
        """Return which candidates pass all that grows with the batch."""
        return _passes(problem, self.constraints, rows, lambda c: c.depends_on_batch == "grows")

    def first_plan(
        self, work: Intervals, ends: IntArray, attempt: Try, tries: int
    ) -> Vector | None:
        """Return the values of a good plan, from the intervals whose low ends promise most."""
        best: Vector | None = None
        rows = self.at_low(work)
        order = np.lexsort(ends.T[::-1])
        for tried, index in enumerate(order.tolist()):
            if best is not None and tried >= tries:
                break
            low, high = int(work.low[index]), int(work.high[index])
            found = self._good(rows.take(np.array([index])), low, high, attempt)
            if found is not None and (best is None or found < best):
                best = found
        return best

    def _good(self, row: Candidates, low: int, high: int, attempt: Try) -> Vector | None:
        """Return the values of a good plan of one layout with a batch from low to high.

        Bounds see almost all, so that one of the batches that they like best nearly always has one.
        """
        if high - low < _MOST_AT_ONCE:
            batches = np.arange(low, high + 1)
            rows = with_batch(row.take(np.zeros_like(batches)), batches)
            rows = rows.take(_passes(self.problem, self.constraints, rows, lambda _: True))
            ones = np.ones(len(rows))
            matrix = over_batches(self.problem, self.objectives, rows, ones)
            for index in np.lexsort(matrix.T[::-1])[:_BATCHES].tolist():
                found = attempt(rows.take(np.array([index])))
                if found is not None:
                    return found
        return _largest(row, low, high, attempt)


def _largest(row: Candidates, low: int, high: int, attempt: Try) -> Vector | None:
    """Return the best of the values seen while bisecting for the largest batch with a plan."""
    best = attempt(with_batch(row, low))
    if best is None:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        found = attempt(with_batch(row, middle))
        low, high = (low, middle - 1) if found is None else (middle, high)
        best = best if found is None else min(best, found)
    return best


def _passes(
    problem: Problem,
    constraints: Sequence[PlugIn],
    rows: Candidates,
    wanted: Callable[[Constraint], bool],
) -> BoolArray:
    """Return which candidates pass the wanted constraints' filters."""
    allowed = np.ones(len(rows), dtype=np.bool_)
    for constraint in constraints:
        if isinstance(constraint, Constraint) and wanted(constraint) and len(rows):
            passes = constraint.allowed_rows(problem, rows)
            if passes is not None:
                allowed &= passes
    return allowed


def _may_pass(
    problem: Problem, constraints: Sequence[PlugIn], at_low: Candidates, ratio: FloatArray
) -> BoolArray:
    """Return which intervals hold a batch that may pass; exact where it is a single one."""
    allowed = np.ones(len(at_low), dtype=np.bool_)
    single = ratio == 1
    for constraint in constraints:
        if not isinstance(constraint, Constraint) or not len(at_low):
            continue
        if constraint.depends_on_batch == "rate":
            allowed &= constraint.may_allow(problem, at_low, ratio)
        elif constraint.depends_on_batch == "any":
            passes = constraint.allowed_rows(problem, at_low)
            if passes is not None:
                allowed &= passes | ~single
    return allowed


def over_batches(
    problem: Problem,
    objectives: Sequence[Objective],
    rows: Candidates,
    ratio: FloatArray,
) -> IntArray:
    """Return what no batch of the intervals beats, shape (rows, objectives), less is better."""
    columns = [
        objective.over_batches(objective.optimistic(problem, rows), ratio)
        * (1 if objective.sense == "min" else -1)
        for objective in objectives
    ]
    return np.array(columns, dtype=np.int64).T.reshape(len(rows), len(objectives))


def not_after(matrix: IntArray, vector: Vector) -> BoolArray:
    """Return which rows are lexicographically at most `vector`."""
    before, equal = _compared(matrix, vector)
    return before | equal


def is_before(matrix: IntArray, vector: Vector) -> BoolArray:
    """Return which rows are lexicographically less than `vector`."""
    return _compared(matrix, vector)[0]


def _compared(matrix: IntArray, vector: Vector) -> tuple[BoolArray, BoolArray]:
    """Return which rows are lexicographically less than `vector`, and which are equal to it."""
    undecided = np.ones(len(matrix), dtype=np.bool_)
    before = np.zeros(len(matrix), dtype=np.bool_)
    for column, value in zip(matrix.T, vector, strict=True):
        before |= undecided & (column < value)
        undecided &= column == value
    return before, undecided
