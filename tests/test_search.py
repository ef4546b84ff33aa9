"""What is left out before CP-SAT starts was never the optimum."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar import oracle
from autopar.candidates import every_batch
from autopar.costs.operations.parts import RUNTIME_RESERVE_BYTES
from autopar.objectives import OBJECTIVES
from autopar.problem import Candidate, Plan
from autopar.search import (
    MOST_SPLITS_LEFT_OPEN,
    Prepared,
    Task,
    make_task,
    narrowed,
    prepare,
)
from autopar.segments import segment_table
from autopar.solver import optimise
from autopar.specs import Scenario
from autopar.splits import best_split
from autopar.unfold import unfold

Build = Callable[..., Scenario]

ORDERS = [
    ("throughput", "ttft", "traffic", "memory"),
    ("memory", "gpus", "ttft"),
    ("ttft", "memory", "throughput"),
    ("throughput_per_gpu", "ttft"),
    ("cost", "traffic"),
]


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Changes of the small analytic scenario, with limits that only some plans meet."""
    is_open = draw(st.booleans())
    layers = draw(st.integers(1, 3 if is_open else 4))
    work: dict[str, Any] = {"phase": "prefill", "batch": 64}
    if is_open:
        work = {
            "phase": draw(st.sampled_from(["prefill", "decode", "serving"])),
            "input_tokens": draw(st.sampled_from([16, 600])),
            "max_batch_sequences": draw(st.integers(1, 4)),
            "prefill_chunk_tokens": 600,
        }
    requirements: dict[str, Any] = {"coverage": draw(st.sampled_from(["every_gpu", "up_to"]))}
    if draw(st.booleans()) and work["phase"] != "decode":
        requirements["max_ttft_us"] = draw(st.sampled_from([30.0, 60.0, 120.0, 1e4]))
    if draw(st.booleans()):
        requirements["min_tokens_per_s_per_gpu"] = draw(st.sampled_from([1e4, 1e5, 1e6]))
    objectives = draw(st.sampled_from(ORDERS))
    if work["phase"] == "decode":
        objectives = tuple("tpot" if name == "ttft" else name for name in objectives)
    rules = []
    if draw(st.booleans()):
        rules.append({"name": "depth", "sum": "layers_per_stage * layers_per_stage",
                      "at_most": draw(st.integers(2, 9)), "because": "a test"})  # fmt: skip
    if draw(st.booleans()):
        rules.append({"name": "even", "require": "layers_per_stage <= 2", "because": "a test"})
    return {
        "sizes": {
            "num_layers": layers,
            "num_experts": draw(st.sampled_from([0, 2, 3])),
            "num_nodes": 1 if is_open else draw(st.integers(1, 2)),
            "experts_per_token": 2,
            **work,
        },
        "requirements": requirements,
        "rules": rules,
        "left_bytes": draw(st.sampled_from([8e10, 2e8, 6e7])),  # beside the runtime's
        "objectives": objectives,
        "declared": not is_open and draw(st.booleans()),  # under declared costs, ties abound
    }


def task_of(build: Build, change: dict[str, Any]) -> Task:
    document = build(**change["sizes"]).document()
    document["requirements"] = change["requirements"]
    document["rules"] = change["rules"]
    reserve = 0.0 if change["declared"] else RUNTIME_RESERVE_BYTES
    document["cluster"]["gpu"]["memory_bytes"] = change["left_bytes"] + reserve
    document["cluster"]["gpu"]["usd_per_hour"] = 2.5
    document["recipe"]["objectives"] = change["objectives"]
    if change["declared"]:
        document["cost_model"] = "declared"
        document["declared"] = {
            "flops_per_token": 1e9, "compute_efficiency": 0.5, "utilisation": 0.5,
            "layer_time_us": 20.0,
        }  # fmt: skip
    return make_task(Scenario.model_validate(document))


def row_of(plan: Plan) -> Candidate:
    """The candidate of a plan with equal stages."""
    stage = plan.stages[0]
    degrees = (stage.tp, stage.cp, stage.attn_dp, stage.ep, stage.etp, stage.spread)
    return Candidate(plan.replicas, plan.pp, *degrees, plan.batch, plan.chunks)


def unpruned(task: Task) -> Prepared:
    """Every candidate with every batch and all its segments, and no incumbent."""
    rows = every_batch(task.problem, task.problem.candidates)
    tables = tuple(
        segment_table(task.problem, rows.take(np.array([i])), ()) for i in range(len(rows))
    )
    return Prepared(
        len(rows), len(rows), rows, tables, np.ones(len(rows), dtype=np.bool_), None, None, None,
        rows,
        np.zeros((len(rows), len(task.objectives)), dtype=np.int64),
    )  # fmt: skip


@settings(max_examples=15, deadline=None, derandomize=True)
@given(changes())
def test_the_optimum_is_that_of_all_candidates_and_all_segments(
    analytic_scenario: Build, change: dict[str, Any]
) -> None:
    task = task_of(analytic_scenario, change)
    everything = optimise(task, unpruned(task))
    pruned = optimise(task, prepare(task))
    assert pruned.status == everything.status
    assert pruned.vector == everything.vector


@settings(max_examples=25, deadline=None, derandomize=True)
@given(changes())
def test_every_optimum_is_left_in_the_model(
    analytic_scenario: Build, change: dict[str, Any]
) -> None:
    """Not only one: uniqueness is judged in the model that pruning leaves."""
    task = task_of(analytic_scenario, change)
    names = [o.name for o in task.objectives]
    expected = oracle.best(task.problem, task.constraints, names)
    prepared = prepare(task)
    tables = {
        index: {*zip(table.first.tolist(), table.stop.tolist(), strict=True)}
        for table in narrowed(task, prepared)
        for index in table.members
    }
    left = {row: tables[index] for index, row in enumerate(prepared.rows)}
    if expected is None:
        assert prepared.incumbent is None
        return
    for plan in expected[1]:
        row = row_of(plan)
        assert {(s.layers[0], s.layers[-1] + 1) for s in plan.stages} <= left[row]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(changes())
def test_no_row_is_left_whose_best_split_is_worse_unless_few_are_left(
    analytic_scenario: Build, change: dict[str, Any]
) -> None:
    """Dozens of candidates that bounds alone leave took CP-SAT a minute, and more."""
    task = task_of(analytic_scenario, change)
    prepared = prepare(task)
    is_open = task.problem.scenario.workload.is_open
    most = 1 if is_open else MOST_SPLITS_LEFT_OPEN
    if prepared.vector is None or len(prepared.rows) <= most:
        return
    for table, row in zip(prepared.tables, prepared.rows, strict=True):
        one = prepared.rows.take(np.array([list(prepared.rows).index(row)]))
        chosen = best_split(one, table, task.problem.num_layers, task.objectives, to_the_end=True)
        assert chosen is not None
        values = [o.of_split(one, table, chosen) for o in task.objectives]
        assert task.oriented(values) <= prepared.vector


@settings(max_examples=25, deadline=None, derandomize=True)
@given(changes(), st.booleans())
def test_without_ties_one_plan_stands_for_all_that_are_as_good(
    analytic_scenario: Build, change: dict[str, Any], one_alone: bool
) -> None:
    """Stage boundaries alone, say, are the same for every batch of every layout of one stage."""
    change["objectives"] = change["objectives"][-1:] if one_alone else change["objectives"]
    task = task_of(analytic_scenario, change)
    every, one = prepare(task), prepare(task, ties=False)
    assert one.vector == every.vector
    others = [row for row in one.rows if one.incumbent and row != one.incumbent.candidate]
    bounds = dict(zip(one.allowed, map(tuple, one.optimistic.tolist()), strict=True))
    assert all(one.vector is not None and bounds[row] < one.vector for row in others)
    assert len(one.rows) == len(others) + (one.incumbent is not None) or one.incumbent is None
    found, expected = optimise(task, one), optimise(task, every)
    assert (found.status, found.vector, found.bounds) == (
        expected.status, expected.vector, expected.bounds
    )  # fmt: skip


@settings(max_examples=15, deadline=None, derandomize=True)
@given(changes())
def test_what_beats_known_values_is_found(analytic_scenario: Build, change: dict[str, Any]) -> None:
    """With the values of another plan to beat, the optimum; with its own, nothing better."""
    task = task_of(analytic_scenario, change)
    names = [o.name for o in task.objectives]
    reached = sorted(
        {
            tuple(oracle.value(name, task.problem, plan, costs) for name in names)
            for plan, costs in oracle.feasible_plans(task.problem, task.constraints)
        }
    )
    for better_than in reached[:3]:
        outcome = optimise(task, prepare(task, better_than=better_than))
        found = None if outcome.vector is None else task.oriented(outcome.vector)
        if better_than == reached[0]:
            assert found is None or found >= better_than
        else:
            assert found == reached[0]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(changes())
def test_the_incumbent_is_a_plan_and_its_vector_is_its_own(
    analytic_scenario: Build, change: dict[str, Any]
) -> None:
    task = task_of(analytic_scenario, change)
    prepared = prepare(task)
    if prepared.incumbent is None:
        return
    choice = prepared.incumbent
    assert prepared.rows.row(choice.row) == choice.candidate
    plan = unfold(task.problem, choice.candidate, choice.split)
    for constraint in task.constraints:
        assert list(constraint.check(plan, task.problem)) == []
    alone = replace(task.problem, candidates=prepared.rows.take(np.array([choice.row])))
    reached = [
        tuple(oracle.value(o.name, task.problem, found, costs) for o in task.objectives)
        for found, costs in oracle.feasible_plans(alone, task.constraints)
        if (found.stages, found.batch) == (plan.stages, plan.batch)
    ]
    assert reached == [prepared.vector]
    assert tuple(prepared.optimistic[:, 0].tolist()) == tuple(sorted(prepared.optimistic[:, 0]))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(changes())
def test_no_split_beats_a_rows_optimistic_vector(
    analytic_scenario: Build, change: dict[str, Any]
) -> None:
    """Level by level, each bound alone: that is what leaving rows out rests on."""
    task = task_of(analytic_scenario, change)
    rows = every_batch(task.problem, task.problem.candidates)
    where = {row: index for index, row in enumerate(rows)}
    bounds = [o.optimistic(task.problem, rows) for o in task.objectives]
    for plan, costs in oracle.feasible_plans(task.problem, ()):
        index = where[row_of(plan)]
        for objective, column in zip(task.objectives, bounds, strict=True):
            bound = int(column[index])
            oriented = bound if objective.sense == "min" else -bound
            reached = oracle.value(objective.name, task.problem, plan, costs)
            assert oriented <= reached, objective.name


@settings(max_examples=25, deadline=None, derandomize=True)
@given(changes())
def test_has_path_says_whether_the_segments_join_to_a_plan(
    analytic_scenario: Build, change: dict[str, Any]
) -> None:
    task = task_of(analytic_scenario, change)
    prepared = prepare(task)
    assert len(prepared.has_path) == len(prepared.tables) == len(prepared.rows)
    for row, table, has_path in zip(
        prepared.rows, prepared.tables, prepared.has_path.tolist(), strict=True
    ):
        pieces = {*zip(table.first.tolist(), table.stop.tolist(), strict=True)}
        joined = False
        for split in oracle.splits(task.problem.num_layers, row.pp):
            stops = np.cumsum(split).tolist()
            joined |= {*zip([0, *stops[:-1]], stops, strict=True)} <= pieces
        assert has_path == joined


def test_a_task_without_a_requirement_is_freer(document_scenario: Build) -> None:
    """Leaving a confinement out also widens the candidates; leaving coverage out makes it up_to."""
    scenario = document_scenario()
    names = {c.name for c in make_task(scenario).constraints}
    assert {"coverage", "all_to_all_within", "tensor_parallel_within", "same_tp"} <= names
    free = make_task(scenario, disabled=["tensor_parallel_within"])
    assert "tensor_parallel_within" not in {c.name for c in free.constraints}
    assert make_task(scenario).problem.topology.group_container == 8
    assert free.problem.topology.group_container == 64
    small = document_scenario({"cluster.num_nodes": 4, "llm.num_layers": 2, "llm.num_experts": 16})
    assert {c.replicas for c in make_task(small).problem.candidates} == {1}
    assert any(c.replicas > 1 for c in make_task(small, disabled=["coverage"]).problem.candidates)


@pytest.mark.parametrize(("order", "sense"), [("throughput", -1), ("gpus", 1)])
def test_oriented_turns_every_objective_so_that_less_is_better(
    document_scenario: Build, order: str, sense: int
) -> None:
    task = make_task(document_scenario({"recipe.objectives": [order]}))
    assert task.oriented([7]) == (7 * sense,)
    assert OBJECTIVES[order].sense == ("min" if sense == 1 else "max")
