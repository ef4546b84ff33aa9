"""Gemma 4: wider heads in full layers, keys that are also the values, experts beside a dense part.

Source: transformers 5.23.0, models/gemma4 (Gemma4TextAttention, Gemma4TextRouter,
Gemma4TextDecoderLayer).
"""

from dataclasses import dataclass

from autopar.documents import found
from autopar.ingest.aliases import HEADS, HIDDEN, KV_HEADS
from autopar.ingest.attention import PROJECTIONS, Kind, key_value_heads
from autopar.ingest.fields import Fields, Flag, Names
from autopar.specs import GroupedQueryAttention
from autopar.specs.architecture import MAX_HEADS

KEYS_ARE_VALUES = Flag("attention_k_eq_v")


@dataclass(frozen=True, slots=True)
class Gemma4Attention:
    """Windows of `head_dim`, full layers of `global_head_dim`; norms of query and key heads."""

    modules: Names = PROJECTIONS

    def build(self, fields: Fields, kind: Kind) -> GroupedQueryAttention:
        """Return the attention of the layers of one kind, `full` or `window`."""
        _refuse_unsupported(fields)
        heads = fields.integer(*HEADS, high=MAX_HEADS)
        kv_heads = key_value_heads(fields, heads)
        narrow = fields.integer("head_dim")
        keys_are_values = fields.switch(KEYS_ARE_VALUES)
        full = _full_layers(fields)
        wide = full.integer_or(512, "global_head_dim", "head_dim", low=1)
        global_heads = full.optional("num_global_key_value_heads", *KV_HEADS, high=MAX_HEADS)
        is_full = kind == "full"
        if is_full and keys_are_values and global_heads is not None:
            kv_heads = global_heads
            if heads % kv_heads:
                message = f"found {kv_heads}, expected a divisor of the {heads} attention heads"
                name = full.spelled("num_global_key_value_heads", *KV_HEADS)
                raise full.error(name, message)
        dim = wide if is_full else narrow
        keys_only = keys_are_values and is_full
        columns = (heads + (1 if keys_only else 2) * kv_heads) * dim + fields.integer(*HIDDEN)
        biases = columns if fields.switch(Flag("attention_bias")) else 0
        return GroupedQueryAttention(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=dim,
            window_tokens=None if is_full else fields.integer("sliding_window"),
            keys_are_values=keys_only,
            other_parameters=2 * dim + biases,
        )


def _full_layers(fields: Fields) -> Fields:
    """Return the fields that say how full layers differ.

    Files that transformers 5 saved have them in `per_layer_config`, once for each full layer.
    """
    names = ("global_head_dim", "num_global_key_value_heads")
    layers = fields.section("per_layer_config")
    if layers is None:
        return Fields({name: fields.value(name) for name in names}, fields.where, fields.path)
    fields.ignore(*names)
    entries = list(layers.data.values())
    kinds = fields.items("layer_types")
    full = sorted(i for i, kind in enumerate(kinds) if kind == "full_attention")
    stated = sorted(int(name) for name in layers.data if name.isdigit())
    if stated != full or len(stated) != len(entries) or any(e != entries[0] for e in entries):
        message = "found something else than the same fields for each full layer"
        raise fields.error("per_layer_config", f"{message}; expected those")
    for name in layers.data:
        section = layers.section(name)
        if section is not None and set(section.data) <= {"head_dim", *KV_HEADS}:
            continue
        raise layers.error(name, "found other fields than head_dim and num_key_value_heads")
    first = layers.section(next(iter(layers.data)))
    assert first is not None, "every entry is a mapping"
    return first


def _refuse_unsupported(fields: Fields) -> None:
    """Raise SpecError for the smaller models' per-layer embeddings and shared caches."""
    fields.ignore("vocab_size_per_layer_input")  # of a table that is absent where its width is 0
    width = fields.value("hidden_size_per_layer_input")
    if width != 0 or isinstance(width, bool):  # absent means 256 to Gemma4TextConfig
        message = f"found {found(width)}, expected 0: embeddings per layer are not expressed"
        raise fields.error("hidden_size_per_layer_input", message)
    shared = fields.integer_or(0, "num_kv_shared_layers")
    if shared:
        message = f"found {shared}, expected 0: layers that share a cache are not expressed"
        raise fields.error("num_kv_shared_layers", message)
    fields.ignore("use_double_wide_mlp")  # only of layers that share a cache
