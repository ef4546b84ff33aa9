"""The rule packs of the engines: which layouts each can launch, judged in three ways."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.catalog import load_scenario
from autopar.errors import SpecError
from autopar.pair_rules import PAIR_NAMES, constraint_of
from autopar.problem import Candidate, Candidates, CostModel, Plan, Problem, Stage
from autopar.rules import NAMES
from autopar.specs import (
    LLM,
    Architecture,
    Cluster,
    Gpu,
    Precisions,
    Recipe,
    RulePack,
    Scenario,
    Workload,
)
from autopar.specs.counting import parameters
from autopar.topology import Topology
from autopar.verifier.layout import layout_of
from autopar.verifier.limits import rule_violations

ROOT = Path(__file__).parents[1]
ENGINES = ("vllm", "sglang", "tensorrt-llm", "megatron")


@cache
def pack(name: str) -> RulePack:
    return load_scenario("mixtral-8x7b-8xh100", overrides=[f"rule_packs=[{name}]"]).rule_packs[0]


def model(
    name: str,
    attention: dict[str, Any],
    layers: list[tuple[int, dict[str, Any], dict[str, Any]]],
    *,
    hidden_size: int,
    vocab_size: int,
    fp8: bool = False,
) -> LLM:
    """Return a model of runs of (count, changes of its attention, feed-forward)."""
    architecture = Architecture.model_validate(
        {
            "hidden_size": hidden_size,
            "vocab_size": vocab_size,
            "attention": {f"a{i}": attention | run[1] for i, run in enumerate(layers)},
            "feed_forward": {f"f{i}": run[2] for i, run in enumerate(layers)},
            "layers": [
                {"count": run[0], "layers": [{"attention": f"a{i}", "feed_forward": f"f{i}"}]}
                for i, run in enumerate(layers)
            ],
        }
    )
    stored = dict.fromkeys(("attention", "feed_forward", "experts"), "fp8_block") if fp8 else {}
    return LLM(
        name=name,
        num_layers=architecture.num_layers,
        num_experts=architecture.num_experts,
        experts_per_token=architecture.experts_per_token,
        num_parameters=parameters(architecture),
        precisions=Precisions.model_validate(stored),
        architecture=architecture,
    )


def gqa(num_heads: int, num_kv_heads: int, head_dim: int) -> dict[str, Any]:
    return {
        "kind": "gqa", "num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim
    }  # fmt: skip


def moe(num_experts: int, experts_per_token: int, size: int, **more: int) -> dict[str, Any]:
    return {
        "kind": "moe", "num_experts": num_experts, "experts_per_token": experts_per_token,
        "expert_size": size, **more,
    }  # fmt: skip


# Sizes from config.json of deepseek-ai/DeepSeek-V3, Qwen/Qwen3-235B-A22B-FP8, meta-llama/
# Llama-3.1-70B, openai/gpt-oss-120b, google/gemma-4-26b-a4b; the last two are made up.
MODELS = {
    "deepseek-v3": model(
        "deepseek-v3",
        {
            "kind": "mla", "num_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
            "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        },
        [
            (3, {}, {"kind": "dense", "ffn_size": 18432}),
            (58, {}, moe(256, 8, 2048, shared_size=2048)),
        ],
        hidden_size=7168, vocab_size=129280, fp8=True,
    ),
    "qwen3-235b": model(
        "qwen3-235b", gqa(64, 4, 128), [(94, {}, moe(128, 8, 1536))],
        hidden_size=4096, vocab_size=151936, fp8=True,
    ),
    "llama-70b": model(
        "llama-70b", gqa(64, 8, 128), [(80, {}, {"kind": "dense", "ffn_size": 28672})],
        hidden_size=8192, vocab_size=128256,
    ),
    "gpt-oss-120b": model(
        "gpt-oss-120b", gqa(64, 8, 64),
        [(18, {}, moe(128, 4, 2880)), (18, {"window_tokens": 128}, moe(128, 4, 2880))],
        hidden_size=2880, vocab_size=201088,
    ),
    "gemma-4-26b": model(
        "gemma-4-26b", gqa(16, 8, 256),
        [
            (25, {"window_tokens": 1024}, moe(128, 8, 704, shared_size=2112)),
            (5, gqa(16, 2, 512), moe(128, 8, 704, shared_size=2112)),
        ],
        hidden_size=2816, vocab_size=262144,
    ),
    "hybrid": model(
        "hybrid",
        {
            "kind": "linear", "num_heads": 24, "input_columns": 3072, "output_rows": 1536,
            "state_elements": 1000,
        },
        [
            (3, {}, {"kind": "dense", "ffn_size": 3840}),
            (1, {"kind": "linear", "num_heads": 24}, moe(60, 4, 1408, shared_size=5632)),
        ],
        hidden_size=2048, vocab_size=99999, fp8=True,
    ),
    "100-experts": model(
        "100-experts", gqa(32, 8, 128), [(4, {}, moe(100, 4, 1024))],
        hidden_size=2048, vocab_size=32000,
    ),
    "33-heads": model(
        "33-heads", gqa(33, 33, 64), [(4, {}, {"kind": "dense", "ffn_size": 8192})],
        hidden_size=2112, vocab_size=32000,
    ),
}  # fmt: skip


def scenario_of(
    llm: LLM, *packs: RulePack, phase: str = "decode", gpus_per_node: int = 8
) -> Scenario:
    size = "batch_tokens" if phase == "prefill" else "batch_sequences"
    return Scenario(
        name="question",
        llm=llm,
        cluster=Cluster(
            name="cluster",
            gpu=Gpu(name="gpu", peak_flops_per_s=1e15, memory_bytes=80e9),
            num_nodes=64,
            gpus_per_node=gpus_per_node,
        ),
        workload=Workload(name="work", phase=phase, sequence_tokens=1024, **{size: 4096}),
        recipe=Recipe(name="default"),
        rule_packs=packs,
    )


def plan_of(llm: LLM, candidate: Candidate, gpus: int) -> Plan:
    """Return stages of `gpus` GPUs each, one after another."""
    bounds = np.linspace(0, llm.num_layers, candidate.pp + 1).astype(int).tolist()
    keys = ("tp", "cp", "attn_dp", "ep", "etp", "spread")
    degrees = {key: getattr(candidate, key) for key in keys}
    blocks = [
        tuple(range(i * gpus, (i + 1) * gpus)) for i in range(candidate.pp * candidate.replicas)
    ]
    return Plan(
        name="plan",
        llm=llm.name,
        cluster="cluster",
        replicas=candidate.replicas,
        pp=candidate.pp,
        stages=tuple(
            Stage(index=s, layers=tuple(range(bounds[s], bounds[s + 1])), **degrees)
            for s in range(candidate.pp)
        ),
        gpus=tuple(
            tuple(blocks[r * candidate.pp : (r + 1) * candidate.pp])
            for r in range(candidate.replicas)
        ),
        placement=np.zeros((0, 5), dtype=np.int64),
        batch=candidate.batch,
    )


def candidate_of(**degrees: int) -> Candidate:
    """Return a candidate; what is not given is 1."""
    keys = ("replicas", "pp", "tp", "cp", "attn_dp", "ep", "etp", "spread")
    return Candidate(**(dict.fromkeys(keys, 1) | degrees))


def problem_of(scenario: Scenario, candidate: Candidate) -> Problem:
    """Return a problem without costs: rules ask for none."""
    topology = Topology.of(scenario.cluster, "cluster", "cluster")
    return Problem(scenario, topology, Candidates.of([candidate]), cast("CostModel", None))


def broken_by_rules(plan: Plan, problem: Problem) -> set[str]:
    rules = [constraint_of(rule) for rule in problem.scenario.all_rules]
    return {rule.name for rule in rules if any(True for _ in rule.check(plan, problem))}


def broken_by_verifier(scenario: Scenario, plan: Plan) -> set[str]:
    violations = rule_violations(scenario, plan, layout_of(plan, scenario.llm.num_layers))
    return {violation.message.split(":")[0] for violation in violations}


def broken_by_tables(problem: Problem) -> set[str]:
    """As the search filters candidates and segments; of the first stage, as rules ask no more."""
    rows = problem.candidates
    first, stop = np.array([0]), np.array([problem.num_layers // int(rows.pp[0])])
    broken = set()
    for rule in (constraint_of(rule) for rule in problem.scenario.all_rules):
        by_row = rule.allowed_rows(problem, rows)
        segments = rule.allowed_segments(problem, rows, first, stop)
        if not all(answer is None or answer[0] for answer in (by_row, segments)):
            broken.add(rule.name)
    return broken


def broken(scenario: Scenario, candidate: Candidate, gpus: int | None = None) -> set[str]:
    """Return the broken rules, after all three judges agreed on them.

    gpus: of a stage, where they are not what the degrees say; tables cannot hold such a layout.
    """
    whole = candidate.tp * candidate.cp * candidate.attn_dp
    problem = problem_of(scenario, candidate)
    plan = plan_of(scenario.llm, candidate, gpus or whole)
    answer = broken_by_rules(plan, problem)
    assert answer == broken_by_verifier(scenario, plan)
    if gpus is None and whole == candidate.ep * candidate.etp * candidate.spread:
        assert answer == broken_by_tables(problem)
    return answer


def dense(tp: int, *, cp: int = 1, attn_dp: int = 1, **more: int) -> dict[str, int]:
    return {"tp": tp, "cp": cp, "attn_dp": attn_dp, "etp": tp, "spread": cp * attn_dp, **more}


LEGAL: list[tuple[str, str, dict[str, int]]] = [
    ("all", "deepseek-v3", {"attn_dp": 32, "ep": 32}),
    ("all", "deepseek-v3", {"tp": 16, "ep": 16}),
    ("all", "qwen3-235b", {"tp": 4, "ep": 4, "replicas": 4}),
    ("all", "llama-70b", dense(8)),
    ("all", "llama-70b", dense(4, pp=4, replicas=2)),
    ("all", "llama-70b", dense(16, pp=2)),
    ("all", "gpt-oss-120b", {"tp": 8, "ep": 8}),
    ("all", "gpt-oss-120b", {"tp": 8, "etp": 8}),
    ("all", "gemma-4-26b", {"tp": 2, "ep": 2}),
    ("vllm", "deepseek-v3", {"tp": 8, "attn_dp": 4, "ep": 32}),
    ("vllm", "deepseek-v3", {"tp": 2, "attn_dp": 2, "pp": 2, "ep": 4}),
    ("vllm", "qwen3-235b", {"tp": 8, "etp": 8}),  # blocks of 128 refined to 64
    ("vllm", "llama-70b", dense(4, pp=2, attn_dp=4)),
    ("sglang", "deepseek-v3", {"tp": 4, "attn_dp": 8, "ep": 32}),
    ("sglang", "deepseek-v3", {"tp": 4, "attn_dp": 4, "ep": 8, "etp": 2, "pp": 2}),
    ("sglang", "qwen3-235b", {"tp": 4, "attn_dp": 2, "ep": 4, "etp": 2}),
    ("tensorrt-llm", "deepseek-v3", {"tp": 8, "ep": 4, "etp": 2}),
    ("tensorrt-llm", "deepseek-v3", {"attn_dp": 8, "ep": 4, "etp": 2, "pp": 2}),
    ("tensorrt-llm", "gpt-oss-120b", {"tp": 4, "cp": 2, "ep": 8}),  # HELIX
    ("megatron", "qwen3-235b", {"tp": 4, "attn_dp": 8, "ep": 8, "etp": 4, "pp": 4}),
    ("megatron", "qwen3-235b", {"tp": 2, "cp": 4, "attn_dp": 4, "ep": 32, "replicas": 2}),
]


@pytest.mark.parametrize(("engine", "name", "degrees"), LEGAL, ids=str)
def test_a_layout_that_an_engine_can_launch_breaks_none_of_its_rules(
    engine: str, name: str, degrees: dict[str, int]
) -> None:
    for each in ENGINES if engine == "all" else (engine,):
        assert broken(scenario_of(MODELS[name], pack(each)), candidate_of(**degrees)) == set()


ILLEGAL: list[tuple[str, str, dict[str, int], str]] = [
    # confirmed by running the engine's own checks
    ("vllm", "llama-70b", dense(3),
     "heads kv_heads attention_columns dense_columns servers_on_nodes"),
    ("megatron", "33-heads", dense(2), "heads kv_heads"),
    ("megatron", "100-experts", {"tp": 8, "ep": 8}, "experts_divide"),
    # read in the engine's sources
    ("vllm", "deepseek-v3", {"tp": 4, "attn_dp": 8, "ep": 8, "etp": 4}, "expert_grid"),
    ("vllm", "qwen3-235b", {"tp": 8, "ep": 4, "spread": 2}, "expert_grid"),
    ("vllm", "deepseek-v3", {"tp": 32, "ep": 32}, "dense_columns shared_columns"),
    ("vllm", "qwen3-235b", {"tp": 64, "etp": 64}, "expert_columns"),
    ("vllm", "gpt-oss-120b", {"tp": 4, "cp": 2, "ep": 8}, "no_context_parallel"),
    ("vllm", "deepseek-v3", {"tp": 2, "attn_dp": 8, "ep": 16, "pp": 2}, "stages_on_nodes"),
    ("vllm", "llama-70b", dense(4, pp=3), "ranks_on_nodes servers_on_nodes"),
    ("vllm", "100-experts", {"tp": 128, "etp": 128}, "heads tp_at_most_experts"),
    (
        "vllm", "gpt-oss-120b", {"tp": 7, "etp": 7},
        "heads kv_heads attention_columns expert_columns vocabulary servers_on_nodes",
    ),
    ("sglang", "100-experts", {"tp": 8, "ep": 8}, "experts_divide"),
    ("sglang", "qwen3-235b", {"tp": 8, "etp": 8}, "expert_columns"),
    ("sglang", "qwen3-235b", {"tp": 8, "ep": 4, "spread": 2}, "expert_grid"),
    ("sglang", "deepseek-v3", {"tp": 32, "ep": 16, "etp": 2}, "shared_columns"),
    ("sglang", "deepseek-v3", {"attn_dp": 288, "ep": 288}, "experts_divide tp_at_most_experts"),
    ("sglang", "llama-70b", dense(4, pp=3), "ranks_on_nodes servers_on_nodes"),
    (
        "sglang", "deepseek-v3", {"attn_dp": 12, "ep": 4, "etp": 3, "pp": 2},
        "ranks_on_nodes expert_columns shared_columns",
    ),
    ("sglang", "llama-70b", dense(4, cp=2), "context_parallel"),
    (
        "tensorrt-llm", "qwen3-235b", {"tp": 2, "attn_dp": 4, "ep": 8},
        "attention_dp_is_all_or_nothing",
    ),
    ("tensorrt-llm", "100-experts", {"tp": 8, "ep": 8}, "experts_divide"),
    ("tensorrt-llm", "qwen3-235b", {"tp": 8, "etp": 8}, "expert_columns"),
    ("tensorrt-llm", "gpt-oss-120b", {"tp": 16, "cp": 8, "ep": 128}, "heads"),
    ("tensorrt-llm", "llama-70b", dense(4, pp=3), "servers_on_nodes"),
    ("megatron", "qwen3-235b", {"tp": 8, "ep": 4, "spread": 2}, "expert_grid"),
    ("megatron", "gpt-oss-120b", {"tp": 7, "etp": 7}, "heads kv_heads expert_columns"),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "name", "degrees", "rules"), ILLEGAL, ids=str)
def test_a_layout_that_an_engine_cannot_launch_breaks_the_rule_that_says_why(
    engine: str, name: str, degrees: dict[str, int], rules: str
) -> None:
    prefix = engine.replace("tensorrt-llm", "trtllm")
    found = broken(scenario_of(MODELS[name], pack(engine)), candidate_of(**degrees))
    assert found == {f"{prefix}_{rule}" for rule in rules.split()}


@pytest.mark.parametrize(
    ("engine", "name", "degrees", "gpus", "rule"),
    [
        # --tp-size 8 --ep-size 3 and --tp-size 8 --attn-dp-size 3
        ("sglang", "qwen3-235b", {"tp": 8, "ep": 3, "etp": 2}, 8, "sglang_expert_grid"),
        ("sglang", "qwen3-235b", {"tp": 2, "attn_dp": 3, "ep": 8}, 8, "sglang_expert_grid"),
        # 24 GPUs, etp 1, ep 8, pp 4: what the arguments of the engine let pass
        (
            "megatron", "qwen3-235b", {"tp": 2, "attn_dp": 3, "ep": 8, "pp": 4}, 6,
            "megatron_world_of_experts",
        ),
        ("megatron", "llama-70b", {"tp": 1, "cp": 3}, 8, "megatron_world_of_attention"),
    ],
)  # fmt: skip
def test_degrees_that_do_not_tile_a_stage_are_refused_by_the_engines_rule(
    engine: str, name: str, degrees: dict[str, int], gpus: int, rule: str
) -> None:
    scenario = scenario_of(MODELS[name], pack(engine))
    assert rule in broken(scenario, candidate_of(**degrees), gpus)


def test_a_server_of_sglang_runs_as_many_ranks_on_every_node() -> None:
    """--tp-size 8 --nnodes 3 is refused by the engine; nodes of 3 GPUs would need it."""
    nodes_of_3 = scenario_of(MODELS["qwen3-235b"], pack("sglang"), gpus_per_node=3)
    rules = {"sglang_ranks_on_nodes", "sglang_servers_on_nodes"}
    assert broken(nodes_of_3, candidate_of(tp=8, ep=8)) == rules


@pytest.mark.parametrize(
    ("engine", "phase", "rules"),
    [
        ("sglang", "prefill", []),
        ("sglang", "decode", ["sglang_context_parallel"]),
        ("tensorrt-llm", "prefill", ["trtllm_context_parallel"]),
        ("tensorrt-llm", "decode", []),
        ("megatron", "prefill", []),
    ],
)
def test_context_parallelism_depends_on_the_work(engine: str, phase: str, rules: list[str]) -> None:
    scenario = scenario_of(MODELS["llama-70b"], pack(engine), phase=phase)
    assert broken(scenario, candidate_of(**dense(4, cp=2))) == set(rules)


def test_context_parallelism_of_mla_in_sglang_needs_whole_heads_and_experts() -> None:
    scenario = scenario_of(MODELS["deepseek-v3"], pack("sglang"), phase="prefill")
    assert broken(scenario, candidate_of(cp=8, attn_dp=2, ep=16)) == set()
    rule = {"sglang_context_parallel_of_mla"}
    assert broken(scenario, candidate_of(tp=2, cp=8, ep=16)) == rule
    assert broken(scenario, candidate_of(cp=8, ep=4, etp=2)) == rule


def test_key_value_heads_are_asked_of_every_kind_of_layer() -> None:
    """Gemma 4 has 8 key-value heads in windowed layers and 2 in the others: 12 fits neither 8."""
    llm = model(
        "two-kinds", gqa(48, 8, 64),
        [(2, {}, moe(48, 2, 960)), (2, gqa(48, 2, 64), moe(48, 2, 960))],
        hidden_size=1024, vocab_size=49152,
    )  # fmt: skip
    scenario = scenario_of(llm, pack("vllm"), gpus_per_node=64)
    for tp, bad in ((2, False), (4, False), (8, False), (16, False), (6, True), (12, True)):
        found = broken(scenario, candidate_of(tp=tp, ep=tp))
        assert ("vllm_kv_heads" in found) == bad, tp


def test_packs_may_be_asked_together_and_agree_on_what_launchable_today_says() -> None:
    """What no engine can launch, every pack forbids."""
    packs = [pack(name) for name in (*ENGINES, "launchable-today")]
    scenario = scenario_of(MODELS["qwen3-235b"], *packs)
    found = broken(scenario, candidate_of(tp=8, ep=4, spread=2))
    prefixes = ("vllm", "sglang", "trtllm", "megatron")
    assert {"one_expert_grid", *(f"{p}_expert_grid" for p in prefixes)} <= found


@pytest.mark.parametrize("name", ["launchable-today", *ENGINES])
def test_a_dense_model_may_have_data_parallel_attention_groups(name: str) -> None:
    """Its feed-forward then has as many copies, which `spread` counts; they are servers."""
    scenario = scenario_of(MODELS["llama-70b"], pack(name))
    assert broken(scenario, candidate_of(**dense(2, attn_dp=4))) == set()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pack_needs_the_architecture_and_says_so(engine: str) -> None:
    bare = LLM(name="bare", num_layers=4, num_parameters=1e9)
    scenario = scenario_of(bare, pack(engine))
    plan, problem = plan_of(bare, candidate_of(**dense(2)), 2), problem_of(scenario, candidate_of())
    with pytest.raises(SpecError, match=r"uses .*, but model 'bare' states no architecture; set "):
        broken_by_rules(plan, problem)
    with pytest.raises(SpecError, match=r"does not state .*: llm\.architecture is missing"):
        broken_by_verifier(scenario, plan)


@pytest.mark.parametrize("name", ["launchable-today", *ENGINES])
def test_every_rule_says_which_version_of_its_engine_and_which_file(name: str) -> None:
    assert pack(name).sources
    for rule in pack(name).rules if name in ENGINES else ():
        version = {
            "vllm": "vLLM 0.33.0", "sglang": "SGLang 0.5.23",
            "tensorrt-llm": "TensorRT-LLM 1.2 to 1.4", "megatron": "Megatron-Core 0.19.2",
        }[name]  # fmt: skip
        assert f"({version}" in rule.because
        assert ".py" in rule.because or "torchrun" in rule.because


DEGREE = st.sampled_from([1, 2, 3, 4, 6, 8, 12])
CANDIDATES = st.builds(
    Candidate,
    replicas=st.integers(1, 2),
    pp=st.integers(1, 3),
    **dict.fromkeys(("tp", "cp", "attn_dp", "ep", "etp", "spread"), DEGREE),
)


@given(
    candidate=CANDIDATES,
    tiles=st.booleans(),
    gpus=st.integers(1, 40),
    name=st.sampled_from(sorted(MODELS)),
    phase=st.sampled_from(["prefill", "decode"]),
    gpus_per_node=st.sampled_from([4, 8, 72]),
)
@settings(deadline=None, max_examples=40)
def test_all_judges_agree_on_every_pack_and_any_degrees(
    candidate: Candidate, tiles: bool, gpus: int, name: str, phase: str, gpus_per_node: int
) -> None:
    """Tables, too, where both grids tile a stage."""
    packs = [pack(each) for each in (*ENGINES, "launchable-today")]
    scenario = scenario_of(MODELS[name], *packs, phase=phase, gpus_per_node=gpus_per_node)
    if tiles:
        spread, attn_dp = candidate.tp * candidate.cp, candidate.ep
        candidate = replace(candidate, attn_dp=attn_dp, etp=1, spread=spread)
    broken(scenario, candidate, None if tiles else gpus)


def test_packs_do_not_make_the_search_count_replicas() -> None:
    """A rule that names them makes every smaller number of replicas a candidate."""
    for name in (*ENGINES, "launchable-today"):
        for rule in pack(name).rules:
            assert not constraint_of(rule).expression.names & {"replicas", "gpus_used"}


def test_the_documentation_lists_every_rule_and_every_name() -> None:
    engines = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    solvers = (ROOT / "solvers" / "README.md").read_text(encoding="utf-8")
    rules = [rule for name in (*ENGINES, "launchable-today") for rule in pack(name).rules]
    assert [rule.name for rule in rules if f"`{rule.name}`" not in engines] == []
    assert [name for name in PAIR_NAMES | NAMES if f"`{name}`" not in solvers] == []
