"""Spec -> legal candidates: every choice of degrees that the arithmetic of the model allows.

Legal means: the grid identity holds, experts divide over expert ranks, and, where the cost model
knows the architecture, heads divide over tp and feed-forward columns over etp. Degrees are any
integers. What a scenario *requires* (coverage apart, which shapes the table) is left to
constraints, so that each of them can be dropped, blamed and explained.

The space, by coverage:
  partition  one replica, one expert grid per layer (spread 0 in the table), one expert per rank;
             attention groups tile each grid, so tp * cp divides ep * etp;
  every_gpu  replicas * pp * stage GPUs = all GPUs, stages of equal GPU count;
  up_to      replicas * pp * stage GPUs <= all GPUs. More replicas never hurt throughput, TTFT,
             TPOT, memory per GPU or any built-in limit, so only the largest count for which the
             containers have room is a candidate, unless `fewer_replicas` says that something
             may prefer less.
Groups and stages larger than the container that confines them are left out at once.
In the last two, all stages have the same degrees, and a stage has `spread` disjoint expert grids (1
in every engine today), each of which holds at least one layer of every stage, so spread * pp <=
layers. In a dense model ep is 1 and the feed-forward is sharded by tp, so etp = tp and spread
counts its copies, cp * attn_dp. `autopar.space` says the same to users.
"""

from functools import lru_cache

import numpy as np

from autopar.errors import SolveLimitError
from autopar.problem import Candidates, IntArray
from autopar.specs import Architecture, Scenario
from autopar.topology import Topology

_DEGREES = 6  # tp, cp, attn_dp, ep, etp, spread
# Pairs of (pp, stage GPUs), each with tens of ways to tile the stage: seconds and a GB of memory.
MOST_PAIRS = 150_000


def generate(
    scenario: Scenario, coverage: str, topology: Topology, *, fewer_replicas: bool
) -> Candidates:
    """Return every legal candidate of a scenario under a coverage, in a fixed order.

    topology: the containers that confine groups and stages.
    fewer_replicas: whether candidates with fewer replicas than fit are wanted too (up_to only).
    Raises SolveLimitError if up_to leaves more stage sizes open than can be listed.
    """
    if coverage == "partition":
        return _partition(scenario, topology.group_container)
    llm, num_gpus = scenario.llm, scenario.cluster.num_gpus
    if coverage == "up_to":
        _refuse_too_many(llm.num_layers, num_gpus, topology.stage_container)
    tables: list[IntArray] = []
    for stage_gpus, depths in _stage_sizes(num_gpus, llm.num_layers, coverage):
        if stage_gpus > topology.stage_container:
            break
        inner = _stage_degrees(scenario, stage_gpus, topology.group_container)
        outer = np.repeat(depths, len(inner))
        inner = np.tile(inner, (len(depths), 1))
        if llm.is_moe:
            keep = inner[:, 5] * outer <= llm.num_layers
            outer, inner = outer[keep], inner[keep]
        replicas = _replicas(topology, coverage, stage_gpus, outer, inner)
        if fewer_replicas and coverage == "up_to":
            repeats = np.repeat(np.arange(len(replicas)), replicas)
            first = np.repeat(np.cumsum(replicas) - replicas, replicas)
            replicas = np.arange(len(repeats)) - first + 1
            outer, inner = outer[repeats], inner[repeats]
        fits = replicas > 0
        tables.append(np.column_stack([replicas, outer, inner])[fits])
    columns = np.concatenate(tables) if tables else np.zeros((0, 2 + _DEGREES), dtype=np.int64)
    return Candidates(*columns.T)


def _replicas(
    topology: Topology, coverage: str, stage_gpus: int, depths: IntArray, inner: IntArray
) -> IntArray:
    """Return the replicas of each layout: those that use every GPU, or as many as find room."""
    if coverage == "every_gpu":
        return topology.num_gpus // (depths * stage_gpus)
    unit = topology.unit(inner[:, 0], inner[:, 4])
    blocks: IntArray = topology.num_blocks(np.full_like(depths, stage_gpus), unit) // depths
    return blocks


def _refuse_too_many(num_layers: int, num_gpus: int, largest: int) -> None:
    stages = range(1, min(num_layers, num_gpus) + 1)
    pairs = sum(min(num_gpus // pp, largest) for pp in stages)
    if pairs > MOST_PAIRS:
        raise SolveLimitError(
            f"coverage up_to on {num_gpus:,} GPUs leaves {pairs:,} pairs of pipeline depth and "
            f"stage size open, more than the {MOST_PAIRS:,} that can be listed; confine stages "
            "(requirements.all_to_all_within) or ask for coverage every_gpu"
        )


def known_architecture(scenario: Scenario) -> Architecture | None:
    """Return the shapes that bind divisibility; declared costs state none, whatever the LLM has."""
    return None if scenario.cost_model == "declared" else scenario.llm.architecture


def _partition(scenario: Scenario, largest: int) -> Candidates:
    llm, num_gpus = scenario.llm, scenario.cluster.num_gpus
    etp, rest = divmod(num_gpus, llm.num_layers * llm.num_experts)
    rows: list[tuple[int, ...]] = []
    if not rest and 0 < etp <= largest and _ffn_divides(scenario, etp):
        grid = llm.num_experts * etp
        for tp in _tensor_sizes(scenario, grid, largest):
            for cp in divisors(grid // tp):
                if cp > scenario.requirements.max_context_parallel_size:
                    break
                for pp in range(1, llm.num_layers + 1):
                    rows.append((1, pp, tp, cp, 0, llm.num_experts, etp, 0))  # noqa: PERF401
    columns = np.array(rows, dtype=np.int64).reshape(-1, 2 + _DEGREES)
    return Candidates(*columns.T)


def _stage_sizes(num_gpus: int, num_layers: int, coverage: str) -> list[tuple[int, IntArray]]:
    """Return (stage GPUs, array of pp) for every size a stage may have, sizes ascending."""
    sizes: dict[int, list[int]] = {}
    for pp in range(1, min(num_layers, num_gpus) + 1):
        most = num_gpus // pp
        if coverage == "up_to":
            for size in range(1, most + 1):
                sizes.setdefault(size, []).append(pp)
        elif num_gpus % pp == 0:
            for size in divisors(most):
                sizes.setdefault(size, []).append(pp)
    return [(size, np.array(depths, dtype=np.int64)) for size, depths in sorted(sizes.items())]


def _stage_degrees(scenario: Scenario, stage_gpus: int, largest: int) -> IntArray:
    """Return (tp, cp, attn_dp, ep, etp, spread) of every way to tile a stage, shape (ways, 6)."""
    llm = scenario.llm
    attention = [
        (tp, cp, stage_gpus // (tp * cp))
        for tp in _tensor_sizes(scenario, stage_gpus, largest)
        for cp in divisors(stage_gpus // tp)
        if cp <= scenario.requirements.max_context_parallel_size
    ]
    if not llm.is_moe:
        # The feed-forward follows attention: sharded by tp, copied over cp and attn_dp.
        return _table(
            [
                (tp, cp, attn_dp, 1, tp, cp * attn_dp)
                for tp, cp, attn_dp in attention
                if _ffn_divides(scenario, tp)
            ]
        )
    experts = [
        (ep, etp, stage_gpus // (ep * etp))
        for ep in divisors(stage_gpus)
        if llm.num_experts % ep == 0
        for etp in divisors(stage_gpus // ep)
        if etp <= largest
        and stage_gpus // (ep * etp) <= llm.num_layers
        and _ffn_divides(scenario, etp)
    ]
    return _table([a + e for a in attention for e in experts])


def _table(rows: list[tuple[int, ...]]) -> IntArray:
    return np.array(rows, dtype=np.int64).reshape(-1, _DEGREES)


def _tensor_sizes(scenario: Scenario, group: int, largest: int) -> list[int]:
    architecture = known_architecture(scenario)
    heads = 0 if architecture is None else architecture.num_attention_heads
    return [tp for tp in divisors(group) if tp <= largest and heads % tp == 0]


def _ffn_divides(scenario: Scenario, etp: int) -> bool:
    architecture = known_architecture(scenario)
    return architecture is None or architecture.ffn_hidden_size % etp == 0


@lru_cache(maxsize=65536)
def divisors(number: int) -> tuple[int, ...]:
    """Return the divisors of a positive integer, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(small + [number // d for d in reversed(small) if d * d != number])
