"""Time of one fused attention kernel, of all its sequences, on one tensor shard."""

import numpy as np
from numpy.typing import ArrayLike

from autopar.costs.operations.arrays import FloatArray, real
from autopar.costs.operations.device import Device
from autopar.costs.operations.precisions import ACTIVATION_BYTES, precision_bytes
from autopar.specs.architecture import Precision
from autopar.specs.kernels import DecodeFit

DOUBLING_KEYS = 64.0  # keys of one block, which a decode kernel merges pairwise


def prefill_attention_us(
    queries: ArrayLike,
    context: ArrayLike,
    keys_read: ArrayLike,
    *,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    qk_head_dim: int,
    v_head_dim: int,
    kv_precision: Precision,
    device: Device,
) -> FloatArray:
    """Time of attention over the new tokens of prompts.

    queries: new tokens of all sequences of the kernel. context: mean keys per query; (s + 1) / 2
    for s causal tokens. keys_read: tokens whose keys and values leave memory.
    2 products of 2 FLOPs per query, key, head and element (Dao 2023, arXiv:2307.08691, sec. 4.1);
    extra keys are the tiles that causality does not fill. Constants: `autopar.specs.kernels`.
    """
    # Keys and values of different size are those that latent attention expands.
    fit = device.prefill(kv_precision, latent=0 < v_head_dim < qk_head_dim)
    q, h = real(queries), real(heads)
    head_size = float(qk_head_dim + v_head_dim)
    rate = fit.compute_fraction * device.flops_per_us["bf16"]
    query_heads = q * h
    per_key_us = query_heads * (2.0 * (head_size + 2.0 * fit.extra_dim) / rate)
    per_key_us += fit.key_us * head_size / 2.0
    keys = real(keys_read) * real(kv_heads)
    size = keys * (head_size * precision_bytes(kv_precision))
    size = size + query_heads * (head_size * ACTIVATION_BYTES)
    busy_us = (real(context) + fit.extra_keys) * per_key_us
    busy_us = busy_us + size * (1.0 / (fit.memory_fraction * device.bytes_per_us))
    works = (query_heads > 0) & (real(context) > 0)
    return real(np.where(works, (fit.start_us + busy_us) * device.factors.attention, 0.0))


def decode_attention_us(
    sequences: ArrayLike,
    context: ArrayLike,
    *,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    qk_head_dim: int,
    v_head_dim: int,
    kv_precision: Precision,
    device: Device,
) -> FloatArray:
    """Time of attention of running sequences, one query each, over `context` keys each."""
    b, c, h, keys = real(sequences), real(context), real(heads), real(kv_heads)
    head_size = float(qk_head_dim + v_head_dim)
    reads = device.key_reads(h / np.maximum(keys, 1.0))
    return _decode_us(
        b,
        c,
        flops=(2.0 * head_size) * h,
        cache_bytes=(head_size * precision_bytes(kv_precision)) * keys * reads,
        row_bytes=(head_size * ACTIVATION_BYTES) * h,
        fit=device.decode(kv_precision),
        device=device,
    )


def latent_decode_attention_us(
    sequences: ArrayLike,
    context: ArrayLike,
    *,
    heads: ArrayLike,
    latent_dim: int,
    rope_dim: int,
    kv_precision: Precision,
    device: Device,
) -> FloatArray:
    """Time of absorbed latent attention of running sequences.

    All heads share one latent and one rotary key, read once per GPU; the latent is key and value
    (DeepSeek-V2, arXiv:2405.04434, section 2.1.2).
    """
    b, c, h = real(sequences), real(context), real(heads)
    key_dim = latent_dim + rope_dim
    return _decode_us(
        b,
        c,
        flops=(2.0 * (key_dim + latent_dim)) * h,
        cache_bytes=real(key_dim * precision_bytes(kv_precision)),
        row_bytes=((key_dim + latent_dim) * ACTIVATION_BYTES) * h,
        fit=device.latent_decode(kv_precision),
        device=device,
    )


def _decode_us(
    sequences: FloatArray,
    context: FloatArray,
    *,
    flops: FloatArray,
    cache_bytes: FloatArray,
    row_bytes: FloatArray,
    fit: DecodeFit,
    device: Device,
) -> FloatArray:
    """Time of a decode kernel; flops and cache_bytes: of one key; row_bytes: of one query."""
    rate = fit.compute_fraction * device.flops_per_us["bf16"]
    traffic = fit.memory_fraction * device.bytes_per_us
    keys = sequences * context
    bend_us = np.minimum(keys * (cache_bytes * (fit.bend_us / fit.bend_bytes)), fit.bend_us)
    busy_us = keys * np.maximum(flops * (1.0 / rate), cache_bytes * (1.0 / traffic))
    io_us = sequences * row_bytes * (1.0 / (fit.activation_fraction * device.bytes_per_us))
    start_us = fit.start_us + fit.doubling_us * np.log2(1.0 + context * (1.0 / DOUBLING_KEYS))
    time_us = (start_us + busy_us + bend_us + io_us) * device.factors.attention
    return real(np.where(busy_us > 0, time_us, 0.0))
