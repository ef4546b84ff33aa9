"""Metrics by walking every GPU: hand-worked, equal to the cost tables, and fast enough at size."""

from dataclasses import replace

import numpy as np
import pytest

from autopar.candidates import generate
from autopar.costs.operations.parts import RUNTIME_RESERVE_BYTES
from autopar.costs.registry import cost_model
from autopar.errors import SpecError
from autopar.plans import plan_from_spec
from autopar.problem import Problem
from autopar.segments import plan_costs
from autopar.specs import PlanSpec, Workload
from autopar.topology import Topology
from autopar.unfold import unfold
from autopar.verifier import verify_plan

DOCUMENT = {"pp": 8, "tp": 2, "ep": 16, "etp": 2, "spread": 2}


def plan_of(scenario, degrees, **fields):
    spec = {"name": "plan", "llm": scenario.llm.name, "degrees": degrees, **fields}
    return plan_from_spec(PlanSpec.model_validate(spec), scenario)


def test_document_plan_delivers_what_the_document_derives(document_scenario):
    """120 tokens/ms per GPU, 8 x 200 ms, 20 GB over 512 GPUs, one batch per stage in flight."""
    scenario = document_scenario()
    metrics = verify_plan(scenario, plan_of(scenario, DOCUMENT)).metrics
    assert metrics.tokens_per_s == 512 * 120_000
    assert metrics.tokens_per_s_per_gpu == 120_000
    assert metrics.ttft_us == 1.6e6
    assert metrics.tpot_us is None
    assert metrics.peak_memory_bytes == metrics.weights_bytes == 20e9 / 512
    assert metrics.kv_cache_bytes is None
    assert (metrics.concurrency, metrics.batch_per_gpu, metrics.stage_boundaries) == (8, 20.0, 7)


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


def splits_of(rng, num_layers, pp):
    cuts = np.sort(rng.choice(np.arange(1, num_layers), pp - 1, replace=False))
    return np.diff([0, *cuts.tolist(), num_layers]).tolist()


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize(
    ("num_experts", "coverage"),
    [(0, "every_gpu"), (6, "every_gpu"), (6, "up_to"), (4, "partition")],
)
def test_walk_arrives_at_the_numbers_of_the_cost_tables(
    analytic_scenario, phase, num_experts, coverage
):
    """Two programs, one physics: candidates of every shape, splits at random."""
    rng = np.random.default_rng(7)
    scenario = analytic_scenario(
        num_layers=4, num_experts=num_experts, num_shared_experts=1 if num_experts else 0,
        phase=phase, batch=130, sequence_tokens=27, ffn_hidden_size=1536,
    )  # fmt: skip
    update = {"max_context_parallel_size": 4, "coverage": coverage}
    requirements = scenario.requirements.model_copy(update=update)
    scenario = scenario.model_copy(update={"requirements": requirements})
    topology = Topology.of(scenario.cluster, "cluster", "cluster")
    rows = generate(scenario, coverage, topology, fewer_replicas=True)
    problem = Problem(scenario, topology, rows, cost_model(scenario))
    compared = 0
    for index in rng.permutation(len(rows))[:60].tolist():
        candidate = rows.row(index)
        split = splits_of(rng, 4, candidate.pp)
        if min(split) < candidate.spread:
            continue
        plan = unfold(problem, candidate, split)
        metrics, costs = verify_plan(scenario, plan).metrics, plan_costs(plan, problem)
        fullest = int(np.argmax(costs.memory_bytes))
        assert metrics.tokens_per_s == pytest.approx(costs.tokens_per_s.min(), rel=1e-9)
        assert metrics.peak_memory_bytes == pytest.approx(costs.memory_bytes[fullest], rel=1e-9)
        assert metrics.weights_bytes == pytest.approx(costs.weights_bytes[fullest], rel=1e-9)
        if phase == "prefill":
            assert metrics.ttft_us == pytest.approx(costs.time_us.sum(), rel=1e-9)
        else:
            assert metrics.tpot_us == pytest.approx(costs.tpot_us.max(), rel=1e-9)
        compared += 1
    assert compared >= 10


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
    assert "1 tp groups would fit in one node of 4 GPUs but lie in more" in notes[0]


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
