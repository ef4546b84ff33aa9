"""One kernel at a time, by hand, on a device of 1e15 FLOP/s and 1e12 bytes/s."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.costs.operations import kernels
from autopar.costs.operations.kernels import Device
from autopar.errors import SpecError
from autopar.specs import Gpu

DEVICE = Device(peak_flops_per_s=1e15, bandwidth_bytes_per_s=1e12)
extents = st.integers(1, 10_000)


def test_roofline_takes_the_longer_of_compute_and_memory():
    """Compute: 8e9 / (0.8 x 1e15) = 10 us. Memory: 1.6e7 / (0.8 x 1e12) = 20 us. Start: 3 us."""
    assert kernels.roofline_us(8e9, 0, DEVICE) == pytest.approx(13)
    assert kernels.roofline_us(0, 1.6e7, DEVICE) == pytest.approx(23)
    assert kernels.roofline_us(8e9, 1.6e7, DEVICE) == pytest.approx(23)


def test_attention_has_its_own_compute_fraction():
    """4.9e9 / (0.49 x 1e15) = 10 us, and the start of 3 us."""
    fraction = kernels.ATTENTION_FRACTION
    assert kernels.roofline_us(4.9e9, 0, DEVICE, fraction) == pytest.approx(13)


def test_a_kernel_without_work_takes_no_time():
    assert kernels.roofline_us(0, 0, DEVICE) == 0
    assert kernels.gemm_us(0, 10, 10, 2, DEVICE) == 0
    assert kernels.gemm_us(10, 10, 0, 2, DEVICE) == 0
    assert kernels.ffn_us(10, 64, 0, 2, DEVICE) == 0


def test_gemm_counts_two_flops_per_multiply_add():
    """3 x 5 @ 5 x 7: 2 x 3 x 5 x 7 = 210 FLOPs."""
    assert kernels.gemm_flops(3, 5, 7) == 210


def test_gemm_moves_weights_once_and_each_row_in_and_out():
    """Weights 5 x 7 x 1 = 35; rows 3 x (5 + 7) x 2 = 72; in all 107. Four matrices: 140 + 72."""
    assert kernels.gemm_bytes(3, 5, 7, 1.0) == 107
    assert kernels.gemm_bytes(3, 5, 7, 1.0, matrices=4) == 212


def test_small_gemm_is_memory_bound():
    """1 row, 4,000 x 5,000, 2 bytes: 4e7 weights + 1 x 9,000 x 2 bytes, over 0.8e12: 50.0225 us.

    Its FLOPs, 4e7 over 0.8e15, take 0.05 us. With the start 53.0225 us.
    """
    assert kernels.gemm_us(1, 4000, 5000, 2.0, DEVICE) == pytest.approx(53.0225)


def test_ffn_is_a_gemm_to_gate_and_up_and_one_down():
    """1 row, h = 4,000, f = 2,500, 2 bytes.

    Up: 4,000 x 5,000 as above, 53.0225. Down: 2,500 x 4,000 x 2 = 2e7, + 6,500 x 2 = 13,000 bytes:
    25.01625 us, and 3 of start. Sum 81.03875.
    """
    assert kernels.ffn_us(1, 4000, 2500, 2.0, DEVICE) == pytest.approx(81.03875)


def test_experts_read_no_more_experts_than_rows():
    """h = 1,000, f = 500, 1 byte. Up: 1,000 x 1,000 = 1e6 an expert; down: 5e5 an expert.

    2 rows, 8 experts: 2 experts are read. Up 2e6 + 2 x 2,000 x 2 = 2,008,000 bytes, 2.51 us. Down
    1e6 + 2 x 1,500 x 2 = 1,006,000 bytes, 1.2575 us. Two starts: 9.7675. With 80 rows all 8 are
    read: up 8e6 + 320,000 -> 10.4; down 4e6 + 240,000 -> 5.3; 21.7.
    """
    for rows, expected in ((2, 9.7675), (80, 21.7)):
        found = kernels.experts_us(
            rows, 8, hidden_size=1000, ffn_size=500, bytes_per_parameter=1.0, device=DEVICE
        )
        assert found == pytest.approx(expected)


def test_causal_context_is_the_mean_of_one_to_s():
    """Tokens 1, 2, 3, 4 see as many keys: mean 2.5."""
    assert kernels.causal_context(4) == 2.5
    assert kernels.causal_context(8191) == np.mean(np.arange(1, 8192))


def test_attention_flops_are_four_per_query_key_head_and_element():
    """3 queries x 10 keys x 2 heads x 8: 480 products in scores, 480 in values; 2 FLOPs each."""
    assert kernels.attention_flops(3, 10, 2, 8) == 1920


def test_decode_attention_reads_the_cache():
    """10 queries, 1,000 keys each, 2 kv heads of 100, 2 bytes: 10,000 x 400 x 2 = 8e6 bytes.

    Queries in and out: 2 x 10 x 4 heads x 100 x 2 = 16,000. 8,016,000 / 0.8e12 = 10.02 us; + 3.
    """
    found = kernels.attention_us(
        10, 1000, 10_000, heads=4, kv_heads=2, head_dim=100, kv_bytes_per_element=2, device=DEVICE
    )
    assert found == pytest.approx(13.02)


def test_prefill_attention_is_compute_bound():
    """1e4 queries, 5,000.5 keys, 49 heads of 100: 4 x 1e4 x 5,000.5 x 4,900 = 9.80098e11 FLOPs.

    Over 0.49e15: 2,000.2 us. Memory, 3.92e6 + 1.96e8 bytes, 249.9 us, hides behind it.
    """
    found = kernels.attention_us(
        10_000,
        kernels.causal_context(10_000),
        10_000,
        heads=49,
        kv_heads=1,
        head_dim=100,
        kv_bytes_per_element=2,
        device=DEVICE,
    )
    assert found == pytest.approx(2003.2)


@given(rows=extents, inner=extents, columns=extents)
def test_a_larger_gemm_is_never_faster_and_better_hardware_never_slower(rows, inner, columns):
    time_us = kernels.gemm_us(rows, inner, columns, 2.0, DEVICE)
    assert kernels.gemm_us(rows + 1, inner, columns, 2.0, DEVICE) >= time_us
    assert kernels.gemm_us(rows, inner + 1, columns, 2.0, DEVICE) >= time_us
    assert kernels.gemm_us(rows, inner, columns + 1, 2.0, DEVICE) >= time_us
    assert kernels.gemm_us(rows, inner, columns, 2.0, Device(2e15, 1e12)) <= time_us
    assert kernels.gemm_us(rows, inner, columns, 2.0, Device(1e15, 2e12)) <= time_us


@given(rows=st.floats(0.01, 1e6), experts=st.integers(1, 64))
def test_more_rows_or_experts_never_make_a_rank_faster(rows, experts):
    def time_us(rows, experts):
        return kernels.experts_us(
            rows, experts, hidden_size=64, ffn_size=48, bytes_per_parameter=2.0, device=DEVICE
        )

    assert time_us(rows * 1.5, experts) >= time_us(rows, experts)
    assert time_us(rows, experts + 1) >= time_us(rows, experts)


def test_a_gpu_without_memory_bandwidth_is_refused_by_field_name():
    gpu = Gpu(name="g", peak_flops_per_s=1e15, memory_bytes=1e9)
    with pytest.raises(SpecError, match=r"cluster\.gpu\.memory_bandwidth_bytes_per_s.*'g'"):
        Device.of(gpu)


@pytest.mark.measured
@pytest.mark.parametrize(("rows", "fraction"), [(1, 0.777), (64, 0.770), (128, 0.760)])
def test_small_gemms_reach_the_measured_share_of_bandwidth(rows, fraction):
    """Median over N, K >= 4,096, H100, bf16, trtllm 1.3.0rc20 (aiconfigurator@095f58a5)."""
    device = Device(989e12, 3.35e12)
    size_bytes = kernels.gemm_bytes(rows, 8192, 8192, 2.0)
    found = size_bytes / (kernels.gemm_us(rows, 8192, 8192, 2.0, device) * 1e-6) / 3.35e12
    assert found == pytest.approx(fraction, rel=0.1)
