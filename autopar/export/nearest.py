"""The nearest plan that an engine can start, and what it costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autopar.api import solve
from autopar.constraints import PlugIn
from autopar.errors import InexpressibleError
from autopar.export.exporting import export
from autopar.export.judging import broken_rules, pack_of
from autopar.export.options import Options
from autopar.export.relaying import relaid
from autopar.problem import AnyPlan, Metrics
from autopar.specs import Scenario
from autopar.trust import second_opinion

# What is given up, one after another, where the engine has no plan that keeps it.
_COVERAGES = ("every_gpu", "up_to")


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest plan to the one that was asked for, by the costs of the same scenario.

    moved: whether it is the same layout with its ranks on other GPUs. given_up: requirements that
    no plan of the engine meets. before: metrics of the plan that was asked for; None where it is
    too broken to be measured.
    """

    scenario: Scenario
    plan: AnyPlan
    moved: bool
    given_up: tuple[str, ...]
    before: Metrics | None
    after: Metrics

    @property
    def lost(self) -> float | None:
        """Share of the throughput that is lost; negative where it is gained."""
        if self.before is None or not self.before.tokens_per_s:
            return None
        return 1 - self.after.tokens_per_s / self.before.tokens_per_s


def nearest(
    scenario: Scenario, plan: AnyPlan, options: Options, plugins: Sequence[PlugIn] = ()
) -> Nearest | None:
    """Return the nearest plan that an engine can start; None if none was found.

    First the same layout with its ranks where the engine puts them. Else the scenario is solved
    again with the engine's rule pack, at the same costs, so that the two plans can be compared;
    where no plan meets all of it, its coverage is weakened, then its own rules are left out.
    """
    before = second_opinion(scenario, plan).metrics
    moved = _started(scenario, relaid(scenario, plan, options.engine), options)
    if moved is not None:
        other, after = moved
        return Nearest(scenario, other, True, (), before, after)
    for asked, given_up in _questions(scenario, plan, options):
        solution = solve(asked, plugins=plugins, diagnose=False)
        for candidate in (solution.plan, relaid(asked, solution.plan, options.engine)):
            found = _started(asked, candidate, options)
            if found is not None:
                return Nearest(asked, found[0], False, given_up, before, found[1])
    return None


def _started(
    scenario: Scenario, plan: AnyPlan | None, options: Options
) -> tuple[AnyPlan, Metrics] | None:
    """Return a plan with its metrics if it holds in its scenario and the engine can start it."""
    if plan is None:
        return None
    report = second_opinion(scenario, plan)
    if not report.ok or report.metrics is None:
        return None
    try:
        export(scenario, plan, options.engine, options)
    except InexpressibleError:
        return None
    return plan, report.metrics


def _questions(
    scenario: Scenario, plan: AnyPlan, options: Options
) -> Iterator[tuple[Scenario, tuple[str, ...]]]:
    """Yield the scenario with the engine's rules, weaker each time, and what each gives up."""
    _, unsure = broken_rules(scenario, plan, options.engine)
    pack = pack_of(scenario, options.engine)
    rules = tuple(rule for rule in pack.rules if rule.name not in unsure)
    others = tuple(other for other in scenario.rule_packs if other.name != pack.name)
    packs = (*others, pack.model_copy(update={"rules": rules}))
    for coverage, keeps_rules, given_up in _relaxations(scenario):
        needs = scenario.requirements.model_copy(update={"coverage": coverage})
        own = scenario.rules if keeps_rules else ()
        yield (
            scenario.model_copy(update={"requirements": needs, "rules": own, "rule_packs": packs}),
            given_up,
        )


def _relaxations(scenario: Scenario) -> Iterator[tuple[str, bool, tuple[str, ...]]]:
    """Yield coverages, whether the scenario's own rules are kept, and what each gives up."""
    coverage = scenario.requirements.coverage
    weaker = {"partition": _COVERAGES, "every_gpu": _COVERAGES[1:]}.get(coverage, ())
    names = ", ".join(rule.name for rule in scenario.rules)
    for keeps_rules in (True, False) if scenario.rules else (True,):
        without = () if keeps_rules else (f"the rules of the scenario ({names})",)
        yield coverage, keeps_rules, without
        for other in weaker:
            yield other, keeps_rules, (f"coverage {coverage} for {other}", *without)
