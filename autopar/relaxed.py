"""Which requirements, each left out alone, admit a better plan: one search for all of them.

A plan that is better than the optimum without a requirement breaks this requirement, and no other.
So candidates that surely break two are of no interest to any question, those that break one only to
the question about it, and only candidates with a bound better than the optimum to any. What is left
is looked at once for all questions, by the intervals of `autopar.batches`, and a question is closed
as soon as a plan answers it. This is exact, not a heuristic.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autopar.batches import Intervals, is_before, over_batches
from autopar.broken import NOTHING, note
from autopar.candidates import with_batch
from autopar.constraints import Constraint
from autopar.costs.steps import most_sequences
from autopar.problem import BoolArray, Candidates, IntArray, Problem
from autopar.search import Prepared, Splits, Task, Vector, has_one_split, prepare

_TRIES = 2  # candidates that are solved for one question before intervals are cut further


@dataclass(frozen=True, slots=True)
class Left:
    """What bounds and the dynamic programme do not decide: a task, and what may be better in it."""

    task: Task
    prepared: Prepared


Answer = bool | Left | None  # None: not looked at, there is too much of it


def better_without(
    task: Task, names: Sequence[str], optimum: Vector, budget: int
) -> dict[str, Answer]:
    """Return for each named constraint whether a plan is better without it alone.

    names: of constraints that do not shape the table of candidates. optimum: the oriented vector of
    the task's optimum under all constraints. budget: the most layouts to look at; the questions
    about which there are most are not answered where they are more.
    """
    search = _Search(task, tuple(names), optimum)
    questions = range(len(names))
    answers = search.answers(questions, budget)
    return {name: answers[question] for name, question in zip(names, questions, strict=True)}


def better_plan(task: Task, vector: Vector, budget: int) -> Answer:
    """Return whether a task has a plan better than a vector."""
    return _Search(task, (), vector).answers([NOTHING], budget)[NOTHING]


@dataclass(frozen=True, slots=True)
class _Judged:
    """Intervals of batches, and what is known of each, of shape (intervals,) or one row per each.

    broken: what all batches of the interval surely break. matrix: bounds over the batches; low:
    the same without what the batch may grow.
    """

    work: Intervals
    broken: IntArray
    matrix: IntArray
    low: IntArray

    def take(self, index: IntArray | BoolArray) -> "_Judged":
        """Return the intervals that `index` selects, in its order."""
        return _Judged(
            self.work.take(index),
            self.broken[index],
            self.matrix[index],
            self.low[index],
        )

    @classmethod
    def joined(cls, parts: "Sequence[_Judged]") -> "_Judged":
        """Return the intervals of all parts, of which there is at least one."""
        return cls(
            Intervals.joined([part.work for part in parts]),
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("broken", "matrix", "low")
            ),
        )


class _Search:
    """The questions about one task: what is better without a name, by its number, or as it is."""

    def __init__(self, task: Task, names: tuple[str, ...], optimum: Vector) -> None:
        self._task = task
        self._names = names
        self._optimum = optimum
        self._workload = task.problem.scenario.workload
        self._splits: dict[int, Splits] = {}
        self._tried: set[tuple[int, int, int]] = set()  # question, layout, batch
        self._layouts = task.problem.candidates
        if self._workload.is_open:
            most = most_sequences(self._workload, self._layouts.chunks)
            self._layouts = self._layouts.take(most > 0)
        self._broken = np.full(len(self._layouts), NOTHING)  # whatever the batch
        self._note("not", self._broken, task.problem, self._layouts)
        self._open: set[int] = set()
        # A candidate that its filter accepts is of no interest to such a question. Nor is an
        # interval of batches, so that the filter must say the same of each.
        self._rows_decide = {
            names.index(constraint.name)
            for constraint in task.constraints
            if isinstance(constraint, Constraint) and constraint.name in names
            if constraint.depends_on_batch == "not" or not self._workload.is_open
            if constraint.rows_decide(self._layouts)
        }

    def answers(self, questions: Sequence[int], budget: int) -> dict[int, Answer]:
        """Answer the questions."""
        self._open = set(questions)
        found: dict[int, Answer] = dict.fromkeys(questions)
        self._keep_within(budget)
        judged = self._start()
        while True:
            for question in self._shown(judged):
                found[question] = True
                self._open.remove(question)
            judged = judged.take(self._asked(judged.broken))
            if bool((judged.work.low == judged.work.high).all()):
                break
            judged = self._possible(judged.work.cut())
        order = np.lexsort(judged.matrix.T[::-1])
        for question in sorted(self._open):
            found[question] = self._left(question, judged.take(order))
        return found

    def _keep_within(self, budget: int) -> None:
        """Close questions that would need too many layouts, and drop layouts of no interest."""
        total = int((self._broken == NOTHING).sum())
        own = {q: 0 if q == NOTHING else int((self._broken == q).sum()) for q in self._open}
        for question, count in sorted(own.items(), key=lambda item: item[1]):
            total += count
            if total > budget:
                self._open.remove(question)
        keep = self._asked(self._broken)
        self._layouts, self._broken = self._layouts.take(keep), self._broken[keep]

    def _start(self) -> _Judged:
        """Return intervals [1, 1], [2, 3], [4, 7], ... that may answer something.

        A layout that breaks too much of what grows, by bounds over all batches from a low end on,
        does so with every larger batch.
        """
        layouts, low = np.arange(len(self._layouts)), 1
        if not self._workload.is_open:
            batch = self._layouts.batch
            return self._possible(Intervals(layouts, batch, batch))
        most = most_sequences(self._workload, self._layouts.chunks)
        parts = [self._possible(Intervals.joined([]))]
        while len(layouts):
            work, low = Intervals.doubling(layouts, most, low)
            wide = self._task.problem.over_batches(most[work.layout] / work.low)
            kept = work.take(self._asked(self._grown(wide, work, self._at_low(work))))
            parts.append(self._possible(kept))
            layouts = kept.last(low, most)
        return _Judged.joined(parts)

    def _possible(self, work: Intervals) -> _Judged:
        """Return the intervals that may answer a question."""
        judged = self._judged(work)
        return judged.take(self._may_answer(judged))

    def _may_answer(self, judged: _Judged) -> BoolArray:
        return self._asked(judged.broken) & is_before(judged.matrix, self._optimum)

    def _judged(self, work: Intervals) -> _Judged:
        task, rows = self._task, self._at_low(work)
        problem = task.problem.over_batches(work.ratio)
        matrix = over_batches(problem, task.objectives, rows, work.ratio)
        low = over_batches(problem, task.objectives, rows, np.ones(len(rows)))
        broken = self._grown(problem, work, rows)
        self._note("rate", broken, problem, rows, work)
        self._note("any", broken, problem, rows, work)
        return _Judged(work, broken, matrix, low)

    def _grown(self, problem: Problem, work: Intervals, rows: Candidates) -> IntArray:
        """Return what candidates break, `rows` of `work`, of what grows with the batch at most."""
        broken = self._broken[work.layout]
        self._note("grows", broken, problem, rows)
        return broken

    def _note(
        self,
        kind: str,
        broken: IntArray,
        problem: Problem,
        rows: Candidates,
        work: Intervals | None = None,
    ) -> None:
        """Note in `broken` what the filters of one kind (`depends_on_batch`) say of candidates.

        work: the intervals of which `rows` are the low ends, where filters differ along them.
        """
        for constraint in self._task.constraints:
            if not isinstance(constraint, Constraint) or constraint.depends_on_batch != kind:
                continue
            if not len(rows):
                continue
            if kind == "rate" and work is not None:
                allowed: BoolArray | None = constraint.may_allow(problem, rows, work.ratio)
            else:
                allowed = constraint.allowed_rows(problem, rows)
            if allowed is None:
                continue
            fails = ~allowed if kind != "any" or work is None else ~allowed & (work.ratio == 1)
            note(broken, fails, constraint.name, self._names)

    def _shown(self, judged: _Judged) -> list[int]:
        """Return the open questions that a plan answers, looking at the most promising low ends."""
        rows = self._at_low(judged.work)
        order = np.lexsort(judged.low.T[::-1])
        order = order[is_before(judged.low[order], self._optimum)]
        return [
            question
            for question in sorted(self._open)
            if any(
                self._try(question, judged.work, rows, index)
                for index in order[self._concerns(judged.broken[order], question)][:_TRIES].tolist()
            )
        ]

    def _try(self, question: int, work: Intervals, rows: Candidates, index: int) -> bool:
        """Whether one low end has a plan better than the optimum; each is asked once."""
        key = question, int(work.layout[index]), int(work.low[index])
        if key in self._tried:
            return False
        self._tried.add(key)
        splits = self._splits.setdefault(question, Splits(self._relaxed(question)))
        values = splits.values(rows.take(np.array([index])))
        return values is not None and values < self._optimum

    def _left(self, question: int, judged: _Judged) -> Answer:
        """Look at the single candidates that are left for a question, in the order of bounds."""
        judged = judged.take(self._concerns(judged.broken, question))
        if not len(judged.broken):
            return False
        task, rows = self._relaxed(question), self._at_low(judged.work)
        prepared = prepare(task, self._optimum, given=(rows, judged.matrix))
        if prepared.vector is not None and prepared.vector < self._optimum:
            return True
        is_open = prepared.has_path & ~has_one_split(task, prepared.rows)
        return Left(task, prepared) if bool(is_open.any()) else False

    def _relaxed(self, question: int) -> Task:
        if question == NOTHING:
            return self._task
        name = self._names[question]
        kept = tuple(c for c in self._task.constraints if c.name != name)
        return replace(self._task, constraints=kept)

    def _at_low(self, work: Intervals) -> Candidates:
        return with_batch(self._layouts.take(work.layout), work.low)

    def _asked(self, broken: IntArray) -> BoolArray:
        """Return which candidates an open question is about."""
        asked = np.isin(broken, np.array(sorted(self._open), dtype=np.int64))
        return asked if self._open <= self._rows_decide else asked | (broken == NOTHING)

    def _concerns(self, broken: IntArray, question: int) -> BoolArray:
        """Return which candidates may answer one question."""
        concerns: BoolArray = broken == question
        return concerns if question in self._rows_decide else concerns | (broken == NOTHING)
