"""Bytes on the fullest GPU of a stage: weights, keys and values, the working buffers."""

import numpy as np

from autopar.costs.operations import parts
from autopar.costs.operations.arrays import real
from autopar.costs.shares import Shape, Shares
from autopar.problem import BoolArray, FloatArray


def weights_bytes(
    shape: Shape, share: Shares, is_first: BoolArray, is_last: BoolArray
) -> FloatArray:
    """Weights on the GPU whose expert grid serves the most layers, shape (pairs,).

    Attention, router, norms and shared experts of every layer of the stage lie on every GPU; routed
    experts only on the grid of their layer. The first stage has the embedding, the last the head;
    a model that shares them has one copy where one stage is both.
    """
    arch, width = shape.architecture, shape.bytes_per_parameter
    hidden = arch.hidden_size
    layer = (
        parts.attention_weight_bytes(hidden, share.heads, share.kv_heads, arch.head_dim, width)
        + 2 * parts.norm_weight_bytes(hidden, width)
        + parts.router_weight_bytes(hidden, shape.num_experts, width)
        + parts.ffn_weight_bytes(hidden, share.ffn_size + share.shared_size, width)
    )
    expert = share.experts * parts.expert_weight_bytes(hidden, share.expert_size, width)
    layers_per_grid = np.ceil(share.num_layers / share.spread)
    vocab = parts.embedding_weight_bytes(hidden, share.vocab_size, width)
    has_head = is_last & ~(is_first & arch.shares_embeddings)
    vocab_copies = real(is_first) + real(has_head)
    final_norm = real(is_last) * parts.norm_weight_bytes(hidden, width)
    return share.num_layers * layer + layers_per_grid * expert + vocab_copies * vocab + final_norm


def kv_cache_bytes(shape: Shape, share: Shares) -> FloatArray:
    """Keys and values of every sequence in flight, of every layer of the stage, shape (pairs,).

    decode: all running sequences of the replica, over the groups. prefill: one batch per stage of
    the pipeline, because a batch keeps its keys until it has left the last stage.
    """
    per_layer = parts.kv_cache_bytes(
        share.resident_tokens,
        share.kv_heads,
        shape.architecture.head_dim,
        shape.kv_bytes_per_element,
    )
    return share.num_layers * per_layer


def activation_bytes(shape: Shape, share: Shares, is_last: BoolArray) -> FloatArray:
    """Buffers that live at once: the residual and its norm, and the largest operation's own.

    Shape (pairs,). The operations: attention (q, k, v and the result), a feed-forward (gate, up and
    their product), the experts (rows in and out, gate, up and product), the head (logits).
    """
    arch = shape.architecture
    attention = parts.activation_bytes(
        share.rank_tokens, (2 * share.heads + 2 * share.kv_heads) * arch.head_dim
    )
    dense = parts.activation_bytes(share.rank_tokens, 3 * (share.ffn_size + share.shared_size))
    experts = parts.activation_bytes(
        share.dispatched_rows, 2 * arch.hidden_size
    ) + parts.activation_bytes(share.expert_rows, 3 * share.expert_size)
    logit_rows = share.group_sequences if shape.is_prefill else share.rank_tokens
    logits = real(is_last) * parts.activation_bytes(logit_rows, share.vocab_size)
    largest = np.maximum(np.maximum(attention, dense), np.maximum(experts, logits))
    return parts.activation_bytes(share.rank_tokens, 2 * arch.hidden_size) + largest
