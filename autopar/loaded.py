"""Plans under measured expert loads: a bound that rests on bounds of placements, and notes."""

from collections.abc import Sequence
from dataclasses import replace

from autopar.constraints import PlugIn
from autopar.costs.expert_law import placed_counts
from autopar.cpsat import relative_gap
from autopar.lexicographic import Outcome
from autopar.planning import AnyTask, make_task, objectives_of, optimise, prepare
from autopar.problem import AnyPlan, DisaggregatedPlan, Plan
from autopar.results import ObjectiveValue, Status
from autopar.specs import Scenario
from autopar.specs.change import changed

_EQUAL = 1e-9


def is_measured(scenario: Scenario) -> bool:
    """Whether the experts are loaded as counts say."""
    return scenario.workload.expert_load == "measured"


def bounding(scenario: Scenario) -> Scenario:
    """Return a scenario whose bounds hold for every placement of experts."""
    if not is_measured(scenario):
        return scenario
    return changed(scenario, "workload.expert_load", "measured_bound")


def widened(
    scenario: Scenario,
    outcome: Outcome,
    values: tuple[ObjectiveValue, ...],
    plugins: Sequence[PlugIn],
) -> tuple[ObjectiveValue, ...]:
    """Return the objectives with the first one's bound as if placements reached their bounds.

    Without measured loads they are returned as they are. The value is of placements that were
    found, the bound of none that could be: so the gap counts what better placements might add.
    Objectives that break ties keep theirs, for those placements.
    """
    if not is_measured(scenario) or outcome.status != "optimal":
        return values
    task = make_task(bounding(scenario), plugins=plugins)
    bound = _first_bound(task, optimise(task, prepare(task)))
    if bound is None or not values:
        return values
    first = values[0]
    ahead = max if first.sense == "max" else min
    bound = ahead(bound, first.bound)
    return (replace(first, bound=bound, gap=relative_gap(first.value, bound)), *values[1:])


def status_of(outcome: Outcome, values: Sequence[ObjectiveValue]) -> Status:
    """Return the status of an answer: optimal only where the first objective has its bound."""
    is_open = bool(values) and values[0].gap > _EQUAL
    return "feasible" if outcome.status == "optimal" and is_open else outcome.status


def placement_notes(scenario: Scenario, plan: AnyPlan | None) -> tuple[str, ...]:
    """Say how the experts of a plan are loaded."""
    counts = scenario.workload.expert_counts
    if counts is None or plan is None:
        return ()
    roles = {"": plan} if isinstance(plan, Plan) else _roles(plan)
    said = []
    for role, layout in roles.items():
        held = max(-(-scenario.llm.num_experts // stage.ep) for stage in layout.stages)
        if held == scenario.llm.num_experts:
            continue  # every rank has all experts: nothing to place
        ep = min(stage.ep for stage in layout.stages)
        placed = placed_counts(counts).on(ep)
        over_mean = held * ep / scenario.llm.num_experts
        said.append(
            f"{role}experts are placed for their counts, summed over windows: the fullest of {ep} "
            f"ranks has {placed.reached.mean() * over_mean:.4f} times the mean, as a mean of "
            f"layers; no placement has less than {placed.bound.mean() * over_mean:.4f}"
        )
    return tuple(said)


def _roles(plan: DisaggregatedPlan) -> dict[str, Plan]:
    return {"prefill: ": plan.prefill, "decode: ": plan.decode}


def _first_bound(task: AnyTask, outcome: Outcome) -> float | None:
    if outcome.bounds is None or outcome.vector is None:
        return None
    return objectives_of(task)[0].value(outcome.bounds[0])
