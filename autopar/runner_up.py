"""The best plan of all layouts but the winner's: how sure the winner is of its place.

It is found as the winner was, among candidates with other degrees, and costs little beside it: what
was seen of their batches, and the plans that were tried, are known already.
"""

from collections.abc import Sequence

from autopar.disaggregated.task import PairTask
from autopar.errors import SolveLimitError
from autopar.expected import band_of
from autopar.layouts import Layout, all_degrees, degrees_of, layouts_of, only, pairs_beside
from autopar.lexicographic import Outcome
from autopar.planning import AnyPrepared, AnyTask, answered, objectives_of
from autopar.planning import prepare as prepare_any
from autopar.problem import Candidate, DisaggregatedPlan, Metrics
from autopar.results import RunnerUp
from autopar.search import Prepared, Splits, Task, Vector, prepare
from autopar.variables import Choice, PairChoice

_TRIES = 1  # layouts that are solved for a first plan, where none with other degrees was tried


def next_best(
    task: AnyTask, prepared: AnyPrepared, outcome: Outcome, metrics: Metrics
) -> RunnerUp | None:
    """Return the best plan with other degrees than the optimum's; None without an optimum.

    metrics: of the optimum. None for two roles too: `next_best_pair` is not so cheap.
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
    theirs = None if found is None else [found.candidate]
    crosses = _differ_over_fabric(task, [outcome.choice.candidate], theirs)
    return RunnerUp(
        objective=first.name,
        unit=first.unit,
        degrees=None if found is None else degrees_of(found),
        value=None if second.vector is None else first.value(abs(second.vector[0])),
        bound=None if bound is None else first.value(abs(bound[0])),
        lead=None if best is None else lead(winner[0], best[0]),
        band=None if crosses else band_of(first.name, metrics),
        decides=None if second.vector is None else decides(task, winner, second.vector),
        over_fabric=crosses,
    )


def next_best_pair(task: PairTask, plan: DisaggregatedPlan, metrics: Metrics) -> RunnerUp | None:
    """Return the best pair in which a role has another layout than in the optimal one.

    Whatever the numbers of replicas, which balance two roles and are many. Takes as long as two
    solves. None where it is not decided within the limits.
    """
    layouts = layouts_of(plan, one_grid_per_layer=False)
    first = task.objectives[0]
    try:
        own, *others = (
            answered(part, prepare_any(part, ties=False))
            for part in (only(task, layouts), *pairs_beside(task, layouts))
        )
    except SolveLimitError:
        return None
    if own.vector is None or any(o.status not in ("optimal", "infeasible") for o in others):
        return None
    winner = task.oriented(own.vector)
    found = [(task.oriented(o.vector), o.choice) for o in others if o.vector is not None]
    if not found:
        return RunnerUp(first.name, first.unit, None, None, None, None)
    best, choice = min(found, key=lambda pair: pair[0])
    assert choice is not None  # it has a vector
    value = first.value(abs(best[0]))
    crosses = _differ_over_fabric(task, _candidates(own.choice), _candidates(choice))
    return RunnerUp(
        objective=first.name,
        unit=first.unit,
        degrees=all_degrees(choice),
        value=value,
        bound=value,
        lead=lead(winner[0], best[0]),
        band=None if crosses else band_of(first.name, metrics),
        decides=decides(task, winner, best),
        over_fabric=crosses,
    )


def _candidates(choice: Choice | PairChoice | None) -> list[Candidate]:
    """Return the candidates of a choice, of each role where there are two."""
    if isinstance(choice, PairChoice):
        return [choice.prefill.candidate, choice.decode.candidate]
    return [] if choice is None else [choice.candidate]


def _differ_over_fabric(
    task: AnyTask, ours: Sequence[Candidate], theirs: Sequence[Candidate] | None
) -> bool:
    """Whether two plans differ in the groups that sum or gather over the fabric.

    theirs: None where it is not known which they are.
    """
    scenario = task.problem.scenario
    if scenario.cost_model != "analytic":
        return False
    cluster, is_moe = scenario.cluster, scenario.llm.is_moe
    unit = max(cluster.gpus_per_node, cluster.domain_gpus)

    def crossing(layouts: Sequence[Candidate]) -> list[tuple[tuple[int, int], int]]:
        return [
            (
                (one.tp, one.cp) if one.tp * one.cp > unit else (1, 1),
                one.etp if is_moe and one.etp > unit else 1,
            )
            for one in layouts
        ]

    own = crossing(ours)
    others = [((1, 1), 1)] * len(own) if theirs is None else crossing(theirs)
    return own != others


def lead(winner: int, other: int) -> float | None:
    """Return how much better a value is, as better / worse - 1; None where the worse one is 0."""
    smaller, larger = sorted((abs(winner), abs(other)))
    if winner == other:
        return 0.0
    return None if smaller == 0 else larger / smaller - 1


def decides(task: AnyTask, winner: Vector, other: Vector) -> str | None:
    """Return the first objective in which two plans differ; None where there is none."""
    pairs = zip(objectives_of(task), winner, other, strict=True)
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
