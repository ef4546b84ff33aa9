"""Assertions for whoever writes a constraint: what it allows, what it forbids, post = check."""

from collections.abc import Iterator

import numpy as np

from autopar.constraints import PlugIn
from autopar.constraints.layer_cover import LayerCover
from autopar.oracle import splits
from autopar.ortools_loader import load_cp_model
from autopar.problem import Candidates, Plan, Problem
from autopar.segments import segment_table
from autopar.unfold import unfold
from autopar.variables import Choice, PlanVariables


def assert_allows(constraint: PlugIn, plan: Plan, problem: Problem) -> None:
    """Fail if the constraint's check complains about the plan."""
    complaints = list(constraint.check(plan, problem))
    assert not complaints, f"{constraint.name} forbids the plan: {complaints[0]}"


def assert_forbids(constraint: PlugIn, plan: Plan, problem: Problem) -> None:
    """Fail if the constraint's check accepts the plan."""
    assert any(True for _ in constraint.check(plan, problem)), f"{constraint.name} allows the plan"


def every_choice(problem: Problem, rows: Candidates | None = None) -> Iterator[Choice]:
    """Yield every candidate with every split of its layers."""
    table = problem.candidates if rows is None else rows
    for index, candidate in enumerate(table):
        for split in splits(problem.num_layers, candidate.pp):
            yield Choice(index, candidate, split)


def assert_post_matches_check(
    constraint: PlugIn, problem: Problem, rows: Candidates | None = None
) -> tuple[int, int]:
    """Fail unless `post` and `check` agree on every plan of a small problem.

    Layer cover is held on both sides, since without it there is no plan to speak of.

    rows: candidates to try instead of the problem's own, also illegal ones.
    Returns how many plans were allowed and how many forbidden.
    """
    counts = {True: 0, False: 0}
    table = problem.candidates if rows is None else rows
    for choice in every_choice(problem, table):
        plan = unfold(problem, choice.candidate, choice.split)
        judges = {c.name: c for c in (LayerCover(), constraint)}
        complaints = [text for c in judges.values() for text in c.check(plan, problem)]
        allowed = _post_allows(constraint, problem, table.take(np.array([choice.row])), choice)
        assert allowed == (not complaints), (
            f"{constraint.name}: post {'allows' if allowed else 'forbids'} {choice.candidate} "
            f"with split {choice.split}, but check says {complaints or 'nothing'}"
        )
        counts[allowed] += 1
    return counts[True], counts[False]


def _post_allows(constraint: PlugIn, problem: Problem, row: Candidates, choice: Choice) -> bool:
    cp = load_cp_model()
    model = cp.CpModel()
    variables = PlanVariables(model, problem, row, [segment_table(problem, row, ())])
    if constraint.name != LayerCover.name:
        LayerCover().post(model, variables, problem)
    constraint.post(model, variables, problem)
    variables.fix(Choice(0, choice.candidate, choice.split))
    solver = cp.CpSolver()
    solver.parameters.num_workers = 1
    return bool(solver.solve(model) in (cp.OPTIMAL, cp.FEASIBLE))
