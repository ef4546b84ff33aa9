"""Config fields -> one softmax attention: grouped-query or latent, with its small vectors."""

from dataclasses import dataclass
from typing import Literal, Protocol

from autopar.ingest.aliases import HEADS, HIDDEN, KV_HEADS
from autopar.ingest.fields import Fields, Flag, Names, Switch
from autopar.specs import GroupedQueryAttention, LatentAttention
from autopar.specs.architecture import MAX_HEADS, Attention

_BIAS = Flag("attention_bias")

# Names of the large matrices of one attention, as nearly every family has them.
PROJECTIONS: Names = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
)

# A layer's kind of attention, as our documents name it: full, window, linear, mamba, or shared,
# which attends to the tokens that the indexer of an earlier layer picked.
Kind = str


class AttentionPart(Protocol):
    """How one family's fields say what an attention is."""

    @property
    def modules(self) -> Names:
        """The names of its large matrices below a layer, as quantisation lists name them.

        Their last steps tell how large each is (`autopar.ingest.precisions.matrix_shares`).
        """
        ...

    def build(self, fields: Fields, kind: Kind) -> Attention:
        """Return the attention of the layers of one kind.

        Raises SpecError if a field is missing or wrong.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQuery:
    """Grouped-query attention; `bias` is on queries, keys and values, `out_bias` on the result.

    query_key_norm: a norm's weights for one head, or for all heads side by side.
    """

    bias: Switch = False
    out_bias: Switch | None = None  # as `bias` where None
    query_key_norm: Literal["head", "width"] | None = None
    norm_switch: Switch = True  # the field that turns the norms of queries and keys off
    sinks: bool = False
    gates_output: Switch = False
    window: Names = ("sliding_window",)
    kv_section: str | None = None  # the nested mapping that holds the key-value heads
    multi_head: bool = False  # no field for key-value heads means as many as heads
    modules: Names = PROJECTIONS

    def build(self, fields: Fields, kind: Kind) -> GroupedQueryAttention:
        """Return the attention of the layers of one kind, `full` or `window`."""
        hidden = fields.integer(*HIDDEN)
        heads = fields.integer(*HEADS, high=MAX_HEADS)
        section = fields if self.kv_section is None else fields.section(self.kv_section)
        if section is None:
            raise fields.error(self.kv_section or "", "found nothing, expected a mapping of fields")
        kv_heads = key_value_heads(section, heads, multi_head=self.multi_head)
        head_dim = head_width(fields, hidden, heads)
        return GroupedQueryAttention(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            window_tokens=fields.integer(*self.window) if kind == "window" else None,
            gates_output=fields.switch(self.gates_output),
            other_parameters=self._vectors(fields, hidden, heads, kv_heads, head_dim),
        )

    def _vectors(self, fields: Fields, hidden: int, heads: int, kv_heads: int, dim: int) -> int:
        has_bias = fields.switch(self.bias)
        has_out_bias = has_bias if self.out_bias is None else fields.switch(self.out_bias)
        queries = heads * (2 if fields.switch(self.gates_output) else 1)  # with their gate
        total = (queries + 2 * kv_heads) * dim * has_bias + hidden * has_out_bias
        if self.query_key_norm is not None and fields.switch(self.norm_switch):
            total += (heads + kv_heads) * dim if self.query_key_norm == "width" else 2 * dim
        return total + heads * self.sinks


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Multi-head latent attention; with `indexed`, an indexer picks the tokens to attend to.

    Vectors: norms of the two latents, biases of the three projections that `bias` covers, and of
    the indexer's keys a layer norm with bias (transformers 5.23.0, modeling_deepseek_v32.py).
    """

    bias: Switch = _BIAS
    indexed: bool = False
    modules: Names = (
        "self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa",
        "self_attn.kv_b_proj", "self_attn.o_proj", "self_attn.q_proj",
    )  # fmt: skip

    def build(self, fields: Fields, kind: Kind) -> LatentAttention:
        """Return the attention of the layers of one kind: `full`, or `shared` without indexer."""
        rank = fields.stated("q_lora_rank") or None
        latent, rope = fields.integer("kv_lora_rank"), fields.integer("qk_rope_head_dim")
        fields.ignore(*KV_HEADS, "head_dim", "qk_head_dim")  # other names for the same sizes
        owns_indexer = self.indexed and kind == "full"
        index_dim = fields.integer("index_head_dim") if self.indexed else 0
        index_heads = fields.integer("index_n_heads", high=MAX_HEADS) if self.indexed else 0
        hidden = fields.integer(*HIDDEN)
        biases = (rank or 0) + latent + rope + hidden if fields.switch(self.bias) else 0
        return LatentAttention(
            num_heads=fields.integer(*HEADS, high=MAX_HEADS),
            q_lora_rank=rank,
            kv_lora_rank=latent,
            qk_nope_head_dim=fields.integer("qk_nope_head_dim"),
            qk_rope_head_dim=rope,
            v_head_dim=fields.integer("v_head_dim"),
            index_heads=index_heads if owns_indexer else 0,
            index_head_dim=index_dim if owns_indexer else 0,
            index_tokens=fields.integer("index_topk") if self.indexed else None,
            other_parameters=(rank or 0) + latent + biases + 2 * index_dim * owns_indexer,
        )


def key_value_heads(fields: Fields, heads: int, *, multi_head: bool = False) -> int:
    """Return the key-value heads, which null says are as many as the heads.

    Raises SpecError if the field is absent, unless the family says that this means the same, and
    if the heads cannot be dealt out evenly.
    """
    kv_heads = fields.optional(*KV_HEADS, high=MAX_HEADS)
    if kv_heads is None and not multi_head and fields.is_absent(*KV_HEADS):
        return fields.integer(*KV_HEADS, high=MAX_HEADS)
    kv_heads = heads if kv_heads is None else kv_heads
    if heads % kv_heads:
        message = f"found {kv_heads}, expected a divisor of the {heads} attention heads"
        raise fields.error(fields.spelled(*KV_HEADS), message)
    return kv_heads


def head_width(fields: Fields, hidden: int, heads: int) -> int:
    """Return the elements of one head; without a field for it, the hidden size is dealt out."""
    head_dim = fields.optional("head_dim", "attention_head_dim")
    if head_dim is None:
        if hidden % heads:
            message = f"found {heads}, expected a divisor of hidden_size {hidden}, or a head_dim"
            raise fields.error(fields.spelled(*HEADS), message)
        return hidden // heads
    return head_dim
