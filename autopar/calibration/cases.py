"""What is measured: kernels and collectives in the sizes that real models give them."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from autopar.costs.operations.precisions import ACTIVATION_BYTES

Operation = Literal[
    "gemm", "experts", "prefill_attention", "decode_attention", "elementwise", "collectives"
]

# The sizes that tell the cases of an operation apart, as the columns of `forms` are called.
SIZES: Mapping[str, tuple[str, ...]] = {
    "gemm": ("m", "k", "n"),
    "experts": ("num_tokens", "topk", "held", "hidden_size", "ffn"),
    "prefill_attention": ("batch", "length", "heads", "kv_heads", "head_dim"),
    "decode_attention": (
        *("batch_size", "context", "num_heads", "num_key_value_heads", "head_dim"),
    ),
    "elementwise": ("bytes",),
    "collectives": ("gpus", "bytes"),
}
# What a fit, or one of its parts, is called: a precision, a kernel that moves data, a collective.
NAMES: Mapping[str, tuple[str, ...]] = {
    "gemm": ("bf16", "fp8"),
    "experts": ("bf16",),
    "prefill_attention": ("bf16",),
    "decode_attention": ("bf16",),
    "elementwise": ("copy", "scale", "triad"),
    "collectives": ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"),
}
OPERATIONS = tuple(SIZES)
PRECISIONS = ("bf16", "fp8")
HEAD_DIMS = (64, 128, 192, 256)  # that the forms of attention tell apart
ARRAYS = {"copy": 2, "scale": 2, "triad": 3}  # that a kernel reads and writes

_WIDTH = {"bf16": 2, "fp8": 1}  # bytes
_SEED = 20  # of the order; any
# inner x columns of one tensor shard, multiples of 16 as FP8 kernels need: Llama 3.1 8B whole, 70B
# and 405B by 8, Qwen3-32B by 2, DeepSeek-V3 (models/llms)
_WEIGHTS = (
    *((4096, 6144), (4096, 4096), (4096, 28672), (14336, 4096)),
    *((8192, 1280), (1024, 8192), (8192, 7168), (3584, 8192), (16384, 13312)),
    *((5120, 25600), (7168, 2112), (7168, 4096), (2048, 7168)),
)
_ROWS = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
# held, topk, hidden_size, ffn: Mixtral 8x7B by 4, Qwen3-30B-A3B, gpt-oss-20b, DeepSeek-V2-Lite, and
# the experts of DeepSeek-V3 on one of 8 ranks
_EXPERTS = (
    *((8, 2, 4096, 3584), (128, 8, 2048, 768), (32, 4, 2880, 2880)),
    *((64, 6, 2048, 1408), (32, 8, 7168, 2048)),
)
_TOKENS = tuple(2**power for power in range(14))
# heads, kv_heads, head_dim: at most 16 queries per key, which other kernels serve
_HEADS = (
    *((32, 8, 128), (8, 1, 128), (64, 8, 128), (16, 2, 128)),
    *((32, 8, 64), (16, 4, 256)),
)
_PROMPTS = (  # batch, length
    *((1, 128), (1, 512), (1, 1024), (1, 2048), (1, 4096), (1, 8192), (1, 16384)),
    *((16, 256), (4, 512), (8, 1024), (4, 2048), (2, 4096)),
)
_BATCHES = (1, 4, 16, 64, 256)
_CONTEXTS = (512, 2048, 8192, 32768, 131072)
_MOST_CACHE_BYTES = 8 * 2**30  # beyond, time only grows with the bytes
_MOVED = tuple(2**power for power in range(20, 32))
_MESSAGES = tuple(2**power for power in range(12, 31))

COLLECTIVE_KINDS = NAMES["collectives"]


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel, or collective, of certain sizes; sizes: in the order of SIZES."""

    operation: str
    name: str
    sizes: tuple[int, ...]

    def __getitem__(self, name: str) -> int:
        return self.sizes[SIZES[self.operation].index(name)]

    @property
    def group(self) -> tuple[str, str]:
        """What is fitted, or left out, together."""
        return self.operation, self.name

    def mapping(self) -> dict[str, int]:
        """Return the sizes by name."""
        return dict(zip(SIZES[self.operation], self.sizes, strict=True))

    def text(self) -> str:
        """Return the case as a message names it."""
        return f"{self.operation} {self.name} " + " ".join(
            f"{name}={size}" for name, size in self.mapping().items()
        )


# Timed at the start, in the middle and at the end: its times tell whether the clocks moved.
REFERENCE = Case("gemm", "bf16", (6144, 4096, 4096))


def streamed_bytes(case: Case) -> int:
    """Return the bytes that come from memory in an engine, and so must not be in a cache here.

    Weights, and keys and values of running sequences; all of what a kernel that moves data moves.
    """
    if case.operation == "gemm":
        return case["k"] * case["n"] * _WIDTH[case.name]
    if case.operation == "experts":
        busy = min(case["held"], case["num_tokens"] * case["topk"])
        return busy * expert_bytes(case)
    if case.operation == "decode_attention":
        keys = case["batch_size"] * case["context"] * case["num_key_value_heads"]
        return keys * 2 * case["head_dim"] * _WIDTH[case.name]
    return case["bytes"] if case.operation == "elementwise" else 0


def expert_bytes(case: Case) -> int:
    """Return the weights of one expert with a gate."""
    return 3 * case["hidden_size"] * case["ffn"] * _WIDTH[case.name]


def held_bytes(case: Case) -> int:
    """Return the bytes of everything else: what the kernel before has just written, and results."""
    wide = int(ACTIVATION_BYTES)
    if case.operation == "gemm":
        return case["m"] * (case["k"] + case["n"]) * wide
    if case.operation == "experts":
        pairs = case["num_tokens"] * case["topk"]
        idle = case["held"] * expert_bytes(case) - streamed_bytes(case)
        return idle + pairs * (3 * case["hidden_size"] + 4 * case["ffn"]) * wide
    if case.operation == "prefill_attention":
        heads = 2 * case["heads"] + 2 * case["kv_heads"]
        return case["batch"] * case["length"] * heads * case["head_dim"] * wide
    if case.operation == "decode_attention":
        return 2 * case["batch_size"] * case["num_heads"] * case["head_dim"] * wide
    return 2 * case["bytes"] if case.operation == "collectives" else 0


def copies(case: Case, rotation_bytes: float) -> int:
    """Return over how many buffers a case goes round, so that a cache never holds the next one."""
    streamed = streamed_bytes(case)
    return max(1, min(512, math.ceil(rotation_bytes / streamed))) if streamed else 1


def case_bytes(case: Case, rotation_bytes: float) -> float:
    """Return the memory that a case needs."""
    rounds = 1 if case.operation == "experts" else copies(case, rotation_bytes)
    return held_bytes(case) + rounds * streamed_bytes(case)


def planned(
    operations: Sequence[str] = OPERATIONS,
    precisions: Sequence[str] = PRECISIONS,
    num_gpus: int = 1,
) -> list[Case]:
    """Return the cases to measure, in an order of which every beginning is a sample of the whole.

    Operations that know no precision are measured under any.
    """
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in _all(num_gpus):
        has_precision = case.name in PRECISIONS
        if case.operation in operations and (not has_precision or case.name in precisions):
            groups.setdefault(case.group, []).append(case)
    placed = []
    for rank, cases in enumerate(groups.values()):
        random.Random(_SEED + rank).shuffle(cases)  # noqa: S311  an order, no secret
        placed += [((i + 0.5) / len(cases), rank, case) for i, case in enumerate(cases)]
    return [case for _, _, case in sorted(placed, key=lambda place: place[:2])]


def group_sizes(num_gpus: int) -> list[int]:
    """Return the sizes of groups of GPUs to measure: powers of two, and all."""
    powers = [2**power for power in range(1, 11) if 2**power <= num_gpus]
    return sorted({*powers, *([num_gpus] if num_gpus > 1 else [])})


def _all(num_gpus: int) -> Iterator[Case]:
    for name, m, (k, n) in product(NAMES["gemm"], _ROWS, _WEIGHTS):
        yield Case("gemm", name, (m, k, n))
    for tokens, (held, topk, hidden, ffn) in product(_TOKENS, _EXPERTS):
        yield Case("experts", "bf16", (tokens, topk, held, hidden, ffn))
    for prompts, heads in product(_PROMPTS, _HEADS):
        yield Case("prefill_attention", "bf16", (*prompts, *heads))
    for batch, context, heads in product(_BATCHES, _CONTEXTS, _HEADS):
        case = Case("decode_attention", "bf16", (batch, context, *heads))
        if streamed_bytes(case) <= _MOST_CACHE_BYTES:
            yield case
    for name, size in product(NAMES["elementwise"], _MOVED):
        yield Case("elementwise", name, (size,))
    for kind, gpus, size in product(COLLECTIVE_KINDS, group_sizes(num_gpus), _MESSAGES):
        yield Case("collectives", kind, (gpus, size))
