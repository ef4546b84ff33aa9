"""The shapes of a transformer: what a layer of each kind holds, and which layer is of which kind.

Sizes are those of the whole model, before any parallel degree cuts them. `other_parameters` are
the small vectors that every GPU of a stage holds whole: norms, biases, attention sinks.
"""

from collections.abc import Iterator
from functools import cached_property
from math import gcd
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autopar.specs.base import MAX_EXPERTS, MAX_LAYERS, Name, NonNegativeInt, Spec

# Sizes beyond which a number is a slip of the keyboard, not a model.
MAX_SIZE = 2**24
MAX_HEADS = 2**14
Size = Annotated[int, Field(ge=1, le=MAX_SIZE, strict=True)]
Heads = Annotated[int, Field(ge=1, le=MAX_HEADS, strict=True)]
OtherParameters = Annotated[int, Field(ge=0, le=2**40, strict=True)]

# How a number is stored, and so in which arithmetic it is used. fp8_block: FP8 with one scale per
# block of 128 x 128; int4: groups of 128 with scale and zero; mxfp4 and nvfp4: the OCP and NVIDIA
# microscaling formats.
Precision = Literal["fp32", "bf16", "fp16", "fp8", "fp8_block", "int8", "int4", "mxfp4", "nvfp4"]


class GroupedQueryAttention(Spec):
    """Softmax attention with its own keys and values: multi-head, grouped-query or multi-query."""

    kind: Literal["gqa"] = "gqa"
    num_heads: Heads
    num_kv_heads: Heads
    head_dim: Size
    v_head_dim: Size | None = None  # of values and of the result, where not head_dim
    keys_are_values: bool = False  # one projection makes both (Gemma 4); both are cached
    window_tokens: Size | None = None  # sliding window: no token sees more than these
    gates_output: bool = False  # a gate as wide as the result multiplies it
    other_parameters: OtherParameters = 0

    @property
    def value_dim(self) -> int:
        """Width of the values and of the result of one head."""
        return self.v_head_dim or self.head_dim

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        return self


class LatentAttention(Spec):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    Keys and values of a token are cached as one latent of kv_lora_rank + qk_rope_head_dim.
    """

    kind: Literal["mla"] = "mla"
    num_heads: Heads
    q_lora_rank: Size | None = None  # queries are projected directly where absent
    kv_lora_rank: Size
    qk_nope_head_dim: Size
    qk_rope_head_dim: Size
    v_head_dim: Size
    index_heads: NonNegativeInt = 0  # of the indexer that picks the tokens to attend to
    index_head_dim: NonNegativeInt = 0
    index_tokens: Size | None = None  # sparse attention: no token sees more than these
    other_parameters: OtherParameters = 0


class LinearAttention(Spec):
    """A mixer with a state of constant size instead of keys and values: Mamba, gated delta nets.

    input_columns and output_rows: of its projections, which tensor parallelism cuts by head.
    state_elements: of one sequence, kept in fp32.
    """

    kind: Literal["linear"] = "linear"
    num_heads: Heads
    input_columns: Size
    output_rows: Size
    state_elements: Annotated[int, Field(ge=1, le=2**32, strict=True)]
    other_parameters: OtherParameters = 0


class DenseFeedForward(Spec):
    """A feed-forward that every token passes; three matrices where it is gated, else two."""

    kind: Literal["dense"] = "dense"
    ffn_size: Size
    num_matrices: Literal[2, 3] = 3
    other_parameters: OtherParameters = 0


class ExpertFeedForward(Spec):
    """Routed experts, and shared ones that every token passes.

    shared_size: width of all shared experts together. latent_size: the width on which routed
    experts work, where tokens are projected down to it and back up.
    """

    kind: Literal["moe"] = "moe"
    num_experts: Annotated[int, Field(ge=1, le=MAX_EXPERTS, strict=True)]
    experts_per_token: Annotated[int, Field(ge=1, le=MAX_EXPERTS, strict=True)]
    expert_size: Size
    shared_size: Annotated[int, Field(ge=0, le=MAX_SIZE, strict=True)] = 0
    latent_size: Size | None = None
    num_matrices: Literal[2, 3] = 3
    other_parameters_per_expert: OtherParameters = 0
    other_parameters: OtherParameters = 0
    # Groups of consecutive experts among which the router picks first; 1: it picks among all.
    router_groups: Annotated[int, Field(ge=1, le=MAX_EXPERTS, strict=True)] = 1

    @model_validator(mode="after")
    def _experts_fit(self) -> Self:
        if self.experts_per_token > self.num_experts:
            raise ValueError(
                f"experts_per_token {self.experts_per_token} is more than "
                f"num_experts {self.num_experts}"
            )
        if self.num_experts % self.router_groups:
            raise ValueError(
                f"router_groups {self.router_groups} does not divide num_experts {self.num_experts}"
            )
        return self


Attention = Annotated[
    GroupedQueryAttention | LatentAttention | LinearAttention, Field(discriminator="kind")
]
FeedForward = Annotated[DenseFeedForward | ExpertFeedForward, Field(discriminator="kind")]


class Layer(Spec):
    """One layer: the names of its attention and its feed-forward; hybrids have one of the two."""

    attention: Name | None = None
    feed_forward: Name | None = None
    other_parameters: OtherParameters = 0  # its norms


class LayerRun(Spec):
    """A run of layers: the given ones in order, `count` times over."""

    count: Annotated[int, Field(ge=1, le=MAX_LAYERS, strict=True)] = 1
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=MAX_LAYERS)]


class NextTokenPrediction(Spec):
    """Extra layers that draft the next tokens (multi-token prediction, arXiv:2412.19437, 2.2)."""

    layer: Layer
    count: Annotated[int, Field(ge=1, le=16, strict=True)] = 1
    other_parameters: OtherParameters = 0  # per layer: its input projection and norms


class Architecture(Spec):
    """All layers of a model and its two ends."""

    hidden_size: Size
    vocab_size: Size
    shares_embeddings: bool = False
    attention: dict[Name, Attention]
    feed_forward: dict[Name, FeedForward]
    layers: Annotated[tuple[LayerRun, ...], Field(min_length=1, max_length=MAX_LAYERS)]
    other_parameters: OtherParameters = 0  # the last norm
    next_token_prediction: NextTokenPrediction | None = None

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        if self.num_layers > MAX_LAYERS:
            raise ValueError(f"{self.num_layers:,} layers are more than the {MAX_LAYERS:,} allowed")
        drafts = [] if self.next_token_prediction is None else [self.next_token_prediction.layer]
        for layer in (*self.layer_sequence, *drafts):
            for key, shelf in (("attention", self.attention), ("feed_forward", self.feed_forward)):
                name = getattr(layer, key)
                if name is not None and name not in shelf:
                    known = ", ".join(shelf) or "none"
                    raise ValueError(f"a layer names {key} {name!r}; defined are: {known}")
        if len({f.num_experts for f in self._experts()}) > 1:
            raise ValueError("layers with different numbers of experts are not supported")
        if len({f.experts_per_token for f in self._experts()}) > 1:
            raise ValueError("layers with different experts_per_token are not supported")
        return self

    def _experts(self) -> Iterator[ExpertFeedForward]:
        used = {layer.feed_forward for layer in self.layer_sequence}
        for name, feed_forward in self.feed_forward.items():
            if name in used and isinstance(feed_forward, ExpertFeedForward):
                yield feed_forward

    @cached_property
    def layer_sequence(self) -> tuple[Layer, ...]:
        """Every layer, from the first to the last."""
        return tuple(layer for run in self.layers for _ in range(run.count) for layer in run.layers)

    @property
    def num_layers(self) -> int:
        """Layers, those that only draft tokens apart."""
        return sum(run.count * len(run.layers) for run in self.layers)

    @property
    def num_experts(self) -> int:
        """Routed experts of a layer that has any; 0 for a dense model."""
        return next((f.num_experts for f in self._experts()), 0)

    @property
    def experts_per_token(self) -> int | None:
        """Routed experts that one token takes in a layer."""
        return next((f.experts_per_token for f in self._experts()), None)

    @cached_property
    def layer_kinds(self) -> tuple[Layer, ...]:
        """The different layers, in order of their first appearance."""
        return tuple(dict.fromkeys(self.layer_sequence))

    @cached_property
    def kind_of_layer(self) -> tuple[int, ...]:
        """For each layer its index in `layer_kinds`."""
        index = {layer: i for i, layer in enumerate(self.layer_kinds)}
        return tuple(index[layer] for layer in self.layer_sequence)

    @cached_property
    def tensor_unit(self) -> int:
        """What a tensor parallel size must divide: heads, and columns that every GPU group cuts."""
        sizes: list[int] = []
        for layer in self.layer_kinds:
            attention, feed_forward = self.attention_of(layer), self.feed_forward_of(layer)
            if attention is not None:
                sizes.append(attention.num_heads)
            if isinstance(feed_forward, DenseFeedForward):
                sizes.append(feed_forward.ffn_size)
            elif feed_forward is not None and feed_forward.shared_size:
                sizes.append(feed_forward.shared_size)
        return gcd(*sizes)

    @cached_property
    def expert_unit(self) -> int:
        """What an expert tensor parallel size must divide: the columns of one routed expert.

        In a dense model the feed-forward is cut as attention is.
        """
        return gcd(*(part.expert_size for part in self._experts())) or self.tensor_unit

    def attention_of(
        self, layer: Layer
    ) -> GroupedQueryAttention | LatentAttention | LinearAttention | None:
        """Return the attention of a layer."""
        return None if layer.attention is None else self.attention[layer.attention]

    def feed_forward_of(self, layer: Layer) -> DenseFeedForward | ExpertFeedForward | None:
        """Return the feed-forward of a layer."""
        return None if layer.feed_forward is None else self.feed_forward[layer.feed_forward]
