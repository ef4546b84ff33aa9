"""Config fields -> one mixer with a state of constant size: delta nets, Mamba-2, lightning.

Columns and rows count what tensor parallelism cuts by head; convolutions, decays, norms and
low-rank gates are the other parameters. The state of a sequence is the matrix of every head and the
last inputs of the convolution, one fewer than its kernel is long.
"""

from dataclasses import dataclass

from autopar.ingest.aliases import HEADS, HIDDEN
from autopar.ingest.attention import Kind, head_width
from autopar.ingest.fields import Fields, Names, Switch
from autopar.specs import LinearAttention
from autopar.specs.architecture import MAX_HEADS


@dataclass(frozen=True, slots=True)
class GatedDeltaNet:
    """Gated delta net (transformers 5.23.0, Qwen3NextGatedDeltaNet; arXiv:2412.06464)."""

    modules: Names = (
        "linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.out_proj",
        "linear_attn.in_proj_qkvz",
    )  # fmt: skip

    def build(self, fields: Fields, kind: Kind) -> LinearAttention:
        """Return the mixer; tensor parallelism cuts by the fewer key heads."""
        key_heads = fields.integer("linear_num_key_heads", high=MAX_HEADS)
        value_heads = fields.integer("linear_num_value_heads", high=MAX_HEADS)
        key_dim, value_dim = (fields.integer(f"linear_{k}_head_dim") for k in ("key", "value"))
        kernel = fields.integer("linear_conv_kernel_dim")
        if value_heads % key_heads:
            message = f"found {value_heads}, expected a multiple of {key_heads} key heads"
            raise fields.error("linear_num_value_heads", message)
        keys, values = key_heads * key_dim, value_heads * value_dim
        mixed = 2 * keys + values  # queries, keys and values pass the convolution
        return LinearAttention(
            num_heads=key_heads,
            input_columns=mixed + values + 2 * value_heads,  # the output gate, two gates per head
            output_rows=values,
            state_elements=value_heads * key_dim * value_dim + mixed * (kernel - 1),
            other_parameters=mixed * kernel + 2 * value_heads + value_dim,  # decay, step, norm
        )


@dataclass(frozen=True, slots=True)
class KimiDelta:
    """Kimi delta attention (transformers 5.23.0, KimiLinearDeltaAttention; arXiv:2510.26692)."""

    modules: Names = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
    )

    def build(self, fields: Fields, kind: Kind) -> LinearAttention:
        """Return the mixer; its two gates have the rank of one head and are counted whole."""
        section = fields.section("linear_attn_config")
        if section is None:  # as transformers 5 saves it
            heads = fields.integer("linear_num_heads", high=MAX_HEADS)
            dim, kernel = (
                fields.integer("linear_head_dim"),
                fields.integer("linear_conv_kernel_dim"),
            )
        else:
            heads = section.integer("num_heads", high=MAX_HEADS)
            dim, kernel = section.integer("head_dim"), section.integer("short_conv_kernel_size")
        wide, hidden = heads * dim, fields.integer(*HIDDEN)
        gates = 2 * (hidden * dim + dim * wide)
        return LinearAttention(
            num_heads=heads,
            input_columns=3 * wide + heads,  # queries, keys, values, one step size per head
            output_rows=wide,
            state_elements=heads * dim * dim + 3 * wide * (kernel - 1),
            other_parameters=gates + 3 * wide * kernel + heads + wide + dim,  # decay, bias, norm
        )


@dataclass(frozen=True, slots=True)
class Lightning:
    """Lightning attention (transformers 5.23.0, MiniMaxLightningAttention; arXiv:2501.08313)."""

    modules: Names = ("self_attn.qkv_proj", "self_attn.output_gate", "self_attn.out_proj")

    def build(self, fields: Fields, kind: Kind) -> LinearAttention:
        """Return the mixer."""
        heads = fields.integer(*HEADS, high=MAX_HEADS)
        dim = head_width(fields, fields.integer(*HIDDEN), heads)
        return LinearAttention(
            num_heads=heads,
            input_columns=4 * heads * dim,  # queries, keys, values, the output gate
            output_rows=heads * dim,
            state_elements=heads * dim * dim,
            other_parameters=heads * dim,  # its norm
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2:
    """Mamba-2 (transformers 5.23.0, NemotronHMamba2Mixer, GraniteMoeHybridMambaLayer).

    Source of the shapes: arXiv:2405.21060, section 8.
    """

    heads: str
    head_dim: str
    groups: str
    state: str
    kernel: str
    conv_bias: Switch
    bias: Switch  # on both projections
    modules: Names = ("mixer.in_proj", "mixer.out_proj")

    def build(self, fields: Fields, kind: Kind) -> LinearAttention:
        """Return the mixer; every head has a decay, a skip and a step bias."""
        heads = fields.integer(self.heads, high=MAX_HEADS)
        dim, state = fields.integer(self.head_dim), fields.integer(self.state)
        groups = fields.integer(self.groups, high=MAX_HEADS)
        kernel, hidden = fields.integer(self.kernel), fields.integer(*HIDDEN)
        if heads % groups:
            message = f"found {groups}, expected a divisor of the {heads} heads"
            raise fields.error(self.groups, message)
        inner = heads * dim
        mixed = inner + 2 * groups * state
        columns = inner + mixed + heads
        biases = (columns + hidden) * fields.switch(self.bias) + mixed * fields.switch(
            self.conv_bias
        )
        return LinearAttention(
            num_heads=heads,
            input_columns=columns,
            output_rows=inner,
            state_elements=inner * state + mixed * (kernel - 1),
            other_parameters=mixed * kernel + biases + 3 * heads + inner,  # inner: its norm
        )
