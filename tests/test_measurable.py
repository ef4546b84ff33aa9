"""Operations are named with the size that they have in a plan's steps."""

from collections.abc import Callable

import pytest

from autopar.api import solve
from autopar.catalog import load_scenario
from autopar.layouts import candidate_of
from autopar.measurable import operations
from autopar.problem import Plan
from autopar.specs import CostFactors, Scenario
from autopar.specs.change import changed
from autopar.variables import Choice

Build = Callable[..., Scenario]


def said(scenario: Scenario, kind: str) -> str:
    plan = solve(scenario, diagnose=False).require_plan()
    assert isinstance(plan, Plan)
    rival = Choice(0, candidate_of(plan, one_grid_per_layer=False), (scenario.llm.num_layers,))
    (words,) = operations(scenario, plan, rival, kind)
    return words


def ruled(build: Build, rule: str, *, num_experts: int = 0) -> Scenario:
    scenario = build(num_nodes=1, batch=48, sequence_tokens=20, num_experts=num_experts)
    named = {"name": "shape", "require": rule, "because": "the test asks for it"}
    return changed(scenario, "rules", [named])


def test_an_all_reduce_has_the_tokens_of_a_step(analytic_scenario: Build) -> None:
    """48 sequences, 1,000 wide, 2 bytes each: 96 kB over the 4 GPUs of TP4."""
    assert said(ruled(analytic_scenario, "tp == 4"), "all_reduce") == (
        "all-reduce of 96.0 kB over 4 GPUs"
    )


def test_a_pipeline_sends_a_micro_batch(analytic_scenario: Build) -> None:
    """48 sequences in 4 micro-batches of 12: 24 kB."""
    assert said(ruled(analytic_scenario, "pp == 4"), "point_to_point") == (
        "a message of 24.0 kB from stage to stage"
    )


def test_experts_have_their_share_of_the_tokens(analytic_scenario: Build) -> None:
    """48 tokens choose 2 of 6 experts, which lie on 3 GPUs, 2 each: 16 tokens for each expert."""
    scenario = ruled(analytic_scenario, "ep == 3", num_experts=6)
    assert said(scenario, "experts") == "grouped products of 2 experts on one GPU, 16 tokens each"


def test_attention_has_its_context(analytic_scenario: Build) -> None:
    assert said(ruled(analytic_scenario, "tp == 4"), "attention") == (
        "attention of 48 running sequences with 20 tokens of context, TP4"
    )


def test_every_kind_of_cost_has_a_name(analytic_scenario: Build) -> None:
    """Also where no layout has it: neither plan nor rival."""
    scenario = ruled(analytic_scenario, "tp == 1 and pp == 1")
    assert all(said(scenario, kind) for kind in CostFactors.model_fields)
    assert said(scenario, "all_reduce") == "all-reduce"


def test_a_group_over_the_fabric_has_an_operation_of_its_own(analytic_scenario: Build) -> None:
    """4 GPUs on nodes of 2 cross the fabric; nothing is left inside."""
    scenario = changed(ruled(analytic_scenario, "tp == 4"), "cluster.gpus_per_domain", 2)
    scenario = changed(changed(scenario, "cluster.num_nodes", 2), "cluster.gpus_per_node", 2)
    assert said(scenario, "fabric_collectives") == "all-reduce of 96.0 kB over 4 GPUs in 2 domains"
    assert said(scenario, "all_reduce") == "all-reduce"


@pytest.mark.parametrize(
    ("overrides", "gemm", "attention"),
    [
        (["workload.input_tokens=64"], "{n} rows,", "attention of {n} running sequences with"),
        (["workload.input_tokens=32768"], "of prompts,", "attention of {n} running sequences"),
        (
            ["workload.input_tokens=64", "recipe.objectives=[ttft]"],
            "of prompts,",
            "attention of prompts of",
        ),
    ],
)
def test_the_step_that_decides_on_the_objective_is_named(
    overrides: list[str], gemm: str, attention: str
) -> None:
    """Answers take most steps; products of long prompts most of the time, as all to a first token.

    Attention of running sequences to long contexts takes longer than that of their prompts.
    """
    parts = {"llm": "llama-3.1-8b", "cluster": "1xhgx-h100", "workload": "chat-4k-1k"}
    limits = ["requirements.max_tpot_us=30ms", *overrides]
    scenario = load_scenario(None, parts=parts, overrides=limits)
    count = solve(scenario, diagnose=False).require_plan().batch
    assert gemm.format(n=count) in said(scenario, "gemm")
    assert attention.format(n=count) in said(scenario, "attention")
