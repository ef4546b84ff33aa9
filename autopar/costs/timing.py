"""Time of the pieces of a step: attention and feed-forward by kind, the two ends, the hop.

`docs/model.md` gives every formula. Nothing overlaps. Sizes are those of the busiest GPU.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from autopar.costs.operations import kernels
from autopar.costs.operations.arrays import real
from autopar.costs.operations.collectives import Network
from autopar.costs.operations.device import Device
from autopar.costs.operations.host import layer_host_us, step_host_us
from autopar.costs.operations.precisions import ACTIVATION_BYTES
from autopar.costs.shape import Shape, ceil_div
from autopar.costs.steps import Step
from autopar.problem import Candidates, FloatArray
from autopar.specs import (
    DenseFeedForward,
    ExpertFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
    Precision,
)


@dataclass(frozen=True, slots=True)
class Clock:
    """Times of one scenario's hardware and model; every result has shape (rows,), us.

    growth: times which a step's work may grow, 1 or shape (rows,). Where it is above 1, a time is
    what no step of as much work up to so many times as much beats.
    """

    shape: Shape
    network: Network
    device: Device
    growth: FloatArray | float = 1.0

    def layer_us(self, kind: Layer, rows: Candidates, groups: FloatArray, step: Step) -> FloatArray:
        """Time of one layer of a kind; groups: attention groups of the stage.

        With two batches the exchange of one half of the step runs beside the work of the other.
        """
        feed_forward = self.shape.architecture.feed_forward_of(kind)
        total = self._work_us(kind, rows, groups, step)
        if isinstance(feed_forward, ExpertFeedForward):
            exchanged = Exchange.of(feed_forward, rows, groups, step)
            total = total + self._exchange_us(feed_forward, rows, exchanged, step)
            if self.device.engine is not None and self.device.engine.two_batch_overlap:
                half = step.half(rows.cp)
                both_us = 2 * np.maximum(
                    self._work_us(kind, rows, groups, half),
                    self._exchange_us(
                        feed_forward, rows, Exchange.of(feed_forward, rows, groups, half), half
                    ),
                )
                total = np.where(groups * rows.cp > 1, both_us, total)
        return real(total + layer_host_us(self.device))

    def _work_us(self, kind: Layer, rows: Candidates, groups: FloatArray, step: Step) -> FloatArray:
        """Time of a layer without its exchange between expert ranks."""
        hidden = self.shape.architecture.hidden_size
        total = real(np.zeros(len(rows)))
        attention = self.shape.architecture.attention_of(kind)
        # Each half of a layer adds to the residual and normalises it: two reads, two writes.
        norm_us = kernels.elementwise_us(
            4 * hidden * ACTIVATION_BYTES * step.rank_tokens, self.device
        )
        if attention is not None:
            total = total + norm_us + self._attention_us(attention, rows, step)
        feed_forward = self.shape.architecture.feed_forward_of(kind)
        if isinstance(feed_forward, DenseFeedForward):
            total = total + norm_us + self._dense_us(feed_forward, rows, step)
        elif isinstance(feed_forward, ExpertFeedForward):
            total = total + norm_us + self._moe_us(feed_forward, rows, groups, step)
        return real(total)

    def embedding_us(self, step: Step) -> FloatArray:
        """Time to look the tokens up: a row read, a row written."""
        row_bytes = 2 * self.shape.architecture.hidden_size * ACTIVATION_BYTES
        return kernels.elementwise_us(step.rank_tokens * row_bytes, self.device)

    def head_us(self, rows: Candidates, step: Step) -> FloatArray:
        """Time of the head: logits of the tokens that need them, gathered over tp."""
        arch = self.shape.architecture
        columns = real(ceil_div(arch.vocab_size, rows.tp))
        logits_bytes = step.logit_rows * arch.vocab_size * ACTIVATION_BYTES
        gather_us = self.network.all_gather_us(logits_bytes, real(rows.tp))
        precision = self.shape.precisions.embeddings
        return self._gemm_us(step.logit_rows, arch.hidden_size, columns, precision) + gather_us

    def drafts_us(self, rows: Candidates, groups: FloatArray, step: Step) -> FloatArray:
        """Time to draft tokens, one after another: layer and head once for each.

        A layer that drafts caches keys of its own, so that its first pass takes every token of the
        step, prompts included; passes that repeat a layer take one token of each sequence (vLLM,
        `v1/spec_decode/eagle.py`, propose; SGLang, draft extend).
        """
        drafts, work = self.shape.architecture.next_token_prediction, self.shape.workload
        if work.speculation is None or drafts is None:
            return np.zeros(len(rows))
        hidden, count = self.shape.architecture.hidden_size, work.speculation.draft_tokens
        filling = min(count, drafts.count)
        one = step.drafting(rows.cp, groups)

        def pass_us(taken: Step) -> FloatArray:
            return self.layer_us(drafts.layer, rows, groups, taken) + self._gemm_us(
                taken.rank_tokens, 2 * hidden, hidden, self.shape.precisions.feed_forward
            )

        total = filling * pass_us(step) + count * self.head_us(rows, one)
        return total + (count - filling) * pass_us(one) if count > filling else total

    def host_us(self, step: Step) -> FloatArray:
        """Time of the engine's host, once in each step of each stage."""
        return step_host_us(step.sequences, self.device)

    def hop_us(self, stage_gpus: FloatArray, step: Step) -> FloatArray:
        """Time to hand the activations to the next stage: every GPU sends those of its rank."""
        size = step.rank_tokens * self.shape.architecture.hidden_size * ACTIVATION_BYTES
        return self.network.point_to_point_us(size, 2 * stage_gpus)

    def _attention_us(
        self,
        attention: GroupedQueryAttention | LatentAttention | LinearAttention,
        rows: Candidates,
        step: Step,
    ) -> FloatArray:
        match attention:
            case GroupedQueryAttention():
                mixed_us = self._grouped_query_us(attention, rows, step)
            case LatentAttention():
                mixed_us = self._latent_us(attention, rows, step)
            case LinearAttention():
                mixed_us = self._linear_us(attention, rows, step)
        return mixed_us + self._sum_over_tp_us(rows, step)

    def _grouped_query_us(
        self, attention: GroupedQueryAttention, rows: Candidates, step: Step
    ) -> FloatArray:
        """Projections, scores of prompts and of running sequences, exchange over cp."""
        hidden, dim = self.shape.architecture.hidden_size, attention.head_dim
        value = attention.value_dim
        heads = real(ceil_div(attention.num_heads, rows.tp))
        kv_heads = real(ceil_div(attention.num_kv_heads, rows.tp))
        kv_precision = self.shape.precisions.kv_cache
        gate = value if attention.gates_output else 0
        projected = 0 if attention.keys_are_values else value
        columns = heads * (dim + gate) + kv_heads * (dim + projected)
        shapes: dict[str, Any] = {
            "kv_heads": kv_heads,
            "qk_head_dim": dim,
            "v_head_dim": value,
            "kv_precision": kv_precision,
            "device": self.device,
        }
        window = attention.window_tokens
        prompt_us = kernels.prefill_attention_us(
            step.prompt_tokens / rows.cp,
            causal_context(step.prompt_length, window),
            keys_seen(step, window),
            heads=heads,
            **shapes,
        )
        # The drafts of a sequence are checked together: more queries, the same keys read once.
        running_us = kernels.decode_attention_us(
            step.sequences,
            limited(step.context, window, rows.cp),
            heads=heads * step.queries,
            **shapes,
        )
        return (
            self._gemm_us(step.rank_tokens, hidden, columns, self.shape.precisions.attention)
            + prompt_us
            + running_us
            + self._exchange_over_cp_us(rows, step, kv_heads * (dim + value), heads * value)
            + self._gemm_us(
                step.rank_tokens, heads * value, hidden, self.shape.precisions.attention
            )
        )

    def _latent_us(self, attention: LatentAttention, rows: Candidates, step: Step) -> FloatArray:
        """Latent attention: prompts with keys and values expanded, running sequences absorbed."""
        hidden, precision = self.shape.architecture.hidden_size, self.shape.precisions.attention
        heads = real(ceil_div(attention.num_heads, rows.tp))
        nope, rope = attention.qk_nope_head_dim, attention.qk_rope_head_dim
        latent, value = attention.kv_lora_rank, attention.v_head_dim
        queries = step.sequences * step.queries
        rank = attention.q_lora_rank
        # The latents of queries, keys and values are computed whole on every GPU of tp.
        down_us = self._gemm_us(step.rank_tokens, hidden, (rank or 0) + latent + rope, precision)
        up_us = self._gemm_us(step.rank_tokens, rank or hidden, heads * (nope + rope), precision)
        # Every rank expands the latents of all keys that its queries see, cached ones too.
        expand_us = self._gemm_us(step.prompt_keys, latent, heads * (nope + value), precision)
        absorb_us = self._gemm_us(queries, heads * nope, latent, precision)
        absorb_us = absorb_us + self._gemm_us(queries, heads * value, latent, precision)
        kv_precision = self.shape.precisions.kv_cache
        prompt_us = kernels.prefill_attention_us(
            step.prompt_tokens / rows.cp,
            causal_context(step.prompt_length, attention.index_tokens),
            step.prompt_keys,
            heads=heads,
            kv_heads=heads,
            qk_head_dim=nope + rope,
            v_head_dim=value,
            kv_precision=kv_precision,
            device=self.device,
        )
        running_us = kernels.latent_decode_attention_us(
            step.sequences,
            limited(step.context, attention.index_tokens, rows.cp),
            heads=heads * step.queries,
            latent_dim=latent,
            rope_dim=rope,
            kv_precision=kv_precision,
            device=self.device,
        )
        return (
            down_us
            + up_us
            + expand_us
            + absorb_us
            + self._index_us(attention, rows, step)
            + prompt_us
            + running_us
            + self._exchange_over_cp_us(
                rows, step, np.full(len(rows), float(latent + rope)), heads * latent
            )
            + self._gemm_us(step.rank_tokens, heads * value, hidden, precision)
        )

    def _index_us(self, attention: LatentAttention, rows: Candidates, step: Step) -> FloatArray:
        """The indexer that picks the tokens to attend to: one key per token, in FP8."""
        if not attention.index_heads:
            return np.zeros(len(rows))
        shapes: dict[str, Any] = {
            "kv_heads": 1,
            "qk_head_dim": attention.index_head_dim,
            "v_head_dim": 0,
            "kv_precision": "fp8",
            "device": self.device,
        }
        columns = attention.index_heads * attention.index_head_dim
        source = attention.q_lora_rank or self.shape.architecture.hidden_size
        project_us = self._gemm_us(
            step.rank_tokens, source, columns, self.shape.precisions.attention
        )
        prompt_us = kernels.prefill_attention_us(
            step.prompt_tokens / rows.cp,
            causal_context(step.prompt_length, None),
            step.prompt_keys,
            heads=attention.index_heads,
            **shapes,
        )
        running_us = kernels.decode_attention_us(
            step.sequences, step.context, heads=attention.index_heads * step.queries, **shapes
        )
        return project_us + prompt_us + running_us

    def _linear_us(self, attention: LinearAttention, rows: Candidates, step: Step) -> FloatArray:
        """Projections of a rank's tokens, and the recurrence, which every rank runs through.

        A state is one chain over all tokens of a sequence: each rank of cp has a copy of it, and
        gathers what the others have projected.
        """
        hidden, precision = self.shape.architecture.hidden_size, self.shape.precisions.attention
        columns = real(ceil_div(attention.input_columns, rows.tp))
        inner = real(ceil_div(attention.output_rows, rows.tp))
        state = real(ceil_div(attention.state_elements, rows.tp))
        mix_us = kernels.linear_attention_us(
            step.group_tokens,
            step.sequences + step.prompt_parts,
            state_elements=state,
            device=self.device,
        )
        return (
            self._gemm_us(step.rank_tokens, hidden, columns, precision)
            + self._gather_over_cp_us(rows, step.group_tokens * columns)
            + mix_us
            + self._gemm_us(step.rank_tokens, inner, hidden, precision)
        )

    def _dense_us(self, part: DenseFeedForward, rows: Candidates, step: Step) -> FloatArray:
        """One dense feed-forward and its all-reduce over tp."""
        size = real(ceil_div(part.ffn_size, rows.tp))
        return self._ffn_us(step, size, part.num_matrices) + self._sum_over_tp_us(rows, step)

    def _moe_us(
        self, part: ExpertFeedForward, rows: Candidates, groups: FloatArray, step: Step
    ) -> FloatArray:
        """Router, experts and shared experts of one layer.

        Only the layer's own expert grid works: with a spread above 1 the others wait.
        """
        hidden = self.shape.architecture.hidden_size
        held = ceil_div(part.num_experts, rows.ep)
        exchanged = Exchange.of(part, rows, groups, step)
        experts_us = kernels.routed_experts_us(
            step.stage_tokens,
            held,
            num_experts=part.num_experts,
            experts_per_token=part.experts_per_token,
            law=self.shape.law,
            ranks=rows.ep,
            hidden_size=part.latent_size or hidden,
            ffn_size=real(ceil_div(part.expert_size, rows.etp)),
            num_matrices=part.num_matrices,
            precision=self.shape.precisions.experts,
            device=self.device,
            sorted_tokens=exchanged.received,
        )
        router_us = self._gemm_us(
            step.rank_tokens, hidden, part.num_experts, self.shape.precisions.embeddings
        )
        total = router_us + experts_us
        if part.latent_size is not None:  # down to the width of the experts, and back up
            total = total + self._gemm_us(
                step.rank_tokens, 2 * hidden, part.latent_size, self.shape.precisions.feed_forward
            )
        if part.shared_size:
            size = real(ceil_div(part.shared_size, rows.tp))
            total = total + self._ffn_us(step, size, part.num_matrices)
            # With one group the sum over the stage brings these sums too.
            alone_us = np.where(exchanged.places > 1, self._sum_over_tp_us(rows, step), 0.0)
            total = total + alone_us
        return real(total)

    def _exchange_us(
        self, part: ExpertFeedForward, rows: Candidates, exchanged: "Exchange", step: Step
    ) -> FloatArray:
        """Dispatch to the expert grid, and the way back with the sums over experts and shards.

        One attention group: every GPU has every token already, and one all-reduce over the stage
        brings all sums; shared experts put theirs on the full width. More groups: an all-to-all
        each way between them, and between the two the sum over etp; the busier of sender and
        receiver counts.
        """
        hidden = self.shape.architecture.hidden_size
        width = part.latent_size or hidden
        row_bytes = width * ACTIVATION_BYTES
        summed_bytes = (hidden if part.shared_size else width) * ACTIVATION_BYTES
        one_group_us = self.network.all_reduce_us(
            step.stage_tokens * summed_bytes, exchanged.stage_gpus
        )
        etp, tp = real(rows.etp), real(rows.tp)
        out_rows = np.maximum(exchanged.sent * etp / tp, exchanged.received)
        back_rows = np.maximum(exchanged.sent, exchanged.received * tp / etp)
        out_bytes = width * dispatched_bytes(self.shape.precisions.experts)
        many_groups_us = (
            self.network.all_to_all_us(
                out_rows * out_bytes, exchanged.places, exchanged.stage_gpus, exchanged.copies
            )
            + self.network.all_reduce_us(exchanged.received * row_bytes, etp)
            + self.network.all_to_all_us(
                back_rows * row_bytes, exchanged.places, exchanged.stage_gpus, exchanged.copies
            )
        )
        return real(np.where(exchanged.places > 1, many_groups_us, one_group_us))

    def _exchange_over_cp_us(
        self, rows: Candidates, step: Step, cached: FloatArray, result: FloatArray
    ) -> FloatArray:
        """Prompts gather keys and values over cp; running sequences sum their partial results.

        cached, result: elements per token on one GPU. The tp GPUs of a rank are neighbours, so the
        ranks of a group are tp apart.
        """
        if not np.any(rows.cp > 1):
            return np.zeros(len(rows))
        gather_us = self._gather_over_cp_us(rows, step.prompt_tokens * cached)
        partial = step.sequences * step.queries * result * ACTIVATION_BYTES
        sum_us = self.network.all_reduce_us(partial, real(rows.cp), real(rows.tp))
        return gather_us + sum_us

    def _gather_over_cp_us(self, rows: Candidates, elements: FloatArray) -> FloatArray:
        """Time to bring every GPU what those of the other ranks have; elements: of all ranks."""
        if not np.any(rows.cp > 1):
            return np.zeros(len(rows))
        size = elements * ACTIVATION_BYTES
        return self.network.all_gather_us(size, real(rows.cp), real(rows.tp))

    def _sum_over_tp_us(self, rows: Candidates, step: Step) -> FloatArray:
        size = step.rank_tokens * self.shape.architecture.hidden_size * ACTIVATION_BYTES
        return self.network.all_reduce_us(size, real(rows.tp))

    def _gemm_us(
        self, tokens: ArrayLike, inner: ArrayLike, columns: ArrayLike, precision: Precision
    ) -> FloatArray:
        return kernels.gemm_us(tokens, inner, columns, precision, self.device, self.growth)

    def _ffn_us(self, step: Step, ffn_size: FloatArray, num_matrices: int) -> FloatArray:
        return kernels.feed_forward_us(
            step.rank_tokens,
            self.shape.architecture.hidden_size,
            ffn_size,
            num_matrices,
            self.shape.precisions.feed_forward,
            self.device,
            self.growth,
        )


@dataclass(frozen=True, slots=True)
class Exchange:
    """Tokens that change GPUs in one layer with experts; shape (rows,).

    places: attention ranks that tokens come from. copies: expert ranks that one token goes to.
    sent: rows that leave a place, one for each expert rank that they go to. received: tokens that
    reach one expert rank.
    """

    stage_gpus: FloatArray
    places: FloatArray
    copies: FloatArray
    sent: FloatArray
    received: FloatArray

    @classmethod
    def of(
        cls, part: ExpertFeedForward, rows: Candidates, groups: FloatArray, step: Step
    ) -> "Exchange":
        """Return what even routing exchanges under each candidate."""
        copies = real(np.minimum(part.experts_per_token, rows.ep))
        held = real(ceil_div(part.num_experts, rows.ep)) / part.num_experts
        return cls(
            stage_gpus=real(rows.tp * rows.cp) * groups,
            places=groups * rows.cp,
            copies=copies,
            sent=step.rank_tokens * copies,
            received=np.minimum(step.stage_tokens * held * copies, step.stage_tokens),
        )


def causal_context(length: float, window: int | None) -> float:
    """Mean keys that a token of a prompt of `length` tokens sees, with a window or without.

    Token i sees min(i, window) of them.
    """
    if window is None or window >= length:
        return (length + 1) / 2
    return window - window * (window - 1) / (2 * length)


def limited(context: FloatArray, window: int | None, cp: ArrayLike) -> FloatArray:
    """Keys that one rank reads of a running sequence: its part of the window, if there is one."""
    if window is None:
        return context
    return np.minimum(context, np.ceil(window / real(cp)))


def keys_seen(step: Step, window: int | None) -> FloatArray:
    """Tokens whose keys and values the prompts of a step read: all, or a window before its own."""
    if window is None:
        return step.prompt_keys
    return np.minimum(step.prompt_keys, step.prompt_tokens + step.prompt_parts * window)


def dispatched_bytes(precision: Precision) -> float:
    """Bytes of one element on its way to the experts: FP8 for those in FP8 or NVFP4, else BF16.

    Source: DeepEP, which dispatches in FP8 and combines in BF16 (arXiv:2412.19437, 3.2.2). Assumed
    for NVFP4 too, also where the GPU widens it. Not for MXFP4, the experts of gpt-oss: engines feed
    them BF16 (vLLM, quantization/mxfp4.py, unless a variable asks for MXFP8).
    """
    return 1.0 if precision in ("fp8", "fp8_block", "nvfp4") else ACTIVATION_BYTES
