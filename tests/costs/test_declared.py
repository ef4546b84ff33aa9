"""The declared model gives back the numbers of the document it was written for."""

import numpy as np
import pytest

from autopar.costs.declared import DeclaredCosts
from autopar.costs.registry import cost_model
from autopar.errors import SpecError
from autopar.problem import Candidate, Candidates
from autopar.specs import (
    LLM,
    Architecture,
    Cluster,
    Declared,
    Gpu,
    Recipe,
    Scenario,
    Workload,
)
from autopar.specs.counting import parameters

DOCUMENT = Candidate(replicas=1, pp=8, tp=2, cp=1, attn_dp=0, ep=16, etp=2, spread=0)


def scenario(phase="prefill", num_experts=16, **declared):
    stated = {
        "flops_per_token": "0.5 GFLOP",
        "compute_efficiency": "60 %",
        "utilisation": "25 %",
        "layer_time_us": "100 ms",
    }
    gpu = Gpu(name="g", peak_flops_per_s="400 TFLOPS", memory_bytes="64 GB")
    size = {"batch_tokens": 10_240} if phase == "prefill" else {"batch_sequences": 10_240}
    return Scenario(
        name="document",
        llm=LLM(name="m", num_layers=16, num_experts=num_experts, num_parameters="10 B"),
        cluster=Cluster(name="c", gpu=gpu, num_nodes=64, gpus_per_node=8, gpus_per_domain=64),
        workload=Workload(name="w", phase=phase, sequence_tokens=1024, **size),
        cost_model="declared",
        declared=Declared(**(stated | declared)),
        recipe=Recipe(name="default"),
    )


def stages(model, candidate, layers_per_stage):
    edges = np.arange(0, 17, layers_per_stage)
    rows = Candidates.of([candidate] * (len(edges) - 1))
    return model.stage_costs(rows, edges[:-1], edges[1:])


def test_the_documents_plan_has_the_documents_numbers():
    """Rate: 512 x 400e12 x 0.6 x 0.25 / 0.5e9 = 61,440,000 tokens/s, 120 tokens/ms per GPU.

    Stage: 2 layers x 100 ms; 8 stages: 1.6 s. Weights: 20 GB / 16 layers / (16 x 2) parts, and one
    part on each GPU: 39.0625 MB. Nothing else is stated.
    """
    costs = stages(DeclaredCosts(scenario()), DOCUMENT, 2)
    assert costs.tokens_per_s == pytest.approx(61_440_000)
    assert costs.tokens_per_s.min() / 512 / 1000 == pytest.approx(120)
    assert costs.time_us.tolist() == pytest.approx([200_000] * 8)
    assert costs.time_us.sum() == pytest.approx(1.6e6)
    assert costs.weights_bytes == pytest.approx(39_062_500)
    assert costs.memory_bytes == pytest.approx(39_062_500)
    assert costs.kv_cache_bytes is costs.activation_bytes is costs.reserved_bytes is None
    assert costs.tpot_us is None


def test_two_layers_on_one_grid_hold_twice_the_weights():
    costs = stages(DeclaredCosts(scenario()), Candidate(1, 8, 2, 1, 16, 16, 2, 1), 2)
    assert costs.weights_bytes == pytest.approx(2 * 39_062_500)


def test_a_dense_model_is_sharded_by_tensor_parallelism_only():
    """20 GB / 16 layers x 2 layers / tp 4 = 625 MB."""
    costs = stages(DeclaredCosts(scenario(num_experts=0)), Candidate(1, 8, 4, 1, 1, 1, 1, 4), 2)
    assert costs.weights_bytes == pytest.approx(625e6)


def test_a_layer_without_experts_is_sharded_by_tensor_parallelism_in_a_mixed_model():
    """20 GB / 4 layers: dense over tp 2, 2.5 GB each; experts over ep 4 x etp 1, 1.25 GB each.

    Dense, experts, experts, dense. Two grids serve one layer each; one grid serves both.
    """
    dense, experts = {"feed_forward": "dense"}, {"feed_forward": "moe"}
    architecture = {
        "hidden_size": 8,
        "vocab_size": 9,
        "attention": {},
        "feed_forward": {
            "dense": {"kind": "dense", "ffn_size": 8},
            "moe": {"kind": "moe", "num_experts": 4, "experts_per_token": 1, "expert_size": 8},
        },
        "layers": [{"layers": [dense, experts, experts, dense]}],
    }
    counted = parameters(Architecture.model_validate(architecture))
    llm = LLM(
        name="m", num_layers=4, num_experts=4, num_parameters=counted,
        bytes_per_parameter=2, architecture=architecture,
    )  # fmt: skip
    unit = counted * 2 / 4
    model = DeclaredCosts(scenario().model_copy(update={"llm": llm}))
    for spread, expected in ((1, 2 / 2 + 2 / 4), (2, 2 / 2 + 1 / 4)):
        row = Candidates.of([Candidate(1, 1, 2, 1, 2 * spread, 4, 1, spread)])
        whole = model.stage_costs(row, np.array([0]), np.array([4]))
        assert whole.weights_bytes[0] == pytest.approx(expected * unit)
        assert model.bounds(row).memory_bytes[0] == pytest.approx(expected * unit)


def test_decode_states_a_time_per_token_over_all_micro_batches():
    """8 stages x 200 ms."""
    costs = stages(DeclaredCosts(scenario(phase="decode")), DOCUMENT, 2)
    assert costs.tpot_us == pytest.approx(1.6e6)


def test_the_fullest_of_uneven_stages_bounds_the_time_per_token():
    """16 layers over 5 stages: one has 4, so 5 x 4 x 100 ms."""
    row = Candidates.of([Candidate(1, 5, 2, 1, 16, 16, 2, 1)])
    assert DeclaredCosts(scenario(phase="decode")).bounds(row).tpot_us[0] == pytest.approx(2e6)


def test_what_is_stated_is_counted_and_what_is_not_is_noted():
    model = DeclaredCosts(scenario(kv_cache_bytes_per_gpu="1 GB", reserved_bytes_per_gpu="2 GB"))
    costs = stages(model, DOCUMENT, 2)
    assert costs.memory_bytes == pytest.approx(3e9 + 39_062_500)
    assert any("activation not stated" in note for note in model.notes())
    assert any("kv cache, activation, reserved" in n for n in DeclaredCosts(scenario()).notes())


def test_an_open_batch_is_refused():
    """The stated times are those of one batch."""
    open_work = Workload(name="w", phase="serving", input_tokens=8, output_tokens=8)
    changed = scenario().model_copy(update={"workload": open_work})
    with pytest.raises(
        SpecError, match="workload 'w' leaves the batch open; expected batch_tokens"
    ):
        DeclaredCosts(changed)


def test_without_its_section_the_model_is_refused():
    bare = scenario().model_copy(update={"declared": None})
    with pytest.raises(SpecError, match="section 'declared'"):
        DeclaredCosts(bare)


def test_the_scenario_chooses_the_model_by_name(analytic_scenario):
    assert cost_model(scenario()).name == "declared"
    assert cost_model(analytic_scenario()).name == "analytic"
    misspelt = scenario().model_copy(update={"cost_model": "analytik"})
    with pytest.raises(SpecError, match="'analytik'; did you mean 'analytic'"):
        cost_model(misspelt)
