"""Time of the routed experts of one rank, and what skewed routing costs on top."""

import numpy as np
from numpy.typing import ArrayLike

from autopar.costs.operations.arrays import FloatArray, real
from autopar.costs.operations.device import Device
from autopar.costs.operations.precisions import ACTIVATION_BYTES, precision_bytes
from autopar.specs.architecture import Precision
from autopar.specs.kernels import EXPERT_ROWS, SKEW_RANKS, SKEW_TOKENS

_LOG_ROWS = np.log2(real(EXPERT_ROWS))
_LOG_TOKENS = np.log2(real(SKEW_TOKENS))
_LOG_RANKS = np.log2(real(SKEW_RANKS))


def experts_read(rows: ArrayLike, num_experts: ArrayLike) -> FloatArray:
    """Mean number of experts that get a row, of `num_experts` to which rows go at random.

    E (1 - exp(-rows / E)), the Poisson limit; a rank that works at all has a row.
    """
    r, e = np.maximum(real(rows), 1.0), real(num_experts)
    return real(-e * np.expm1(-r / np.maximum(e, 1.0)))


def experts_us(
    rows: ArrayLike,
    num_experts: ArrayLike,
    *,
    hidden_size: ArrayLike,
    ffn_size: ArrayLike,
    num_matrices: int,
    precision: Precision,
    device: Device,
    read: ArrayLike | None = None,
    tokens: ArrayLike | None = None,
) -> FloatArray:
    """Time of the experts of one rank: grouped GEMMs, activation, sorting rows and summing them.

    rows: mean (token, expert) pairs routed to the rank. num_experts: experts on the rank. ffn_size:
    columns of the shard of one expert. read: experts that get rows; absent, as many as under random
    routing. tokens: that the rank sorts; absent, one for each row, as after a dispatch.
    A table over the rows per expert replaces the roofline, which misses grouped GEMMs by half.
    """
    fit = device.experts(precision)
    r, h, f = real(rows), real(hidden_size), real(ffn_size)
    busy = experts_read(r, num_experts) if read is None else np.maximum(real(read), 1e-9)
    one_pass = (num_matrices * precision_bytes(precision) / device.bytes_per_us) * (h * f)
    grouped_us = busy * (one_pass * weight_passes(r / busy, fit.weight_passes) + fit.expert_us)
    sorted_rows = fit.row_passes * r + fit.token_passes * (r if tokens is None else real(tokens))
    moved_us = sorted_rows * h * (ACTIVATION_BYTES / device.bytes_per_us)
    start_us = fit.start_us + fit.inner_us * (h + f)
    return real(np.where((r > 0) & (one_pass > 0), start_us + grouped_us + moved_us, 0.0))


def weight_passes(rows_per_expert: ArrayLike, table: tuple[float, ...]) -> FloatArray:
    """Time over that of one pass over the weights, where each expert has so many rows.

    A power law between the points of the table, so that time grows with rows and with experts.
    """
    x = np.log2(np.maximum(real(rows_per_expert), 1.0))
    beyond = np.maximum(x - _LOG_ROWS[-1], 0.0)
    return real(np.exp2(np.interp(x, _LOG_ROWS, np.log2(real(table))) + beyond))


# What is lost under a law, of what is lost under power_law_1.2: the median over 2 to 64 ranks of
# (ratio - 1), at least 2,048 tokens; AIC h200_sxm trtllm 1.3.0rc20 moe_perf, fp8_block.
_SHARE_LOST = {"power_law_1.01": 0.65, "power_law_1.2": 1.0}


def expert_skew_factor(
    tokens: ArrayLike, ep: ArrayLike, device: Device, load: str = "power_law_1.2"
) -> FloatArray:
    """Time of the busiest rank under skewed over that under random routing, at least 1.

    tokens: of all ranks together. ep: ranks. load: the law that the loads of experts follow, by its
    exponent, as in the measured tables. Linear in the logarithms of tokens and ranks; constant
    beyond.
    """
    x, y = np.log2(np.maximum(real(tokens), 1.0)), np.log2(np.maximum(real(ep), 1.0))
    x, y = np.broadcast_arrays(x, y)
    table = np.array(device.expert_skew(), dtype=np.float64)
    factor = np.zeros(x.shape)
    # A hat function over each number of ranks: the weights of its column.
    for index, column in enumerate(table.T):
        hat = np.interp(y, _LOG_RANKS, np.eye(len(_LOG_RANKS))[index])
        factor += hat * np.interp(x, _LOG_TOKENS, column)
    return real(1.0 + _SHARE_LOST[load] * (factor - 1.0))
