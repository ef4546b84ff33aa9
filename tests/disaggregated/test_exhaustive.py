"""The pair that is solved is the best of all pairs: every layout, batch, count and split."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from autopar.disaggregated.layout import unfold_pair
from autopar.disaggregated.program import PairProgram, optimise_pair
from autopar.disaggregated.search import prepare_pair
from autopar.disaggregated.task import PairTask, make_pair
from autopar.lexicographic import run
from autopar.specs import Scenario
from autopar.variables import PairChoice

ORDERS = (
    ("throughput", "ttft", "tpot", "traffic", "memory"),
    ("throughput", "gpus", "ttft"),
    ("throughput_per_gpu", "ttft", "tpot", "memory"),
    ("cost", "throughput", "tpot"),
    ("gpus", "throughput", "ttft"),
    ("ttft", "tpot", "throughput"),
    ("tpot", "throughput", "memory"),
    ("memory", "throughput", "traffic"),
    ("traffic", "throughput"),
)
Build = Callable[..., Scenario]
Best = Callable[[PairTask], tuple[float, ...] | None]

RULES = ("tp == etp", "pp <= 1", "replicas >= 2", "gpus_used <= 2", "layers_per_stage % 2 == 0")

# About both roles: on degrees alone, with sizes of layers, and on how the layers are cut.
PAIR_RULES = (
    "prefill.tp == decode.tp",
    "prefill.tp != decode.tp",
    "prefill.tp <= decode.tp or prefill.tp <= kv_heads / 2",
    "prefill.tp * decode.cp > 1 and decode.tp % prefill.tp == 0",
    "prefill.gpus * prefill.pp + decode.gpus * decode.pp == 3",
    "decode.pp == 1 or same_stages",
    "same_stages",
    "same_stages and decode.pp > 1",
    "not same_stages",
    "prefill.pp > 1 and decode.pp > 1 and not same_stages",
    "prefill.pp > 2 * num_heads",
)


def solved(scenario: Scenario) -> tuple[PairTask, Any]:
    task = make_pair(scenario)
    return task, optimise_pair(task, prepare_pair(task))


def agrees(scenario: Scenario, best: Best) -> None:
    """Assert that search and exhaustive search tell the same of a scenario."""
    task, outcome = solved(scenario)
    expected = best(task)
    if expected is None:
        assert outcome.status == "infeasible"
        return
    assert outcome.status == "optimal"
    assert outcome.bounds == outcome.vector
    assert task.oriented(outcome.vector) == pytest.approx(expected, rel=1e-12, abs=1)
    assert isinstance(outcome.choice, PairChoice)
    plan = unfold_pair(task, outcome.choice)
    for constraint in task.pair:
        assert list(constraint.check(plan, task.problems)) == []
    for role, one in zip(task.roles, (plan.prefill, plan.decode), strict=True):
        for constraint in role.constraints:
            assert list(constraint.check(one, role.problem)) == []


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    """Of the fixture `pair_scenario`; limits that bind, and some that nothing meets."""
    limits: dict[str, Any] = {
        "coverage": draw(st.sampled_from(["up_to", "up_to", "every_gpu"])),
        "tensor_parallel_within": draw(st.sampled_from(["node", "domain", "cluster"])),
        "all_to_all_within": draw(st.sampled_from(["node", "cluster"])),
        "max_context_parallel_size": draw(st.integers(1, 2)),
    }
    if draw(st.booleans()):
        limits["max_ttft_us"] = draw(st.sampled_from([250.0, 320.0, 500.0, 1_000.0]))
    if draw(st.booleans()):
        limits["max_prefill_load"] = draw(st.sampled_from([0.3, 0.8, 0.99]))
    if draw(st.booleans()):
        limits["max_tpot_us"] = draw(st.sampled_from([75.0, 100.0, 150.0, 300.0]))
    if draw(st.integers(0, 2)) == 0:
        limits["min_tokens_per_s"] = draw(st.sampled_from([1e3, 5e3, 2e4]))
    if draw(st.integers(0, 3)) == 0:
        limits["min_tokens_per_s_per_gpu"] = draw(st.sampled_from([1e3, 5e3, 2e4]))
    return {
        "num_layers": draw(st.integers(1, 3)),
        "num_experts": draw(st.sampled_from([0, 0, 2])),
        "num_nodes": draw(st.integers(1, 3)),
        "gpus_per_node": draw(st.integers(1, 3)),
        "nodes_per_domain": draw(st.integers(1, 2)),
        "memory_bytes": draw(st.sampled_from([4.1694e9, 4.17e9, 4e10, 4e10])),
        "objectives": draw(st.sampled_from(ORDERS)),
        "work": {
            "output_tokens": draw(st.sampled_from([1, 2, 9, 200])),
            "prefill_chunk_tokens": draw(st.sampled_from([20, 64, 100])),
            "max_batch_sequences": draw(st.integers(1, 4)),
        },
        "requirements": limits,
        "uneven": draw(st.booleans()),
        "rules": draw(st.lists(st.sampled_from(RULES), max_size=1)),
    }


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(arguments())
def test_the_pair_is_the_best_of_all(
    pair_scenario: Build, best_pair: Best, arguments: dict[str, Any]
) -> None:
    agrees(pair_scenario(**arguments), best_pair)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    arguments=arguments(),
    rules=st.lists(st.sampled_from(PAIR_RULES), unique=True, min_size=1, max_size=2),
)
def test_the_pair_is_the_best_of_all_that_rules_about_both_roles_allow(
    pair_scenario: Build, best_pair: Best, arguments: dict[str, Any], rules: list[str]
) -> None:
    agrees(pair_scenario(**arguments | {"rules": [*arguments["rules"], *rules]}), best_pair)


@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(arguments())
def test_where_nothing_is_left_to_choose_cp_sat_finds_the_same_pair_and_no_other(
    pair_scenario: Build, arguments: dict[str, Any]
) -> None:
    """The search answers alone where one pair is left: CP-SAT would only say so again."""
    task = make_pair(pair_scenario(**arguments))
    prepared = prepare_pair(task)
    if prepared.vector is None:
        return
    closed = optimise_pair(task, prepared, uniqueness=True)
    if closed.deterministic_time > 0:  # CP-SAT was asked
        event("asked")
        return
    event("closed")
    asked = run(PairProgram(task, prepared), report=None, uniqueness=True)
    assert (asked.status, asked.vector, asked.bounds) == (
        closed.status, closed.vector, closed.bounds
    )  # fmt: skip
    assert asked.choice == closed.choice
    assert asked.uniqueness is not None
    assert closed.uniqueness is not None
    assert (asked.uniqueness.unique, closed.uniqueness.unique) == (True, True)


@pytest.mark.parametrize("rule", PAIR_RULES)
@pytest.mark.parametrize("objectives", [ORDERS[0], ORDERS[3], ORDERS[5]], ids="-".join)
def test_each_rule_about_both_roles_has_its_own_best_pair(
    pair_scenario: Build, best_pair: Best, rule: str, objectives: tuple[str, ...]
) -> None:
    """On 6 GPUs in nodes of 2, with layers enough for two stages to be cut in two ways."""
    scenario = pair_scenario(num_layers=3, num_nodes=3, objectives=objectives, rules=[rule])
    agrees(scenario, best_pair)


@pytest.mark.parametrize("objectives", ORDERS, ids="-".join)
def test_every_order_of_objectives_has_its_own_best_pair(
    pair_scenario: Build, best_pair: Best, objectives: tuple[str, ...]
) -> None:
    requirements = {"max_ttft_us": 800.0, "min_tokens_per_s": 4_000.0}
    agrees(
        pair_scenario(num_layers=3, num_nodes=3, objectives=objectives, requirements=requirements),
        best_pair,
    )


def test_experts_and_confined_groups_are_searched_too(
    pair_scenario: Build, best_pair: Best
) -> None:
    limits = {"tensor_parallel_within": "node", "all_to_all_within": "node"}
    agrees(
        pair_scenario(num_experts=2, num_nodes=2, gpus_per_node=3, requirements=limits), best_pair
    )


def test_what_is_equal_in_gpus_is_not_climbed_token_by_token(
    pair_scenario: Build, best_pair: Best
) -> None:
    """A Hypothesis find: from a slow pair on all GPUs, CP-SAT raised the rate in steps of 1."""
    agrees(
        pair_scenario(
            num_nodes=3,
            gpus_per_node=3,
            objectives=("gpus", "throughput", "ttft"),
            work={"prefill_chunk_tokens": 100, "max_batch_sequences": 2},
            requirements={"coverage": "every_gpu", "max_context_parallel_size": 2},
        ),
        best_pair,
    )
