"""The model as Megatron's arguments: its sizes, without which the layout has no meaning."""

from autopar.export.layout import Layout
from autopar.specs import (
    Architecture,
    DenseFeedForward,
    ExpertFeedForward,
    GroupedQueryAttention,
    LatentAttention,
)


def model_arguments(layout: Layout) -> list[str]:
    """Return sizes of a model: layers, width, heads, experts and which layers have them; --bf16.

    Of a model whose layers differ in more than whether they have experts, only what all share.
    """
    llm = layout.llm
    argv = [] if stored_otherwise(layout) else ["--bf16"]
    argv += ["--num-layers", str(llm.num_layers)]
    architecture = llm.architecture
    if architecture is None:
        if llm.is_moe:
            argv += ["--num-experts", str(llm.num_experts)]
            argv += ["--moe-router-topk", str(llm.experts_per_token or 1)]
        return argv
    argv += ["--hidden-size", str(architecture.hidden_size)]
    argv += _attention(architecture)
    argv += _feed_forward(architecture)
    if llm.is_moe:
        argv += _experts(architecture, layout)
    if not architecture.shares_embeddings:
        argv += ["--untie-embeddings-and-output-weights"]
    return argv


def stored_otherwise(layout: Layout) -> list[str]:
    """Return the precisions of weights beside BF16, in which Megatron keeps them with --bf16."""
    stored = layout.llm.precisions
    parts = (stored.attention, stored.feed_forward, stored.experts, stored.embeddings)
    return sorted({part for part in parts if part != "bf16"})


def _attention(architecture: Architecture) -> list[str]:
    kinds = [architecture.attention_of(kind) for kind in architecture.layer_kinds]
    attention = next((kind for kind in kinds if kind is not None), None)
    match attention:
        case GroupedQueryAttention():
            argv = ["--num-attention-heads", str(attention.num_heads)]
            if attention.num_kv_heads < attention.num_heads:
                argv += ["--group-query-attention"]
                argv += ["--num-query-groups", str(attention.num_kv_heads)]
            return [*argv, "--kv-channels", str(attention.head_dim)]
        case LatentAttention():
            argv = ["--multi-latent-attention"]
            argv += ["--num-attention-heads", str(attention.num_heads)]
            if attention.q_lora_rank:
                argv += ["--q-lora-rank", str(attention.q_lora_rank)]
            argv += ["--kv-lora-rank", str(attention.kv_lora_rank)]
            argv += ["--qk-head-dim", str(attention.qk_nope_head_dim)]
            argv += ["--qk-pos-emb-head-dim", str(attention.qk_rope_head_dim)]
            return [*argv, "--v-head-dim", str(attention.v_head_dim)]
        case _:
            return []


def _feed_forward(architecture: Architecture) -> list[str]:
    kinds = [architecture.feed_forward_of(kind) for kind in architecture.layer_kinds]
    dense = next((kind for kind in kinds if isinstance(kind, DenseFeedForward)), None)
    experts = next((kind for kind in kinds if isinstance(kind, ExpertFeedForward)), None)
    size = dense.ffn_size if dense is not None else experts.expert_size if experts else None
    matrices = (dense or experts).num_matrices if dense or experts else 2  # type: ignore[union-attr]
    argv = [] if size is None else ["--ffn-hidden-size", str(size)]
    # Models with gated feed-forwards have no biases, and experts cut over GPUs may have none.
    return [*argv, "--swiglu", "--disable-bias-linear"] if matrices == 3 else argv


def _experts(architecture: Architecture, layout: Layout) -> list[str]:
    kinds = [architecture.feed_forward_of(kind) for kind in architecture.layer_kinds]
    experts = next(kind for kind in kinds if isinstance(kind, ExpertFeedForward))
    argv = ["--num-experts", str(experts.num_experts)]
    argv += ["--moe-router-topk", str(experts.experts_per_token)]
    argv += ["--moe-ffn-hidden-size", str(experts.expert_size)]
    if experts.shared_size:
        argv += ["--moe-shared-expert-intermediate-size", str(experts.shared_size)]
    holders = set(layout.llm.expert_layers)
    if len(holders) < layout.llm.num_layers:
        listed = ",".join(str(int(layer in holders)) for layer in range(layout.llm.num_layers))
        argv += ["--moe-layer-freq", f"[{listed}]"]
    return [*argv, "--moe-token-dispatcher-type", "alltoall"]
