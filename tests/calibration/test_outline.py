"""What would run is counted, and its time follows from the planner's formulas."""

import pytest

from autopar.calibration.cases import Case, planned
from autopar.calibration.outline import expected_us, outline
from autopar.catalog import load_gpu
from autopar.costs.operations import kernels
from autopar.costs.operations.device import Device

H200 = load_gpu("h200-sxm-141gb")


def test_every_case_is_in_a_line():
    cases = planned(num_gpus=4)
    found = outline(cases, H200, 120.0, 4, ["a note"])
    assert found.timings == len(cases)
    assert [line.operation for line in found.lines][:3] == ["gemm", "gemm", "experts"]
    assert found.lines[0].sizes["m"] == (1, 8192)
    assert found.seconds == pytest.approx(sum(line.seconds for line in found.lines))
    assert (found.gpu, found.num_gpus, found.budget_s) == ("h200-sxm-141gb", 4, 120.0)
    assert found.notes == ("a note",)


def test_a_small_gpu_leaves_out_what_it_has_no_room_for():
    small = load_gpu("l4-24gb")
    assert outline(planned(), small, 1.0, 1).timings <= outline(planned(), H200, 1.0, 1).timings
    tiny = small.model_copy(update={"memory_bytes": 2e9})
    found = outline(planned(), tiny, 1.0, 1)
    assert 0 < found.timings < len(planned())
    assert max(line.memory_bytes for line in found.lines) <= 0.8 * 2e9


def test_a_case_takes_what_the_planner_says():
    device = Device.of(H200)
    us = expected_us(Case("gemm", "fp8", (256, 4096, 6144)), device)
    assert us == kernels.gemm_us(256, 4096, 6144, "fp8", device)
    assert expected_us(Case("elementwise", "triad", (3_000_000,)), device) == (
        kernels.elementwise_us(3e6, device)
    )


def test_a_prompt_reads_half_of_itself_and_a_cache_all_of_it():
    """Prefill: causal, so (s + 1) / 2 keys per query; decode: every key of the context."""
    device = Device.of(H200)
    shape = {"qk_head_dim": 64, "v_head_dim": 64, "kv_precision": "bf16", "device": device}
    prefill = kernels.prefill_attention_us(2000, 500.5, 2000, heads=8, kv_heads=2, **shape)
    case = Case("prefill_attention", "bf16", (2, 1000, 8, 2, 64))
    assert expected_us(case, device) == prefill
    decode = kernels.decode_attention_us(4, 1000, heads=8, kv_heads=2, **shape)
    assert expected_us(Case("decode_attention", "bf16", (4, 1000, 8, 2, 64)), device) == decode
