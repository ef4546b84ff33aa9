"""The CP-SAT variables say of a point of the model what the unfolded plan says."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from autopar.constraints.layer_cover import LayerCover
from autopar.ortools_loader import load_cp_model
from autopar.problem import Plan, Problem
from autopar.search import Task, make_task, narrowed, prepare
from autopar.segments import group_segments, segment_table
from autopar.solver import optimise
from autopar.specs import Scenario
from autopar.testing import every_choice
from autopar.unfold import unfold
from autopar.variables import Choice, PlanVariables

Build = Callable[[dict[str, Any]], Scenario]

SMALL = {
    "llm.num_layers": 3,
    "llm.num_experts": 2,
    "cluster.num_nodes": 3,
    "cluster.gpus_per_node": 4,
    "cluster.gpus_per_domain": 12,
    "rules": [],
}
EXPLICIT = {"recipe.cp_sat": {"symmetry": "explicit"}}
EVERY_GPU = {"requirements": {"coverage": "every_gpu"}}


def model_of(task: Task, rows: Any = None) -> tuple[Any, PlanVariables]:
    """A model with every candidate and every segment, under all constraints of the task."""
    problem = task.problem
    rows = problem.candidates if rows is None else rows
    model = load_cp_model().CpModel()
    tables = [
        segment_table(problem, rows.take(np.array([index])), ()) for index in range(len(rows))
    ]
    variables = PlanVariables(model, problem, rows, group_segments(tables))
    for constraint in task.constraints:
        constraint.post(model, variables, problem)
    return model, variables


def solved(model: Any) -> Any:
    solver = load_cp_model().CpSolver()
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    return solver if status in (load_cp_model().OPTIMAL, load_cp_model().FEASIBLE) else None


def unfolded(problem: Problem, choice: Choice) -> Plan:
    return unfold(
        problem,
        choice.candidate,
        choice.split,
        layer_blocks=choice.layer_blocks,
        expert_ranks=choice.expert_ranks,
    )


def points(task: Task, every: int) -> Iterator[Choice]:
    """Some points of the model that the task's constraints accept."""
    for number, choice in enumerate(every_choice(task.problem)):
        plan = unfold(task.problem, choice.candidate, choice.split)
        if number % every == 0 and not any(
            True for c in task.constraints for _ in c.check(plan, task.problem)
        ):
            yield choice


@pytest.mark.parametrize(
    ("changes", "every"), [(SMALL, 1), (SMALL | EXPLICIT, 1), (SMALL | EVERY_GPU, 29)]
)
def test_every_view_of_a_point_agrees_with_the_unfolded_plan(
    document_scenario: Build, changes: dict[str, Any], every: int
) -> None:
    """GPU of each expert shard, stage of each layer, start of each stage, and all degrees."""
    task = make_task(document_scenario(changes))
    chosen = list(points(task, every))
    assert len(chosen) >= 5
    for choice in chosen:
        model, variables = model_of(task)
        variables.fix(choice)
        layer_stage, starts = variables.layer_stage, variables.starts_stage
        parts = unfold(task.problem, choice.candidate, choice.split).placement.tolist()
        asked = {tuple(p): variables.expert_gpu(p[0], p[1], p[3]) for p in parts if p[2] == 0}
        solver = solved(model)
        assert solver is not None, choice
        found = variables.extract(solver)
        assert (found.row, found.candidate, found.split) == (
            choice.row, choice.candidate, choice.split,
        )  # fmt: skip
        plan = unfolded(task.problem, found)
        stage_of = {layer: s.index for s in plan.stages for layer in s.layers}
        assert [solver.value(v) for v in layer_stage] == [stage_of[i] for i in range(3)]
        first = {s.layers[0] for s in plan.stages}
        assert [solver.value(v) for v in starts] == [int(i in first) for i in range(3)]
        gpus = {tuple(p[:4]): p[4] for p in plan.placement.tolist()}
        for part, expression in asked.items():
            assert solver.value(expression) == gpus[part[:4]]
        for key in ("replicas", "pp", "tp", "cp", "attn_dp", "ep", "etp", "spread"):
            assert solver.value(getattr(variables, key)) == getattr(choice.candidate, key)


def test_explicit_blocks_and_ranks_can_be_moved_and_are_read_back(document_scenario: Build) -> None:
    """A constraint that puts expert 1 of layer 0 on the first GPU leaves a plan, laid out so."""
    task = make_task(document_scenario(SMALL | EXPLICIT))
    model, variables = model_of(task)
    model.add(variables.expert_gpu(0, 1, 0) == 0)
    solver = solved(model)
    assert solver is not None
    choice = variables.extract(solver)
    assert choice.layer_blocks is not None
    assert sorted(choice.layer_blocks) == [0, 1, 2]
    placement = unfolded(task.problem, choice).placement.tolist()
    assert [
        gpu for layer, expert, _, shard, gpu in placement if (layer, expert, shard) == (0, 1, 0)
    ] == [0]
    assert len({gpu for *_, gpu in placement}) == 12


def test_in_canonical_mode_the_order_cannot_be_moved(document_scenario: Build) -> None:
    model, variables = model_of(make_task(document_scenario(SMALL)))
    model.add(variables.expert_gpu(0, 1, 0) == 0)
    assert solved(model) is None


class AtMost:
    """A plug-in in terms of a named degree."""

    def __init__(self, key: str, most: int) -> None:
        self.name, self.key, self.most = "at_most", key, most

    def post(self, model: Any, variables: PlanVariables, problem: Problem) -> None:
        model.add(getattr(variables, self.key) <= self.most)

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        if (plan.degree(self.key) or 0) > self.most:
            yield f"{self.key} is {plan.degree(self.key)}"


@pytest.mark.parametrize("key", ["replicas", "pp", "tp", "attn_dp", "ep", "etp", "spread"])
def test_a_plugin_constrains_a_degree_by_its_name(document_scenario: Build, key: str) -> None:
    """The point with the largest value of a degree is refused, the one with the smallest is not."""
    task = make_task(document_scenario(SMALL | EVERY_GPU))
    values = sorted(points(task, 29), key=lambda c: getattr(c.candidate, key))
    most = getattr(values[0].candidate, key)
    assert getattr(values[-1].candidate, key) > most
    for choice, expected in ((values[0], True), (values[-1], False)):
        model, variables = model_of(task)
        AtMost(key, most).post(model, variables, task.problem)
        variables.fix(choice)
        assert (solved(model) is not None) is expected


def test_an_unknown_degree_names_those_that_exist(document_scenario: Build) -> None:
    _, variables = model_of(make_task(document_scenario(SMALL)))
    with pytest.raises(AttributeError, match="no variable 'dp'; degrees are replicas, pp, tp"):
        _ = variables.dp


@pytest.mark.parametrize("changes", [SMALL, SMALL | EXPLICIT, SMALL | EVERY_GPU])
def test_variables_are_named_kind_and_index(
    document_scenario: Build, changes: dict[str, Any]
) -> None:
    task = make_task(document_scenario(changes))
    model, variables = model_of(task)
    assert variables.layer_stage
    names = [v.name for v in model.proto.variables if v.name]
    pattern = re.compile(
        r"(replicas|pp|tp|cp|attn_dp|ep|etp|spread)|pick\[\d+\]|segment\[\d+\]\[\d+,\d+\)"
        r"|(layer_stage|starts_stage|layer_block|container)\[\d+\]|expert_rank\[\d+,\d+\]"
    )
    assert [name for name in names if not pattern.fullmatch(name)] == []
    assert len(names) == len(set(names))
    assert {f"pick[{i}]" for i in range(len(task.problem.candidates))} <= set(names)
    blocks = [name for name in names if name.startswith(("layer_block", "expert_rank"))]
    assert len(blocks) == (9 if changes == SMALL | EXPLICIT else 0)


@pytest.mark.parametrize("changes", [SMALL, SMALL | EXPLICIT, SMALL | EVERY_GPU])
def test_the_hint_is_complete_and_is_a_solution(
    document_scenario: Build, changes: dict[str, Any]
) -> None:
    """Every free variable that choices consist of has a hint, and fixing all hints is feasible."""
    task = make_task(document_scenario(changes))
    prepared = prepare(task)
    assert prepared.incumbent is not None
    model = load_cp_model().CpModel()
    variables = PlanVariables(model, task.problem, prepared.rows, narrowed(task, prepared))
    for constraint in task.constraints:
        constraint.post(model, variables, task.problem)
    variables.hint(prepared.incumbent)
    hinted = dict(
        zip(model.proto.solution_hint.vars, model.proto.solution_hint.values, strict=True)
    )
    decisions = ("pick", "segment", "layer_block", "expert_rank")
    for index, variable in enumerate(model.proto.variables):
        if variable.name.startswith(decisions):
            assert index in hinted, variable.name
    solver = load_cp_model().CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.fix_variables_to_their_hinted_value = True
    assert solver.solve(model) in (load_cp_model().OPTIMAL, load_cp_model().FEASIBLE)
    found = variables.extract(solver)
    assert found.row == prepared.incumbent.row
    assert found.split == prepared.incumbent.split


def test_cp_sat_takes_the_incumbent_as_its_first_solution(document_scenario: Build) -> None:
    """The first solution that CP-SAT reports for the first objective is the incumbent's value."""
    task = make_task(document_scenario(SMALL | EVERY_GPU))
    prepared = prepare(task)
    assert prepared.vector is not None
    values: list[float] = []
    name = task.objectives[0].name

    def listen(step: Any) -> None:
        if step.objective == name and step.value is not None:
            values.append(step.value)

    optimise(task, prepared, report=listen)
    start = task.objectives[0].value(-prepared.vector[0])
    assert values[0] == pytest.approx(start, rel=1e-12)


def test_fixing_a_split_that_a_filter_removed_is_infeasible(document_scenario: Build) -> None:
    task = make_task(document_scenario(SMALL | EVERY_GPU))
    problem = task.problem
    choice = next(c for c in every_choice(problem) if c.split == (1, 2) and c.candidate.spread == 1)
    row = problem.candidates.take(np.array([choice.row]))
    full = segment_table(problem, row, ())
    for table, feasible in ((full, True), (full.keep(full.stop - full.first != 2), False)):
        model = load_cp_model().CpModel()
        variables = PlanVariables(model, problem, row, [table])
        LayerCover().post(model, variables, problem)
        variables.fix(Choice(0, choice.candidate, choice.split))
        assert (solved(model) is not None) is feasible
