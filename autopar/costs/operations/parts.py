"""Bytes of one part of the model, and the rate that a document derives from FLOPs."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def shard_bytes(whole_bytes: ArrayLike, num_shards: ArrayLike) -> NDArray[np.float64]:
    """Bytes of one of `num_shards` equal shards."""
    return np.asarray(np.true_divide(whole_bytes, num_shards), dtype=np.float64)


def declared_tokens_per_s_per_gpu(
    peak_flops_per_s: float, compute_efficiency: float, utilisation: float, flops_per_token: float
) -> float:
    """Rate of one GPU by its FLOPs alone: peak x efficiency x utilisation / work per token."""
    return peak_flops_per_s * compute_efficiency * utilisation / flops_per_token
