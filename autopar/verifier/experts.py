"""Every expert shard of an explicit plan: there, once, on the right GPU of the right stage.

Replicas of which the placement has no row are laid out as the first one, rank by rank, so that
what is right or wrong in the first is so in them; only where their GPUs lie is looked at.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopar.problem import Plan
from autopar.results import Violation
from autopar.specs import Scenario
from autopar.units import plural
from autopar.verifier.findings import found
from autopar.verifier.layout import NONE, IntArray, Layout, listed, stage_degrees

_COLUMNS = ("layer", "expert", "copy", "shard", "gpu")


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Placement rows whose numbers are all in range, with their stage and rank.

    Every array has shape (rows,); rank is NONE where the GPU is not one of the layer's stage.
    """

    layer: IntArray
    expert: IntArray
    copy: IntArray
    shard: IntArray
    gpu: IntArray
    stage: IntArray
    etp: IntArray
    rank: IntArray

    def place(self, index: int) -> str:
        """Return "replica 0 layer 3 expert 5" for a message."""
        return f"replica {self.copy[index]} layer {self.layer[index]} expert {self.expert[index]}"

    def take(self, keep: IntArray | NDArray[np.bool_]) -> "_Rows":
        """Return the selected rows."""
        return _Rows(*(getattr(self, name)[keep] for name in self.__slots__))


def expert_violations(scenario: Scenario, plan: Plan, layout: Layout) -> Iterator[Violation]:
    """Yield what is wrong with the placement of expert shards."""
    if not scenario.llm.is_moe:
        if len(plan.placement):
            yield from found(
                "placement in a dense model",
                [f"{len(plan.placement):,} expert shards are placed, the model has no experts"],
            )
        return
    yield from _followers(layout)
    yield from _out_of_range(scenario, plan, layout)
    rows = _valid_rows(scenario, plan, layout)
    holds = np.isin(rows.layer, np.array(scenario.llm.expert_layers, dtype=np.int64))
    yield from found(
        "expert in a layer without experts",
        [
            f"{rows.place(i)} is on GPU {rows.gpu[i]}, but layer {rows.layer[i]} has no experts"
            for i in np.flatnonzero(~holds).tolist()
        ],
    )
    rows = rows.take(holds)
    yield from _lost_and_doubled(scenario, plan, layout, rows)
    outside = np.flatnonzero(rows.rank == NONE).tolist()
    yield from found(
        "expert shard outside its stage",
        [
            f"{rows.place(i)} shard {rows.shard[i]} is on GPU {rows.gpu[i]}, which is not one of "
            f"stage {rows.stage[i]}, where layer {rows.layer[i]} is"
            for i in outside
        ],
    )
    inside = rows.take(rows.rank != NONE)
    yield from _groups(inside)
    yield from _grids(scenario, plan, inside)
    yield from _containers(scenario, rows)
    yield from _follower_containers(scenario, layout, inside)


def _followers(layout: Layout) -> Iterator[Violation]:
    """Yield replicas that cannot be laid out as the first one, because their stages differ."""
    other = layout.stage_gpus[layout.followers] != layout.stage_gpus[:1]
    yield from found(
        "replica unlike the first",
        [
            f"replica {layout.followers[i]} has no placement, so that its experts lie as those of "
            f"replica 0, but its stage {s} has {layout.stage_gpus[layout.followers[i], s]} GPUs, "
            f"not {layout.stage_gpus[0, s]}"
            for i, s in np.argwhere(other).tolist()
        ],
    )


def _limits(scenario: Scenario, plan: Plan, layout: Layout) -> tuple[IntArray, dict[str, IntArray]]:
    """Return the stage of every row's layer, and how many of each number there are, per row."""
    layer = plan.placement[:, 0]
    known = layer < scenario.llm.num_layers
    stage = np.where(known, layout.layer_stage[np.where(known, layer, 0)], NONE)
    per_stage = stage_degrees(plan, "etp")
    etp = np.where(stage != NONE, per_stage[stage] if len(per_stage) else 0, 0)
    counts = {
        "layer": np.full_like(layer, scenario.llm.num_layers),
        "expert": np.full_like(layer, scenario.llm.num_experts),
        "copy": np.full_like(layer, len(plan.gpus)),
        "shard": np.where(stage != NONE, etp, 2**62),  # a lost layer is named as such, not here
        "gpu": np.full_like(layer, scenario.cluster.num_gpus),
    }
    return stage, counts


def _out_of_range(scenario: Scenario, plan: Plan, layout: Layout) -> Iterator[Violation]:
    _, counts = _limits(scenario, plan, layout)
    for column, name in enumerate(_COLUMNS):
        values = plan.placement[:, column]
        beyond = np.flatnonzero((values < 0) | (values >= counts[name])).tolist()
        kind = "GPU out of range" if name == "gpu" else f"{name} out of range"
        yield from found(
            kind,
            [
                f"placement row {i}: {name} {values[i]}, expected 0 to {counts[name][i] - 1}"
                for i in beyond
            ],
        )


def _valid_rows(scenario: Scenario, plan: Plan, layout: Layout) -> _Rows:
    stage, counts = _limits(scenario, plan, layout)
    keep = stage != NONE
    for column, name in enumerate(_COLUMNS):
        values = plan.placement[:, column]
        keep &= (values >= 0) & (values < counts[name])
    layer, expert, copy, shard, gpu = plan.placement[keep].T
    stage = stage[keep]
    etp = stage_degrees(plan, "etp")[stage]
    rank = _rank_of(plan, layout, copy, stage, gpu)
    return _Rows(layer, expert, copy, shard, gpu, stage, etp, rank)


def _rank_of(
    plan: Plan, layout: Layout, copy: IntArray, stage: IntArray, gpu: IntArray
) -> IntArray:
    """Return the rank of a GPU in a stage of a replica, shape of `gpu`; NONE where it has none."""
    if not len(layout.gpu):
        return np.full_like(gpu, NONE)
    num_gpus = int(layout.gpu.max(initial=0)) + 1
    keys = (layout.copy * len(plan.stages) + layout.stage) * num_gpus + layout.gpu
    order = np.argsort(keys, kind="stable")
    wanted = (copy * len(plan.stages) + stage) * num_gpus + np.minimum(gpu, num_gpus)
    at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    hit = (keys[order][at] == wanted) & (gpu < num_gpus)
    return np.where(hit, layout.rank[order][at], NONE)


def _lost_and_doubled(
    scenario: Scenario, plan: Plan, layout: Layout, rows: _Rows
) -> Iterator[Violation]:
    """Count every shard of every replica that the placement lists."""
    llm = scenario.llm
    etp_of_layer = np.zeros(llm.num_layers, dtype=np.int64)
    held = np.intersect1d(np.flatnonzero(layout.layer_stage != NONE), llm.expert_layers)
    if len(held):
        etp_of_layer[held] = stage_degrees(plan, "etp")[layout.layer_stage[held]]
    widest = max(1, int(etp_of_layer.max(initial=0)))
    shape = (len(layout.own), llm.num_layers, llm.num_experts, widest)
    copy = np.searchsorted(layout.own, rows.copy)
    keys = ((copy * llm.num_layers + rows.layer) * llm.num_experts + rows.expert) * widest
    times = np.bincount(keys + rows.shard, minlength=int(np.prod(shape))).reshape(shape)
    expected = np.arange(widest) < etp_of_layer[:, None, None]  # (layers, 1, shards)
    yield from found(
        "expert shard lost",
        [
            f"replica {layout.own[c]} layer {layer} expert {e}: no GPU holds shard {s}"
            for c, layer, e, s in np.argwhere((times == 0) & expected).tolist()
        ],
    )
    yield from found(
        "expert shard doubled",
        [
            f"replica {layout.own[c]} layer {layer} expert {e}: shard {s} is held "
            f"{times[c, layer, e, s]} times"
            for c, layer, e, s in np.argwhere(times > 1).tolist()
        ],
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Rows sorted so that those of one expert follow each other.

    order: shape (rows,). starts, stops: the rows of every expert in that order.
    """

    order: IntArray
    starts: IntArray
    stops: IntArray

    @classmethod
    def of(cls, rows: _Rows) -> "_Runs":
        """Sort by replica, layer, expert and shard; solver's own plans are in this order."""
        key = rows.copy
        for values in (rows.layer, rows.expert):
            key = key * (int(values.max(initial=0)) + 1) + values
        finer = key * (int(rows.shard.max(initial=0)) + 1) + rows.shard
        order = np.argsort(finer, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        return cls(order, starts, np.append(starts[1:], len(order)))

    def rows_of(self, expert: int) -> IntArray:
        """Return the rows of the i-th expert."""
        return self.order[self.starts[expert] : self.stops[expert]]


def _groups(rows: _Rows) -> Iterator[Violation]:
    """Yield experts whose shards are not on one aligned group of etp ranks, in order."""
    if not len(rows.rank):
        return
    runs = _Runs.of(rows)
    order, starts = runs.order, runs.starts
    group = (rows.rank // rows.etp)[order]
    apart = np.minimum.reduceat(group, starts) != np.maximum.reduceat(group, starts)
    yield from found(
        "expert shards apart",
        [
            f"{rows.place(int(order[starts[e]]))}: shards are on ranks "
            f"{listed(rows.rank[runs.rows_of(e)].tolist())}, not on one group of "
            f"{rows.etp[order[starts[e]]]} consecutive ranks"
            for e in np.flatnonzero(apart).tolist()
        ],
    )
    wrong = (rows.rank % rows.etp != rows.shard)[order]
    swapped = np.logical_or.reduceat(wrong, starts) & ~apart
    yield from found(
        "expert shards swapped",
        [
            f"{rows.place(int(order[starts[e]]))}: shards "
            f"{listed(rows.shard[runs.rows_of(e)].tolist())} are on ranks "
            f"{listed(rows.rank[runs.rows_of(e)].tolist())}, expected rank order"
            for e in np.flatnonzero(swapped).tolist()
        ],
    )


def _grids(scenario: Scenario, plan: Plan, rows: _Rows) -> Iterator[Violation]:
    """Yield layers that leave one grid of their stage, and ranks that hold too many experts."""
    if not len(rows.rank):
        return
    num_layers, num_experts = scenario.llm.num_layers, scenario.llm.num_experts
    ep = stage_degrees(plan, "ep")[rows.stage]
    grid = rows.rank // (ep * rows.etp)
    key = rows.copy * num_layers + rows.layer
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    low = np.minimum.reduceat(grid[order], starts)
    high = np.maximum.reduceat(grid[order], starts)
    yield from found(
        "layer over several expert grids",
        [
            f"replica {rows.copy[i]} layer {rows.layer[i]}: its experts are in grids {a} to {b} of "
            f"stage {rows.stage[i]}"
            for i, a, b in zip(order[starts].tolist(), low.tolist(), high.tolist(), strict=True)
            if a != b
        ],
    )
    one_grid = np.zeros(len(plan.gpus) * num_layers, dtype=np.bool_)
    one_grid[key[order][starts[low == high]]] = True
    # Count distinct experts per rank, so that a doubled shard is not blamed here as well.
    widest = int(ep.max(initial=1))
    ep_rank = rows.rank // rows.etp % ep
    # Sorted here: np.unique hashes, which takes five times as long for half a million rows.
    experts = np.sort((key * widest + ep_rank) * num_experts + rows.expert)
    experts = experts[np.diff(experts, prepend=-1) > 0]
    ranks, held = np.unique(experts // num_experts, return_counts=True)
    layer_of = ranks // widest % num_layers
    ep_of = stage_degrees(plan, "ep")[_stage_of(rows, num_layers)[layer_of]]
    uneven = (held * ep_of != num_experts) & (num_experts % ep_of == 0) & one_grid[ranks // widest]
    yield from found(
        "uneven experts per rank",
        [
            f"replica {ranks[i] // widest // num_layers} layer {layer_of[i]}: expert rank "
            f"{ranks[i] % widest} holds {held[i]} experts, expected {num_experts // ep_of[i]}"
            for i in np.flatnonzero(uneven).tolist()
        ],
    )


def _stage_of(rows: _Rows, num_layers: int) -> IntArray:
    stage = np.zeros(num_layers, dtype=np.int64)
    stage[rows.layer] = rows.stage
    return stage


def _container(scenario: Scenario) -> tuple[str, int] | None:
    """Return the level and the size of what the shards of one expert must not leave, if any."""
    level = scenario.requirements.tensor_parallel_within
    if level == "cluster" or "tensor_parallel_within" in scenario.recipe.disable:
        return None
    return level, scenario.cluster.container_gpus(level)


def _containers(scenario: Scenario, rows: _Rows) -> Iterator[Violation]:
    container = _container(scenario)
    if container is None or not len(rows.gpu):
        return
    level, size = container
    runs = _Runs.of(rows)
    order, starts = runs.order, runs.starts
    home = (rows.gpu // size)[order]
    torn = np.minimum.reduceat(home, starts) != np.maximum.reduceat(home, starts)
    yield from found(
        "expert shards outside their container",
        [
            f"{rows.place(int(order[starts[e]]))}: shards are on GPUs "
            f"{listed(rows.gpu[runs.rows_of(e)].tolist())}, "
            f"not in one {level} of {plural(size, 'GPU')}"
            for e in np.flatnonzero(torn).tolist()
        ],
    )


def _follower_containers(scenario: Scenario, layout: Layout, rows: _Rows) -> Iterator[Violation]:
    """Look where the shards of the first replica's experts lie in the replicas that follow it."""
    container = _container(scenario)
    rows = rows.take(rows.copy == 0)
    if container is None or not len(layout.followers) or not len(rows.gpu):
        return
    level, size = container
    runs = _Runs.of(rows)
    groups: dict[tuple[int, tuple[int, ...]], int] = {}  # experts on the same ranks are torn alike
    for expert in range(len(runs.starts)):
        held = runs.rows_of(expert)
        ranks = tuple(rows.rank[held].tolist())
        groups.setdefault((int(rows.stage[held[0]]), ranks), int(held[0]))
    messages = []
    for (stage, ranks), row in groups.items():
        copies, _, gpus = layout.followed(stage)
        homes = gpus[:, ranks] // size
        torn = np.flatnonzero(homes.min(axis=1, initial=2**62) < homes.max(axis=1, initial=0))
        messages += [
            f"replica {copies[i]}, laid out as {rows.place(row)}: shards are on GPUs "
            f"{listed(gpus[i, list(ranks)].tolist())}, not in one {level} of {plural(size, 'GPU')}"
            for i in torn.tolist()
        ]
    yield from found("expert shards outside their container", messages)
