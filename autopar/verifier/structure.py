"""Layers, stages, GPUs and degrees of an explicit plan: each is there, once, where it belongs."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from autopar.problem import Plan
from autopar.results import Violation
from autopar.specs import Scenario
from autopar.verifier.findings import found
from autopar.verifier.layout import Layout, listed


def structure_violations(scenario: Scenario, plan: Plan, layout: Layout) -> Iterator[Violation]:
    """Yield what is wrong with the plan before any expert is looked at."""
    yield from _counts(plan)
    yield from _layers(plan, scenario.llm.num_layers)
    yield from _gpus(layout, scenario.cluster.num_gpus)
    yield from _grids(plan, layout)
    yield from _shares(scenario, plan)
    yield from _coverage(scenario, plan, layout)
    yield from _containers(scenario, plan)


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
    shares = [("uneven experts", llm.num_experts, "experts", "ep")]
    if architecture is not None:
        shares += [
            ("uneven heads", architecture.num_attention_heads, "attention heads", "tp"),
            ("uneven columns", architecture.ffn_hidden_size, "feed-forward columns", "etp"),
        ]
    for kind, whole, what, key in shares:
        yield from found(
            kind,
            [
                f"stage {position}: {whole} {what} do not divide by {key} = {getattr(stage, key)}"
                for position, stage in enumerate(plan.stages)
                if whole % getattr(stage, key)
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


def _coverage(scenario: Scenario, plan: Plan, layout: Layout) -> Iterator[Violation]:
    coverage, num_gpus = scenario.requirements.coverage, scenario.cluster.num_gpus
    if coverage == "up_to" or "coverage" in scenario.recipe.disable:
        return
    works = np.zeros(num_gpus, dtype=np.bool_)
    works[layout.gpu[layout.gpu < num_gpus]] = True
    idle = np.flatnonzero(~works).tolist()
    if idle:
        yield from found(
            "idle GPU",
            [f"{len(idle):,} of {num_gpus:,} GPUs are in no stage: GPU {listed(idle)}"],
        )
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
    empty = np.setdiff1d(layout.used_gpus, holders).tolist()
    yield from found("GPU without a shard", [f"GPU {gpu} holds no expert shard" for gpu in empty])


def _containers(scenario: Scenario, plan: Plan) -> Iterator[Violation]:
    needs, disabled = scenario.requirements, scenario.recipe.disable
    level = needs.tensor_parallel_within
    if level != "cluster" and "tensor_parallel_within" not in disabled:
        size = scenario.cluster.container_gpus(level)
        messages = [
            message
            for copy, stages in enumerate(plan.gpus)
            for stage, ids in zip(plan.stages, stages, strict=False)
            for key in ("tp", "etp")
            for message in _torn_groups(
                ids, getattr(stage, key), size, f"replica {copy} stage {stage.index}: {key}", level
            )
        ]
        yield from found("tensor group outside its container", messages)
    level = needs.all_to_all_within
    if level != "cluster" and scenario.llm.is_moe and "all_to_all_within" not in disabled:
        size = scenario.cluster.container_gpus(level)
        messages = []
        for copy, stages in enumerate(plan.gpus):
            for position, ids in enumerate(stages):
                touched = sorted({gpu // size for gpu in ids})
                if len(touched) > 1:
                    messages.append(
                        f"replica {copy} stage {position}: its {len(ids)} GPUs lie in "
                        f"{len(touched)} {level}s of {size} GPUs: {listed(touched)}"
                    )
        yield from found("stage outside its container", messages)


def _torn_groups(
    ids: tuple[int, ...], width: int, size: int, where: str, level: str
) -> Iterator[str]:
    """Yield the runs of `width` ranks that lie in more than one container of `size` GPUs."""
    whole = len(ids) // width * width
    groups = np.asarray(ids[:whole], dtype=np.int64).reshape(-1, width)
    homes = groups // size
    for index in np.flatnonzero(homes.min(axis=1, initial=2**62) < homes.max(axis=1, initial=0)):
        members = groups[index].tolist()
        yield f"{where} group {index} = GPUs {listed(members)}, not in one {level} of {size} GPUs"
