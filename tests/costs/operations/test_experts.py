"""The experts of one rank, by hand, on a GPU of 1e15 FLOP/s and 1e12 bytes/s."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autopar.catalog import read_document
from autopar.costs.operations import kernels
from autopar.costs.operations.device import Device
from autopar.costs.operations.loads import experts_read, weight_passes
from autopar.specs import Gpu
from autopar.specs.kernels import EXPERT_ROWS, ExpertsFit, Kernels

PASSES = (1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 16.0, 20.0)
FIT = ExpertsFit(
    start_us=5.0,
    inner_us=0.001,
    expert_us=0.5,
    row_passes=3.0,
    token_passes=2.0,
    weight_passes=PASSES,
)
PRECISIONS = ["bf16", "fp8", "fp8_block", "int4", "mxfp4", "nvfp4"]
GPUS = ["h100-sxm-80gb", "b200-sxm-180gb", "a100-sxm-80gb", "l40s-48gb", "mi300x-192gb"]


@pytest.fixture
def device():
    gpu = Gpu(
        name="g",
        peak_flops_per_s=1e15,
        memory_bytes=1e9,
        memory_bandwidth_bytes_per_s=1e12,
        kernels=Kernels(experts={"bf16": FIT}),
    )
    return Device.of(gpu)


@cache
def known(name):
    return Device.of(Gpu.model_validate(read_document("gpus", name)))


def experts_us(rows, num_experts, device, **changes):
    given = {"hidden_size": 1000, "ffn_size": 500, "num_matrices": 3, "precision": "bf16"}
    return kernels.experts_us(rows, num_experts, **(given | changes), device=device)


def test_an_expert_with_one_row_costs_one_pass_over_its_weights(device):
    """4 experts with a row each: 4 x (3 x 1,000 x 500 x 2 bytes = 3e6, 3 us; + 0.5) = 14 us.

    Rows: (3 + 2) passes x 4 x 1,000 x 2 bytes = 40,000: 0.04. Start 5, inner 1.5: 20.54.
    """
    assert experts_us(4, 4, device, read=4) == pytest.approx(20.54)


def test_more_rows_per_expert_cost_as_the_table_says(device):
    """128 rows each: 4 passes, 12 us and 0.5, times 4: 50. Rows: 5 x 512 x 2,000 bytes: 5.12."""
    assert experts_us(512, 4, device, read=4) == pytest.approx(50 + 5.12 + 6.5)


def test_tokens_may_be_fewer_than_rows(device):
    """512 rows of 64 tokens: 3 x 512 + 2 x 64 = 1,664 instead of 2,560 rows of 2,000 bytes."""
    assert experts_us(512, 4, device, read=4, tokens=64) == pytest.approx(50 + 3.328 + 6.5)


def test_the_table_is_a_power_law_between_its_points_and_linear_beyond():
    """From 64 to 128 rows the time doubles: at 90.51 rows it is the root of 2 x 4."""
    found = weight_passes([1, 8, 64, 64 * 2**0.5, 128, 2048, 8192], PASSES)
    # 8 is three quarters of the way from 1 to 16, in logarithms.
    assert found.tolist() == pytest.approx([1, 2**0.75, 2, 8**0.5, 4, 20, 80])


def test_random_rows_meet_the_same_expert():
    """4 experts and 4 rows at random: 4 x (1 - 1/e) = 2.528 get one; with 40 rows all do."""
    assert experts_read(4, 4) == pytest.approx(2.5284822)
    assert experts_read(40, 4) == pytest.approx(4, rel=1e-4)


def test_a_rank_that_works_has_a_row():
    """A mean of 0.1 rows over many ranks: the busiest has one. 4 x (1 - exp(-1/4)) = 0.885."""
    assert experts_read(0.1, 4) == experts_read(1, 4) == pytest.approx(0.8847969)


def test_without_a_gate_a_third_of_the_weights_is_missing(device):
    """4 experts x 2e6 bytes instead of 3e6."""
    gated, plain = (experts_us(4, 4, device, read=4, num_matrices=n) for n in (3, 2))
    assert gated - plain == pytest.approx(4)


def test_no_rows_or_no_width_take_no_time(device):
    assert experts_us(0, 4, device) == 0
    assert experts_us(4, 4, device, ffn_size=0) == 0


def test_experts_that_nobody_measured_follow_a_roofline():
    """BF16, 1e15 FLOP/s at 0.91, 1e12 bytes/s at 0.93; 1,024 experts of 8,192 rows.

    2 x 8,192 FLOPs per parameter and 2 bytes: compute 18.0 us per 1e6 parameters, memory 2.15.
    """
    bare = Gpu(name="g", peak_flops_per_s=1e15, memory_bytes=1e9, memory_bandwidth_bytes_per_s=1e12)
    rows, experts = 8192.0 * 1024, 1024
    found = experts_us(rows, experts, Device.of(bare), read=experts, num_matrices=2)
    compute_us = 2 * rows * 2 * 1000 * 500 / (0.91e15) * 1e6
    sorting_us = (7.4 + 2.2) * rows * 2000 / 1e12 * 1e6
    assert found == pytest.approx(compute_us + sorting_us + experts * 0.1, rel=0.01)


@given(
    rows=st.floats(0.01, 1e6),
    experts=st.integers(1, 256),
    precision=st.sampled_from(PRECISIONS),
    name=st.sampled_from(GPUS),
)
def test_more_rows_or_experts_never_make_a_rank_faster(rows, experts, precision, name):
    gpu = known(name)
    least = experts_us(rows, experts, gpu, precision=precision)
    slack = 1 - 1e-12  # of rounding, where a table is flat or as steep as rows
    assert experts_us(rows * 1.1, experts, gpu, precision=precision) >= least * slack
    assert experts_us(rows, experts + 1, gpu, precision=precision) >= least * slack


@pytest.mark.parametrize(
    ("passes", "what"),
    [
        (PASSES[:-1], "7 numbers"),
        ((1.0, 0.9, *PASSES[2:]), "from 1 to 16 rows"),
        ((*PASSES[:-1], 33.0), "from 1024 to 2048 rows"),  # more than twice 16
    ],
)
def test_a_table_under_which_time_would_fall_is_refused(passes, what):
    with pytest.raises(ValidationError, match=what):
        ExpertsFit(start_us=1.0, weight_passes=passes)


def test_the_table_has_a_number_for_each_count_of_rows():
    assert len(PASSES) == len(EXPERT_ROWS)
    assert np.all(np.diff(EXPERT_ROWS) > 0)


@pytest.mark.measured
@pytest.mark.parametrize(
    ("name", "precision", "tokens", "shape", "ep", "measured_us"),
    [
        ("h100-sxm-80gb", "fp8_block", 4096, (8, 256, 7168, 2048), 1, 6742.2),
        ("h100-sxm-80gb", "fp8_block", 64, (8, 256, 7168, 2048), 8, 487.8),
        ("h100-sxm-80gb", "fp8_block", 4096, (8, 256, 7168, 2048), 8, 875.2),
        ("h100-sxm-80gb", "fp8_block", 1024, (8, 256, 7168, 2048), 32, 178.6),
        ("h100-sxm-80gb", "bf16", 4096, (8, 128, 4096, 1536), 1, 2540.8),
        ("h100-sxm-80gb", "bf16", 64, (8, 128, 4096, 1536), 8, 231.0),
        ("h100-sxm-80gb", "bf16", 4096, (8, 128, 4096, 1536), 8, 371.6),
        ("h100-sxm-80gb", "bf16", 1024, (8, 128, 4096, 1536), 32, 99.9),
        ("b200-sxm-180gb", "nvfp4", 4096, (8, 256, 7168, 2048), 1, 1659.4),
        ("b200-sxm-180gb", "nvfp4", 64, (8, 256, 7168, 2048), 16, 104.0),
        ("b200-sxm-180gb", "nvfp4", 4096, (8, 256, 7168, 2048), 16, 187.0),
    ],
)
def test_experts_of_deepseek_and_qwen(name, precision, tokens, shape, ep, measured_us):
    """aiconfigurator-core 0.12.0, moe of trtllm 1.3.0rc20 under even routing, within 20 %.

    The nvfp4 table of B200 on 4 and 8 ranks is left out: it is as slow as on half as many.
    """
    experts_per_token, num_experts, hidden, ffn = shape
    pairs = tokens * experts_per_token / ep
    found = experts_us(
        pairs,
        num_experts / ep,
        known(name),
        hidden_size=hidden,
        ffn_size=ffn,
        precision=precision,
        read=min(pairs, num_experts / ep),
        tokens=tokens,
    )
    assert found == pytest.approx(measured_us, rel=0.20)
