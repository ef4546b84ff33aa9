"""Which layer is of which kind: every spelling of it, and runs of equal layers.

A rule takes the fields and the number of layers, and gives one word per layer: of its attention
(`Kind`), or of its feed-forward, `dense` or `experts`. Rules of absent fields are those of the
configuration classes of transformers 5.23.0.
"""

from collections.abc import Callable, Mapping, Sequence

from autopar.documents import found
from autopar.ingest.aliases import EXPERTS
from autopar.ingest.attention import Kind
from autopar.ingest.fields import Fields, Flag
from autopar.specs import Layer, LayerRun
from autopar.specs.base import MAX_EXPERTS

AttentionRule = Callable[[Fields, int], Sequence[Kind]]
FeedForwardRule = Callable[[Fields, int], Sequence[str]]

_TYPES: Mapping[str, Kind] = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "window",
    "chunked_attention": "window",
    "linear_attention": "linear",
    "mamba": "mamba",
}
_MLP_TYPES = {"dense": "dense", "sparse": "experts"}
_INDEXERS = {"full": "full", "shared": "shared"}
_MOE_BLOCK = Flag("enable_moe_block")
_USE_WINDOW = Flag("use_sliding_window")


def every(kind: Kind) -> AttentionRule:
    """Return the rule of models whose layers attend alike."""
    return lambda _, count: [kind] * count


def all_windows(fields: Fields, count: int) -> Sequence[Kind]:
    """Every layer has the window of `sliding_window`, if there is one."""
    return ["window" if fields.has("sliding_window") else "full"] * count


def listed(field: str, default: AttentionRule) -> AttentionRule:
    """Return the rule of a list with one word per layer, or of its absence."""

    def rule(fields: Fields, count: int) -> Sequence[Kind]:
        if not fields.has(field):
            return default(fields, count)
        return [_TYPES[word] for word in fields.words(field, {t: t for t in _TYPES}, count)]

    return rule


def every_nth(
    field: str | None, default: int, last: Kind = "full", others: Kind = "window"
) -> AttentionRule:
    """Return the rule of models where each n-th layer is another; the field, if any, holds n."""

    def rule(fields: Fields, count: int) -> Sequence[Kind]:
        period = default if field is None else fields.integer_or(default, field, low=1)
        return [others if (i + 1) % period else last for i in range(count)]

    return rule


def windows_but_nth(fields: Fields, count: int) -> Sequence[Kind]:
    """Each n-th layer is full and the others have windows, if there is a window (EXAONE 4)."""
    if not fields.has("sliding_window"):
        return ["full"] * count
    return every_nth("sliding_window_pattern", 4)(fields, count)


def from_window_layer(fields: Fields, count: int) -> Sequence[Kind]:
    """Layers from `max_window_layers` on have a window, if `use_sliding_window` is true."""
    first = fields.integer_or(28, "max_window_layers")
    if not _uses_window(fields):
        return ["full"] * count
    return ["window" if i >= first else "full" for i in range(count)]


def windows_from_layer(fields: Fields, count: int) -> Sequence[Kind]:
    """Layers from `max_window_layers` on have a window, if there is one (dots.llm1)."""
    first = fields.integer("max_window_layers", low=0)
    if not fields.has("sliding_window"):
        return ["full"] * count
    return ["window" if i >= first else "full" for i in range(count)]


def windows_without_rotation(fields: Fields, count: int) -> Sequence[Kind]:
    """Layers without rotary positions have a window, if `use_sliding_window` is true (SmolLM3)."""
    period = fields.integer_or(4, "no_rope_layer_interval", low=1)
    marks = [int((i + 1) % period != 0) for i in range(count)]
    if fields.has("no_rope_layers"):
        marks = fields.integers("no_rope_layers", low=0, high=1, count=count)
    if not _uses_window(fields):
        return ["full"] * count
    return ["full" if mark else "window" for mark in marks]


def even_window_layers(fields: Fields, count: int) -> Sequence[Kind]:
    """Even layers before `max_window_layers` have a window, if `use_sliding_window` is true."""
    first = fields.integer_or(28, "max_window_layers")
    if not _uses_window(fields):
        return ["full"] * count
    return ["window" if i % 2 == 0 and i < first else "full" for i in range(count)]


def switched_windows(fields: Fields, count: int) -> Sequence[Kind]:
    """Every layer has a window, if `use_sliding_window` is true."""
    fields.ignore("max_window_layers")
    return ["window" if _uses_window(fields) else "full"] * count


def _uses_window(fields: Fields) -> bool:
    uses = fields.switch(_USE_WINDOW) and fields.has("sliding_window")
    fields.ignore("sliding_window")
    return uses


def rotary_chunks(fields: Fields, count: int) -> Sequence[Kind]:
    """Layers with rotary positions attend within chunks (Llama 4); 0 marks one without."""
    if fields.has("layer_types"):
        return listed("layer_types", every("full"))(fields, count)
    if not fields.has("attention_chunk_size"):
        return ["full"] * count
    if fields.value("no_rope_layers"):  # an empty list means the interval
        marks = fields.integers("no_rope_layers", low=0, high=1, count=count)
        return ["window" if mark else "full" for mark in marks]
    return every_nth("no_rope_layer_interval", 4)(fields, count)


def marked(field: str, kinds: tuple[Kind, Kind], default: AttentionRule) -> AttentionRule:
    """Return the rule of a list of 0 and 1, one per layer, or of its absence."""

    def rule(fields: Fields, count: int) -> Sequence[Kind]:
        if not fields.has(field):
            return default(fields, count)
        return [kinds[mark] for mark in fields.integers(field, low=0, high=1, count=count)]

    return rule


def kimi_linear(fields: Fields, count: int) -> Sequence[Kind]:
    """`linear_attn_config` lists the layers of both kinds, counted from one, or `layer_types`."""
    section = fields.section("linear_attn_config")
    if section is None:
        if not fields.has("layer_types"):
            raise fields.error("linear_attn_config", "found nothing, expected a mapping of fields")
        return listed("layer_types", every("full"))(fields, count)
    kinds: dict[int, Kind] = {}
    lists: tuple[tuple[str, Kind], ...] = (("full_attn_layers", "full"), ("kda_layers", "linear"))
    for name, kind in lists:
        for layer in section.integers(name, low=1, high=count):
            if layer in kinds:
                raise section.error(name, f"found layer {layer} twice, expected each layer once")
            kinds[layer] = kind
    missing = next((i for i in range(1, count + 1) if i not in kinds), None)
    if missing is not None:
        message = f"found no layer {missing}, expected it here or in full_attn_layers"
        raise section.error("kda_layers", message)
    return [kinds[i] for i in range(1, count + 1)]


def indexers(fields: Fields, count: int) -> Sequence[Kind]:
    """Layers with an indexer of their own, and those that share an earlier layer's (GLM 5.2)."""
    fields.ignore("index_share_for_mtp_iteration")  # says how drafts are made, not of what
    if fields.has("indexer_types"):
        fields.ignore("index_topk_freq", "index_topk_pattern", "index_skip_topk_offset")
        return [_indexer(word) for word in fields.words("indexer_types", _INDEXERS, count)]
    pattern = fields.text("index_topk_pattern")
    if pattern is not None:
        fields.ignore("index_topk_freq", "index_skip_topk_offset")
        if len(pattern) != count or set(pattern) - {"F", "S"}:
            message = f"found {found(pattern)}, expected one F or S per layer, {count} of them"
            raise fields.error("index_topk_pattern", message)
        return [_indexer("full" if letter == "F" else "shared") for letter in pattern]
    period = fields.integer_or(1, "index_topk_freq", low=1)
    offset = fields.integer_or(2, "index_skip_topk_offset")
    return [_indexer("shared" if max(i - offset + 1, 0) % period else "full") for i in range(count)]


def _indexer(word: str) -> Kind:
    return "shared" if word == "shared" else "full"


# Feed-forwards.


def all_dense(_: Fields, count: int) -> Sequence[str]:
    """Every layer has the dense feed-forward."""
    return ["dense"] * count


def all_experts(_: Fields, count: int) -> Sequence[str]:
    """Every layer has experts."""
    return ["experts"] * count


def sparse_steps(fields: Fields, count: int) -> Sequence[str]:
    """Each `decoder_sparse_step`-th layer has experts, those in `mlp_only_layers` apart (Qwen)."""
    step = fields.integer_or(1, "decoder_sparse_step", low=1)
    dense: set[int] = set()
    if fields.has("mlp_only_layers"):
        dense = set(fields.integers("mlp_only_layers", low=0, high=count - 1))
    return ["dense" if i in dense or (i + 1) % step else "experts" for i in range(count)]


def interleaved(fields: Fields, count: int) -> Sequence[str]:
    """Each `interleave_moe_layer_step`-th layer has experts, or those in `moe_layers` (Llama 4)."""
    step = fields.integer_or(1, "interleave_moe_layer_step", low=1)
    sparse = set(range(step - 1, count, step))
    if fields.has("moe_layers"):
        sparse = set(fields.integers("moe_layers", low=0, high=count - 1))
    return ["experts" if i in sparse else "dense" for i in range(count)]


def first_dense(fields: Fields, count: int) -> Sequence[str]:
    """Layers from `first_k_dense_replace` on have experts, each `moe_layer_freq`-th of them.

    `mlp_layer_types` says the same layer by layer; where both are there, they must agree.
    Raises SpecError without a number of experts; null is a dense model in the fields of such a one.
    """
    if not fields.stated(*EXPERTS, low=1, high=MAX_EXPERTS):
        return ["dense"] * count
    words = None
    if fields.has("mlp_layer_types"):
        words = fields.words("mlp_layer_types", _MLP_TYPES, count)
    if words is not None and not fields.has("first_k_dense_replace"):
        fields.ignore("moe_layer_freq")
        return words
    first = fields.integer("first_k_dense_replace", low=0, high=count - 1)  # else no layer has any
    period = fields.integer_or(1, "moe_layer_freq", low=1)
    ruled = ["experts" if i >= first and i % period == 0 else "dense" for i in range(count)]
    if words not in (None, ruled):
        message = f"found a list that disagrees with first_k_dense_replace {first}"
        raise fields.error("mlp_layer_types", f"{message}; expected one of the two")
    return ruled


def marked_experts(fields: Fields, count: int) -> Sequence[str]:
    """`moe_layer_freq` holds a 1 for each layer with experts, or `mlp_layer_types` a word."""
    if fields.has("mlp_layer_types"):
        return fields.words("mlp_layer_types", _MLP_TYPES, count)
    marks = fields.integers("moe_layer_freq", low=0, high=1, count=count)
    return ["experts" if mark else "dense" for mark in marks]


def ernie(fields: Fields, count: int) -> Sequence[str]:
    """Each `moe_layer_interval`-th layer from a first to a last one has experts (ERNIE 4.5)."""
    interval = fields.integer_or(1, "moe_layer_interval", low=1)
    first = fields.integer("moe_layer_start_index", low=0)
    last = fields.integer_or(-1, "moe_layer_end_index", low=-1)
    last = count - 1 if last == -1 else last
    return [
        "experts" if (i + 1) % interval == 0 and first <= i <= last else "dense"
        for i in range(count)
    ]


def granite_experts(fields: Fields, count: int) -> Sequence[str]:
    """No experts mean that the shared feed-forward is the only one (Granite 4 hybrid)."""
    number = fields.integer("num_local_experts", low=0, high=MAX_EXPERTS)
    return ["experts" if number else "dense"] * count


def gemma4_experts(fields: Fields, count: int) -> Sequence[str]:
    """Every layer has experts beside its dense part, if `enable_moe_block` is true."""
    return ["experts" if fields.switch(_MOE_BLOCK) else "dense"] * count


def runs(layers: Sequence[Layer]) -> tuple[LayerRun, ...]:
    """Return layers as runs: where a block repeats, the one that covers most, else as they come.

    [a, b, b, b, a, b, a, b] gives 1 x a, 2 x b and 2 x (b, a), 1 x b.
    """
    number = {layer: i for i, layer in enumerate(dict.fromkeys(layers))}
    codes = [number[layer] for layer in layers]
    result: list[tuple[int, list[Layer]]] = []
    start = 0
    while start < len(layers):
        length, times = _best_block(codes, start)
        block = list(layers[start : start + length])
        if times == 1 and result and result[-1][0] == 1:
            result[-1][1].extend(block)
        else:
            result.append((times, block))
        start += length * times
    return tuple(LayerRun(count=times, layers=tuple(block)) for times, block in result)


# A longer block than this is written out: nobody reads it as a pattern.
_LONGEST_BLOCK = 32


def _best_block(codes: Sequence[int], start: int) -> tuple[int, int]:
    """Return the length of the block at `start` that covers most layers, and how often it comes."""
    best = (1, 1)
    for length in range(1, min(_LONGEST_BLOCK, len(codes) - start) + 1):
        block, times = codes[start : start + length], 1
        while codes[start + times * length : start + (times + 1) * length] == block:
            times += 1
        if times > 1 and length * times > best[0] * best[1]:
            best = (length, times)
    return best
