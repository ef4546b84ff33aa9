"""Each objective: what it posts, what it says of a split, and what it says of a verified plan."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.constraints.layer_cover import LayerCover
from autopar.costs.scaling import rates_to_int
from autopar.errors import SpecError
from autopar.objectives import OBJECTIVES, Objective, objectives_for
from autopar.objectives.per_gpu import Cost, ThroughputPerGpu
from autopar.objectives.throughput import Throughput
from autopar.ortools_loader import load_cp_model
from autopar.search import make_task
from autopar.segments import SegmentTable, segment_table
from autopar.specs import Scenario
from autopar.testing import every_choice
from autopar.unfold import unfold
from autopar.variables import Choice, PlanVariables
from autopar.verifier import verify_plan

Build = Callable[..., Scenario]
WORKS: dict[str, dict[str, Any]] = {
    "prefill": {"phase": "prefill"},
    "decode": {"phase": "decode"},
    "open prefill": {"phase": "prefill", "input_tokens": 600, "prefill_chunk_tokens": 600},
    "serving": {"phase": "serving", "input_tokens": 30, "output_tokens": 9},
}
in_every_phase = pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)


def with_every_objective(scenario: Scenario, usd_per_hour: float | None = 2.5) -> Scenario:
    document = scenario.document()
    document["recipe"]["objectives"] = list(OBJECTIVES)
    if usd_per_hour is not None:
        document["cluster"]["gpu"]["usd_per_hour"] = usd_per_hour
    return Scenario.model_validate(document)


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


@in_every_phase
def test_what_is_posted_equals_what_is_said_of_a_split_and_of_the_verified_plan(
    analytic_scenario: Build, work: dict[str, Any]
) -> None:
    cp = load_cp_model()
    scenario = with_every_objective(analytic_scenario(num_layers=3, num_nodes=2, **work))
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
            exact, ours = objective.of_metrics(metrics), objective.value(posted)
            slack = objective.rounding_error(task.problem, ours)
            assert ours == pytest.approx(exact, abs=slack, rel=0), objective.name


@in_every_phase
def test_no_split_beats_the_optimistic_value(
    analytic_scenario: Build, work: dict[str, Any]
) -> None:
    scenario = with_every_objective(analytic_scenario(num_layers=4, num_nodes=2, **work))
    for task, choice, table, chosen in cases(scenario, 60):
        row = task.problem.candidates.take(np.array([choice.row]))
        for objective in task.objectives:
            best = int(objective.optimistic(task.problem, row)[0])
            value = objective.of_split(row, table, chosen)
            assert value <= best if objective.sense == "max" else value >= best


@in_every_phase
def test_rounding_never_promises_more_than_the_float(
    analytic_scenario: Build, work: dict[str, Any]
) -> None:
    """Rates are rounded down, times, sizes and costs up (CONVENTIONS, Units)."""
    scenario = with_every_objective(analytic_scenario(num_layers=3, num_nodes=2, **work))
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


rates = st.floats(1e-2, 1e8)
OF_RATES = [Throughput(), ThroughputPerGpu(), Cost(2.5), Cost(1e-4)]


def integer(objective: Objective, rate: float, gpus: int) -> int:
    """The objective's value where one stage of a plan on so many GPUs has this rate."""
    rate_int = rates_to_int(np.array([rate]))
    if objective.name == "throughput":
        return int(rate_int[0])
    one = np.zeros(1, dtype=np.int64)
    table = SegmentTable((0,), one, one + 1, one, rate_int, None, one, gpus)
    return int(objective.column(table)[0])


@pytest.mark.parametrize("objective", OF_RATES, ids=["rate", "per GPU", "cost", "low cost"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rate=rates,
    gpus=st.integers(1, 5000),
    batches=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    share=st.one_of(st.just(1.0), st.floats(0.9999, 1), st.floats(0.1, 1)),
)
def test_no_rate_that_grows_with_the_batch_beats_what_is_said_of_all_batches(
    objective: Objective, rate: float, gpus: int, batches: tuple[int, int], share: float
) -> None:
    """Also where the rate is rounded by as much as it may be: the ratio alone is too little."""
    low, high = sorted(batches)
    at_low = np.array([integer(objective, rate, gpus)])
    ratio = high / low
    most = objective.over_batches(at_low, np.array([ratio]))[0]
    reached = integer(objective, rate * ratio * share, gpus)
    assert reached <= most if objective.sense == "max" else reached >= most


def test_what_only_grows_is_least_at_the_smallest_batch() -> None:
    for name in ("ttft", "tpot", "memory", "gpus", "traffic"):
        values = np.array([3, 5])
        found = OBJECTIVES[name].over_batches(values, np.array([1.0, 4.0]))
        assert found.tolist() == [3, 5]


@pytest.mark.parametrize("rate", [0.5, 17.0, 1e3, 1e6])
@pytest.mark.parametrize("gpus", [1, 7, 3000])
def test_the_rounding_error_covers_slow_rates_and_many_gpus(rate: float, gpus: int) -> None:
    """A rate of 0.5 is rounded by up to 0.2 %, and with it everything that is derived of it."""
    for extra in (0.0, 4e-4, 9.9e-4):
        exact = rate + extra
        for objective, value in (
            (ThroughputPerGpu(), exact / gpus),
            (Cost(2.5), 2.5 / 3600 * gpus / exact * 1e6),
        ):
            ours = objective.value(integer(objective, exact, gpus))
            assert abs(ours - value) <= objective.rounding_error(None, ours)


def test_cost_is_the_price_of_the_gpus_over_the_rate() -> None:
    """2 GPUs at 1.8 USD an hour are 0.001 USD a second; at 500 tokens/s, 2 USD a million."""
    objective = Cost(1.8)
    assert objective.value(integer(objective, 500.0, 2)) == pytest.approx(2.0)


def test_cost_needs_a_price(analytic_scenario: Build) -> None:
    scenario = with_every_objective(analytic_scenario(num_nodes=1), usd_per_hour=None)
    with pytest.raises(SpecError, match="'cost' needs the price of GPU 'small-gpu'"):
        make_task(scenario)


def test_every_objective_says_what_it_is() -> None:
    for name, objective in OBJECTIVES.items():
        assert objective.name == name
        assert objective.says
        assert objective.unit
        assert objective.quantum > 0
