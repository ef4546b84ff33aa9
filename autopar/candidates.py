"""Spec -> legal candidates: every choice of degrees that the arithmetic of the model allows.

Legal means: the grid identity holds, experts divide over expert ranks, and, where the cost model
knows the architecture, heads and dense columns divide over tp and expert columns over etp. Degrees
are any integers. What a scenario *requires* (coverage apart, which shapes the table) is left to
constraints, so that each of them can be dropped, blamed and explained.

The space, by coverage:
  partition  one replica, one expert grid per layer (spread 0 in the table), one expert per rank;
             attention groups tile each grid, so tp * cp divides ep * etp;
  every_gpu  replicas * pp * stage GPUs = all GPUs, stages of equal GPU count;
  up_to      replicas * pp * stage GPUs <= all GPUs. More replicas never hurt throughput, TTFT,
             TPOT, memory per GPU or any built-in limit, so only the largest count for which the
             containers have room is a candidate, unless `fewer_replicas` says that something
             may prefer less.
Groups and stages larger than the container that confines them are left out at once. Where links are
charged by size, so are those that cannot lie as their size is charged (`autopar.topology`).
In the last two, all stages have the same degrees, and a stage has `spread` disjoint expert grids (1
in every engine today), each of which holds at least one layer with experts of every stage. In a
dense model ep is 1 and the feed-forward is sharded by tp, so etp = tp and spread counts its copies,
cp * attn_dp; where the batch is open they are replicas of their own (a stage with attn_dp = a and
`batch` sequences per group does in every metric what a replicas do), so attn_dp is 1.

Where the batch is open, a row of this table stands for every batch (`batch` is 1); which of them
are looked at is decided in `autopar.batches`. `autopar.space` says the same to users.
"""

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache

import numpy as np

from autopar.costs.steps import most_sequences
from autopar.errors import SolveLimitError
from autopar.problem import Candidates, IntArray, Problem
from autopar.specs import Architecture, Scenario
from autopar.topology import Topology

# Rows of degrees that can be listed: seconds of bounds and a GB of memory.
MOST_ROWS = 2_000_000


def generate(
    scenario: Scenario, coverage: str, topology: Topology, *, fewer_replicas: bool
) -> Candidates:
    """Return every legal candidate of a scenario under a coverage, in a fixed order.

    topology: the containers that confine groups and stages.
    fewer_replicas: whether candidates with fewer replicas than fit are wanted too (up_to only).
    Raises SolveLimitError if the coverage leaves more layouts open than can be listed.
    """
    if coverage == "partition":
        return _partition(scenario, topology.group_container)
    tilings = _tilings(scenario, topology, coverage)  # tp, cp, attn_dp, ep, etp, spread
    stage_gpus, spread = tilings[:, :3].prod(axis=1), tilings[:, 5]
    llm, num_gpus = scenario.llm, scenario.cluster.num_gpus
    deepest = np.minimum(llm.num_layers, num_gpus // stage_gpus)
    if llm.is_moe:  # every grid of every stage holds a layer with experts; one grid may hold none
        deepest = np.where(
            spread > 1, np.minimum(deepest, len(llm.expert_layers) // spread), deepest
        )
    _refuse_too_many(int(deepest.sum()), num_gpus)
    index = np.repeat(np.arange(len(tilings)), deepest)
    depth = np.arange(len(index)) - np.repeat(np.cumsum(deepest) - deepest, deepest) + 1
    if coverage == "every_gpu":
        full = num_gpus % (depth * stage_gpus[index]) == 0
        index, depth = index[full], depth[full]
        replicas = num_gpus // (depth * stage_gpus[index])
    else:
        needs = topology.footprint(tilings[:, 0], tilings[:, 1], tilings[:, 4], stage_gpus)
        replicas = topology.num_stages(needs)[index] // depth
        if fewer_replicas:
            index, depth, replicas = _counting_down(index, depth, replicas, num_gpus)
    order = np.lexsort((index, depth, stage_gpus[index]))
    order = order[replicas[order] > 0]
    tp, cp, attn_dp, ep, etp, spread = tilings[index[order]].T
    batch = np.full(len(order), int(scenario.workload.is_open), dtype=np.int64)
    one = np.ones_like(batch)
    table = Candidates(replicas[order], depth[order], tp, cp, attn_dp, ep, etp, spread, batch, one)
    return _in_chunks(table, scenario)


def _in_chunks(rows: Candidates, scenario: Scenario) -> Candidates:
    """Return the layouts once for each number of parts in which prompts may be computed."""
    if not scenario.workload.is_open or scenario.workload.phase == "decode":
        return rows
    counts = np.array(scenario.workload.chunk_counts, dtype=np.int64)
    index = np.repeat(np.arange(len(rows)), len(counts))
    return replace(rows.take(index), chunks=np.tile(counts, len(rows)))


def with_batch(rows: Candidates, batch: IntArray | int) -> Candidates:
    """Return the candidates with other batches."""
    return replace(rows, batch=np.broadcast_to(np.asarray(batch, np.int64), rows.batch.shape))


def every_batch(problem: Problem, rows: Candidates) -> Candidates:
    """Return each layout once for every batch: what small problems are searched by exhaustively."""
    if not problem.scenario.workload.is_open:
        return rows
    most = most_sequences(problem.scenario.workload, rows.chunks)
    index = np.repeat(np.arange(len(rows)), most)
    batch = np.arange(len(index)) - np.repeat(np.cumsum(most) - most, most) + 1
    return with_batch(rows.take(index), batch)


def _counting_down(
    index: IntArray, depth: IntArray, replicas: IntArray, num_gpus: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Return the layouts once for each number of replicas up to the most that fit."""
    _refuse_too_many(int(replicas.sum()), num_gpus)
    repeats = np.repeat(np.arange(len(replicas)), replicas)
    first = np.repeat(np.cumsum(replicas) - replicas, replicas)
    return index[repeats], depth[repeats], np.arange(len(repeats)) - first + 1


def _refuse_too_many(rows: int, num_gpus: int) -> None:
    if rows > MOST_ROWS:
        raise SolveLimitError(
            f"{num_gpus:,} GPUs leave {rows:,} layouts open, more than the {MOST_ROWS:,} that can "
            "be listed; confine groups and stages (requirements.tensor_parallel_within, "
            "all_to_all_within) or ask for coverage every_gpu"
        )


def _tilings(scenario: Scenario, topology: Topology, coverage: str) -> IntArray:
    """Return (tp, cp, attn_dp, ep, etp, spread) of every way to tile a stage, shape (ways, 6)."""
    most, group = min(topology.stage_container, topology.num_gpus), topology.group_container
    ways = _expert_tilings if scenario.llm.is_moe else _dense_tilings
    rows = ways(scenario, most, min(group, most))
    table = np.array(rows, dtype=np.int64).reshape(-1, 6)
    if coverage == "every_gpu":
        table = table[scenario.cluster.num_gpus % table[:, :3].prod(axis=1) == 0]
    return table


def _expert_tilings(scenario: Scenario, most: int, group: int) -> list[tuple[int, ...]]:
    """Tile with expert grids, then each stage with attention groups."""
    most_cp = scenario.requirements.max_context_parallel_size
    rows: list[tuple[int, ...]] = []
    grids = [
        (ep, etp, spread)
        for ep in divisors(scenario.llm.num_experts)
        for etp in _cuts(_expert_unit(scenario), min(group, most // ep))
        for spread in range(1, min(most_spread(scenario), most // (ep * etp)) + 1)
    ]
    for ep, etp, spread in grids:
        stage = ep * etp * spread
        for tp in _cuts(_tensor_unit(scenario), min(group, stage)):
            for cp in divisors(stage // tp) if stage % tp == 0 else ():
                if cp > most_cp:
                    break
                rows.append((tp, cp, stage // (tp * cp), ep, etp, spread))
    return rows


def _dense_tilings(scenario: Scenario, most: int, group: int) -> list[tuple[int, ...]]:
    """Tile with attention groups, whose tp cuts the feed-forward as well."""
    most_cp = scenario.requirements.max_context_parallel_size
    rows: list[tuple[int, ...]] = []
    for tp in _cuts(_tensor_unit(scenario), group):
        if _expert_unit(scenario) and _expert_unit(scenario) % tp:
            continue
        for cp in range(1, min(most_cp, most // tp) + 1):
            copies = 1 if scenario.workload.is_open else most // (tp * cp)
            rows += [(tp, cp, dp, 1, tp, cp * dp) for dp in range(1, copies + 1)]
    return rows


def most_spread(scenario: Scenario) -> int:
    """Return how many expert grids the stages that are searched may have."""
    stated = scenario.requirements.max_spread
    return _unstated_spread(scenario) if stated is None else stated


def _unstated_spread(scenario: Scenario) -> int:
    return 1 if scenario.workload.is_open else max(len(scenario.llm.expert_layers), 1)


def loosened(scenario: Scenario, names: Collection[str]) -> Scenario:
    """Return the scenario whose candidates are wanted where only the named constraints hold.

    A limit of spread that does not hold leaves as much as one that is not stated.
    """
    stated = scenario.requirements.max_spread
    if stated is None or "max_spread" in names:
        return scenario
    free = {"max_spread": max(stated, _unstated_spread(scenario))}
    requirements = scenario.requirements.model_copy(update=free)
    return scenario.model_copy(update={"requirements": requirements})


def _cuts(unit: int, most: int) -> tuple[int, ...]:
    """Return the sizes up to `most` that divide a unit; all of them where none is known (0)."""
    if unit == 0:
        return tuple(range(1, most + 1))
    return tuple(size for size in divisors(unit) if size <= most)


def _tensor_unit(scenario: Scenario) -> int:
    architecture = known_architecture(scenario)
    return 0 if architecture is None else architecture.tensor_unit


def _expert_unit(scenario: Scenario) -> int:
    architecture = known_architecture(scenario)
    return 0 if architecture is None else architecture.expert_unit


def known_architecture(scenario: Scenario) -> Architecture | None:
    """Return the shapes that bind divisibility; declared costs state none, whatever the LLM has."""
    return None if scenario.cost_model == "declared" else scenario.llm.architecture


def _partition(scenario: Scenario, largest: int) -> Candidates:
    llm, num_gpus = scenario.llm, scenario.cluster.num_gpus
    etp, rest = divmod(num_gpus, llm.num_layers * llm.num_experts)
    rows: list[tuple[int, ...]] = []
    if not rest and 0 < etp <= largest and _expert_unit(scenario) % etp == 0:
        grid = llm.num_experts * etp
        for tp in _cuts(_tensor_unit(scenario) or grid, min(grid, largest)):
            for cp in divisors(grid // tp) if grid % tp == 0 else ():
                if cp > scenario.requirements.max_context_parallel_size:
                    break
                for pp in range(1, llm.num_layers + 1):
                    row = (1, pp, tp, cp, 0, llm.num_experts, etp, 0)
                    rows.append((*row, int(scenario.workload.is_open), 1))
    columns = np.array(rows, dtype=np.int64).reshape(-1, 10)
    return _in_chunks(Candidates(*columns.T), scenario)


@lru_cache(maxsize=65536)
def divisors(number: int) -> tuple[int, ...]:
    """Return the divisors of a positive integer, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(small + [number // d for d in reversed(small) if d * d != number])
