"""How wide a stored number is, and in which arithmetic it is used."""

from collections.abc import Mapping
from typing import Literal

from autopar.specs.architecture import Precision

ComputePrecision = Literal["bf16", "fp8", "fp4"]

ACTIVATION_BYTES = 2.0  # per element; bf16 between kernels, also in checkpoints with FP8 weights

# Bytes of one parameter, its scales included.
_BYTES: Mapping[Precision, float] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,  # one scale per tensor or row: below 0.1 %
    "fp8_block": 1.0 + 4.0 / 128**2,  # an fp32 scale per 128 x 128 (arXiv:2412.19437, sec. 3.3.2)
    "int8": 1.0,  # one scale per row: below 0.1 %
    "int4": 0.5 + 2.5 / 128,  # a 16-bit scale and a 4-bit zero per group of 128 (arXiv:2306.00978)
    "mxfp4": 0.5 + 1.0 / 32,  # an 8-bit scale per 32 (OCP Microscaling Formats v1.0, sec. 5)
    "nvfp4": 0.5 + 1.0 / 16,  # an FP8 scale per 16 (arXiv:2509.25149, sec. 2)
}
# The arithmetic of each where a GPU has it. Weights of 4 bits in groups (int4) are always widened.
_NATIVE: Mapping[Precision, ComputePrecision] = {
    "fp8": "fp8",
    "fp8_block": "fp8",
    "int8": "fp8",  # GPUs that have both compute in both at one rate, Blackwell Ultra apart
    "mxfp4": "fp4",
    "nvfp4": "fp4",
}


def precision_bytes(precision: Precision) -> float:
    """Bytes of one parameter stored in `precision`, scales included."""
    return _BYTES[precision]


def native_precision(precision: Precision) -> ComputePrecision:
    """Return the arithmetic that weights of `precision` are meant for."""
    return _NATIVE.get(precision, "bf16")
