"""What the busiest rank works on: by hand, by brute force over draws, and against measured time."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.catalog import read_document
from autopar.costs.operations import kernels, loads
from autopar.costs.operations.device import Device
from autopar.costs.operations.loads import even_load, skewed_load
from autopar.specs import Gpu
from autopar.specs.kernels import ExpertsFit

LAWS = ["power_law_1.01", "power_law_1.2"]
# One pass for any rows up to 2,048: passes are then the experts that are read.
FLAT = ExpertsFit(start_us=0.0, weight_passes=(1.0,) * 8, uneven_rows=0.0)
# Passes grow with the rows from the first on: passes are then the rows.
STEEP = ExpertsFit(
    start_us=0.0, weight_passes=(1, 16, 64, 128, 256, 512, 1024, 2048), uneven_rows=0.0
)


@cache
def gpu(name):
    return Device.of(Gpu.model_validate(read_document("gpus", name)))


def test_even_rows_go_to_all_experts_alike():
    """64 rows to 4 experts: all read, 16 each, so 4 x 16 passes."""
    load = even_load(64, 4, STEEP.weight_passes)
    assert load.rows == 64
    assert load.read == pytest.approx(4, rel=1e-6)
    assert load.passes == pytest.approx(64, rel=1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_one_rank_has_all_rows_whatever_the_law(law):
    """4,096 tokens to 2 of 8 experts are 8,192 rows; no expert gets more than each token once."""
    load = skewed_load(4096, 8, 8, 2, law, FLAT)
    assert load.rows == pytest.approx(8192)
    assert 2 <= load.read <= 8


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("num_experts", "topk", "ranks"), [(8, 2, 4), (128, 8, 16), (10, 3, 4)])
def test_the_busiest_rank_is_the_mean_over_draws(law, num_experts, topk, ranks):
    """Draw by draw in plain Python: shares of at most 1, neighbours on a rank, the fullest rank."""
    tokens, held = 1024, -(-num_experts // ranks)
    rows = []
    for draw in np.random.RandomState(0).random_sample((32, num_experts)).tolist():
        power = -0.01 if law == "power_law_1.01" else -0.2
        low, high = 1.0, (0.8 * tokens) ** power
        drawn = [(low + (high - low) * u) ** (1 / power) for u in draw]
        shares = [topk * load / sum(drawn) for load in drawn]
        over = sum(max(share - 1, 0) for share in shares)
        room = sum(max(1 - share, 0) for share in shares)
        kept = [min(s, 1) + over * max(1 - s, 0) / room for s in shares]
        rows.append(tokens * max(sum(kept[i : i + held]) for i in range(0, num_experts, held)))
    load = skewed_load(tokens, held, num_experts, topk, law, FLAT)
    assert load.rows == pytest.approx(np.mean(rows), rel=1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_the_busiest_of_more_ranks_is_further_above_the_mean(law):
    """Of 8 experts on 8 ranks one gets nearly every token: four times the mean of 2 of 8."""
    over_mean = [
        float(skewed_load(16_384, 8 // ranks, 8, 2, law, FLAT).rows) / (16_384 * 2 / ranks)
        for ranks in (1, 2, 4, 8)
    ]
    assert over_mean == sorted(over_mean)
    assert over_mean[0] == pytest.approx(1)
    assert 3.5 < over_mean[-1] <= 4


def test_the_steeper_law_is_the_more_uneven_one():
    shallow, steep = (skewed_load(4096, 16, 256, 8, law, FLAT).rows for law in LAWS)
    assert steep > shallow > 4096 * 8 / 16


def test_uneven_groups_are_longer_than_they_look():
    """With 64 rows more for each of the 16 experts that are read, 1,024 passes more."""
    fit = STEEP.model_copy(update={"uneven_rows": 64.0})
    padded, plain = (skewed_load(16_384, 16, 256, 8, "power_law_1.2", f) for f in (fit, STEEP))
    assert padded.rows == plain.rows
    assert padded.passes - plain.passes == pytest.approx(64 * float(plain.read), rel=1e-6)


def test_a_rank_without_experts_does_nothing():
    load = skewed_load([100, 100], [0, 4], 8, 2, "power_law_1.2", FLAT)
    assert load.rows[0] == load.read[0] == load.passes[0] == 0
    assert load.rows[1] > 0


def test_every_call_gives_the_same_number():
    first = skewed_load(3000, 16, 256, 8, "power_law_1.2", FLAT).rows
    loads._tabled.cache_clear()
    loads._shares.cache_clear()
    assert skewed_load(3000, 16, 256, 8, "power_law_1.2", FLAT).rows == first


@given(
    tokens=st.floats(0.5, 1e8),
    held=st.sampled_from([1, 2, 8, 16, 60]),
    law=st.sampled_from(LAWS),
    precision=st.sampled_from(["bf16", "fp8_block"]),
)
def test_more_tokens_never_mean_less_work(tokens, held, law, precision):
    """The search over batches relies on it."""
    fit = gpu("h100-sxm-80gb").experts(precision)
    less = skewed_load(tokens, held, 60, 4, law, fit)
    more = skewed_load(tokens * 1.1, held, 60, 4, law, fit)
    for part in ("rows", "read", "passes"):
        assert getattr(more, part) >= getattr(less, part) * (1 - 1e-12)


@pytest.mark.measured
@pytest.mark.parametrize(
    ("name", "precision", "tokens", "shape", "ep", "law", "measured_us"),
    [
        ("h200-sxm-141gb", "fp8_block", 16384, (8, 256, 7168, 2048), 16, "power_law_1.01", 2586.2),
        ("h200-sxm-141gb", "fp8_block", 16384, (8, 256, 7168, 2048), 16, "power_law_1.2", 3328.3),
        ("h200-sxm-141gb", "fp8_block", 8192, (8, 256, 7168, 2048), 8, "power_law_1.01", 2174.6),
        ("h200-sxm-141gb", "fp8_block", 4096, (8, 256, 7168, 2048), 8, "power_law_1.2", 1305.7),
    ],
)
def test_experts_of_deepseek_under_skewed_routing(
    name, precision, tokens, shape, ep, law, measured_us
):
    """aiconfigurator-core 0.12.0, moe of trtllm 1.3.0rc20, within 20 %: each is a single draw."""
    experts_per_token, num_experts, hidden, ffn = shape
    found = kernels.routed_experts_us(
        tokens,
        num_experts // ep,
        num_experts=num_experts,
        experts_per_token=experts_per_token,
        law=law,
        hidden_size=hidden,
        ffn_size=ffn,
        num_matrices=3,
        precision=precision,
        device=gpu(name),
        sorted_tokens=tokens,
    )
    assert found == pytest.approx(measured_us, rel=0.20)


def test_rows_of_the_busiest_rank_do_not_depend_on_its_kernels():
    """Buffers need them: those of any fit; under even loads the mean, 16 x 2 x 2 / 8."""
    assert kernels.busiest_rows(16, 2, 8, 2, "even") == 8
    steep = skewed_load(16, 2, 8, 2, "power_law_1.2", STEEP).rows
    assert kernels.busiest_rows(16, 2, 8, 2, "power_law_1.2") == steep > 8
