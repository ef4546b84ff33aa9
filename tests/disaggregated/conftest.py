"""A disaggregated service on a handful of GPUs, small enough to search exhaustively."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autopar.candidates import every_batch
from autopar.costs.scaling import rates_to_int, sizes_to_int, times_to_int
from autopar.disaggregated.task import PairTask
from autopar.oracle import splits
from autopar.pair_rules import PairRule
from autopar.problem import Candidate
from autopar.search import Task
from autopar.segments import plan_costs
from autopar.specs import Architecture, Scenario
from autopar.specs.counting import parameters
from autopar.specs.kernels import GEMM_ROWS
from autopar.unfold import unfold

LINK = {"bandwidth_bytes_per_s": 1e10, "latency_us": 3.0}
SLOW_LINK = {"bandwidth_bytes_per_s": 1e9, "latency_us": 20.0}
DEFAULT = ("throughput", "ttft", "tpot", "traffic", "memory")


# More rows take less time here and there: 8 than 1, 17 than 16, 33 than 32. GEMMs are slow, so that
# steps with more in them may be faster too.
UNEVEN = {
    "gemm": {
        "bf16": {
            "start_us": 0.5,
            "compute_fraction": 0.6,
            "memory_fraction": 0.02,
            "activation_fraction": 0.5,
            "row_factors": [4.0, 0.3, 2.0, 0.5, 3.0, 0.4] + [1.0] * (len(GEMM_ROWS) - 6),
        }
    }
}


def _architecture(num_layers: int, num_experts: int) -> Architecture:
    feed_forward: dict[str, Any] = {"kind": "dense", "ffn_size": 96}
    if num_experts:
        feed_forward = {
            "kind": "moe", "num_experts": num_experts, "experts_per_token": 1, "expert_size": 96,
        }  # fmt: skip
    return Architecture.model_validate(
        {
            "hidden_size": 64,
            "vocab_size": 500,
            "attention": {
                "full": {"kind": "gqa", "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
            },
            "feed_forward": {"only": feed_forward},
            "layers": [
                {"count": num_layers, "layers": [{"attention": "full", "feed_forward": "only"}]}
            ],
        }
    )


def scenario_of(
    *,
    num_layers: int = 2,
    num_experts: int = 0,
    num_nodes: int = 2,
    gpus_per_node: int = 2,
    nodes_per_domain: int = 1,
    memory_bytes: float = 4e10,
    objectives: Sequence[str] = DEFAULT,
    work: Mapping[str, Any] | None = None,
    requirements: Mapping[str, Any] | None = None,
    rules: Sequence[str] = (),
    uneven: bool = False,
) -> Scenario:
    """A service on a handful of GPUs; uneven: whose kernels may be faster with more rows."""
    architecture = _architecture(num_layers, num_experts)
    return Scenario.model_validate(
        {
            "name": "pair",
            "llm": {
                "name": "m",
                "num_layers": num_layers,
                "num_experts": num_experts,
                "experts_per_token": 1 if num_experts else None,
                "num_parameters": parameters(architecture),
                "architecture": architecture,
            },
            "cluster": {
                "name": "c",
                "gpu": {
                    "name": "g",
                    "peak_flops_per_s": 1e11,
                    "memory_bytes": memory_bytes,
                    "memory_bandwidth_bytes_per_s": 1e10,
                    "usd_per_hour": 2.5,
                    "kernels": UNEVEN if uneven else None,
                },
                "num_nodes": num_nodes,
                "gpus_per_node": gpus_per_node,
                "gpus_per_domain": gpus_per_node * nodes_per_domain,
                "links": {"node": LINK, "domain": LINK, "fabric": SLOW_LINK},
            },
            "workload": {
                "name": "w",
                "phase": "disaggregated",
                "input_tokens": 40,
                "output_tokens": 9,
                "prefill_chunk_tokens": 64,
                "max_batch_sequences": 4,
                **(work or {}),
            },
            "requirements": dict(requirements or {}),
            "rules": [
                {"name": f"r{i}", "require": rule, "because": "a test"}
                for i, rule in enumerate(rules)
            ],
            "recipe": {"name": "default", "objectives": list(objectives)},
        }
    )


@dataclass(frozen=True)
class Part:
    """One plan of one role, in numbers."""

    candidate: Candidate
    split: tuple[int, ...]
    rate: int
    time: int
    handover: int
    tpot: int
    memory: int
    gpus: int
    service: int


def parts(task: Task) -> Iterator[Part]:
    """Every plan of a role that its own constraints accept."""
    problem = task.problem
    for row in every_batch(problem, problem.candidates):
        for replicas in range(1, row.replicas + 1):
            candidate = replace(row, replicas=replicas)
            for split in splits(problem.num_layers, candidate.pp):
                plan = unfold(problem, candidate, split)
                if any(True for c in task.constraints for _ in c.check(plan, problem)):
                    continue
                costs = plan_costs(plan, problem)
                prefill = problem.scenario.workload.is_prefill
                yield Part(
                    candidate,
                    split,
                    int(min(rates_to_int(costs.tokens_per_s))),
                    int(sum(times_to_int(costs.time_us))) if prefill else 0,
                    int(max(times_to_int(costs.handover_us))),
                    0 if prefill else int(max(times_to_int(costs.tpot_us))),
                    int(max(sizes_to_int(costs.memory_bytes))),
                    plan.num_gpus,
                    int(max(times_to_int(costs.service_us))),
                )


def side_by_side(task: PairTask, prefill: Candidate, decode: Candidate) -> bool:
    """Whether decode finds its blocks after those of prefill."""
    topology, after = task.problem.topology, 0
    for candidate in (prefill, decode):
        needs = topology.footprint(
            candidate.tp, candidate.cp, candidate.etp, candidate.stage_gpus(1)
        )
        count = candidate.replicas * candidate.pp
        try:
            blocks = topology.stage_gpus(needs, count, after)
        except ValueError:
            return False
        after = max(map(max, blocks)) + 1
    return True


def value(name: str, pairs: Mapping[str, Any], usd_per_hour: float) -> Any:
    """One objective of pairs, turned so that less is better."""
    rate, gpus = pairs["rate"], pairs["gpus"]
    match name:
        case "throughput":
            return -rate
        case "throughput_per_gpu":
            return -(rate * 1000 // gpus)
        case "cost":  # micro-USD per million tokens
            return np.ceil(usd_per_hour / 3600 * 1e6 * gpus / (rate * 1e-3) / 1e-6 - 1e-9)
    return pairs[name]


# What a rule about both roles may say of the model above; every layer is alike.
MODEL = {
    "kv_heads": 2, "num_heads": 4, "head_dim": 8, "uses_mla": 0, "keeps_every_token": 1,
    "keeps_states": 0,
}  # fmt: skip


def degrees(one: Candidate) -> SimpleNamespace:
    """What a rule about both roles may say of one of them."""
    own = {key: getattr(one, key) for key in ("pp", "tp", "cp", "ep", "etp", "spread", "attn_dp")}
    gpus = one.tp * one.cp * one.attn_dp
    return SimpleNamespace(**own, gpus=gpus, expert_grid_gpus=one.ep * one.etp)


Cut = tuple[Candidate, tuple[int, ...]]  # a candidate and the layers of its stages


def rules_hold(rules: Sequence[str], prefill: Cut, decode: Cut) -> bool:
    """Ask predicates of a pair, by Python itself."""
    names = MODEL | {
        "prefill": degrees(prefill[0]),
        "decode": degrees(decode[0]),
        "same_stages": prefill[1] == decode[1],
    }
    return all(eval(rule, {}, names) for rule in rules)


def _pairs(task: PairTask) -> dict[str, Any]:
    """Every pair of plans that fits on the GPUs, one array for each number."""
    both = list(product(list(parts(task.prefill)), list(parts(task.decode))))
    fits: dict[tuple[Candidate, Candidate], bool] = {}
    rules = [c.rule.text for c in task.constraints if isinstance(c, PairRule)]
    chosen = []
    for prefill, decode in both:
        if prefill.gpus + decode.gpus > task.problem.num_gpus:
            continue
        cuts = [(part.candidate, part.split) for part in (prefill, decode)]
        if rules and not rules_hold(rules, *cuts):
            continue
        key = prefill.candidate, decode.candidate
        if key not in fits:
            fits[key] = side_by_side(task, *key)
        if fits[key]:
            chosen.append((prefill, decode))

    def of(name: str, role: int) -> Any:
        return np.array([getattr(pair[role], name) for pair in chosen], dtype=np.int64)

    stages = np.array([p.candidate.pp + d.candidate.pp for p, d in chosen], dtype=np.int64)
    return {
        "most": of("rate", 0),
        "decoded": of("rate", 1),
        "prompt": of("time", 0) + np.maximum(of("handover", 0), of("handover", 1)),
        "service": of("service", 0),
        "tpot": of("tpot", 1),
        "traffic": stages - 2,
        "memory": np.maximum(of("memory", 0), of("memory", 1)),
        "gpus": of("gpus", 0) + of("gpus", 1),
    }


def best_of(task: PairTask) -> tuple[float, ...] | None:
    """The best vector of all pairs at all loads, by the constraints that the task holds."""
    scenario = task.problem.scenario
    limits, names = scenario.requirements, {c.name for c in task.constraints}
    pairs, best = _pairs(task), []
    gpus, usd = pairs["gpus"], scenario.cluster.gpu.usd_per_hour or 0.0
    needed = np.maximum(limits.min_tokens_per_s or 0, (limits.min_tokens_per_s_per_gpu or 0) * gpus)
    needed = rates_to_int(needed.astype(np.float64)) * ("throughput" in names)
    for percent in range(1, round(limits.max_prefill_load * 100) + 1):
        # M/D/1: the time of service times load / (2 (1 - load)), rounded up
        wait = -(-pairs["service"] * percent // (200 - 2 * percent))
        pairs["rate"] = np.minimum(pairs["most"] * percent // 100, pairs["decoded"])
        pairs["ttft"] = pairs["prompt"] + wait
        holds = (pairs["rate"] > 0) & (pairs["rate"] >= needed)
        if "coverage" in names and limits.coverage == "every_gpu":
            holds &= gpus == task.problem.num_gpus
        if "ttft" in names and limits.max_ttft_us is not None:
            holds &= pairs["ttft"] <= int(times_to_int(np.array([limits.max_ttft_us]))[0])
        held = {key: column[holds] for key, column in pairs.items()}
        if holds.any():
            columns = np.array([value(o.name, held, usd) for o in task.objectives])
            first = np.lexsort(columns[::-1])[0]
            best.append(tuple(columns[:, first].tolist()))
    return min(best, default=None)


@pytest.fixture(scope="session")
def best_pair() -> Callable[[PairTask], tuple[float, ...] | None]:
    """Search a task exhaustively: every layout, batch, count and split of both roles."""
    return best_of


@pytest.fixture(scope="session")
def python_says() -> Callable[[Sequence[str], Cut, Cut], bool]:
    """Ask predicates about both roles by Python itself."""
    return rules_hold


@pytest.fixture(scope="session")
def pair_scenario() -> Callable[..., Scenario]:
    """Build such a scenario; keywords replace single sizes."""
    return scenario_of
