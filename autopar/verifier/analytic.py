"""The analytic cost model, walked GPU by GPU (docs/model.md, "Analytic").

Work is dealt out as an engine would: sequences over attention groups, experts where the placement
says they are. A stage waits for its busiest GPU in every step, so its time is a maximum over what
was dealt, and its memory is known for every GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopar.costs.operations import collectives, kernels, parts
from autopar.errors import SpecError
from autopar.problem import Plan, Stage
from autopar.specs import Architecture, Cluster, Scenario
from autopar.verifier.layout import IntArray, Layout, distinct
from autopar.verifier.loads import Loads

FloatArray = NDArray[np.float64]

_US_PER_S = 1e6


@dataclass(frozen=True, slots=True)
class _Question:
    """What the walk needs of the scenario, checked."""

    scenario: Scenario
    architecture: Architecture
    device: kernels.Device
    experts_per_token: int
    is_prefill: bool
    batch: int  # tokens of one step of one replica
    sequence: int  # tokens of one prompt of the batch, or of the context of a running sequence

    @property
    def cluster(self) -> Cluster:
        """The cluster."""
        return self.scenario.cluster

    @property
    def width(self) -> float:
        """Bytes of one parameter."""
        return self.scenario.llm.bytes_per_parameter


@dataclass(frozen=True, slots=True, eq=False)
class _Deal:
    """What the attention groups of one stage get; arrays of shape (groups,)."""

    step_tokens: int  # that the stage works on at once
    sequences: IntArray
    tokens: IntArray  # of the group
    rank_tokens: IntArray  # of each of its context-parallel ranks
    context: int  # decode: keys of one sequence on one rank
    resident: IntArray  # tokens whose keys and values a rank keeps, per layer
    heads: int
    kv_heads: int
    vocab: int


def analytic_loads(scenario: Scenario, plan: Plan, layout: Layout) -> Loads:
    """Return times and bytes of a plan under the analytic cost model.

    Raises SpecError if the scenario lacks the architecture, the experts per token, the memory
    bandwidth or the links.
    """
    ask = _question(scenario)
    deals = [_deal(ask, plan, stage) for stage in plan.stages]
    held = _experts_held(plan, layout)
    time_us = _stage_times(ask, plan, deals, held)
    weights, kv_cache, activations = _memory(ask, plan, layout, deals, held)
    slowest_us = time_us.max(axis=1)
    step_us = slowest_us if ask.is_prefill else plan.pp * slowest_us
    return Loads(
        stage_time_us=time_us,
        tokens_per_s=float((ask.batch / step_us * _US_PER_S).sum()),
        weights_bytes=weights,
        kv_cache_bytes=kv_cache,
        activation_bytes=activations,
        reserved_bytes=parts.RUNTIME_RESERVE_BYTES,
        notes=tuple(_link_notes(scenario, plan)),
    )


def _question(scenario: Scenario) -> _Question:
    llm, work = scenario.llm, scenario.workload
    if llm.architecture is None or (llm.is_moe and llm.experts_per_token is None):
        lacking = "architecture" if llm.architecture is None else "experts_per_token"
        raise SpecError(
            f"llm.{lacking}: missing for model {llm.name!r}; cost_model 'analytic' needs it"
        )
    is_prefill = work.phase == "prefill"
    batch = work.tokens_per_step
    return _Question(
        scenario=scenario,
        architecture=llm.architecture,
        device=kernels.Device.of(scenario.cluster.gpu),
        experts_per_token=llm.experts_per_token or 0,
        is_prefill=is_prefill,
        batch=batch,
        sequence=min(work.sequence_tokens, batch) if is_prefill else work.sequence_tokens,
    )


def _deal(ask: _Question, plan: Plan, stage: Stage) -> _Deal:
    """Deal one batch over the attention groups of a stage, one sequence after another."""
    arch, groups = ask.architecture, stage.attn_dp
    if ask.is_prefill:  # a prompt stays whole; a batch keeps its keys until the last stage is done
        step = ask.batch
        sequences = _dealt(_up(ask.batch, ask.sequence), groups)
        tokens = np.minimum(sequences * ask.sequence, step)
        context = 0
        resident = plan.pp * _up_all(tokens, stage.cp)
    else:  # running sequences take turns in pp micro-batches, and all of them keep their keys
        step = _up(ask.batch, plan.pp)
        sequences = tokens = _dealt(step, groups)
        context = _up(ask.sequence, stage.cp)
        resident = _dealt(ask.batch, groups) * context
    return _Deal(
        step_tokens=step,
        sequences=sequences,
        tokens=tokens,
        rank_tokens=_up_all(tokens, stage.cp),
        context=context,
        resident=resident,
        heads=_up(arch.num_attention_heads, stage.tp),
        kv_heads=_up(arch.num_key_value_heads, stage.tp),
        vocab=_up(arch.vocab_size, stage.tp),
    )


def _experts_held(plan: Plan, layout: Layout) -> IntArray:
    """Count the experts of each layer on each GPU; shape (GPUs that hold any, 4).

    Columns: replica, stage, GPU, experts; one row per (replica, layer, GPU).
    """
    layer, expert, copy, _, gpu = plan.placement.T
    if not len(layer):
        return np.zeros((0, 4), dtype=np.int64)
    shards, _ = distinct(copy, layer, gpu, expert)
    (copy, layer, gpu), counts = distinct(*shards[:3])
    return np.stack([copy, layout.layer_stage[layer], gpu, counts], axis=1)


def _stage_times(ask: _Question, plan: Plan, deals: list[_Deal], held: IntArray) -> FloatArray:
    """Time of every stage of every replica, shape (replicas, stages), us."""
    copies = len(plan.gpus)
    fullest = np.zeros((copies, len(plan.stages)), dtype=np.int64)
    np.maximum.at(fullest, (held[:, 0], held[:, 1]), held[:, 3])
    times = np.zeros((copies, len(plan.stages)))
    for index, (stage, deal) in enumerate(zip(plan.stages, deals, strict=True)):
        attention_us = _attention_us(ask, stage, deal)
        if ask.scenario.llm.is_moe:
            layer_us = attention_us + _moe_us(ask, stage, deal, fullest[:, index])
        else:
            layer_us = np.broadcast_to(attention_us + _dense_us(ask, stage, deal), (copies,))
        holds_last = ask.scenario.llm.num_layers - 1 in stage.layers
        end_us = _head_us(ask, stage, deal) if holds_last else _hop_us(ask, stage, deal)
        times[:, index] = len(stage.layers) * layer_us + end_us
    return times


def _attention_us(ask: _Question, stage: Stage, deal: _Deal) -> float:
    """Time of one layer's attention on the slowest group."""
    arch, hidden = ask.architecture, ask.architecture.hidden_size
    rows, tokens = deal.rank_tokens, deal.tokens
    columns = (deal.heads + 2 * deal.kv_heads) * arch.head_dim
    link = collectives.link_of(ask.cluster, stage.tp * stage.cp)
    if ask.is_prefill:
        queries, context, keys = rows, kernels.causal_context(ask.sequence), tokens
        cached = 2.0 * tokens * deal.kv_heads * arch.head_dim
        exchange_us = collectives.all_gather_us(
            cached * ask.scenario.llm.kv_bytes_per_element, stage.cp, link
        )
    else:
        queries, context, keys = tokens, np.asarray(deal.context, np.float64), tokens * deal.context
        partial = parts.activation_bytes(tokens, deal.heads * arch.head_dim)
        exchange_us = collectives.all_reduce_us(partial, stage.cp, link)
    scores_us = kernels.attention_us(
        queries,
        context,
        keys,
        heads=deal.heads,
        kv_heads=deal.kv_heads,
        head_dim=arch.head_dim,
        kv_bytes_per_element=ask.scenario.llm.kv_bytes_per_element,
        device=ask.device,
    )
    total = (
        _gemm_us(ask, rows, hidden, columns)
        + scores_us
        + exchange_us
        + _gemm_us(ask, rows, deal.heads * arch.head_dim, hidden)
        + _tensor_sum_us(ask, stage, rows)
    )
    return float(np.max(total))


def _dense_us(ask: _Question, stage: Stage, deal: _Deal) -> float:
    size = _up(ask.architecture.ffn_hidden_size, stage.tp)
    return float(np.max(_ffn_us(ask, stage, deal.rank_tokens, size)))


def _moe_us(ask: _Question, stage: Stage, deal: _Deal, fullest: IntArray) -> FloatArray:
    """Time of one layer's router, exchange and experts, shape (replicas,).

    fullest: experts of one layer on the GPU that holds most of them, shape (replicas,).
    """
    arch, llm = ask.architecture, ask.scenario.llm
    share = deal.step_tokens * fullest / llm.num_experts
    copies = min(ask.experts_per_token, stage.ep)
    arriving = np.minimum(share * copies, deal.step_tokens)
    experts_us = kernels.experts_us(
        share * ask.experts_per_token,
        fullest,
        hidden_size=arch.hidden_size,
        ffn_size=_up(arch.ffn_hidden_size, stage.etp),
        bytes_per_parameter=ask.width,
        device=ask.device,
    )
    local = _gemm_us(ask, deal.rank_tokens, arch.hidden_size, llm.num_experts)
    if arch.num_shared_experts:
        size = _up(arch.num_shared_experts * arch.ffn_hidden_size, stage.tp)
        local = local + _ffn_us(ask, stage, deal.rank_tokens, size)
    return float(np.max(local)) + experts_us + _exchange_us(ask, stage, deal, arriving, copies)


def _exchange_us(
    ask: _Question, stage: Stage, deal: _Deal, arriving: FloatArray, copies: int
) -> FloatArray:
    """Dispatch to the experts and the way back, shape (replicas,).

    arriving: tokens that reach the busiest expert GPU. Without a second attention group or context
    rank every GPU has every token, and one sum over the stage is all.
    """
    hidden = ask.architecture.hidden_size
    places, num_gpus = stage.attn_dp * stage.cp, stage.num_gpus
    stage_link = collectives.link_of(ask.cluster, num_gpus)
    if places == 1:
        whole = parts.activation_bytes(deal.step_tokens, hidden)
        return np.broadcast_to(
            collectives.all_reduce_us(whole, num_gpus, stage_link), arriving.shape
        )
    leaving = float(deal.rank_tokens.max()) * copies
    there = np.maximum(leaving * stage.etp / stage.tp, arriving)
    back = np.maximum(leaving, arriving * stage.tp / stage.etp)
    shard_link = collectives.link_of(ask.cluster, stage.etp)
    return (
        collectives.all_to_all_us(parts.activation_bytes(there, hidden), places, stage_link)
        + collectives.all_reduce_us(parts.activation_bytes(arriving, hidden), stage.etp, shard_link)
        + collectives.all_to_all_us(parts.activation_bytes(back, hidden), places, stage_link)
    )


def _head_us(ask: _Question, stage: Stage, deal: _Deal) -> float:
    arch = ask.architecture
    rows = deal.sequences if ask.is_prefill else deal.rank_tokens
    gather_us = collectives.all_gather_us(
        parts.activation_bytes(rows, arch.vocab_size),
        stage.tp,
        collectives.link_of(ask.cluster, stage.tp),
    )
    return float(np.max(_gemm_us(ask, rows, arch.hidden_size, deal.vocab) + gather_us))


def _hop_us(ask: _Question, stage: Stage, deal: _Deal) -> float:
    size = parts.activation_bytes(deal.rank_tokens, ask.architecture.hidden_size)
    link = collectives.link_of(ask.cluster, 2 * stage.num_gpus)
    return float(np.max(collectives.point_to_point_us(size, link)))


def _gemm_us(ask: _Question, rows: IntArray, inner: int, columns: int) -> FloatArray:
    return kernels.gemm_us(rows, inner, columns, ask.width, ask.device)


def _tensor_sum_us(ask: _Question, stage: Stage, rows: IntArray) -> FloatArray:
    size = parts.activation_bytes(rows, ask.architecture.hidden_size)
    return collectives.all_reduce_us(size, stage.tp, collectives.link_of(ask.cluster, stage.tp))


def _ffn_us(ask: _Question, stage: Stage, rows: IntArray, size: int) -> FloatArray:
    """Time of a feed-forward that tp cuts, with the sum over tp."""
    hidden = ask.architecture.hidden_size
    return kernels.ffn_us(rows, hidden, size, ask.width, ask.device) + _tensor_sum_us(
        ask, stage, rows
    )


def _memory(
    ask: _Question, plan: Plan, layout: Layout, deals: list[_Deal], held: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Bytes of weights, of keys and values, and of activations, on every GPU of the cluster."""
    arch, num_gpus = ask.architecture, ask.cluster.num_gpus
    weights, kv_cache, buffers = (np.zeros(num_gpus) for _ in range(3))
    most = np.zeros(num_gpus, dtype=np.int64)  # experts of one layer that a GPU works on at once
    np.maximum.at(most, held[:, 2], held[:, 3])
    sizes = np.array([_up(arch.ffn_hidden_size, stage.etp) for stage in plan.stages])
    shard_bytes = parts.expert_weight_bytes(arch.hidden_size, sizes[held[:, 1]], ask.width)
    np.add.at(weights, held[:, 2], held[:, 3] * shard_bytes)
    for index, (stage, deal) in enumerate(zip(plan.stages, deals, strict=True)):
        here = layout.stage == index
        gpu = layout.gpu[here]
        group = np.minimum(layout.rank[here] // (stage.tp * stage.cp), stage.attn_dp - 1)
        weights[gpu] += _stage_weights(ask, stage, deal)
        kv_cache[gpu] += len(stage.layers) * parts.kv_cache_bytes(
            deal.resident[group], deal.kv_heads, arch.head_dim,
            ask.scenario.llm.kv_bytes_per_element,
        )  # fmt: skip
        buffers[gpu] += _buffers(ask, stage, deal, group, most[gpu])
    return weights, kv_cache, buffers


def _stage_weights(ask: _Question, stage: Stage, deal: _Deal) -> float:
    """Bytes of weights that every GPU of a stage holds, its routed experts apart."""
    arch, llm, width = ask.architecture, ask.scenario.llm, ask.width
    hidden = arch.hidden_size
    dense = 0 if llm.is_moe else _up(arch.ffn_hidden_size, stage.tp)
    shared = _up(arch.num_shared_experts * arch.ffn_hidden_size, stage.tp)
    layer = (
        parts.attention_weight_bytes(hidden, deal.heads, deal.kv_heads, arch.head_dim, width)
        + 2 * parts.norm_weight_bytes(hidden, width)
        + parts.router_weight_bytes(hidden, llm.num_experts, width)
        + parts.ffn_weight_bytes(hidden, dense + shared, width)
    )
    embeds, ends = 0 in stage.layers, llm.num_layers - 1 in stage.layers
    tables = 1 if embeds and ends and arch.shares_embeddings else embeds + ends
    table = parts.embedding_weight_bytes(hidden, deal.vocab, width)
    norm = parts.norm_weight_bytes(hidden, width) if ends else 0.0
    return float(len(stage.layers) * layer + tables * table + norm)


def _buffers(
    ask: _Question, stage: Stage, deal: _Deal, group: IntArray, experts: IntArray
) -> FloatArray:
    """Bytes of the residual, its norm and the largest operation's own buffers, per GPU."""
    arch, llm = ask.architecture, ask.scenario.llm
    rows = deal.rank_tokens[group]
    dense = 0 if llm.is_moe else _up(arch.ffn_hidden_size, stage.tp)
    shared = _up(arch.num_shared_experts * arch.ffn_hidden_size, stage.tp)
    share = deal.step_tokens * experts / max(llm.num_experts, 1)
    arriving = np.minimum(share * min(ask.experts_per_token, stage.ep), deal.step_tokens)
    expert_size = _up(arch.ffn_hidden_size, stage.etp) if llm.is_moe else 0
    largest = [
        parts.activation_bytes(rows, (2 * deal.heads + 2 * deal.kv_heads) * arch.head_dim),
        parts.activation_bytes(rows, 3 * (dense + shared)),  # gate, up and their product
        parts.activation_bytes(arriving, 2 * arch.hidden_size)
        + parts.activation_bytes(share * ask.experts_per_token, 3 * expert_size),
    ]
    if llm.num_layers - 1 in stage.layers:
        logits = deal.sequences[group] if ask.is_prefill else rows
        largest.append(parts.activation_bytes(logits, deal.vocab))
    residual = parts.activation_bytes(rows, 2 * arch.hidden_size)
    return np.asarray(residual + np.maximum.reduce(largest), dtype=np.float64)


def _link_notes(scenario: Scenario, plan: Plan) -> Iterator[str]:
    """Yield groups that lie further apart than the link that the cost model charges them with.

    A collective is charged by the size of its group; where its GPUs really are is known here.
    """
    cluster = scenario.cluster
    for level, size in (("node", cluster.gpus_per_node), ("domain", cluster.domain_gpus)):
        torn = {"tp": 0, "etp": 0, "stage": 0}
        for stages in plan.gpus:
            for stage, ids in zip(plan.stages, stages, strict=True):
                for key, width in (("tp", stage.tp), ("etp", stage.etp), ("stage", len(ids))):
                    if width <= size:
                        homes = np.asarray(ids[: len(ids) // width * width]).reshape(-1, width)
                        homes = homes // size
                        torn[key] += int((homes.min(axis=1) < homes.max(axis=1)).sum())
        for key, count in torn.items():
            if count:
                what = "stages" if key == "stage" else f"{key} groups"
                yield (
                    f"{count:,} {what} would fit in one {level} of {size} GPUs but lie in more; "
                    f"the cost model charges them with the link of the {level}"
                )


def _dealt(count: int, places: int) -> IntArray:
    """Deal `count` things over `places` as evenly as can be, the first ones get the rest."""
    return count // places + (np.arange(places, dtype=np.int64) < count % places)


def _up(value: int, divisor: int) -> int:
    return -(-value // divisor)


def _up_all(values: IntArray, divisor: int) -> IntArray:
    return -(-values // divisor)
