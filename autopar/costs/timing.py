"""Time of the pieces of a stage: attention, feed-forward, the head, the hop to the next stage."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from autopar.costs.operations import collectives, kernels
from autopar.costs.operations.arrays import real
from autopar.costs.operations.kernels import ACTIVATION_BYTES, Device
from autopar.costs.shares import Shape, Shares
from autopar.problem import FloatArray
from autopar.specs import Cluster


@dataclass(frozen=True, slots=True)
class Clock:
    """Times of one scenario's hardware and model; every result has shape (pairs,), us."""

    shape: Shape
    cluster: Cluster
    device: Device

    def layer_us(self, share: Shares) -> FloatArray:
        """Time of one layer: nothing of it overlaps."""
        feed_forward = self.moe_us(share) if self.shape.num_experts else self.dense_ffn_us(share)
        return self.attention_us(share) + feed_forward

    def attention_us(self, share: Shares) -> FloatArray:
        """Time of one layer's attention: projections, scores, exchange over cp, sum over tp."""
        arch, hidden = self.shape.architecture, self.shape.architecture.hidden_size
        columns = (share.heads + 2 * share.kv_heads) * arch.head_dim
        project_us = self._gemm_us(share.rank_tokens, hidden, columns)
        output_us = self._gemm_us(share.rank_tokens, share.heads * arch.head_dim, hidden)
        return project_us + self._scores_us(share) + output_us + self._sum_over_tp_us(share)

    def dense_ffn_us(self, share: Shares) -> FloatArray:
        """Time of one dense feed-forward and its all-reduce over tp."""
        return self._ffn_us(share, share.ffn_size) + self._sum_over_tp_us(share)

    def moe_us(self, share: Shares) -> FloatArray:
        """Time of one layer's router, dispatch, experts, combine, and shared experts.

        Only the layer's own expert grid works: with a spread above 1 the others wait.
        """
        arch, shape = self.shape.architecture, self.shape
        router_us = self._gemm_us(share.rank_tokens, arch.hidden_size, shape.num_experts)
        experts_us = kernels.experts_us(
            share.expert_rows,
            share.experts,
            hidden_size=arch.hidden_size,
            ffn_size=share.expert_size,
            bytes_per_parameter=shape.bytes_per_parameter,
            device=self.device,
        )
        total = router_us + experts_us + self._exchange_us(share)
        if arch.num_shared_experts:
            total = total + self._ffn_us(share, share.shared_size) + self._sum_over_tp_us(share)
        return total

    def head_us(self, share: Shares) -> FloatArray:
        """Time of the head: logits of the tokens that need them, gathered over tp."""
        arch = self.shape.architecture
        rows = share.group_sequences if self.shape.is_prefill else share.rank_tokens
        logits_bytes = rows * arch.vocab_size * ACTIVATION_BYTES
        gather_us = collectives.all_gather_us(
            logits_bytes, share.tp, collectives.link_of(self.cluster, share.tp)
        )
        return self._gemm_us(rows, arch.hidden_size, share.vocab_size) + gather_us

    def hop_us(self, share: Shares) -> FloatArray:
        """Time to hand the activations to the next stage: every GPU sends those of its rank."""
        link = collectives.link_of(self.cluster, 2 * share.stage_gpus)
        return collectives.point_to_point_us(self._activations(share), link)

    def _scores_us(self, share: Shares) -> FloatArray:
        """Scores and weighted values; keys, or queries and results, are exchanged over cp."""
        arch, shape = self.shape.architecture, self.shape
        if shape.is_prefill:
            queries, keys_read = share.rank_tokens, share.group_tokens
            context = kernels.causal_context(shape.sequence_tokens)
        else:
            queries, keys_read = share.group_tokens, share.group_tokens * share.context
            context = share.context
        kernel_us = kernels.attention_us(
            queries,
            context,
            keys_read,
            heads=share.heads,
            kv_heads=share.kv_heads,
            head_dim=arch.head_dim,
            kv_bytes_per_element=shape.kv_bytes_per_element,
            device=self.device,
        )
        link = collectives.link_of(self.cluster, share.tp * share.cp)
        if shape.is_prefill:
            key_bytes = 2.0 * share.group_tokens * share.kv_heads * arch.head_dim
            exchange_us = collectives.all_gather_us(
                key_bytes * shape.kv_bytes_per_element, share.cp, link
            )
        else:
            query_bytes = queries * share.heads * arch.head_dim * ACTIVATION_BYTES
            exchange_us = collectives.all_reduce_us(query_bytes, share.cp, link)
        return kernel_us + exchange_us

    def _exchange_us(self, share: Shares) -> FloatArray:
        """Dispatch to the expert grid, and the way back with the sums over experts and shards.

        One attention group: every GPU has every token already, and one all-reduce over the stage
        brings all sums. More groups: an all-to-all each way between them, and between the two the
        sum over etp; the busier of sender and receiver counts.
        """
        row_bytes = self.shape.architecture.hidden_size * ACTIVATION_BYTES
        stage_link = collectives.link_of(self.cluster, share.stage_gpus)
        one_group_us = collectives.all_reduce_us(
            share.step_tokens * row_bytes, share.stage_gpus, stage_link
        )
        sent = share.rank_tokens * share.copies  # rows that leave one attention rank
        out_rows = np.maximum(sent * share.etp / share.tp, share.dispatched_rows)
        back_rows = np.maximum(sent, share.dispatched_rows * share.tp / share.etp)
        parts = share.groups * share.cp
        many_groups_us = (
            collectives.all_to_all_us(out_rows * row_bytes, parts, stage_link)
            + collectives.all_reduce_us(
                share.dispatched_rows * row_bytes,
                share.etp,
                collectives.link_of(self.cluster, share.etp),
            )
            + collectives.all_to_all_us(back_rows * row_bytes, parts, stage_link)
        )
        return real(np.where(parts > 1, many_groups_us, one_group_us))

    def _sum_over_tp_us(self, share: Shares) -> FloatArray:
        link = collectives.link_of(self.cluster, share.tp)
        return collectives.all_reduce_us(self._activations(share), share.tp, link)

    def _activations(self, share: Shares) -> FloatArray:
        hidden = self.shape.architecture.hidden_size
        return share.rank_tokens * hidden * ACTIVATION_BYTES

    def _gemm_us(self, rows: ArrayLike, inner: ArrayLike, columns: ArrayLike) -> FloatArray:
        return kernels.gemm_us(rows, inner, columns, self.shape.bytes_per_parameter, self.device)

    def _ffn_us(self, share: Shares, ffn_size: FloatArray) -> FloatArray:
        return kernels.ffn_us(
            share.rank_tokens,
            self.shape.architecture.hidden_size,
            ffn_size,
            self.shape.bytes_per_parameter,
            self.device,
        )
