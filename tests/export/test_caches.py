"""Caches that are written have room for what engines ask for before they start or take a request.

The rules of vLLM and SGLang are stated here once more, from their sources, by other code than the
exporter's: of vLLM with blocks of 16 tokens, its default.
"""

from collections import defaultdict
from dataclasses import replace
from types import ModuleType

import pytest

from autopar.api import solve
from autopar.catalog import load_plan, load_scenario
from autopar.costs.operations.precisions import precision_bytes
from autopar.errors import InexpressibleError
from autopar.export.exporting import completed, export, written
from autopar.export.launch import Export, Launch
from autopar.export.layout import Layout, layouts_of
from autopar.export.options import Engine, Options
from autopar.pairs import explicit_plan
from autopar.problem import AnyPlan, DisaggregatedPlan
from autopar.specs import GroupedQueryAttention, LatentAttention, Scenario

BLOCK = 16


def number(launch: Launch, flag: str) -> int:
    return int(launch.argv[launch.argv.index(flag) + 1])


def vllm_needs(scenario: Scenario, launch: Launch, split: tuple[int, ...]) -> int:
    """Bytes of one request of --max-model-len and of the null block, as vLLM 0.33.0 checks them.

    kv_cache_planning.py: all layers of one spec are one group; else layers of a spec are dealt to
    groups of as many layers as the rarest spec has (the commonest, if it has less than half more).
    A block of the pool has a page for each layer of the largest group of a stage.
    """
    architecture = scenario.llm.architecture
    assert architecture is not None
    tp, length = number(launch, "--tensor-parallel-size"), number(launch, "--max-model-len")
    width = precision_bytes(scenario.llm.precisions.kv_cache)
    by_spec: dict[tuple[int, int | None], list[int]] = defaultdict(list)
    for layer, kind in enumerate(architecture.kind_of_layer):
        attention = architecture.attention_of(architecture.layer_kinds[kind])
        if isinstance(attention, LatentAttention):
            elements, window = attention.kv_lora_rank + attention.qk_rope_head_dim, None
        else:
            assert isinstance(attention, GroupedQueryAttention)
            heads = max(1, attention.num_kv_heads // tp)
            elements = heads * (attention.head_dim + attention.value_dim)
            window = attention.window_tokens
        by_spec[int(BLOCK * elements * width), window].append(layer)
    counts = sorted(len(layers) for layers in by_spec.values())
    size = counts[-1] if counts[-1] < 1.5 * counts[0] else counts[0]
    batch = number(launch, "--max-num-batched-tokens")
    blocks, per_block = 0, 0
    ends = [sum(split[: stage + 1]) for stage in range(len(split))]
    for (page, window), layers in by_spec.items():
        num_groups = -(-len(layers) // size)
        held = length if window is None else min(window - 1 + (len(split) + 1) * batch, length)
        blocks += num_groups * (-(-held // BLOCK) + (window is not None))
        for group in range(num_groups):
            mine = layers[group::num_groups]
            for first, end in zip([0, *ends], ends, strict=False):
                per_block = max(per_block, page * sum(first <= layer < end for layer in mine))
    return per_block * (blocks + 1)


def exported(scenario: Scenario, plan: AnyPlan, engine: Engine) -> Export:
    return export(scenario, plan, engine, completed(Options(engine=engine), scenario))


def pair(
    model: str,
    *,
    batch: int = 1,
    input_tokens: int = 4000,
    tp: int = 2,
    cluster: str = "2xhgx-h100",
) -> tuple[Scenario, DisaggregatedPlan]:
    scenario = load_scenario(
        parts={"llm": model, "cluster": cluster, "workload": "chat-4k-1k-disaggregated"},
        overrides=[
            f"workload.input_tokens={input_tokens}",
            f"workload.prefill_chunk_tokens={max(8192, input_tokens)}",
        ],
    )
    degrees = {"replicas": 1, "pp": 1, "tp": tp, "ep": 1, "etp": tp}
    if not scenario.llm.is_moe:
        degrees = {"replicas": 1, "pp": 1, "tp": tp, "etp": tp}
    layout = {"degrees": degrees, "batch": batch}
    roles = {"prefill": layout, "decode": {**layout, "batch": 4}}
    document = {"schema": 1, "kind": "plan", "name": "pair", "llm": model, "roles": roles}
    plan = explicit_plan(load_plan(document), scenario)
    assert isinstance(plan, DisaggregatedPlan)
    return scenario, plan


@pytest.mark.parametrize(
    ("model", "batch", "length"),
    [("llama-3.1-70b", 1, 4000), ("llama-3.1-70b", 1, 32000), ("gpt-oss-120b", 2, 4000),
     ("gpt-oss-120b", 1, 4000), ("llama-4-scout", 1, 4000), ("deepseek-v3", 1, 4000)],
)  # fmt: skip
def test_servers_of_vllm_pairs_have_the_cache_without_which_vllm_does_not_start(
    model: str, batch: int, length: int
) -> None:
    tp, cluster = (
        (8, "2xhgx-h200") if model in ("deepseek-v3", "llama-4-scout") else (4, "2xhgx-h100")
    )
    scenario, plan = pair(model, batch=batch, input_tokens=length, tp=tp, cluster=cluster)
    made = exported(scenario, plan, "vllm")
    for launch in made.launches:
        output = scenario.workload.output_tokens or 0
        own = length + (1 if launch.role == "prefill" else output)
        assert number(launch, "--max-model-len") == own
        split = (scenario.llm.num_layers,)
        assert number(launch, "--kv-cache-memory-bytes") >= vllm_needs(scenario, launch, split)


def test_random_plans_for_vllm_have_room_for_one_request_by_its_own_rule(plans: ModuleType) -> None:
    """Full layers, windows (Gemma would mix pages; gpt-oss does not) and latents, in stages."""
    looked = 0
    for seed in range(150):
        drawn = plans.draw(seed, "vllm")
        if drawn is None or not drawn[0].workload.is_open:
            continue
        scenario, plan = drawn
        try:
            made = exported(scenario, plan, "vllm")
        except InexpressibleError:
            continue
        split = tuple(len(stage.layers) for stage in plan.stages)
        for launch in made.launches:
            assert number(launch, "--kv-cache-memory-bytes") >= vllm_needs(scenario, launch, split)
        looked += 1
    assert looked > 40


def starved(layout: Layout) -> Layout:
    """The layout of a plan that keeps one page and leaves no memory free."""
    few = {"kv_tokens": 16, "kv_bytes": 16 * 1000, "kept_sequences": 1, "spare_bytes": 0.0}
    return replace(layout, capacity=replace(layout.capacity, **few))  # type: ignore[arg-type]


def test_what_vllm_asks_for_is_written_also_where_a_plan_has_no_room(plans: ModuleType) -> None:
    looked = 0
    for seed in range(100):
        drawn = plans.draw(seed, "vllm")
        if drawn is None:
            continue
        layouts = [starved(layout) for layout in plans.layouts(*drawn)]
        try:
            made = written(layouts, "vllm", completed(Options(engine="vllm"), drawn[0]))
        except InexpressibleError:
            continue
        for launch in made.launches:
            needed = vllm_needs(drawn[0], launch, layouts[0].split)
            assert number(launch, "--kv-cache-memory-bytes") >= needed
        looked += 1
    assert looked > 40


@pytest.mark.parametrize("split", [(36,), (18, 18), (10, 13, 13)])
@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("workload", ["chat-1k-256", "chat-4k-1k", "prefill-8k"])
def test_windows_are_charged_with_the_tokens_in_flight(
    split: tuple[int, ...], batch: int, workload: str
) -> None:
    scenario = load_scenario(
        parts={"llm": "gpt-oss-120b", "cluster": "1xhgx-h200", "workload": workload}
    )
    layout = {
        "degrees": {"replicas": 1, "pp": len(split), "tp": 2, "ep": 2, "etp": 1},
        "layers_per_stage": list(split), "batch": batch,
    }  # fmt: skip
    document = {"schema": 1, "kind": "plan", "name": "p", "llm": scenario.llm.name, **layout}
    plan = explicit_plan(load_plan(document), scenario)
    (launch,) = exported(scenario, plan, "vllm").launches
    assert number(launch, "--kv-cache-memory-bytes") >= vllm_needs(scenario, launch, split)
    layouts, _ = layouts_of(plan, scenario, {})
    options = completed(Options(engine="vllm"), scenario)
    (launch,) = written([starved(layouts[0])], "vllm", options).launches
    assert number(launch, "--kv-cache-memory-bytes") >= vllm_needs(scenario, launch, split)


PAGES = (1, 16, 32, 64, 128)


def takes(context: int, pool: int, length: int, output: int, page: int) -> bool:
    """Whether SGLang 0.5.23 admits a prompt to an empty server, and lets it write all its output.

    tp_worker.py: get_worker_info; managers/utils.py: validate_input_length; scheduler.py:
    init_req_max_new_tokens; allocator/base.py: max_new_tokens_for_memory; PrefillAdder.add_one_req.
    """
    pool -= pool % page
    longest = min(context - 1, pool - 1)
    paged = -(-length // page) * page
    left = min(longest - length - 1, pool - paged - page - 1)
    return length < longest - 5 and left >= output and length + output + page < pool


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [4000, 4095, 4096, 8000])
def test_servers_of_sglang_take_requests_of_the_planned_size(
    page: int, batch: int, length: int
) -> None:
    scenario, plan = pair("llama-3.1-70b", batch=batch, input_tokens=length)
    for launch in exported(scenario, plan, "sglang").launches:
        context, pool = number(launch, "--context-length"), number(launch, "--max-total-tokens")
        # A prefill server makes one token (disaggregation/prefill.py: _process_req).
        output = 1 if launch.role == "prefill" else scenario.workload.output_tokens or 0
        assert takes(context, pool, length, output, page)
        assert context >= length + (scenario.workload.output_tokens or 0)
    for workload in ("chat-4k-1k", "prefill-8k"):
        alone = load_scenario(
            parts={"llm": "llama-3.1-8b", "cluster": "1xhgx-h100", "workload": workload}
        )
        document = {
            "schema": 1, "kind": "plan", "name": "p", "llm": "llama-3.1-8b", "batch": 1,
            "degrees": {"replicas": 1, "pp": 1, "tp": 1, "etp": 1},
        }  # fmt: skip
        (launch,) = exported(alone, explicit_plan(load_plan(document), alone), "sglang").launches
        context, pool = number(launch, "--context-length"), number(launch, "--max-total-tokens")
        sizes = alone.workload.input_tokens or 0, alone.workload.output_tokens or 1
        assert takes(context, pool, *sizes, page)


def test_the_context_of_sglang_is_no_longer_than_the_model_goes() -> None:
    scenario, plan = pair("gpt-oss-120b", input_tokens=131072 - 1000)
    for launch in exported(scenario, plan, "sglang").launches:
        assert number(launch, "--context-length") == scenario.llm.max_context_tokens


def of_prefill(scenario: Scenario, plan: AnyPlan, spare_bytes: float) -> Layout:
    """The prefill layout of a pair whose GPUs have that much free."""
    found, _ = layouts_of(plan, scenario, {})
    (layout,) = [one for one in found if one.role == "prefill"]
    per_token = 1000
    capacity = replace(
        layout.capacity, kv_bytes=layout.capacity.kv_tokens * per_token, spare_bytes=spare_bytes
    )
    return replace(layout, capacity=capacity)


def test_prompts_wait_for_their_transfer_in_room_of_their_own_where_there_is_some() -> None:
    scenario, plan = pair("llama-3.1-70b", batch=2, input_tokens=4000)
    options = completed(Options(engine="sglang"), scenario)
    roomy = written([of_prefill(scenario, plan, 1e9)], "sglang", options)
    assert number(roomy.launches[0], "--max-total-tokens") == 2 * 2 * 4000 + 2 * 16
    assert number(roomy.launches[0], "--max-running-requests") == 4
    assert number(roomy.launches[0], "--prefill-max-requests") == 2
    assert not [note for note in roomy.notes if "waits for transfers" in note]
    full = written([of_prefill(scenario, plan, 4001 * 1000)], "sglang", options)
    assert number(full.launches[0], "--max-total-tokens") == 2 * 4000 + 4001
    (said,) = [note for note in full.notes if "waits for transfers" in note]
    assert "beside the 2 prompts in progress the plan's GPUs have room for 1" in said


def test_prefill_servers_of_solved_pairs_hold_prompts_that_wait() -> None:
    scenario = load_scenario(
        parts={"llm": "llama-3.1-8b", "cluster": "1xhgx-h100",
               "workload": "chat-4k-1k-disaggregated"},
        overrides=["requirements.max_ttft_us=2 s", "requirements.max_tpot_us=40 ms",
                   "rule_packs=[vllm]"],
    )  # fmt: skip
    plan = solve(scenario, diagnose=False).require_plan()
    made = exported(scenario, plan, "vllm")
    launch = next(launch for launch in made.launches if launch.role == "prefill")
    tokens = 2 * number(launch, "--max-num-seqs") * 4001
    heads = 8 // number(launch, "--tensor-parallel-size")
    held = number(launch, "--kv-cache-memory-bytes")
    assert held >= tokens * 32 * heads * 2 * 128 * 2


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.3.0", "1.4", "1.5"])
def test_context_servers_of_tensorrt_llm_do_not_overlap(version: str) -> None:
    scenario, plan = pair("llama-3.1-70b")
    options = completed(Options(engine="trtllm", version=version), scenario)
    made = export(scenario, plan, "trtllm", options)
    texts = {file.name: file.text for file in made.files}
    assert "disable_overlap_scheduler: true" in texts["prefill-trtllm.yaml"]
    assert "overlap" not in texts["decode-trtllm.yaml"]
