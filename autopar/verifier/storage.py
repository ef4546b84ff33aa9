"""Bytes on every GPU of a cluster: weights where the plan puts them, caches, working buffers.

What tensor parallelism cuts, whole heads and whole columns, is rounded up to the GPU that gets
most; experts lie where the placement says.
"""

from dataclasses import dataclass

import numpy as np

from autopar.costs.operations import kernels, parts
from autopar.costs.operations.precisions import precision_bytes
from autopar.problem import Plan, Stage
from autopar.specs import (
    DenseFeedForward,
    ExpertFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
)
from autopar.specs.architecture import NextTokenPrediction
from autopar.verifier.kinds import Bench
from autopar.verifier.layout import NONE, IntArray, Layout, distinct
from autopar.verifier.question import Question
from autopar.verifier.reach import Reach
from autopar.verifier.work import FloatArray, Work

_STATE_BYTES = 4.0  # of an element of a recurrent state: fp32, as vLLM and SGLang keep it
_INDEX_BYTES = 1.0  # of an element of the keys that pick tokens: FP8 (DeepSeek-V3.2 report, 2.1)
_SMALL = precision_bytes("bf16")  # norms, biases, sinks: whole on every GPU


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Expert shards that the placement puts on GPUs: one entry per (replica, layer, GPU).

    Every array has shape (entries,); shards counts different ones.
    """

    copy: IntArray
    layer: IntArray
    gpu: IntArray
    shards: IntArray

    def of_first(self) -> "Held":
        """Return the entries of the first replica."""
        first = self.copy == 0
        return Held(self.copy[first], self.layer[first], self.gpu[first], self.shards[first])


def experts_held(ask: Question, plan: Plan) -> Held:
    """Count the shards of each layer's experts on each GPU, in the replicas that list any."""
    holders = np.array(ask.llm.expert_layers, dtype=np.int64)
    rows = plan.placement[np.isin(plan.placement[:, 0], holders)]
    layer, expert, copy, shard, gpu = rows.T
    shards, _ = distinct(copy, layer, gpu, expert, shard)
    (copy, layer, gpu), counts = distinct(*shards[:3])
    return Held(copy, layer, gpu, counts)


def stored(
    ask: Question, plan: Plan, layout: Layout, works: list[Work], held: Held, num_gpus: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return bytes of weights, of caches and of working buffers, each of shape (GPUs,)."""
    weights, buffers = _expert_bytes(ask, plan, layout, works, held, num_gpus)
    caches = np.zeros(num_gpus)
    for position, (stage, work) in enumerate(zip(plan.stages, works, strict=True)):
        shelf = _Shelf(ask, stage)
        stage_weights = shelf.weights()
        cache, residual, own = shelf.caches(work), shelf.residual(work), shelf.buffers(work)
        for _, gpus in layout.blocks(position):
            ranks = np.arange(gpus.shape[1])
            group = np.minimum(ranks // (stage.tp * stage.cp), stage.attn_dp - 1)
            weights[gpus] += stage_weights
            caches[gpus] += cache[group]
            buffers[gpus] = np.maximum(buffers[gpus], own[group]) + residual[group]
    return weights, caches, buffers


def _expert_bytes(
    ask: Question, plan: Plan, layout: Layout, works: list[Work], held: Held, num_gpus: int
) -> tuple[FloatArray, FloatArray]:
    """Return bytes of routed experts, and of the buffers they work in, shape (GPUs,)."""
    weights, buffers = _on_gpus(ask, plan, layout, works, held, num_gpus)
    if len(layout.followers):
        first = _on_gpus(ask, plan, layout, works, held.of_first(), num_gpus)
        for position in range(len(plan.stages)):
            _, source, target = layout.followed(position)
            # Spelled out: ufunc.at of numpy 2.4.6 reads past values that it should repeat itself.
            np.add.at(weights, target, np.broadcast_to(first[0][source], target.shape))
            np.maximum.at(buffers, target, np.broadcast_to(first[1][source], target.shape))
    return weights, buffers


def _on_gpus(
    ask: Question, plan: Plan, layout: Layout, works: list[Work], held: Held, num_gpus: int
) -> tuple[FloatArray, FloatArray]:
    """Add up what the listed shards take on the GPUs that are listed."""
    weights, buffers = np.zeros((2, num_gpus))
    kind_of_layer = np.array(ask.architecture.kind_of_layer, dtype=np.int64)
    stage_of, kind_of = layout.layer_stage[held.layer], kind_of_layer[held.layer]
    for position, kind in distinct(stage_of, kind_of)[0].T.tolist():
        part = ask.architecture.feed_forward_of(ask.architecture.layer_kinds[kind])
        if position == NONE or not isinstance(part, ExpertFeedForward):
            continue
        here = (stage_of == position) & (kind_of == kind)
        gpu, shards = held.gpu[here], held.shards[here]
        stage = plan.stages[position]
        np.add.at(weights, gpu, shards * _shard_bytes(ask, part, stage))
        # Where a GPU works on many layers, the fullest one counts.
        counts, which = np.unique(shards, return_inverse=True)
        bench = Bench(ask, stage, works[position].fullest, Reach.of(stage))
        sizes = np.array([_expert_buffer_bytes(bench, part, n) for n in counts.tolist()])
        np.maximum.at(buffers, gpu, sizes[which.reshape(-1)])
    return weights, buffers


def _shard_bytes(ask: Question, part: ExpertFeedForward, stage: Stage) -> float:
    """Bytes of one shard of one routed expert."""
    columns = -(-part.expert_size // stage.etp)
    width = precision_bytes(ask.precisions.experts)
    matrices = parts.ffn_weight_bytes(
        part.latent_size or ask.hidden, columns, part.num_matrices, width
    )
    return float(matrices + _SMALL * part.other_parameters_per_expert / stage.etp)


def _expert_buffer_bytes(bench: Bench, part: ExpertFeedForward, shards: int) -> float:
    """Rows of tokens in and out, and of (token, expert) pairs: gate, up, their product.

    Of the GPU to which the law of expert loads sends most.
    """
    width, tokens = part.latent_size or bench.ask.hidden, bench.turn.stage_tokens
    mean = tokens * shards / part.num_experts * part.experts_per_token
    pairs = kernels.busiest_rows(
        tokens, shards, part.num_experts, part.experts_per_token, bench.ask.law, bench.stage.ep
    )
    arriving = np.minimum(bench.arriving(part, shards) * pairs / max(mean, 1e-12), tokens)
    inside = parts.activation_bytes(pairs, 3 * -(-part.expert_size // bench.stage.etp))
    return float(parts.activation_bytes(arriving, 2 * width) + inside)


@dataclass(frozen=True, slots=True)
class _Shelf:
    """What one stage holds beside the placed experts; results of shape (groups,), or a number."""

    ask: Question
    stage: Stage

    def weights(self) -> float:
        """Bytes of weights on every GPU: layers without routed experts, and the ends."""
        total = sum(self._layer_bytes(self.ask.kind(layer)) for layer in self.stage.layers)
        architecture = self.ask.architecture
        is_first = 0 in self.stage.layers
        is_last = self.ask.llm.num_layers - 1 in self.stage.layers
        drafting = is_last and self._drafting is not None
        # Of the embedding, for the first layer or to draft from, and of the head: one if shared.
        tables = (is_first or drafting) + is_last
        if tables == 2 and architecture.shares_embeddings:
            tables = 1
        table = parts.embedding_weight_bytes(
            self.ask.hidden,
            self._cut(architecture.vocab_size),
            precision_bytes(self.ask.precisions.embeddings),
        )
        total += tables * float(table)
        if is_last:
            total += architecture.other_parameters * _SMALL + self._drafts_bytes()
        return total

    def caches(self, work: Work) -> FloatArray:
        """Bytes of keys, values and states of all layers, those that draft included."""
        total = np.zeros(self.stage.attn_dp)
        for layer in self.stage.layers:
            attention = self.ask.architecture.attention_of(self.ask.kind(layer))
            if attention is not None:
                total = total + self._cache_bytes(attention, work)
        if self._drafting is not None and self.ask.llm.num_layers - 1 in self.stage.layers:
            attention = self.ask.architecture.attention_of(self._drafting.layer)
            if attention is not None:
                total = total + self._drafting.count * self._cache_bytes(attention, work)
        return total

    def residual(self, work: Work) -> FloatArray:
        """Bytes of the residual and its norm, which live beside everything else."""
        return 2 * parts.activation_bytes(work.fullest.rank_tokens, self.ask.hidden)

    def buffers(self, work: Work) -> FloatArray:
        """Bytes of the largest operation's buffers, routed experts apart."""
        turn = work.fullest
        kinds = dict.fromkeys(self.ask.kind(layer) for layer in self.stage.layers)
        rows = max((self._elements(kind) for kind in kinds), default=0)
        largest = parts.activation_bytes(turn.rank_tokens, rows)
        if self.ask.llm.num_layers - 1 in self.stage.layers:
            vocab = self._cut(self.ask.architecture.vocab_size)
            largest = np.maximum(largest, parts.activation_bytes(turn.logit_rows, vocab))
        return largest

    def _layer_bytes(self, kind: Layer) -> float:
        architecture, precisions = self.ask.architecture, self.ask.precisions
        total = kind.other_parameters * _SMALL
        attention = architecture.attention_of(kind)
        if attention is not None:
            matrices = self._attention_parameters(attention)
            total += matrices * precision_bytes(precisions.attention)
            total += attention.other_parameters * _SMALL
        part = architecture.feed_forward_of(kind)
        if part is None:
            return total
        width = precision_bytes(precisions.feed_forward)
        own = part.ffn_size if isinstance(part, DenseFeedForward) else part.shared_size
        total += float(
            parts.ffn_weight_bytes(self.ask.hidden, self._cut(own), part.num_matrices, width)
        )
        if isinstance(part, ExpertFeedForward):
            router = self.ask.hidden * part.num_experts
            total += router * precision_bytes(precisions.embeddings)
            total += 2 * self.ask.hidden * (part.latent_size or 0) * width
        return total + part.other_parameters * _SMALL

    @property
    def _drafting(self) -> NextTokenPrediction | None:
        """The layers that draft tokens, where any are drafted."""
        return self.ask.architecture.next_token_prediction if self.ask.num_drafts else None

    def _drafts_bytes(self) -> float:
        """Bytes of the layers that draft tokens, with their share of experts dealt evenly."""
        drafts = self._drafting
        if drafts is None:
            return 0.0
        part = self.ask.architecture.feed_forward_of(drafts.layer)
        each = self._layer_bytes(drafts.layer)
        if isinstance(part, ExpertFeedForward):
            shards = -(-part.num_experts // self.stage.ep)
            each += shards * _shard_bytes(self.ask, part, self.stage)
        each += drafts.other_parameters * precision_bytes(self.ask.precisions.feed_forward)
        return drafts.count * each

    def _attention_parameters(
        self, attention: GroupedQueryAttention | LatentAttention | LinearAttention
    ) -> int:
        hidden = self.ask.hidden
        if isinstance(attention, LinearAttention):
            return hidden * (self._cut(attention.input_columns) + self._cut(attention.output_rows))
        heads = self._cut(attention.num_heads)
        if isinstance(attention, GroupedQueryAttention):
            dim, value = attention.head_dim, attention.value_dim
            wide = heads * (dim + value + (value if attention.gates_output else 0))
            kept = dim if attention.keys_are_values else dim + value
            return hidden * (wide + self._cut(attention.num_kv_heads) * kept)
        return self._latent_parameters(attention, heads)

    def _latent_parameters(self, attention: LatentAttention, heads: int) -> int:
        """Count the projections to latents and the indexer whole, those of heads by `heads`."""
        hidden, rank = self.ask.hidden, attention.q_lora_rank
        key_dim = attention.qk_nope_head_dim + attention.qk_rope_head_dim
        to_queries = (hidden if rank is None else rank) * heads * key_dim
        to_latents = hidden * ((rank or 0) + attention.kv_lora_rank + attention.qk_rope_head_dim)
        from_latents = heads * (attention.qk_nope_head_dim + attention.v_head_dim)
        output = heads * attention.v_head_dim * hidden
        index = 0
        if attention.index_heads:
            small = attention.index_heads * attention.index_head_dim
            index = (rank or hidden) * small
            index += hidden * (attention.index_head_dim + attention.index_heads)
        return to_queries + to_latents + from_latents * attention.kv_lora_rank + output + index

    def _cache_bytes(
        self, attention: GroupedQueryAttention | LatentAttention | LinearAttention, work: Work
    ) -> FloatArray:
        """Bytes that one layer keeps of all sequences in flight."""
        width = precision_bytes(self.ask.precisions.kv_cache)
        if isinstance(attention, LinearAttention):
            state = self._cut(attention.state_elements)
            return parts.kv_cache_bytes(work.kept_sequences, state, _STATE_BYTES)
        if isinstance(attention, LatentAttention):
            latent = attention.kv_lora_rank + attention.qk_rope_head_dim
            cached = parts.kv_cache_bytes(work.kept_tokens, latent, width)
            index = attention.index_head_dim if attention.index_heads else 0
            return cached + parts.kv_cache_bytes(work.kept_tokens, index, _INDEX_BYTES)
        tokens = work.kept_tokens
        if attention.window_tokens is not None:
            window = -(-attention.window_tokens // self.stage.cp)
            tokens = np.minimum(tokens, work.kept_sequences * window)
        elements = self._cut(attention.num_kv_heads) * (attention.head_dim + attention.value_dim)
        return parts.kv_cache_bytes(tokens, elements, width)

    def _elements(self, kind: Layer) -> int:
        """Elements per token of the larger half of a layer, routed experts apart.

        Queries, keys, values and result; or gate, up and their product.
        """
        attention = self.ask.architecture.attention_of(kind)
        part = self.ask.architecture.feed_forward_of(kind)
        if isinstance(attention, GroupedQueryAttention):
            heads = self._cut(attention.num_heads) + self._cut(attention.num_kv_heads)
            mixed = heads * (attention.head_dim + attention.value_dim)
        elif isinstance(attention, LatentAttention):
            key_dim = attention.qk_nope_head_dim + attention.qk_rope_head_dim
            mixed = 2 * self._cut(attention.num_heads) * (key_dim + attention.v_head_dim)
        elif isinstance(attention, LinearAttention):
            mixed = self._cut(attention.input_columns) + self._cut(attention.output_rows)
        else:
            mixed = 0
        if part is None:
            return mixed
        size = part.ffn_size if isinstance(part, DenseFeedForward) else part.shared_size
        return max(mixed, 3 * self._cut(size))

    def _cut(self, size: int) -> int:
        """Return the largest share of heads or columns that tp cuts."""
        return -(-size // self.stage.tp)
