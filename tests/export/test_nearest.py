"""What an engine cannot start is said, with the nearest plan that it can and what that costs."""

from dataclasses import replace
from types import ModuleType

import pytest

from autopar.api import solve, verify
from autopar.catalog import load_plan, load_scenario
from autopar.errors import InexpressibleError
from autopar.export.exporting import completed, export, written
from autopar.export.nearest import nearest
from autopar.export.options import ENGINES, Options
from autopar.pairs import explicit_plan
from autopar.problem import Plan
from autopar.report.export import nearest_words


@pytest.mark.parametrize("engine", ENGINES)
def test_the_hand_written_plan_has_two_grids_per_stage(engine: str) -> None:
    scenario = load_scenario("moe-16x16-512gpu")
    plan = explicit_plan(load_plan("ep16-tp2-pp8"), scenario)
    options = completed(Options(engine=engine), scenario)
    with pytest.raises(InexpressibleError, match="spread is 2"):
        export(scenario, plan, engine, options)
    found = nearest(scenario, plan, options)
    assert found is not None
    assert verify(found.scenario, found.plan).ok
    export(found.scenario, found.plan, engine, options)
    assert found.lost == pytest.approx(0.0)  # the declared costs know no difference
    words = nearest_words(found, options.engine)
    assert "at the same throughput" in words
    if engine in ("vllm", "sglang"):  # no EP x ETP of 32 GPUs that the engine takes
        assert "coverage partition for every_gpu" in words


def test_what_the_nearest_plan_costs_is_measured_by_the_same_costs() -> None:
    """EP4 x ETP2 on 8 GPUs, which vLLM has no words for: it has EP8 or ETP8."""
    scenario = load_scenario(
        parts={"llm": "mixtral-8x7b", "cluster": "1xhgx-h100", "workload": "chat-1k-256"}
    )
    document = {
        "schema": 1, "kind": "plan", "name": "mixed", "llm": "mixtral-8x7b", "batch": 64,
        "degrees": {"tp": 8, "ep": 4, "etp": 2},
    }  # fmt: skip
    plan = explicit_plan(load_plan(document), scenario)
    options = completed(Options(engine="vllm"), scenario)
    with pytest.raises(InexpressibleError, match="vllm_expert_grid"):
        export(scenario, plan, "vllm", options)
    found = nearest(scenario, plan, options)
    assert found is not None
    assert found.before is not None
    assert found.after.tokens_per_s == pytest.approx(
        solve(found.scenario, diagnose=False).objectives[0].value, rel=1e-3
    )
    assert found.lost == pytest.approx(1 - found.after.tokens_per_s / found.before.tokens_per_s)
    assert "of throughput" in nearest_words(found, "vllm")


def test_ranks_on_other_gpus_are_nearer_than_another_layout() -> None:
    """TensorRT-LLM counts expert ranks inside of shards, so that those of a stage of two nodes
    leave the first one and come back."""
    scenario = load_scenario(
        parts={"llm": "qwen3-30b-a3b", "cluster": "2xhgx-h100", "workload": "chat-1k-256"},
        overrides=["requirements.max_memory_fraction=null"],
    )
    document = {
        "schema": 1, "kind": "plan", "name": "two-nodes", "llm": "qwen3-30b-a3b", "batch": 8,
        "degrees": {"tp": 1, "attn_dp": 16, "ep": 8, "etp": 2},
    }  # fmt: skip
    plan = explicit_plan(load_plan(document), scenario)
    options = completed(Options(engine="trtllm"), scenario)
    with pytest.raises(InexpressibleError, match="not consecutive"):
        export(scenario, plan, "trtllm", options)
    found = nearest(scenario, plan, options)
    assert found is not None
    assert found.moved
    assert isinstance(found.plan, Plan)
    assert isinstance(plan, Plan)
    assert found.plan.stages == plan.stages
    assert sorted(found.plan.gpus[0][0]) == sorted(plan.gpus[0][0])
    assert "the same with its ranks on other GPUs" in nearest_words(found, "trtllm")


def test_uneven_degrees_and_strewn_layers_have_no_words(plans: ModuleType) -> None:
    scenario = load_scenario("mixtral-8x7b-8xh100")
    options = completed(Options(engine="sglang"), scenario)
    document = {
        "schema": 1, "kind": "plan", "name": "odd", "llm": "mixtral-8x7b",
        "degrees": {"pp": 2, "ep": 4, "etp": 1, "tp": 4},
    }  # fmt: skip
    plan = explicit_plan(load_plan(document), scenario)
    assert isinstance(plan, Plan)
    first, second = plan.stages
    uneven = replace(plan, stages=(first, replace(second, tp=2, attn_dp=2)))
    with pytest.raises(InexpressibleError, match=r"tp differs between stages \(2, 4\)"):
        export(scenario, uneven, "sglang", options)
    strewn = replace(
        plan,
        stages=(
            replace(first, layers=(*first.layers[:-1], second.layers[0])),
            replace(second, layers=(first.layers[-1], *second.layers[1:])),
        ),
    )
    with pytest.raises(InexpressibleError, match="one after another"):
        export(scenario, strewn, "sglang", options)


def test_context_parallelism_has_words_in_some(plans: ModuleType) -> None:
    drawn = next(d for d in (plans.draw(seed, "sglang") for seed in range(200))
                 if d is not None
                 and (d[1].stages[0].attn_dp, d[1].stages[0].ep) == (2, 1))  # fmt: skip
    (layout,) = plans.layouts(*drawn)
    cut = replace(layout, cp=2, attn_dp=1)
    words = written([cut], "sglang", completed(Options(engine="sglang"), drawn[0])).launches[0].argv
    assert words[words.index("--attn-cp-size") + 1] == "2"
    assert "--enable-prefill-cp" in words
    with pytest.raises(InexpressibleError, match="cp is 2"):
        written([cut], "vllm", completed(Options(engine="vllm"), drawn[0]))
    config = written([cut], "trtllm", completed(Options(engine="trtllm"), drawn[0])).files[-1].text
    assert "HELIX" in config
