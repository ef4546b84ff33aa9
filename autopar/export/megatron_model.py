"""The model as Megatron's arguments: its sizes, without which the layout has no meaning.

pretrain_gpt.py builds layers that all have attention and a feed-forward, and its arguments have one
value of each size for all of them. A model with layers of other kinds is refused; a size that is
not the same in all layers, and what else is not written, is left out and named: what is written is
true of every layer. Source: Megatron-Core 0.19.2, training/arguments.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from autopar.errors import SpecError
from autopar.export.layout import Layout
from autopar.specs import (
    LLM,
    Architecture,
    DenseFeedForward,
    ExpertFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
)

_GATED = 3  # matrices of a feed-forward: gate, up and down


@dataclass(slots=True)
class Sizes:
    """Arguments of a model, and what they do not say of it."""

    argv: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, flag: str, values: Iterable[int]) -> None:
        """Write the value that all layers have; where there are several, leave them out.

        Nothing where no layer has one, and where all have 0.
        """
        found = sorted(set(values))
        if len(found) > 1:
            self.left_out.append(f"{flag} ({', '.join(map(str, found))})")
        elif any(found):
            self.argv += [flag, str(found[0])]

    def switch(self, flags: Sequence[str], on: Iterable[bool]) -> None:
        """Write switches that all layers have; leave them out where some have them."""
        found = set(on)
        if len(found) > 1:
            self.left_out.append(f"{flags[0]} (of some layers)")
        elif found == {True}:
            self.argv += flags


def model_sizes(layout: Layout) -> Sizes:
    """Return layers, width, heads, experts and which layers have them; --bf16.

    Raises SpecError for a model with layers that pretrain_gpt.py does not build.
    """
    llm = layout.llm
    sizes = Sizes([] if stored_otherwise(layout) else ["--bf16"])
    sizes.argv += ["--num-layers", str(llm.num_layers)]
    architecture = llm.architecture
    if architecture is None:
        if llm.is_moe:
            sizes.argv += ["--num-experts", str(llm.num_experts)]
            sizes.argv += ["--moe-router-topk", str(llm.experts_per_token or 1)]
        return sizes
    _refuse_other_layers(llm, architecture)
    sizes.argv += ["--hidden-size", str(architecture.hidden_size)]
    _attention(architecture, sizes)
    _feed_forward(architecture, sizes)
    if llm.is_moe:
        _experts(architecture, layout, sizes)
    if not architecture.shares_embeddings:
        sizes.argv += ["--untie-embeddings-and-output-weights"]
    return sizes


def said_of_left_out(sizes: Sizes, llm: LLM) -> str:
    """Return a sentence on what the arguments do not say of a model; empty where there is none."""
    if not sizes.left_out:
        return ""
    return (
        f"the arguments do not say all of {llm.name}: not written, as it is not the same in all "
        f"layers or goes beyond sizes, is {'; '.join(sizes.left_out)}; without what builds it "
        "Megatron trains another model"
    )


def stored_otherwise(layout: Layout) -> list[str]:
    """Return the precisions of weights beside BF16, in which Megatron keeps them with --bf16."""
    stored = layout.llm.precisions
    parts = (stored.attention, stored.feed_forward, stored.experts, stored.embeddings)
    return sorted({part for part in parts if part != "bf16"})


def _refuse_other_layers(llm: LLM, architecture: Architecture) -> None:
    """Raise SpecError for layers without attention of one kind and a feed-forward.

    No other plan of the model has an export, so that none is looked for.
    """
    layers = architecture.layer_sequence
    mixers = [architecture.attention_of(layer) for layer in layers]
    latent = sum(isinstance(kind, LatentAttention) for kind in mixers)
    grouped = sum(isinstance(kind, GroupedQueryAttention) for kind in mixers)
    counts = {
        "layers with linear attention": sum(isinstance(k, LinearAttention) for k in mixers),
        "layers without attention": sum(kind is None for kind in mixers),
        "layers without a feed-forward": sum(
            architecture.feed_forward_of(layer) is None for layer in layers
        ),
        "layers with latent attention beside others": latent if grouped else 0,
    }
    found = [f"{count} {what}" for what, count in counts.items() if count]
    if found:
        raise SpecError(
            f"Megatron-Core: the model {llm.name!r} has {', '.join(found)}, of {len(layers)}: the "
            "arguments that are written build layers that all have attention of one kind and a "
            "feed-forward. Megatron builds others by --hybrid-layer-pattern, "
            "--experimental-attention-variant or --heterogeneous-layers-config-path, which are not "
            "written: no plan of this model is exported"
        )


def _attention(architecture: Architecture, sizes: Sizes) -> None:
    kinds = [architecture.attention_of(kind) for kind in architecture.layer_kinds]
    grouped = [kind for kind in kinds if isinstance(kind, GroupedQueryAttention)]
    latent = [kind for kind in kinds if isinstance(kind, LatentAttention)]
    sizes.switch(["--multi-latent-attention"], [True] * bool(latent))
    heads = [*(kind.num_heads for kind in grouped), *(kind.num_heads for kind in latent)]
    sizes.add("--num-attention-heads", heads)
    if latent:
        sizes.add("--q-lora-rank", [kind.q_lora_rank or 0 for kind in latent])
        sizes.add("--kv-lora-rank", [kind.kv_lora_rank for kind in latent])
        sizes.add("--qk-head-dim", [kind.qk_nope_head_dim for kind in latent])
        sizes.add("--qk-pos-emb-head-dim", [kind.qk_rope_head_dim for kind in latent])
        sizes.add("--v-head-dim", [kind.v_head_dim for kind in latent])
        _indexer(latent, sizes)
        return
    groups = {kind.num_kv_heads for kind in grouped}
    if any(kind.num_kv_heads < kind.num_heads for kind in grouped):
        sizes.argv += ["--group-query-attention"] if len(groups) == 1 else []
        sizes.add("--num-query-groups", groups)
    # One width for keys and values alike.
    sizes.add("--kv-channels", [w for kind in grouped for w in (kind.head_dim, kind.value_dim)])
    sizes.switch(["--attention-output-gate"], [kind.gates_output for kind in grouped])
    if any(kind.keys_are_values for kind in grouped):
        sizes.left_out.append("one projection for keys and values, for which there is no argument")
    windows = sorted({kind.window_tokens for kind in grouped if kind.window_tokens})
    if windows:
        tokens = ", ".join(map(str, windows))
        sizes.left_out.append(
            f"windows of {tokens} tokens (--window-size, --window-attn-skip-freq)"
        )


def _indexer(latent: Sequence[LatentAttention], sizes: Sizes) -> None:
    """Name an indexer, which wants other arguments beside its sizes, such as --no-rope-fusion."""
    kinds = [kind for kind in latent if kind.index_heads]
    if kinds:
        one, some = kinds[0], " in some layers" if len(kinds) < len(latent) else ""
        sizes.left_out.append(
            f"an indexer{some} (--experimental-attention-variant dsa, --dsa-indexer-n-heads "
            f"{one.index_heads}, --dsa-indexer-head-dim {one.index_head_dim}, "
            f"--dsa-indexer-topk {one.index_tokens or 0})"
        )


def _feed_forward(architecture: Architecture, sizes: Sizes) -> None:
    kinds = [architecture.feed_forward_of(kind) for kind in architecture.layer_kinds]
    dense = [kind for kind in kinds if isinstance(kind, DenseFeedForward)]
    experts = [kind for kind in kinds if isinstance(kind, ExpertFeedForward)]
    widths = [kind.ffn_size for kind in dense] or [kind.expert_size for kind in experts]
    sizes.add("--ffn-hidden-size", widths)
    # Models with gated feed-forwards have no biases, and experts cut over GPUs may have none.
    matrices = [*(kind.num_matrices for kind in dense), *(kind.num_matrices for kind in experts)]
    sizes.switch(["--swiglu", "--disable-bias-linear"], [count == _GATED for count in matrices])


def _experts(architecture: Architecture, layout: Layout, sizes: Sizes) -> None:
    kinds = [architecture.feed_forward_of(kind) for kind in architecture.layer_kinds]
    experts = [kind for kind in kinds if isinstance(kind, ExpertFeedForward)]
    sizes.add("--num-experts", [kind.num_experts for kind in experts])
    sizes.add("--moe-router-topk", [kind.experts_per_token for kind in experts])
    sizes.add("--moe-ffn-hidden-size", [kind.expert_size for kind in experts])
    sizes.add("--moe-shared-expert-intermediate-size", [kind.shared_size for kind in experts])
    sizes.add("--moe-latent-size", [kind.latent_size or 0 for kind in experts])
    holders = set(layout.llm.expert_layers)
    if len(holders) < layout.llm.num_layers:
        listed = ",".join(str(int(layer in holders)) for layer in range(layout.llm.num_layers))
        sizes.argv += ["--moe-layer-freq", f"[{listed}]"]
    sizes.argv += ["--moe-token-dispatcher-type", "alltoall"]
