"""MiMo-V2-Flash: values narrower than keys, and other heads in the windows than elsewhere.

Source: transformers 5.23.0, models/mimo_v2_flash (MiMoV2FlashAttention, MiMoV2FlashConfig).
"""

from dataclasses import dataclass

from autopar.documents import found
from autopar.ingest.aliases import HEADS, HIDDEN
from autopar.ingest.attention import PROJECTIONS, Kind, key_value_heads
from autopar.ingest.fields import Fields, Flag, Names
from autopar.specs import GroupedQueryAttention
from autopar.specs.architecture import MAX_HEADS


@dataclass(frozen=True, slots=True)
class MimoV2Attention:
    """Windows have sinks, and twice the key-value heads where no field gives their number."""

    modules: Names = PROJECTIONS

    def build(self, fields: Fields, kind: Kind) -> GroupedQueryAttention:
        """Return the attention of the layers of one kind, `full` or `window`."""
        heads = fields.integer(*HEADS, high=MAX_HEADS)
        kv_heads = key_value_heads(fields, heads)
        dim, value_dim = fields.integer("head_dim"), fields.integer("v_head_dim")
        window_kv_heads = fields.integer_or(
            2 * kv_heads, "swa_num_key_value_heads", low=1, high=MAX_HEADS
        )
        for name, same in (
            ("swa_num_attention_heads", heads), ("swa_head_dim", dim), ("swa_v_head_dim", value_dim)
        ):  # fmt: skip
            if fields.integer_or(same, name) != same:
                message = f"found {found(fields.value(name))}, expected {same}, as in full layers"
                raise fields.error(name, message)
        in_window = kind == "window"
        sinks = Flag("add_swa_attention_sink_bias", default=True)
        if not in_window:
            sinks = Flag("add_full_attention_sink_bias")
        kv_heads = window_kv_heads if in_window else kv_heads
        if heads % kv_heads:
            message = f"found {kv_heads}, expected a divisor of the {heads} attention heads"
            raise fields.error("swa_num_key_value_heads", message)
        columns = heads * dim + kv_heads * (dim + value_dim)
        biases = columns if fields.switch(Flag("attention_bias")) else 0
        fields.integer(*HIDDEN)
        return GroupedQueryAttention(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=dim,
            v_head_dim=value_dim,
            window_tokens=fields.integer("sliding_window") if in_window else None,
            other_parameters=biases + heads * fields.switch(sinks),
        )
