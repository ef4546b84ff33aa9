"""One layout for the whole cluster as a CP-SAT program: build the model, solve it."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from autopar.constraints.base import Constraint, post
from autopar.cpsat import Report, relative_gap
from autopar.lexicographic import INFEASIBLE, Outcome, run
from autopar.objectives import Objective
from autopar.ortools_loader import load_cp_model
from autopar.results import Uniqueness
from autopar.search import Prepared, Task, Vector, has_one_split, narrowed
from autopar.segments import SegmentTable
from autopar.specs import CpSatParameters
from autopar.variables import Choice, PlanVariables

__all__ = ["Outcome", "Report", "interrupted", "optimise", "relative_gap"]


def optimise(
    task: Task, prepared: Prepared, *, report: Report | None = None, uniqueness: bool = False
) -> Outcome:
    """Return the lexicographic optimum over the prepared candidates, with its proof."""
    if not len(prepared.rows):
        return INFEASIBLE
    if _is_closed(task, prepared):
        return _closed(task, prepared)
    return run(LayoutProgram(task, prepared), report=report, uniqueness=uniqueness)


def _is_closed(task: Task, prepared: Prepared) -> bool:
    """Whether bounds have left one plan: no other candidate is as good, and it has one split.

    Only where the batch is open: there it saves half of the time, and nothing is asked of CP-SAT.
    """
    return (
        task.problem.scenario.workload.is_open
        and prepared.incumbent is not None
        and len(prepared.rows) == 1
        and bool(has_one_split(task, prepared.rows).all())
    )


def _closed(task: Task, prepared: Prepared) -> Outcome:
    """Return the one plan that is left; CP-SAT would have nothing to choose."""
    assert prepared.vector is not None  # there is an incumbent
    vector = task.oriented(prepared.vector)
    method = (
        "the bounds of every other candidate are worse, and one stage has one split: nothing is "
        "left for CP-SAT to choose; up to renaming equal layers, experts, shards, GPUs, nodes and "
        "domains"
    )
    return Outcome(
        "optimal",
        prepared.incumbent,
        vector,
        vector,
        Uniqueness(unique=True, method=method),
        0.0,
        interrupted=False,
    )


def interrupted(task: Task, prepared: Prepared) -> Outcome:
    """Return the outcome of a solve that ended before CP-SAT began: incumbent and bounds."""
    if prepared.vector is None:
        return Outcome("unknown", None, None, None, None, 0.0, interrupted=True)
    best = tuple(int(v) for v in prepared.optimistic.min(axis=0))
    return Outcome(
        "feasible",
        prepared.incumbent,
        task.oriented(prepared.vector),
        task.oriented(best),
        None,
        0.0,
        interrupted=True,
    )


class LayoutProgram:
    """The model of one layout, with the variables that hint it and read it back."""

    def __init__(self, task: Task, prepared: Prepared) -> None:
        self._task = task
        self._prepared = prepared
        self.model: Any = load_cp_model().CpModel()
        self.model.name = task.problem.scenario.name
        problem = task.problem
        self.variables = PlanVariables(self.model, problem, prepared.rows, narrowed(task, prepared))
        for constraint in task.constraints:
            post(constraint, self.model, self.variables, problem)
        posted = [o.post(self.model, self.variables, problem) for o in task.objectives]
        # A number is an objective too: only a solve shows whether there is a plan to have it.
        self.expressions: Sequence[Any] = [
            self.model.new_constant(e) if isinstance(e, int) else e for e in posted
        ]

    @property
    def parameters(self) -> CpSatParameters:
        """How CP-SAT is to run."""
        return self._task.problem.scenario.recipe.cp_sat

    @property
    def objectives(self) -> Sequence[Objective]:
        """The objectives in their order."""
        return self._task.objectives

    @property
    def start(self) -> Choice | None:
        """The incumbent of the search before."""
        return self._prepared.incumbent

    @property
    def plugins(self) -> Sequence[str]:
        """Names of the plug-ins that were posted."""
        return [c.name for c in self._task.constraints if not isinstance(c, Constraint)]

    def hint(self, choice: Choice) -> None:
        """Give CP-SAT a complete starting point."""
        self.variables.hint(choice)

    def extract(self, solver: Any) -> Choice:
        """Read the chosen point."""
        return self.variables.extract(solver)

    def values(self, choice: Choice) -> Vector:
        """Return the integer value of every objective at a point of the model."""
        row, table, chosen = chosen_segments(self.variables, choice)
        return tuple(o.of_split(row, table, chosen) for o in self._task.objectives)

    def optimistic(self, level: int) -> int:
        """Return what no candidate in the model beats in one objective."""
        objective = self._task.objectives[level]
        column = objective.optimistic(self._task.problem, self._prepared.rows)
        return int(column.max() if objective.sense == "max" else column.min())

    def is_proven(self, level: int) -> bool:
        """Whether the dynamic programme proves the start, which it does from the first sum on.

        A sum that is counted in nanoseconds may take CP-SAT minutes, and what follows it as long.
        What a plug-in posts and checks is left to CP-SAT, which shows whether they agree.
        """
        names = [objective.name for objective in self._task.objectives[: level + 1]]
        return "ttft" in names and self._prepared.is_proven and not self.plugins

    def described(self, choice: Choice) -> str:
        """Return a choice in a line: degrees, and layers per stage."""
        return described(choice)

    def others(self, choice: Choice) -> tuple[list[Any], bool]:
        """Return literals of which one holds at every other plan, and if sizes alone count."""
        return other_plans(self.variables, choice, self._sizes_alone)

    @cached_property
    def _sizes_alone(self) -> bool:
        return sizes_alone(self.variables)


def chosen_segments(variables: PlanVariables, choice: Choice) -> tuple[Any, SegmentTable, Any]:
    """Return a choice's candidate as a table of one row, its segments, and which are chosen."""
    row = variables.rows.take(np.array([choice.row]))
    table = next(g.table for g in variables.groups if choice.row in g.members)
    stops = np.cumsum(choice.split)
    wanted = set(zip((stops - np.array(choice.split)).tolist(), stops.tolist(), strict=True))
    pairs = zip(table.first.tolist(), table.stop.tolist(), strict=True)
    chosen = np.array([k for k, pair in enumerate(pairs) if pair in wanted], dtype=np.int64)
    return row, table, chosen


def sizes_alone(variables: PlanVariables) -> bool:
    """Whether segments of one length all cost the same, so that stages can change places."""
    return all(_cost_depends_on_length_alone(group.table) for group in variables.groups)


def other_plans(variables: PlanVariables, choice: Choice, alike: bool) -> tuple[list[Any], bool]:
    """Return literals of which one holds at every plan with other degrees or stage sizes.

    alike: whether the order of the sizes makes no difference.
    """
    cuts = _other_sizes(variables, choice) if alike else _other_cuts(variables, choice)
    return [~variables.pick[choice.row], *cuts], alike


def described(choice: Choice) -> str:
    """Return a choice in a line: degrees, and layers per stage."""
    candidate, sizes = choice.candidate, sorted(set(choice.split))
    degrees = [f"{key} {getattr(candidate, key)}" for key in ("replicas", "pp", "tp", "cp")]
    for key, of_size in (
        ("attn_dp", candidate.stage_attn_dp), ("spread", candidate.stage_spread),
    ):  # fmt: skip
        values = {of_size(size) for size in sizes}
        degrees.append(f"{key} {values.pop()}" if len(values) == 1 else f"{key} varies")
    degrees += [f"{key} {getattr(candidate, key)}" for key in ("ep", "etp")]
    if candidate.batch:
        degrees.append(f"batch {candidate.batch}")
    return f"{', '.join(degrees)}; layers per stage {', '.join(map(str, choice.split))}"


def _cost_depends_on_length_alone(table: SegmentTable) -> bool:
    columns = [table.time, table.rate, table.memory]
    columns += [c for c in (table.tpot, table.handover) if c is not None]
    costs: dict[int, tuple[int, ...]] = {}
    lengths = (table.stop - table.first).tolist()
    for length, *cost in zip(lengths, *(c.tolist() for c in columns), strict=True):
        if costs.setdefault(length, tuple(cost)) != tuple(cost):
            return False
    return True


def _other_cuts(variables: PlanVariables, choice: Choice) -> list[Any]:
    """Return literals of which one holds when some chosen segment is not used."""
    stops = np.cumsum(choice.split).tolist()
    chosen = set(zip([0, *stops[:-1]], stops, strict=True))
    group = next(g for g in variables.groups if choice.row in g.members)
    pairs = zip(group.first.tolist(), group.stop.tolist(), group.segments, strict=True)
    return [~literal for first, stop, literal in pairs if (first, stop) in chosen]


def _other_sizes(variables: PlanVariables, choice: Choice) -> list[Any]:
    """Return literals of which one holds when some stage size occurs fewer or more times."""
    model: Any = variables.model
    lengths: dict[int, list[Any]] = {}
    for group in variables.groups:
        for length, literal in zip(
            (group.stop - group.first).tolist(), group.segments, strict=True
        ):
            lengths.setdefault(length, []).append(literal)
    differs = []
    for length, literals in sorted(lengths.items()):
        count = choice.split.count(length)
        total = sum(literals)
        for name, condition in (("fewer", total <= count - 1), ("more", total >= count + 1)):
            other = model.new_bool_var(f"{variables.prefix}{name}_of_{length}_layers")
            model.add(condition).only_enforce_if(other)
            differs.append(other)
    return differs
