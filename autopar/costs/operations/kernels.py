"""Time of one kernel on one GPU: a roofline at fixed fractions of peak, after a fixed start.

A kernel takes its start, then the longer of its arithmetic and its memory traffic. The fractions
were measured on H100 with bf16 weights; other GPUs take the same ones.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from autopar.costs.operations.arrays import FloatArray, real
from autopar.errors import SpecError
from autopar.specs import Gpu

# AIC below is the repository ai-dynamo/aiconfigurator at commit 095f58a5 (Apache-2.0).
GEMM_FRACTION = (
    0.80  # of peak FLOP/s; AIC h100_sxm trtllm 1.3.0rc20 gemm_perf, bf16: median at M=4096
)
ATTENTION_FRACTION = (
    0.49  # AIC h100_sxm trtllm context_attention_perf, bf16, d=128: median at 8,192
)
MEMORY_FRACTION = 0.80  # of peak bytes/s; AIC systems/h100_sxm.yaml, its scale of memory bandwidth
KERNEL_START_US = 3.0  # AIC systems/h100_sxm.yaml, its constant per memory-bound kernel
ACTIVATION_BYTES = 2.0  # per element; bf16 between kernels, also in checkpoints with FP8 weights
FFN_MATRICES = 3  # gate, up and down of a gated unit (Shazeer 2020, "GLU Variants", eq. 6)

_US_PER_S = 1e6


@dataclass(frozen=True, slots=True)
class Device:
    """The two peak rates of one GPU that a roofline needs."""

    peak_flops_per_s: float
    bandwidth_bytes_per_s: float

    @classmethod
    def of(cls, gpu: Gpu) -> Self:
        """Return the device of a GPU spec.

        Raises SpecError if the spec does not state the memory bandwidth.
        """
        if gpu.memory_bandwidth_bytes_per_s is None:
            raise SpecError(
                f"cluster.gpu.memory_bandwidth_bytes_per_s: missing for GPU {gpu.name!r}; expected "
                "a rate such as '3.35 TB/s', which cost_model 'analytic' needs"
            )
        return cls(gpu.peak_flops_per_s, gpu.memory_bandwidth_bytes_per_s)


def roofline_us(
    flops: ArrayLike,
    size_bytes: ArrayLike,
    device: Device,
    compute_fraction: float = GEMM_FRACTION,
) -> FloatArray:
    """Time of one kernel: start + max(arithmetic, memory traffic); 0 for a kernel without work.

    Source: Williams et al. 2009, "Roofline", with attainable instead of peak rates.
    """
    compute_us = real(flops) / (compute_fraction * device.peak_flops_per_s) * _US_PER_S
    memory_us = real(size_bytes) / (MEMORY_FRACTION * device.bandwidth_bytes_per_s) * _US_PER_S
    busy_us = np.maximum(compute_us, memory_us)
    return real(np.where(busy_us > 0, KERNEL_START_US + busy_us, 0.0))


def gemm_flops(rows: ArrayLike, inner: ArrayLike, columns: ArrayLike) -> FloatArray:
    """FLOPs of (rows x inner) @ (inner x columns); a multiply-add is 2."""
    return 2.0 * real(rows) * real(inner) * real(columns)


def gemm_bytes(
    rows: ArrayLike,
    inner: ArrayLike,
    columns: ArrayLike,
    bytes_per_parameter: float,
    matrices: ArrayLike = 1,
) -> FloatArray:
    """Bytes that a GEMM moves at least: its weights, the rows it reads, the rows it writes.

    matrices: weight matrices of a grouped GEMM, among which the rows are divided.
    """
    weights = real(matrices) * real(inner) * real(columns) * bytes_per_parameter
    return weights + real(rows) * (real(inner) + real(columns)) * ACTIVATION_BYTES


def gemm_us(
    rows: ArrayLike,
    inner: ArrayLike,
    columns: ArrayLike,
    bytes_per_parameter: float,
    device: Device,
) -> FloatArray:
    """Time of one GEMM of `rows` activations with an (inner x columns) weight matrix.

    0 where any extent is 0.
    """
    flops = gemm_flops(rows, inner, columns)
    size_bytes = gemm_bytes(rows, inner, columns, bytes_per_parameter)
    return roofline_us(flops, np.where(flops > 0, size_bytes, 0.0), device)


def ffn_us(
    rows: ArrayLike,
    hidden_size: int,
    ffn_size: ArrayLike,
    bytes_per_parameter: float,
    device: Device,
) -> FloatArray:
    """Time of one gated feed-forward: a GEMM to gate and up, then one back down.

    ffn_size: columns of the shard.
    """
    wide = (FFN_MATRICES - 1) * real(ffn_size)
    up_us = gemm_us(rows, hidden_size, wide, bytes_per_parameter, device)
    return up_us + gemm_us(rows, ffn_size, hidden_size, bytes_per_parameter, device)


def experts_us(
    rows: ArrayLike,
    num_experts: ArrayLike,
    *,
    hidden_size: int,
    ffn_size: ArrayLike,
    bytes_per_parameter: float,
    device: Device,
) -> FloatArray:
    """Time of the experts of one rank: two grouped GEMMs, to gate and up, then back down.

    rows: (token, expert) pairs routed to the rank; a mean, so not whole. No more experts are read
    than there are rows. ffn_size: columns of the shard of one expert.
    """
    read = np.minimum(real(num_experts), real(rows))
    wide = (FFN_MATRICES - 1) * real(ffn_size)
    up_us = roofline_us(
        gemm_flops(rows, hidden_size, wide),
        gemm_bytes(rows, hidden_size, wide, bytes_per_parameter, read),
        device,
    )
    return up_us + roofline_us(
        gemm_flops(rows, ffn_size, hidden_size),
        gemm_bytes(rows, ffn_size, hidden_size, bytes_per_parameter, read),
        device,
    )


def causal_context(sequence_tokens: ArrayLike) -> FloatArray:
    """Mean keys per token of a causal prefill: token i of s sees i of them, so (s + 1) / 2."""
    return (real(sequence_tokens) + 1.0) / 2.0


def attention_flops(
    queries: ArrayLike, context: ArrayLike, heads: ArrayLike, head_dim: int
) -> FloatArray:
    """FLOPs of scores and weighted values: 2 products of 2 FLOPs per query, key, head, element."""
    return 4.0 * real(queries) * real(context) * real(heads) * head_dim


def attention_us(
    queries: ArrayLike,
    context: ArrayLike,
    keys_read: ArrayLike,
    *,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: int,
    kv_bytes_per_element: float,
    device: Device,
) -> FloatArray:
    """Time of one fused attention kernel, of all its sequences, on one tensor shard.

    context: mean keys per query, for the FLOPs. keys_read: tokens whose keys and values leave
    memory once: those of the sequences in prefill, queries x context in decode.
    """
    key_bytes = real(keys_read) * (2.0 * real(kv_heads) * head_dim) * kv_bytes_per_element
    query_bytes = 2.0 * real(queries) * real(heads) * head_dim * ACTIVATION_BYTES  # in and out
    flops = attention_flops(queries, context, heads, head_dim)
    return roofline_us(flops, key_bytes + query_bytes, device, ATTENTION_FRACTION)
