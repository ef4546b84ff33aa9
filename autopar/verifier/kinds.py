"""Time of one layer of each kind, on every attention group of a stage.

Every result has shape (groups,), us. Kernels and collectives follow one another. What tensor
parallelism cuts, whole heads and whole columns, is rounded up to the GPU that gets most.
"""

from dataclasses import dataclass, replace

import numpy as np

from autopar.costs.operations import kernels, parts
from autopar.costs.operations.host import layer_host_us, step_host_us
from autopar.problem import Stage
from autopar.specs import (
    DenseFeedForward,
    ExpertFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
    Precision,
)
from autopar.verifier.question import Question
from autopar.verifier.reach import Reach
from autopar.verifier.work import FloatArray, Turn

# What experts that compute in 8 bits, or in 4 with fine scales, are sent in FP8: DeepEP dispatches
# so, and combines in bf16 (arXiv:2412.19437, section 3.2.2).
_SENT_AS_FP8 = ("fp8", "fp8_block", "nvfp4")
_INDEX_PRECISION: Precision = "fp8"  # of the keys that pick tokens (DeepSeek-V3.2 report, 2.1)


@dataclass(frozen=True, slots=True)
class Bench:
    """One stage with its work of one step: everything that the time of a layer depends on.

    reach: how far the groups of the stage lie apart.
    """

    ask: Question
    stage: Stage
    turn: Turn
    reach: Reach

    def layer_us(self, layer: Layer, fullest: int) -> FloatArray:
        """Time of one layer; fullest: expert shards on the GPU that holds most of this layer."""
        part, engine = self.ask.architecture.feed_forward_of(layer), self.ask.device.engine
        total = self._work_us(layer, fullest)
        if isinstance(part, ExpertFeedForward):
            if engine is not None and engine.two_batch_overlap and self._places > 1:
                # One half is worked on while the other is under way, and the other way round.
                half = Bench(self.ask, self.stage, self.turn.halved(), self.reach)
                work_us = half._work_us(layer, fullest)
                away_us = half._exchange_us(part, fullest)
                total = np.maximum(work_us, away_us) * 2
            else:
                total = total + self._exchange_us(part, fullest)
        return total + layer_host_us(self.ask.device)

    def _work_us(self, layer: Layer, fullest: int) -> FloatArray:
        """Time of a layer, without what its tokens take to their experts and back."""
        architecture = self.ask.architecture
        attention = architecture.attention_of(layer)
        feed_forward = architecture.feed_forward_of(layer)
        total = np.zeros(self.stage.attn_dp)
        if attention is not None:
            total = total + self._norm_us() + self._attention_us(attention)
        if isinstance(feed_forward, DenseFeedForward):
            total = total + self._norm_us() + self._dense_us(feed_forward)
        elif isinstance(feed_forward, ExpertFeedForward):
            total = total + self._norm_us() + self._experts_us(feed_forward, fullest)
        return total

    def embedding_us(self) -> FloatArray:
        """Read a row of the table for every token, and write it."""
        moved = 2 * parts.activation_bytes(self.turn.rank_tokens, self.ask.hidden)
        return kernels.elementwise_us(moved, self.ask.device)

    def head_us(self) -> FloatArray:
        """Logits of the tokens that need them, gathered over tp."""
        vocab, rows = self.ask.architecture.vocab_size, self.turn.logit_rows
        gathered = parts.activation_bytes(rows, vocab)
        return self._gemm_us(
            rows, self.ask.hidden, self._cut(vocab), self.ask.precisions.embeddings
        ) + self.ask.network.all_gather_us(
            gathered, self.stage.tp, self.reach.tensor / self.stage.tp
        )

    def drafts_us(self) -> FloatArray:
        """Draft tokens one after another: a projection of two rows to one, a layer, the head.

        Each layer that drafts goes once through all tokens of the turn, prompts too, whose keys it
        has to keep; where it comes round again, through the one new token of each sequence.
        """
        drafts = self.ask.architecture.next_token_prediction
        total = np.zeros(self.stage.attn_dp)
        if drafts is None:
            return total
        later = replace(self, turn=self.turn.next_drafts())
        for number in range(self.ask.num_drafts):
            bench = self if number < drafts.count else later
            fullest = self.even_experts(drafts.layer)
            total = total + bench.layer_us(drafts.layer, fullest) + bench.merge_us()
            total = total + later.head_us()
        return total

    def merge_us(self) -> FloatArray:
        """Project the residual and the embedding of the token before to the width of one."""
        return self._gemm_us(
            self.turn.rank_tokens,
            2 * self.ask.hidden,
            self.ask.hidden,
            self.ask.precisions.feed_forward,
        )

    def host_us(self) -> FloatArray:
        """Every group waits for the host, which looks after its running sequences."""
        return step_host_us(self.turn.sequences, self.ask.device)

    def hop_us(self) -> FloatArray:
        """Every GPU hands the tokens of its rank on to one of the next stage."""
        size = parts.activation_bytes(self.turn.rank_tokens, self.ask.hidden)
        return self.ask.network.point_to_point_us(size, 2 * self.stage.num_gpus)

    def even_experts(self, layer: Layer) -> int:
        """Experts of a layer on the fullest rank, where they are dealt evenly."""
        part = self.ask.architecture.feed_forward_of(layer)
        if not isinstance(part, ExpertFeedForward):
            return 0
        return -(-part.num_experts // self.stage.ep)

    def arriving(self, part: ExpertFeedForward, shards: int) -> float:
        """Tokens that reach a GPU with so many expert shards of a layer, under even routing.

        A token goes once to each of the ranks that hold its experts.
        """
        copies = min(part.experts_per_token, self.stage.ep)
        tokens = self.turn.stage_tokens
        return min(tokens * shards / part.num_experts * copies, tokens)

    def _norm_us(self) -> FloatArray:
        """Add to the residual and normalise it: two tensors read, two written."""
        moved = 4 * parts.activation_bytes(self.turn.rank_tokens, self.ask.hidden)
        return kernels.elementwise_us(moved, self.ask.device)

    def _attention_us(
        self, attention: GroupedQueryAttention | LatentAttention | LinearAttention
    ) -> FloatArray:
        if isinstance(attention, GroupedQueryAttention):
            mixed_us = self._grouped_us(attention)
        elif isinstance(attention, LatentAttention):
            mixed_us = self._latent_us(attention)
        else:
            mixed_us = self._linear_us(attention)
        return mixed_us + self._tensor_sum_us()

    def _grouped_us(self, attention: GroupedQueryAttention) -> FloatArray:
        """Queries, keys, values and perhaps a gate; scores; output."""
        turn, hidden = self.turn, self.ask.hidden
        precision, dim = self.ask.precisions.attention, attention.head_dim
        value = attention.value_dim
        heads, kv_heads = self._cut(attention.num_heads), self._cut(attention.num_kv_heads)
        widths = heads * (dim + value if attention.gates_output else dim)
        widths += kv_heads * (dim if attention.keys_are_values else dim + value)
        window, keys, seen = attention.window_tokens, turn.prompt_keys, float(turn.context)
        if window is not None:  # the new tokens, and before those of each part one window
            keys = np.minimum(keys, turn.prompt_tokens + window * turn.prompt_parts)
            seen = min(seen, -(-window // self.stage.cp))
        in_us = self._gemm_us(turn.rank_tokens, hidden, widths, precision)
        prompts_us = kernels.prefill_attention_us(
            turn.prompt_tokens / self.stage.cp,
            _mean_context(turn.prompt_length, window),
            keys,
            heads=heads,
            kv_heads=kv_heads,
            qk_head_dim=dim,
            v_head_dim=value,
            kv_precision=self.ask.precisions.kv_cache,
            device=self.ask.device,
        )
        running_us = kernels.decode_attention_us(  # a sequence's keys are read once for all drafts
            turn.sequences,
            seen,
            heads=heads * turn.queries,
            kv_heads=kv_heads,
            qk_head_dim=dim,
            v_head_dim=value,
            kv_precision=self.ask.precisions.kv_cache,
            device=self.ask.device,
        )
        out_us = self._gemm_us(turn.rank_tokens, heads * value, hidden, precision)
        exchange_us = self._context_exchange_us(kv_heads * (dim + value), heads * value)
        return in_us + prompts_us + running_us + exchange_us + out_us

    def _latent_us(self, attention: LatentAttention) -> FloatArray:
        """Latents, whole on every GPU; prompts expand them to keys and values, others absorb."""
        turn, hidden, cp = self.turn, self.ask.hidden, self.stage.cp
        precision, cache = self.ask.precisions.attention, self.ask.precisions.kv_cache
        heads, rope = self._cut(attention.num_heads), attention.qk_rope_head_dim
        nope, value = attention.qk_nope_head_dim, attention.v_head_dim
        latent, rank = attention.kv_lora_rank, attention.q_lora_rank or 0
        seen = float(turn.context)
        if attention.index_tokens is not None:
            seen = min(seen, -(-attention.index_tokens // cp))
        project_us = (
            self._gemm_us(turn.rank_tokens, hidden, rank + latent + rope, precision)
            + self._gemm_us(turn.rank_tokens, rank or hidden, heads * (nope + rope), precision)
            + self._gemm_us(turn.rank_tokens, heads * value, hidden, precision)
        )
        expand_us = self._gemm_us(turn.prompt_keys, latent, heads * (nope + value), precision)
        absorb_us = self._gemm_us(turn.query_tokens, heads * nope, latent, precision)
        absorb_us = absorb_us + self._gemm_us(turn.query_tokens, heads * value, latent, precision)
        prompts_us = kernels.prefill_attention_us(
            turn.prompt_tokens / cp,
            _mean_context(turn.prompt_length, attention.index_tokens),
            turn.prompt_keys,
            heads=heads,
            kv_heads=heads,
            qk_head_dim=nope + rope,
            v_head_dim=value,
            kv_precision=cache,
            device=self.ask.device,
        )
        running_us = kernels.latent_decode_attention_us(
            turn.sequences,
            seen,
            heads=heads * turn.queries,
            latent_dim=latent,
            rope_dim=rope,
            kv_precision=cache,
            device=self.ask.device,
        )
        exchange_us = self._context_exchange_us(latent + rope, heads * latent)
        index_us = self._index_us(attention)
        return project_us + expand_us + absorb_us + prompts_us + running_us + exchange_us + index_us

    def _index_us(self, attention: LatentAttention) -> FloatArray:
        """Score every token with small heads, whole on every GPU, to pick those to attend to."""
        turn, heads, dim = self.turn, attention.index_heads, attention.index_head_dim
        if not heads:
            return np.zeros(self.stage.attn_dp)
        project_us = self._gemm_us(
            turn.rank_tokens,
            attention.q_lora_rank or self.ask.hidden,
            heads * dim,
            self.ask.precisions.attention,
        )
        prompts_us = kernels.prefill_attention_us(
            turn.prompt_tokens / self.stage.cp,
            _mean_context(turn.prompt_length, None),
            turn.prompt_keys,
            heads=heads,
            kv_heads=1,
            qk_head_dim=dim,
            v_head_dim=0,
            kv_precision=_INDEX_PRECISION,
            device=self.ask.device,
        )
        running_us = kernels.decode_attention_us(
            turn.sequences,
            turn.context,
            heads=heads * turn.queries,
            kv_heads=1,
            qk_head_dim=dim,
            v_head_dim=0,
            kv_precision=_INDEX_PRECISION,
            device=self.ask.device,
        )
        return project_us + prompts_us + running_us

    def _linear_us(self, attention: LinearAttention) -> FloatArray:
        """Projections of a rank's tokens; the recurrence runs through all tokens of the group.

        It does so on every context rank, so that these first gather what each of them projected.
        """
        turn, precision = self.turn, self.ask.precisions.attention
        columns, rows = self._cut(attention.input_columns), self._cut(attention.output_rows)
        projected = parts.activation_bytes(turn.group_tokens, columns)
        return (
            self.ask.network.all_gather_us(
                projected, self.stage.cp, self.reach.context / self.stage.cp
            )
            + self._gemm_us(turn.rank_tokens, self.ask.hidden, columns, precision)
            + kernels.linear_attention_us(
                turn.group_tokens,
                turn.sequences + turn.prompt_parts,
                state_elements=self._cut(attention.state_elements),
                device=self.ask.device,
            )
            + self._gemm_us(turn.rank_tokens, rows, self.ask.hidden, precision)
        )

    def _dense_us(self, part: DenseFeedForward) -> FloatArray:
        return self._cut_feed_forward_us(part.ffn_size, part.num_matrices) + self._tensor_sum_us()

    def _experts_us(self, part: ExpertFeedForward, fullest: int) -> FloatArray:
        """Router, shared experts and the experts of the fullest GPU."""
        hidden, rows = self.ask.hidden, self.turn.rank_tokens
        local_us = self._gemm_us(rows, hidden, part.num_experts, self.ask.precisions.embeddings)
        if part.latent_size is not None:  # there and back, in the time of one GEMM twice as deep
            local_us = local_us + self._gemm_us(
                rows, 2 * hidden, part.latent_size, self.ask.precisions.feed_forward
            )
        if part.shared_size:
            local_us = local_us + self._cut_feed_forward_us(part.shared_size, part.num_matrices)
            if self._places > 1:  # else the sum over the stage has these sums in it
                local_us = local_us + self._tensor_sum_us()
        return local_us + self._routed_us(part, fullest)

    def _routed_us(self, part: ExpertFeedForward, fullest: int) -> FloatArray:
        """Time of the GPU that holds most experts of the layer; the other grids wait."""
        if not fullest:
            return np.zeros(1)
        return kernels.routed_experts_us(
            self.turn.stage_tokens,
            fullest,
            num_experts=part.num_experts,
            experts_per_token=part.experts_per_token,
            law=self.ask.law,
            ranks=self.stage.ep,
            hidden_size=part.latent_size or self.ask.hidden,
            ffn_size=-(-part.expert_size // self.stage.etp),
            num_matrices=part.num_matrices,
            precision=self.ask.precisions.experts,
            device=self.ask.device,
            sorted_tokens=self.arriving(part, fullest),
        )

    def _exchange_us(self, part: ExpertFeedForward, fullest: int) -> FloatArray:
        """Dispatch and combine.

        In one place every GPU has every token, and one sum over the stage brings all: of latents,
        unless shared experts, which work beside them on the residual, add theirs. Else tokens
        leave their rank once per expert rank that they go to; the tp GPUs of a rank share the
        sending, each of the etp GPUs of an expert needs the whole row, and on the way back, once
        these have summed, each of the tp GPUs needs the whole sum. The busier end counts.
        """
        stage, network = self.stage, self.ask.network
        width = part.latent_size or self.ask.hidden
        if self._places == 1:
            columns = self.ask.hidden if part.shared_size else width
            everything = parts.activation_bytes(self.turn.stage_tokens, columns)
            return network.all_reduce_us(
                everything, stage.num_gpus, self.reach.stage / stage.num_gpus
            )
        arriving = self.arriving(part, fullest)
        copies = min(part.experts_per_token, stage.ep)
        leaving = self.turn.rank_tokens * copies
        there = np.maximum(leaving * stage.etp / stage.tp, arriving)
        back = np.maximum(leaving, arriving * stage.tp / stage.etp)
        sent = parts.activation_bytes(there, width)
        if self.ask.precisions.experts in _SENT_AS_FP8:
            sent = sent / 2
        returned = parts.activation_bytes(back, width)
        summed = parts.activation_bytes(arriving, width)
        return (
            network.all_to_all_us(sent, self._places, self.reach.stage, copies)
            + network.all_reduce_us(summed, stage.etp, self.reach.shards / stage.etp)
            + network.all_to_all_us(returned, self._places, self.reach.stage, copies)
        )

    def _context_exchange_us(self, cached: int, result: int) -> FloatArray:
        """Prompts gather what is cached over cp; running sequences sum partial results.

        cached, result: elements per token. A context rank is tp consecutive GPUs; each of them
        meets its likes of the other ranks, tp GPUs on where these lie side by side.
        """
        network, cp = self.ask.network, self.stage.cp
        apart = self.reach.context / cp
        gathered = parts.activation_bytes(self.turn.prompt_tokens, cached)
        partial = parts.activation_bytes(self.turn.query_tokens, result)
        gather_us = network.all_gather_us(gathered, cp, apart)
        return gather_us + network.all_reduce_us(partial, cp, apart)

    def _tensor_sum_us(self) -> FloatArray:
        size = parts.activation_bytes(self.turn.rank_tokens, self.ask.hidden)
        apart = self.reach.tensor / self.stage.tp
        return self.ask.network.all_reduce_us(size, self.stage.tp, apart)

    def _cut_feed_forward_us(self, size: int, num_matrices: int) -> FloatArray:
        return kernels.feed_forward_us(
            _padded(self.turn.rank_tokens),
            self.ask.hidden,
            self._cut(size),
            num_matrices,
            self.ask.precisions.feed_forward,
            self.ask.device,
        )

    def _gemm_us(
        self, rows: FloatArray, inner: int, columns: int, precision: Precision
    ) -> FloatArray:
        return kernels.gemm_us(_padded(rows), inner, columns, precision, self.ask.device)

    def _cut(self, size: int) -> int:
        """Return the largest share of heads or columns that tp cuts."""
        return -(-size // self.stage.tp)

    @property
    def _places(self) -> int:
        """Context ranks of the stage: where tokens come from."""
        return self.stage.attn_dp * self.stage.cp


def _mean_context(length: int, window: int | None) -> float:
    """Mean keys of the tokens of a prompt: the i-th sees the i last ones, or those in its window.

    The first `full` tokens see 1, 2, ..., full; the others `full` each.
    """
    full = length if window is None else min(window, length)
    return (full * (full + 1) / 2 + (length - full) * full) / max(length, 1)


def _padded(rows: FloatArray) -> FloatArray:
    """Return the rows of the group that has most of them, for all groups.

    Engines pad the ranks of data-parallel attention to it, and a product with fewer rows may take
    longer. Source: vLLM, vllm/v1/worker/dp_utils.py; SGLang, DpPaddingMode.MAX_LEN.
    """
    return np.full_like(rows, rows.max())
