"""Layers, stages, GPUs and degrees of an explicit plan: each is there, once, where it belongs."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from autopar.problem import Plan
from autopar.results import Violation
from autopar.specs import Scenario
from autopar.units import plural
from autopar.verifier.findings import found
from autopar.verifier.layout import IntArray, Layout, listed
from autopar.verifier.work import largest_batch


def structure_violations(scenario: Scenario, plan: Plan, layout: Layout) -> Iterator[Violation]:
    """Yield what is wrong with the plan before any expert is looked at."""
    yield from _counts(plan)
    yield from _layers(plan, scenario.llm.num_layers)
    yield from _gpus(layout, scenario.cluster.num_gpus)
    yield from _grids(plan, layout)
    yield from _shares(scenario, plan)
    yield from _batch(scenario, plan)
    yield from _coverage(scenario, plan, layout)
    yield from _tensor_containers(scenario, plan, layout)
    yield from _stage_containers(scenario, layout)


def _counts(plan: Plan) -> Iterator[Violation]:
    messages = []
    if plan.pp != len(plan.stages):
        messages.append(f"pp = {plan.pp}, but {len(plan.stages)} stages are listed")
    if plan.replicas != len(plan.gpus):
        messages.append(f"replicas = {plan.replicas}, but GPUs of {len(plan.gpus)} are listed")
    messages += [
        f"replica {copy}: GPUs of {len(stages)} stages are listed, expected {len(plan.stages)}"
        for copy, stages in enumerate(plan.gpus)
        if len(stages) != len(plan.stages)
    ]
    yield from found("degrees against stages", messages)
    yield from found(
        "stage out of order",
        [
            f"the stage at position {position} has index {stage.index}"
            for position, stage in enumerate(plan.stages)
            if stage.index != position
        ],
    )
    yield from found(
        "stage without GPUs",
        [
            f"replica {copy} stage {stage} has no GPU"
            for copy, stages in enumerate(plan.gpus)
            for stage, ids in enumerate(stages)
            if not ids
        ],
    )


def _layers(plan: Plan, num_layers: int) -> Iterator[Violation]:
    holders: dict[int, list[int]] = {}
    for position, stage in enumerate(plan.stages):
        for layer in stage.layers:
            holders.setdefault(layer, []).append(position)
    yield from found(
        "stage without layers",
        [
            f"stage {position} holds no layer"
            for position, s in enumerate(plan.stages)
            if not s.layers
        ],
    )
    yield from found(
        "layer out of range",
        [
            f"stage {stages[0]} holds layer {layer}; the model has layers 0 to {num_layers - 1}"
            for layer, stages in holders.items()
            if layer >= num_layers
        ],
    )
    yield from found(
        "layer lost",
        [f"no stage holds layer {layer}" for layer in range(num_layers) if layer not in holders],
    )
    yield from found(
        "layer doubled",
        [
            f"layer {layer} is held {len(stages)} times, by stages {listed(stages)}"
            for layer, stages in holders.items()
            if len(stages) > 1
        ],
    )
    yield from _layer_order(plan)


def _layer_order(plan: Plan) -> Iterator[Violation]:
    gaps, turns = [], []
    before, where = -1, 0
    for position, stage in enumerate(plan.stages):
        for index, layer in enumerate(stage.layers):
            if layer < before:
                turns.append(
                    f"stage {position} holds layer {layer} after layer {before} of stage {where}"
                )
            elif index and layer > before + 1:
                gaps.append(f"stage {position} holds layers {listed(stage.layers)}")
            before, where = layer, position
    yield from found("layers not consecutive", list(dict.fromkeys(gaps)))
    yield from found("layers out of order", turns)


def _gpus(layout: Layout, num_gpus: int) -> Iterator[Violation]:
    beyond = np.flatnonzero(layout.gpu >= num_gpus)
    yield from found(
        "GPU out of range",
        [
            f"{_place(layout, index)} is GPU {layout.gpu[index]}; the cluster has GPUs 0 to "
            f"{num_gpus - 1}"
            for index in beyond.tolist()
        ],
    )
    order = np.lexsort((layout.rank, layout.stage, layout.copy, layout.gpu))
    gpu = layout.gpu[order]
    messages: dict[str, list[str]] = {
        "GPU doubled in a stage": [], "GPU in two stages": [], "GPU in two replicas": [],
    }  # fmt: skip
    for index in np.flatnonzero(gpu[1:] == gpu[:-1]).tolist():
        one, two = int(order[index]), int(order[index + 1])
        if layout.copy[one] != layout.copy[two]:
            kind = "GPU in two replicas"
        elif layout.stage[one] != layout.stage[two]:
            kind = "GPU in two stages"
        else:
            kind = "GPU doubled in a stage"
        messages[kind].append(
            f"GPU {gpu[index]} is {_place(layout, one)} and {_place(layout, two)}"
        )
    for kind, texts in messages.items():
        yield from found(kind, texts)


def _place(layout: Layout, index: int) -> str:
    return f"replica {layout.copy[index]} stage {layout.stage[index]} rank {layout.rank[index]}"


def _grids(plan: Plan, layout: Layout) -> Iterator[Violation]:
    messages = []
    for position, stage in enumerate(plan.stages):
        attention = stage.tp * stage.cp * stage.attn_dp
        experts = stage.ep * stage.etp * stage.spread
        for size, copies in Counter(layout.stage_gpus[:, position].tolist()).items():
            if attention == experts == size:
                continue
            messages.append(
                f"stage {position}: tp {stage.tp} x cp {stage.cp} x attn_dp {stage.attn_dp} = "
                f"{attention}, ep {stage.ep} x etp {stage.etp} x spread {stage.spread} = "
                f"{experts}, GPUs listed = {size}"
                + (f" in {copies} replicas" if copies > 1 else "")
            )
    yield from found("grid identity broken", messages)


def _shares(scenario: Scenario, plan: Plan) -> Iterator[Violation]:
    llm, most = scenario.llm, scenario.requirements.max_context_parallel_size
    # Declared costs know no shapes, so that a document's plan is not judged by an architecture.
    architecture = None if scenario.cost_model == "declared" else llm.architecture
    columns = "expert columns" if llm.is_moe else "heads and dense columns"
    shares = [("uneven experts", llm.num_experts, "experts", "ep")]
    if architecture is not None:
        shares += [
            ("uneven heads", architecture.tensor_unit, "heads and dense columns", "tp"),
            ("uneven columns", architecture.expert_unit, columns, "etp"),
        ]
    for kind, whole, what, key in shares:
        # A dense feed-forward is cut by tp, and etp says so again.
        said_of_tp = key == "etp" and not llm.is_moe
        yield from found(
            kind,
            [
                f"stage {position}: {whole} {what} do not divide by {key} = {getattr(stage, key)}"
                for position, stage in enumerate(plan.stages)
                if whole % getattr(stage, key) and not (said_of_tp and stage.etp == stage.tp)
            ],
        )
    yield from found(
        "context parallel size over its limit",
        [
            f"stage {position}: cp = {stage.cp}, at most {most} is allowed"
            for position, stage in enumerate(plan.stages)
            if stage.cp > most
        ],
    )
    most_grids = scenario.requirements.max_spread
    if most_grids is None or "max_spread" in scenario.recipe.disable or not llm.is_moe:
        return
    yield from found(
        "too many expert grids",
        [
            f"stage {position}: {stage.spread} expert grids, at most {most_grids} allowed"
            for position, stage in enumerate(plan.stages)
            if stage.spread > most_grids
        ],
    )


def _batch(scenario: Scenario, plan: Plan) -> Iterator[Violation]:
    """Yield a batch, or parts of prompts, that no scheduler takes."""
    work = scenario.workload
    if not work.is_open:
        for key, value, none in (("batch", plan.batch, 0), ("chunks", plan.chunks, 1)):
            if value != none:
                text = f"{key} = {value}, but workload {work.name!r} gives the batch"
                yield from found(f"{key} out of range", [text])
        return
    most, why = largest_batch(work, max(plan.chunks, 1))
    if not 1 <= plan.batch <= most:
        text = (
            f"batch = {plan.batch} sequences per attention group and micro-batch, expected 1 to "
            f"{most:,}: {why}"
        )
        if most < 1:
            text = f"no batch is small enough: {why}"
        yield from found("batch out of range", [text])
    length = work.input_tokens or 1
    most = length if work.chunked_prefill else 1
    if work.phase != "decode" and not work.fewest_chunks <= plan.chunks <= most:
        why = f"a step takes {work.prefill_chunk_tokens:,} tokens of prompts"
        text = (
            f"prompts of {length:,} tokens in {plan.chunks} parts, expected {work.fewest_chunks} "
            f"to {most:,}: {why if work.chunked_prefill else 'workload.chunked_prefill is false'}"
        )
        yield from found("chunks out of range", [text])


def _coverage(scenario: Scenario, plan: Plan, layout: Layout) -> Iterator[Violation]:
    coverage, num_gpus = scenario.requirements.coverage, scenario.cluster.num_gpus
    if coverage == "up_to" or "coverage" in scenario.recipe.disable:
        return
    works = np.zeros(num_gpus, dtype=np.bool_)
    works[layout.gpu[layout.gpu < num_gpus]] = True
    idle = np.flatnonzero(~works).tolist()
    if idle:
        verb = "is" if len(idle) == 1 else "are"
        text = f"{len(idle):,} of {plural(num_gpus, 'GPU')} {verb} in no stage: GPU {listed(idle)}"
        yield from found("idle GPU", [text])
    if coverage != "partition":
        return
    if len(plan.gpus) > 1:
        yield from found(
            "several replicas under partition",
            [f"{len(plan.gpus)} replicas; coverage partition is one copy of the model"],
        )
    holders, shards = np.unique(plan.placement[:, 4], return_counts=True)
    crowded = np.flatnonzero(shards > 1).tolist()
    yield from found(
        "several shards on one GPU",
        [f"GPU {holders[i]} holds {shards[i]} expert shards, expected 1" for i in crowded],
    )
    listed_gpus = layout.gpu[np.isin(layout.copy, layout.own)]
    empty = np.setdiff1d(listed_gpus, holders).tolist()
    yield from found("GPU without a shard", [f"GPU {gpu} holds no expert shard" for gpu in empty])


def _tensor_containers(scenario: Scenario, plan: Plan, layout: Layout) -> Iterator[Violation]:
    """Yield groups of tp and of etp consecutive ranks that lie in more than one container."""
    level = scenario.requirements.tensor_parallel_within
    if level == "cluster" or "tensor_parallel_within" in scenario.recipe.disable:
        return
    size = scenario.cluster.container_gpus(level)
    messages: list[tuple[int, int, str]] = []
    for position, stage in enumerate(plan.stages):
        for copies, gpus in layout.blocks(position):
            for key in ("tp", "etp"):
                groups = _groups_of(gpus, getattr(stage, key))
                for index, group in np.argwhere(_in_several(groups, size)).tolist():
                    ids = listed(groups[index, group].tolist())
                    text = (
                        f"replica {copies[index]} stage {position}: {key} group {group} = GPUs "
                        f"{ids}, not in one {level} of {plural(size, 'GPU')}"
                    )
                    messages.append((int(copies[index]), position, text))
    yield from found("tensor group outside its container", _in_order(messages))


def _stage_containers(scenario: Scenario, layout: Layout) -> Iterator[Violation]:
    """Yield stages with experts that lie in more than one container."""
    level = scenario.requirements.all_to_all_within
    disabled = "all_to_all_within" in scenario.recipe.disable
    if level == "cluster" or disabled or not scenario.llm.is_moe:
        return
    size = scenario.cluster.container_gpus(level)
    messages: list[tuple[int, int, str]] = []
    for position in range(layout.stage_gpus.shape[1]):
        for copies, gpus in layout.blocks(position):
            for index in np.flatnonzero(_in_several(gpus, size)).tolist():
                touched = np.unique(gpus[index] // size).tolist()
                text = (
                    f"replica {copies[index]} stage {position}: its {gpus.shape[1]} GPUs lie in "
                    f"{len(touched)} {level}s of {plural(size, 'GPU')}: {listed(touched)}"
                )
                messages.append((int(copies[index]), position, text))
    yield from found("stage outside its container", _in_order(messages))


def _groups_of(gpus: IntArray, width: int) -> IntArray:
    """Cut ranks into runs of `width`: (replicas, ranks) -> (replicas, groups, width)."""
    whole = gpus.shape[1] // width * width
    return gpus[:, :whole].reshape(len(gpus), -1, width)


def _in_several(gpus: IntArray, size: int) -> NDArray[np.bool_]:
    """Whether the GPUs along the last axis lie in several containers of `size` GPUs."""
    homes = gpus // size
    several: NDArray[np.bool_] = homes.min(axis=-1) < homes.max(axis=-1)
    return several


def _in_order(messages: list[tuple[int, int, str]]) -> list[str]:
    """Sort messages by replica and stage."""
    return [text for _, _, text in sorted(messages, key=lambda message: message[:2])]
