"""Random legal plans of each engine, made by construction, not by asking the exporter."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import numpy as np

from autopar.catalog import load_scenario
from autopar.export.layout import Layout, layouts_of
from autopar.pairs import explicit_plan
from autopar.plans import plan_from_spec, plan_parts
from autopar.problem import AnyPlan, Metrics, Plan
from autopar.specs import PlanSpec, Scenario

MODELS = ("deepseek-v3", "mixtral-8x7b", "qwen3-30b-a3b", "llama-3.1-70b", "llama-3.1-8b")
CLUSTERS = {
    "vllm": ("1xhgx-h100", "2xhgx-h100", "4xhgx-h100", "8xhgx-h100"),
    "sglang": ("1xhgx-h100", "2xhgx-h100", "4xhgx-h100", "8xhgx-h100"),
    "trtllm": ("1xhgx-h100", "2xhgx-h100", "4xhgx-h100", "8xhgx-h100"),
    "megatron": ("1xhgx-h100", "2xhgx-h100", "4xhgx-h100", "8xhgx-h100"),
}
WORKLOADS = ("chat-4k-1k", "chat-1k-256", "prefill-8k")


@cache
def scenario_of(model: str, cluster: str, workload: str) -> Scenario:
    return load_scenario(parts={"llm": model, "cluster": cluster, "workload": workload})


def divisors(number: int, most: int) -> list[int]:
    return [n for n in range(1, min(number, most) + 1) if number % n == 0]


def degrees(random: Random, engine: str, scenario: Scenario) -> dict[str, int] | None:
    """Degrees that the engine's rules allow; None where this draw gave none."""
    llm, total, node = scenario.llm, scenario.cluster.num_gpus, scenario.cluster.gpus_per_node
    stage = random.choice([n for n in (1, 2, 4, 8, 16, 32) if n <= total])
    pp = random.choice([n for n in (1, 2, 3, 4, 5, 8) if n * stage <= total])
    replicas = random.choice(divisors(total // (stage * pp), 4))
    if stage * pp > node and (stage * pp) % node:
        return None
    heads, kv = 8 if llm.name.startswith("qwen3-30b") else 16, 8
    tp = random.choice([n for n in (1, 2, 4, 8) if stage % n == 0 and n <= min(heads, kv)])
    if not llm.is_moe:
        if engine == "megatron":
            replicas, stage = replicas * (stage // tp), tp
        return {"replicas": replicas, "pp": pp, "tp": min(stage, 8), "cp": 1,
                "attn_dp": 1, "ep": 1, "etp": min(stage, 8)}  # fmt: skip
    attn_dp = stage // tp
    ep = random.choice([n for n in divisors(stage, stage) if llm.num_experts % n == 0])
    if engine == "vllm":
        ep = random.choice([e for e in (1, stage) if llm.num_experts % e == 0])
        if pp > 1 and attn_dp > 1 and stage * pp > node:
            return None
    if engine == "trtllm" and attn_dp > 1:
        tp, attn_dp = 1, stage
    if engine != "megatron" and stage > llm.num_experts:
        return None
    etp = stage // ep
    return {"replicas": replicas, "pp": pp, "tp": tp, "cp": 1, "attn_dp": attn_dp, "ep": ep,
            "etp": etp, "spread": 1}  # fmt: skip


def split_of(random: Random, num_layers: int, pp: int) -> list[int]:
    cuts = sorted(random.sample(range(1, num_layers), pp - 1))
    return [b - a for a, b in zip([0, *cuts], [*cuts, num_layers], strict=True)]


def draw(seed: int, engine: str) -> tuple[Scenario, Plan] | None:
    """A plan with a random split, batch and number of parts, on GPUs in rank order."""
    random = Random(seed)
    scenario = scenario_of(
        random.choice(MODELS), random.choice(CLUSTERS[engine]), random.choice(WORKLOADS)
    )
    chosen = degrees(random, engine, scenario)
    if chosen is None:
        return None
    fields: dict[str, Any] = {
        "schema": 1,
        "name": "drawn",
        "llm": scenario.llm.name,
        "cluster": scenario.cluster.name,
        "degrees": chosen,
        "layers_per_stage": split_of(random, scenario.llm.num_layers, chosen["pp"]),
    }
    if scenario.workload.is_open:
        fields["batch"] = random.randint(1, 64)
        fields["chunks"] = random.choice(scenario.workload.chunk_counts)
    plan = plan_from_spec(PlanSpec.model_validate(fields), scenario)
    used = [gpu for replica in plan.gpus for stage in replica for gpu in stage]
    if max(used) >= scenario.cluster.num_gpus:
        return None
    return scenario, plan


def whole(scenario: Scenario, plan: Plan) -> Plan:
    """The same plan with its prompts in as few parts as the workload allows."""
    return replace(plan, chunks=scenario.workload.fewest_chunks)


def shuffled(seed: int, scenario: Scenario, plan: Plan, *, one_map: bool = False) -> Plan:
    """The same plan with experts and the GPUs of every node in another order.

    one_map: experts of all replicas in the same order.
    """
    rng = np.random.default_rng(seed)
    node = scenario.cluster.gpus_per_node
    local = {n: rng.permutation(node) for n in range(scenario.cluster.num_nodes)}

    document = moved(plan, lambda gpu: int(gpu // node * node + local[gpu // node][gpu % node]))
    experts: dict[tuple[int, int], Any] = {}
    for row in document["placement"]:
        key = 0 if one_map else row["copy"], row["layer"]
        if key not in experts:
            experts[key] = rng.permutation(scenario.llm.num_experts)
        row["expert"] = int(experts[key][row["expert"]])
    return plan_from_spec(PlanSpec.model_validate(document), scenario)


def moved(plan: Plan, to: Callable[[int], int]) -> dict[str, Any]:
    """The document of a plan whose GPUs are others."""
    document = plan_parts(plan)
    gpus = [[[to(g) for g in stage] for stage in replica] for replica in plan.gpus]
    for stage, ids in zip(document["stages"], gpus[0], strict=True):
        stage["gpus"] = ids
    document["replicas"] = [{"index": i, "stages": r} for i, r in enumerate(gpus)]
    for row in document["placement"]:
        row["gpu"] = to(row["gpu"])
    document["degrees"] = {k: v for k, v in document["degrees"].items() if v is not None}
    return document


def with_nodes_in_order(scenario: Scenario, plan: Plan, nodes: Sequence[int]) -> Plan:
    """The same plan on nodes that are numbered in the order of commands; nodes: of the cluster."""
    size = scenario.cluster.gpus_per_node
    order = {node: place for place, node in enumerate(dict.fromkeys(nodes))}
    document = moved(plan, lambda gpu: order[gpu // size] * size + gpu % size)
    return plan_from_spec(PlanSpec.model_validate(document), scenario)


def metrics(kv_cache_bytes: float = 1e9) -> Metrics:
    return Metrics(1.0, 1.0, 1.0, 1.0, 1, 1.0, 0, 2e9, 1e9, kv_cache_bytes, 1e8, 1e8)


def layouts(scenario: Scenario, plan: AnyPlan) -> tuple[Layout, ...]:
    found, reasons = layouts_of(plan, scenario, dict.fromkeys(("", "prefill", "decode"), metrics()))
    assert not reasons
    return found


def same(a: Plan, b: Plan) -> bool:
    def rows(plan: Plan) -> list[tuple[int, ...]]:
        """Every shard; a replica without rows has its experts on the ranks of the first one's."""
        listed = plan.placement[:, 2]
        found = sorted(map(tuple, plan.placement.tolist()))
        where = {gpu: (s, i) for s, ids in enumerate(plan.gpus[0]) for i, gpu in enumerate(ids)}
        for copy in range(1, plan.replicas):
            if not (listed == copy).any():
                for layer, expert, _, shard, gpu in plan.placement[listed == 0].tolist():
                    stage, rank = where[gpu]
                    found.append((layer, expert, copy, shard, plan.gpus[copy][stage][rank]))
        return sorted(found)

    return (a.stages, a.gpus, a.replicas, a.batch, a.chunks) == (
        b.stages,
        b.gpus,
        b.replicas,
        b.batch,
        b.chunks,
    ) and rows(a) == rows(b)


__all__ = [
    "draw",
    "explicit_plan",
    "layouts",
    "moved",
    "same",
    "shuffled",
    "whole",
    "with_nodes_in_order",
]
