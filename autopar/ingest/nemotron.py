"""Nemotron-H and Nemotron-NAS: models whose layers are not a mixer and a feed-forward each."""

import math

from autopar.documents import found
from autopar.ingest.aliases import DRAFT_LAYERS, HEADS, HIDDEN, LAYERS, VOCABULARY
from autopar.ingest.attention import GroupedQuery, head_width
from autopar.ingest.family import (
    MAX_DRAFT_LAYERS,
    Blueprint,
    Modules,
    draft_parameters,
    shares_embeddings,
)
from autopar.ingest.feed_forward import Dense, Experts
from autopar.ingest.fields import Fields, Flag
from autopar.ingest.layers import runs
from autopar.ingest.linear import Mamba2
from autopar.specs import (
    Architecture,
    DenseFeedForward,
    ExpertFeedForward,
    GroupedQueryAttention,
    Layer,
    LinearAttention,
)
from autopar.specs.architecture import MAX_HEADS, MAX_SIZE, NextTokenPrediction
from autopar.specs.base import MAX_EXPERTS, MAX_LAYERS

# The letters of hybrid_override_pattern, and the words of layers_block_type.
_LETTERS = {"M": "mamba", "*": "full", "-": "dense", "E": "experts"}
_BLOCKS = {
    "mamba": "mamba", "linear_attention": "mamba", "attention": "full", "full_attention": "full",
    "mlp": "dense", "moe": "experts",
}  # fmt: skip


_ATTENTION = GroupedQuery(modules=tuple(f"mixer.{m}_proj" for m in "qkvo"))
_MAMBA = Mamba2(
    heads="mamba_num_heads", head_dim="mamba_head_dim", groups="n_groups",
    state="ssm_state_size", kernel="conv_kernel", conv_bias=Flag("use_conv_bias", default=True),
    bias=False,
)  # fmt: skip
_DENSE = Dense(num_matrices=2, modules=("mixer.up_proj", "mixer.down_proj"))
_EXPERTS = Experts(
    num_matrices=2,
    shared_size=("moe_shared_expert_intermediate_size",),
    latent=("moe_latent_size",),
    routing_bias=True,
    modules=("mixer.experts.0.up_proj", "mixer.experts.0.down_proj"),
    shared_modules=("mixer.shared_experts.up_proj", "mixer.shared_experts.down_proj"),
)


_DEFAULTS = {"head_dim": 128}  # what absence means to NemotronHConfig


class NemotronH:
    """Layers that are one mixer or one feed-forward (transformers 5.23.0, NemotronHBlock)."""

    def build(self, fields: Fields) -> Blueprint:
        """Return the model that the fields describe.

        Raises SpecError if a field is missing or wrong.
        """
        fields.fill(_DEFAULTS)
        fields.ignore("expand", "sliding_window", "time_step_rank", "chunk_size")
        if shares_embeddings(fields, default=False):  # NemotronHForCausalLM ties nothing
            raise fields.error("tie_word_embeddings", "found true, expected false")
        hidden = fields.integer(*HIDDEN)
        blocks = _blocks(fields, "hybrid_override_pattern", "layers_block_type")
        stated = fields.optional(*LAYERS, high=MAX_LAYERS)
        if stated not in (None, len(blocks)):
            message = f"found {stated}, but the pattern of layers has {len(blocks)}"
            raise fields.error(LAYERS[0], f"{message}; expected one number")
        drafts = self._drafts(fields, hidden)
        used = dict.fromkeys(blocks)
        if drafts is not None:
            used |= dict.fromkeys((str(drafts.layer.attention), str(drafts.layer.feed_forward)))
        architecture = Architecture(
            hidden_size=hidden,
            vocab_size=fields.integer(*VOCABULARY),
            attention={k: self._mixer(k, fields) for k in ("mamba", "full") if k in used},
            feed_forward={k: self._feed(k, fields) for k in ("dense", "experts") if k in used},
            layers=runs([_single(block, hidden) for block in blocks]),
            other_parameters=hidden,
            next_token_prediction=drafts,
        )
        experts = Modules(_EXPERTS.shared_modules, _EXPERTS.modules)
        return Blueprint(
            architecture=architecture,
            attention={
                "mamba": Modules(_MAMBA.modules),
                "full": Modules(_ATTENTION.modules),
            },
            feed_forward={"dense": Modules(_DENSE.modules), "experts": experts},
        )

    def _mixer(self, kind: str, fields: Fields) -> GroupedQueryAttention | LinearAttention:
        if kind == "mamba":
            return _MAMBA.build(fields, "mamba")
        return _ATTENTION.build(fields, "full")

    def _feed(self, kind: str, fields: Fields) -> DenseFeedForward | ExpertFeedForward:
        if kind == "dense":
            return _DENSE.build(fields)
        shared = fields.integer_or(1, "n_shared_experts", high=MAX_EXPERTS)
        if shared != 1:  # whether the stated width is that of one or of all is not said
            raise fields.error("n_shared_experts", f"found {shared}, expected 1")
        return _EXPERTS.build(fields)

    def _drafts(self, fields: Fields, hidden: int) -> NextTokenPrediction | None:
        """Return the layers for multi-token prediction: one mixer and one feed-forward each."""
        count = fields.integer_or(0, *DRAFT_LAYERS, high=MAX_DRAFT_LAYERS)
        names = ("mtp_hybrid_override_pattern", "mtp_layers_block_type")
        if not count:
            fields.ignore(*names)
            return None
        blocks = ["full", "experts"]  # what absence means to NemotronHConfig
        if fields.has(*names):
            blocks = _blocks(fields, *names)
        mixers = [b for b in blocks if b in ("mamba", "full")]
        feeds = [b for b in blocks if b in ("dense", "experts")]
        if len(mixers) != 1 or len(feeds) != 1:
            message = f"found {found(blocks)}, expected one mixer and one feed-forward"
            raise fields.error(names[1] if fields.has(names[1]) else names[0], message)
        layer = Layer(attention=mixers[0], feed_forward=feeds[0], other_parameters=2 * hidden)
        return NextTokenPrediction(
            layer=layer, count=count, other_parameters=draft_parameters(hidden)
        )


def _blocks(fields: Fields, pattern_name: str, list_name: str) -> list[str]:
    """Return the kind of each block, from a text of letters or a list of words."""
    letters = fields.text(pattern_name)
    if letters is None:
        blocks = fields.words(list_name, _BLOCKS)
    else:
        fields.ignore(list_name)
        unknown = next((letter for letter in letters if letter not in _LETTERS), None)
        if unknown is not None:
            message = f"found {unknown!r} in the pattern, expected the letters {' '.join(_LETTERS)}"
            raise fields.error(pattern_name, message)
        blocks = [_LETTERS[letter] for letter in letters]
    if not 0 < len(blocks) <= MAX_LAYERS:
        message = f"found {len(blocks):,} layers, expected 1 to {MAX_LAYERS:,}"
        raise fields.error(list_name if letters is None else pattern_name, message)
    return blocks


def _single(block: str, hidden: int) -> Layer:
    if block in ("mamba", "full"):
        return Layer(attention=block, other_parameters=hidden)
    return Layer(feed_forward=block, other_parameters=hidden)


_NAS_ATTENTION = tuple(f"self_attn.{m}_proj" for m in "qkvo")
_NAS_DENSE = tuple(f"mlp.{m}_proj" for m in ("gate", "up", "down"))


class NemotronNas:
    """Llama layers cut down one by one (remote code of DeciLM: `block_configs`).

    Source: nvidia/Llama-3_3-Nemotron-Super-49B-v1 on Hugging Face, modeling_decilm.py.
    """

    def build(self, fields: Fields) -> Blueprint:
        """Return the model that the fields describe.

        Raises SpecError if a field is missing or wrong.
        """
        count, hidden = fields.integer(*LAYERS, high=MAX_LAYERS), fields.integer(*HIDDEN)
        fields.ignore("intermediate_size", "num_key_value_heads")  # each block has its own
        attention: dict[str, GroupedQueryAttention] = {}
        feed_forward: dict[str, DenseFeedForward] = {}
        layers: list[Layer] = []
        for block in fields.sections("block_configs", count):
            mixer = self._attention(fields, block)
            feed = self._feed_forward(fields, block)
            layer: dict[str, str] = {}
            if mixer is not None:
                layer["attention"] = f"kv{mixer.num_kv_heads}"
                attention[layer["attention"]] = mixer
            if feed is not None:
                layer["feed_forward"] = f"ffn{feed.ffn_size}"
                feed_forward[layer["feed_forward"]] = feed
            layers.append(
                Layer(
                    attention=layer.get("attention"),
                    feed_forward=layer.get("feed_forward"),
                    other_parameters=hidden * len(layer),  # a norm before each
                )
            )
        architecture = Architecture(
            hidden_size=hidden,
            vocab_size=fields.integer(*VOCABULARY),
            shares_embeddings=shares_embeddings(fields, default=False),
            attention=dict(attention),
            feed_forward=dict(feed_forward),
            layers=runs(layers),
            other_parameters=hidden,
        )
        return Blueprint(
            architecture=architecture,
            attention=dict.fromkeys(attention, Modules(_NAS_ATTENTION)),
            feed_forward=dict.fromkeys(feed_forward, Modules(_NAS_DENSE)),
        )

    def _attention(self, fields: Fields, block: Fields) -> GroupedQueryAttention | None:
        part = _part(block, "attention")
        if part is None:
            return None
        heads = fields.integer(*HEADS, high=MAX_HEADS)
        per_group = part.integer("n_heads_in_group", high=MAX_HEADS)
        if heads % per_group:
            message = f"found {per_group}, expected a divisor of the {heads} attention heads"
            raise part.error("n_heads_in_group", message)
        kv_heads, hidden = heads // per_group, fields.integer(*HIDDEN)
        dim = head_width(fields, hidden, heads)
        biases = (heads + 2 * kv_heads) * dim + hidden
        return GroupedQueryAttention(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=dim,
            other_parameters=biases * fields.switch(Flag("attention_bias")),
        )

    def _feed_forward(self, fields: Fields, block: Fields) -> DenseFeedForward | None:
        part = _part(block, "ffn")
        if part is None:
            return None
        hidden, size = fields.integer(*HIDDEN), part.optional("intermediate_size")
        if size is None:
            factor = part.number("ffn_mult")
            if factor is None:
                raise part.error("ffn_mult", "found nothing, expected a number")
            # modeling_decilm.py, _ffn_mult_to_intermediate_size: two thirds, to the next 256
            size = math.ceil(int(2 * factor * hidden / 3) / 256) * 256
        if not 0 < size <= MAX_SIZE:
            raise part.error("ffn_mult", f"found a width of {size:,}, expected 1 to {MAX_SIZE:,}")
        biases = (2 * size + hidden) * fields.switch(Flag("mlp_bias"))
        return DenseFeedForward(ffn_size=size, other_parameters=biases)


_UNSUPPORTED = (
    "replace_with_linear", "window_length", "num_sink_tokens", "sparsify", "unshifted_sink",
    "use_prefill_window_in_sink_attention", "moe", "mamba", "llama4",
)  # fmt: skip


def _part(block: Fields, name: str) -> Fields | None:
    """Return one half of a block, None where it was cut out.

    Raises SpecError for a half that is something else than in Llama.
    """
    part = block.section(name)
    if part is None:
        raise block.error(name, "found nothing, expected a mapping of fields")
    if part.switch(Flag("no_op")):
        return None
    for field in _UNSUPPORTED:
        value = part.value(field)
        if value not in (None, False):
            raise part.error(field, f"found {found(value)}, expected none: it is not expressed")
    return part
