"""Plans under measured expert loads."""

from dataclasses import replace

import numpy as np
import pytest

from autopar import api
from autopar.oracle import best
from autopar.pairs import explicit_parts
from autopar.planning import make_task
from autopar.specs import PlanSpec
from autopar.specs.change import changed
from autopar.verifier.expert_loads import law_of_plan

SKEWED = np.random.RandomState(3).lognormal(2, 1.2, (4, 6)).round(3).tolist()


@pytest.fixture
def scenario(analytic_scenario):
    return analytic_scenario(
        phase="serving", input_tokens=100, output_tokens=9, num_nodes=2,
        work={"expert_load": "measured", "expert_counts": SKEWED},
    )  # fmt: skip


def test_value_is_of_the_placement_and_bound_of_no_placement(scenario):
    first = api.solve(scenario).objectives[0]
    ceiling = api.solve(changed(scenario, "workload", even(scenario)), diagnose=False)
    assert first.value <= first.bound * (1 + 1e-9)
    assert first.bound <= ceiling.objectives[0].value * (1 + 1e-9)  # nothing is evener than even


def test_the_plan_verifies_and_lies_where_its_experts_were_placed(scenario):
    solution = api.solve(scenario)
    assert solution.plan is not None
    report = api.verify(scenario, solution.plan)
    assert report.ok
    assert report.metrics.tokens_per_s == pytest.approx(solution.metrics.tokens_per_s)


def test_a_hand_written_plan_is_judged_by_where_it_puts_experts(scenario):
    """Moving the heaviest expert beside the second heaviest makes a plan with ep 3 slower."""
    counts = [[9.0, 1.0, 8.0, 1.0, 1.0, 1.0]] * 4
    asked = changed(scenario, "workload.expert_counts", counts)
    candidates = make_task(asked).problem.candidates
    assert (candidates.ep == 3).any()

    def factor(ranks):
        plan = api.solve(asked, diagnose=False).plan
        rows = np.array([[layer, e, 0, 0, r] for layer in range(4) for e, r in enumerate(ranks)])
        return law_of_plan(asked.workload, asked.llm, plan_with(plan, rows)).factor(2, 3)

    assert factor([0, 0, 1, 1, 2, 2]) == pytest.approx(10 / 7)
    assert factor([0, 1, 0, 1, 2, 2]) == pytest.approx(17 / 7)


def test_status_is_optimal_only_where_the_placement_is_proved(scenario):
    solution = api.solve(scenario)
    first = solution.objectives[0]
    assert solution.status == ("optimal" if first.gap <= 1e-9 else "feasible")


def test_the_value_equals_that_of_exhaustive_search(scenario):
    task = make_task(scenario)
    (rate,), _ = best(task.problem, task.constraints, ("throughput",))
    solution = api.solve(scenario, diagnose=False)
    assert solution.objectives[0].value == pytest.approx(-rate * 1e-3, rel=1e-9)


def test_an_answer_can_be_read_as_a_plan_again(scenario):
    solution = api.solve(scenario, diagnose=False)
    rows = explicit_parts(solution.plan)["placement"]
    layers = {row["layer"] for row in rows}
    assert layers == {0, 1, 2, 3}


def even(scenario):
    work = scenario.workload.document()
    return {k: v for k, v in work.items() if k != "expert_counts"} | {"expert_load": "even"}


def plan_with(plan, rows):
    return replace(plan, placement=rows)


def test_compare_covers_better_placements_by_its_bounds(scenario):
    """A hand-written plan with the solver's degrees is judged, and no bound of ours is beaten."""
    solution = api.solve(scenario, diagnose=False)
    spec = PlanSpec.model_validate(
        {
            "name": "by-hand",
            "llm": scenario.llm.name,
            "degrees": {
                key: solution.plan.degree(key)
                for key in ("replicas", "pp", "tp", "cp", "attn_dp", "ep", "etp", "spread")
            },
            "batch": solution.plan.batch,
            "chunks": solution.plan.chunks,
        }
    )
    by_hand, own = api.compare(scenario, [spec]).plans
    assert by_hand.gaps["throughput"] >= own.gaps["throughput"] >= 0
