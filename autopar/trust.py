"""Nothing of ours is shown that was not checked: by every constraint, by the verifier, by value."""

from collections.abc import Sequence

from autopar.constraints import Constraint, PlugIn
from autopar.constraints.base import complaints
from autopar.disaggregated.task import PairTask
from autopar.errors import PluginError, VerificationError
from autopar.expected import with_ranges
from autopar.lexicographic import Outcome
from autopar.planning import AnyTask, objectives_of
from autopar.plans import stated_numbers
from autopar.problem import AnyPlan, DisaggregatedPlan, Metrics, Plan
from autopar.results import VerifyReport, Violation
from autopar.search import Task
from autopar.specs import PlanSpec, Scenario
from autopar.verifier import verify_plan
from autopar.verifier.roles import verify_pair


def second_opinion(scenario: Scenario, plan: AnyPlan) -> VerifyReport:
    """Return what the verifier says of an explicit plan, with the ranges of its metrics."""
    if isinstance(plan, DisaggregatedPlan):
        return with_ranges(scenario, verify_pair(scenario, plan), plan)
    return with_ranges(scenario, verify_plan(scenario, plan), plan)


def audited(scenario: Scenario, plan: AnyPlan, spec: PlanSpec) -> VerifyReport:
    """Return what the verifier says of a plan and of everything that its file states.

    Raises SpecError if a claim cannot be read.
    """
    said = (spec.claims, stated_numbers(spec), spec)
    if isinstance(plan, DisaggregatedPlan):
        return with_ranges(scenario, verify_pair(scenario, plan, *said), plan)
    return with_ranges(scenario, verify_plan(scenario, plan, *said), plan)


def refusals(plugins: Sequence[PlugIn], plan: AnyPlan, task: AnyTask) -> list[Violation]:
    """Return how plug-ins refuse a plan, each role of it by itself."""
    if isinstance(task, PairTask):
        assert isinstance(plan, DisaggregatedPlan)
        parts = list(zip(task.roles, plan.roles.values(), strict=True))
    else:
        assert isinstance(plan, Plan)
        parts = [(task, plan)]
    return [
        Violation(plugin.name, text)
        for plugin in plugins
        for part, layout in parts
        for text in complaints(plugin, layout, part.problem)
    ]


def trusted(task: AnyTask, outcome: Outcome, plan: AnyPlan) -> VerifyReport:
    """Return the verifier's report, after every check passed and every objective agreed.

    Raises VerificationError otherwise: then the answer is wrong and must not be shown.
    """
    if isinstance(task, PairTask):
        assert isinstance(plan, DisaggregatedPlan)
        _check_pair(task, plan)
    else:
        assert isinstance(plan, Plan)
        _check(task, plan)
    scenario = task.problem.scenario
    report = second_opinion(scenario, plan)
    disabled = set(scenario.recipe.disable)
    broken_kinds = [v for v in report.violations if v.kind not in disabled]
    if broken_kinds:
        first = broken_kinds[0]
        raise VerificationError(f"the verifier refuses our own plan: {first.kind}: {first.message}")
    if report.metrics is None:
        raise VerificationError("the verifier could not measure our own plan")
    _agree(task, outcome, report.metrics)
    return report


def _check(task: Task, plan: Plan) -> None:
    for constraint in task.constraints:
        for broken in complaints(constraint, plan, task.problem):
            if isinstance(constraint, Constraint):
                raise VerificationError(f"our own plan breaks {constraint.name}: {broken}")
            raise PluginError(
                f"plug-in {constraint.name!r}: its post allows a plan that its check refuses: "
                f"{broken}"
            )


def _check_pair(task: PairTask, plan: DisaggregatedPlan) -> None:
    for role, layout in zip(task.roles, plan.roles.values(), strict=True):
        _check(role, layout)
    for constraint in task.pair:
        for broken in constraint.check(plan, task.problems):
            raise VerificationError(f"our own plan breaks {constraint.name}: {broken}")


def _agree(task: AnyTask, outcome: Outcome, metrics: Metrics) -> None:
    assert outcome.vector is not None  # there is a plan
    for objective, integer in zip(objectives_of(task), outcome.vector, strict=True):
        ours, theirs = objective.value(integer), objective.of_metrics(metrics)
        allowed = objective.rounding_error(task.problem, ours)
        if abs(ours - theirs) > allowed:
            raise VerificationError(
                f"{objective.name}: the solver says {ours!r} {objective.unit}, the verifier "
                f"{theirs!r}, more than the rounding bound of {allowed!r} apart"
            )
