"""Bytes of one part of the model, and the rate that a document derives from FLOPs.

Sizes of a shard (`heads`, `ffn_size`, `vocab_size`) are the shard's own: the caller divides, and
rounds up where a GPU holds a whole head or row.
"""

from numpy.typing import ArrayLike

from autopar.costs.operations.arrays import FloatArray, real
from autopar.costs.operations.precisions import ACTIVATION_BYTES

# Context, kernels and workspace, and NCCL's buffers at 8 GPUs; both AIC systems/h100_sxm.yaml, that
# is ai-dynamo/aiconfigurator at commit 095f58a5 (Apache-2.0).
RUNTIME_RESERVE_BYTES = (3.5 + 0.38281) * 2**30


def shard_bytes(whole_bytes: ArrayLike, num_shards: ArrayLike) -> FloatArray:
    """Bytes of one of `num_shards` equal shards."""
    return real(whole_bytes) / real(num_shards)


def ffn_weight_bytes(
    hidden_size: int, ffn_size: ArrayLike, num_matrices: int, bytes_per_parameter: float
) -> FloatArray:
    """Bytes of a feed-forward of `ffn_size` columns: up and down, and a gate if there are three."""
    return num_matrices * hidden_size * real(ffn_size) * bytes_per_parameter


def embedding_weight_bytes(
    hidden_size: int, vocab_size: ArrayLike, bytes_per_parameter: float
) -> FloatArray:
    """Bytes of `vocab_size` rows of the embedding, or columns of the head."""
    return hidden_size * real(vocab_size) * bytes_per_parameter


def kv_cache_bytes(
    tokens: ArrayLike, elements_per_token: ArrayLike, bytes_per_element: float
) -> FloatArray:
    """Bytes of what one layer keeps of `tokens` tokens."""
    return real(tokens) * real(elements_per_token) * bytes_per_element


def activation_bytes(rows: ArrayLike, elements_per_row: ArrayLike) -> FloatArray:
    """Bytes of a buffer of `rows` activations."""
    return real(rows) * real(elements_per_row) * ACTIVATION_BYTES


def declared_tokens_per_s_per_gpu(
    peak_flops_per_s: float, compute_efficiency: float, utilisation: float, flops_per_token: float
) -> float:
    """Rate of one GPU by its FLOPs alone: peak x efficiency x utilisation / work per token."""
    return peak_flops_per_s * compute_efficiency * utilisation / flops_per_token
