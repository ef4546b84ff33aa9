"""Before CP-SAT: filter candidates, find a good plan, and leave out what cannot be as good.

Every candidate has an optimistic vector, one integer per objective, that no split of its layers
beats. Candidates are tried in the order of these vectors; the first plans found make an incumbent,
and a candidate whose optimistic vector is lexicographically worse than the incumbent cannot hold
the optimum, nor another optimum as good, and does not enter the model. Where many are left, or the
batch is open, neither does one whose best split is worse (ADR 0007). This is exact, no heuristic.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autopar.batches import Overview
from autopar.candidates import generate, loosened
from autopar.constraints import Constraint, PlugIn
from autopar.constraints.active import active
from autopar.constraints.base import complaints
from autopar.costs.registry import cost_model
from autopar.objectives import Objective, objectives_for
from autopar.problem import BoolArray, Candidates, IntArray, Problem
from autopar.segments import SegmentTable, ShapeCache, group_segments, segment_table
from autopar.specs import Scenario
from autopar.specs.change import changed
from autopar.splits import best_split, not_worse, on_a_path
from autopar.topology import Topology
from autopar.unfold import unfold
from autopar.variables import Choice

logger = logging.getLogger(__name__)

# With a given batch, the most candidates whose splits CP-SAT weighs against each other.
MOST_SPLITS_LEFT_OPEN = 8
_MOST_AHEAD = 128  # rows that are costed at once

Vector = tuple[int, ...]  # one integer per objective, oriented so that less is better

# Constraints that decide which candidates are in the table, see `make_task`.
SHAPES_TABLE = frozenset(("coverage", "tensor_parallel_within", "all_to_all_within"))


@dataclass(frozen=True, slots=True)
class Task:
    """A scenario with everything that solving it needs."""

    problem: Problem
    constraints: tuple[PlugIn, ...]
    objectives: tuple[Objective, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the answer must know about the model."""
        return self.problem.cost_model.notes()

    def oriented(self, values: Sequence[int]) -> Vector:
        """Return objective values turned so that less is better."""
        signs = (1 if o.sense == "min" else -1 for o in self.objectives)
        return tuple(int(v) * sign for v, sign in zip(values, signs, strict=True))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What enters the CP-SAT model, and what is known before it starts.

    num_allowed: candidates that pass every filter; rows: those that can still be as good as the
    incumbent; tables: the segments of each; has_path: whether these join to a plan; incumbent and
    its vector: None where none was found.
    floor: values that no plan of the rows beats, as far as filters and the dynamic programme see;
    None where there is none, or where plans may differ in more than degrees and splits.
    allowed: all candidates that pass every filter; optimistic: shape (allowed, objectives),
    oriented; both in lexicographic order, of which `rows` is a prefix. Where the batch is open,
    these are the ones that may be optimal, and `overview` knows of the others.
    """

    num_candidates: int
    num_allowed: int
    rows: Candidates
    tables: tuple[SegmentTable, ...]
    has_path: BoolArray
    incumbent: Choice | None
    vector: Vector | None
    floor: Vector | None
    allowed: Candidates
    optimistic: IntArray
    overview: Overview | None = None

    @property
    def num_in_model(self) -> int:
        """Candidates that bounds could not rule out."""
        return len(self.rows)

    @property
    def is_proven(self) -> bool:
        """Whether the incumbent is optimal in every objective."""
        return self.vector is not None and self.vector == self.floor


def make_task(
    scenario: Scenario, *, plugins: Sequence[PlugIn] = (), disabled: Sequence[str] = ()
) -> Task:
    """Return the task of a scenario, with the named constraints left out."""
    constraints = active(scenario, plugins=plugins, disabled=disabled)
    names = {c.name for c in constraints}
    coverage = scenario.requirements.coverage if "coverage" in names else "up_to"
    topology = topology_of(scenario, names)
    fewer = bool(plugins) or _counts_replicas(scenario)
    problem = Problem(
        scenario=scenario,
        topology=topology,
        candidates=generate(loosened(scenario, names), coverage, topology, fewer_replicas=fewer),
        cost_model=cost_model(scenario),
    )
    return Task(problem, constraints, objectives_for(problem))


def topology_of(scenario: Scenario, names: Collection[str]) -> Topology:
    """Return the containers that confine groups and stages; names: of the constraints that hold."""
    limits = scenario.requirements
    tensor = limits.tensor_parallel_within if "tensor_parallel_within" in names else "cluster"
    stage = limits.all_to_all_within if "all_to_all_within" in names else "cluster"
    stage = stage if scenario.llm.is_moe else "cluster"
    return Topology.of(scenario.cluster, tensor, stage).charged(scenario)


def prepare(
    task: Task,
    better_than: Vector | None = None,
    *,
    given: tuple[Candidates, IntArray] | None = None,
    ties: bool = True,
) -> Prepared:
    """Filter the candidates, find an incumbent, and keep what may be as good.

    better_than: values that a plan must beat to be of interest; others are not looked for.
    given: the candidates that pass every filter and may be of interest, and their optimistic
    vectors, in lexicographic order, where these are known already. ties: whether candidates stay
    that may be as good as the incumbent, but not better.
    """
    problem = task.problem
    overview = None if given is not None else overview_of(task)
    rows, matrix = given or _to_look_at(task, overview, better_than, ties=ties)
    tables: list[SegmentTable] = []
    shapes, start_shapes = ShapeCache(), ShapeCache()
    start = _in_canonical_order(problem)
    incumbent: Choice | None = None
    vector: Vector | None = None
    floors: list[Vector | None] = []
    for index, row in _one_by_one(problem, rows):
        optimistic = tuple(matrix[index].tolist())
        is_behind = _is_behind(optimistic, vector, ties=ties)
        if is_behind or (better_than is not None and optimistic >= better_than):
            break
        table = segment_table(problem, row, task.constraints, shapes)
        tables.append(table)
        if start is not problem:  # blocks are variables: start from blocks in order
            table = segment_table(start, row, task.constraints, start_shapes)
        chosen = best_split(row, table, problem.num_layers, task.objectives, to_the_end=True)
        floors.append(None if chosen is None else _values(task, row, table, chosen))
        if chosen is None or not accepted(task, row, table, chosen):
            continue
        found = _values(task, row, table, chosen)
        if vector is None or found < vector:
            split = tuple((table.stop[chosen] - table.first[chosen]).tolist())
            incumbent, vector = Choice(index, rows.row(index), split), found
    keep = _kept(matrix[: len(tables)], None, incumbent, vector, ties=ties)
    few = 1 if problem.scenario.workload.is_open else MOST_SPLITS_LEFT_OPEN
    if start is problem and len(keep) > few:
        keep = _kept(matrix[: len(tables)], floors, incumbent, vector, ties=ties)
    if incumbent is not None:
        incumbent = replace(incumbent, row=keep.index(incumbent.row))
    logger.info("%d candidates allowed, %d in the model", len(rows), len(keep))
    return Prepared(
        num_candidates=len(problem.candidates),
        num_allowed=len(rows),
        rows=rows.take(np.array(keep, dtype=np.int64)),
        tables=tuple(tables[i] for i in keep),
        has_path=np.array([start is not problem or floors[i] is not None for i in keep], np.bool_),
        incumbent=incumbent,
        vector=vector,
        floor=_least(floors[i] for i in keep) if start is problem else None,
        allowed=rows,
        optimistic=matrix,
        overview=overview,
    )


def _one_by_one(problem: Problem, rows: Candidates) -> Iterator[tuple[int, Candidates]]:
    """Yield the index of each row with a table of it alone.

    What the cost model can work out for many rows at once it does, for more and more of them: the
    first ones may be all that are asked for.
    """
    ahead = 0
    for index in range(len(rows)):
        if index == ahead:
            ahead = min(2 * index + 1, index + _MOST_AHEAD, len(rows))
            problem.cost_model.look_ahead(rows.take(np.arange(index, ahead)))
        yield index, rows.take(np.array([index]))


def _to_look_at(
    task: Task, overview: Overview | None, better_than: Vector | None, *, ties: bool
) -> tuple[Candidates, IntArray]:
    """Return the candidates that may be of interest by the bounds, and these, both in order."""
    if overview is None:
        return in_order(task)
    tied = ties or better_than is not None  # what must be beaten is no plan of the task
    return overview.worth_looking(Splits(task).values, better_than=better_than, ties=tied)


def _is_behind(optimistic: Vector, vector: Vector | None, *, ties: bool) -> bool:
    """Whether a candidate is of no interest beside a known plan."""
    return vector is not None and (optimistic > vector if ties else optimistic >= vector)


def _kept(
    matrix: IntArray,
    floors: Sequence[Vector | None] | None,
    incumbent: Choice | None,
    vector: Vector | None,
    *,
    ties: bool,
) -> list[int]:
    """Return the rows that stay; some were tried before the incumbent, and may be behind it.

    floors: the values of the best split of each row, None for a row without any; None where splits
    are left to CP-SAT. A few are, which so checks the dynamic programme; but a mixture of dozens,
    many of which may differ in the batch alone, looks better to it than each of them, for minutes.
    A plug-in or a total forbids splits and adds none, so that these values bound what they leave.
    """
    if incumbent is None:
        return list(range(len(matrix)))

    def stays(index: int) -> bool:
        bound = tuple(matrix[index].tolist()) if floors is None else floors[index]
        return bound is not None and not _is_behind(bound, vector, ties=ties)

    return [i for i in range(len(matrix)) if i == incumbent.row or stays(i)]


def _values(task: Task, row: Candidates, table: SegmentTable, chosen: IntArray) -> Vector:
    return task.oriented([o.of_split(row, table, chosen) for o in task.objectives])


def _least(vectors: Iterable[Vector | None]) -> Vector | None:
    return min((vector for vector in vectors if vector is not None), default=None)


def overview_of(task: Task) -> Overview | None:
    """Return the batches that pass the filters; None where the workload gives the batch."""
    if not task.problem.scenario.workload.is_open:
        return None
    return Overview.of(task.problem, task.constraints, task.objectives)


class Splits:
    """The best splits of single candidates, by the dynamic programme; remembers segments.

    Where blocks are variables, blocks are taken in order.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._problem = _in_canonical_order(task.problem)
        self._shapes: ShapeCache = {}

    def values(self, row: Candidates) -> Vector | None:
        """Return the values of a split that every constraint accepts, oriented; None without one.

        row: a table of one candidate. None may be wrong only where a plug-in or a total refuses the
        best split and would accept another.
        """
        task = self._task
        table = segment_table(self._problem, row, task.constraints, self._shapes)
        chosen = best_split(row, table, self._problem.num_layers, task.objectives)
        if chosen is None or not accepted(task, row, table, chosen):
            return None
        return _values(task, row, table, chosen)


def has_one_split(task: Task, rows: Candidates) -> BoolArray:
    """Return which candidates have a single plan at most, the one that `Splits` finds.

    A plug-in may tell plans apart that are alike to us.
    """
    is_canonical = task.problem.scenario.recipe.cp_sat.symmetry == "canonical"
    alike = is_canonical and all(isinstance(c, Constraint) for c in task.constraints)
    one: BoolArray = (rows.pp == 1) & alike
    return one


def _in_canonical_order(problem: Problem) -> Problem:
    """Return the problem with blocks in order, in which a first plan is looked for."""
    if problem.scenario.recipe.cp_sat.symmetry == "canonical":
        return problem
    return replace(
        problem, scenario=changed(problem.scenario, "recipe.cp_sat.symmetry", "canonical")
    )


def in_order(task: Task) -> tuple[Candidates, IntArray]:
    """Return the allowed candidates by optimistic vector, and these, shape (rows, objectives)."""
    rows = task.problem.candidates.take(_allowed(task))
    columns = [
        objective.optimistic(task.problem, rows) * (1 if objective.sense == "min" else -1)
        for objective in task.objectives
    ]
    matrix = np.array(columns, dtype=np.int64).T.reshape(len(rows), len(task.objectives))
    order = np.lexsort(matrix.T[::-1])
    return rows.take(order), matrix[order]


def narrowed(task: Task, prepared: Prepared) -> list[SegmentTable]:
    """Return grouped segments for the model, without those no plan as good as the incumbent uses.

    A candidate without any path keeps its segments, so that CP-SAT sees for itself that it has
    none.
    """
    if prepared.vector is None:
        return group_segments(prepared.tables)
    num_layers = task.problem.num_layers
    levels = task.objectives if prepared.is_proven else task.objectives[:1]
    limits = list(zip(levels, prepared.vector, strict=False))
    tables = []
    for table, pp in zip(prepared.tables, prepared.rows.pp.tolist(), strict=True):
        good = table
        for objective, limit in limits:
            good = good.keep(not_worse(objective, good, num_layers, pp, limit))
        useful = on_a_path(good, num_layers, pp)
        tables.append(good.keep(useful) if useful.any() else good)
    return group_segments(tables)


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


def accepted(task: Task, row: Candidates, table: SegmentTable, chosen: IntArray) -> bool:
    """Whether every constraint accepts a candidate's split, also where filters cannot tell."""
    plugins = []
    for constraint in task.constraints:
        if not isinstance(constraint, Constraint):
            plugins.append(constraint)
        elif not constraint.allowed_split(task.problem, row, table, chosen):
            return False
    if not plugins:
        return True
    split = (table.stop[chosen] - table.first[chosen]).tolist()
    plan = unfold(task.problem, row.row(0), split)
    return not any(complaints(c, plan, task.problem) for c in plugins)
