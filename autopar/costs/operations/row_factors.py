"""By what a GEMM of so many rows differs from the smooth time: a table, and the least of a range.

The table goes up and down with the rows. What holds for all batches of a range is told from the
least factor of all row counts that they may have: `autopar/batches.py`.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from autopar.costs.operations.arrays import FloatArray, real
from autopar.specs.kernels import GEMM_ROWS

_ROWS = np.array(GEMM_ROWS, dtype=np.float64)


def row_factor(factors: tuple[float, ...], rows: FloatArray, growth: ArrayLike) -> FloatArray:
    """Return the least factor of all row counts from `rows` to `growth` times as many.

    factors: of GEMM_ROWS rows. growth: 1 and more; at 1 the factor is that of `rows`. Counts are
    rounded up to whole rows after they have grown, so that one more than growth * rows is meant.
    """
    known = np.array(factors)
    at_rows = np.interp(rows, _ROWS, known)
    ratio = real(growth)
    if not (ratio > 1).any():
        return real(at_rows)
    most = np.where(ratio > 1, rows * ratio + 1, rows)
    between = _least_between(factors)[
        np.searchsorted(_ROWS, rows, "right"), np.searchsorted(_ROWS, most, "left")
    ]
    return real(np.minimum(np.minimum(at_rows, np.interp(most, _ROWS, known)), between))


@lru_cache(maxsize=64)
def _least_between(factors: tuple[float, ...]) -> FloatArray:
    """Return the least of factors[i:j] at [i, j], shape (rows + 1, rows + 1); inf for none."""
    size = len(factors) + 1
    least = np.full((size, size), np.inf)
    for start in range(size - 1):
        least[start, start + 1 :] = np.minimum.accumulate(factors[start:])
    return least
