"""A pair of layouts as a CP-SAT program: build the model, solve it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autopar.constraints.base import Constraint, post
from autopar.cpsat import Report
from autopar.disaggregated.narrowing import anything, narrowed, unbeaten
from autopar.disaggregated.objectives import PairObjective
from autopar.disaggregated.queue import needed_load
from autopar.disaggregated.search import PreparedPair
from autopar.disaggregated.task import PairTask
from autopar.disaggregated.values import Values
from autopar.disaggregated.variables import PairVariables, chosen_values
from autopar.lexicographic import INFEASIBLE, Outcome, Vector, run
from autopar.ortools_loader import load_cp_model
from autopar.problem import Candidates
from autopar.results import Uniqueness
from autopar.segments import SegmentTable, group_segments
from autopar.solver import chosen_segments, described, other_plans, sizes_alone
from autopar.specs import CpSatParameters
from autopar.splits import on_a_path
from autopar.variables import PairChoice


def optimise_pair(
    task: PairTask,
    prepared: PreparedPair,
    *,
    report: Report | None = None,
    uniqueness: bool = False,
) -> Outcome:
    """Return the lexicographic optimum over the prepared candidates, with its proof."""
    if not all(len(rows) for rows in prepared.rows):
        return INFEASIBLE
    tables = _narrowed(task, prepared)
    if _is_closed(task, prepared, tables):
        return _closed(task, prepared)
    program = PairProgram(task, prepared, tables)
    outcome = run(program, report=report, uniqueness=uniqueness and prepared.has_ties)
    if not uniqueness or prepared.has_ties or outcome.status != "optimal":
        return outcome
    why = "not asked: too many layouts of a role may be equally good"
    return replace(outcome, uniqueness=Uniqueness(unique=None, method=why))


def _is_closed(
    task: PairTask, prepared: PreparedPair, tables: Sequence[Sequence[SegmentTable]]
) -> bool:
    """Whether the search has left one pair, and has proved it: nothing is asked of CP-SAT.

    tables: the segments of each role that a pair as good as the best known may use.
    """
    is_canonical = task.problem.scenario.recipe.cp_sat.symmetry == "canonical"
    if not (is_canonical and prepared.is_proven(len(task.objectives)) and prepared.has_ties):
        return False
    if not all(isinstance(constraint, Constraint) for constraint in task.constraints):
        return False  # a plug-in may tell plans apart that are alike to us
    one_each = all(len(rows) == 1 for rows in prepared.rows)
    return one_each and all(
        len(of_role) == 1 and len(of_role[0].first) == int(rows.pp[0])
        for rows, of_role in zip(prepared.rows, tables, strict=True)
    )


def _closed(task: PairTask, prepared: PreparedPair) -> Outcome:
    """Return the one pair that is left; CP-SAT would have nothing to choose."""
    assert prepared.vector is not None  # it is proven
    vector = task.oriented(prepared.vector)
    method = (
        "the bounds of every other pair are worse, and one split of each role is as good: nothing "
        "is left for CP-SAT to choose; up to renaming equal layers, experts, shards, GPUs, nodes "
        "and domains"
    )
    unique = Uniqueness(unique=True, method=method)
    return Outcome("optimal", prepared.incumbent, vector, vector, unique, 0.0, interrupted=False)


def interrupted_pair(task: PairTask, prepared: PreparedPair) -> Outcome:
    """Return the outcome of a solve that ended before CP-SAT began: incumbent and bounds."""
    if prepared.vector is None:
        return Outcome("unknown", None, None, None, None, 0.0, interrupted=True)
    best = tuple(int(v) for v in prepared.optimistic.min(axis=0))
    vector, bounds = task.oriented(prepared.vector), task.oriented(best)
    return Outcome("feasible", prepared.incumbent, vector, bounds, None, 0.0, interrupted=True)


class PairProgram:
    """The model of a pair, with the variables that hint it and read it back."""

    def __init__(
        self,
        task: PairTask,
        prepared: PreparedPair,
        tables: Sequence[Sequence[SegmentTable]] | None = None,
    ) -> None:
        """Build the model; tables: the segments of each role, where they are narrowed already."""
        tables = _narrowed(task, prepared) if tables is None else tables
        self._task = task
        self._prepared = prepared
        self.model: Any = load_cp_model().CpModel()
        self.model.name = task.problem.scenario.name
        problems = [role.problem for role in task.roles]
        self.variables = PairVariables(
            self.model,
            problems,
            prepared.rows,
            tables,
            self._loads(),
            task.allows_gpus,
        )
        for role, variables in zip(task.roles, self.variables.roles, strict=True):
            for constraint in role.constraints:
                post(constraint, self.model, variables, role.problem)
        for joint in task.pair:
            joint.post(self.variables)
        posted = [o.express(self.variables) for o in task.objectives]
        # A number is an objective too: only a solve shows whether there is a plan to have it.
        self.expressions: Sequence[Any] = [
            self.model.new_constant(e) if isinstance(e, int) else e for e in posted
        ]
        self._tell_first()
        self._tell_least_ttft()

    def _loads(self) -> range:
        """Return the loads of prefill that a pair as good as the best known one may have."""
        task, prepared = self._task, self._prepared
        rates = [int(table.rate.max(initial=0)) for table in prepared.tables[0]]
        fastest = np.array([max(rates, default=0)])
        least = int(needed_load(task.least_rate(prepared.vector), fastest)[0])
        return range(min(least, task.queue.top), task.queue.top + 1)

    def _tell_first(self) -> None:
        """State that nothing worse than the best known pair in the first objective is of interest.

        Where that asks for a rate, the rate is stated too: a cost is a quotient, which CP-SAT
        bounds poorly.
        """
        vector, first = self._prepared.vector, self._task.objectives[0]
        if vector is None:
            return
        value = abs(vector[0])
        expression = self.expressions[0]
        self.model.add(expression >= value if first.sense == "max" else expression <= value)
        if first.name != "throughput" and first.needed is not None:
            for count, here in self.variables.gpu_counts:
                least = int(first.needed(value, np.array([count]))[0])
                self.model.add(self.variables.rate >= least).only_enforce_if(here)

    def _tell_least_ttft(self) -> None:
        """State the least TTFT as the dynamic programmes of the search found it.

        It follows from the rest of the model, but where many paths are equal but for the rounding
        of their segments, CP-SAT takes minutes to see it (80 layers over 7 stages, OR-Tools 9.15).
        It holds only where nothing is better in the objectives before.
        """
        matrix, vector = self._prepared.optimistic, self._prepared.vector
        names = [objective.name for objective in self._task.objectives]
        if vector is None or "ttft" not in names:
            return
        level = names.index("ttft")
        if (matrix[:, :level] == np.array(vector[:level], dtype=np.int64)).all():
            self.model.add(self.expressions[level] >= int(matrix[:, level].min()))

    @property
    def parameters(self) -> CpSatParameters:
        """How CP-SAT is to run."""
        return self._task.problem.scenario.recipe.cp_sat

    @property
    def objectives(self) -> Sequence[PairObjective]:
        """The objectives in their order."""
        return self._task.objectives

    @property
    def start(self) -> PairChoice | None:
        """The best pair of the search before."""
        return self._prepared.incumbent

    @property
    def plugins(self) -> Sequence[str]:
        """Names of the plug-ins that were posted."""
        return [c.name for c in self._task.constraints if not isinstance(c, Constraint)]

    def hint(self, choice: PairChoice) -> None:
        """Give CP-SAT a complete starting point."""
        self.variables.hint(choice, *self._values(choice))

    def extract(self, solver: Any) -> PairChoice:
        """Read the chosen point."""
        prefill, decode = (role.extract(solver) for role in self.variables.roles)
        load = self.variables.extract_load(solver)
        if load is None:  # nothing waits in the model
            load = int(self._task.load(*self._values(PairChoice(prefill, decode, 1)))[0])
        return PairChoice(prefill, decode, load)

    def values(self, choice: PairChoice) -> Vector:
        """Return the integer value of every objective at a point of the model."""
        both, load = self._values(choice), np.array([choice.load])
        return tuple(int(o.combine(*both, load)[0]) for o in self._task.objectives)

    def optimistic(self, level: int) -> int:
        """Return what no candidate in the model beats in one objective."""
        least = int(self._prepared.optimistic[:, level].min())
        return -least if self._task.objectives[level].sense == "max" else least

    def is_proven(self, level: int) -> bool:
        """Whether the search proves the start, from TTFT or a quotient on: nothing is better.

        A sum that is counted in nanoseconds may take CP-SAT minutes, and what follows it as long;
        so may a rate over GPUs. What a plug-in posts and checks is left to CP-SAT, which shows
        whether they agree.
        """
        names = {objective.name for objective in self.objectives[: level + 1]}
        hard = bool(names & {"ttft", "throughput_per_gpu", "cost"})
        return hard and self._prepared.is_proven(level + 1) and not self.plugins

    def described(self, choice: PairChoice) -> str:
        """Return a pair in a line: degrees, and layers per stage, of both roles."""
        prefill, decode = described(choice.prefill), described(choice.decode)
        return f"prefill {prefill}, at most {choice.load} % busy; decode {decode}"

    def others(self, choice: PairChoice) -> tuple[list[Any], bool]:
        """Return literals of which one holds at every other plan, and if sizes alone count."""
        roles = self.variables.roles
        alike = all(sizes_alone(role) for role in roles)
        choices = (choice.prefill, choice.decode)
        literals = [
            literal
            for role, one in zip(roles, choices, strict=True)
            for literal in other_plans(role, one, alike)[0]
        ]
        return literals, alike

    def _values(self, choice: PairChoice) -> tuple[Values, Values]:
        values = [
            chosen_values(task.problem, *chosen_segments(role, one))
            for task, role, one in zip(
                self._task.roles, self.variables.roles, (choice.prefill, choice.decode), strict=True
            )
        ]
        return values[0], values[1]


def _narrowed(task: PairTask, prepared: PreparedPair) -> list[list[SegmentTable]]:
    """Return grouped segments for the model, without those no pair as good as the best known uses.

    A candidate that is left none keeps its segments: CP-SAT sees for itself that it has no part in
    such a pair.
    """
    if prepared.vector is None:
        return [group_segments(tables) for tables in prepared.tables]
    every = [
        [(rows.take(np.array([i])), table) for i, table in enumerate(tables)]
        for rows, tables in zip(prepared.rows, prepared.tables, strict=True)
    ]
    best = [_best(task, role, candidates) for role, candidates in enumerate(every)]
    result = []
    for role, candidates in enumerate(every):
        kept = []
        for row, table in candidates:
            left = narrowed(task, role, row, table, best[1 - role], prepared.vector)
            good = table if left is None else left[0]
            kept.append(good.keep(on_a_path(good, task.problem.num_layers, int(row.pp[0]))))
        result.append(group_segments(kept))
    return result


def _best(
    task: PairTask, role: int, candidates: Sequence[tuple[Candidates, SegmentTable]]
) -> Values:
    """Return what no candidate of a role in the model beats, each value for itself, shape (1,)."""
    values = [unbeaten(task, role, row, table) for row, table in candidates]
    known = [value for value in values if value is not None]
    return Values.joined(known).best_so_far().row(-1) if known else anything()
