"""Plan files and explicit plans: one made from the other, exactly, both ways.

What a file writes out (stages, replicas, placement) is taken literally even when it is wrong, so
that `verify` sees the lost layer or the doubled GPU. What it leaves out is laid out in rank order:
layers in runs, stages on consecutive blocks of GPUs, experts on the ranks of their grid.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from autopar.errors import SpecError
from autopar.problem import PLACEMENT_COLUMNS, IntArray, Plan, Stage
from autopar.specs import LLM, SCHEMA_VERSION, PlanSpec, Scenario, StageSpec
from autopar.specs.base import MAX_GPUS, MAX_LAYERS
from autopar.topology import Topology
from autopar.unfold import place_experts

DEGREES = ("tp", "cp", "attn_dp", "ep", "etp", "spread")
MAX_PLACEMENT_ROWS = 2**24
_LARGEST_ID = 2**31 - 1  # beyond every GPU, layer and expert; keeps ids exact in int64 arithmetic
_NOWHERE = -1  # fills a stage that has fewer GPUs than its experts need

Gpus = tuple[tuple[tuple[int, ...], ...], ...]


def plan_from_spec(spec: PlanSpec, scenario: Scenario, *, after: int = 0) -> Plan:
    """Return the explicit plan of a plan file without roles.

    after: the first GPU that may be used where the file leaves GPUs out.
    Where `attn_dp` or `spread` is absent it follows from the stage's GPUs (written out, or
    `num_gpus` shared equally) and else from the grid identity: with spread 1 where both are absent,
    with attn_dp 1 in a dense model.
    Raises SpecError if the file is for another model or cluster, or if a layout cannot be derived.
    """
    _same_subject(spec, scenario)
    stages = _stages(spec, scenario)
    _check_size(spec, stages)
    gpus = _gpus(spec, scenario, stages, after)
    return Plan(
        name=spec.name,
        llm=spec.llm,
        cluster=scenario.cluster.name,
        replicas=spec.degrees.replicas,
        pp=spec.degrees.pp,
        stages=stages,
        gpus=gpus,
        placement=_placement(spec, scenario, stages, gpus),
        batch=_batch(spec, scenario),
        chunks=spec.chunks or scenario.workload.fewest_chunks,
    )


def _batch(spec: PlanSpec, scenario: Scenario) -> int:
    """Return the batch that a plan states; 0 where the workload gives it."""
    if not scenario.workload.is_open:
        return 0
    if spec.batch is None:
        raise SpecError(
            f"plan {spec.name!r}: batch: missing; expected the sequences per attention group and "
            f"micro-batch, which workload {scenario.workload.name!r} leaves open"
        )
    return spec.batch


def plan_parts(plan: Plan) -> dict[str, Any]:
    """Return the plan part of an answer, ready for JSON: a plan file that gives the plan back.

    `degrees` holds None where stages differ; a replica that is the first one moved, `gpu_offset`.
    """
    first = plan.gpus[0] if plan.gpus else ()
    return {
        "schema": SCHEMA_VERSION,
        "kind": "plan",
        "name": plan.name,
        "llm": plan.llm,
        "cluster": plan.cluster,
        "degrees": {key: plan.degree(key) for key in ("replicas", "pp", *DEGREES)},
        **({"batch": plan.batch, "chunks": plan.chunks} if plan.batch else {}),
        "num_gpus": plan.num_gpus or None,  # a file states a positive number or none
        "stages": [
            {
                "index": stage.index,
                "layers": list(stage.layers),
                "gpus": list(ids),
                "pool": plan.cluster,
                **{key: getattr(stage, key) for key in DEGREES},
            }
            for stage, ids in zip(plan.stages, first, strict=True)
        ],
        "replicas": [
            {"index": index, **_replica_part(first, replica)}
            for index, replica in enumerate(plan.gpus)
        ],
        "placement": _placement_rows(plan.placement),
    }


def _placement_rows(placement: IntArray) -> list[dict[str, int]]:
    """Return a row per expert shard, with the names of PLACEMENT_COLUMNS.

    They are spelled out, because there may be half a million of them.
    """
    return [
        {"layer": layer, "expert": expert, "copy": copy, "shard": shard, "gpu": gpu}
        for layer, expert, copy, shard, gpu in placement.tolist()
    ]


def stated_numbers(spec: PlanSpec) -> dict[str, Any]:
    """Return what a plan file states about itself beside the plan, for `verify` to recompute."""
    beside = {
        "num_gpus": spec.num_gpus,
        "idle_gpus": spec.idle_gpus,
        "objective": spec.objective,
        "objectives": spec.objectives,
        "status": spec.status,
    }
    return {**(spec.metrics or {}), **{k: v for k, v in beside.items() if v is not None}}


def _same_subject(spec: PlanSpec, scenario: Scenario) -> None:
    for key, found, expected in (
        ("llm", spec.llm, scenario.llm.name),
        ("cluster", spec.cluster, scenario.cluster.name),
    ):
        if found is not None and found != expected:
            raise SpecError(
                f"plan {spec.name!r}: {key}: found {found!r}, expected {expected!r}, the {key} of "
                f"scenario {scenario.name!r}; verify a plan against its own {key}"
            )


def _stages(spec: PlanSpec, scenario: Scenario) -> tuple[Stage, ...]:
    if spec.stages is not None:
        return tuple(
            _stage(spec, scenario, stage.index, stage.layers, stage) for stage in spec.stages
        )
    sizes = _split(spec, scenario)
    starts = np.concatenate(([0], np.cumsum(sizes))).tolist()
    layers = (tuple(range(starts[s], starts[s + 1])) for s in range(len(sizes)))
    return tuple(_stage(spec, scenario, s, run, None) for s, run in enumerate(layers))


def _split(spec: PlanSpec, scenario: Scenario) -> list[int]:
    """Return the layers of each stage."""
    pp, num_layers, given = spec.degrees.pp, scenario.llm.num_layers, spec.layers_per_stage
    if pp > MAX_LAYERS:
        raise SpecError(
            f"plan {spec.name!r}: degrees.pp: found {pp}, expected at most {MAX_LAYERS}"
        )
    if given is None:
        if num_layers % pp:
            raise SpecError(
                f"plan {spec.name!r}: layers_per_stage: not given, and {num_layers} layers do not "
                f"split evenly over pp = {pp} stages; write it as a list of {pp} numbers"
            )
        return [num_layers // pp] * pp
    sizes = [given] * pp if isinstance(given, int) else list(given)
    if len(sizes) != pp:
        raise SpecError(
            f"plan {spec.name!r}: layers_per_stage: found {len(sizes)} numbers, "
            f"expected {pp}, one for each of the pp = {pp} stages"
        )
    if sum(sizes) > MAX_LAYERS:
        raise SpecError(
            f"plan {spec.name!r}: layers_per_stage: found {sum(sizes):,} layers in all, "
            f"expected the {num_layers} of {scenario.llm.name!r}"
        )
    return sizes


def _stage(
    spec: PlanSpec,
    scenario: Scenario,
    index: int,
    layers: tuple[int, ...],
    written: StageSpec | None,
) -> Stage:
    given = {
        key: getattr(written, key, None) or getattr(spec.degrees, key)
        for key in DEGREES
    }  # fmt: skip
    where = f"plan {spec.name!r}: stages[{index}]" if written else f"plan {spec.name!r}: degrees"
    for key in ("tp", "cp", "ep", "etp"):
        if given[key] is None:
            raise SpecError(f"{where}.{key}: not given, neither for the stage nor in degrees")
    if not scenario.llm.is_moe and "etp" not in _written(spec, written):
        given["etp"] = given["tp"]  # the feed-forward of a dense layer is cut as its attention is
    attention, grid = given["tp"] * given["cp"], given["ep"] * given["etp"]
    num_gpus = _stated_stage_gpus(spec, written)
    attn_dp, spread = given["attn_dp"], given["spread"]
    if num_gpus is not None:  # what the GPUs say; a rest is for verify to see
        attn_dp = attn_dp or max(1, num_gpus // attention)
        spread = spread or max(1, num_gpus // grid)
    elif not scenario.llm.is_moe:
        attn_dp = attn_dp or 1
        spread = spread or _quotient(
            attention * attn_dp, grid, where, "tp * cp * attn_dp", "ep * etp"
        )
    elif attn_dp is not None:
        spread = spread or _quotient(
            attention * attn_dp, grid, where, "tp * cp * attn_dp", "ep * etp"
        )
    else:
        spread = spread or 1
        attn_dp = _quotient(grid * spread, attention, where, "ep * etp * spread", "tp * cp")
    degrees = {**given, "attn_dp": attn_dp, "spread": spread}
    return Stage(index=index, layers=layers, **degrees)


def _written(spec: PlanSpec, stage: StageSpec | None) -> frozenset[str]:
    """Return the degrees that the file writes out, for this stage or for all."""
    own = stage.model_fields_set if stage is not None else frozenset()
    return frozenset(spec.degrees.model_fields_set | own)


def _stated_stage_gpus(spec: PlanSpec, written: StageSpec | None) -> int | None:
    """Return the GPUs of a stage where the file gives them, else an equal share of `num_gpus`."""
    if written is not None:
        return len(written.gpus)
    count = spec.degrees.replicas * spec.degrees.pp
    if spec.num_gpus is None or spec.num_gpus % count:
        return None
    share = spec.num_gpus // count
    degrees = {key: getattr(spec.degrees, key) or 1 for key in ("tp", "cp", "ep", "etp")}
    tiles = (degrees["tp"] * degrees["cp"], degrees["ep"] * degrees["etp"])
    return None if any(share % tile for tile in tiles) else share


def _quotient(whole: int, part: int, where: str, whole_text: str, part_text: str) -> int:
    if whole % part:
        raise SpecError(
            f"{where}: {whole_text} = {whole} is not a multiple of {part_text} = {part}, so the "
            "two do not tile one stage; expected tp * cp * attn_dp = ep * etp * spread"
        )
    return whole // part


def _check_size(spec: PlanSpec, stages: Sequence[Stage]) -> None:
    """Refuse sizes that no cluster has, before anything of that size is built."""
    if len(stages) > MAX_LAYERS:
        raise SpecError(
            f"plan {spec.name!r}: found {len(stages):,} stages, expected at most {MAX_LAYERS:,}"
        )
    total = spec.degrees.replicas * max(1, sum(_stage_gpus(stage) for stage in stages))
    if total > MAX_GPUS:
        raise SpecError(
            f"plan {spec.name!r}: degrees: {total:,} GPUs in all, expected at most {MAX_GPUS:,}"
        )
    for stage in spec.stages or ():
        _check_ids(spec, f"stages[{stage.index}]", (*stage.layers, *stage.gpus))


def _check_ids(spec: PlanSpec, where: str, ids: Sequence[int]) -> None:
    largest = max(ids, default=0)
    if largest > _LARGEST_ID:
        raise SpecError(
            f"plan {spec.name!r}: {where}: found id {largest}, expected at most {_LARGEST_ID:,}"
        )


def _stage_gpus(stage: Stage) -> int:
    """GPUs that a stage needs; the larger of its two grids where they disagree."""
    return max(stage.num_gpus, prod((stage.ep, stage.etp, stage.spread)))


def _gpus(spec: PlanSpec, scenario: Scenario, stages: Sequence[Stage], after: int) -> Gpus:
    count = spec.degrees.replicas
    if spec.replicas is None:
        if spec.stages is None:
            return _laid_out(scenario, stages, count, after)
        return _moved([s.gpus for s in spec.stages], count)
    first: Sequence[Sequence[int]] = (
        [s.gpus for s in spec.stages]
        if spec.stages is not None
        else _laid_out(scenario, stages, 1, after)[0]
    )
    replicas = []
    for position, replica in enumerate(spec.replicas):
        where = f"replicas[{position}]"
        if replica.index != position:
            raise SpecError(
                f"plan {spec.name!r}: {where}.index: found {replica.index}, expected {position}"
            )
        if replica.stages is None:
            offset = replica.gpu_offset or 0
            _check_ids(spec, f"{where}.gpu_offset", (offset,))
            replicas.append(_shifted(first, offset))
            continue
        if len(replica.stages) != len(stages):
            raise SpecError(
                f"plan {spec.name!r}: {where}.stages: found GPUs of {len(replica.stages)} stages, "
                f"expected {len(stages)}, one list for each stage of the plan"
            )
        for ids in replica.stages:
            _check_ids(spec, f"{where}.stages", ids)
        replicas.append(replica.stages)
    return tuple(replicas)


def _laid_out(scenario: Scenario, stages: Sequence[Stage], replicas: int, after: int) -> Gpus:
    """Return GPUs in rank order: blocks inside their containers where they fit, else in a row."""
    needs = scenario.requirements
    sizes = [_stage_gpus(stage) for stage in stages]
    groups = {(stage.tp, stage.cp, stage.etp) for stage in stages}
    blocks: list[tuple[int, ...]] = []
    if len(set(sizes)) == 1 and len(groups) == 1:
        topology = Topology.of(
            scenario.cluster, needs.tensor_parallel_within, needs.all_to_all_within
        ).charged(scenario)
        try:
            blocks = topology.stage_gpus(
                topology.footprint(*groups.pop(), sizes[0]), replicas * len(stages), after
            )
        except ValueError:  # they do not fit: in a row, and verify says what leaves its container
            blocks = []
    if not blocks:
        starts = (after + np.concatenate(([0], np.cumsum(sizes * replicas)))).tolist()
        blocks = [tuple(range(a, b)) for a, b in pairwise(starts)]
    pp = len(stages)
    return tuple(tuple(blocks[r * pp : (r + 1) * pp]) for r in range(replicas))


def _moved(first: Sequence[Sequence[int]], count: int) -> Gpus:
    """Return `count` replicas, each the first one moved past the GPUs of the one before."""
    ids = [gpu for stage in first for gpu in stage]
    span = max(ids) - min(ids) + 1 if ids else 0
    return tuple(_shifted(first, index * span) for index in range(count))


def _shifted(first: Sequence[Sequence[int]], offset: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(gpu + offset for gpu in stage) for stage in first)


def _replica_part(
    first: Sequence[Sequence[int]], replica: Sequence[Sequence[int]]
) -> dict[str, Any]:
    if replica and first and replica[0] and first[0]:
        offset = replica[0][0] - first[0][0]
        if offset >= 0 and _shifted(first, offset) == tuple(replica):
            return {"gpu_offset": offset}
    return {"stages": [list(ids) for ids in replica]}


def _placement(spec: PlanSpec, scenario: Scenario, stages: Sequence[Stage], gpus: Gpus) -> IntArray:
    if spec.placement is not None:
        rows = [(p.layer, p.expert, p.copy_index, p.shard, p.gpu) for p in spec.placement]
        for index, row in enumerate(rows):
            if max(row) > _LARGEST_ID:
                _check_ids(spec, f"placement[{index}]", row)
        return np.array(rows, dtype=np.int64).reshape(-1, len(PLACEMENT_COLUMNS))
    holders = set(scenario.llm.expert_layers)
    num_rows = (
        scenario.llm.num_experts
        * len(gpus)
        * sum(len(set(s.layers) & holders) * s.etp for s in stages)
    )
    if num_rows > MAX_PLACEMENT_ROWS:
        raise SpecError(
            f"plan {spec.name!r}: {num_rows:,} expert shards, "
            f"expected at most {MAX_PLACEMENT_ROWS:,}"
        )
    filled = [stage for stage in stages if stage.layers]
    if not filled or not gpus:
        return np.zeros((0, len(PLACEMENT_COLUMNS)), dtype=np.int64)
    padded = [
        [_padded(stage, ids) for stage, ids in zip(stages, replica, strict=True) if stage.layers]
        for replica in gpus
    ]
    placed = place_experts(filled, padded, scenario.llm)
    on_gpus: IntArray = placed[placed[:, -1] != _NOWHERE]
    return on_gpus


def _padded(stage: Stage, ids: Sequence[int]) -> tuple[int, ...]:
    """Return the GPUs of a stage, filled up to its expert grids where it has too few."""
    return (*ids, *(_NOWHERE,) * (stage.ep * stage.etp * stage.spread - len(ids)))


def with_experts_in_runs(plan: Plan, llm: LLM) -> Plan:
    """Return the plan with consecutive experts on each rank, as engines deal them."""
    return replace(plan, placement=place_experts(plan.stages, plan.gpus, llm))
