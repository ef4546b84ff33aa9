"""Sizes of the model among Megatron's arguments, held against those of the plan's model.

Other engines take sizes from the checkpoint; here the command decides what is started. A size that
the command does not state is not looked at. What an argument means: Megatron-Core 0.19.2,
training/arguments.py and core/transformer/transformer_config.py.
"""

import ast
import re
from collections.abc import Sequence

from autopar.errors import SpecError, shorten
from autopar.ingest.plan.flags import Given, counted, unset_in
from autopar.specs import (
    LLM,
    Architecture,
    DenseFeedForward,
    ExpertFeedForward,
    GroupedQueryAttention,
    LatentAttention,
)
from autopar.specs.base import MAX_LAYERS

_VOCAB_UNIT = 128  # the default of --make-vocab-size-divisible-by
_LISTS = re.compile(r"[\[\]()0-9,+*]*")  # letters that Megatron takes in lists: no spaces
# Sizes that a checkpoint has the last word on, where it has them: those with force=True in
# load_args_from_checkpoint of training/checkpointing.py, Megatron-Core 0.19.2.
_FORCED = frozenset(
    {
        "--num-query-groups",
        "--num-experts",
        "--moe-ffn-hidden-size",
        "--moe-router-topk",
        "--moe-shared-expert-intermediate-size",
        "--moe-latent-size",
        "--mtp-num-layers",
    }
)  # and what _refuse_another_kind asks for last
_LONGEST = 4 * MAX_LAYERS  # letters of a --moe-layer-freq


def refuse_another_model(given: Given, llm: LLM) -> None:
    """Raise SpecError where sizes of the model that are stated are not those of the plan's model.

    Of a model whose layers differ in a size, that of any of them will do. What Megatron takes from
    a checkpoint whatever is stated is not looked at.
    """
    sizes: dict[str, Sequence[int]] = {
        "--num-layers": (llm.num_layers,),
        "--num-experts": (llm.num_experts,),
    }
    if llm.is_moe and llm.experts_per_token is not None:
        sizes["--moe-router-topk"] = (llm.experts_per_token,)
    if (architecture := llm.architecture) is not None:
        sizes |= {"--hidden-size": (architecture.hidden_size,)}
        sizes |= _attention(architecture) | _feed_forward(architecture, given)
        sizes |= _drafts(architecture, given) | _vocabulary(architecture, given)
    loaded = takes_checkpoint(given)
    for flag, known in sizes.items():
        if loaded and flag in _FORCED and any(known):
            continue  # what a model has not, its checkpoint does not set: None there
        stated = _stated(given, flag)
        if stated is not None and known and stated not in known:
            raise _another(f"{flag} {stated}", " or ".join(map(str, sorted(set(known)))), llm)
    if architecture is not None:
        _refuse_another_kind(given, llm, architecture)


def takes_checkpoint(given: Given) -> bool:
    """Whether Megatron takes sizes that the command does not state from a checkpoint.

    Source: Megatron-Core 0.19.2, parse_and_validate_args of training/arguments.py.
    """
    if not given.has("--use-checkpoint-args"):
        return False
    return bool(given.text("--load") or given.text("--pretrained-checkpoint"))


def _refuse_another_kind(given: Given, llm: LLM, architecture: Architecture) -> None:
    """Raise SpecError for switches and for layers with experts that the model has not."""
    flag = "--multi-latent-attention"
    is_latent = any(isinstance(a, LatentAttention) for a in architecture.attention.values())
    if given.has(flag) and not is_latent:
        raise _another(flag, "no latent attention", llm)
    if takes_checkpoint(given):
        return  # it sets the following, whatever is stated
    flag = "--untie-embeddings-and-output-weights"
    if given.has(flag) and architecture.shares_embeddings:
        raise _another(flag, "one matrix for both", llm)
    text = given.text("--moe-layer-freq")
    if text and llm.is_moe:
        holders = _layers_with_experts(text, llm.num_layers)
        if holders != llm.expert_layers:
            found = shorten(f"--moe-layer-freq {text}", 80)
            raise _another(
                f"{found}: experts in {len(holders)} layers, from {_first(holders)} on",
                f"them in {len(llm.expert_layers)}, from {_first(llm.expert_layers)} on",
                llm,
            )


def _another(stated: str, known: str, llm: LLM) -> SpecError:
    return SpecError(
        f"megatron: {stated}, but the model {llm.name!r} has {known}: the command starts another "
        "model"
    )


def _stated(given: Given, flag: str) -> int | None:
    """Return a size, which may be 0; None where the flag is absent.

    Raises SpecError if it is no whole number.
    """
    return 0 if given.text(flag) == "0" else given.optional(flag)


def _attention(architecture: Architecture) -> dict[str, Sequence[int]]:
    """Return sizes of attention; --kv-channels are of no account where it is latent."""
    kinds = [architecture.attention_of(layer) for layer in architecture.layer_kinds]
    grouped = [kind for kind in kinds if isinstance(kind, GroupedQueryAttention)]
    latent = [kind for kind in kinds if isinstance(kind, LatentAttention)]
    sizes: dict[str, Sequence[int]] = {
        "--num-attention-heads": [
            *(kind.num_heads for kind in grouped),
            *(kind.num_heads for kind in latent),
        ]
    }
    if not latent:
        sizes["--num-query-groups"] = [kind.num_kv_heads for kind in grouped]
        sizes["--kv-channels"] = [
            size for kind in grouped for size in (kind.head_dim, kind.value_dim)
        ]
    return sizes | {
        "--q-lora-rank": [kind.q_lora_rank or 0 for kind in latent],
        "--kv-lora-rank": [kind.kv_lora_rank for kind in latent],
        "--qk-head-dim": [kind.qk_nope_head_dim for kind in latent],
        "--qk-pos-emb-head-dim": [kind.qk_rope_head_dim for kind in latent],
        "--v-head-dim": [kind.v_head_dim for kind in latent],
        "--dsa-indexer-n-heads": [kind.index_heads for kind in latent],
        "--dsa-indexer-head-dim": [kind.index_head_dim for kind in latent],
        "--dsa-indexer-topk": [kind.index_tokens or 0 for kind in latent],
    }


def _feed_forward(architecture: Architecture, given: Given) -> dict[str, Sequence[int]]:
    """Return widths of feed-forwards and experts.

    Experts are as wide as --ffn-hidden-size where --moe-ffn-hidden-size is not stated; where it is,
    or a checkpoint has it, and no layer is dense, the former is of no account.
    """
    kinds = [architecture.feed_forward_of(layer) for layer in architecture.layer_kinds]
    dense = [kind.ffn_size for kind in kinds if isinstance(kind, DenseFeedForward)]
    experts = [kind for kind in kinds if isinstance(kind, ExpertFeedForward)]
    routed = [kind.expert_size for kind in experts]
    stated = "--moe-ffn-hidden-size" in given.values or takes_checkpoint(given)
    sizes: dict[str, Sequence[int]] = {
        "--moe-ffn-hidden-size": routed,
        "--moe-shared-expert-intermediate-size": [kind.shared_size for kind in experts],
        "--moe-latent-size": [kind.latent_size or 0 for kind in experts],
    }
    if dense or not stated:
        sizes["--ffn-hidden-size"] = dense or routed
    return sizes


def _drafts(architecture: Architecture, given: Given) -> dict[str, Sequence[int]]:
    """Return the layers that draft tokens; nothing where the model's spec has none.

    A config.json may be silent on them. With the switch one of them is used several times.
    """
    drafts = architecture.next_token_prediction
    if drafts is None or given.has("--mtp-use-repeated-layer"):
        return {}
    return {"--mtp-num-layers": (drafts.count,)}


def _vocabulary(architecture: Architecture, given: Given) -> dict[str, Sequence[int]]:
    """Return the size of the vocabulary, which may be stated before it is rounded up.

    Source: Megatron-Core 0.19.2, vocab_size_with_padding: to a multiple of the argument times tp.
    """
    unit = given.number("--make-vocab-size-divisible-by", _VOCAB_UNIT)
    unit *= given.number("--tensor-model-parallel-size")
    size = architecture.vocab_size
    stated = _stated(given, "--vocab-size")
    is_rounded = stated is not None and -(-stated // unit) * unit == size
    return {"--vocab-size": (size, stated) if stated is not None and is_rounded else (size,)}


def _layers_with_experts(text: str, num_layers: int) -> tuple[int, ...]:
    """Return the layers that a --moe-layer-freq gives experts: every nth, or those with a 1.

    Raises SpecError for a text that is neither, and for another number of layers.
    """
    if unset_in(text) or text.isdecimal():
        every = counted("megatron: --moe-layer-freq", text)
        return tuple(range(0, num_layers, every))
    is_plain = len(text) < _LONGEST and _LISTS.fullmatch(text) is not None
    try:
        marks = _evaluated(ast.parse(text, mode="eval").body) if is_plain else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        marks = None
    if not isinstance(marks, list) or len(marks) != num_layers or not {*marks} <= {0, 1}:
        raise SpecError(
            f"megatron: --moe-layer-freq {shorten(text)}: expected a number, or {num_layers} of 0 "
            "and 1 as in [0]*3+[1]*58, without spaces"
        )
    return tuple(layer for layer, mark in enumerate(marks) if mark)


def _evaluated(node: ast.expr) -> int | list[int]:
    """Return what Python makes of numbers, lists of them, and their sums and products.

    Raises ValueError for anything else, and for lists longer than a model has layers. Source:
    Megatron-Core 0.19.2, _eval_pattern of training/arguments.py, evaluates the text as Python.
    """
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.List(elts=elements):
            values = [_evaluated(element) for element in elements]
            numbers = [value for value in values if isinstance(value, int)]
            if len(numbers) == len(values):
                return numbers
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _sum(_evaluated(left), _evaluated(right))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _product(_evaluated(left), _evaluated(right))
    raise ValueError("no list of layers")


def _sum(left: int | list[int], right: int | list[int]) -> int | list[int]:
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    if isinstance(left, list) and isinstance(right, list) and len(left + right) <= MAX_LAYERS:
        return left + right
    raise ValueError("no sum of layers")


def _product(left: int | list[int], right: int | list[int]) -> int | list[int]:
    """Return a product; a list may stand on either side of a number, as in Python."""
    if isinstance(left, int) and isinstance(right, int):
        return left * right
    if isinstance(left, list) and isinstance(right, int):
        return _repeated(left, right)
    if isinstance(left, int) and isinstance(right, list):
        return _repeated(right, left)
    raise ValueError("no multiple of layers")


def _repeated(marks: list[int], times: int) -> list[int]:
    if times * len(marks) > MAX_LAYERS:
        raise ValueError("more layers than a model has")
    return marks * min(times, MAX_LAYERS)  # of an empty list any number


def _first(layers: tuple[int, ...]) -> str:
    return str(layers[0]) if layers else "none"
