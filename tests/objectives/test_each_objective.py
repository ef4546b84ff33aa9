"""Each objective: what it posts, what it says of a split, and what it says of a verified plan."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autopar.constraints.layer_cover import LayerCover
from autopar.errors import SpecError
from autopar.objectives import OBJECTIVES, objectives_for
from autopar.ortools_loader import load_cp_model
from autopar.search import make_task
from autopar.segments import SegmentTable, segment_table
from autopar.specs import Scenario
from autopar.testing import every_choice
from autopar.unfold import unfold
from autopar.variables import Choice, PlanVariables
from autopar.verifier import verify_plan

Build = Callable[..., Scenario]


def cases(scenario: Scenario, count: int) -> list[tuple[Any, Choice, SegmentTable, np.ndarray]]:
    """Some candidates with some splits: (task, choice, segment table, chosen segments)."""
    task = make_task(scenario)
    choices = list(every_choice(task.problem))
    found = []
    for choice in choices[:: max(1, len(choices) // count)]:
        row = task.problem.candidates.take(np.array([choice.row]))
        table = segment_table(task.problem, row, ())
        stops = np.cumsum(choice.split)
        wanted = set(zip((stops - np.array(choice.split)).tolist(), stops.tolist(), strict=True))
        pairs = list(zip(table.first.tolist(), table.stop.tolist(), strict=True))
        chosen = np.array([k for k, pair in enumerate(pairs) if pair in wanted])
        if len(chosen) == len(wanted) and min(choice.split) >= choice.candidate.spread:
            found.append((task, choice, table, chosen))
    assert found
    return found


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_what_is_posted_equals_what_is_said_of_a_split_and_of_the_verified_plan(
    analytic_scenario: Build, phase: str
) -> None:
    cp = load_cp_model()
    scenario = analytic_scenario(phase=phase, num_layers=3, num_nodes=2)
    for task, choice, table, chosen in cases(scenario, 12):
        row = task.problem.candidates.take(np.array([choice.row]))
        plan = unfold(task.problem, choice.candidate, choice.split)
        metrics = verify_plan(scenario, plan).metrics
        assert metrics is not None
        for objective in task.objectives:
            model = cp.CpModel()
            variables = PlanVariables(model, task.problem, row, [table])
            LayerCover().post(model, variables, task.problem)
            variables.fix(Choice(0, choice.candidate, choice.split))
            expression = objective.post(model, variables, task.problem)
            (model.maximize if objective.sense == "max" else model.minimize)(expression)
            solver = cp.CpSolver()
            solver.parameters.num_workers = 1
            assert solver.solve(model) == cp.OPTIMAL
            posted = round(solver.objective_value)
            assert posted == objective.of_split(row, table, chosen), objective.name
            exact = objective.of_metrics(metrics)
            slack = objective.quantum * (objective.terms(task.problem) + 1) + 1e-9 * abs(exact)
            assert objective.value(posted) == pytest.approx(exact, abs=slack, rel=0)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_no_split_beats_the_optimistic_value(analytic_scenario: Build, phase: str) -> None:
    scenario = analytic_scenario(phase=phase, num_layers=4, num_nodes=2)
    for task, choice, table, chosen in cases(scenario, 60):
        row = task.problem.candidates.take(np.array([choice.row]))
        for objective in task.objectives:
            best = int(objective.optimistic(task.problem, row)[0])
            value = objective.of_split(row, table, chosen)
            assert value <= best if objective.sense == "max" else value >= best


def test_rounding_never_promises_more_than_the_float(analytic_scenario: Build) -> None:
    """Rates are rounded down, times and sizes up (CONVENTIONS, Units)."""
    scenario = analytic_scenario(phase="prefill", num_layers=3, num_nodes=2)
    for task, choice, table, chosen in cases(scenario, 20):
        row = task.problem.candidates.take(np.array([choice.row]))
        metrics = verify_plan(
            scenario, unfold(task.problem, choice.candidate, choice.split)
        ).metrics
        assert metrics is not None
        for objective in task.objectives:
            promised = objective.value(objective.of_split(row, table, chosen))
            exact = objective.of_metrics(metrics)
            slack = 1e-9 * abs(exact)
            if objective.sense == "max":
                assert promised <= exact + slack
            else:
                assert promised >= exact - slack


def test_a_recipe_keeps_its_order_and_skips_what_the_workload_does_not_have(
    document_scenario: Build,
) -> None:
    order = ["memory", "tpot", "ttft", "gpus"]
    task = make_task(document_scenario({"recipe.objectives": order}))
    assert [o.name for o in objectives_for(task.problem)] == ["memory", "ttft", "gpus"]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (["throughputs"], "did you mean 'throughput'"),
        (["ttft", "ttft"], "twice"),
        (["tpot"], "none of tpot applies"),
    ],
)
def test_a_wrong_objective_is_refused(
    document_scenario: Build, order: list[str], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        make_task(document_scenario({"recipe.objectives": order}))


def test_every_objective_says_what_it_is() -> None:
    for name, objective in OBJECTIVES.items():
        assert objective.name == name
        assert objective.says
        assert objective.unit
        assert objective.quantum > 0
