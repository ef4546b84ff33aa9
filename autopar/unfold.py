"""Candidate and split -> explicit plan: the aggregated answer, unfolded over every GPU.

Symmetric choices are made here in one way for all: stages take blocks in order, layers take the
expert grids of their stage in order, experts take the expert ranks of a grid in contiguous runs (as
the engines deal them), replicas follow one another.
"""

from collections.abc import Sequence

import numpy as np

from autopar.costs.expert_law import placed_counts
from autopar.problem import Candidate, IntArray, Plan, Problem, Stage
from autopar.specs import LLM
from autopar.topology import Footprint, Topology

# Expert shards that are written out; beyond, replicas without rows are laid out as the first one.
MOST_ROWS = 200_000


def unfold(
    problem: Problem,
    candidate: Candidate,
    split: Sequence[int],
    *,
    name: str = "solved",
    layer_blocks: Sequence[int] | None = None,
    expert_ranks: IntArray | None = None,
    after: int | None = None,
) -> Plan:
    """Return the explicit plan of a candidate whose stages have `split[s]` layers.

    layer_blocks: only with one grid per layer (spread 0), the block of each layer; default in
    order.
    expert_ranks: shape (layers, experts), the expert rank of each expert; default contiguous runs.
    after: the first GPU that may be used, where another role uses others.
    """
    llm = problem.scenario.llm
    bounds = np.concatenate(([0], np.cumsum(split))).tolist()
    stages = tuple(
        Stage(
            index=s,
            layers=tuple(range(bounds[s], bounds[s + 1])),
            tp=candidate.tp,
            cp=candidate.cp,
            attn_dp=candidate.stage_attn_dp(size),
            ep=candidate.ep,
            etp=candidate.etp,
            spread=candidate.stage_spread(size),
        )
        for s, size in enumerate(split)
    )
    gpus = _stage_gpus(problem, candidate, split, layer_blocks, after)
    return Plan(
        name=name,
        llm=llm.name,
        cluster=problem.scenario.cluster.name,
        replicas=candidate.replicas,
        pp=len(split),
        stages=stages,
        gpus=gpus,
        placement=place_experts(
            stages,
            gpus,
            llm,
            _measured_ranks(problem, candidate) if expert_ranks is None else expert_ranks,
        ),
        batch=candidate.batch,
        chunks=candidate.chunks,
    )


def _measured_ranks(problem: Problem, candidate: Candidate) -> IntArray | None:
    """Return the rank of each expert, shape (layers, experts), where counts of tokens decide it."""
    scenario = problem.scenario
    counts, experts = scenario.workload.expert_counts, scenario.llm.expert_layers
    if counts is None:
        return None
    ranks = np.zeros((scenario.llm.num_layers, scenario.llm.num_experts), dtype=np.int64)
    ranks[list(experts)] = placed_counts(counts).on(candidate.ep).ranks
    return ranks


def place_experts(
    stages: Sequence[Stage],
    gpus: Sequence[Sequence[Sequence[int]]],
    llm: LLM,
    expert_ranks: IntArray | None = None,
) -> IntArray:
    """Return every (layer, expert, copy, shard, gpu), shape (shards, 5); experts in runs per rank.

    Of the k layers with experts of a stage, the j-th takes grid j * spread // k of that stage.
    Where all replicas together have more than `MOST_ROWS` rows, those of the first stand for all.
    """
    holders = set(llm.expert_layers)
    layers = [np.array([layer for layer in s.layers if layer in holders]) for s in stages]
    rows = sum(len(held) * s.etp for held, s in zip(layers, stages, strict=True)) * llm.num_experts
    copies = gpus if rows * len(gpus) <= MOST_ROWS else gpus[:1]
    parts = [np.zeros((0, 5), dtype=np.int64)]
    for copy, replica in enumerate(copies):
        for stage, held, ids in zip(stages, layers, replica, strict=True):
            if len(held):
                place = np.asarray(ids)
                parts.append(_place_stage(stage, held, place, llm.num_experts, copy, expert_ranks))
    return np.concatenate(parts)


def _place_stage(
    stage: Stage,
    layers: IntArray,
    ids: IntArray,
    num_experts: int,
    copy: int,
    expert_ranks: IntArray | None,
) -> IntArray:
    grid = np.arange(len(layers)) * stage.spread // len(layers)
    layer, expert, shard = (
        a.ravel()
        for a in np.meshgrid(layers, np.arange(num_experts), np.arange(stage.etp), indexing="ij")
    )
    run = expert * stage.ep // num_experts
    ep_rank = run if expert_ranks is None else expert_ranks[layer, expert]
    rank = (np.repeat(grid, num_experts * stage.etp) * stage.ep + ep_rank) * stage.etp + shard
    return np.stack([layer, expert, np.full_like(layer, copy), shard, ids[rank]], axis=1)


def expert_gpu(
    problem: Problem,
    candidate: Candidate,
    stage: int,
    segment: tuple[int, int],
    part: tuple[int, int, int],
) -> int | None:
    """Return the GPU of (layer, expert, shard) in the first replica of a layout of equal stages.

    segment: layers [first, stop) of the stage. None where the part or the block does not exist.
    """
    (first, stop), (layer, expert, shard) = segment, part
    upto = problem.expert_layers_before
    held = int(upto[stop] - upto[first])
    if shard >= candidate.etp or held < candidate.spread or upto[layer] == upto[layer + 1]:
        return None
    size = candidate.stage_gpus(1)
    needs = problem.topology.footprint(candidate.tp, candidate.cp, candidate.etp, size)
    try:
        block = problem.topology.stage_gpus(needs, stage + 1)[stage]
    except ValueError:
        return None
    grid = int(upto[layer] - upto[first]) * candidate.spread // held
    ep_rank = expert * candidate.ep // problem.num_experts
    return block[(grid * candidate.ep + ep_rank) * candidate.etp + shard]


def _stage_gpus(
    problem: Problem,
    candidate: Candidate,
    split: Sequence[int],
    layer_blocks: Sequence[int] | None,
    after: int | None,
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    if candidate.spread == 0:
        grid = candidate.grid_gpus
        order = list(range(sum(split))) if layer_blocks is None else list(layer_blocks)
        stages, done = [], 0
        for size in split:
            mine = order[done : done + size]
            stages.append(tuple(b * grid + g for b in mine for g in range(grid)))
            done += size
        return (tuple(stages),)
    topology, node = problem.topology, problem.scenario.cluster.gpus_per_node
    size = candidate.stage_gpus(1)
    count = candidate.replicas * candidate.pp
    needs = topology.footprint(candidate.tp, candidate.cp, candidate.etp, size)
    try:
        blocks = _in_nodes(topology, needs, candidate, node) if after is None else []
        blocks = blocks or topology.stage_gpus(needs, count, after or 0)
    except ValueError:  # does not fit where it is confined: lay it out in a row, checks will tell
        first = after or 0
        blocks = [tuple(range(first + i * size, first + (i + 1) * size)) for i in range(count)]
    pp = candidate.pp
    return tuple(tuple(blocks[r * pp : (r + 1) * pp]) for r in range(candidate.replicas))


def _in_nodes(
    topology: Topology, needs: Footprint, candidate: Candidate, node: int
) -> list[tuple[int, ...]]:
    """Return the stages of replicas of which none straddles two nodes; empty if that is no matter.

    Or if there is no room for it. Engines give every node as many ranks of a server, so that one
    which begins in the middle of a node and ends in the next is none that they start.
    """
    replica = candidate.stage_gpus(1) * candidate.pp
    if candidate.replicas == 1 or replica >= node or node % replica == 0:
        return []
    wanted, blocks = candidate.replicas, list[tuple[int, ...]]()
    for start in range(0, topology.num_gpus - node + 1, node):
        count = min(wanted, node // replica)
        found = topology.stage_gpus(needs, count * candidate.pp, start)
        if max(map(max, found)) >= start + node:  # what groups leave over is not enough
            return []
        blocks += found
        wanted -= count
        if not wanted:
            return blocks
    return []
