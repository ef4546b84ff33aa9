"""Bytes of activations that wait for the backward.

Source: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models",
arXiv:2205.05198, sec. 4; s b h (10 + 24/t + 5 a s / (h t)) of a GPT layer comes out as there. Terms
are counted per operation, so that gated feed-forwards, fewer key heads and experts have theirs.
"""

from autopar.specs import (
    DenseFeedForward,
    ExpertFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
)
from autopar.training.run import Run

WIDTH = 2.0  # bytes of an activation that is kept
MASK = 1.0  # of a dropped element


def stage_activation_bytes(run: Run, stage: int) -> float:
    """Return the bytes on one GPU of a stage, all micro-batches in flight."""
    arch, row = run.architecture, run.row
    layers = sum(layer_bytes(run, arch.layer_sequence[i]) for i in run.layers_of(stage))
    total = layers * in_flight(run, stage)
    if stage == 0 and row.materialises_scores:  # dropout behind the embedding
        total += MASK * arch.hidden_size * run.own_tokens * min(row.pp, run.micro_batches)
    if stage == row.pp - 1:  # input of the last norm and of the head, logits in fp32
        total += 2 * WIDTH * arch.hidden_size * run.own_tokens
        total += 4.0 * run.tokens * arch.vocab_size / row.tp
    if row.recompute == "full":  # one layer at a time is computed again
        kinds = {arch.kind_of_layer[i] for i in run.layers_of(stage)}
        whole = (_kept(run, arch.layer_kinds[kind], recompute="none") for kind in kinds)
        total += max(whole, default=0.0)
    return total


def in_flight(run: Run, stage: int) -> float:
    """Micro-batches whose activations a stage holds at once; of chunks, the mean.

    1F1B: pp - stage. Interleaved: (2 (pp - stage - 1) + (v - 1) pp + 1) / v, which on the first
    stage is pp (1 + (pp - 1) / (pp v)) (arXiv:2205.05198, sec. 4.2.3; Megatron-LM,
    `megatron/core/pipeline_parallel/schedules.py`, warm-up of the interleaved schedule).
    """
    pp, chunks = run.row.pp, run.row.virtual_stages
    if chunks == 1:
        return float(min(pp - stage, run.micro_batches))
    started = 2 * (pp - stage - 1) + (chunks - 1) * pp + 1
    return min(started, run.micro_batches * chunks) / chunks


def layer_bytes(run: Run, kind: Layer) -> float:
    """Return the bytes of one layer and micro-batch on one GPU."""
    return _kept(run, kind, recompute=run.row.recompute)


def _kept(run: Run, kind: Layer, recompute: str) -> float:
    arch = run.architecture
    row_bytes = WIDTH * arch.hidden_size * run.own_tokens
    if recompute == "full":
        return row_bytes
    total = 0.0
    attention, feed_forward = arch.attention_of(kind), arch.feed_forward_of(kind)
    masks = MASK * arch.hidden_size * run.own_tokens if run.row.materialises_scores else 0.0
    lean = recompute == "selective"
    norms = 1.0 if lean and not run.row.materialises_scores else 2.0  # input of the norm, result
    if attention is not None:
        total += norms * row_bytes + masks
        if isinstance(attention, GroupedQueryAttention):
            total += _grouped_query(run, attention, lean=lean)
        elif isinstance(attention, LatentAttention):
            total += _latent(run, attention)
    if isinstance(feed_forward, DenseFeedForward):
        size = feed_forward.ffn_size / run.row.tp
        total += norms * row_bytes + masks
        total += _ffn(run, run.tokens * size, feed_forward.num_matrices, lean=lean)
    elif isinstance(feed_forward, ExpertFeedForward):
        total += norms * row_bytes + _experts(run, feed_forward, lean=lean)
    return total


def _grouped_query(run: Run, attention: GroupedQueryAttention, *, lean: bool) -> float:
    """Queries, keys, values and result of the shard; scores where they are kept: 2 + 1 + 2."""
    heads, dim, value = attention.num_heads, attention.head_dim, attention.value_dim
    elements = heads * (dim + value) + attention.num_kv_heads * (dim + value)
    total = WIDTH * run.tokens * elements / run.row.tp
    if run.row.materialises_scores and not lean:
        scores = run.tokens * run.row.sequence_tokens * heads / run.row.tp
        total += (2 * WIDTH + MASK) * scores
    return total


def _latent(run: Run, attention: LatentAttention) -> float:
    """Latents whole; queries, expanded keys and values, and the result, of the shard."""
    dim = attention.qk_nope_head_dim + attention.qk_rope_head_dim
    latents = (attention.q_lora_rank or 0) + attention.kv_lora_rank + attention.qk_rope_head_dim
    elements = attention.num_heads * (2 * dim + 2 * attention.v_head_dim) / run.row.tp
    return WIDTH * (run.own_tokens * latents + run.tokens * elements)


def _ffn(run: Run, elements: float, num_matrices: int, *, lean: bool) -> float:
    """What up (and gate) gave and what down reads; the latter is cheap to compute again."""
    cheap = lean and not run.row.materialises_scores
    return WIDTH * elements * (num_matrices - (1 if cheap else 0))


def _experts(run: Run, part: ExpertFeedForward, *, lean: bool) -> float:
    """Rows sent to the experts of the GPU, their feed-forward, their results before the sum."""
    own, hidden = run.tokens / run.row.tp, run.architecture.hidden_size
    rows = own * run.etp * part.experts_per_token
    total = WIDTH * 2 * rows * (part.latent_size or hidden)
    total += _ffn(run, rows * part.expert_size / run.etp, part.num_matrices, lean=lean)
    shared = run.tokens * part.shared_size / run.row.tp
    return total + _ffn(run, shared, part.num_matrices, lean=lean)
