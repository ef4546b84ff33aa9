"""The best plan of all layouts but the winner's: how sure the winner is of its place.

It is found as the winner was, among candidates with other degrees, and costs little beside it: what
was seen of their batches, and the plans that were tried, are known already.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from autopar.disaggregated.task import PairTask
from autopar.expected import band_of
from autopar.lexicographic import Outcome
from autopar.planning import AnyPrepared, AnyTask
from autopar.problem import BoolArray, Candidate, Candidates, Metrics
from autopar.results import Degrees, RunnerUp
from autopar.search import Prepared, Splits, Task, Vector, prepare
from autopar.variables import Choice

DEGREES = ("replicas", "pp", "tp", "cp", "attn_dp", "ep", "etp", "spread")
_FREE = {"batch", "chunks"}  # what does not make another layout
_TRIES = 1  # layouts that are solved for a first plan, where none with other degrees was tried


def next_best(
    task: AnyTask, prepared: AnyPrepared, outcome: Outcome, metrics: Metrics
) -> RunnerUp | None:
    """Return the best plan with other degrees than the optimum's; None without an optimum.

    metrics: of the optimum.
    """
    if outcome.status != "optimal" or outcome.vector is None or isinstance(task, PairTask):
        return None
    assert isinstance(prepared, Prepared)
    assert isinstance(outcome.choice, Choice)  # one layout
    second = _second(task, prepared, outcome.choice.candidate)
    first = task.objectives[0]
    winner = task.oriented(outcome.vector)
    bound = _bound(second, winner)
    best = second.vector or bound
    found = second.incumbent
    return RunnerUp(
        objective=first.name,
        unit=first.unit,
        degrees=None if found is None else degrees_of(found),
        value=None if second.vector is None else first.value(abs(second.vector[0])),
        bound=None if bound is None else first.value(abs(bound[0])),
        lead=None if best is None else lead(winner[0], best[0]),
        band=band_of(first.name, metrics),
        decides=None if second.vector is None else decides(task, winner, second.vector),
    )


def degrees_of(choice: Choice) -> Degrees:
    """Return the degrees of a choice; None where the stages differ."""
    candidate = choice.candidate
    found: Degrees = {key: getattr(candidate, key) for key in DEGREES}
    for key, of_size in (
        ("attn_dp", candidate.stage_attn_dp), ("spread", candidate.stage_spread),
    ):  # fmt: skip
        values = {of_size(size) for size in choice.split}
        found[key] = values.pop() if len(values) == 1 else None
    return found


def lead(winner: int, other: int) -> float | None:
    """Return how much better a value is, as better / worse - 1; None where the worse one is 0."""
    smaller, larger = sorted((abs(winner), abs(other)))
    if winner == other:
        return 0.0
    return None if smaller == 0 else larger / smaller - 1


def decides(task: Task, winner: Vector, other: Vector) -> str | None:
    """Return the first objective in which two plans differ; None where there is none."""
    pairs = zip(task.objectives, winner, other, strict=True)
    return next((objective.name for objective, a, b in pairs if a != b), None)


def _second(task: Task, prepared: Prepared, winner: Candidate) -> Prepared:
    """Return what is known of all candidates with other degrees than the winner's."""
    overview = prepared.overview
    if overview is None:
        rows, matrix = prepared.allowed, prepared.optimistic
        keep = ~same_degrees(rows, winner)
        return prepare(task, given=(rows.take(keep), matrix[keep]))
    others = overview.of_layouts(~same_degrees(overview.layouts, winner))
    tried = [v for c, v in overview.tried.items() if _layout(c) != _layout(winner)]
    given = others.worth_looking(
        Splits(task).values, better_than=min(tried, default=None), tries=_TRIES
    )
    return prepare(task, given=given)


def same_degrees(rows: Candidates, candidate: Candidate) -> BoolArray:
    """Return which candidates have the degrees of another, whatever their batch and parts."""
    same = np.ones(len(rows), dtype=np.bool_)
    for key in _keys():
        same &= getattr(rows, key) == getattr(candidate, key)
    return same


def _layout(candidate: Candidate) -> tuple[int, ...]:
    return tuple(getattr(candidate, key) for key in _keys())


def _keys() -> Sequence[str]:
    return [field.name for field in fields(Candidate) if field.name not in _FREE]


def _bound(prepared: Prepared, winner: Vector) -> Vector | None:
    """Return values that no plan of the candidates beats; None where they have no plan.

    The winner is one of them, as it is optimal.
    """
    if prepared.floor is not None:
        return max(winner, prepared.floor)
    if not len(prepared.rows) or bool((~prepared.has_path).all()):
        return None
    return max(winner, tuple(int(value) for value in prepared.optimistic.min(axis=0)))
