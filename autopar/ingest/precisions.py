"""How the parts of a checkpoint are stored: a precision for each, and bytes per parameter."""

from collections import Counter
from collections.abc import Iterator, Mapping

from autopar.documents import found
from autopar.ingest.aliases import DTYPE
from autopar.ingest.family import Blueprint, Modules
from autopar.ingest.fields import Fields, Names
from autopar.ingest.quantization import Stored, read_quantization
from autopar.specs import (
    Architecture,
    DenseFeedForward,
    ExpertFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
    Precisions,
)
from autopar.specs.architecture import Attention, Precision
from autopar.specs.counting import (
    attention_parameters,
    expert_parameters,
    feed_forward_parameters,
    parameters,
)

_DTYPES: Mapping[str, Precision] = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

# Bytes of one parameter with its scales; a test holds them against those of the cost model.
_BYTES: Mapping[Precision, float] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0 + 4.0 / 128**2,  # an fp32 scale per 128 x 128 (arXiv:2412.19437, sec. 3.3.2)
    "int8": 1.0,
    "int4": 0.5 + 2.5 / 128,  # 16-bit scale, 4-bit zero per group of 128 (arXiv:2306.00978)
    "mxfp4": 0.5 + 1.0 / 32,  # an 8-bit scale per 32 (OCP Microscaling Formats v1.0, sec. 5)
    "nvfp4": 0.5 + 1.0 / 16,  # an fp8 scale per 16 (arXiv:2509.25149, sec. 2)
}
_PARTS = ("attention", "feed_forward", "experts")


def precisions_of(
    blueprint: Blueprint, base: Precision, quantization: Fields | None
) -> tuple[Precisions, str]:
    """Return how the parts are stored, and a remark on those stored in more than one way.

    base: of what is not quantised. A part that mixes formats is given the one that holds most of
    its parameters. Raises SpecError for a method of quantisation that is not known.
    """
    if quantization is None:
        return Precisions(attention=base, feed_forward=base, experts=base, embeddings=base), ""
    stored = read_quantization(quantization)
    tally = _tally(blueprint, stored, base)
    chosen: dict[str, Precision] = {part: _most(tally[part], base) for part in _PARTS}
    remarks = [
        f" Stored in more than one way, mostly {chosen[part]}: {part.replace('_', '-')}."
        for part in _PARTS
        if len(tally[part]) > 1
    ]
    return Precisions(**chosen, embeddings=base, kv_cache=stored.kv_cache), "".join(remarks)


def bytes_per_parameter(architecture: Architecture, precisions: Precisions) -> float:
    """Return the bytes of an average parameter, scales included, to six digits."""
    count: Counter[str] = Counter()
    for layer in architecture.layer_sequence:
        attention = architecture.attention_of(layer)
        if attention is not None:
            matrices = attention_parameters(architecture.hidden_size, attention)
            count["attention"] += matrices - attention.other_parameters
        feed_forward = architecture.feed_forward_of(layer)
        if feed_forward is not None:
            count.update(_feed_forward_parts(architecture.hidden_size, feed_forward))
    total = parameters(architecture)
    rest = total - sum(count.values())
    width = {part: _BYTES[getattr(precisions, part)] for part in (*_PARTS, "embeddings")}
    size = sum(number * width[part] for part, number in count.items()) + rest * width["embeddings"]
    return float(f"{size / total:.6g}")


def data_type(outer: Fields, fields: Fields) -> Precision | None:
    """Return how weights are stored that are not quantised, None where nothing, or auto, is said.

    outer: of the whole model, fields: of its text part. Raises SpecError for an unknown type.
    """
    names = (part.text(*DTYPE) for part in (fields, outer))
    name = next((name for name in names if name and name != "auto"), None)
    if name is None:
        return None
    word = name.removeprefix("torch.")
    if word not in _DTYPES:
        message = f"found {found(name)}, expected one of {', '.join(_DTYPES)}"
        raise outer.error(outer.spelled(*DTYPE), message)
    return _DTYPES[word]


def _tally(blueprint: Blueprint, stored: Stored, base: Precision) -> dict[str, Counter[Precision]]:
    """Return for each part how many parameters are stored in which precision."""
    tally: dict[str, Counter[Precision]] = {part: Counter() for part in _PARTS}
    for index, part, sizes in _matrices(blueprint):
        for name, size in sizes.items():
            module = f"layers.{index}.{name}"
            precision = stored.precision(module, is_expert=part == "experts")
            tally[part][precision or base] += size
    return {part: +counter for part, counter in tally.items()}


def _matrices(blueprint: Blueprint) -> Iterator[tuple[int, str, Mapping[str, int]]]:
    """Yield layer, part, and sizes by name of each group of large matrices."""
    architecture = blueprint.architecture
    hidden = architecture.hidden_size
    for index, layer in enumerate(architecture.layer_sequence):
        attention = architecture.attention_of(layer)
        if attention is not None:
            names = blueprint.attention[str(layer.attention)].own
            yield index, "attention", matrix_shares(attention, hidden, names)
        feed_forward = architecture.feed_forward_of(layer)
        if feed_forward is not None:
            modules: Modules = blueprint.feed_forward[str(layer.feed_forward)]
            for part, count in _feed_forward_parts(hidden, feed_forward).items():
                if count:
                    names = modules.experts if part == "experts" else modules.own
                    yield index, part, dict.fromkeys(names, count)


def matrix_shares(attention: Attention, hidden: int, names: Names) -> dict[str, int]:
    """Return how large the matrices of an attention are, to scale, by their names' last steps."""
    match attention:
        case GroupedQueryAttention():
            keys, values = attention.head_dim, attention.v_head_dim or attention.head_dim
            gate = values if attention.gates_output else 0
            queries, result = attention.num_heads * (keys + gate), attention.num_heads * values
            cached = 0 if attention.keys_are_values else attention.num_kv_heads * values
            size = {"q": queries, "k": attention.num_kv_heads * keys, "v": cached, "o": result}
            size["qkv"] = size["q"] + size["k"] + size["v"]
        case LatentAttention():
            heads, latent, rank = attention.num_heads, attention.kv_lora_rank, attention.q_lora_rank
            queries = heads * (attention.qk_nope_head_dim + attention.qk_rope_head_dim)
            size = {
                "q": 0 if rank else hidden * queries,
                "q_a": hidden * (rank or 0),
                "q_b": (rank or 0) * queries,
                "kv_a": hidden * (latent + attention.qk_rope_head_dim),
                "kv_b": latent * heads * (attention.qk_nope_head_dim + attention.v_head_dim),
                "o": hidden * heads * attention.v_head_dim,
            }
        case LinearAttention():
            size = {"out": attention.output_rows, "o": attention.output_rows}
    inputs = attention.input_columns if isinstance(attention, LinearAttention) else 1
    steps = {name: name.rpartition(".")[2].partition("_proj")[0] for name in names}
    return {name: size.get(step, inputs) for name, step in steps.items()}


def _feed_forward_parts(
    hidden: int, feed_forward: DenseFeedForward | ExpertFeedForward
) -> dict[str, int]:
    """Return the parameters in large matrices: of routed experts, and of all else."""
    if isinstance(feed_forward, DenseFeedForward):
        matrices = feed_forward_parameters(hidden, feed_forward) - feed_forward.other_parameters
        return {"feed_forward": matrices, "experts": 0}
    shared = feed_forward.num_matrices * hidden * feed_forward.shared_size
    latent = 2 * hidden * (feed_forward.latent_size or 0)
    each = expert_parameters(hidden, feed_forward) - feed_forward.other_parameters_per_expert
    return {"feed_forward": shared + latent, "experts": feed_forward.num_experts * each}


def _most(tally: Counter[Precision], base: Precision) -> Precision:
    return max(tally, key=lambda precision: tally[precision]) if tally else base
