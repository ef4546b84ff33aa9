"""Every kind of corrupted plan is caught, named, and placed; clean plans are not touched."""

from dataclasses import replace

import numpy as np
import pytest

from autopar.plans import plan_from_spec
from autopar.specs import PlanSpec, Scenario
from autopar.verifier import KINDS, verify_plan

LAYER, EXPERT, COPY, SHARD, GPU = range(5)
ARCHITECTURE = {
    "hidden_size": 2048,
    "vocab_size": 32000,
    "shares_embeddings": True,
    "attention": {"full": {"kind": "gqa", "num_heads": 16, "num_kv_heads": 16, "head_dim": 128}},
    "feed_forward": {
        "experts": {
            "kind": "moe", "num_experts": 16, "experts_per_token": 2, "expert_size": 6144,
        },
        "wide": {"kind": "dense", "ffn_size": 6144},
    },
    "layers": [{"count": 16, "layers": [{"attention": "full", "feed_forward": "experts"}]}],
}  # fmt: skip
# Layers 0 and 1 are dense; the 14 others have experts.
MIXED_LAYERS = [
    {"count": 2, "layers": [{"attention": "full", "feed_forward": "wide"}]},
    {"count": 14, "layers": [{"attention": "full", "feed_forward": "experts"}]},
]
LINK = {"bandwidth_bytes_per_s": 450e9, "latency_us": 2.0}
ANALYTIC = {
    "cost_model": "analytic",
    "llm.architecture": ARCHITECTURE,
    "llm.experts_per_token": 2,
    "cluster.links": {"node": LINK, "domain": LINK, "fabric": LINK},
    "cluster.gpu.memory_bandwidth_bytes_per_s": 3e12,
    "requirements.min_tokens_per_s_per_gpu": None,
    "declared": None,
}
MIXED = {
    **ANALYTIC,
    "llm.architecture": {**ARCHITECTURE, "layers": MIXED_LAYERS},
    "llm.num_parameters": 8.86e9,
    "requirements.coverage": "up_to",
}
SERVING = {
    **ANALYTIC,
    "workload": {
        "name": "chat", "phase": "serving", "input_tokens": 20_000, "output_tokens": 101,
        "max_batch_sequences": 40,
    },
}  # fmt: skip
SHORT_ANSWERS = {**SERVING, "workload": {**SERVING["workload"], "output_tokens": 2}}
PROMPTS = {
    **ANALYTIC,
    "workload": {"name": "prompts", "phase": "prefill", "input_tokens": 1000},
}  # fmt: skip
DECODE = {
    "workload": {
        "name": "decode", "phase": "decode", "batch_sequences": 64, "sequence_tokens": 1024,
    },
    "requirements.max_ttft_us": None,
}  # fmt: skip
OPEN_DECODE = {
    **ANALYTIC,
    "workload": {
        "name": "open", "phase": "decode", "input_tokens": 1000, "output_tokens": 10,
        "max_batch_sequences": 40,
    },
    "requirements.max_ttft_us": None,
}  # fmt: skip
LAX = {"requirements.coverage": "up_to"}
DOCUMENT = {"pp": 8, "tp": 2, "ep": 16, "etp": 2, "spread": 2}
REPLICATED = {"replicas": 2, "pp": 4, "tp": 2, "ep": 16, "etp": 2, "spread": 2}
DENSE = {
    "llm.num_experts": 0, "requirements.coverage": "every_gpu", "rules": [],
}  # fmt: skip


def plan_of(scenario: Scenario, degrees=None, **fields):
    """Lay out degrees in rank order; the document's plan by default, 8 sequences in a batch."""
    if scenario.workload.is_open:
        fields = {"batch": 8, **fields}
    spec = {"name": "plan", "llm": scenario.llm.name, "degrees": degrees or DOCUMENT, **fields}
    return plan_from_spec(PlanSpec.model_validate(spec), scenario)


def stage(plan, position, **fields):
    """Change fields of one stage."""
    stages = list(plan.stages)
    stages[position] = replace(stages[position], **fields)
    return replace(plan, stages=tuple(stages))


def gpus(plan, replica, index, change):
    """Change the GPU list of one stage of one replica."""
    lists = [list(map(list, r)) for r in plan.gpus]
    lists[replica][index] = change(lists[replica][index])
    return replace(plan, gpus=tuple(tuple(tuple(ids) for ids in r) for r in lists))


def rows(plan, change):
    """Change a copy of the placement in place, or replace it by what `change` returns."""
    table = plan.placement.copy()
    changed = change(table)
    return replace(plan, placement=table if changed is None else changed)


def put(row, column, value):
    """Return a change that sets one number of one row."""

    def change(table):
        table[row, column] = value

    return change


def swap(one, two):
    """Return a change that swaps the GPUs of two rows."""

    def change(table):
        table[[one, two], GPU] = table[[two, one], GPU]

    return change


def swap_experts(table):
    """Two experts in different grids of stage 0 change places: layers 0 and 1."""
    one = (table[:, LAYER] == 0) & (table[:, EXPERT] == 3)
    two = (table[:, LAYER] == 1) & (table[:, EXPERT] == 3)
    table[one, GPU], table[two, GPU] = table[two, GPU].copy(), table[one, GPU].copy()


def crowd(table):
    """Expert 1 of layer 0 joins expert 0 on its rank."""
    one = (table[:, LAYER] == 0) & (table[:, EXPERT] == 0)
    two = (table[:, LAYER] == 0) & (table[:, EXPERT] == 1)
    table[two, GPU] = table[one, GPU]


def without(*columns):
    """Return a change that leaves out the rows that hold these (column, value) pairs."""

    def change(table):
        keep = np.ones(len(table), dtype=bool)
        for column, value in columns:
            keep &= table[:, column] == value
        return table[~keep]

    return change


def following(plan, change=None):
    """List the experts of the first replica alone, or of those that are left after a change."""
    return rows(plan, change or (lambda table: table[table[:, COPY] == 0]))


def move_experts_to_dense_layer(table):
    """Write the experts of layer 2 down as experts of layer 1."""
    table[table[:, LAYER] == 2, LAYER] = 1


# (kind, part of the message, changes of the scenario, degrees, corruption)
CORRUPTIONS = [
    ("degrees against stages", "pp = 9", {}, None, lambda p: replace(p, pp=9)),
    ("degrees against stages", "replicas = 2", {}, None, lambda p: replace(p, replicas=2)),
    ("stage out of order", "position 3 has index 5", {}, None, lambda p: stage(p, 3, index=5)),
    ("stage without layers", "stage 2", {}, None, lambda p: stage(p, 2, layers=())),
    ("stage without GPUs", "replica 0 stage 1", {}, None, lambda p: gpus(p, 0, 1, lambda _: [])),
    ("layer out of range", "layer 16", {}, None, lambda p: stage(p, 7, layers=(14, 15, 16))),
    ("layer lost", "no stage holds layer 5", {}, None, lambda p: stage(p, 2, layers=(4,))),
    ("layer doubled", "layer 4 is held 2", {}, None, lambda p: stage(p, 1, layers=(2, 3, 4))),
    ("layer doubled", "layer 2 is held 2", {}, None, lambda p: stage(p, 1, layers=(2, 2, 3))),
    ("layers not consecutive", "stage 1 holds layers 2, 4", {}, None,
     lambda p: stage(stage(p, 1, layers=(2, 4)), 2, layers=(3, 5))),
    ("layers out of order", "stage 2 holds layer 2 after layer 5", {}, None,
     lambda p: stage(stage(p, 1, layers=(4, 5)), 2, layers=(2, 3))),
    ("layers out of order", "layer 2 after layer 3", {}, None,
     lambda p: stage(p, 1, layers=(3, 2))),
    ("GPU out of range", "rank 63 is GPU 512", {}, None,
     lambda p: gpus(p, 0, 7, lambda ids: [*ids[:-1], 512])),
    ("GPU out of range", "gpu 600", {}, None, lambda p: rows(p, put(0, GPU, 600))),
    ("GPU doubled in a stage", "GPU 64 is replica 0 stage 1 rank 0", {}, None,
     lambda p: gpus(p, 0, 1, lambda ids: [*ids[:-1], 64])),
    ("GPU in two stages", "GPU 0 is replica 0 stage 0 rank 0 and replica 0 stage 1", {}, None,
     lambda p: gpus(p, 0, 1, lambda ids: [*ids[:-1], 0])),
    ("GPU in two replicas", "GPU 0 is replica 0", LAX, REPLICATED,
     lambda p: gpus(p, 1, 0, lambda ids: [0, *ids[1:]])),
    ("grid identity broken", "GPUs listed = 63", {}, None,
     lambda p: gpus(p, 0, 4, lambda ids: ids[:-1])),
    ("grid identity broken", "attn_dp 16 = 32", {}, None, lambda p: stage(p, 4, attn_dp=16)),
    ("grid identity broken", "spread 1 = 32", {}, None, lambda p: stage(p, 4, spread=1)),
    ("uneven heads", "16 heads and dense columns do not divide by tp = 3", ANALYTIC, None,
     lambda p: stage(p, 0, tp=3)),
    ("uneven columns", "6144 expert columns do not divide by etp = 5", ANALYTIC, None,
     lambda p: stage(p, 0, etp=5)),
    ("uneven experts", "16 experts do not divide by ep = 5", {}, None,
     lambda p: stage(p, 0, ep=5)),
    ("uneven experts per rank", "expert rank 0 holds 2 experts, expected 1", {}, None,
     lambda p: rows(p, crowd)),
    ("expert out of range", "expert 16, expected 0 to 15", {}, None,
     lambda p: rows(p, put(7, EXPERT, 16))),
    ("copy out of range", "row 7: copy 1", {}, None, lambda p: rows(p, put(7, COPY, 1))),
    ("shard out of range", "row 7: shard 2", {}, None, lambda p: rows(p, put(7, SHARD, 2))),
    ("layer out of range", "row 7: layer 99", {}, None, lambda p: rows(p, put(7, LAYER, 99))),
    ("expert shard lost", "layer 3 expert 2: no GPU holds shard 1", {}, None,
     lambda p: rows(p, lambda t: t[~(t[:, :4] == (3, 2, 0, 1)).all(axis=1)])),
    ("expert shard lost", "replica 1 layer 0 expert 0", LAX, REPLICATED,
     lambda p: rows(p, without((COPY, 1), (LAYER, 0)))),
    ("expert shard lost", "replica 0 layer 0 expert 0", LAX, REPLICATED,
     lambda p: rows(p, without((COPY, 0)))),
    ("expert shard lost", "replica 0 layer 3 expert 2: no GPU holds shard 1", LAX, REPLICATED,
     lambda p: rows(following(p), without((LAYER, 3), (EXPERT, 2), (SHARD, 1)))),
    ("expert shard lost", "replica 0 layer 2 expert 0", MIXED, None,
     lambda p: rows(p, move_experts_to_dense_layer)),
    ("expert in a layer without experts", "layer 1 expert 0 is on GPU 64, but layer 1 has no",
     MIXED, None, lambda p: rows(p, move_experts_to_dense_layer)),
    ("replica unlike the first", "but its stage 2 has 63 GPUs, not 64", LAX, REPLICATED,
     lambda p: gpus(following(p), 1, 2, lambda ids: ids[:-1])),
    ("expert shards outside their container",
     "replica 1, laid out as replica 0 layer 0 expert 3: shards are on GPUs 262, 264", LAX,
     REPLICATED, lambda p: gpus(following(p), 1, 0, lambda ids: [*ids[:7], ids[8], ids[7],
                                                                 *ids[9:]])),
    ("GPU in two replicas", "GPU 0 is replica 0", LAX, REPLICATED,
     lambda p: gpus(following(p), 1, 0, lambda ids: [0, *ids[1:]])),
    ("expert shard doubled", "layer 0 expert 0: shard 0 is held 2 times", {}, None,
     lambda p: rows(p, lambda t: np.vstack([t, t[:1]]))),
    ("expert shard outside its stage", "is on GPU 511, which is not one of stage 0", {}, None,
     lambda p: rows(p, put(0, GPU, 511))),
    ("expert shards apart", "layer 0 expert 0", {}, None, lambda p: rows(p, swap(1, 3))),
    ("expert shards swapped", "layer 0 expert 0: shards 0, 1 are on ranks 1, 0", {}, None,
     lambda p: rows(p, swap(0, 1))),
    ("layer over several expert grids", "layer 0: its experts are in grids 0 to 1", {}, None,
     lambda p: rows(p, swap_experts)),
    ("placement in a dense model", "512 expert shards", DENSE, {"pp": 8, "tp": 64},
     lambda p: replace(p, placement=np.zeros((512, 5), dtype=np.int64))),
    ("idle GPU", "64 of 512 GPUs are in no stage: GPU 448", {}, None,
     lambda p: gpus(p, 0, 7, lambda ids: [g - 448 for g in ids])),
    ("idle GPU", "256 of 512", {"requirements.coverage": "every_gpu"},
     {**DOCUMENT, "pp": 4}, lambda p: p),
    ("batch out of range", "expected 1 to 8: a step takes 8,192 tokens of prompts", PROMPTS,
     None, lambda p: replace(p, batch=0)),
    ("batch out of range", "batch = 9", PROMPTS, None, lambda p: replace(p, batch=9)),
    ("batch out of range", "expected 1 to 1: a step takes one of the 2 parts", PROMPTS, None,
     lambda p: replace(p, batch=2, chunks=2)),
    ("batch out of range", "batch = 41", OPEN_DECODE, None, lambda p: replace(p, batch=41)),
    # A prompt of 20,000 tokens takes 3 steps of up to 8,192; one comes in 100 steps of a sequence.
    ("batch out of range", "expected 1 to 33: beyond that, prompts arrive as fast", SERVING,
     None, lambda p: replace(p, batch=34)),
    ("batch out of range", "no batch is small enough", SHORT_ANSWERS, None, lambda p: p),
    ("batch out of range", "batch = 8, but workload 'prefill' gives the batch", {}, None,
     lambda p: replace(p, batch=8)),
    ("chunks out of range", "prompts of 20,000 tokens in 2 parts, expected 3 to 20,000", SERVING,
     None, lambda p: replace(p, chunks=2)),
    ("chunks out of range", "in 0 parts", PROMPTS, None, lambda p: replace(p, chunks=0)),
    ("chunks out of range", "chunks = 2, but workload 'prefill' gives", {}, None,
     lambda p: replace(p, chunks=2)),
    ("several replicas under partition", "2 replicas", {}, REPLICATED, lambda p: p),
    ("several shards on one GPU", "GPU 0 holds 2", {}, REPLICATED, lambda p: p),
    ("GPU without a shard", "GPU 2 holds no expert shard", {}, None, lambda p: rows(p, crowd)),
    ("tensor group outside its container", "stage 0: tp group 3 = GPUs 6, 8", {}, None,
     lambda p: gpus(p, 0, 0, lambda ids: [*ids[:7], 8, 7, *ids[9:]])),
    ("expert shards outside their container", "layer 0 expert 3: shards are on GPUs 6, 8", {}, None,
     lambda p: rows(p, swap(7, 8))),
    ("stage outside its container", "its 64 GPUs lie in 2 domains of 64", {}, None,
     lambda p: gpus(gpus(p, 0, 0, lambda ids: [*ids[:-2], 64, 65]), 0, 1,
                    lambda ids: [62, 63, *ids[2:]])),
    ("too many expert grids", "stage 1: 2 expert grids, at most 1 allowed",
     {"requirements.max_spread": 1}, None, lambda p: p),
    ("context parallel size over its limit", "cp = 2, at most 1", {}, {**DOCUMENT, "cp": 2},
     lambda p: p),
    ("memory over capacity", "GPU 0 holds 39.1 MB (39,062,500 bytes), 39.0 MB are allowed",
     {"cluster.gpu.memory_bytes": 39e6}, None, lambda p: p),
    ("memory over capacity", "GPU 0 holds 78.1 MB", {"cluster.gpu.memory_bytes": 64e6}, None,
     lambda p: rows(p, lambda t: np.vstack([t, t[:1]]))),
    ("memory over capacity", "39.1 MB (39,062,500 bytes), 32.0 MB",
     {"requirements.max_memory_fraction": 0.0005}, None, lambda p: p),
    ("TTFT over limit", "TTFT is 1.60 s", {"requirements.max_ttft_us": 1.5e6}, None, lambda p: p),
    ("TPOT over limit", "TPOT is 1.60 s", {**DECODE, "requirements.max_tpot_us": 1e6}, None,
     lambda p: p),
    ("throughput under target", "61,440 tokens/ms", {"requirements.min_tokens_per_s": 7e7}, None,
     lambda p: p),
    ("throughput per GPU under target", "120,000 tokens/s",
     {"requirements.min_tokens_per_s_per_gpu": 130e3}, None, lambda p: p),
    ("rule broken", "same_tp: require tp == etp does not hold in replica 0 stage 0", {},
     {**DOCUMENT, "tp": 4}, lambda p: p),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "says", "changes", "degrees", "corrupt"),
    CORRUPTIONS,
    ids=[f"{kind}-{says}"[:70] for kind, says, *_ in CORRUPTIONS],
)
def test_corruption_is_caught_and_named(document_scenario, kind, says, changes, degrees, corrupt):
    scenario = document_scenario(changes)
    plan = corrupt(plan_of(scenario, degrees))
    report = verify_plan(scenario, plan)
    messages = [v.message for v in report.violations if v.kind == kind]
    assert any(says in message for message in messages), report.violations
    assert not report.ok


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"tokens_per_s": 61.5e6}, "tokens_per_s is stated as 61,500,000, recomputed 61,440,000"),
        ({"tokens_per_s_per_gpu": 120_001}, "tokens_per_s_per_gpu"),
        ({"ttft_ms": 1500}, "ttft_ms is stated as 1,500, recomputed 1,600"),
        ({"ttft_ms": None}, "ttft_ms is stated as nothing"),
        ({"ttft_ms": "fast"}, "ttft_ms is stated as 'fast'"),
        ({"ttft_ms": float("nan")}, "ttft_ms"),
        ({"tpot_ms": 3.0}, "tpot_ms is stated as 3, recomputed nothing"),
        ({"concurrency": 81}, "concurrency is stated as 81, recomputed 80"),
        ({"batch_per_gpu": 21}, "batch_per_gpu"),
        ({"peak_memory_bytes": 39_062_600}, "peak_memory_bytes"),
        ({"memory": {"weights": 4e7}}, "memory.weights"),
        ({"memory": {"kv_cache": 1.0}}, "memory.kv_cache is stated as 1, recomputed nothing"),
        ({"num_gpus": 511}, "num_gpus is stated as 511, recomputed 512"),
        ({"idle_gpus": 1}, "idle_gpus"),
        ({"objective": {"name": "throughput", "value": 7e7, "unit": "tokens/s"}}, "throughput"),
        ({"objective": {"name": "ttft", "value": 1.5, "unit": "s"}}, "objective ttft"),
        ({"objective": {"name": "ttft", "value": 1.6, "unit": "kg"}}, "unit 'kg'"),
        ({"num_gpus": 10**400}, "num_gpus is stated as 1000"),
    ],
)
def test_falsified_metric_is_caught_and_named(document_scenario, stated, says):
    scenario = document_scenario()
    report = verify_plan(scenario, plan_of(scenario), stated_metrics=stated)
    assert [v.kind for v in report.violations] == ["falsified metric"]
    assert says in report.violations[0].message


def test_true_metrics_are_not_called_falsified(document_scenario):
    scenario = document_scenario()
    stated = {
        "tokens_per_s": 61_440_000.0, "tokens_per_s_per_gpu": 120_000, "ttft_ms": 1600.000001,
        "tpot_ms": None, "concurrency": 80, "batch_per_gpu": 20.0, "stage_boundaries": 7,
        "peak_memory_bytes": 39_062_501, "num_gpus": 512, "idle_gpus": 0, "unheard_of": "x",
        "memory": {"weights": 39_062_500, "kv_cache": None, "activations": None, "reserved": None},
        "objective": {"name": "throughput", "value": 61_440, "unit": "tokens/ms", "gap": 0.0},
    }  # fmt: skip
    assert verify_plan(scenario, plan_of(scenario), stated_metrics=stated).ok


def test_every_kind_of_violation_has_a_corruption():
    """Those of documents, "falsified ...", have theirs here and in test_stated.py.

    Those of plans with two roles have theirs where such plans are tested.
    """
    elsewhere = {"falsified metric", "falsified degrees", "falsified pool", "falsified proof"}
    elsewhere |= {kind for kind in KINDS if kind.endswith("two roles")} | {"prefill too busy"}
    assert {kind for kind, *_ in CORRUPTIONS} | elsewhere == set(KINDS)


@pytest.mark.parametrize(
    ("changes", "degrees"),
    [
        ({}, DOCUMENT),
        (LAX, REPLICATED),
        (ANALYTIC, DOCUMENT),
        (DECODE, DOCUMENT),
        (MIXED, DOCUMENT),
        (SERVING, DOCUMENT),
        (PROMPTS, DOCUMENT),
        (OPEN_DECODE, DOCUMENT),
        (DENSE, {"pp": 8, "tp": 8, "attn_dp": 8}),
        ({"requirements.coverage": "every_gpu"}, REPLICATED),
        (LAX, {"pp": 16, "tp": 2, "ep": 8, "etp": 2}),
    ],
)
def test_clean_plan_has_no_violation(document_scenario, changes, degrees):
    scenario = document_scenario(changes)
    report = verify_plan(scenario, plan_of(scenario, degrees))
    assert report.violations == ()
    assert report.metrics is not None


def test_broken_plan_is_reported_without_metrics(document_scenario):
    scenario = document_scenario()
    plan = gpus(plan_of(scenario), 0, 7, lambda ids: [*ids[:-1], 512])
    assert verify_plan(scenario, plan).metrics is None


def test_many_violations_of_a_kind_are_counted_not_listed(document_scenario):
    scenario = document_scenario()
    plan = rows(plan_of(scenario), lambda t: t[t[:, LAYER] > 3])
    lost = [v for v in verify_plan(scenario, plan).violations if v.kind == "expert shard lost"]
    assert len(lost) == 4
    assert lost[-1].message == "and 125 more of this kind"


@pytest.mark.parametrize(
    ("disabled", "changes", "degrees"),
    [
        ("coverage", {}, REPLICATED),
        ("ttft", {"requirements.max_ttft_us": 1.0}, DOCUMENT),
        ("memory", {"cluster.gpu.memory_bytes": 1.0}, DOCUMENT),
        ("throughput", {"requirements.min_tokens_per_s": 1e12}, DOCUMENT),
        (
            "tensor_parallel_within",
            {"cluster.gpus_per_node": 1, "cluster.num_nodes": 512},
            DOCUMENT,
        ),
        ("all_to_all_within", {"cluster.gpus_per_domain": 8}, DOCUMENT),
        ("same_tp", {}, {**DOCUMENT, "tp": 4}),
    ],
)
def test_requirement_that_the_recipe_disables_is_not_checked(
    document_scenario, disabled, changes, degrees
):
    strict = document_scenario(changes)
    assert not verify_plan(strict, plan_of(strict, degrees)).ok
    lax = document_scenario({**changes, "recipe.disable": [disabled]})
    assert verify_plan(lax, plan_of(lax, degrees)).violations == ()
