"""How plans compare: their gaps to proven bounds, which of them lead, under which loads."""

from collections.abc import Mapping, Sequence

from autopar.diagnose import Question
from autopar.errors import VerificationError
from autopar.planning import AnyTask, answered, objectives_of, prepare
from autopar.problem import Metrics
from autopar.results import ComparedPlan


def lone_bounds(question: Question) -> dict[str, float]:
    """Return for each objective what no plan beats when it alone counts, as proven by CP-SAT."""
    bounds = {}
    for objective in objectives_of(question.task()):
        task = question.aiming_at(objective.name)
        outcome = answered(task, prepare(task, ties=False))
        if outcome.bounds is not None:
            bounds[objective.name] = objective.value(outcome.bounds[0])
    return bounds


def gaps(
    task: AnyTask, metrics: Metrics | None, bounds: Mapping[str, float]
) -> dict[str, float | None]:
    """Return a plan's relative distance to the bounds; below 0 only for a plan that cheats."""
    if metrics is None:
        return {}
    gaps: dict[str, float | None] = {}
    for objective in objectives_of(task):
        if objective.name in bounds:
            bound, value = bounds[objective.name], objective.of_metrics(metrics)
            worse = (value - bound) * (1.0 if objective.sense == "min" else -1.0)
            rounding = objective.rounding_error(task.problem, bound)
            if abs(worse) <= rounding:
                gaps[objective.name] = 0.0
            else:
                gaps[objective.name] = worse / abs(bound) if bound else None
    return gaps


def hold_bounds(compared: Sequence[ComparedPlan]) -> None:
    """Raise VerificationError if a plan that satisfies the spec beats a bound that covers it."""
    for plan in compared:
        for name, gap in plan.gaps.items():
            if plan.report.ok and gap is not None and gap < -1e-9:
                raise VerificationError(
                    f"plan {plan.name!r} satisfies the spec and beats the bound of {name} by "
                    f"{-gap:.3%}; the bound is wrong, please report this"
                )


def beyond_notes(beyond: Mapping[str, str]) -> tuple[str, ...]:
    """Say which plans the bounds do not cover."""
    return tuple(
        f"the bounds do not cover {name}, which solve would not search: {why}"
        for name, why in beyond.items()
        if why
    )


def load_note(compared: Sequence[ComparedPlan]) -> tuple[str, ...]:
    """Say so where plans are measured under different loads."""
    loads = {p.name: p.report.metrics.concurrency for p in compared if p.report.metrics is not None}
    if len(set(loads.values())) < 2:
        return ()
    said = ", ".join(f"{name} {count:,}" for name, count in loads.items())
    return (f"every plan is measured with its own batches in flight ({said}), one per stage",)


def leaders(task: AnyTask, compared: Sequence[ComparedPlan]) -> dict[str, tuple[str, ...]]:
    """Return for each objective the plans that satisfy the spec and lead it."""
    leaders = {}
    for objective in objectives_of(task):
        sign = 1.0 if objective.sense == "min" else -1.0
        scores = {
            p.name: sign * objective.of_metrics(p.report.metrics)
            for p in compared
            if p.report.ok and p.report.metrics is not None
        }
        if scores:
            best = min(scores.values())
            slack = 1e-9 * abs(best)
            leaders[objective.name] = tuple(n for n, s in scores.items() if s <= best + slack)
    return leaders
