"""One matrix product at a time, by hand, on a GPU of 1e15 FLOP/s and 1e12 bytes/s."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.catalog import read_document
from autopar.costs.operations import kernels
from autopar.costs.operations.device import Device
from autopar.specs import Gpu
from autopar.specs.kernels import ElementwiseFit, GemmFit, Kernels

extents = st.integers(1, 20_000)


@cache
def known(name):
    return Device.of(Gpu.model_validate(read_document("gpus", name)))


def device(sharpness=4, **fractions):
    given = {"compute_fraction": 0.8, "memory_fraction": 0.8, "activation_fraction": 0.8}
    fit = GemmFit(start_us=3.0, inner_us=0.001, sharpness=sharpness, **(given | fractions))
    gpu = Gpu(
        name="g",
        peak_flops_per_s=1e15,
        memory_bytes=1e9,
        memory_bandwidth_bytes_per_s=1e12,
        kernels=Kernels(
            gemm={"bf16": fit}, elementwise=ElementwiseFit(start_us=1.0, memory_fraction=0.5)
        ),
    )
    return Device.of(gpu)


def test_a_small_gemm_is_memory_bound():
    """1 row, 4,000 x 5,000, 2 bytes: 4e7 bytes + 1 x 9,000 x 2 over 0.8e12: 50.0225 us.

    Its FLOPs, 4e7 over 0.8e15, take 0.05 us: nothing in the 4-norm. Start 3, inner 4: 57.0225.
    """
    found = kernels.gemm_us(1, 4000, 5000, "bf16", device())
    assert found == pytest.approx(57.0225, abs=1e-6)


def test_a_large_gemm_is_compute_bound():
    """40,000 rows, 4,000 x 5,000: 1.6e12 FLOPs over 0.8e15: 2,000 us, and 7 of start.

    Bytes: 4e7 + 40,000 x 9,000 x 2 = 7.6e8 over 0.8e12: 950 us. 4-norm:
    2,000 x (1 + 0.475^4)^(1/4) = 2,000 x 1.050905^0.25 = 2,024.99.
    """
    found = kernels.gemm_us(40_000, 4000, 5000, "bf16", device())
    assert found == pytest.approx(7 + 2000 * (1 + 0.475**4) ** 0.25)


@pytest.mark.parametrize("sharpness", [1, 2, 4])
def test_arithmetic_and_traffic_meet_in_a_p_norm(sharpness):
    """400 rows, 1,000 x 1,000, all fractions 1: 8e8 FLOPs, 0.8 us; 2e6 + 1.6e6 bytes, 3.6 us."""
    perfect = {"compute_fraction": 1.0, "memory_fraction": 1.0, "activation_fraction": 1.0}
    found = kernels.gemm_us(400, 1000, 1000, "bf16", device(sharpness, **perfect))
    assert found == pytest.approx(4 + (0.8**sharpness + 3.6**sharpness) ** (1 / sharpness))


def test_weights_and_rows_reach_different_bandwidths():
    """1,000 rows, 1,000 x 1,000: weights 2e6 over 0.8e12, 2.5 us; rows 4e6 over 0.4e12, 10 us."""
    found = kernels.gemm_us(1000, 1000, 1000, "bf16", device(1, activation_fraction=0.4))
    assert found == pytest.approx(4 + 2.5 + 2.5 + 10)  # and 2e9 FLOPs over 0.8e15: 2.5 us


def test_fp8_weights_move_half_the_bytes_where_the_gpu_has_no_fp8():
    """1 row, 4,000 x 5,000, 1 byte: 2e7 + 18,000 over 0.8e12: 25.0225 us."""
    found = kernels.gemm_us(1, 4000, 5000, "fp8", device())
    assert found == pytest.approx(32.0225, abs=1e-5)


def test_a_feed_forward_is_up_activation_and_down():
    """1 row, h = 4,000, f = 2,500, gated. Up: 4,000 x 5,000 as above, 57.0225.

    Activation: 3 x 2,500 x 2 = 15,000 bytes over 0.5e12: 0.03 us, and 1 of start. Down: 2,500 x
    4,000 x 2 = 2e7, + 13,000 bytes: 25.01625 us, start 3, inner 2.5: 30.51625.
    """
    found = kernels.feed_forward_us(1, 4000, 2500, 3, "bf16", device())
    assert found == pytest.approx(57.0225 + 1.03 + 30.51625, abs=1e-4)


def test_a_feed_forward_without_a_gate_has_a_narrower_first_gemm():
    gated = kernels.feed_forward_us(1, 4000, 2500, 3, "bf16", device())
    plain = kernels.feed_forward_us(1, 4000, 2500, 2, "bf16", device())
    # 2e7 bytes less over 0.8e12 (25 us), 2 x 2,500 bytes of rows less, 5,000 in the activation.
    assert gated - plain == pytest.approx(25 + 0.00625 + 0.01, abs=1e-4)


def test_a_product_with_an_empty_extent_takes_no_time():
    assert kernels.gemm_us(0, 10, 10, "bf16", device()) == 0
    assert kernels.gemm_us(10, 0, 10, "bf16", device()) == 0
    assert kernels.gemm_us(10, 10, 0, "bf16", device()) == 0
    assert kernels.feed_forward_us(10, 64, 0, 3, "bf16", device()) == 0


@given(
    rows=extents,
    inner=extents,
    columns=extents,
    precision=st.sampled_from(["fp32", "bf16", "fp8", "fp8_block", "int8", "int4", "nvfp4"]),
    name=st.sampled_from(["h100-sxm-80gb", "b200-sxm-180gb", "a100-sxm-80gb", "mi300x-192gb"]),
)
def test_a_larger_gemm_is_never_faster(rows, inner, columns, precision, name):
    """But for tables by rows, which test_row_factors.py is about."""
    gpu = known(name)
    fits = {key: f.model_copy(update={"row_factors": ()}) for key, f in gpu.kernels.gemm.items()}
    gpu = replace(gpu, kernels=gpu.kernels.model_copy(update={"gemm": fits}))
    time_us = kernels.gemm_us(rows, inner, columns, precision, gpu)
    assert kernels.gemm_us(rows + 1, inner, columns, precision, gpu) >= time_us
    assert kernels.gemm_us(rows, inner + 1, columns, precision, gpu) >= time_us
    assert kernels.gemm_us(rows, inner, columns + 1, precision, gpu) >= time_us


@pytest.mark.measured
@pytest.mark.parametrize(
    ("name", "precision", "rows", "inner", "columns", "measured_us"),
    [
        ("a100-sxm-80gb", "bf16", 16, 8192, 8192, 91.7),
        ("a100-sxm-80gb", "bf16", 4096, 8192, 8192, 2115.9),
        ("h100-sxm-80gb", "bf16", 1, 8192, 10240, 65.5),
        ("h100-sxm-80gb", "bf16", 64, 8192, 8192, 50.4),
        ("h100-sxm-80gb", "bf16", 4096, 8192, 7168, 590.5),
        ("h100-sxm-80gb", "fp8", 64, 8192, 8192, 30.4),
        ("h100-sxm-80gb", "fp8_block", 4096, 7168, 4096, 236.3),
        ("h200-sxm-141gb", "bf16", 64, 8192, 8192, 38.7),
        ("b200-sxm-180gb", "bf16", 64, 8192, 8192, 26.9),
        ("b200-sxm-180gb", "fp8", 64, 8192, 8192, 18.1),
        ("b200-sxm-180gb", "nvfp4", 64, 8192, 8192, 12.9),
        ("b200-sxm-180gb", "nvfp4", 4096, 7168, 4096, 73.6),
        ("b200-sxm-180gb", "fp8_block", 1024, 7168, 4096, 32.0),
    ],
)
def test_gemms_of_llama_and_deepseek(name, precision, rows, inner, columns, measured_us):
    """aiconfigurator-core 0.12.0, of the framework that the GPU's file names, within 25 %."""
    found = kernels.gemm_us(rows, inner, columns, precision, known(name))
    assert found == pytest.approx(measured_us, rel=0.25)
