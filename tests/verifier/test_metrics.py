"""Metrics by walking every GPU: hand-worked, equal to the cost tables, and fast enough at size."""

from dataclasses import replace

import numpy as np
import pytest

import autopar
from autopar.catalog import load_scenario
from autopar.costs.operations.parts import RUNTIME_RESERVE_BYTES
from autopar.errors import SpecError
from autopar.plans import plan_from_spec
from autopar.specs import PlanSpec, RuleSpec, Workload
from autopar.units import format_us
from autopar.verifier import verify_plan
from autopar.verifier.layout import layout_of
from autopar.verifier.metrics import measure
from autopar.verifier.quantities import quantities

DOCUMENT = {"pp": 8, "tp": 2, "ep": 16, "etp": 2, "spread": 2}


def plan_of(scenario, degrees, **fields):
    spec = {"name": "plan", "llm": scenario.llm.name, "degrees": degrees, **fields}
    return plan_from_spec(PlanSpec.model_validate(spec), scenario)


def test_document_plan_delivers_what_the_document_derives(document_scenario):
    """120 tokens/ms per GPU, 8 x 200 ms, 20 GB over 512 GPUs, 10 prompts per stage in flight."""
    scenario = document_scenario()
    metrics = verify_plan(scenario, plan_of(scenario, DOCUMENT)).metrics
    assert metrics.tokens_per_s == 512 * 120_000
    assert metrics.tokens_per_s_per_gpu == 120_000
    assert metrics.ttft_us == 1.6e6
    assert metrics.tpot_us is None
    assert metrics.peak_memory_bytes == metrics.weights_bytes == 20e9 / 512
    assert metrics.kv_cache_bytes is None
    assert (metrics.concurrency, metrics.batch_per_gpu, metrics.stage_boundaries) == (80, 20.0, 7)


def test_memory_is_that_of_the_gpu_which_really_holds_most(document_scenario):
    """GPU 0 holds a second shard of 39.0625 MB; stated parts are added on every GPU in use."""
    scenario = document_scenario(
        {"declared.kv_cache_bytes_per_gpu": 1e9, "declared.reserved_bytes_per_gpu": 2e9}
    )
    plan = plan_of(scenario, DOCUMENT)
    placement = plan.placement.copy()
    placement[5, 4] = 0
    metrics = verify_plan(scenario, replace(plan, placement=placement)).metrics
    assert metrics.weights_bytes == 2 * 20e9 / 512
    assert metrics.peak_memory_bytes == 2 * 20e9 / 512 + 3e9


def test_dense_weights_are_split_over_tp_and_stages(document_scenario):
    """20 GB over 16 layers, 2 per stage, cut in 8: 312.5 MB."""
    scenario = document_scenario(
        {"llm.num_experts": 0, "requirements.coverage": "up_to", "rules": []}
    )
    metrics = verify_plan(scenario, plan_of(scenario, {"pp": 8, "tp": 8})).metrics
    assert metrics.weights_bytes == 20e9 / 16 * 2 / 8
    assert metrics.tokens_per_s == 64 * 120_000


def test_tpot_is_the_slowest_stage_once_per_stage(document_scenario):
    """Splits 10 + 6: 2 stages x 10 layers x 100 ms."""
    scenario = document_scenario({
        "requirements.coverage": "up_to",
        "workload": {"name": "decode", "phase": "decode", "batch_sequences": 64,
                     "sequence_tokens": 1024},
    })  # fmt: skip
    plan = plan_of(scenario, {"pp": 2, "tp": 2, "ep": 8, "etp": 2}, layers_per_stage=[10, 6])
    metrics = verify_plan(scenario, plan).metrics
    assert metrics.tpot_us == 2e6
    assert metrics.ttft_us is None


@pytest.mark.parametrize(
    ("work", "batch", "in_flight", "per_gpu"),
    [
        # 10,240 tokens are 10 prompts of 1,024 in each of 8 stages of 2 replicas, on 1,024 GPUs.
        ({"phase": "prefill", "batch_tokens": 10240, "sequence_tokens": 1024}, None, 160, 20.0),
        ({"phase": "prefill", "batch_tokens": 100, "sequence_tokens": 70}, None, 32, 100 / 512),
        ({"phase": "decode", "batch_sequences": 64, "sequence_tokens": 1024}, None, 128, 0.125),
        # 32 groups of 5 in 8 micro-batches of 2 replicas.
        ({"phase": "decode", "input_tokens": 100, "output_tokens": 10}, 5, 2560, 2.5),
        ({"phase": "prefill", "input_tokens": 100}, 5, 2560, 2.5),
    ],
)
def test_requests_in_flight_are_counted(document_scenario, work, batch, in_flight, per_gpu):
    """Two replicas of the document's plan; a batch that is open is one per group and stage."""
    scenario = document_scenario(
        {
            "workload": {"name": "work", **work}, "requirements.coverage": "up_to",
            "requirements.max_ttft_us": None, "cluster.num_nodes": 128,
        }
    )  # fmt: skip
    plan = plan_of(scenario, {"replicas": 2, **DOCUMENT}, batch=batch)
    metrics = verify_plan(scenario, plan).metrics
    assert metrics.concurrency == in_flight
    assert metrics.batch_per_gpu == per_gpu


def test_serving_holds_as_many_requests_as_come_in_the_time_of_one(document_scenario):
    """Little's law: 61,440 tokens/ms are 61,440/99 requests/ms of 99 tokens after the first.

    One stays 1.6 s until its first token and 99 times 1.6 s after it: 160 s.
    """
    work = {"name": "work", "phase": "serving", "input_tokens": 100, "output_tokens": 100}
    scenario = document_scenario({"workload": work})
    metrics = verify_plan(scenario, plan_of(scenario, DOCUMENT, batch=4)).metrics
    assert (metrics.ttft_us, metrics.tpot_us) == (1.6e6, 1.6e6)
    assert metrics.concurrency == round(61_440_000 / 99 * 160)
    assert metrics.batch_per_gpu == 4 * 32 * 8 / 512


def test_replica_without_placement_is_laid_out_as_the_first(mixed_scenario):
    """Every number is the same as with all replicas listed, also on each GPU."""
    scenario = mixed_scenario()
    degrees = {"replicas": 3, "pp": 2, "tp": 2, "ep": 3, "etp": 2, "spread": 1}
    plan = plan_of(scenario, degrees, batch=3, layers_per_stage=[3, 3])
    first = replace(plan, placement=plan.placement[plan.placement[:, 2] == 0])
    assert len(first.placement) * 3 == len(plan.placement)
    both = [measure(scenario, p, layout_of(p, scenario.llm.num_layers)) for p in (plan, first)]
    assert both[0].metrics == both[1].metrics
    np.testing.assert_array_equal(both[0].memory_bytes, both[1].memory_bytes)
    assert len(set(both[0].memory_bytes[:36])) > 1
    np.testing.assert_array_equal(both[0].memory_bytes[:12], both[0].memory_bytes[12:24])
    for name in ("expert_parts", "expert_grids", "parts_per_gpu", "gpus_per_layer"):
        books = [
            quantities(scenario, p, layout_of(p, scenario.llm.num_layers), None)
            for p in (plan, first)
        ]
        assert books[0][name] == books[1][name], name


def test_replica_that_lists_experts_of_its_own_is_measured_by_these(mixed_scenario):
    """Expert 1 joins expert 0 in replica 1 alone; replica 2 still follows the first."""
    scenario = mixed_scenario()
    degrees = {"replicas": 3, "pp": 2, "tp": 2, "ep": 3, "etp": 2, "spread": 1}
    plan = plan_of(scenario, degrees, batch=3, layers_per_stage=[3, 3])
    table = plan.placement[plan.placement[:, 2] < 2].copy()
    one, two = ((table[:, :3] == (2, expert, 1)).all(axis=1) for expert in (0, 2))
    table[two, 4] = table[one, 4]
    crowded = replace(plan, placement=table)
    loads = [
        measure(scenario, p, layout_of(p, scenario.llm.num_layers)).loads for p in (plan, crowded)
    ]
    slower = loads[1].tick_us - loads[0].tick_us
    assert slower[1, 0] > 0
    slower[1, 0] = 0
    assert not slower.any()
    moved = loads[1].weights_bytes - loads[0].weights_bytes
    assert sorted(np.flatnonzero(moved)) == [12, 13, 14, 15]
    assert verify_plan(scenario, crowded).violations[0].kind == "uneven experts per rank"


def test_doubled_expert_slows_its_stage_and_fills_its_gpu(analytic_scenario):
    """The analytic walk follows the placement, not the degrees."""
    scenario = analytic_scenario(batch=4800)
    plan = plan_of(scenario, {"pp": 1, "tp": 1, "ep": 6, "etp": 2})
    before = verify_plan(scenario, plan).metrics
    placement = plan.placement.copy()
    first = (placement[:, 0] == 0) & (placement[:, 1] == 0)
    second = (placement[:, 0] == 0) & (placement[:, 1] == 1)
    placement[second, 4] = placement[first, 4]
    after = verify_plan(scenario, replace(plan, placement=placement)).metrics
    assert after.tpot_us > before.tpot_us
    assert after.weights_bytes == pytest.approx(before.weights_bytes + 3 * 1000 * 750 * 2)
    assert after.reserved_bytes == RUNTIME_RESERVE_BYTES


@pytest.mark.parametrize(("chunks", "split"), [(1, (1, 3)), (3, (2, 2)), (3, (1, 3))])
def test_parts_of_a_prompt_that_queue_before_the_slowest_stage_are_noted(
    chunks, split, analytic_scenario
):
    """The last stage of 3 layers holds up two parts of three for as long as it is over the mean."""
    scenario = analytic_scenario(
        num_experts=0, phase="prefill", input_tokens=3000, prefill_chunk_tokens=3000,
        work={"prompts_ahead": 1.0},
    )  # fmt: skip
    plan = plan_of(
        scenario, {"pp": 2, "tp": 1}, layers_per_stage=list(split), batch=1, chunks=chunks
    )
    notes = verify_plan(scenario, plan).notes
    if chunks == 1 or split == (2, 2):
        assert notes == ()
        return
    loads = measure(scenario, plan, layout_of(plan, 4)).loads
    more_us = (loads.tick_us.max() - loads.tick_us.mean()) * 2 * 2
    (note,) = notes
    assert note.startswith("the 3 parts of a prompt are charged with the mean time of the 2 stages")
    assert f"makes TTFT {format_us(float(more_us))} longer than stated" in note


def test_group_that_lies_further_apart_than_it_is_charged_is_noted(analytic_scenario):
    scenario = analytic_scenario(num_experts=0)
    straight = plan_of(scenario, {"pp": 4, "tp": 4})
    assert verify_plan(scenario, straight).notes == ()
    spec = {
        "name": "plan", "llm": "small-llm", "degrees": {"pp": 1, "tp": 4},
        "stages": [{"index": 0, "layers": [0, 1, 2, 3], "gpus": [2, 3, 4, 5]}],
    }  # fmt: skip
    torn = plan_from_spec(PlanSpec.model_validate(spec), scenario)
    notes = verify_plan(scenario, torn).notes
    assert notes[0] == (
        "1 tp group in several nodes, though one of 4 GPUs has room: the links between nodes are "
        "charged"
    )


def test_groups_that_cross_the_fabric_are_noted_in_the_answer_too(analytic_scenario):
    """Nodes of 4 and no larger domains: a group of 6 crosses, one of 4 does not."""
    wide = analytic_scenario(num_experts=0, requirements={"coverage": "up_to"})
    cluster = wide.cluster.model_copy(update={"gpus_per_domain": None})
    scenario = wide.model_copy(update={"cluster": cluster})
    assert verify_plan(scenario, plan_of(scenario, {"pp": 2, "tp": 4})).notes == ()
    (note,) = verify_plan(scenario, plan_of(scenario, {"pp": 1, "tp": 6})).notes
    assert note.startswith("tp groups of 6 GPUs cross the fabric between domains of 4")
    only = scenario.model_copy(
        update={"rules": (RuleSpec(name="wide", because="a test", require="tp == 6"),)}
    )
    assert note in autopar.solve(only, diagnose=False).notes


def test_experts_cut_inside_of_scale_blocks_are_noted_for_vllm_alone():
    """Experts of 1,536 columns: 192 over 8 ranks, 384 over 4, which are whole blocks of 128."""
    parts = {"llm": "qwen3-235b-a22b-fp8", "cluster": "1xhgx-h200", "workload": "chat-4k-1k"}
    by_engine = {
        packs: load_scenario(None, parts=parts, rule_packs=packs)
        for packs in ((), ("vllm",), ("sglang",))
    }

    def said(packs, **degrees):
        scenario = by_engine[packs]
        notes = verify_plan(scenario, plan_of(scenario, degrees, batch=8)).notes
        return [note for note in notes if "Triton" in note]

    (note,) = said(("vllm",), tp=8, ep=1, etp=8)
    assert note == (
        "etp 8 leaves 192 of 1536 columns of an expert on a GPU, not whole FP8 scale blocks of "
        "128: vLLM reads such experts with Triton kernels alone, which are slower than the times "
        "stated"
    )
    assert said(("vllm",), tp=4, ep=1, etp=4) == []
    assert said(("vllm",), tp=8, ep=8, etp=1) == []
    assert said((), tp=8, ep=1, etp=8) == said(("sglang",), tp=8, ep=1, etp=8) == []
    cut = RuleSpec(name="cut", because="a test", require="etp == 8")
    asked = by_engine[("vllm",)].model_copy(update={"rules": (cut,)})
    assert note in autopar.solve(asked, diagnose=False).notes


def test_unknown_cost_model_and_missing_architecture_are_errors(
    document_scenario, analytic_scenario
):
    scenario = document_scenario()
    plan = plan_of(scenario, DOCUMENT)
    other = scenario.model_copy(update={"cost_model": "guess"})
    with pytest.raises(SpecError, match="cannot recompute 'guess'"):
        verify_plan(other, plan)
    analytic = scenario.model_copy(update={"cost_model": "analytic"})
    with pytest.raises(SpecError, match="architecture: missing"):
        verify_plan(analytic, plan)
    work = Workload(name="w", phase="decode", batch_sequences=8, sequence_tokens=8)
    small = analytic_scenario().model_copy(update={"workload": work})
    bare = small.model_copy(update={"cluster": small.cluster.model_copy(update={"links": None})})
    with pytest.raises(SpecError, match="links"):
        verify_plan(bare, plan_of(bare, {"pp": 2, "tp": 1, "ep": 6}))


def test_requirement_that_the_workload_has_no_metric_for_is_noted(document_scenario):
    scenario = document_scenario({"requirements.max_tpot_us": 1.0})
    report = verify_plan(scenario, plan_of(scenario, DOCUMENT))
    assert report.ok
    assert any("max_tpot_us is not checked" in note for note in report.notes)


def test_every_replica_of_a_very_large_plan_is_looked_at(document_scenario):
    """131,072 GPUs in 4,096 replicas of 4 stages, of which only the first lists its experts."""
    scenario = document_scenario({
        "cluster.num_nodes": 16_384, "cluster.gpus_per_domain": 8,
        "requirements.coverage": "every_gpu",
    })  # fmt: skip
    degrees = {"replicas": 4096, "pp": 4, "tp": 2, "ep": 4, "etp": 2, "spread": 1}
    plan = plan_of(scenario, degrees)
    plan = replace(plan, placement=plan.placement[plan.placement[:, 2] == 0])
    report = verify_plan(scenario, plan)
    assert report.ok
    assert report.metrics.weights_bytes == 20e9 / 4 / 8
    assert report.metrics.concurrency == 10 * 4 * 4096
    replicas = list(plan.gpus)
    one, *others = replicas[3000]
    replicas[3000] = ((*one[:1], *one[2:], one[1]), *others)
    broken = verify_plan(scenario, replace(plan, gpus=tuple(replicas)))
    assert broken.ok  # another order of the same node
    replicas[3000] = ((replicas[2999][0][0], *one[1:]), *others)
    violations = verify_plan(scenario, replace(plan, gpus=tuple(replicas))).violations
    for kind, says in (
        ("GPU in two replicas", "replica 2999 stage 0 rank 0 and replica 3000 stage 0 rank 0"),
        ("tensor group outside its container", "replica 3000 stage 0: tp group 0"),
        ("stage outside its container", "replica 3000 stage 0: its 8 GPUs"),
        ("expert shards outside their container", "replica 3000, laid out as replica 0 layer 0"),
        ("idle GPU", "1 of 131,072 GPUs"),
    ):
        assert any(v.kind == kind and says in v.message for v in violations), kind


def test_large_plan_is_walked_shard_by_shard(document_scenario):
    """65,536 GPUs, 256 layers x 128 experts x TP2; one swapped pair among them is found."""
    scenario = document_scenario({
        "llm.num_layers": 256, "llm.num_experts": 128, "cluster.num_nodes": 8192,
        "cluster.gpus_per_domain": 256, "requirements.max_ttft_us": 1e9,
        "requirements.all_to_all_within": "cluster",
    })  # fmt: skip
    plan = plan_of(scenario, {"pp": 64, "tp": 2, "ep": 128, "etp": 2, "spread": 4})
    assert plan.placement.shape == (65_536, 5)
    assert verify_plan(scenario, plan).ok
    placement = plan.placement.copy()
    placement[[40_000, 40_001], 4] = placement[[40_001, 40_000], 4]
    report = verify_plan(scenario, replace(plan, placement=placement))
    assert [v.kind for v in report.violations] == ["expert shards swapped"]
