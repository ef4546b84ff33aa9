"""What an explicit plan delivers, added up GPU by GPU; the interface of the cost models' walks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopar.costs.operations import parts
from autopar.errors import SpecError
from autopar.problem import Metrics, Plan
from autopar.specs import Declared, Scenario, Workload
from autopar.verifier.analytic import analytic_loads
from autopar.verifier.layout import NONE, Layout, stage_degrees
from autopar.verifier.loads import Loads
from autopar.verifier.work import prompts_of_batch, tokens_gained

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The metrics of a plan and where they come from."""

    metrics: Metrics
    loads: Loads
    memory_bytes: FloatArray  # shape (GPUs of the cluster,), all stated parts


def measure(scenario: Scenario, plan: Plan, layout: Layout) -> Measured | None:
    """Return the recomputed metrics, or None where the plan is too broken to have any.

    Raises SpecError if the cost model is unknown to verify or the scenario lacks what it needs.
    """
    if scenario.cost_model not in ("declared", "analytic"):
        raise SpecError(
            f"cost_model: verify cannot recompute {scenario.cost_model!r}; "
            "expected declared or analytic"
        )
    if scenario.workload.phase == "disaggregated":
        raise SpecError("workload.phase: verify cannot recompute 'disaggregated' yet")
    if not _is_measurable(scenario, plan, layout):
        return None
    if scenario.cost_model == "declared":
        loads = _declared_loads(scenario, plan, layout)
    else:
        loads = analytic_loads(scenario, plan, layout)
    stated = (loads.weights_bytes, loads.kv_cache_bytes, loads.activation_bytes)
    memory = sum((part for part in stated if part is not None), np.zeros(scenario.cluster.num_gpus))
    if loads.reserved_bytes is not None:
        memory = memory + loads.reserved_bytes
    return Measured(_metrics(scenario, plan, layout, loads, memory), loads, memory)


def _is_measurable(scenario: Scenario, plan: Plan, layout: Layout) -> bool:
    """Whether every place, layer and shard exists, so that it can be added up at all."""
    llm, num_gpus = scenario.llm, scenario.cluster.num_gpus
    limits = (llm.num_layers, llm.num_experts, len(plan.gpus), 2**62, num_gpus)
    in_range = bool((plan.placement >= 0).all() and (plan.placement < np.array(limits)).all())
    return (
        in_range
        and layout.stage_gpus.size > 0
        and bool((layout.stage_gpus > 0).all())
        and bool((layout.stage_gpus[layout.followers] == layout.stage_gpus[0]).all())
        and bool((layout.gpu < num_gpus).all())
        and plan.pp == len(plan.stages)
        and plan.replicas == len(plan.gpus)
        and all(stage.layers for stage in plan.stages)
        and all(layer < llm.num_layers for stage in plan.stages for layer in stage.layers)
        and bool((layout.layer_stage[plan.placement[:, 0]] != NONE).all())
        and (min(plan.batch, plan.chunks) > 0 or not scenario.workload.is_open)
    )


def _metrics(
    scenario: Scenario, plan: Plan, layout: Layout, loads: Loads, memory: FloatArray
) -> Metrics:
    workload = scenario.workload
    used = len(layout.used_gpus)
    fullest = int(np.argmax(memory))
    # A request passes every stage of the slowest replica once.
    ttft_us = None if workload.phase == "decode" else float(loads.passing_us.sum(axis=1).max())
    turn_us = plan.pp * float(loads.tick_us.max())
    tpot_us = None if workload.is_prefill else turn_us / tokens_gained(workload)
    return Metrics(
        tokens_per_s=loads.tokens_per_s,
        tokens_per_s_per_gpu=loads.tokens_per_s / used,
        ttft_us=ttft_us,
        tpot_us=tpot_us,
        concurrency=_in_flight(workload, plan, loads.tokens_per_s, ttft_us, tpot_us),
        batch_per_gpu=_batch(workload, plan) / used,
        stage_boundaries=plan.pp - 1,
        peak_memory_bytes=float(memory[fullest]),
        weights_bytes=float(loads.weights_bytes[fullest]),
        kv_cache_bytes=_at(loads.kv_cache_bytes, fullest),
        activation_bytes=_at(loads.activation_bytes, fullest),
        reserved_bytes=loads.reserved_bytes,
    )


def _in_flight(
    workload: Workload,
    plan: Plan,
    tokens_per_s: float,
    ttft_us: float | None,
    tpot_us: float | None,
) -> int:
    """Requests in flight over all replicas.

    In `serving` these are the rate of requests times the time that one spends (Little's law).
    """
    if workload.phase == "serving":
        assert ttft_us is not None  # serving has prompts
        assert tpot_us is not None  # and output
        output = workload.output_tokens or 1
        stay_us = ttft_us + (output - 1) * tpot_us
        # The first token comes with the prompt; steps make the others.
        return round(tokens_per_s / max(output - 1, 1) * stay_us * 1e-6)
    if workload.is_open:
        return _batch(workload, plan)
    if workload.is_prefill:
        return prompts_of_batch(workload) * plan.pp * plan.replicas
    return (workload.batch_sequences or 0) * plan.replicas


def _batch(workload: Workload, plan: Plan) -> int:
    """What all replicas work on: tokens of given batches; sequences of every group and micro-batch.

    A stage has one micro-batch at a time, so that there are as many of these as stages.
    """
    if not workload.is_open:
        return workload.tokens_per_step * plan.replicas
    return plan.batch * sum(stage.attn_dp for stage in plan.stages) * plan.replicas


def _at(values: FloatArray | None, gpu: int) -> float | None:
    return None if values is None else float(values[gpu])


def _declared_loads(scenario: Scenario, plan: Plan, layout: Layout) -> Loads:
    declared = scenario.declared
    if declared is None:
        raise SpecError("cost_model 'declared' needs the section 'declared'")
    num_layers = np.array([len(stage.layers) for stage in plan.stages], dtype=np.float64)
    time_us = np.broadcast_to(
        num_layers * declared.layer_time_us, (len(plan.gpus), len(plan.stages))
    )
    rate_per_gpu = parts.declared_tokens_per_s_per_gpu(
        scenario.cluster.gpu.peak_flops_per_s,
        declared.compute_efficiency,
        declared.utilisation,
        declared.flops_per_token,
    )
    return Loads(
        tick_us=time_us,
        passing_us=time_us,
        tokens_per_s=rate_per_gpu * len(layout.used_gpus),
        weights_bytes=_declared_weights(scenario, plan, layout),
        kv_cache_bytes=_everywhere(declared.kv_cache_bytes_per_gpu, scenario, layout),
        activation_bytes=_everywhere(declared.activation_bytes_per_gpu, scenario, layout),
        reserved_bytes=declared.reserved_bytes_per_gpu,
    )


def missing_memory_parts(declared: Declared) -> tuple[str, ...]:
    """Return the parts of a GPU's memory that a document does not state."""
    stated = {
        "kv cache": declared.kv_cache_bytes_per_gpu,
        "activations": declared.activation_bytes_per_gpu,
        "runtime reserve": declared.reserved_bytes_per_gpu,
    }
    return tuple(name for name, value in stated.items() if value is None)


def _declared_weights(scenario: Scenario, plan: Plan, layout: Layout) -> FloatArray:
    """Bytes of weights on every GPU of the cluster: its expert shards, and its share of layers.

    A layer has its share of the parameters: its experts do, where it has any, else all GPUs of tp.
    """
    llm, weights = scenario.llm, np.zeros(scenario.cluster.num_gpus)
    layer_bytes = llm.weight_bytes / llm.num_layers
    has_experts = np.zeros(llm.num_layers, dtype=np.bool_)
    has_experts[list(llm.expert_layers)] = True
    rows = plan.placement[has_experts[plan.placement[:, 0]]]
    etp = stage_degrees(plan, "etp")[layout.layer_stage[rows[:, 0]]]
    share = parts.shard_bytes(layer_bytes / max(llm.num_experts, 1), etp)
    np.add.at(weights, rows[:, 4], share)
    first, of_first = np.zeros_like(weights), rows[:, 2] == 0
    np.add.at(first, rows[of_first, 4], share[of_first])
    for position, stage in enumerate(plan.stages):
        whole = sum(not has_experts[layer] for layer in stage.layers)
        if whole:
            places = layout.gpu[layout.stage == position]
            np.add.at(weights, places, whole * parts.shard_bytes(layer_bytes, stage.tp))
        if len(layout.followers):
            _, source, target = layout.followed(position)
            np.add.at(weights, target, np.broadcast_to(first[source], target.shape))
    return weights


def _everywhere(value: float | None, scenario: Scenario, layout: Layout) -> FloatArray | None:
    """Return a stated size on every GPU in use, 0 on idle ones."""
    if value is None:
        return None
    sizes = np.zeros(scenario.cluster.num_gpus)
    sizes[layout.gpu] = value
    return sizes
