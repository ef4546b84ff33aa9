"""Which operations that a plan uses nobody measured on its GPU: by kind, precision and cache.

What a GPU lacks is assumed (`autopar.costs.operations.device`): of the nearest precision that it
has, or of another GPU. Kernels of the family (`kernels.of`) are another GPU's, too. Copies,
messages and the fabric are measured on no GPU and are not told apart here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from autopar.costs.operations.device import Device
from autopar.problem import Stage
from autopar.specs import (
    LLM,
    DenseFeedForward,
    Engine,
    ExpertFeedForward,
    Gpu,
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
    Precision,
)
from autopar.specs.kernels import CachePrecision, Kernels

Phase = Literal["prefill", "decode", "serving", "disaggregated"]


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that is assumed: its kind of cost, and the same in words."""

    kind: str
    words: str


@dataclass(frozen=True, slots=True)
class Uses:
    """Which GPUs of a plan talk to each other: sums and gathers, and the exchange of experts."""

    sums: bool = True
    exchanges: bool = True

    @classmethod
    def of(cls, stages: Iterable[Stage], *, is_moe: bool) -> "Uses":
        """Return what the stages of a plan use."""
        own = list(stages)
        return cls(
            sums=any(stage.tp * stage.cp > 1 or (is_moe and stage.etp > 1) for stage in own),
            exchanges=is_moe and any(stage.cp * stage.attn_dp > 1 for stage in own),
        )


def assumed_operations(
    llm: LLM, gpu: Gpu, engine: Engine | None, phase: Phase, uses: Uses
) -> tuple[Operation, ...]:
    """Return the operations that are assumed, none where all were measured on this GPU."""
    whose = gpu.kernels
    if whose is None or whose.of is not None:
        kernels = Kernels()
    else:
        kernels = Device.of(gpu, engine=engine).kernels  # an engine has some of its own
    found = dict.fromkeys(
        (
            *_products(llm, kernels),
            *_attention(llm, kernels, phase),
            *_collectives(kernels, uses),
        )
    )
    return tuple(found)


def _products(llm: LLM, kernels: Kernels) -> Iterator[Operation]:
    architecture, stored = llm.architecture, llm.precisions
    if architecture is None:
        return
    dense: list[Precision] = []
    for kind in architecture.layer_kinds:
        if architecture.attention_of(kind) is not None:
            dense.append(stored.attention)
        part = architecture.feed_forward_of(kind)
        if isinstance(part, DenseFeedForward):
            dense.append(stored.feed_forward)
        elif isinstance(part, ExpertFeedForward):
            if part.shared_size:
                dense.append(stored.feed_forward)
            if _alike(stored.experts) not in kernels.experts:
                yield Operation("experts", f"products of experts in {stored.experts}")
    for precision in (*dense, stored.embeddings):
        if _alike(precision) not in kernels.gemm:
            yield Operation("gemm", f"products with weights in {precision}")


def _alike(precision: Precision) -> Precision:
    """Return whose kernels are as fast: those of fp16 are those of bf16."""
    return "bf16" if precision == "fp16" else precision


def _attention(llm: LLM, kernels: Kernels, phase: Phase) -> Iterator[Operation]:
    architecture = llm.architecture
    if architecture is None:
        return
    cache: CachePrecision = "bf16" if llm.precisions.kv_cache in ("bf16", "fp16", "fp32") else "fp8"
    for kind in architecture.layer_kinds:
        attention = architecture.attention_of(kind)
        if isinstance(attention, LinearAttention):
            if not kernels.linear_attention:
                yield Operation("attention", "linear attention")
            continue
        if not isinstance(attention, GroupedQueryAttention | LatentAttention):
            continue
        latent = isinstance(attention, LatentAttention)
        prefill = kernels.latent_prefill_attention if latent else kernels.prefill_attention
        decode = kernels.latent_decode_attention if latent else kernels.decode_attention
        name = "latent attention" if latent else "attention"
        if phase != "decode" and cache not in prefill:
            yield Operation("attention", f"{name} of prompts with a cache in {cache}")
        if phase != "prefill" and cache not in decode:
            yield Operation("attention", f"{name} of running sequences with a cache in {cache}")


def _collectives(kernels: Kernels, uses: Uses) -> Iterator[Operation]:
    fits = kernels.collectives
    if uses.sums and fits is None:
        yield Operation("all_reduce", "all-reduce")
        yield Operation("gather", "all-gather and reduce-scatter")
    if uses.exchanges and (fits is None or not fits.exchange):
        yield Operation("all_to_all", "all-to-all between expert ranks")
