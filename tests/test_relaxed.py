"""One search for all requirements says of each what leaving it out alone says."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from autopar import oracle
from autopar.constraints.active import droppable
from autopar.diagnose import Question, binding
from autopar.relaxed import better_plan, better_without
from autopar.search import SHAPES_TABLE, make_task, prepare
from autopar.solver import optimise
from autopar.specs import Scenario

Build = Callable[..., Any]

RULES = (
    "tp <= 2",
    "pp == 1",
    "replicas == 1",  # looks at replicas, not at the shape of a stage
    "layers_per_stage <= 2",  # no filter of candidates
    "batch <= 3",
    "batch >= 2",
    "attn_dp == 1 or tp == 1",
    "gpus <= 2",
)
ORDERS = (
    ("throughput", "ttft", "tpot", "memory"),
    ("throughput_per_gpu", "gpus", "ttft"),
    ("ttft", "throughput"),
    ("memory", "throughput"),
)


@st.composite
def scenarios(
    draw: st.DrawFn, build: Build, architectures: Build, works: Any, kernels: Any
) -> Scenario:
    """A few layers on up to 4 GPUs, with rules; limits are set near what a free plan reaches."""
    base = build(architecture=draw(architectures(3)), **draw(works), num_nodes=1)
    document = base.document()
    gpus = draw(st.integers(1, 2))
    document["cluster"] |= {"gpus_per_node": gpus, "num_nodes": 2, "gpus_per_domain": gpus}
    document["cluster"]["gpu"]["kernels"] = draw(kernels)
    if base.workload.is_open:
        document["workload"]["max_batch_sequences"] = draw(st.integers(1, 6))
    coverage = draw(st.sampled_from(["up_to", "up_to", "every_gpu"]))
    document["requirements"] = {"coverage": coverage}
    document["recipe"]["objectives"] = draw(st.sampled_from(ORDERS))
    chosen = draw(st.lists(st.sampled_from(RULES), unique=True, max_size=4))
    document["rules"] = [
        {"name": f"rule_{i}", "require": text, "because": "a test"} for i, text in enumerate(chosen)
    ]
    return Scenario.model_validate(document)


def with_limits(draw: Callable[..., Any], scenario: Scenario) -> Scenario:
    """Limits a little above or below what some plan under the rules reaches."""
    task = make_task(scenario)
    reached = [costs for _, costs in oracle.feasible_plans(task.problem, task.constraints)]
    assume(reached)
    costs = draw(st.sampled_from(reached))
    document = scenario.document()
    limits, hair = document["requirements"], 1 + 1e-4
    choice = draw(st.sets(st.sampled_from(["rate", "ttft", "tpot", "memory"])))
    if "rate" in choice:
        limits["min_tokens_per_s"] = float(costs.tokens_per_s.min()) / hair
    if "ttft" in choice and scenario.workload.phase != "decode":
        limits["max_ttft_us"] = float(costs.time_us.sum()) * hair
    if "tpot" in choice and costs.tpot_us is not None:
        limits["max_tpot_us"] = float(costs.tpot_us.max()) * hair
    if "memory" in choice:
        document["cluster"]["gpu"]["memory_bytes"] = float(costs.memory_bytes.max()) * hair
    return Scenario.model_validate(document)


def best(scenario: Scenario, without: str | None = None) -> tuple[int, ...] | None:
    task = make_task(scenario, disabled=[] if without is None else [without])
    names = [objective.name for objective in task.objectives]
    found = oracle.best(task.problem, task.constraints, names)
    return None if found is None else found[0]


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_what_binds_is_what_each_relaxation_alone_improves_by_exhaustive_search(
    data: st.DataObject,
    analytic_scenario: Build,
    architectures: Build,
    works: Any,
    uneven_kernels: Any,
) -> None:
    """Batch given or open, rules on rows, segments, batches and replicas, every kind of limit."""
    scenario = data.draw(scenarios(analytic_scenario, architectures, works, uneven_kernels))
    scenario = with_limits(data.draw, scenario)
    optimum = best(scenario)
    assert optimum is not None
    names = [c.name for c in droppable(make_task(scenario).constraints)]
    if scenario.requirements.coverage == "up_to":
        names.remove("coverage")
    expected = tuple(name for name in names if best(scenario, name) != optimum)
    assert binding(Question(scenario, ()), optimum, 10**6) == (expected, [])


def vector(scenario: Scenario) -> tuple[int, ...]:
    task = make_task(scenario)
    outcome = optimise(task, prepare(task))
    assert outcome.vector is not None
    return task.oriented(outcome.vector)


OPEN = {
    "phase": "serving", "input_tokens": 100, "output_tokens": 9, "num_nodes": 1,
    "max_batch_sequences": 500,
}  # fmt: skip


def test_questions_about_most_layouts_are_left_out_first(analytic_scenario: Build) -> None:
    """Of the budget, what breaks nothing takes its part first, then the smallest questions."""
    rules = [
        {"name": "flat", "require": "pp == 1", "because": "a test"},
        {"name": "narrow", "require": "tp <= 2", "because": "a test"},
    ]
    document = analytic_scenario(**OPEN).document() | {"rules": rules}
    scenario = Scenario.model_validate(document)
    task, optimum = make_task(scenario), vector(scenario)
    rows = task.problem.candidates
    flat, narrow = rows.pp == 1, rows.tp <= 2
    both = int((flat & narrow).sum())
    deep, wide = int((~flat & narrow).sum()), int((flat & ~narrow).sum())
    assert 0 < wide < deep
    names = ("flat", "narrow")

    def decided(budget: int) -> list[bool]:
        answers = better_without(task, names, optimum, budget)
        assert list(answers) == list(names)
        return [answer is not None for answer in answers.values()]

    assert decided(both + wide + deep) == [True, True]
    assert decided(both + wide + deep - 1) == [False, True]
    assert decided(both + wide - 1) == [False, False]


def test_a_rule_on_the_batch_is_asked_of_batches_that_lie_between_those_looked_at_first(
    analytic_scenario: Build,
) -> None:
    """An interval of batches, whose low end alone is judged, may hold what breaks the rule."""
    rules = [{"name": "few", "require": "batch <= 2", "because": "a test"}]
    scenario = Scenario.model_validate(analytic_scenario(**OPEN).document() | {"rules": rules})
    assert better_without(make_task(scenario), ("few",), vector(scenario), 10**6) == {"few": True}


@pytest.mark.parametrize("changes", [{}, OPEN])
def test_no_plan_is_better_than_the_optimum_and_one_is_better_than_anything_worse(
    analytic_scenario: Build, changes: dict[str, Any]
) -> None:
    scenario = analytic_scenario(**changes)
    task, optimum = make_task(scenario), vector(scenario)
    assert better_plan(task, optimum, 10**6) is not True
    assert better_plan(task, (*optimum[:-1], optimum[-1] + 1), 10**6) is True
    assert better_plan(task, optimum, 0) is None


def test_the_table_is_shaped_by_the_requirements_that_are_named() -> None:
    """Any other constraint can be left out of a task without making its candidates anew."""
    assert {"coverage", "tensor_parallel_within", "all_to_all_within"} == SHAPES_TABLE
