"""Ranges of batches and replicas of a role's layouts, and what no plan in a range beats.

A *box* is batches [low, high] and replicas [fewest, most] of one layout. It is bounded by the least
time of its batches, as the cost model tells it of the lowest (`Problem.over_batches`), the memory
of the lowest, the GPUs of its fewest replicas, and the rate of its most, with the lowest batch in
that time, times high / low: memory grows with the batch, the rate no faster than it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from autopar.broken import NOTHING, note
from autopar.candidates import with_batch
from autopar.constraints import Constraint, PlugIn
from autopar.costs.scaling import rates_to_int, sizes_to_int, times_to_int
from autopar.costs.steps import most_sequences
from autopar.disaggregated.constraints import footprint, taken_gpus
from autopar.disaggregated.costs import RoleCosts
from autopar.disaggregated.task import decides_layouts
from autopar.disaggregated.values import Values
from autopar.errors import SolveLimitError
from autopar.problem import BoolArray, Candidates, FloatArray, IntArray, Problem
from autopar.search import Task
from autopar.topology import Footprint

_PARTS = 8  # into which a range is cut
_BATCHES = 17  # doublings of a batch up to the largest that a workload may state
_LEVELS = 2  # of these at once, so that [1, 1], which is exact, does not speak for larger batches
_AT_ONCE = 20_000  # boxes whose bounds are computed together: hundredths of a second
MOST_BOXES = 1_000_000  # that are looked at together: seconds, and a GB of memory


@dataclass(frozen=True, slots=True)
class Boxes:
    """Ranges of layouts, every array of shape (boxes,)."""

    layout: IntArray
    low: IntArray
    high: IntArray
    fewest: IntArray
    most: IntArray

    def __len__(self) -> int:
        return len(self.layout)

    @property
    def ratio(self) -> FloatArray:
        """How many times its lowest batch the highest is."""
        result: FloatArray = self.high / self.low
        return result

    @property
    def single(self) -> BoolArray:
        """Which boxes hold one candidate."""
        result: BoolArray = (self.low == self.high) & self.has_one_size
        return result

    @property
    def has_one_size(self) -> BoolArray:
        """Which boxes hold one number of replicas, so that their GPUs are known."""
        result: BoolArray = self.fewest == self.most
        return result

    def take(self, index: IntArray | BoolArray) -> "Boxes":
        """Return the boxes that `index` selects."""
        return Boxes(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def joined(cls, parts: "Sequence[Boxes]") -> "Boxes":
        """Return the boxes of all parts."""
        none = np.zeros(0, dtype=np.int64)
        return cls(
            *(np.concatenate([none, *(getattr(p, f.name) for p in parts)]) for f in fields(cls))
        )

    def each_number(self, at_most: int) -> "Boxes":
        """Return every box once for each number of replicas, or for so many spread evenly."""
        width = self.most - self.fewest + 1
        parts = np.minimum(width, at_most)
        index = np.repeat(np.arange(len(self)), parts)
        part = np.arange(len(index)) - np.repeat(np.cumsum(parts) - parts, parts)
        number = self.most[index] - width[index] * part // parts[index]
        return replace(self.take(index), fewest=number, most=number)

    def cut(self) -> "Boxes":
        """Return every box in equal parts, of its batches while there are several, then replicas.

        Raises SolveLimitError where that makes too many.
        """
        batches = self.high > self.low
        low, high = np.where(batches, [self.low, self.high], [self.fewest, self.most])
        parts = np.minimum(high - low + 1, _PARTS)
        if int(parts.sum()) > MOST_BOXES:
            raise SolveLimitError(
                f"more than {MOST_BOXES:,} ranges of batches and replicas may hold the optimum; "
                "put throughput first, require a rate, or confine groups and stages "
                "(requirements.tensor_parallel_within, all_to_all_within)"
            )
        index = np.repeat(np.arange(len(self)), parts)
        part = np.arange(len(index)) - np.repeat(np.cumsum(parts) - parts, parts)
        width = (high - low + 1)[index]
        start = low[index] + width * part // parts[index]
        stop = low[index] + width * (part + 1) // parts[index] - 1
        whole, by_batch = self.take(index), batches[index]
        return Boxes(
            whole.layout,
            np.where(by_batch, start, whole.low),
            np.where(by_batch, stop, whole.high),
            np.where(by_batch, whole.fewest, start),
            np.where(by_batch, whole.most, stop),
        )


@dataclass(frozen=True, slots=True)
class Bounded:
    """Boxes with what no plan of them beats, and the GPUs that they take from the other role.

    broken: what all plans of a box surely break, as `autopar.broken` numbers it.
    """

    boxes: Boxes
    values: Values
    taken: IntArray
    broken: IntArray

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def most_gpus(self) -> IntArray:
        """The GPUs that the most replicas of each box use."""
        result: IntArray = self.values.gpus // self.boxes.fewest * self.boxes.most
        return result

    def take(self, index: IntArray | BoolArray) -> "Bounded":
        """Return the boxes that `index` selects."""
        return Bounded(
            self.boxes.take(index), self.values.take(index), self.taken[index], self.broken[index]
        )

    @classmethod
    def joined(cls, parts: "Sequence[Bounded]") -> "Bounded":
        """Return the boxes of all parts."""
        none = np.zeros(0, dtype=np.int64)
        return cls(
            Boxes.joined([part.boxes for part in parts]),
            Values.joined([part.values for part in parts]),
            np.concatenate([none, *(part.taken for part in parts)]),
            np.concatenate([none, *(part.broken for part in parts)]),
        )


@dataclass(frozen=True)  # without slots, for what is worked out when it is first asked for
class Side:
    """One role in the search: its layouts, and what can be said about boxes of them.

    exact_only: names of constraints that are asked of single candidates alone.
    names: of constraints of which a plan may break one, but no more.
    """

    task: Task
    rows: Candidates  # with the most replicas that fit
    exact_only: frozenset[str]
    names: tuple[str, ...] = ()

    @cached_property
    def _needs(self) -> Footprint:
        """Of the layouts, whatever the batch and the number of replicas."""
        return footprint(self.task.problem, self.rows)

    @cached_property
    def _layouts_break(self) -> IntArray:
        """What rules say that the layouts break, whatever the batch and the number of replicas."""
        broken = np.full(len(self.rows), NOTHING)
        for constraint in self.task.constraints:
            if decides_layouts(constraint, self.task, self.exact_only):
                self._note(broken, constraint, self.task.problem, self.rows, None)
        return broken

    @property
    def is_prefill(self) -> bool:
        """Whether the role computes prompts."""
        return self.task.problem.scenario.workload.is_prefill

    def candidates(self, boxes: Boxes, replicas: IntArray) -> Candidates:
        """Return the candidates at the low ends of the batches."""
        return replace(with_batch(self.rows.take(boxes.layout), boxes.low), replicas=replicas)

    def start(self) -> Bounded:
        """Return all that may hold a plan, in boxes that double: [1, 1], [2, 3], [4, 7], ...

        Layouts that fail with the least times of all batches from a low end on have no larger batch
        that passes either.
        """
        work = self.task.problem.scenario.workload
        most = np.asarray(most_sequences(work, self.rows.chunks), dtype=np.int64)
        layouts, low, parts = np.flatnonzero(most > 0), 1, []
        while len(layouts):
            levels = max(_LEVELS, min(_BATCHES, _AT_ONCE // len(layouts)))
            lows = low << np.arange(levels)
            layout, same = np.tile(layouts, levels), np.repeat(lows, len(layouts))
            high = np.minimum(2 * same - 1, most[layout])
            ones, every = np.ones_like(layout), self.rows.replicas[layout]
            boxes = Boxes(layout, same, high, ones, every).take(same <= high)
            wide = self.task.problem.over_batches(most[boxes.layout] / boxes.low)
            rows = self.candidates(boxes, boxes.fewest)
            part = boxes.take(self._broken(boxes, rows, wide) >= NOTHING)
            parts.append(part)
            last = part.layout[part.low == lows[-1]]
            low <<= levels
            layouts = last[most[last] >= low]
        return self.bounded(Boxes.joined(parts))

    def bounded(self, boxes: Boxes) -> Bounded:
        """Return the boxes that may hold a plan by the filters, with what no plan of them beats."""
        rows = self.candidates(boxes, boxes.fewest)
        problem = self.task.problem.over_batches(boxes.ratio)
        broken = self._broken(boxes, rows, problem)
        needs = self._needs.take(boxes.layout)
        taken = taken_gpus(self.task.problem, rows, needs, is_first=self.is_prefill)
        every = Bounded(boxes, _values(problem, boxes, rows), taken, broken)
        return every.take(broken >= NOTHING)

    def _broken(self, boxes: Boxes, rows: Candidates, problem: Problem) -> IntArray:
        """Return what the filters say that boxes break; exact for what they see of a single one.

        problem: the role's, with bounds over the batches that are meant.
        """
        broken = self._layouts_break[boxes.layout]
        single = boxes.single
        for constraint in self.task.constraints:
            if not decides_layouts(constraint, self.task, self.exact_only):
                self._note(broken, constraint, problem, rows, single)
        return broken

    def _note(
        self,
        broken: IntArray,
        constraint: PlugIn,
        problem: Problem,
        rows: Candidates,
        single: BoolArray | None,
    ) -> None:
        """Note in `broken` which rows a constraint forbids.

        single: which are the only candidates of a box; None where the batch makes no difference.
        """
        if not isinstance(constraint, Constraint) or not len(rows):
            return
        passes = constraint.allowed_rows(problem, rows)
        if passes is None:
            return
        at_ends = constraint.depends_on_batch in ("not", "grows")
        if single is not None and (constraint.name in self.exact_only or not at_ends):
            passes |= ~single
        note(broken, ~passes, constraint.name, self.names)

    def largest(self, boxes: Boxes) -> IntArray:
        """Return the largest batch of each box that the filters leave, in eight parts at a time.

        Where a step may be faster with more rows, perhaps not the largest: it is a first guess.
        """
        low, high = boxes.low, boxes.high
        place = np.arange(len(boxes))
        while np.any(low < high):
            step = np.arange(1, _PARTS + 1)[:, None]
            points = low - (low - high) * step // _PARTS  # shape (parts, boxes); the last is high
            every = boxes.take(np.tile(place, _PARTS))
            every = replace(every, low=points.ravel(), high=points.ravel())
            rows = self.candidates(every, every.fewest)
            allowed = self._broken(every, rows, self.task.problem) == NOTHING
            count = allowed.reshape(points.shape).cumprod(axis=0).sum(axis=0)
            upto = np.concatenate([low[None, :], points])
            beyond = np.concatenate([points - 1, high[None, :]])
            low, high = upto[count, place], np.maximum(beyond[count, place], upto[count, place])
        return low


def _values(problem: Problem, boxes: Boxes, rows: Candidates) -> Values:
    """Return what no plan of boxes beats; problem: with bounds over their batches."""
    most = replace(rows, replicas=boxes.most)  # the same arrays otherwise: bounds are known
    bounds = problem.cost_model.bounds(most)
    rate, ratio = rates_to_int(bounds.tokens_per_s), boxes.ratio
    rate = np.where(ratio > 1, np.ceil((rate + 1) * ratio), rate).astype(np.int64)
    assert isinstance(problem.cost_model, RoleCosts)
    none = np.zeros_like(rate)
    # A step takes no less than the least time, for up to `ratio` times as many prompts.
    service_us = problem.cost_model.service_us(most, bounds.tokens_per_s) / ratio
    ttft_us = bounds.ttft_us if problem.scenario.workload.is_prefill else None
    return Values(
        rate=rate,
        time=none if ttft_us is None else times_to_int(ttft_us),
        handover=times_to_int(problem.cost_model.handover_bounds_us(rows)),
        tpot=none if bounds.tpot_us is None else times_to_int(bounds.tpot_us),
        boundaries=rows.pp - 1,
        memory=sizes_to_int(bounds.memory_bytes),
        gpus=rows.gpus_used(problem.num_layers),
        service=times_to_int(service_us * (1 - 1e-12)),
    )
