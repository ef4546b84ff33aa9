"""Before CP-SAT: filter candidates, find a good plan, and leave out what cannot be as good.

Every candidate has an optimistic vector, one integer per objective, that no split of its layers
beats. Candidates are tried in the order of these vectors; the first plans found make an incumbent,
and a candidate whose optimistic vector is lexicographically worse than the incumbent cannot hold the
optimum, nor another optimum as good, and does not enter the model. This is exact, not a heuristic.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autopar.candidates import generate
from autopar.constraints import Constraint, PlugIn
from autopar.constraints.active import active
from autopar.costs.registry import cost_model
from autopar.objectives import Objective, objectives_for
from autopar.problem import BoolArray, Candidates, IntArray, Problem
from autopar.segments import SegmentTable, ShapeCache, group_segments, segment_table
from autopar.specs import Scenario
from autopar.splits import best_split, not_worse, on_a_path
from autopar.topology import Topology
from autopar.unfold import unfold
from autopar.variables import Choice

logger = logging.getLogger(__name__)

Vector = tuple[int, ...]  # one integer per objective, oriented so that less is better


@dataclass(frozen=True, slots=True)
class Task:
    """A scenario with everything that solving it needs."""

    problem: Problem
    constraints: tuple[PlugIn, ...]
    objectives: tuple[Objective, ...]

    def oriented(self, values: Sequence[int]) -> Vector:
        """Return objective values turned so that less is better."""
        signs = (1 if o.sense == "min" else -1 for o in self.objectives)
        return tuple(int(v) * sign for v, sign in zip(values, signs, strict=True))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What enters the CP-SAT model, and what is known before it starts.

    num_allowed: candidates that pass every filter; rows: those that can still be as good as the
    incumbent; tables: their segments, grouped; incumbent and its vector: None where none was found.
    optimistic: shape (allowed, objectives), oriented, in lexicographic order.
    """

    num_candidates: int
    num_allowed: int
    rows: Candidates
    tables: tuple[SegmentTable, ...]
    incumbent: Choice | None
    vector: Vector | None
    optimistic: IntArray


def make_task(
    scenario: Scenario, *, plugins: Sequence[PlugIn] = (), disabled: Sequence[str] = ()
) -> Task:
    """Return the task of a scenario, with the named constraints left out."""
    constraints = active(scenario, plugins=plugins, disabled=disabled)
    names = {c.name for c in constraints}
    limits = scenario.requirements
    tensor = limits.tensor_parallel_within if "tensor_parallel_within" in names else "cluster"
    stage = limits.all_to_all_within if "all_to_all_within" in names else "cluster"
    coverage = limits.coverage if "coverage" in names else "up_to"
    topology = Topology.of(scenario.cluster, tensor, stage if scenario.llm.is_moe else "cluster")
    fewer = bool(plugins) or _counts_replicas(scenario)
    problem = Problem(
        scenario=scenario,
        topology=topology,
        candidates=generate(scenario, coverage, topology, fewer_replicas=fewer),
        cost_model=cost_model(scenario),
    )
    return Task(problem, constraints, objectives_for(problem))


def prepare(task: Task) -> Prepared:
    """Filter the candidates, find an incumbent, and keep what may be as good."""
    problem = task.problem
    rows = problem.candidates.take(_allowed(task))
    matrix = np.array(
        [
            objective.optimistic(problem, rows) * (1 if objective.sense == "min" else -1)
            for objective in task.objectives
        ],
        dtype=np.int64,
    ).T.reshape(len(rows), len(task.objectives))
    order = np.lexsort(matrix.T[::-1])
    rows, matrix = rows.take(order), matrix[order]
    tables: list[SegmentTable] = []
    shapes: ShapeCache = {}
    incumbent: Choice | None = None
    vector: Vector | None = None
    for index in range(len(rows)):
        if vector is not None and tuple(matrix[index].tolist()) > vector:
            break
        row = rows.take(np.array([index]))
        table = segment_table(problem, row, task.constraints, shapes)
        tables.append(table)
        found = _try(task, rows, index, table)
        if found is not None and (vector is None or found[1] < vector):
            incumbent, vector = found
    kept = rows.take(np.arange(len(tables)))
    if vector is not None:  # the incumbent improved after these were tried
        worse = [tuple(matrix[i].tolist()) > vector for i in range(len(tables))]
        assert incumbent is not None
        keep = [i for i, is_worse in enumerate(worse) if not is_worse]
        kept, tables = kept.take(np.array(keep, dtype=np.int64)), [tables[i] for i in keep]
        tables = [
            _narrowed(task, t, vector, int(pp)) for t, pp in zip(tables, kept.pp, strict=True)
        ]
        incumbent = Choice(keep.index(incumbent.row), incumbent.candidate, incumbent.split)
    logger.info(
        "%d candidates, %d allowed, %d in the model",
        len(problem.candidates), len(rows), len(kept),
    )  # fmt: skip
    groups = tuple(group_segments(tables))
    return Prepared(len(problem.candidates), len(rows), kept, groups, incumbent, vector, matrix)


def _narrowed(task: Task, table: SegmentTable, vector: Vector, pp: int) -> SegmentTable:
    """Leave out segments that no plan as good as the incumbent uses.

    A candidate without any path keeps its segments, so that CP-SAT sees for itself that it has none.
    """
    table = table.keep(not_worse(task.objectives[0], table, vector[0]))
    useful = on_a_path(table, task.problem.num_layers, pp)
    return table.keep(useful) if useful.any() else table


def _counts_replicas(scenario: Scenario) -> bool:
    """Whether a rule might prefer fewer replicas than fit."""
    for rule in scenario.all_rules:
        text = " ".join(filter(None, (rule.require, rule.forbid)))
        if rule.sum is not None or "replicas" in text or "gpus_used" in text:
            return True
    return "gpus" in scenario.recipe.objectives


def _allowed(task: Task) -> BoolArray:
    rows = task.problem.candidates
    allowed = np.ones(len(rows), dtype=np.bool_)
    for constraint in task.constraints:
        if isinstance(constraint, Constraint) and len(rows):
            passes = constraint.allowed_rows(task.problem, rows)
            if passes is not None:
                allowed &= passes
                logger.debug("%s allows %d candidates", constraint.name, int(passes.sum()))
    return allowed


def _try(
    task: Task, rows: Candidates, index: int, table: SegmentTable
) -> tuple[Choice, Vector] | None:
    """Return the candidate's best split that the constraints accept, with its vector."""
    row = rows.take(np.array([index]))
    chosen = best_split(row, table, task.problem.num_layers, task.objectives)
    if chosen is None:
        return None
    split = tuple((table.stop[chosen] - table.first[chosen]).tolist())
    open_constraints = [
        c for c in task.constraints if not isinstance(c, Constraint) or not c.filters_completely
    ]
    if open_constraints:
        has_plugins = any(not isinstance(c, Constraint) for c in open_constraints)
        plan = unfold(task.problem, rows.row(index), split, with_experts=has_plugins)
        for constraint in open_constraints:
            if next(iter(constraint.check(plan, task.problem)), None) is not None:
                return None
    vector = task.oriented([o.of_split(row, table, chosen) for o in task.objectives])
    return Choice(index, rows.row(index), split), vector
