"""The explicit plan: every part once per replica, in rank order, where each formula says."""

from collections import Counter
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from autopar.problem import Candidate, Plan, Problem
from autopar.search import make_task
from autopar.specs import Scenario
from autopar.testing import every_choice
from autopar.unfold import expert_gpu, unfold

Build = Callable[[dict[str, Any]], Scenario]

SMALL = {
    "llm.num_layers": 3,
    "llm.num_experts": 4,
    "cluster.num_nodes": 6,
    "cluster.gpus_per_node": 4,
    "cluster.gpus_per_domain": 12,
    "rules": [],
}


def problem(build: Build, **changes: Any) -> Problem:
    return make_task(build(SMALL | {k.replace("__", "."): v for k, v in changes.items()})).problem


def allowed(found: Problem, limit: int = 60) -> list[Candidate]:
    """Some candidates of a problem that its containers hold."""
    rows, topology = found.candidates, found.topology
    stage_gpus = rows.ep * rows.etp * np.maximum(rows.spread, 1)
    fits = topology.num_stages(topology.footprint(rows.tp, rows.cp, rows.etp, stage_gpus))
    index = np.flatnonzero((rows.spread == 0) | (fits >= rows.replicas * rows.pp))
    return [rows.row(i) for i in index[:: len(index) // limit + 1].tolist()]


CASES: list[dict[str, Any]] = [
    {},
    {"requirements__coverage": "every_gpu"},
    {"requirements__coverage": "up_to", "cluster__gpus_per_node": 3},
    {"requirements__coverage": "every_gpu", "requirements__all_to_all_within": "cluster"},
]


def plans(found: Problem) -> list[tuple[Candidate, Plan]]:
    chosen = set(allowed(found))
    return [
        (choice.candidate, unfold(found, choice.candidate, choice.split))
        for choice in every_choice(found)
        if choice.candidate in chosen
    ]


@pytest.mark.parametrize("changes", CASES)
def test_every_expert_shard_stands_exactly_once_in_every_replica(
    document_scenario: Build, changes: dict[str, Any]
) -> None:
    found = problem(document_scenario, **changes)
    seen = plans(found)
    assert len(seen) > 3
    for candidate, plan in seen:
        parts = Counter(tuple(part) for part in plan.placement[:, :4].tolist())
        assert parts == {
            (layer, expert, copy, shard): 1
            for layer in range(found.num_layers)
            for expert in range(found.num_experts)
            for copy in range(candidate.replicas)
            for shard in range(candidate.etp)
        }


@pytest.mark.parametrize("changes", CASES)
def test_stages_have_gpus_of_their_own_in_the_containers_that_confine_them(
    document_scenario: Build, changes: dict[str, Any]
) -> None:
    found = problem(document_scenario, **changes)
    for candidate, plan in plans(found):
        flat = [gpu for replica in plan.gpus for stage in replica for gpu in stage]
        assert len(flat) == len(set(flat)) == plan.num_gpus
        assert set(flat) <= set(range(found.num_gpus))
        assert len(plan.gpus) == candidate.replicas
        for stage, gpus in zip(plan.stages * candidate.replicas, sum(plan.gpus, ()), strict=True):
            assert len(gpus) == stage.num_gpus == stage.ep * stage.etp * stage.spread
            if candidate.spread:
                assert len({gpu // found.topology.stage_container for gpu in gpus}) == 1
                for width in (stage.tp, stage.etp):
                    for start in range(0, len(gpus), width):
                        group = gpus[start : start + width]
                        assert len({g // found.topology.group_container for g in group}) == 1


@pytest.mark.parametrize("changes", CASES)
def test_an_expert_sits_on_the_rank_that_the_plan_class_defines(
    document_scenario: Build, changes: dict[str, Any]
) -> None:
    """Rank (grid * ep + ep_i) * etp + shard; experts and layers are dealt in contiguous runs."""
    found = problem(document_scenario, **changes)
    for candidate, plan in plans(found):
        where = {tuple(part[:4]): part[4] for part in plan.placement.tolist()}
        for copy in range(candidate.replicas):
            for stage, gpus in zip(plan.stages, plan.gpus[copy], strict=True):
                per_rank = found.num_experts // stage.ep
                ranks = {gpu: rank for rank, gpu in enumerate(gpus)}
                grids = []
                for layer in stage.layers:
                    found_at = [
                        ranks[where[layer, expert, copy, shard]]
                        for expert in range(found.num_experts)
                        for shard in range(stage.etp)
                    ]
                    grid = found_at[0] // (stage.ep * stage.etp)
                    grids.append(grid)
                    assert found_at == [
                        (grid * stage.ep + expert // per_rank) * stage.etp + shard
                        for expert in range(found.num_experts)
                        for shard in range(stage.etp)
                    ]
                # layers take the grids in order, none is left out, and no grid has one too many
                assert grids == sorted(grids)
                assert set(grids) == set(range(stage.spread))
                sizes = Counter(grids).values()
                assert max(sizes) - min(sizes) <= 1


def test_stages_and_replicas_take_gpus_in_order(document_scenario: Build) -> None:
    """Two replicas of two stages of 4 GPUs, nodes of 4: 0-3, 4-7, then 8-11, 12-15."""
    found = problem(document_scenario, requirements__coverage="up_to", llm__num_layers=2)
    plan = unfold(found, Candidate(2, 2, 2, 1, 2, 4, 1, 1), (1, 1))
    runs = [tuple(range(start, start + 4)) for start in (0, 4, 8, 12)]
    assert plan.gpus == ((runs[0], runs[1]), (runs[2], runs[3]))
    assert [stage.layers for stage in plan.stages] == [(0,), (1,)]


@pytest.mark.parametrize("changes", CASES[1:])
def test_expert_gpu_agrees_with_the_unfolded_plan(
    document_scenario: Build, changes: dict[str, Any]
) -> None:
    found = problem(document_scenario, **changes)
    for candidate, plan in plans(found):
        for layer, expert, copy, shard, gpu in plan.placement.tolist():
            if copy == 0:
                stage = next(s for s in plan.stages if layer in s.layers)
                segment = (stage.layers[0], stage.layers[-1] + 1)
                part = (layer, expert, shard)
                assert expert_gpu(found, candidate, stage.index, segment, part) == gpu


def test_expert_gpu_is_none_for_a_part_that_does_not_exist(document_scenario: Build) -> None:
    found = problem(document_scenario, requirements__coverage="up_to")
    candidate = Candidate(1, 1, 2, 1, 4, 4, 1, 2)
    assert expert_gpu(found, candidate, 0, (0, 3), (0, 3, 0)) == 3
    assert expert_gpu(found, candidate, 0, (0, 3), (0, 3, 1)) is None  # no second shard
    assert expert_gpu(found, candidate, 0, (0, 1), (0, 3, 0)) is None  # two grids, one layer
    assert expert_gpu(found, candidate, 99, (0, 3), (0, 3, 0)) is None  # no such block


def test_blocks_and_ranks_of_a_partition_can_be_given(document_scenario: Build) -> None:
    """Each layer takes the block it is told, each expert the rank; the rest is as in order."""
    found = problem(document_scenario)
    candidate = next(c for c in found.candidates if c.pp == 2)
    etp, grid = candidate.etp, candidate.grid_gpus
    ranks = np.array([[3, 1, 0, 2], [0, 1, 2, 3], [1, 0, 3, 2]])
    for blocks in permutations(range(3)):
        plan = unfold(found, candidate, (2, 1), layer_blocks=blocks, expert_ranks=ranks)
        assert len(plan.placement) == 3 * 4 * etp
        for layer, expert, copy, shard, gpu in plan.placement.tolist():
            assert copy == 0
            assert gpu == blocks[layer] * grid + int(ranks[layer, expert]) * etp + shard
        for stage, gpus in zip(plan.stages, plan.gpus[0], strict=True):
            held = {
                g for part in plan.placement.tolist() if part[0] in stage.layers for g in part[4:]
            }
            assert held == set(gpus)


def test_a_dense_model_has_stages_but_no_placement(document_scenario: Build) -> None:
    found = problem(document_scenario, llm__num_experts=0, requirements__coverage="every_gpu")
    plan = unfold(found, Candidate(3, 2, 4, 1, 1, 1, 4, 1), (2, 1))
    assert plan.placement.shape == (0, 5)
    assert plan.num_gpus == 24
    assert plan.gpus[2] == ((16, 17, 18, 19), (20, 21, 22, 23))


def mixed_problem(build: Callable[..., Scenario]) -> Problem:
    """Layers 0, 3 and 4 have experts, 1, 2 and 5 have not; 8 nodes of 4 GPUs."""
    attention = {"kind": "gqa", "num_heads": 4, "num_kv_heads": 4, "head_dim": 8}
    dense, experts = ({"attention": "full", "feed_forward": f} for f in ("dense", "moe"))
    return make_task(
        build(
            architecture={
                "hidden_size": 32,
                "vocab_size": 50,
                "attention": {"full": attention},
                "feed_forward": {
                    "dense": {"kind": "dense", "ffn_size": 64},
                    "moe": {
                        "kind": "moe", "num_experts": 4, "experts_per_token": 1,
                        "expert_size": 64,
                    },
                },
                "layers": [{"layers": [experts, dense, dense, experts, experts, dense]}],
            }
        )
    ).problem  # fmt: skip


def test_only_layers_with_experts_have_a_placement(
    analytic_scenario: Callable[..., Scenario],
) -> None:
    """One stage on 2 grids of 2 GPUs: layers 0 and 3 take the first, 4 the second.

    Of 3 layers with experts the j-th takes grid 2 j // 3.
    """
    found = mixed_problem(analytic_scenario)
    plan = unfold(found, Candidate(1, 1, 1, 1, 4, 2, 1, 2), (6,))
    assert {part[0] for part in plan.placement.tolist()} == {0, 3, 4}
    assert len(plan.placement) == 3 * 4
    for layer, expert, _, _, gpu in plan.placement.tolist():
        assert gpu == {0: 0, 3: 0, 4: 2}[layer] + expert // 2


def test_stages_without_experts_have_gpus_and_no_placement(
    analytic_scenario: Callable[..., Scenario],
) -> None:
    """Layers 1 and 2 are a stage of their own."""
    found = mixed_problem(analytic_scenario)
    plan = unfold(found, Candidate(1, 3, 1, 1, 2, 2, 1, 1), (1, 2, 3))
    assert plan.gpus == (((0, 1), (2, 3), (4, 5)),)
    assert {part[4] for part in plan.placement.tolist()} == {0, 1, 4, 5}


def test_expert_gpu_follows_the_layers_with_experts(
    analytic_scenario: Callable[..., Scenario],
) -> None:
    found = mixed_problem(analytic_scenario)
    candidate = Candidate(1, 1, 1, 1, 4, 2, 1, 2)
    plan = unfold(found, candidate, (6,))
    for layer, expert, _, shard, gpu in plan.placement.tolist():
        assert expert_gpu(found, candidate, 0, (0, 6), (layer, expert, shard)) == gpu
    assert expert_gpu(found, candidate, 0, (0, 6), (1, 0, 0)) is None  # a dense layer


def test_a_plan_keeps_the_batch_and_the_parts_of_a_prompt(document_scenario: Build) -> None:
    found = problem(document_scenario, requirements__coverage="up_to", llm__num_layers=2)
    plan = unfold(found, Candidate(1, 1, 2, 1, 2, 4, 1, 1, batch=7, chunks=3), (2,))
    assert (plan.batch, plan.chunks) == (7, 3)


def test_a_layout_may_begin_after_the_gpus_of_another(document_scenario: Build) -> None:
    """Units of 2 GPUs in domains of 12: from GPU 5 on, the first whole one is 6 and 7.

    So 6 GPUs are left in the first domain, enough for one stage of 4; the other lies in the next.
    """
    found = problem(document_scenario, requirements__coverage="up_to", llm__num_layers=2)
    plan = unfold(found, Candidate(1, 2, 2, 1, 2, 4, 1, 1), (1, 1), after=5)
    assert plan.gpus == ((tuple(range(6, 10)), tuple(range(12, 16))),)


def test_a_placement_too_long_to_write_out_is_that_of_the_first_replica(
    document_scenario: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 layers x 4 experts in 6 replicas: 48 rows."""
    found = problem(document_scenario, requirements__coverage="up_to", llm__num_layers=2)
    candidate = Candidate(6, 1, 1, 1, 4, 4, 1, 1)
    whole = unfold(found, candidate, (2,)).placement
    monkeypatch.setattr("autopar.unfold.MOST_ROWS", 47)
    short = unfold(found, candidate, (2,)).placement
    assert (len(whole), len(short)) == (48, 8)
    assert short.tolist() == whole[:8].tolist()
