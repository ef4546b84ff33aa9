"""An explicit plan as engines see one: the same degrees in every stage, layers in runs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from autopar.export.capacity import Capacity, capacity_of
from autopar.placement.files.maps import ExpertMap
from autopar.problem import AnyPlan, DisaggregatedPlan, Metrics, Plan
from autopar.specs import LLM, Cluster, Scenario
from autopar.specs.roles import ROLES, role_scenario
from autopar.verifier.layout import NONE

_DEGREES = ("tp", "cp", "attn_dp", "ep", "etp", "spread")


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout of replicas that are alike.

    role: `prefill` or `decode` in a disaggregated service, else empty. split: layers of each stage.
    gpus: `gpus[replica][stage]`, in the plan's rank order. experts: the map of each replica, whose
    slot j lies on expert rank j // (num_experts / ep); None in a dense model. chunks: parts of a
    prompt; fewest_chunks: by the workload, whose steps may have no room for whole ones.
    """

    name: str
    role: str
    llm: LLM
    cluster: Cluster
    tp: int
    cp: int
    attn_dp: int
    ep: int
    etp: int
    split: tuple[int, ...]
    batch: int
    chunks: int
    gpus: tuple[tuple[tuple[int, ...], ...], ...]
    experts: tuple[ExpertMap | None, ...]
    capacity: Capacity
    fewest_chunks: int = 1

    @property
    def replicas(self) -> int:
        """Independent copies of the model."""
        return len(self.gpus)

    @property
    def pp(self) -> int:
        """Stages."""
        return len(self.split)

    @property
    def stage_gpus(self) -> int:
        """GPUs of one stage."""
        return self.tp * self.cp * self.attn_dp

    @property
    def is_moe(self) -> bool:
        """Whether there are experts."""
        return self.llm.is_moe


def layouts_of(
    plan: AnyPlan, scenario: Scenario, metrics: Mapping[str, Metrics | None]
) -> tuple[tuple[Layout, ...], list[str]]:
    """Return the layouts of a plan, one or one per role, and why no engine can start it.

    metrics: by role; under "" those of a plan without roles.
    """
    if isinstance(plan, DisaggregatedPlan):
        parts = [
            _layout_of(role, plan.roles[role], role_scenario(scenario, role), scenario, metrics)
            for role in ROLES
        ]
    else:
        parts = [_layout_of("", plan, scenario, scenario, metrics)]
    reasons = list(chain.from_iterable(why for _, why in parts))
    return tuple(layout for layout, _ in parts if layout is not None), reasons


def _layout_of(
    role: str,
    plan: Plan,
    scenario: Scenario,
    asked: Scenario,
    metrics: Mapping[str, Metrics | None],
) -> tuple[Layout | None, list[str]]:
    where = f"{role}: " if role else ""
    llm = scenario.llm
    reasons = [*_uneven(plan, llm), *_strewn(plan, llm, scenario.cluster)]
    if reasons:
        return None, [where + reason for reason in reasons]
    stage = plan.stages[0]
    layout = Layout(
        name=plan.name,
        role=role,
        llm=llm,
        cluster=scenario.cluster,
        tp=stage.tp,
        cp=stage.cp,
        attn_dp=stage.attn_dp,
        ep=stage.ep if llm.is_moe else 1,
        etp=stage.etp,
        split=tuple(len(s.layers) for s in plan.stages),
        batch=plan.batch,
        chunks=plan.chunks,
        gpus=plan.gpus,
        experts=(None,) * len(plan.gpus),
        capacity=capacity_of(
            plan,
            scenario.workload,
            asked.workload,
            metrics.get(role),
            asked.requirements.max_memory_fraction * scenario.cluster.gpu.memory_bytes,
        ),
        fewest_chunks=scenario.workload.fewest_chunks,
    )
    if not llm.is_moe:
        return _folded(layout), []
    if llm.num_experts % layout.ep:
        why = f"{llm.num_experts} experts do not divide over {layout.ep} expert ranks"
        return None, [where + why]
    experts, wrong = _experts(plan, layout)
    if wrong:
        return None, [where + wrong]
    return replace(layout, experts=experts), []


def _uneven(plan: Plan, llm: LLM) -> list[str]:
    """Say which degrees differ between stages, and that engines have one expert grid per stage."""
    names = _DEGREES if llm.is_moe else ("tp", "cp", "attn_dp")
    reasons = []
    for name in names:
        found = {getattr(stage, name) for stage in plan.stages}
        if name == "spread" and llm.is_moe and found != {1}:
            most = max(found)
            reasons.append(
                f"spread is {most}: the layers of a stage lie on {most} expert grids of their own, "
                "and engines have one grid per stage"
            )
        elif len(found) > 1:
            values = ", ".join(map(str, sorted(found)))
            reasons.append(f"{name} differs between stages ({values}), and engines have one")
    return reasons


def _strewn(plan: Plan, llm: LLM, cluster: Cluster) -> list[str]:
    """Say what is wrong with how layers and ranks lie."""
    layers = list(chain.from_iterable(stage.layers for stage in plan.stages))
    if layers != list(range(llm.num_layers)):
        return [f"its stages do not hold the {llm.num_layers} layers in order, one after another"]
    reasons = []
    ids = list(chain.from_iterable(chain.from_iterable(plan.gpus)))
    if len(set(ids)) < len(ids):
        reasons.append("a GPU has two ranks")
    if ids and max(ids) >= cluster.num_gpus:
        reasons.append(f"it uses GPU {max(ids)}; the cluster has {cluster.num_gpus}")
    for replica in plan.gpus:
        if any(len(a) != s.num_gpus for a, s in zip(replica, plan.stages, strict=True)):
            reasons.append("a stage has another number of GPUs than tp * cp * attn_dp")
            break
    return reasons


def _folded(layout: Layout) -> Layout:
    """Return a dense layout whose attention groups, which share nothing, are replicas."""
    if layout.attn_dp == 1:
        return layout
    size = layout.tp * layout.cp
    gpus = tuple(
        tuple(stage[group * size : (group + 1) * size] for stage in replica)
        for replica in layout.gpus
        for group in range(layout.attn_dp)
    )
    return replace(layout, attn_dp=1, etp=layout.tp, gpus=gpus, experts=(None,) * len(gpus))


def _experts(plan: Plan, layout: Layout) -> tuple[tuple[ExpertMap | None, ...], str]:
    """Return the map of each replica; those without rows have the first one's."""
    maps: list[ExpertMap | None] = []
    holders = np.array(layout.llm.expert_layers, dtype=np.int64)
    first = np.cumsum((0, *layout.split))
    stage_of = np.searchsorted(first, holders, side="right") - 1
    for copy, replica in enumerate(layout.gpus):
        rows = plan.placement[plan.placement[:, 2] == copy]
        if not len(rows) and copy:
            maps.append(maps[0])
            continue
        rank = np.full((layout.pp, layout.cluster.num_gpus), NONE, dtype=np.int64)
        for number, ids in enumerate(replica):
            rank[number, list(ids)] = np.arange(len(ids))
        index = np.searchsorted(holders, rows[:, 0])
        if len(rows) != len(holders) * layout.llm.num_experts * layout.etp:
            return (), f"replica {copy}: its placement does not hold every shard of every expert"
        if not np.isin(rows[:, 0], holders).all():
            return (), f"replica {copy}: its placement names a layer without experts"
        at = rank[stage_of[index], rows[:, 4]]
        if (at == NONE).any() or (at % layout.etp != rows[:, 3]).any():
            return (), (
                f"replica {copy}: shards of experts do not lie on the ranks of their stage's grid "
                "in order (rank = expert rank * etp + shard)"
            )
        found = _slots(rows, index, at // layout.etp, layout)
        if found is None:
            return (), (
                f"replica {copy}: expert ranks do not hold as many experts each, and engines want "
                "as many slots on every rank"
            )
        maps.append(ExpertMap(found, layout.llm.expert_layers))
    return tuple(maps), ""


def _slots(
    rows: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]",
    index: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]",
    expert_rank: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]",
    layout: Layout,
) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None":
    """Return the expert of each slot, shape (layers, experts); None where ranks are uneven."""
    num_experts, num_layers = layout.llm.num_experts, len(layout.llm.expert_layers)
    held = np.full((num_layers, num_experts), NONE, dtype=np.int64)
    for shard in range(layout.etp):
        mine = rows[:, 3] == shard
        here = np.full((num_layers, num_experts), NONE, dtype=np.int64)
        here[index[mine], rows[mine, 1]] = expert_rank[mine]
        if (here == NONE).any() or (shard and (here != held).any()):
            return None
        held = here
    counts = np.stack([(held == rank).sum(axis=1) for rank in range(layout.ep)])
    if (counts != num_experts // layout.ep).any():
        return None
    return np.argsort(held, axis=1, kind="stable")
