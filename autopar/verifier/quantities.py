"""Everything that a claim may speak of, counted in the plan or taken from the spec."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from autopar.problem import Plan
from autopar.specs import Scenario
from autopar.units import BYTES, COUNT, DURATION_US, FLOPS, FLOPS_PER_S, FRACTION, TOKENS_PER_S
from autopar.verifier.layout import Layout, distinct
from autopar.verifier.metrics import Measured

Origin = Literal["spec", "plan", "recomputed"]

DIMENSIONS: Mapping[str, Mapping[str, float]] = {
    "duration": DURATION_US,
    "size": BYTES,
    "token rate": TOKENS_PER_S,
    "FLOP rate": FLOPS_PER_S,
    "work": FLOPS,
    "fraction": {"": 1.0, **FRACTION},
    "count": {"": 1.0, **COUNT},
}
DEGREES = ("replicas", "pp", "tp", "cp", "attn_dp", "ep", "etp", "spread")


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number in the base unit of its dimension; without a value, `why` says why it has none."""

    value: float | None
    dimension: str
    origin: Origin
    why: str = ""


Book = dict[str, Quantity]


def quantities(scenario: Scenario, plan: Plan, layout: Layout, measured: Measured | None) -> Book:
    """Return every quantity by name."""
    return {
        **_of_spec(scenario),
        **_of_plan(scenario, plan, layout),
        **_of_experts(scenario, plan, layout),
        **_of_metrics(scenario, measured),
    }


# What only the declared cost model states, with its dimension.
_DECLARED = {
    "flops_per_token": "work",
    "compute_efficiency": "fraction",
    "utilisation": "fraction",
    "layer_time_us": "duration",
}


def _of_spec(scenario: Scenario) -> Book:
    llm, cluster, needs = scenario.llm, scenario.cluster, scenario.requirements
    gpu, work, declared = cluster.gpu, scenario.workload, scenario.declared
    numbers: dict[str, tuple[float | None, str]] = {
        "num_layers": (llm.num_layers, "count"),
        "num_experts": (llm.num_experts, "count"),
        "experts_per_layer": (llm.num_experts, "count"),
        "experts_per_token": (_experts_per_token(scenario), "count"),
        "num_parameters": (llm.num_parameters, "count"),
        "bytes_per_parameter": (llm.bytes_per_parameter, "size"),
        "cluster_gpus": (cluster.num_gpus, "count"),
        "num_nodes": (cluster.num_nodes, "count"),
        "gpus_per_node": (cluster.gpus_per_node, "count"),
        "gpus_per_domain": (cluster.domain_gpus, "count"),
        "peak_flops_per_s": (gpu.peak_flops_per_s, "FLOP rate"),
        "memory_bytes": (gpu.memory_bytes, "size"),
        "batch_tokens": (work.batch_tokens, "count"),
        "batch_sequences": (work.batch_sequences, "count"),
        "sequence_tokens": (work.sequence_tokens, "count"),
        "input_tokens": (work.input_tokens, "count"),
        "output_tokens": (work.output_tokens, "count"),
        "min_tokens_per_s": (needs.min_tokens_per_s, "token rate"),
        "min_tokens_per_s_per_gpu": (needs.min_tokens_per_s_per_gpu, "token rate"),
        "max_ttft_us": (needs.max_ttft_us, "duration"),
        "max_tpot_us": (needs.max_tpot_us, "duration"),
        "max_memory_fraction": (needs.max_memory_fraction, "fraction"),
    }
    book = {
        name: Quantity(value, dimension, "spec", "" if value is not None else "the spec has none")
        for name, (value, dimension) in numbers.items()
    }
    in_use = scenario.cost_model == "declared"
    why = "" if in_use else f"the cost model {scenario.cost_model} has none"
    for name, dimension in _DECLARED.items():
        value = getattr(declared, name) if in_use and declared is not None else None
        book[name] = Quantity(value, dimension, "spec", why)
    derived = {
        "expert_layers": (float(len(llm.expert_layers)), "count"),
        "expert_instances": (float(len(llm.expert_layers) * llm.num_experts), "count"),
        "weight_bytes": (llm.weight_bytes, "size"),
        "num_domains": (float(-(-cluster.num_gpus // cluster.domain_gpus)), "count"),
    }
    book |= {n: Quantity(v, dim, "recomputed") for n, (v, dim) in derived.items()}
    efficiency = book["compute_efficiency"].value
    effective = None if efficiency is None else gpu.peak_flops_per_s * efficiency
    book["effective_flops_per_s"] = Quantity(effective, "FLOP rate", "recomputed", why)
    return book


def _experts_per_token(scenario: Scenario) -> int | None:
    """Return what the model states; the shapes decide where the cost model knows them."""
    llm = scenario.llm
    if scenario.cost_model == "declared" or llm.architecture is None:
        return llm.experts_per_token
    return llm.architecture.experts_per_token


def _of_plan(scenario: Scenario, plan: Plan, layout: Layout) -> Book:
    used = len(layout.used_gpus)
    counts = {
        "replicas": float(len(plan.gpus)),
        "pp": float(plan.pp),
        "num_stages": float(len(plan.stages)),
        "num_gpus": float(used),
        "idle_gpus": float(scenario.cluster.num_gpus - used),
        "tensor_groups": float(
            sum(
                len(ids) // stage.tp
                for stages in plan.gpus
                for stage, ids in zip(plan.stages, stages, strict=False)
            )
        ),
    }
    book = {name: Quantity(value, "count", "plan") for name, value in counts.items()}
    for key in ("tp", "cp", "attn_dp", "ep", "etp", "spread"):
        book[key] = _same([getattr(stage, key) for stage in plan.stages], "stages")
    given = f"a given {scenario.workload.phase} workload has none"
    for key, value in (("batch", plan.batch), ("chunks", plan.chunks)):
        is_open = scenario.workload.is_open
        book[key] = Quantity(value if is_open else None, "count", "plan", "" if is_open else given)
    book["layers_per_stage"] = _same([len(stage.layers) for stage in plan.stages], "stages")
    book["gpus_per_stage"] = _same(layout.stage_gpus, "stages")
    return book


def _of_experts(scenario: Scenario, plan: Plan, layout: Layout) -> Book:
    """Count in the placement itself, so that a lost or doubled shard shows in every number.

    Replicas that the placement leaves out count as the first one.
    """
    if not scenario.llm.is_moe:
        none = Quantity(None, "count", "plan", "the model has no experts")
        return dict.fromkeys(
            ("expert_parts", "gpus_per_expert", "gpus_per_layer", "expert_grids",
             "gpus_per_expert_grid", "parts_per_gpu"), none,
        )  # fmt: skip
    layer, expert, copy, _, gpu = plan.placement.T
    layers, _ = distinct(copy, layer, gpu)
    experts, _ = distinct(copy, layer, expert, gpu)
    _, per_layer = distinct(*layers[:2])
    _, per_expert = distinct(*experts[:3])
    starts = np.cumsum(per_layer)[:-1]
    grids = {  # by their GPUs: how many these are, and whose
        ids.tobytes(): (len(ids), int(copies[0]))
        for ids, copies in zip(
            np.split(layers[2], starts), np.split(layers[0], starts), strict=True
        )
        if len(ids)
    }
    parts, _ = distinct(*plan.placement.T)
    _, per_gpu = np.unique(parts[4], return_counts=True)
    more = len(layout.followers)
    num_parts = parts.shape[1] + more * int((parts[2] == 0).sum())
    num_grids = len(grids) + more * sum(copy == 0 for _, copy in grids.values())
    book = {
        "expert_parts": Quantity(float(num_parts), "count", "plan"),
        "gpus_per_expert": _same(per_expert, "experts"),
        "gpus_per_layer": _same(per_layer, "layers"),
        "expert_grids": Quantity(float(num_grids), "count", "plan"),
        "gpus_per_expert_grid": _same([size for size, _ in grids.values()], "expert grids"),
        "parts_per_gpu": _same(per_gpu, "GPUs"),
    }
    return book if parts.size else {name: _same([], "shards") for name in book}


def _of_metrics(scenario: Scenario, measured: Measured | None) -> Book:
    names = {
        "tokens_per_s": "token rate",
        "tokens_per_s_per_gpu": "token rate",
        "ttft_us": "duration",
        "tpot_us": "duration",
        "stage_time_us": "duration",
        "weights_bytes_per_gpu": "size",
        "peak_memory_bytes_per_gpu": "size",
        "memory_fraction": "fraction",
        "weights_fraction": "fraction",
        "concurrency": "count",
        "batch_per_gpu": "count",
        "stage_boundaries": "count",
    }
    if measured is None:
        broken = "the plan is too broken to be measured"
        return {n: Quantity(None, dim, "recomputed", broken) for n, dim in names.items()}
    metrics, capacity = measured.metrics, scenario.cluster.gpu.memory_bytes
    values: dict[str, float | None] = {
        "tokens_per_s": metrics.tokens_per_s,
        "tokens_per_s_per_gpu": metrics.tokens_per_s_per_gpu,
        "ttft_us": metrics.ttft_us,
        "tpot_us": metrics.tpot_us,
        "stage_time_us": float(measured.loads.tick_us.max()),
        "weights_bytes_per_gpu": metrics.weights_bytes,
        "peak_memory_bytes_per_gpu": metrics.peak_memory_bytes,
        "memory_fraction": metrics.peak_memory_bytes / capacity,
        "weights_fraction": metrics.weights_bytes / capacity,
        "concurrency": metrics.concurrency,
        "batch_per_gpu": metrics.batch_per_gpu,
        "stage_boundaries": metrics.stage_boundaries,
    }
    absent = f"a {scenario.workload.phase} workload has none"
    return {
        name: Quantity(value, names[name], "recomputed", absent if value is None else "")
        for name, value in values.items()
    }


def _same(values: ArrayLike, over: str) -> Quantity:
    """Return the one value that all of `over` share; none where they differ."""
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        return Quantity(None, "count", "plan", f"the plan has no {over}")
    low, high = float(array.min()), float(array.max())
    if low == high:
        return Quantity(low, "count", "plan")
    return Quantity(None, "count", "plan", f"it differs between {over}: {low:g} to {high:g}")
