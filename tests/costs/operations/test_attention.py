"""One attention kernel at a time, by hand, on a GPU of 1e15 FLOP/s and 1e12 bytes/s."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.catalog import read_document
from autopar.costs.operations import kernels
from autopar.costs.operations.device import Device
from autopar.specs import Gpu
from autopar.specs.kernels import DecodeFit, Kernels, PrefillFit

PREFILL = PrefillFit(
    start_us=10.0,
    key_us=0.001,
    extra_keys=99.5,
    extra_dim=20.0,
    compute_fraction=0.5,
    memory_fraction=0.8,
)
DECODE = DecodeFit(
    start_us=5.0,
    doubling_us=2.0,
    compute_fraction=0.5,
    memory_fraction=0.8,
    activation_fraction=0.1,
    bend_us=4.0,
    bend_bytes=1.6e7,
)
LATENT = DecodeFit(start_us=8.0, compute_fraction=0.5, memory_fraction=0.8, activation_fraction=0.1)
GPUS = ["h100-sxm-80gb", "b200-sxm-180gb", "a100-sxm-80gb", "l40s-48gb", "mi300x-192gb"]
counts = st.floats(0.1, 1e5)


@pytest.fixture
def device():
    gpu = Gpu(
        name="g",
        peak_flops_per_s=1e15,
        memory_bytes=1e9,
        memory_bandwidth_bytes_per_s=1e12,
        kernels=Kernels(
            prefill_attention={"bf16": PREFILL},
            latent_prefill_attention={"bf16": PREFILL.model_copy(update={"start_us": 1.0})},
            decode_attention={"bf16": DECODE},
            latent_decode_attention={"bf16": LATENT},
        ),
    )
    return Device.of(gpu)


@cache
def known(name):
    return Device.of(Gpu.model_validate(read_document("gpus", name)))


def prefill_us(queries, context, keys, device, **sizes):
    given = {"heads": 10, "kv_heads": 2, "qk_head_dim": 80, "v_head_dim": 80}
    given |= {"kv_precision": "bf16"} | sizes
    return kernels.prefill_attention_us(queries, context, keys, **given, device=device)


def decode_us(sequences, context, device, **sizes):
    given = {"heads": 10, "kv_heads": 2, "qk_head_dim": 80, "v_head_dim": 80}
    given |= {"kv_precision": "bf16"} | sizes
    return kernels.decode_attention_us(sequences, context, **given, device=device)


def test_prefill_counts_extra_keys_and_the_softmax(device):
    """1,000 causal tokens: context 500.5, with 99.5 extra 600 keys.

    Per key: 2 x 1,000 x 10 heads x (160 + 2 x 20) = 4e6 FLOPs over 0.5e15, 0.008 us; and the loop
    0.001 x 80 = 0.08. 600 x 0.088 = 52.8. Memory: keys 1,000 x 2 x 160 x 2 = 640,000, queries and
    results 1,000 x 10 x 160 x 2 = 3.2e6; over 0.8e12 4.8 us. Start 10: 67.6.
    """
    assert prefill_us(1000, 500.5, 1000, device) == pytest.approx(67.6)


def test_keys_and_values_of_different_size_are_those_of_latent_attention(device):
    """As above with 100 + 60, a start of 1 instead of 10."""
    found = prefill_us(1000, 500.5, 1000, device, qk_head_dim=100, v_head_dim=60)
    assert found == pytest.approx(58.6)


def test_decode_reads_the_cache(device):
    """100 sequences of 960 keys: 96,000 x 2 kv heads x 160 x 2 = 61.44 MB over 0.8e12: 76.8 us.

    FLOPs, 2 x 96,000 x 10 x 160 = 3.07e8 over 0.5e15, hide behind it. 1 + 960 / 64 = 16: 4
    doublings, 8 us. The bend is full: 4. Queries and results 100 x 10 x 160 x 2 = 320,000 over
    0.1e12: 3.2. Start 5: 97.
    """
    assert decode_us(100, 960, device) == pytest.approx(97.0)


def test_a_small_cache_pays_part_of_the_bend(device):
    """1 sequence of 960 keys: 614,400 bytes, 0.768 us; 614,400 / 1.6e7 of 4 us: 0.1536.

    Doublings 8, queries 0.032, start 5: 13.9536.
    """
    assert decode_us(1, 960, device) == pytest.approx(13.9536)


def test_latent_decode_reads_one_latent_for_all_heads(device):
    """10 sequences of 1,000 keys, latent 50 + rotary 10: 10,000 x 60 x 2 = 1.2e6 bytes, 1.5 us.

    FLOPs: 2 x 10,000 x 64 heads x (60 + 50) = 1.408e8 over 0.5e15: 0.28 us. Queries and results:
    10 x 64 x 110 x 2 = 140,800 over 0.1e12: 1.408. Start 8: 10.908.
    """
    found = kernels.latent_decode_attention_us(
        10, 1000, heads=64, latent_dim=50, rope_dim=10, kv_precision="bf16", device=device
    )
    assert found == pytest.approx(10.908)


def test_many_heads_make_latent_decode_compute_bound(device):
    """As above with 640 heads: 2.816 us of arithmetic, 14.08 of queries: 24.896."""
    found = kernels.latent_decode_attention_us(
        10, 1000, heads=640, latent_dim=50, rope_dim=10, kv_precision="bf16", device=device
    )
    assert found == pytest.approx(24.896)


def test_an_fp8_cache_is_half_as_long(device):
    """76.8 us of cache become 38.4; 30.72 MB still pay the whole bend."""
    assert decode_us(100, 960, device, kv_precision="fp8") == pytest.approx(58.6)


def test_attention_over_nothing_takes_no_time(device):
    assert prefill_us(0, 10, 0, device) == 0
    assert prefill_us(10, 0, 0, device) == 0
    assert decode_us(0, 10, device) == 0
    assert decode_us(10, 0, device) == 0


@given(
    queries=counts,
    context=counts,
    keys=counts,
    kv_precision=st.sampled_from(["bf16", "fp8"]),
    name=st.sampled_from(GPUS),
)
def test_more_queries_keys_or_context_are_never_faster(queries, context, keys, kv_precision, name):
    gpu = known(name)
    for dims in ({}, {"qk_head_dim": 192, "v_head_dim": 128}):
        sizes = {"kv_precision": kv_precision} | dims
        time_us = prefill_us(queries, context, keys, gpu, **sizes)
        assert prefill_us(queries * 1.1, context, keys, gpu, **sizes) >= time_us
        assert prefill_us(queries, context * 1.1, keys, gpu, **sizes) >= time_us
        assert prefill_us(queries, context, keys * 1.1, gpu, **sizes) >= time_us
        time_us = decode_us(queries, context, gpu, **sizes)
        assert decode_us(queries * 1.1, context, gpu, **sizes) >= time_us
        assert decode_us(queries, context * 1.1, gpu, **sizes) >= time_us


@given(sequences=counts, context=counts, heads=st.integers(1, 128), name=st.sampled_from(GPUS))
def test_latent_decode_grows_with_sequences_context_and_heads(sequences, context, heads, name):
    gpu = known(name)

    def time_us(sequences, context, heads):
        return kernels.latent_decode_attention_us(
            sequences,
            context,
            heads=heads,
            latent_dim=512,
            rope_dim=64,
            kv_precision="fp8",
            device=gpu,
        )

    least = time_us(sequences, context, heads)
    assert time_us(sequences * 1.1, context, heads) >= least
    assert time_us(sequences, context * 1.1, heads) >= least
    assert time_us(sequences, context, heads + 1) >= least


@pytest.mark.measured
@pytest.mark.parametrize(
    ("name", "kv_precision", "batch", "length", "heads", "kv_heads", "measured_us"),
    [
        ("h100-sxm-80gb", "bf16", 1, 1024, 64, 8, 86.1),
        ("h100-sxm-80gb", "bf16", 1, 8192, 8, 1, 331.6),
        ("h100-sxm-80gb", "bf16", 4, 4096, 32, 8, 1235.0),
        ("h100-sxm-80gb", "fp8", 1, 8192, 8, 1, 250.9),
        ("b200-sxm-180gb", "bf16", 1, 1024, 64, 8, 58.1),
        ("b200-sxm-180gb", "bf16", 1, 8192, 8, 1, 191.3),
        ("b200-sxm-180gb", "bf16", 4, 4096, 32, 8, 647.3),
        ("b200-sxm-180gb", "fp8", 1, 8192, 8, 1, 193.8),
    ],
)
def test_prompts_of_llama(name, kv_precision, batch, length, heads, kv_heads, measured_us):
    """aiconfigurator-core 0.12.0, context_attention of trtllm 1.3.0rc20, within 20 %."""
    found = prefill_us(
        batch * length,
        (length + 1) / 2,
        batch * length,
        known(name),
        heads=heads,
        kv_heads=kv_heads,
        qk_head_dim=128,
        v_head_dim=128,
        kv_precision=kv_precision,
    )
    assert found == pytest.approx(measured_us, rel=0.20)


@pytest.mark.measured
@pytest.mark.parametrize(
    ("name", "kv_precision", "batch", "context", "heads", "kv_heads", "measured_us"),
    [
        ("h100-sxm-80gb", "bf16", 64, 4096, 8, 1, 70.4),
        ("h100-sxm-80gb", "bf16", 256, 1024, 8, 1, 71.5),
        ("h100-sxm-80gb", "fp8", 64, 8192, 8, 1, 58.1),
        ("h100-sxm-80gb", "bf16", 16, 32768, 32, 8, 714.2),
        ("b200-sxm-180gb", "bf16", 64, 4096, 8, 1, 31.9),
        ("b200-sxm-180gb", "bf16", 256, 1024, 8, 1, 31.4),
        ("b200-sxm-180gb", "fp8", 64, 8192, 8, 1, 33.4),
        ("b200-sxm-180gb", "bf16", 16, 32768, 32, 8, 300.3),
    ],
)
def test_running_sequences_of_llama(
    name, kv_precision, batch, context, heads, kv_heads, measured_us
):
    """aiconfigurator-core 0.12.0, generation_attention of trtllm 1.3.0rc20, within 20 %."""
    found = decode_us(
        batch,
        context,
        known(name),
        heads=heads,
        kv_heads=kv_heads,
        qk_head_dim=128,
        v_head_dim=128,
        kv_precision=kv_precision,
    )
    assert found == pytest.approx(measured_us, rel=0.20)


@pytest.mark.measured
@pytest.mark.parametrize(
    ("name", "kv_precision", "batch", "context", "heads", "measured_us"),
    [
        ("h100-sxm-80gb", "bf16", 64, 4096, 128, 139.4),
        ("h100-sxm-80gb", "fp8", 128, 4096, 16, 124.1),
        ("h100-sxm-80gb", "bf16", 1, 1024, 128, 17.6),
        ("b200-sxm-180gb", "bf16", 64, 4096, 128, 71.5),
        ("b200-sxm-180gb", "fp8", 128, 4096, 16, 60.1),
        ("b200-sxm-180gb", "bf16", 1, 1024, 128, 13.8),
    ],
)
def test_running_sequences_of_deepseek(name, kv_precision, batch, context, heads, measured_us):
    """aiconfigurator-core 0.12.0, generation_mla of trtllm 1.3.0rc20, within 15 %."""
    found = kernels.latent_decode_attention_us(
        batch,
        context,
        heads=heads,
        latent_dim=512,
        rope_dim=64,
        kv_precision=kv_precision,
        device=known(name),
    )
    assert found == pytest.approx(measured_us, rel=0.15)


@pytest.mark.measured
@pytest.mark.parametrize(
    ("name", "batch", "length", "heads", "measured_us"),
    [
        ("h100-sxm-80gb", 1, 4096, 128, 1262.9),
        ("h100-sxm-80gb", 4, 2048, 16, 215.1),
        ("b200-sxm-180gb", 1, 4096, 128, 646.5),
        ("b200-sxm-180gb", 4, 2048, 16, 126.1),
    ],
)
def test_prompts_of_deepseek(name, batch, length, heads, measured_us):
    """aiconfigurator-core 0.12.0, context_mla of trtllm 1.3.0rc20, within 20 %."""
    found = prefill_us(
        batch * length,
        (length + 1) / 2,
        batch * length,
        known(name),
        heads=heads,
        kv_heads=heads,
        qk_head_dim=192,
        v_head_dim=128,
    )
    assert found == pytest.approx(measured_us, rel=0.20)
