"""What an explicit plan delivers, added up GPU by GPU; the interface of the cost models' walks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopar.costs.operations import parts
from autopar.errors import SpecError
from autopar.problem import Metrics, Plan
from autopar.specs import Declared, Scenario
from autopar.verifier.analytic import analytic_loads
from autopar.verifier.layout import NONE, Layout, stage_degrees
from autopar.verifier.loads import Loads

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
        and bool((layout.gpu < num_gpus).all())
        and plan.pp == len(plan.stages)
        and plan.replicas == len(plan.gpus)
        and all(stage.layers for stage in plan.stages)
        and all(layer < llm.num_layers for stage in plan.stages for layer in stage.layers)
        and bool((layout.layer_stage[plan.placement[:, 0]] != NONE).all())
    )


def _metrics(
    scenario: Scenario, plan: Plan, layout: Layout, loads: Loads, memory: FloatArray
) -> Metrics:
    workload = scenario.workload
    used = len(layout.used_gpus)
    fullest = int(np.argmax(memory))
    slowest_us = float(loads.stage_time_us.max())
    is_prefill = workload.phase == "prefill"
    # A batch of the slowest replica passes every stage once.
    ttft_us = float(loads.stage_time_us.sum(axis=1).max()) if is_prefill else None
    return Metrics(
        tokens_per_s=loads.tokens_per_s,
        tokens_per_s_per_gpu=loads.tokens_per_s / used,
        ttft_us=ttft_us,
        tpot_us=None if is_prefill else plan.pp * slowest_us,
        concurrency=plan.replicas * plan.pp,
        batch_per_gpu=workload.tokens_per_step * plan.replicas / used,
        stage_boundaries=plan.pp - 1,
        peak_memory_bytes=float(memory[fullest]),
        weights_bytes=float(loads.weights_bytes[fullest]),
        kv_cache_bytes=_at(loads.kv_cache_bytes, fullest),
        activation_bytes=_at(loads.activation_bytes, fullest),
        reserved_bytes=loads.reserved_bytes,
    )


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
        stage_time_us=time_us,
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
    """Bytes of weights on every GPU of the cluster: its expert shards, or its dense layers."""
    llm = scenario.llm
    layer_bytes = llm.weight_bytes / llm.num_layers
    if llm.is_moe:
        etp = stage_degrees(plan, "etp")[layout.layer_stage[plan.placement[:, 0]]]
        holder, share = plan.placement[:, 4], parts.shard_bytes(layer_bytes / llm.num_experts, etp)
    else:
        held = np.array([len(stage.layers) for stage in plan.stages], dtype=np.int64)
        stage_bytes = parts.shard_bytes(layer_bytes, stage_degrees(plan, "tp")) * held
        holder, share = layout.gpu, stage_bytes[layout.stage]
    weights: FloatArray = np.zeros(scenario.cluster.num_gpus)
    np.add.at(weights, holder, share)
    return weights


def _everywhere(value: float | None, scenario: Scenario, layout: Layout) -> FloatArray | None:
    """Return a stated size on every GPU in use, 0 on idle ones."""
    if value is None:
        return None
    sizes = np.zeros(scenario.cluster.num_gpus)
    sizes[layout.gpu] = value
    return sizes
