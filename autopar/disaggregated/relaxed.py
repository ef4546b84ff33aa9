"""Which requirements of a pair, each left out alone, admit a better one: one search for all.

As for one layout (`autopar.relaxed`): a pair that is better than the optimum without a requirement
breaks this requirement, and no other. So boxes of either role (`boxes`) that surely break two are
of no interest, those that break one only to the question about it, and only pairs with a bound
better than the optimum to any. Each question prunes the boxes of both roles that it is about; what
some question keeps is cut for all of them at once. This is exact, not a heuristic.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autopar.broken import NOTHING
from autopar.constraints import Constraint
from autopar.disaggregated.boxes import Bounded
from autopar.disaggregated.pairing import Pairing
from autopar.disaggregated.search import PreparedPair, State, look_for_pair, prepared, sides_of
from autopar.disaggregated.task import PairTask
from autopar.errors import SolveLimitError
from autopar.problem import BoolArray, IntArray
from autopar.search import Vector

# Boxes of one question from which on a first pair is looked for: to solve a few layouts takes less
# than to cut so many.
_MANY = 1000


@dataclass(frozen=True, slots=True)
class LeftPair:
    """What the search does not decide: a task, and what may be better in it."""

    task: PairTask
    prepared: PreparedPair


_Places = tuple[IntArray, IntArray]  # of boxes of prefill and of decode
PairAnswer = bool | LeftPair | None  # None: not looked at, there is too much of it


def better_pairs_without(
    task: PairTask, names: Sequence[str], optimum: Vector, budget: int
) -> dict[str, PairAnswer]:
    """Return for each named constraint whether a pair is better without it alone.

    names: of constraints that do not shape the table of candidates. optimum: the oriented vector of
    the task's optimum under all constraints. budget: the most layouts to look at, of both roles;
    where they are more, no question is answered.
    """
    if len(task.problem.candidates) > budget:
        return dict.fromkeys(names)
    asked = tuple(name for name in names if name not in task.silent)
    answers = _Search(task, asked, optimum).answers(range(len(asked)))
    found = {name: answers[question] for question, name in enumerate(asked)}
    return {name: found.get(name, False) for name in names}


def better_pair(task: PairTask, vector: Vector, budget: int) -> PairAnswer:
    """Return whether a task has a pair better than a vector."""
    if len(task.problem.candidates) > budget:
        return None
    return _Search(task, (), vector).answers([NOTHING])[NOTHING]


class _Search:
    """The questions about one task: what is better without a name, by its number, or as it is."""

    def __init__(self, task: PairTask, names: tuple[str, ...], optimum: Vector) -> None:
        self._task = task
        self._names = names
        self._optimum = optimum
        self._sides = sides_of(task, names)
        self._found: Sequence[Bounded] = [side.start() for side in self._sides]
        self._filters_decide = {q for q, name in enumerate(names) if _filters_decide(task, name)}

    def answers(self, questions: Sequence[int]) -> dict[int, PairAnswer]:
        """Answer the questions."""
        found: dict[int, PairAnswer] = dict.fromkeys(questions)
        while questions:
            kept: dict[int, _Places] = {}
            for question in questions:
                places = self._places(question)
                if not all(map(len, places)):
                    found[question] = False
                    continue
                state = self._state(question, places)
                if _is_to_cut(state):
                    kept[question] = places
                else:
                    found[question] = _answer(state)
            questions = self._cut(kept)
        return found

    def _places(self, question: int) -> _Places:
        """Return which boxes of either role may be part of an answer."""
        kept = [np.zeros(len(found), dtype=np.bool_) for found in self._found]
        for pool in self._pools(question):
            state = self._state(question, pool)
            for mask, chosen, places in zip(kept, pool, state.places, strict=True):
                mask[chosen[places]] = True
        return np.flatnonzero(kept[0]), np.flatnonzero(kept[1])

    def _pools(self, question: int) -> Iterator[_Places]:
        """Yield the boxes of prefill and of decode that answer a question together, if any do.

        Where filters say all of the requirement, one of the two must break it.
        """
        prefill, decode = (
            (f.broken == question, (f.broken == question) | (f.broken == NOTHING))
            for f in self._found
        )
        pairs = [(prefill[1], decode[1])]
        if question in self._filters_decide:
            pairs = [(prefill[0], decode[1]), (prefill[1] & ~prefill[0], decode[0])]
        for pair in pairs:
            if pair[0].any() and pair[1].any():
                yield np.flatnonzero(pair[0]), np.flatnonzero(pair[1])

    def _state(self, question: int, places: _Places) -> State:
        """Return some of the boxes as a search for one answer, pruned."""
        task = self._relaxed(question)
        chosen = [found.take(index) for found, index in zip(self._found, places, strict=True)]
        pairing = Pairing(task, vector=self._optimum)
        return State(task, sides_of(task), pairing, chosen, first=True, ties=False)

    def _relaxed(self, question: int) -> PairTask:
        return self._task if question == NOTHING else self._task.without(self._names[question])

    def _cut(self, kept: dict[int, _Places]) -> list[int]:
        """Cut all boxes that a question keeps, and return the questions.

        Where that makes too many, the question with the most boxes is given up.
        """
        while kept:
            try:
                self._found = [
                    side.bounded(found.boxes.take(_union(len(found), places)).cut())
                    for side, found, places in zip(
                        self._sides, self._found, zip(*kept.values(), strict=True), strict=True
                    )
                ]
                break
            except SolveLimitError:
                del kept[max(kept, key=lambda question: sum(map(len, kept[question])))]
        return list(kept)


def _is_to_cut(state: State) -> bool:
    """Whether nothing is known yet, and boxes are to be cut; many boxes are first looked into."""
    if state.is_single:
        return False
    if sum(map(len, state.found)) > _MANY:
        look_for_pair(state)
    return not state.is_answered


def _answer(state: State) -> PairAnswer:
    """Return the answer of what is left, all of it single candidates, unless it is there."""
    if state.is_answered:
        return True
    try:
        left = prepared(state)
    except SolveLimitError:
        return None
    if left.incumbent is not None:
        return True
    return LeftPair(state.task, left) if all(map(len, left.rows)) else False


def _filters_decide(task: PairTask, name: str) -> bool:
    """Whether a filter says of every layout of both roles, at any batch, if it may be in a plan."""
    if name in task.exact_only or any(joint.name == name for joint in task.pair):
        return False
    return all(
        isinstance(constraint, Constraint)
        and constraint.depends_on_batch == "not"
        and constraint.rows_decide(role.problem.candidates)
        for role in task.roles
        for constraint in role.constraints
        if constraint.name == name
    )


def _union(size: int, places: Iterable[IntArray]) -> BoolArray:
    """Return which of `size` boxes any of the places name."""
    mask = np.zeros(size, dtype=np.bool_)
    for index in places:
        mask[index] = True
    return mask
