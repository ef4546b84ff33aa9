"""Numbers in, float64 arrays out: what every operation takes and returns."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def real(values: ArrayLike) -> FloatArray:
    """Return the values as a float64 array; integers below 2**53 stay exact."""
    return np.asarray(values, dtype=np.float64)
