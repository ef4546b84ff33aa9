"""What an engine cannot start is said, with the nearest plan that it can and what that costs."""

import re
from dataclasses import replace
from types import ModuleType

import pytest

from autopar.api import solve, verify
from autopar.catalog import load_plan, load_scenario
from autopar.errors import InexpressibleError
from autopar.export.closeness import differences, kept_of
from autopar.export.exporting import completed, export, written
from autopar.export.nearest import Figure, Nearest, Search, Unfound, nearest
from autopar.export.options import ENGINES, Engine, Options
from autopar.pairs import explicit_plan
from autopar.problem import AnyPlan, DisaggregatedPlan, Metrics, Plan
from autopar.report.export import nearest_words
from autopar.specs import Scenario


def scenario_of(llm: str, cluster: str, *overrides: str) -> Scenario:
    parts = {"llm": llm, "cluster": cluster, "workload": "chat-1k-256"}
    return load_scenario(parts=parts, overrides=overrides)


def laid(scenario: Scenario, degrees: dict[str, int], **more: int | list[int]) -> AnyPlan:
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
    words = nearest_words(found, options.engine)
    assert "its throughput is the same" in words  # the declared costs know no difference
    if engine in ("vllm", "sglang"):  # no EP x ETP of 32 GPUs that the engine takes
        assert "coverage partition for every_gpu" in words
        assert "worse: memory per GPU 39.1 MB -> 1.25 GB" in words


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
    again = verify(found.scenario, found.plan)
    assert again.ok
    assert again.metrics is not None
    assert found.after.tokens_per_s == again.metrics.tokens_per_s
    figures = {figure.name: figure for figure in found.figures}
    assert figures["throughput"].before == found.before.tokens_per_s
    assert figures["throughput"].after == found.after.tokens_per_s
    hour = scenario.cluster.gpu.usd_per_hour
    assert hour is not None
    assert figures["cost"].after == pytest.approx(
        8 * hour / (found.after.tokens_per_s * 3600 / 1e6)
    )
    worse = [figure.name for figure in found.figures if figure.is_worse]
    costs = nearest_words(found, "vllm").partition("worse: ")[2]
    for name in figures:
        assert (f"{name} " in costs) == (name in worse), name


@pytest.mark.parametrize(
    ("engine", "llm", "degrees"),
    [("vllm", "qwen3-30b-a3b", {"tp": 1, "attn_dp": 2, "ep": 1, "etp": 2}),
     ("megatron", "qwen3-8b", {"tp": 2, "attn_dp": 1, "etp": 2})],
)  # fmt: skip
def test_fewer_replicas_of_the_same_layout_are_nearer_than_another_one(
    engine: Engine, llm: str, degrees: dict[str, int]
) -> None:
    """Five servers of 6 GPUs in four nodes of 8: four lie inside a node each, or fill three."""
    scenario = load_scenario(parts={"llm": llm, "cluster": "4xhgx-h100", "workload": "prefill-8k"})
    plan = laid(scenario, {"replicas": 5, "pp": 3, **degrees})
    options = completed(Options(engine=engine), scenario)
    with pytest.raises(InexpressibleError):
        export(scenario, plan, engine, options)
    found = nearest(scenario, plan, options)
    assert isinstance(found, Nearest)
    assert isinstance(found.plan, Plan)
    assert isinstance(plan, Plan)
    assert (found.plan.replicas, found.plan.stages) == (4, plan.stages)
    assert "4 replicas instead of 5" in nearest_words(found, options.engine)
    assert verify(scenario, found.plan).ok
    export(scenario, found.plan, engine, options)


def test_a_plan_of_as_many_gpus_is_nearer_than_one_of_more() -> None:
    """EP2 x ETP2 on 4 GPUs: EP4 there, and not EP16 on 16 GPUs with more throughput."""
    parts = {"llm": "qwen3-30b-a3b", "cluster": "2xhgx-h100", "workload": "decode-256x4k"}
    scenario = load_scenario(parts=parts)
    plan = laid(scenario, {"replicas": 1, "pp": 1, "tp": 1, "attn_dp": 4, "ep": 2, "etp": 2})
    found = nearest(scenario, plan, completed(Options(engine="vllm"), scenario))
    assert isinstance(found, Nearest)
    assert found.plan.num_gpus == 4
    assert found.kept == "its replicas, its stages, its GPUs"


def test_rules_on_degrees_and_on_the_batch_are_apart() -> None:
    """A rule that names the batch is asked of every batch of every layout: it took 100 s."""
    scenario = scenario_of("mixtral-8x7b", "1xhgx-h100")
    plan = laid(scenario, {"tp": 8, "ep": 4, "etp": 2}, batch=64)
    for kept in kept_of(scenario, plan):
        for rule in kept.rules:
            names = set(re.findall(r"[a-z_]+", rule.text))
            assert "batch" not in names or not names & {"tp", "ep", "etp", "gpus", "cp"}, rule


def test_a_world_of_megatron_fills_its_nodes() -> None:
    """7 replicas of 9 stages are 63 ranks, which no number of nodes has evenly."""
    parts = {"llm": "kimi-k2", "cluster": "8xhgx-h200", "workload": "prefill-8k"}
    scenario = load_scenario(parts=parts)
    degrees = {"replicas": 7, "pp": 9, "tp": 1, "attn_dp": 1, "ep": 1, "etp": 1}
    plan = laid(scenario, degrees, layers_per_stage=[7] * 7 + [6] * 2)
    found = nearest(scenario, plan, completed(Options(engine="megatron"), scenario))
    assert isinstance(found, Nearest)
    assert found.plan.num_gpus % 8 == 0
    export(found.scenario, found.plan, "megatron", completed(Options(engine="megatron"), scenario))


def test_a_plan_of_the_same_stages_is_nearer_than_a_better_one() -> None:
    """EP4 x ETP2 on four groups of 2 GPUs: vLLM has EP8 or ETP8 there, of as many sequences."""
    parts = {"llm": "qwen3-235b-a22b", "cluster": "4xhgx-h100", "workload": "chat-4k-1k"}
    scenario = load_scenario(parts=parts)
    degrees = {"replicas": 2, "pp": 2, "tp": 2, "attn_dp": 4, "ep": 4, "etp": 2}
    plan = laid(scenario, degrees, batch=8)
    assert isinstance(plan, Plan)
    options = completed(Options(engine="vllm"), scenario)
    found = nearest(scenario, plan, options)
    assert isinstance(found, Nearest)
    assert found.kept == "its replicas, its stages, its GPUs and at most its sequences"
    assert isinstance(found.plan, Plan)
    assert (found.plan.replicas, found.plan.pp) == (2, 2)
    assert found.plan.batch * found.plan.stages[0].attn_dp <= 8 * 4
    better = solve(found.scenario, diagnose=False).metrics
    assert better is not None
    assert better.tokens_per_s > 2 * found.after.tokens_per_s
    words = nearest_words(found, "vllm")
    assert f"the best that keeps {found.kept} (" in words
    for change in differences(plan, found.plan):
        assert change in words


def test_differences_name_the_degrees_and_the_batch_of_every_role() -> None:
    scenario = scenario_of("mixtral-8x7b", "1xhgx-h100")
    one = laid(scenario, {"tp": 8, "ep": 8, "etp": 1}, batch=8)
    two = laid(scenario, {"tp": 4, "replicas": 2, "ep": 4, "etp": 1}, batch=16)
    assert differences(one, one) == ()
    assert differences(one, two) == (
        "replicas 1 -> 2", "tp 8 -> 4", "ep 8 -> 4", "batch 8 -> 16", "sequences 8 -> 32",
    )  # fmt: skip
    assert isinstance(one, Plan)
    assert isinstance(two, Plan)
    pair = DisaggregatedPlan("pair", one, two)
    other = DisaggregatedPlan("pair", one, replace(two, batch=4))
    assert differences(pair, other) == ("decode batch 16 -> 4", "decode sequences 32 -> 8")


def test_where_nothing_near_can_be_started_the_best_is_not_called_near() -> None:
    scenario = load_scenario("moe-16x16-512gpu")
    plan = explicit_plan(load_plan("ep16-tp2-pp8"), scenario)
    found = nearest(scenario, plan, completed(Options(engine="vllm"), scenario))
    assert isinstance(found, Nearest)
    assert found.kept == ""
    words = nearest_words(found, "vllm")
    assert "no near plan but the best that vLLM can start is" in words
    assert "replicas 1 -> 32, pp 8 -> 1" in words


def figure(before: float, after: float, gain: int) -> Figure:
    return Figure("n", "us", before, after, gain)


def test_a_figure_is_worse_where_less_of_a_gain_or_more_of_a_price() -> None:
    assert figure(100, 90, 1).is_worse
    assert figure(100, 110, -1).is_worse
    assert not figure(100, 110, 1).is_worse
    assert not figure(100, 90, -1).is_worse
    assert figure(0, 1, -1).is_worse
    for gain in (1, -1):
        assert figure(100, 100.04, gain).is_same
        assert not figure(100, 100.04, gain).is_worse


def test_every_figure_that_is_worse_is_said_with_both_values() -> None:
    scenario = scenario_of("mixtral-8x7b", "1xhgx-h100")
    plan = laid(scenario, {"tp": 8, "ep": 8, "etp": 1}, batch=8)
    smaller = laid(scenario, {"tp": 4, "ep": 4, "etp": 1}, batch=8)
    before = Metrics(100.0, 12.5, 1e6, 4e4, 1, 1.0, 0, 40e9, 1e9, 1e9, 1e9, 1e9)
    after = Metrics(80.0, 20.0, 2e6, 5e4, 1, 1.0, 1, 60e9, 1e9, 1e9, 1e9, 1e9)
    words = nearest_words(Nearest(scenario, smaller, plan, (), (), before, after), "vllm")
    for said in ("throughput 100 tokens/s -> 80 tokens/s (-20 %)", "TTFT 1.00 s -> 2.00 s (+100 %)",
                 "TPOT 40.0 ms -> 50.0 ms (+25 %)", "memory per GPU 40.0 GB -> 60.0 GB (+50 %)",
                 "GPUs used 4 -> 8 (+100 %)", "stage boundaries 0 -> 1 (+1)"):  # fmt: skip
        assert said in words
    assert "per GPU 12.5" not in words
    assert "cost" not in words
    back = nearest_words(Nearest(scenario, plan, smaller, (), (), after, before), "vllm")
    assert "better is throughput 80 tokens/s -> 100 tokens/s (+25 %)" in back
    assert "worse: throughput per GPU 20 tokens/s -> 12.5 tokens/s (-37.5 %), cost " in back
    same = nearest_words(Nearest(scenario, plan, plan, (), (), after, after), "vllm")
    assert "no figure is worse" in same
    unmeasured = nearest_words(Nearest(scenario, plan, plan, (), (), None, after), "vllm")
    assert "cannot be measured" in unmeasured


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
    throughput = found.figures[0]
    assert throughput.is_worse
    assert throughput.after > 0.5 * throughput.before
    words = nearest_words(found, options.engine)
    assert "the same with its experts in runs" in words
    assert "worse: throughput " in words
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
