"""What an engine cannot start is said, with the nearest plan that it can and what that costs."""

from dataclasses import replace
from types import ModuleType

import pytest

from autopar.api import solve, verify
from autopar.catalog import load_plan, load_scenario
from autopar.errors import InexpressibleError
from autopar.export.exporting import completed, export, written
from autopar.export.nearest import Nearest, Search, Unfound, nearest
from autopar.export.options import ENGINES, Options
from autopar.pairs import explicit_plan
from autopar.problem import AnyPlan, Plan
from autopar.report.export import nearest_words
from autopar.specs import Scenario


def scenario_of(llm: str, cluster: str, *overrides: str) -> Scenario:
    parts = {"llm": llm, "cluster": cluster, "workload": "chat-1k-256"}
    return load_scenario(parts=parts, overrides=overrides)


def laid(scenario: Scenario, degrees: dict[str, int], **more: int) -> AnyPlan:
    document = {
        "schema": 1, "kind": "plan", "name": "laid", "llm": scenario.llm.name, "degrees": degrees,
    }  # fmt: skip
    return explicit_plan(load_plan(document | more), scenario)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_hand_written_plan_has_two_grids_per_stage(engine: str) -> None:
    scenario = load_scenario("moe-16x16-512gpu")
    plan = explicit_plan(load_plan("ep16-tp2-pp8"), scenario)
    options = completed(Options(engine=engine), scenario)
    with pytest.raises(InexpressibleError, match="spread is 2"):
        export(scenario, plan, engine, options)
    found = nearest(scenario, plan, options)
    assert isinstance(found, Nearest)
    assert verify(found.scenario, found.plan).ok
    export(found.scenario, found.plan, engine, options)
    assert found.lost == pytest.approx(0.0)  # the declared costs know no difference
    words = nearest_words(found, options.engine)
    assert "at the same throughput" in words
    if engine in ("vllm", "sglang"):  # no EP x ETP of 32 GPUs that the engine takes
        assert "coverage partition for every_gpu" in words


def test_what_the_nearest_plan_costs_is_measured_by_the_same_costs() -> None:
    """EP4 x ETP2 on 8 GPUs, which vLLM has no words for: it has EP8 or ETP8."""
    scenario = scenario_of("mixtral-8x7b", "1xhgx-h100")
    plan = laid(scenario, {"tp": 8, "ep": 4, "etp": 2}, batch=64)
    options = completed(Options(engine="vllm"), scenario)
    with pytest.raises(InexpressibleError, match="vllm_expert_grid"):
        export(scenario, plan, "vllm", options)
    found = nearest(scenario, plan, options)
    assert isinstance(found, Nearest)
    assert found.before is not None
    assert found.after.tokens_per_s == pytest.approx(
        solve(found.scenario, diagnose=False).objectives[0].value, rel=1e-3
    )
    assert found.lost == pytest.approx(1 - found.after.tokens_per_s / found.before.tokens_per_s)
    assert "of throughput" in nearest_words(found, "vllm")


def test_ranks_on_other_gpus_are_nearer_than_another_layout() -> None:
    """TensorRT-LLM counts expert ranks inside of shards, so that those of a stage of two nodes
    leave the first one and come back."""
    any_memory = "requirements.max_memory_fraction=null"
    scenario = scenario_of("qwen3-30b-a3b", "2xhgx-h100", any_memory)
    plan = laid(scenario, {"tp": 1, "attn_dp": 16, "ep": 8, "etp": 2}, batch=8)
    options = completed(Options(engine="trtllm"), scenario)
    with pytest.raises(InexpressibleError, match="not consecutive"):
        export(scenario, plan, "trtllm", options)
    found = nearest(scenario, plan, options)
    assert isinstance(found, Nearest)
    assert found.changes == ("its ranks on other GPUs",)
    assert isinstance(found.plan, Plan)
    assert isinstance(plan, Plan)
    assert found.plan.stages == plan.stages
    assert sorted(found.plan.gpus[0][0]) == sorted(plan.gpus[0][0])
    assert "the same with its ranks on other GPUs" in nearest_words(found, "trtllm")


def test_uneven_degrees_and_strewn_layers_have_no_words(plans: ModuleType) -> None:
    scenario = load_scenario("mixtral-8x7b-8xh100")
    options = completed(Options(engine="sglang"), scenario)
    plan = laid(scenario, {"pp": 2, "ep": 4, "etp": 1, "tp": 4})
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


def unevenly_loaded() -> tuple[Scenario, Plan]:
    """EP8 whose experts lie by measured counts, in memory that is nearly full."""
    counts = [[1.0 + (expert * 7 + layer) % 100 for expert in range(128)] for layer in range(48)]
    scenario = load_scenario(
        parts={"llm": "qwen3-30b-a3b", "cluster": "1xhgx-h100", "workload": "chat-4k-1k"},
        overrides=[
            f"workload.expert_counts={counts}", "workload.expert_load=measured",
            "rules=[{name: eight, require: ep == 8, because: a test}]",
        ],
    )  # fmt: skip
    plan = solve(scenario, diagnose=False).require_plan()
    assert isinstance(plan, Plan)
    return scenario, plan


@pytest.mark.parametrize("engine", ["vllm", "megatron"])
def test_experts_in_runs_are_nearer_than_another_layout(engine: str) -> None:
    scenario, plan = unevenly_loaded()
    options = completed(Options(engine=engine), scenario)
    with pytest.raises(InexpressibleError, match="experts lie otherwise than in runs"):
        export(scenario, plan, engine, options)
    found = nearest(scenario, plan, options)
    assert isinstance(found, Nearest)
    assert isinstance(found.plan, Plan)
    assert found.plan.stages == plan.stages
    assert found.plan.gpus == plan.gpus
    assert verify(scenario, found.plan).ok
    assert found.lost is not None
    assert 0 < found.lost < 0.5
    words = nearest_words(found, options.engine)
    assert "the same with its experts in runs" in words
    assert "of throughput" in words
    if found.plan.batch < plan.batch:
        assert f"{found.plan.batch} sequences in a batch instead of {plan.batch}" in words
        fuller = replace(found.plan, batch=found.plan.batch + 1)
        assert not verify(scenario, fuller).ok


def test_an_order_of_the_checkpoint_is_written_where_it_is_asked_for() -> None:
    scenario, plan = unevenly_loaded()
    options = completed(Options(engine="vllm", expert_map="checkpoint"), scenario)
    made = export(scenario, plan, "vllm", options)
    assert [file.name for file in made.files] == ["expert-map.json"]
    assert "new_to_old_expert" in made.files[0].text


def test_what_was_searched_in_vain_is_said_with_what_it_proves() -> None:
    scenario = scenario_of("mixtral-8x7b", "1xhgx-h100", "requirements.max_ttft_us=1 us")
    plan = laid(scenario, {"tp": 8, "ep": 4, "etp": 2}, batch=64)
    found = nearest(scenario, plan, completed(Options(engine="vllm"), scenario))
    assert isinstance(found, Unfound)
    assert [search.status for search in found.searches] == ["infeasible"]
    assert "there is none, which is proved" in nearest_words(found, "vllm")
    late = Unfound((Search(("coverage partition for up_to",), "unknown", None, ""),))
    said = nearest_words(late, "sglang")
    assert "giving up coverage partition for up_to: none was found within the solver's" in said
    assert "proves nothing" in said
    refused = Unfound((Search((), "optimal", plan, "why so"),))
    assert "refuses (why so); others were not tried" in nearest_words(refused, "vllm")
    assert "for the same reason" in nearest_words(refused, "vllm", ["why so"])


def test_a_server_of_tensorrt_llm_in_pods_keeps_to_one() -> None:
    scenario = scenario_of("qwen3-30b-a3b", "2xhgx-h100")
    plan = laid(scenario, {"tp": 1, "attn_dp": 16, "ep": 16, "etp": 1}, batch=8)
    options = completed(Options(engine="trtllm"), scenario)
    assert export(scenario, plan, "trtllm", options).launches[0].argv[0] == "mpirun"
    with pytest.raises(InexpressibleError, match="MPIJob"):
        export(scenario, plan, "lws", options)
    found = nearest(scenario, plan, options, target="lws")
    assert isinstance(found, Nearest)
    assert isinstance(found.plan, Plan)
    assert found.plan.pp * found.plan.stages[0].num_gpus <= 8
    export(scenario, found.plan, "lws", replace(options, image="an/image:1"))
