"""Time of kernels that only move data, and of mixers with a state of constant size."""

import numpy as np
from numpy.typing import ArrayLike

from autopar.costs.operations.arrays import FloatArray, real
from autopar.costs.operations.device import Device

STATE_BYTES = 4.0  # per element; engines keep such states in fp32
# Per element of the state and token: decay, outer product, query; a multiply-add each
# (Yang et al. 2024, arXiv:2406.06484, sec. 2).
STATE_FLOPS = 6.0


def elementwise_us(size_bytes: ArrayLike, device: Device) -> FloatArray:
    """Time of a kernel that reads and writes `size_bytes` in all; 0 for none."""
    fit, size = device.elementwise(), real(size_bytes)
    per_byte = 1.0 / (fit.memory_fraction * device.bytes_per_us)
    time_us = (fit.start_us + size * per_byte) * device.factors.elementwise
    return real(np.where(size > 0, time_us, 0.0))


def linear_attention_us(
    tokens: ArrayLike, sequences: ArrayLike, *, state_elements: ArrayLike, device: Device
) -> FloatArray:
    """Time of the recurrence of a linear mixer: its state read and written once per sequence.

    tokens: of all sequences. state_elements: of one sequence, on this shard. A roofline.
    """
    fit, state = device.linear(), real(state_elements)
    rate = fit.compute_fraction * device.flops_per_us["bf16"]
    compute_us = real(tokens) * state * (STATE_FLOPS / rate)
    per_state = 2.0 * STATE_BYTES / (fit.memory_fraction * device.bytes_per_us)
    busy_us = np.maximum(compute_us, real(sequences) * state * per_state)
    return real(np.where(compute_us > 0, (fit.start_us + busy_us) * device.factors.attention, 0.0))
