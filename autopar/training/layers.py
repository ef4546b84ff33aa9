"""Time of one layer, of the embedding and of the head, for one micro-batch on one GPU."""

from dataclasses import dataclass, replace

from autopar.costs.operations.collectives import Network
from autopar.costs.operations.precisions import ACTIVATION_BYTES
from autopar.costs.timing import causal_context
from autopar.errors import SpecError
from autopar.specs import (
    DenseFeedForward,
    ExpertFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
)
from autopar.training import kernels
from autopar.training.run import Run
from autopar.training.work import Work

# Rows of the residual that the norm of half a layer moves: forward as in inference; backward it
# reads the gradients of both its results and its input, and writes one.
NORM_ROWS = 4.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Times of one run on one kind of GPU."""

    run: Run
    network: Network
    gpu: kernels.Processor

    def layer(self, kind: Layer) -> Work:
        """Time of one layer: both halves, their collectives, what is computed again."""
        arch, row = self.run.architecture, self.run.row
        attention, feed_forward = arch.attention_of(kind), arch.feed_forward_of(kind)
        work, again_us = Work(), 0.0
        if attention is not None:
            match attention:
                case GroupedQueryAttention():
                    half, light_us = self._grouped_query(attention)
                case LatentAttention():
                    half, light_us = self._latent(attention)
                case _:
                    raise SpecError(
                        f"row {row.id!r}: linear attention in training is not modelled; expected "
                        "a model with softmax attention"
                    )
            work, again_us = half + self._norm() + self._over_tensor(), light_us
        if feed_forward is not None:
            half, light_us = (
                self._dense(feed_forward)
                if isinstance(feed_forward, DenseFeedForward)
                else self._experts(feed_forward)
            )
            work, again_us = work + half + self._norm(), again_us + light_us
        if not row.materialises_scores:  # scores are by far the largest; else norms, activations
            again_us += 2 * self._norm().forward_us
        return self._recomputed(work, again_us)

    def embedding(self) -> Work:
        """Time of the lookup, and of its gradient; over tensor shards each has a part of it."""
        size = 2 * self.run.architecture.hidden_size * ACTIVATION_BYTES * self.run.tokens
        return self.gpu.moved(size, size) + self._over_tensor() * 0.5

    def head(self) -> Work:
        """Time of the logits of every token and of the loss over them, vocabulary cut over tp."""
        arch, tokens = self.run.architecture, self.run.tokens
        columns = arch.vocab_size / self.run.row.tp
        logits = tokens * columns
        return (
            self._product(tokens, arch.hidden_size, columns, "embeddings")
            + self.gpu.moved(
                kernels.LOGIT_FORWARD_BYTES * logits,
                kernels.LOGIT_BACKWARD_BYTES * logits,
            )
            + self._over_tensor() * 0.5
        )

    def hop_us(self) -> float:
        """Time to hand a micro-batch to the next stage: each tensor shard sends its part.

        Without sequence parallelism the parts are gathered again (Narayanan et al. 2021,
        arXiv:2104.04473, sec. 4.1).
        """
        row = self.run.row
        size = self._row_bytes * self.run.tokens
        time_us = self.network.point_to_point_us(size / row.tp, 2 * self.run.stage_gpus)
        if not row.sequence_parallel:
            time_us = time_us + self.network.all_gather_us(size, row.tp)
        return float(time_us)

    @property
    def _row_bytes(self) -> float:
        return self.run.architecture.hidden_size * ACTIVATION_BYTES

    def _product(
        self, tokens: float, inner: float, columns: float, part: str, count: float = 1.0
    ) -> Work:
        precision = getattr(self.run.precisions, part)
        return self.gpu.product(tokens, inner, columns, precision, count)

    def _norm(self) -> Work:
        size = NORM_ROWS * self._row_bytes * self.run.own_tokens
        if self.run.row.materialises_scores:  # the mask of the dropout, a byte each
            size += self.run.architecture.hidden_size * self.run.own_tokens
        return self.gpu.moved(size, size)

    def _grouped_query(self, attention: GroupedQueryAttention) -> tuple[Work, float]:
        """Return the work of attention, and what of it is cheap to compute again."""
        run, hidden = self.run, self.run.architecture.hidden_size
        heads = attention.num_heads / run.row.tp
        kv_heads = max(attention.num_kv_heads / run.row.tp, 1.0)
        dim, value = attention.head_dim, attention.value_dim
        gate = value if attention.gates_output else 0
        projected = 0 if attention.keys_are_values else value
        columns = heads * (dim + gate) + kv_heads * (dim + projected)
        core = self._core(heads, kv_heads, dim, value, attention.window_tokens)
        # Rotary embedding, or bias and transposition: queries and keys read and written once.
        turned = 2 * ACTIVATION_BYTES * run.tokens * dim * (heads + kv_heads)
        work = (
            self._product(run.tokens, hidden, columns, "attention")
            + self.gpu.moved(turned, turned)
            + core
            + self._ring(core, kv_heads * (dim + value))
            + self._product(run.tokens, heads * value, hidden, "attention")
        )
        return work, core.forward_us if run.row.materialises_scores else 0.0

    def _latent(self, attention: LatentAttention) -> tuple[Work, float]:
        """Return the work of latent attention, keys and values expanded; as above."""
        run, hidden = self.run, self.run.architecture.hidden_size
        heads = attention.num_heads / run.row.tp
        dim = attention.qk_nope_head_dim + attention.qk_rope_head_dim
        value, latent, rank = attention.v_head_dim, attention.kv_lora_rank, attention.q_lora_rank
        down = (rank or 0) + latent + attention.qk_rope_head_dim
        core = self._core(heads, heads, dim, value, None)
        work = (
            self._product(run.own_tokens, hidden, down, "attention")
            + self._product(run.tokens, rank or hidden, heads * dim, "attention")
            + self._product(
                run.tokens, latent, heads * (attention.qk_nope_head_dim + value), "attention"
            )
            + core
            + self._ring(core, heads * (dim + value))
            + self._product(run.tokens, heads * value, hidden, "attention")
        )
        return work, 0.0

    def _core(
        self, heads: float, kv_heads: float, dim: int, value: int, window: int | None
    ) -> Work:
        row = self.run.row
        if row.materialises_scores:
            return self.gpu.materialised_attention(
                self.run.tokens, row.sequence_tokens, heads=heads, head_dim=dim
            )
        return self.gpu.fused_attention(
            self.run.tokens,
            causal_context(row.sequence_tokens, window),
            row.micro_batch_sequences * row.sequence_tokens,
            heads=heads,
            kv_heads=kv_heads,
            qk_head_dim=dim,
            v_head_dim=value,
        )

    def _dense(self, part: DenseFeedForward) -> tuple[Work, float]:
        work, light_us = self._ffn(part.ffn_size / self.run.row.tp, part.num_matrices)
        return work + self._over_tensor(), light_us

    def _ffn(self, size: float, num_matrices: int) -> tuple[Work, float]:
        hidden, tokens = self.run.architecture.hidden_size, self.run.tokens
        act = self.gpu.activation(tokens, size, num_matrices)
        work = (
            self._product(tokens, hidden, (num_matrices - 1) * size, "feed_forward")
            + act
            + self._product(tokens, size, hidden, "feed_forward")
        )
        return work, 0.0 if self.run.row.materialises_scores else act.forward_us

    def _experts(self, part: ExpertFeedForward) -> tuple[Work, float]:
        """Router, exchange, experts and shared experts; routing is even, as it is trained to be.

        Experts are one product each over its rows (TransformerEngine, `GroupedLinear`, which calls
        the library once per expert); rows are put in order before and summed after.
        """
        run, hidden = self.run, self.run.architecture.hidden_size
        width = part.latent_size or hidden
        own = run.tokens / run.row.tp  # experts know no tensor shards of a token
        rows = own * run.row.stage_gpus * part.experts_per_token / part.num_experts
        held, size = part.num_experts / run.row.ep, part.expert_size / run.etp
        act = self.gpu.activation(held * rows, size, part.num_matrices)
        moved = 2 * width * ACTIVATION_BYTES * held * rows
        work = (
            self._product(own, hidden, part.num_experts, "embeddings")
            + self._product(rows, width, (part.num_matrices - 1) * size, "experts", held)
            + act
            + self._product(rows, size, width, "experts", held)
            + self.gpu.moved(2 * moved, 2 * moved)
        )
        if part.latent_size is not None:
            work = work + self._product(own, 2 * hidden, part.latent_size, "feed_forward")
        if part.shared_size:
            shared, _ = self._ffn(part.shared_size / run.row.tp, part.num_matrices)
            work = work + shared + self._over_tensor()
        exchange_us = self._exchange_us(part, own, width)
        if run.row.overlaps_experts:
            exchange_us = self.gpu.factors.beside_us(
                exchange_us, work.forward_us + work.backward_us
            )
        light_us = 0.0 if run.row.materialises_scores else act.forward_us
        return replace(work, experts_us=exchange_us), light_us

    def _exchange_us(self, part: ExpertFeedForward, own: float, width: int) -> float:
        """Dispatch and combine, forward and backward: four all-to-alls, and sums over shards."""
        run = self.run
        ranks, shards = run.row.ep, run.etp
        copies = min(part.experts_per_token, ranks)
        row_bytes = width * ACTIVATION_BYTES
        each_us = self.network.all_to_all_us(
            own * copies * row_bytes,
            ranks,
            ranks * shards,
            copies if run.row.sends_once else 1.0,
        )
        gathered = own * part.experts_per_token * shards * row_bytes
        both_us = self.network.all_gather_us(gathered, shards)
        both_us = both_us + self.network.reduce_scatter_us(gathered, shards)
        return float(4 * each_us + 2 * both_us)

    def _over_tensor(self) -> Work:
        """Collectives over tensor shards of half a layer, forward and backward alike.

        An all-reduce each way; with sequence parallelism an all-gather and a reduce-scatter each
        (Korthikanti et al. 2022, arXiv:2205.05198, sec. 4.2.2; the second all-gather of the
        backward runs beside a product).
        """
        row, size = self.run.row, self._row_bytes * self.run.tokens
        if row.sequence_parallel:
            once_us = float(
                self.network.all_gather_us(size, row.tp)
                + self.network.reduce_scatter_us(size, row.tp)
            )
        else:
            once_us = float(self.network.all_reduce_us(size, row.tp))
        exposed = self.gpu.factors.exposed_fraction if row.overlaps_tensor else 1.0
        return Work(tensor_us=2 * exposed * once_us)

    def _ring(self, core: Work, elements: float) -> Work:
        """Keys and values go round the context ranks while attention works on those at hand.

        Backward their gradients go round too. elements: of keys and values per token on one GPU.
        Source: Liu et al. 2023, arXiv:2310.01889, sec. 3.
        """
        row = self.run.row
        if row.cp == 1:
            return Work()
        size = self.run.tokens * elements * ACTIVATION_BYTES
        hop_us = float(self.network.point_to_point_us(size, row.tp * row.cp))
        forward_us = self.gpu.factors.beside_us((row.cp - 1) * hop_us, core.forward_us)
        backward_us = self.gpu.factors.beside_us(2 * (row.cp - 1) * hop_us, core.backward_us)
        return Work(context_us=forward_us + backward_us)

    def _recomputed(self, work: Work, again_us: float) -> Work:
        """Add what the backward computes again: nothing, what is large and cheap, or all of it."""
        match self.run.row.recompute:
            case "none":
                return work
            case "selective":
                return replace(work, recompute_us=again_us)
            case "full":  # forward collectives too, half of them
                return replace(
                    work,
                    recompute_us=work.forward_us,
                    tensor_us=1.5 * work.tensor_us,
                    context_us=4 / 3 * work.context_us,
                    experts_us=1.5 * work.experts_us,
                )
