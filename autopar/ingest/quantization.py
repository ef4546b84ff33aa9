"""quantization_config -> which module of a checkpoint is stored how; unknown methods are refused.

A method says how it stores what it converts, and names the modules that it leaves alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autopar.documents import found
from autopar.ingest.fields import Fields
from autopar.ingest.modules import matcher
from autopar.specs.architecture import Precision

MAX_GROUPS = 8  # of formats; published models have up to three

# ModelOpt's names for whole formats (modelopt.torch.export, quant_algo in hf_quant_config.json).
_MODELOPT: dict[str, Precision] = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8_block",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_AWQ": "int4",
    "INT4_AWQ": "int4",
    "W8A8_SQ_PER_CHANNEL": "int8",
}
# What is missing for formats that are met and refused: a precision says how a number is stored, its
# scales included, and in which arithmetic it is used.
_FP4_WIDENED = (
    "weights of 4 bits that are widened to compute in 16; our nvfp4 computes in 4 bits, and no "
    "precision of ours is stored so and widened"
)
_OTHER_GROUPS = (
    "our int4 has a scale for every 128 weights; no precision of ours has one for another number, "
    "which makes other bytes"
)
_CACHES: dict[str, Precision] = {"FP8": "fp8", "NVFP4": "nvfp4", "INT8": "int8"}
_CACHE_ALGORITHM = "kv_cache_quant_algo"
_IGNORE = ("ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules")


@dataclass(frozen=True, slots=True)
class Stored:
    """How the modules of a checkpoint are stored.

    rules: pairs of a test on a module's name and the precision of what passes it, the first one
    counts; a module that passes none is not converted. only_experts: a method that converts nothing
    but routed experts.
    """

    ignored: Callable[[str], bool]
    rules: Sequence[tuple[Callable[[str], bool], Precision]]
    kv_cache: Precision = "bf16"
    only_experts: bool = False

    def precision(self, module: str, *, is_expert: bool) -> Precision | None:
        """Return how a module is stored, None where it is not converted."""
        if self.only_experts and not is_expert:
            return None
        if self.ignored(module):
            return None
        return next((precision for matches, precision in self.rules if matches(module)), None)


def read_quantization(fields: Fields) -> Stored:
    """Return how the modules are stored.

    fields: of `quantization_config`. Raises SpecError for a method that is not known.
    """
    inner = fields.section("quantization")  # hf_quant_config.json holds its fields there
    own = fields if inner is None else inner
    method = _method(fields, own)
    reader = _READERS.get(method)
    if reader is None:
        message = f"found {found(method)}, expected one of {', '.join(_READERS)}"
        raise fields.error("quant_method", message)
    return reader(own)


def _method(fields: Fields, own: Fields) -> str:
    method = fields.text("quant_method")
    producer = fields.section("producer")
    by_modelopt = producer is not None and producer.text("name") == "modelopt"
    if by_modelopt and own.has("quant_algo"):  # ModelOpt also writes its output as another's
        return "modelopt"
    if method is None:
        raise fields.error("quant_method", "found nothing, expected the name of a method")
    return method


def _fp8(fields: Fields) -> Stored:
    precision: Precision = "fp8"
    if fields.has("weight_block_size"):
        block = fields.items("weight_block_size")
        if block != [128, 128]:
            raise fields.error("weight_block_size", f"found {block!r:.60}, expected [128, 128]")
        precision = "fp8_block"
    return Stored(_ignored(fields), [(_anything, precision)])


def _mxfp4(fields: Fields) -> Stored:
    # transformers 5.23.0, integrations/mxfp4.py: replaces the experts of gpt-oss, nothing else
    return Stored(_ignored(fields), [(_anything, "mxfp4")], only_experts=True)


def _int4(fields: Fields) -> Stored:
    bits = fields.integer("bits", "w_bit")
    if bits != 4:
        raise fields.error(fields.spelled("bits", "w_bit"), f"found {bits}, expected 4")
    group = fields.integer("group_size", "q_group_size", low=-1)
    if group != 128:
        name = fields.spelled("group_size", "q_group_size")
        raise fields.error(name, f"found {group}, expected 128: {_OTHER_GROUPS}")
    if fields.value("dynamic"):
        message = "found settings of their own for some modules, expected none"
        raise fields.error("dynamic", message)
    return Stored(_ignored(fields), [(_anything, "int4")])


def _compressed_tensors(fields: Fields) -> Stored:
    rules, cache = _group_rules(fields), _kv_cache(fields)
    if not rules and not fields.has("kv_cache_scheme"):  # else only the cache is quantised
        message = "found no groups, and no kv_cache_scheme beside them; expected what is stored how"
        raise fields.error("config_groups", message)
    return Stored(_ignored(fields), rules, cache)


def _modelopt(fields: Fields) -> Stored:
    algorithm = fields.text("quant_algo")
    cache = _kv_cache(fields)
    if algorithm == "MIXED_PRECISION":
        return Stored(_ignored(fields), _layer_rules(fields), cache)
    if algorithm is None:
        rules = _group_rules(fields) if fields.has("config_groups") else []
        if not rules and not fields.has("kv_cache_scheme") and not fields.has(_CACHE_ALGORITHM):
            message = f"found nothing, and no {_CACHE_ALGORITHM}; expected what is stored how"
            raise fields.error("quant_algo", message)
        return Stored(_ignored(fields), rules, cache)  # without rules only the cache is quantised
    return Stored(_ignored(fields), [(_anything, _algorithm(fields, algorithm))], cache)


_READERS: dict[str, Callable[[Fields], Stored]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "mxfp4": _mxfp4,
    "awq": _int4,
    "gptq": _int4,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
}


def _algorithm(fields: Fields, algorithm: str) -> Precision:
    if algorithm == "W4A16_NVFP4":
        raise fields.error("quant_algo", f"found {found(algorithm)}: {_FP4_WIDENED}")
    if algorithm not in _MODELOPT:
        message = f"found {found(algorithm)}, expected one of {', '.join(_MODELOPT)}"
        raise fields.error("quant_algo", message)
    return _MODELOPT[algorithm]


def _layer_rules(fields: Fields) -> list[tuple[Callable[[str], bool], Precision]]:
    """Return the rules of `quantized_layers`: a mapping of module names to algorithms."""
    layers = fields.section("quantized_layers")
    if layers is None:
        raise fields.error("quantized_layers", "found nothing, expected a mapping of modules")
    names: dict[Precision, list[str]] = {}
    for module in layers.data:
        entry = layers.section(module)
        algorithm = None if entry is None else entry.text("quant_algo")
        if entry is None or algorithm is None:
            raise layers.error(module, "found no quant_algo, expected one")
        names.setdefault(_algorithm(entry, algorithm), []).append(module)
    return [(matcher(fields, "quantized_layers", n), precision) for precision, n in names.items()]


def _group_rules(fields: Fields) -> list[tuple[Callable[[str], bool], Precision]]:
    """Return the rules of `config_groups`: each a format of weights, and the modules it is for."""
    groups = fields.section("config_groups")
    if groups is None:
        raise fields.error("config_groups", "found nothing, expected a mapping of groups")
    if len(groups.data) > MAX_GROUPS:
        message = f"found {len(groups.data):,} groups, expected at most {MAX_GROUPS}"
        raise fields.error("config_groups", message)
    rules: list[tuple[Callable[[str], bool], Precision]] = []
    for name in groups.data:
        group = groups.section(name)
        weights = None if group is None else group.section("weights")
        if group is None or weights is None:
            raise groups.error(name, "found no weights, expected a mapping of fields")
        targets = group.items("targets") if group.has("targets") else ["Linear"]
        everything = "Linear" in targets
        matches = _anything if everything else matcher(group, "targets", targets)
        rules.append((matches, _group_precision(group, weights)))
    return rules


def _group_precision(group: Fields, weights: Fields) -> Precision:
    """Return how a group stores weights (compressed-tensors, QuantizationArgs)."""
    bits, kind = weights.integer("num_bits"), weights.text("type") or "int"
    strategy, size = weights.text("strategy"), weights.optional("group_size", low=-1)
    weights_only = not group.value("input_activations")
    if kind == "float" and bits == 8 and not weights_only:
        if strategy != "block":
            return "fp8"
        if weights.value("block_structure") in ([128, 128], "128x128"):
            return "fp8_block"
    if kind == "float" and bits == 4 and size == 16 and not weights_only:
        return "nvfp4"
    if kind == "float" and bits == 4 and size == 32:
        return "mxfp4"
    if kind == "int" and bits == 8 and not weights_only:
        return "int8"
    if kind == "int" and bits == 4 and size == 128 and weights_only:
        return "int4"
    used = "weights alone" if weights_only else "weights and activations"
    message = f"found {kind} of {bits} bits, groups of {size}, {found(strategy)}, for {used}"
    why = "no precision of ours is stored like this"
    if kind == "float" and bits == 4 and size == 16:
        why = _FP4_WIDENED
    elif kind == "int" and bits == 4 and weights_only:
        why = _OTHER_GROUPS
    raise weights.error("num_bits", f"{message}; {why}")


def _kv_cache(fields: Fields) -> Precision:
    """Return how keys and values are stored: bf16 where nothing is said."""
    for name in ("kv_cache_scheme", _CACHE_ALGORITHM):
        value = fields.value(name)
        if value is None:
            continue
        if isinstance(value, str) and value in _CACHES:
            return _CACHES[value]
        if isinstance(value, dict) and value.get("num_bits") == 8:
            if value.get("type") == "float":
                return "fp8"
            if value.get("type") == "int":
                return "int8"
        expected = f"one of {', '.join(_CACHES)}, or a mapping with 8 bits"
        raise fields.error(name, f"found {found(value)}, expected {expected}")
    return "bf16"


def _ignored(fields: Fields) -> Callable[[str], bool]:
    tests = [matcher(fields, name, fields.items(name)) for name in _IGNORE if fields.has(name)]
    return lambda module: any(matches(module) for matches in tests)


def _anything(_: str) -> bool:
    return True
