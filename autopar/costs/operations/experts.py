"""Time of the routed experts of one rank."""

import numpy as np
from numpy.typing import ArrayLike

from autopar.costs.operations.arrays import FloatArray, real
from autopar.costs.operations.device import Device
from autopar.costs.operations.loads import (
    Law,
    RankFactors,
    RankLoad,
    even_load,
    grouped_load,
    measured_load,
    skewed_load,
)
from autopar.costs.operations.precisions import ACTIVATION_BYTES, precision_bytes
from autopar.specs.architecture import Precision


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
    table = device.experts(precision).weight_passes
    load = even_load(rows, num_experts, table)
    if read is not None:
        load = grouped_load(rows, read, table)
    return _time_us(load, tokens, hidden_size, ffn_size, num_matrices, precision, device)


def routed_experts_us(
    tokens: ArrayLike,
    held: ArrayLike,
    *,
    num_experts: int,
    experts_per_token: int,
    law: Law | RankFactors,
    hidden_size: ArrayLike,
    ffn_size: ArrayLike,
    num_matrices: int,
    precision: Precision,
    device: Device,
    sorted_tokens: ArrayLike,
    ranks: ArrayLike = 1,
) -> FloatArray:
    """Time of the experts of the rank that has most to do, of ranks with `held` experts each.

    tokens: of all ranks together, each routed to `experts_per_token` of `num_experts` experts by a
    law, or as measured. sorted_tokens: that a rank sorts. ranks: that hold the experts: counts for
    measured loads alone. Others as in `experts_us`.
    """
    fit = device.experts(precision)
    if not isinstance(law, str):
        load = measured_load(
            tokens, held, num_experts, experts_per_token, law, fit.weight_passes, ranks
        )
    elif law == "even":
        share = real(held) / num_experts
        load = even_load(real(tokens) * experts_per_token * share, held, fit.weight_passes)
    else:
        load = skewed_load(tokens, held, num_experts, experts_per_token, law, fit)
    return _time_us(load, sorted_tokens, hidden_size, ffn_size, num_matrices, precision, device)


def _time_us(
    load: RankLoad,
    tokens: ArrayLike | None,
    hidden_size: ArrayLike,
    ffn_size: ArrayLike,
    num_matrices: int,
    precision: Precision,
    device: Device,
) -> FloatArray:
    fit = device.experts(precision)
    r, h, f = load.rows, real(hidden_size), real(ffn_size)
    one_pass = (num_matrices * precision_bytes(precision) / device.bytes_per_us) * (h * f)
    grouped_us = one_pass * load.passes + load.read * fit.expert_us
    sorted_rows = fit.row_passes * r + fit.token_passes * (r if tokens is None else real(tokens))
    moved_us = sorted_rows * h * (ACTIVATION_BYTES / device.bytes_per_us)
    start_us = fit.start_us + fit.inner_us * (h + f)
    time_us = (start_us + grouped_us + moved_us) * device.factors.experts
    return real(np.where((r > 0) & (one_pass > 0), time_us, 0.0))
