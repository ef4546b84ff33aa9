"""Every corruption of a plan with two roles is caught and named."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

import autopar
from autopar.catalog import load_plan
from autopar.disaggregated.task import make_pair
from autopar.problem import DisaggregatedPlan
from autopar.report.json import solution_document
from autopar.results import Solution
from autopar.specs import Scenario
from autopar.verifier.roles import handover_us, queue, verify_pair

Build = Callable[..., Scenario]
Document = dict[str, Any]


@pytest.fixture(scope="module")
def solution(pair_scenario: Build) -> Solution:
    return autopar.solve(pair_scenario(num_layers=3, num_nodes=3, num_experts=2), diagnose=False)


def kinds(scenario: Scenario, document: Document) -> set[str]:
    return {v.kind for v in autopar.verify(scenario, load_plan(document)).violations}


def corrupted(solution: Solution, change: Callable[[Document], None]) -> Document:
    document = deepcopy(solution_document(solution))
    change(document)
    return document


def share_a_gpu(document: Document) -> None:
    decode = document["roles"]["decode"]
    decode["stages"][0]["gpus"][0] = 0
    decode.pop("placement")


def double_a_replica(document: Document) -> None:
    decode = document["roles"]["decode"]
    decode["degrees"]["replicas"] += 1
    decode["replicas"].append({**decode["replicas"][0], "index": len(decode["replicas"])})


def lose_a_layer(document: Document) -> None:
    document["roles"]["prefill"]["stages"][0]["layers"].pop()


def falsify(*path: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        *parents, last = path
        for key in parents:
            document = document[key]
        document[last] = document[last] * 1.01 + 1

    return change


def another_load(document: Document) -> None:
    document["prefill_load_percent"] -= 1


def another_batch(document: Document) -> None:
    document["roles"]["decode"]["batch"] += 1


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (share_a_gpu, "GPU in two roles"),
        (double_a_replica, "GPU in two replicas"),
        (lose_a_layer, "layer lost"),
        (falsify("metrics", "tokens_per_s"), "falsified metric"),
        (falsify("metrics", "ttft_ms"), "falsified metric"),
        (falsify("roles", "prefill", "metrics", "ttft_ms"), "falsified metric"),
        (falsify("roles", "decode", "metrics", "peak_memory_bytes"), "falsified metric"),
        (falsify("num_gpus"), "falsified metric"),
        (falsify("objective", "value"), "falsified metric"),
        (another_batch, "falsified metric"),
        (another_load, "falsified metric"),
    ],
)
def test_a_corruption_is_named(
    solution: Solution, change: Callable[[Document], None], kind: str
) -> None:
    document = corrupted(solution, change)
    if isinstance(document["num_gpus"], float):
        document["num_gpus"] = int(document["num_gpus"])
    assert kind in kinds(solution.scenario, document)


def test_the_solved_plan_itself_has_none(solution: Solution) -> None:
    assert kinds(solution.scenario, corrupted(solution, lambda _: None)) == set()


def test_violations_say_in_which_role_they_are(solution: Solution) -> None:
    report = autopar.verify(solution.scenario, load_plan(corrupted(solution, lose_a_layer)))
    lost = [v.message for v in report.violations if v.kind == "layer lost"]
    assert lost
    assert all(message.startswith("prefill: ") for message in lost)


def with_limits(scenario: Scenario, **limits: Any) -> Scenario:
    requirements = scenario.requirements.model_copy(update=limits)
    return scenario.model_copy(update={"requirements": requirements})


def test_what_both_answer_for_is_held_against_both(solution: Solution) -> None:
    plan, metrics = solution.plan, solution.metrics
    assert isinstance(plan, DisaggregatedPlan)
    assert metrics is not None
    assert metrics.ttft_us is not None
    prefill_us = solution.roles["prefill"].ttft_us
    assert prefill_us is not None
    between_us = (prefill_us + metrics.ttft_us) / 2  # prefill alone is fast enough
    for limits, kind in (
        ({"max_ttft_us": between_us}, "TTFT over limit"),
        ({"min_tokens_per_s": metrics.tokens_per_s * 1.01}, "throughput under target"),
        (
            {"min_tokens_per_s_per_gpu": metrics.tokens_per_s_per_gpu * 1.01},
            "throughput per GPU under target",
        ),
    ):
        report = verify_pair(with_limits(solution.scenario, **limits), plan)
        assert [v.kind for v in report.violations] == [kind]


def test_no_gpu_of_either_role_may_be_idle_under_every_gpu(solution: Solution) -> None:
    plan = solution.plan
    assert isinstance(plan, DisaggregatedPlan)
    strict = with_limits(solution.scenario, coverage="every_gpu")
    fewer = replace(plan, decode=replace(plan.decode, gpus=plan.decode.gpus[:1], replicas=1))
    idle = [v.kind for v in verify_pair(strict, fewer).violations if v.kind == "idle GPU"]
    assert idle == (["idle GPU"] if fewer.num_gpus < 6 else [])


def test_the_handover_is_that_of_the_cost_tables(solution: Solution) -> None:
    plan = solution.plan
    assert isinstance(plan, DisaggregatedPlan)
    ours = handover_us(solution.scenario, plan)
    problems = make_pair(solution.scenario).problems
    prefill_us = solution.roles["prefill"].ttft_us
    assert prefill_us is not None
    most_per_s = solution.roles["prefill"].tokens_per_s / 40, 1.0
    busy = queue(solution.scenario, plan, most_per_s, prefill_us)
    assert problems.ttft_us(plan) == pytest.approx(busy.wait_us + prefill_us + ours)


def test_a_prompt_waits_as_in_a_queue_of_equal_service_times(solution: Solution) -> None:
    """2 replicas of one group compute 100 requests/s: each takes 20 ms; half busy, 10 ms of wait.

    M/D/1: 0.5 / (2 x 0.5) = 0.5 of the time of service.
    """
    plan = solution.plan
    assert isinstance(plan, DisaggregatedPlan)
    stage = replace(plan.prefill.stages[0], attn_dp=1)
    prefill = replace(plan.prefill, replicas=2, pp=1, stages=(stage,))
    half = queue(solution.scenario, replace(plan, prefill=prefill, load=50), (100.0, 90.0), 0.0)
    assert half.load == 0.5
    assert half.wait_us == pytest.approx(10_000)
    for taken, load in ((60.2, 0.61), (60.0, 0.6), (99.0, 0.95), (0.1, 0.01)):
        found = queue(solution.scenario, replace(plan, prefill=prefill, load=None), (100, taken), 0)
        assert found.load == load


def test_a_plan_that_states_no_load_works_as_much_as_ttft_allows(solution: Solution) -> None:
    """One percent more, and TTFT is over the limit."""
    plan, metrics = solution.plan, solution.metrics
    assert isinstance(plan, DisaggregatedPlan)
    assert metrics is not None
    assert metrics.ttft_us is not None
    open_plan = replace(plan, load=None)
    own, found = (verify_pair(solution.scenario, one) for one in (plan, open_plan))
    assert found.metrics == own.metrics
    limit_us = metrics.ttft_us * 0.8
    strict = with_limits(solution.scenario, max_ttft_us=limit_us)
    report = verify_pair(strict, open_plan)
    assert report.violations == ()
    assert report.metrics is not None
    assert report.metrics.ttft_us is not None
    loads = [verify_pair(strict, replace(plan, load=load)) for load in range(1, 96)]
    fits = [r for r in loads if not r.violations]
    assert report.metrics == fits[-1].metrics
    assert "TTFT over limit" in {v.kind for v in loads[len(fits)].violations}


def test_prefill_may_not_be_busier_than_allowed(solution: Solution) -> None:
    plan = solution.plan
    assert isinstance(plan, DisaggregatedPlan)
    report = verify_pair(solution.scenario, replace(plan, load=96))
    assert [v.kind for v in report.violations] == ["prefill too busy"]
    half = with_limits(solution.scenario, max_prefill_load=0.5)
    assert verify_pair(half, replace(plan, load=50)).violations == ()
    assert not verify_pair(half, replace(plan, load=51)).ok


def test_claims_are_answered_with_what_is_not_done(solution: Solution) -> None:
    document = corrupted(solution, lambda _: None)
    document["claims"] = [{"name": "fast", "metric": "tokens_per_s", "value": 1.0, "unit": ""}]
    (verdict,) = autopar.verify(solution.scenario, load_plan(document)).verdicts
    assert verdict.verdict == "not derivable"
    assert "two roles" in verdict.why
