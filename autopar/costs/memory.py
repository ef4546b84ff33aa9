"""Bytes on the fullest GPU of a stage: weights, keys and values, the working buffers.

Weights and caches add up over layers, so they are given per layer of a kind; buffers are shared, so
the largest counts.
"""

from dataclasses import dataclass

import numpy as np

from autopar.costs.operations import parts
from autopar.costs.operations.arrays import real
from autopar.costs.operations.loads import busiest_rows
from autopar.costs.operations.precisions import precision_bytes
from autopar.costs.shape import Shape, ceil_div
from autopar.costs.steps import Step, Steps
from autopar.costs.timing import Exchange
from autopar.problem import Candidates, FloatArray
from autopar.specs import (
    DenseFeedForward,
    ExpertFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
)
from autopar.specs.architecture import NextTokenPrediction

STATE_BYTES = 4.0  # of one element of a recurrent state; fp32, as vLLM and SGLang keep it


@dataclass(frozen=True, slots=True)
class Store:
    """Bytes of one scenario's model; every result has shape (rows,), on the fullest GPU."""

    shape: Shape

    def shared_weights_bytes(self, kind: Layer, rows: Candidates) -> FloatArray:
        """Weights of one layer that every GPU of the stage holds: all but its routed experts."""
        arch, width = self.shape.architecture, self._width
        small = precision_bytes("bf16") * kind.other_parameters
        total = np.full(len(rows), small)
        attention = arch.attention_of(kind)
        if attention is not None:
            matrices = _attention_parameters(arch.hidden_size, attention, rows)
            total = total + matrices * width["attention"]
            total = total + attention.other_parameters * precision_bytes("bf16")
        feed_forward = arch.feed_forward_of(kind)
        if isinstance(feed_forward, DenseFeedForward):
            size = real(ceil_div(feed_forward.ffn_size, rows.tp))
            total = total + parts.ffn_weight_bytes(
                arch.hidden_size, size, feed_forward.num_matrices, width["feed_forward"]
            )
        elif isinstance(feed_forward, ExpertFeedForward):
            size = real(ceil_div(feed_forward.shared_size, rows.tp))
            total = total + parts.ffn_weight_bytes(
                arch.hidden_size, size, feed_forward.num_matrices, width["feed_forward"]
            )
            router = arch.hidden_size * feed_forward.num_experts * width["embeddings"]
            latent = 2 * arch.hidden_size * (feed_forward.latent_size or 0)
            total = total + router + latent * width["feed_forward"]
        if feed_forward is not None:
            total = total + feed_forward.other_parameters * precision_bytes("bf16")
        return total

    def expert_weights_bytes(self, kind: Layer, rows: Candidates) -> FloatArray:
        """Routed experts of one layer, on a GPU of its grid."""
        part = self.shape.architecture.feed_forward_of(kind)
        if not isinstance(part, ExpertFeedForward):
            return np.zeros(len(rows))
        return real(ceil_div(part.num_experts, rows.ep)) * expert_bytes(self.shape, part, rows.etp)

    def ends_bytes(self, rows: Candidates) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Bytes of the embedding on the first stage, of head, norm and drafts on the last, of both.

        A model that shares the two tables has one copy where one stage is both ends. Drafts start
        from the embedding of the token before, so the last stage has that table too.
        """
        arch, width = self.shape.architecture, self._width["embeddings"]
        vocab = real(ceil_div(arch.vocab_size, rows.tp))
        table = parts.embedding_weight_bytes(arch.hidden_size, vocab, width)
        head = table + arch.other_parameters * precision_bytes("bf16") + self._drafts_bytes(rows)
        if arch.shares_embeddings:
            return table, head, head
        return table, head if self._drafts is None else head + table, table + head

    @property
    def _drafts(self) -> NextTokenPrediction | None:
        """The layers that draft tokens, where any are drafted."""
        speculates = self.shape.workload.speculation is not None
        return self.shape.architecture.next_token_prediction if speculates else None

    def _drafts_bytes(self, rows: Candidates) -> FloatArray:
        drafts = self._drafts
        if drafts is None:
            return np.zeros(len(rows))
        each = self.shared_weights_bytes(drafts.layer, rows)
        each = each + self.expert_weights_bytes(drafts.layer, rows)
        other = drafts.other_parameters * self._width["feed_forward"]
        return drafts.count * (each + other)

    def drafts_cache_bytes(self, rows: Candidates, steps: Steps) -> FloatArray:
        """Keys and values of the layers that draft tokens, on the last stage."""
        if self._drafts is None:
            return np.zeros(len(rows))
        return self._drafts.count * self.kv_cache_bytes(self._drafts.layer, rows, steps)

    def kv_cache_bytes(self, kind: Layer, rows: Candidates, steps: Steps) -> FloatArray:
        """Keys and values, or states, of every sequence in flight, of one layer."""
        attention = self.shape.architecture.attention_of(kind)
        width = self._width["kv_cache"]
        match attention:
            case GroupedQueryAttention():
                kv_heads = real(ceil_div(attention.num_kv_heads, rows.tp))
                tokens = _resident_tokens(steps, attention.window_tokens, rows)
                elements = attention.head_dim + attention.value_dim
                return parts.kv_cache_bytes(tokens, kv_heads * elements, width)
            case LatentAttention():
                elements = attention.kv_lora_rank + attention.qk_rope_head_dim
                latent = parts.kv_cache_bytes(steps.resident_tokens, elements, width)
                index = attention.index_head_dim if attention.index_heads else 0
                return latent + parts.kv_cache_bytes(steps.resident_tokens, index, 1.0)  # FP8
            case LinearAttention():
                state = real(ceil_div(attention.state_elements, rows.tp))
                return parts.kv_cache_bytes(steps.resident_sequences, state, STATE_BYTES)
            case None:
                return np.zeros(len(rows))

    def layer_buffer_bytes(
        self, kind: Layer, rows: Candidates, groups: FloatArray, step: Step
    ) -> FloatArray:
        """Buffers of the largest operation of one layer.

        Attention: q, k, v and the result; a feed-forward: gate, up and their product; experts:
        rows in and out, gate, up and product.
        """
        arch = self.shape.architecture
        attention = _attention_elements(arch.attention_of(kind), rows)
        own = parts.activation_bytes(step.rank_tokens, attention)
        part = arch.feed_forward_of(kind)
        if isinstance(part, DenseFeedForward):
            size = real(ceil_div(part.ffn_size, rows.tp))
            return np.maximum(own, parts.activation_bytes(step.rank_tokens, 3 * size))
        if isinstance(part, ExpertFeedForward):
            return np.maximum(own, self._expert_buffer_bytes(part, rows, groups, step))
        return own

    def _expert_buffer_bytes(
        self, part: ExpertFeedForward, rows: Candidates, groups: FloatArray, step: Step
    ) -> FloatArray:
        width = part.latent_size or self.shape.architecture.hidden_size
        shared = real(ceil_div(part.shared_size, rows.tp))
        received = Exchange.of(part, rows, groups, step).received
        held = ceil_div(part.num_experts, rows.ep)
        routed, even = (
            busiest_rows(
                step.stage_tokens, held, part.num_experts, part.experts_per_token, law, rows.ep
            )
            for law in (self.shape.law, "even")
        )
        received = np.minimum(received * (routed / even), step.stage_tokens)
        experts = parts.activation_bytes(received, 2 * width)
        experts = experts + parts.activation_bytes(
            routed, 3 * real(ceil_div(part.expert_size, rows.etp))
        )
        return np.maximum(experts, parts.activation_bytes(step.rank_tokens, 3 * shared))

    def residual_bytes(self, step: Step) -> FloatArray:
        """The residual and its norm, which live beside every other buffer."""
        return parts.activation_bytes(step.rank_tokens, 2 * self.shape.architecture.hidden_size)

    def logits_bytes(self, rows: Candidates, step: Step) -> FloatArray:
        """Logits of the last stage."""
        vocab = real(ceil_div(self.shape.architecture.vocab_size, rows.tp))
        return parts.activation_bytes(step.logit_rows, vocab)

    @property
    def _width(self) -> dict[str, float]:
        precisions = self.shape.precisions
        return {
            key: precision_bytes(getattr(precisions, key)) for key in type(precisions).model_fields
        }


def expert_bytes(shape: Shape, part: ExpertFeedForward, etp: object) -> FloatArray:
    """Bytes of one shard of one routed expert."""
    etp = np.asarray(etp, dtype=np.int64)
    size = real(ceil_div(part.expert_size, etp))
    matrices = parts.ffn_weight_bytes(
        part.latent_size or shape.architecture.hidden_size,
        size,
        part.num_matrices,
        precision_bytes(shape.precisions.experts),
    )
    return matrices + part.other_parameters_per_expert * precision_bytes("bf16") / etp


def _resident_tokens(steps: Steps, window: int | None, rows: Candidates) -> FloatArray:
    """Tokens whose keys stay on one rank: no more of a sequence than its window."""
    if window is None:
        return steps.resident_tokens
    most = steps.resident_sequences * np.ceil(window / real(rows.cp))
    return np.minimum(steps.resident_tokens, most)


def _attention_parameters(
    hidden: int,
    attention: GroupedQueryAttention | LatentAttention | LinearAttention,
    rows: Candidates,
) -> FloatArray:
    """Parameters of the projections on one GPU: heads are cut over tp, latents are not."""
    match attention:
        case GroupedQueryAttention():
            dim, value = attention.head_dim, attention.value_dim
            gate = value if attention.gates_output else 0
            projected = 0 if attention.keys_are_values else value
            columns = ceil_div(attention.num_heads, rows.tp) * (dim + value + gate)
            columns = columns + ceil_div(attention.num_kv_heads, rows.tp) * (dim + projected)
            return real(hidden * columns)
        case LinearAttention():
            columns = ceil_div(attention.input_columns, rows.tp)
            return real(hidden * (columns + ceil_div(attention.output_rows, rows.tp)))
        case LatentAttention():
            return _latent_parameters(hidden, attention, rows)


def _latent_parameters(hidden: int, attention: LatentAttention, rows: Candidates) -> FloatArray:
    heads = ceil_div(attention.num_heads, rows.tp)
    nope, rope = attention.qk_nope_head_dim, attention.qk_rope_head_dim
    latent, rank = attention.kv_lora_rank, attention.q_lora_rank
    source = rank or hidden
    whole = hidden * ((rank or 0) + latent + rope)
    if attention.index_heads:
        index = attention.index_heads * attention.index_head_dim
        whole += source * index + hidden * (attention.index_head_dim + attention.index_heads)
    per_head = source * (nope + rope) + latent * (nope + attention.v_head_dim)
    return real(whole + heads * (per_head + attention.v_head_dim * hidden))


def _attention_elements(
    attention: GroupedQueryAttention | LatentAttention | LinearAttention | None, rows: Candidates
) -> FloatArray:
    """Elements per token of queries, keys, values and result on one GPU."""
    match attention:
        case GroupedQueryAttention():
            heads = ceil_div(attention.num_heads, rows.tp)
            heads = heads + ceil_div(attention.num_kv_heads, rows.tp)
            return real(heads * (attention.head_dim + attention.value_dim))
        case LatentAttention():
            dims = attention.qk_nope_head_dim + attention.qk_rope_head_dim + attention.v_head_dim
            return real(ceil_div(attention.num_heads, rows.tp) * 2 * dims)
        case LinearAttention():
            columns = ceil_div(attention.input_columns, rows.tp)
            return real(columns + ceil_div(attention.output_rows, rows.tp))
        case None:
            return np.zeros(len(rows))
