"""The one place where floats become the integers that CP-SAT takes, with the error bound.

Times and sizes are rounded up, rates down, so that an integer answer never promises more than the
float it stands for. A float within `SNAP` of an integer counts as that integer: two ways of adding
the same numbers must not differ by one unit.
"""

import numpy as np
from numpy.typing import NDArray

TIME_QUANTUM_US = 1e-3  # 1 ns
RATE_QUANTUM_TOKENS_PER_S = 1e-3
SIZE_QUANTUM_BYTES = 1.0
SNAP = 1e-6  # of one quantum, or of the value's own float error, whichever is larger

_LARGEST = 2.0**52  # integers up to here are exact floats, and sums of 2**10 of them fit in int64


def times_to_int(time_us: NDArray[np.float64]) -> NDArray[np.int64]:
    """Nanoseconds, rounded up."""
    return _round(time_us / TIME_QUANTUM_US, up=True)


def sizes_to_int(size_bytes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bytes, rounded up."""
    return _round(size_bytes / SIZE_QUANTUM_BYTES, up=True)


def rates_to_int(tokens_per_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Thousandths of a token per second, rounded down."""
    return _round(tokens_per_s / RATE_QUANTUM_TOKENS_PER_S, up=False)


def loads_to_int(load: NDArray[np.float64], quantum: float) -> NDArray[np.int64]:
    """Multiples of a quantum, rounded up; loads of experts have no unit of their own."""
    return _round(load / quantum, up=True)


def error_bound(quantum: float, terms: int, value: float) -> float:
    """Return the most by which an integer total of `terms` rounded numbers differs from the float.

    quantum: the unit of rounding; value: the total, whose own float error (1e-9 of it) is included.
    """
    return quantum * terms * (1 + SNAP) + 1e-9 * abs(value)


def _round(scaled: NDArray[np.float64], *, up: bool) -> NDArray[np.int64]:
    clipped = np.clip(scaled, 0.0, _LARGEST)
    slack = np.maximum(SNAP, np.abs(clipped) * 4 * np.finfo(np.float64).eps)
    rounded = np.ceil(clipped - slack) if up else np.floor(clipped + slack)
    return rounded.astype(np.int64)
