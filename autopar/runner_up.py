"""The best plan of all layouts but the winner's: how sure the winner is of its place.

It is found as the winner was, among candidates with other degrees, and costs little beside it: what
was seen of their batches, and the plans that were tried, are known already.
"""

from autopar.disaggregated.task import PairTask
from autopar.expected import band_of
from autopar.layouts import Layout, degrees_of
from autopar.lexicographic import Outcome
from autopar.planning import AnyPrepared, AnyTask
from autopar.problem import Candidate, Metrics
from autopar.results import RunnerUp
from autopar.search import Prepared, Splits, Task, Vector, prepare
from autopar.variables import Choice

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
    overview, layout = prepared.overview, Layout.of(winner)
    if overview is None:
        rows, matrix = prepared.allowed, prepared.optimistic
        keep = ~layout.matches(rows)
        return prepare(task, given=(rows.take(keep), matrix[keep]))
    others = overview.of_layouts(~layout.matches(overview.layouts))
    tried = [vector for one, vector in overview.tried.items() if Layout.of(one) != layout]
    given = others.worth_looking(
        Splits(task).values, better_than=min(tried, default=None), tries=_TRIES
    )
    return prepare(task, given=given)


def _bound(prepared: Prepared, winner: Vector) -> Vector | None:
    """Return values that no plan of the candidates beats; None where they have no plan.

    The winner is one of them, as it is optimal.
    """
    if prepared.floor is not None:
        return max(winner, prepared.floor)
    if not len(prepared.rows) or bool((~prepared.has_path).all()):
        return None
    return max(winner, tuple(int(value) for value in prepared.optimistic.min(axis=0)))
