"""Time of an engine's host between two steps, in which its GPUs wait."""

from numpy.typing import ArrayLike

from autopar.costs.operations.arrays import FloatArray, real
from autopar.costs.operations.device import Device


def step_host_us(sequences: ArrayLike, device: Device) -> FloatArray:
    """Time that the host adds to a step; sequences: running ones of one attention group.

    0 where no engine is named. Every attention group has a scheduler of its own, and all ranks of
    a stage wait for it (vLLM, `v1/engine/core.py`; SGLang, `managers/scheduler.py`).
    """
    count = real(sequences)
    if device.engine is None:
        return real(count * 0.0)
    engine, factor = device.engine, device.factors.host
    return real((engine.step_us + engine.sequence_us * count) * factor)


def layer_host_us(device: Device) -> float:
    """Time that GPUs wait between the kernels of a layer, where no graph holds them."""
    return 0.0 if device.engine is None else device.engine.layer_us * device.factors.host
