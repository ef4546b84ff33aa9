"""What a family of models has in common, and how its fields become an architecture."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from autopar.ingest.aliases import DRAFT_LAYERS, HIDDEN, LAYERS, VOCABULARY
from autopar.ingest.attention import AttentionPart, Kind
from autopar.ingest.feed_forward import Dense, Experts
from autopar.ingest.fields import Fields, Flag, Names, Switch
from autopar.ingest.layers import AttentionRule, FeedForwardRule, all_dense, every, runs
from autopar.specs import Architecture, DenseFeedForward, ExpertFeedForward, Layer
from autopar.specs.architecture import NextTokenPrediction
from autopar.specs.base import MAX_LAYERS

MAX_DRAFT_LAYERS = 16  # as autopar.specs.architecture.NextTokenPrediction


@dataclass(frozen=True, slots=True)
class Modules:
    """The names of the large matrices of a part, as quantisation lists name them in a layer."""

    own: Names  # of an attention, a dense feed-forward, the shared experts
    experts: Names = ()  # of one routed expert


@dataclass(frozen=True, slots=True)
class Blueprint:
    """An architecture, and the names of its matrices by the names of its parts."""

    architecture: Architecture
    attention: Mapping[str, Modules]
    feed_forward: Mapping[str, Modules]


class Builder(Protocol):
    """What stands in the table of families."""

    def build(self, fields: Fields) -> Blueprint:
        """Return the model that the fields describe; SpecError where they do not suffice."""
        ...


_ALL_FULL = every("full")
_DENSE = Dense()
_EXPERTS = Experts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A decoder whose layers each have one mixer and one feed-forward.

    norms: norms per layer that are as wide as the hidden size. norm_vectors: weights of each, 2
    with a bias, 0 without any. layer_scalars: single numbers per layer. ties_embeddings: what the
    absence of the field means, None where it must be there. defaults: what absent integers mean.
    ignores: fields that say nothing about shapes in this family. drafts: how the number of its
    layers for multi-token prediction is spelt, () where it does not tell what they hold.
    """

    attention: AttentionPart
    linear: AttentionPart | None = None
    attention_kinds: AttentionRule = _ALL_FULL
    dense: Dense = _DENSE
    experts: Experts = _EXPERTS
    feed_forward_kinds: FeedForwardRule = all_dense
    norms: int = 2
    norm_vectors: int = 1
    layer_scalars: int = 0
    ties_embeddings: bool | None = False
    head_bias: Switch = False
    defaults: Mapping[str, int] = field(default_factory=dict)
    ignores: Names = ()
    drafts: Names = DRAFT_LAYERS

    def build(self, fields: Fields) -> Blueprint:
        """Return the model that the fields describe.

        Raises SpecError if a field is missing or wrong.
        """
        fields.fill(self.defaults)
        fields.ignore(*self.ignores)
        count = fields.integer(*LAYERS, high=MAX_LAYERS)
        hidden = fields.integer(*HIDDEN)
        mixers = self._mixers(fields, count)
        feeds = list(self.feed_forward_kinds(fields, count))
        if self.feed_forward_kinds is not all_dense:  # though no layer may need all of them
            fields.ignore(*self.dense.size, *self.experts.fields)
        attention = {kind: self._mixer(kind).build(fields, kind) for kind in dict.fromkeys(mixers)}
        names = list(dict.fromkeys(feeds))
        norms = self.norms * self.norm_vectors * hidden + self.layer_scalars
        layers = [
            Layer(attention=mixer, feed_forward=feed, other_parameters=norms)
            for mixer, feed in zip(mixers, feeds, strict=True)
        ]
        drafts = self._drafts(fields, mixers, layers[-1], hidden)
        if drafts is not None and drafts.layer.attention not in attention:
            attention["full"] = self.attention.build(fields, "full")
        vocabulary = fields.integer(*VOCABULARY)
        architecture = Architecture(
            hidden_size=hidden,
            vocab_size=vocabulary,
            shares_embeddings=shares_embeddings(fields, default=self.ties_embeddings),
            attention={str(kind): part for kind, part in attention.items()},
            feed_forward={name: self._feed_forward(name, fields) for name in names},
            layers=runs(layers),
            other_parameters=self.norm_vectors * hidden
            + vocabulary * fields.switch(self.head_bias),
            next_token_prediction=drafts,
        )
        return Blueprint(
            architecture=architecture,
            attention={kind: Modules(self._mixer(kind).modules) for kind in attention},
            feed_forward={name: self._modules(name) for name in names},
        )

    def _mixers(self, fields: Fields, count: int) -> list[Kind]:
        mixers = list(self.attention_kinds(fields, count))
        if self.linear is None and {"linear", "mamba"} & set(mixers):
            message = "found layers without softmax attention, expected none in this model_type"
            raise fields.error(fields.spelled("layer_types", "attn_type_list"), message)
        return mixers

    def _mixer(self, kind: Kind) -> AttentionPart:
        return self.linear if self.linear and kind in ("linear", "mamba") else self.attention

    def _feed_forward(self, name: str, fields: Fields) -> DenseFeedForward | ExpertFeedForward:
        return self.dense.build(fields) if name == "dense" else self.experts.build(fields)

    def _modules(self, name: str) -> Modules:
        if name == "dense":
            return Modules(self.dense.modules)
        return Modules(self.experts.shared_modules, self.experts.modules)

    def _drafts(
        self, fields: Fields, mixers: list[Kind], last: Layer, hidden: int
    ) -> NextTokenPrediction | None:
        """Return the layers for multi-token prediction: full attention, the last feed-forward."""
        count = fields.integer_or(0, *self.drafts, high=MAX_DRAFT_LAYERS) if self.drafts else 0
        if not count:
            return None
        kind: Kind = "full" if self.linear is not None or "shared" in mixers else mixers[-1]
        layer = last.model_copy(update={"attention": kind})
        return NextTokenPrediction(
            layer=layer, count=count, other_parameters=draft_parameters(hidden, self.norm_vectors)
        )


def draft_parameters(hidden: int, norm_vectors: int = 1) -> int:
    """Return what one layer of multi-token prediction adds to a layer.

    A projection of the hidden state and the embedding side by side, a norm for each of the two and
    one for the result (DeepSeek-V3, arXiv:2412.19437, sec. 2.2; transformers 5.23.0, MtpLayer).
    """
    return 2 * hidden * hidden + 3 * norm_vectors * hidden


def shares_embeddings(fields: Fields, *, default: bool | None) -> bool:
    """Return whether the head is the embedding; `default` is what absence means to the family.

    Raises SpecError if the field is absent and that says nothing.
    """
    if default is None:
        if not fields.has("tie_word_embeddings"):
            raise fields.error("tie_word_embeddings", "found nothing, expected true or false")
        default = False
    return fields.switch(Flag("tie_word_embeddings", default))
