"""Solved, written, read, verified, compared and explained: the two roles through every verb."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

import autopar
from autopar.catalog import load_plan, load_scenario
from autopar.errors import SpecError
from autopar.pairs import explicit_parts, explicit_plan
from autopar.problem import DisaggregatedPlan, Plan
from autopar.report import json as documents
from autopar.report import text, words
from autopar.results import Solution
from autopar.specs import PlanSpec, RuleSpec, Scenario

Build = Callable[..., Scenario]


@pytest.fixture(scope="module")
def solution(pair_scenario: Build) -> Solution:
    return autopar.solve(pair_scenario(num_layers=3, num_nodes=3))


@pytest.fixture(scope="module")
def document(solution: Solution) -> dict[str, Any]:
    return json.loads(documents.dump(documents.solution_document(solution)))


def printed(print_it: Callable[..., None], *args: Any) -> str:
    console = Console(width=80, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        print_it(console, *args)
    output = captured.get()
    assert max(len(line) for line in output.splitlines()) <= 80
    return " ".join(output.split())


def test_the_answer_has_two_layouts_and_the_metrics_of_both(solution: Solution) -> None:
    assert solution.status == "optimal"
    plan, metrics = solution.plan, solution.metrics
    assert isinstance(plan, DisaggregatedPlan)
    assert metrics is not None
    prefill, decode = solution.roles["prefill"], solution.roles["decode"]
    assert plan.load is not None
    requests_per_s = min(prefill.tokens_per_s * plan.load / 100 / 40, decode.tokens_per_s / 8)
    assert metrics.tokens_per_s == pytest.approx(requests_per_s * 9)
    assert metrics.tokens_per_s_per_gpu == pytest.approx(metrics.tokens_per_s / plan.num_gpus)
    assert metrics.ttft_us is not None
    assert prefill.ttft_us is not None
    assert metrics.ttft_us > prefill.ttft_us
    assert metrics.tpot_us == decode.tpot_us
    stay_s = (metrics.ttft_us + 8 * metrics.tpot_us) * 1e-6
    assert metrics.concurrency == round(requests_per_s * stay_s)
    assert metrics.peak_memory_bytes == max(prefill.peak_memory_bytes, decode.peak_memory_bytes)
    assert any("TTFT of a disaggregated service" in note for note in solution.notes)
    assert any(f"the wait for prefill at {plan.load} %" in note for note in solution.notes)


def test_the_document_is_a_plan_file_and_a_scenario(
    solution: Solution, document: dict[str, Any]
) -> None:
    assert (document["kind"], document["degrees"]) == ("plan", None)
    assert document["stages"] == document["replicas"] == document["placement"] == []
    assert document["num_gpus"] + document["idle_gpus"] == 6
    for role in ("prefill", "decode"):
        part = document["roles"][role]
        assert part["degrees"].keys() == set(words.DEGREES)
        assert part["batch"] >= 1
        assert part["metrics"]["tokens_per_s"] > 0
    assert load_scenario(document["spec"]) == solution.scenario
    report = autopar.verify(solution.scenario, load_plan(document))
    assert report.violations == ()
    assert report.metrics == solution.metrics
    assert report.roles == solution.roles


def test_a_file_gives_the_plan_back(solution: Solution) -> None:
    assert solution.plan is not None
    parts = explicit_parts(solution.plan)
    again = explicit_plan(PlanSpec.model_validate(parts), solution.scenario)
    assert explicit_parts(again) == parts


def test_the_text_tells_one_role_after_the_other(solution: Solution) -> None:
    said = printed(text.print_solution, solution)
    assert isinstance(solution.plan, DisaggregatedPlan)
    for role, plan in solution.plan.roles.items():
        assert f"{role}: {words.layout(plan)}" in said
        assert words.batch(plan) in said
    assert "both prefill decode" in said
    assert "proven optimal" in said


def test_a_batch_that_was_found_is_told_for_one_layout_too(pair_scenario: Build) -> None:
    scenario = pair_scenario(work={"phase": "decode"})
    solution = autopar.solve(scenario)
    assert isinstance(solution.plan, Plan)
    line = f"batch: {words.plural(solution.plan.batch, 'sequence')} per attention group"
    assert line in printed(text.print_solution, solution)


def test_plans_with_roles_are_compared_and_held_to_the_bounds(
    solution: Solution, document: dict[str, Any]
) -> None:
    by_hand = {
        "name": "by-hand", "llm": "m",
        "roles": {
            "prefill": {"degrees": {"replicas": 1}, "batch": 1},
            "decode": {"degrees": {"replicas": 2}, "batch": 1},
        },
    }  # fmt: skip
    comparison = autopar.compare(
        solution.scenario, [load_plan(by_hand), load_plan(document | {"name": "again"})]
    )
    hand, again, own = comparison.plans
    assert hand.report.ok
    assert isinstance(hand.plan, DisaggregatedPlan)
    assert hand.plan.decode.gpus == (((1,),), ((2,),))
    assert again.gaps == own.gaps
    assert own.gaps["throughput"] == 0.0
    assert hand.gaps["throughput"] is not None
    assert hand.gaps["throughput"] >= 0.0
    assert words.layout(hand.plan) == "prefill TP1 x PP1 + decode TP1 x PP1 x replicas 2"
    assert "gap, throughput" in printed(text.print_comparison, comparison)
    plans = documents.comparison_document(comparison)["plans"]
    assert plans[0]["roles"]["decode"]["num_gpus"] == 2


@pytest.mark.parametrize(
    ("limits", "clash"),
    [
        ({"max_ttft_us": 1.0}, {"ttft"}),
        ({"max_tpot_us": 1.0}, {"tpot"}),
        ({"min_tokens_per_s": 1e9}, {"throughput"}),
    ],
)
def test_an_impossible_limit_is_blamed_and_repaired(
    pair_scenario: Build, limits: dict[str, float], clash: set[str]
) -> None:
    scenario = pair_scenario(requirements=limits)
    solution = autopar.solve(scenario)
    assert (solution.status, solution.plan, solution.roles) == ("infeasible", None, {})
    assert set(solution.conflict) == clash
    document = documents.solution_document(solution)
    assert (document["kind"], document["degrees"]) == ("answer", None)
    changes = dict(c.split("=") for c in solution.repairs[0].change.split(" --set "))
    fixed = scenario.requirements.model_copy(
        update={key.removeprefix("requirements."): float(v) for key, v in changes.items()}
    )
    assert autopar.solve(scenario.model_copy(update={"requirements": fixed})).plan is not None


def test_two_limits_that_only_clash_together_are_both_blamed(pair_scenario: Build) -> None:
    """Fast answers need small batches, so that the rate is out of reach; either alone is not."""
    alone = autopar.solve(pair_scenario(work={"max_batch_sequences": 64}))
    fast = autopar.solve(
        pair_scenario(work={"max_batch_sequences": 64}, objectives=["tpot", "throughput"])
    )
    assert alone.metrics is not None
    assert fast.metrics is not None
    assert fast.metrics.tpot_us is not None
    limits = {
        "max_tpot_us": fast.metrics.tpot_us * 1.01,
        "min_tokens_per_s": alone.metrics.tokens_per_s * 0.999,
    }
    both = autopar.solve(pair_scenario(work={"max_batch_sequences": 64}, requirements=limits))
    assert both.status == "infeasible"
    assert set(both.conflict) == {"tpot", "throughput"}


def test_one_gpu_is_too_few(pair_scenario: Build) -> None:
    solution = autopar.solve(pair_scenario(num_nodes=1, gpus_per_node=1))
    assert solution.status == "infeasible"
    assert any("GPU of its own" in note for note in solution.notes)


def test_what_binds_is_told(pair_scenario: Build) -> None:
    free = autopar.solve(pair_scenario(work={"max_batch_sequences": 64}), diagnose=False)
    assert free.metrics is not None
    assert free.metrics.tpot_us is not None
    limits = {"max_tpot_us": free.metrics.tpot_us * 0.9, "max_ttft_us": 1e6}
    explanation = autopar.explain(
        pair_scenario(work={"max_batch_sequences": 64}, requirements=limits)
    )
    assert explanation.binding == ("tpot",)
    assert set(explanation.because) == {"tpot"}


@pytest.mark.parametrize(
    ("rules", "binds"),
    [
        (["tp == etp", "pp <= 4"], []),  # asked about together once
        (["tp <= 1", "replicas >= 1", "pp <= 1", "batch <= 3"], ["r3"]),
        (["batch <= 1", "batch <= 2", "pp <= 4"], ["r0"]),
        (["batch <= 1", "batch < 2", "tp >= 1"], []),  # better without both, not without one
    ],
)
def test_rules_that_are_asked_about_together_bind_as_each_alone(
    pair_scenario: Build, rules: list[str], binds: list[str]
) -> None:
    free = pair_scenario(work={"max_batch_sequences": 16}, rules=rules)

    def values(*chosen: RuleSpec) -> tuple[float, ...]:
        solution = autopar.solve(free.model_copy(update={"rules": chosen}), diagnose=False)
        return tuple(objective.value for objective in solution.objectives)

    alone = [
        rule.name
        for rule in free.rules
        if values(*(other for other in free.rules if other is not rule)) != values(*free.rules)
    ]
    found = autopar.solve(free).binding
    assert found is not None
    assert [name for name in found if name.startswith("r")] == alone == binds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roles": {"prefill": {"degrees": {}, "batch": 1}}}, "decode"),
        ({"degrees": {"tp": 2}}, "states degrees for each role"),
        ({"batch": 2}, "states batch for each role"),
    ],
)
def test_a_plan_file_has_both_roles_and_nothing_beside_them(
    document: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        load_plan(document | changes)


def test_roles_and_workload_must_agree(pair_scenario: Build, document: dict[str, Any]) -> None:
    serving = pair_scenario(work={"phase": "serving"}, num_layers=3, num_nodes=3)
    with pytest.raises(SpecError, match="is serving"):
        autopar.verify(serving, load_plan(document))
    one = PlanSpec.model_validate({"name": "p", "llm": "m", "degrees": {}, "batch": 1})
    with pytest.raises(SpecError, match="roles: missing"):
        autopar.verify(pair_scenario(), one)


def test_a_plug_in_holds_for_each_role(pair_scenario: Build) -> None:
    class Shallow:
        name = "shallow"

        def post(self, model: Any, variables: Any, problem: Any) -> None:
            model.add(variables.pp == 1)

        def check(self, plan: Plan, problem: Any) -> Any:
            if plan.pp > 1:
                yield f"{plan.pp} stages"

    scenario = pair_scenario(num_layers=3, num_nodes=3, objectives=["ttft", "throughput"])
    solution = autopar.solve(scenario, plugins=[Shallow()])
    assert isinstance(solution.plan, DisaggregatedPlan)
    assert (solution.plan.prefill.pp, solution.plan.decode.pp) == (1, 1)
    deep = replace(solution.plan, decode=replace(solution.plan.decode, pp=2))
    report = autopar.verify(scenario, deep, plugins=[Shallow()])
    assert "shallow" in {v.kind for v in report.violations}
