"""How much an engine has to hold at once under a plan: sequences, tokens of cache, bytes."""

import math
from dataclasses import dataclass

from autopar.costs.shape import whole_pages
from autopar.export.stage_room import StageRoom
from autopar.problem import Metrics, Plan
from autopar.specs import Workload
from autopar.verifier.work import work_of


@dataclass(frozen=True, slots=True)
class Capacity:
    """Limits of one attention group.

    sequences: in one step. resident_sequences: of all micro-batches. prompt_tokens: of prompts that
    a step takes; 0 where there are none. running: sequences in a step beside them. queries: tokens
    of a running sequence in a step, the last one and its drafts. kv_tokens: whose keys and values
    are kept, in whole pages: of the resident sequences and of the prompts that are in progress
    beside them (all kept_sequences), as the cost model counts memory. kv_bytes: of them on the GPU
    that keeps most; None where the cost model does not say. context_tokens: of the longest request;
    request_tokens: of what a server itself holds of it, which on a prefill server of a pair is the
    prompt and the first token. spare_bytes: what the plan leaves free of what it may take of a GPU.
    weights_bytes, activation_bytes, reserved_bytes: of the GPU that has most of each; 0 where the
    cost model does not say. stages: what each has for a cache; empty where that is not known.
    """

    sequences: int
    resident_sequences: int
    prompt_tokens: int
    running: int
    kv_tokens: int
    kv_bytes: int | None
    kept_sequences: int
    context_tokens: int
    request_tokens: int
    spare_bytes: float = 0.0
    weights_bytes: float = 0.0
    activation_bytes: float = 0.0
    reserved_bytes: float = 0.0
    queries: int = 1
    stages: tuple[StageRoom, ...] = ()


def capacity_of(
    plan: Plan,
    workload: Workload,
    asked: Workload,
    metrics: Metrics | None,
    most_bytes: float = 0.0,
) -> Capacity:
    """Return the limits of a plan.

    asked: the workload of the whole service, where it has roles. most_bytes: that a plan may take
    of each GPU.
    """
    groups = max(stage.attn_dp for stage in plan.stages)
    stated = None if metrics is None else metrics.kv_cache_bytes
    sequences, resident, prompts, kept, pages = (
        _open(plan, workload) if workload.is_open else _given(plan, workload, groups)
    )
    context = (
        (asked.input_tokens or 0) + (asked.output_tokens or 1)
        if asked.is_open
        else asked.sequence_tokens or 1
    )
    is_handed_over = asked.phase == "disaggregated" and workload.is_prefill
    return Capacity(
        sequences=sequences,
        resident_sequences=resident,
        prompt_tokens=prompts,
        running=sequences if workload.phase == "serving" else 0,
        kv_tokens=kept * pages,
        kv_bytes=None if not stated else round(stated),
        kept_sequences=kept,
        context_tokens=context,
        request_tokens=(asked.input_tokens or 0) + 1 if is_handed_over else context,
        spare_bytes=0.0 if metrics is None else max(0.0, most_bytes - _taken_bytes(metrics)),
        weights_bytes=0.0 if metrics is None else metrics.weights_bytes,
        activation_bytes=0.0 if metrics is None else metrics.activation_bytes or 0.0,
        reserved_bytes=0.0 if metrics is None else metrics.reserved_bytes or 0.0,
        queries=workload.queries_per_sequence,
    )


def _taken_bytes(metrics: Metrics) -> float:
    parts = (metrics.kv_cache_bytes, metrics.activation_bytes, metrics.reserved_bytes)
    return metrics.weights_bytes + sum(part or 0.0 for part in parts)


def prompt_budget(plan_chunks: int, workload: Workload) -> int:
    """Return the tokens of prompts that one step takes, of which a part of a prompt has no more."""
    length = workload.input_tokens or 1
    if plan_chunks <= workload.fewest_chunks:
        return workload.prefill_chunk_tokens
    return -(-length // plan_chunks)


def _open(plan: Plan, workload: Workload) -> tuple[int, int, int, int, int]:
    """Return sequences, resident ones, tokens of prompts, kept sequences and tokens of each."""
    length, output = workload.input_tokens or 1, workload.output_tokens or 0
    is_decode = workload.phase == "decode"
    budget = 0 if is_decode else prompt_budget(plan.chunks, workload)
    resident = plan.pp * plan.batch
    pages = whole_pages(length if workload.is_prefill else length + output)
    kept = max(int(work_of(workload, plan, s).kept_sequences.max()) for s in plan.stages)
    return plan.batch, resident, budget, kept, pages


def _given(plan: Plan, workload: Workload, groups: int) -> tuple[int, int, int, int, int]:
    """Return the same of a batch that the workload gives for each replica."""
    length = workload.sequence_tokens or 1
    if workload.is_prefill:
        batch = workload.tokens_per_step
        length = min(length, batch)
        prompts = math.ceil(math.ceil(batch / length) / groups)
        tokens = min(prompts * length, batch)
        resident = plan.pp * prompts
        return prompts, resident, tokens, resident, whole_pages(length)
    turn = -(-workload.tokens_per_step // plan.pp)
    resident = -(-workload.tokens_per_step // groups)
    return -(-turn // groups), resident, 0, resident, whole_pages(length)
