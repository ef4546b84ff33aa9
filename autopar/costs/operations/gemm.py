"""Time of one matrix product: start, inner loop, and a smooth maximum of arithmetic and traffic."""

import numpy as np
from numpy.typing import ArrayLike

from autopar.costs.operations.arrays import FloatArray, real
from autopar.costs.operations.device import Device
from autopar.costs.operations.elementwise import elementwise_us
from autopar.costs.operations.precisions import ACTIVATION_BYTES, precision_bytes
from autopar.costs.operations.row_factors import row_factor
from autopar.specs.architecture import Precision


def gemm_us(
    rows: ArrayLike,
    inner: ArrayLike,
    columns: ArrayLike,
    precision: Precision,
    device: Device,
    growth: ArrayLike = 1.0,
) -> FloatArray:
    """Time of one GEMM of `rows` activations with an (inner x columns) weight matrix.

    growth: where above 1, no GEMM of `rows` to `growth` times as many takes less than the result.
    0 where any extent is 0. A multiply-add is 2 FLOPs; weights move once, rows in and out once.
    Source: Williams et al. 2009, "Roofline", with the p-norm of both times for their maximum; the
    term per inner element is the loop that no parallelism shortens. How kernels differ from it by
    their rows is a table. Constants: the GPU's `kernels`.
    """
    fit = device.gemm(precision)
    m, k, n = real(rows), real(inner), real(columns)
    weights = k * n
    work = m * weights
    compute_us = work * (2.0 / (fit.compute_fraction * device.peak_flops_per_us(precision)))
    weight_us = precision_bytes(precision) / (fit.memory_fraction * device.bytes_per_us)
    row_us = ACTIVATION_BYTES / (fit.activation_fraction * device.bytes_per_us)
    busy_us = _norm(compute_us, weights * weight_us + (m * (k + n)) * row_us, fit.sharpness)
    if fit.row_factors:
        busy_us = busy_us * row_factor(fit.row_factors, m, growth)
    time_us = (busy_us + (fit.start_us + fit.inner_us * k)) * device.factors.gemm
    return real(np.where(work > 0, time_us, 0.0))


def feed_forward_us(
    rows: ArrayLike,
    hidden_size: ArrayLike,
    ffn_size: ArrayLike,
    num_matrices: int,
    precision: Precision,
    device: Device,
    growth: ArrayLike = 1.0,
) -> FloatArray:
    """Time of one dense feed-forward: up, with its gate in one GEMM; activation; down.

    ffn_size: columns of the shard. num_matrices: 3 with a gate (Shazeer 2020, "GLU Variants",
    eq. 6), else 2. growth: as for `gemm_us`. The activation reads what up has written and writes
    what down reads.
    """
    m, f = real(rows), real(ffn_size)
    up_us = gemm_us(m, hidden_size, (num_matrices - 1) * f, precision, device, growth)
    moved = (num_matrices * ACTIVATION_BYTES) * (m * f)
    down_us = gemm_us(m, f, hidden_size, precision, device, growth)
    return real(up_us + elementwise_us(moved, device) + down_us)


def _norm(first: FloatArray, second: FloatArray, sharpness: int) -> FloatArray:
    """Return (a^p + b^p)^(1/p) for p = 1, 2 or 4; these need no logarithms."""
    if sharpness == 1:
        return real(first + second)
    squares = first * first + second * second
    if sharpness == 2:
        return real(np.sqrt(squares))
    # a^4 + b^4 = (a^2 + b^2)^2 - 2 a^2 b^2, but without the loss of digits.
    first, second = first * first, second * second
    return real(np.sqrt(np.sqrt(first * first + second * second)))
