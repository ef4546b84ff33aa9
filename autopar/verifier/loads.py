"""What a walk over a plan finds under one cost model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Loads:
    """Times, rate and bytes of an explicit plan; None where the cost model does not state a part.

    Shape (replicas, stages), the slowest GPU of the stage and what it waits for: tick_us, mean time
    between two steps; passing_us, what the stage adds to the time to the first token.
    Bytes: shape (GPUs of the cluster,), 0 on idle GPUs; reserved_bytes is the same on every GPU.
    """

    tick_us: FloatArray
    passing_us: FloatArray
    tokens_per_s: float
    weights_bytes: FloatArray
    kv_cache_bytes: FloatArray | None
    activation_bytes: FloatArray | None
    reserved_bytes: float | None
    notes: tuple[str, ...] = ()
