"""Build the CP-SAT model, solve the objectives one after another, and say what is proven."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autopar.constraints.base import Constraint, post
from autopar.errors import AutoparError, PluginError
from autopar.ortools_loader import load_cp_model
from autopar.results import Progress, Status, Uniqueness
from autopar.search import Prepared, Task, Vector, narrowed
from autopar.segments import SegmentTable
from autopar.specs import CpSatParameters
from autopar.variables import Choice, PlanVariables

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

logger = logging.getLogger("autopar.solver")

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What CP-SAT established.

    vector and bounds: one integer per objective in the objective's own direction; a bound holds
    while the objectives before it keep their values. All None without a plan.
    """

    status: Status
    choice: Choice | None
    vector: Vector | None
    bounds: Vector | None
    uniqueness: Uniqueness | None
    deterministic_time: float
    interrupted: bool


class _Session:
    """One model with its solver: repeated solves share limits, seed and interruption."""

    def __init__(self, model: "cp_model.CpModel", parameters: CpSatParameters) -> None:
        self.cp = load_cp_model()
        self.model: Any = model  # ortools types some of its methods, not all
        self.parameters = parameters
        self.deterministic_time = 0.0
        self.interrupted = False
        self.started = time.perf_counter()

    def solve(self, callback: Any = None, on_bound: Callable[[float], None] | None = None) -> Any:
        """Solve the model as it stands and return the solver; Ctrl-C ends the search, not us."""
        solver = self.cp.CpSolver()
        solver.parameters.num_workers = self.parameters.num_workers
        solver.parameters.random_seed = self.parameters.seed
        solver.parameters.catch_sigint_signal = False
        if self.parameters.num_workers > 1:
            solver.parameters.interleave_search = True  # many workers, one answer
        left = self.parameters.deterministic_time_limit - self.deterministic_time
        solver.parameters.max_deterministic_time = max(left, 1e-3)
        if logger.isEnabledFor(logging.DEBUG):
            solver.parameters.log_search_progress = True
            solver.parameters.log_to_stdout = False
            solver.log_callback = logger.debug
        if on_bound is not None:
            solver.best_bound_callback = on_bound
        self._run(solver, callback)
        self.deterministic_time += solver.deterministic_time
        return solver

    def _run(self, solver: Any, callback: Any) -> None:
        failure: list[BaseException] = []
        done = threading.Event()

        def work() -> None:
            try:
                solver.solve(self.model, callback)
            except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
                failure.append(error)
            finally:
                done.set()

        if threading.current_thread() is not threading.main_thread():
            work()
        else:
            thread = threading.Thread(target=work, name="cp-sat", daemon=True)
            thread.start()
            # Not thread.join(): interrupted, it takes a running thread for a finished one
            # (CPython 3.11, threading.Thread._wait_for_tstate_lock).
            while not done.is_set():
                try:
                    done.wait(0.05)
                except KeyboardInterrupt:
                    self.interrupted = True
                    solver.stop_search()
            thread.join()
        if failure:
            raise failure[0]


def optimise(
    task: Task, prepared: Prepared, *, report: Report | None = None, uniqueness: bool = False
) -> Outcome:
    """Return the lexicographic optimum over the prepared candidates, with its proof."""
    if not len(prepared.rows):
        return Outcome("infeasible", None, None, None, None, 0.0, interrupted=False)
    cp = load_cp_model()
    model = cp.CpModel()
    model.name = task.problem.scenario.name
    variables = PlanVariables(model, task.problem, prepared.rows, narrowed(task, prepared))
    for constraint in task.constraints:
        post(constraint, model, variables, task.problem)
    posted = [o.post(model, variables, task.problem) for o in task.objectives]
    # A number is an objective too: only a solve shows whether there is a plan to have it.
    expressions = [model.new_constant(e) if isinstance(e, int) else e for e in posted]
    session = _Session(model, task.problem.scenario.recipe.cp_sat)
    choice, vector, bounds, status = _lexicographic(
        session, task, prepared, variables, expressions, report
    )
    unique = None
    if uniqueness and status == "optimal" and choice is not None and not session.interrupted:
        if report is not None:
            elapsed = time.perf_counter() - session.started
            report(Progress(elapsed, "is the plan unique?", None, None, None))
        unique = _uniqueness(session, variables, choice)
    return Outcome(
        status, choice, vector, bounds, unique, session.deterministic_time, session.interrupted
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


def relative_gap(value: float, bound: float) -> float:
    """Return |value - bound| relative to the larger of the two; 0.0 where they are equal."""
    return 0.0 if value == bound else abs(value - bound) / max(abs(value), abs(bound))


def _lexicographic(
    session: _Session,
    task: Task,
    prepared: Prepared,
    variables: PlanVariables,
    expressions: list[Any],
    report: Report | None,
) -> tuple[Choice | None, Vector | None, Vector | None, Status]:
    """Optimise each objective in turn, holding the earlier ones at their values."""
    model, choice = session.model, prepared.incumbent
    vector: list[int] = []
    bounds: list[int] = []
    for objective, expression in zip(task.objectives, expressions, strict=True):
        model.clear_hints()
        if choice is not None:
            variables.hint(choice)
        (model.maximize if objective.sense == "max" else model.minimize)(expression)
        watch = _Watch(session, objective.name, objective.value, report)
        solver = session.solve(watch.on_solution(), watch.on_bound if report else None)
        status = _status(solver)
        if status == "infeasible" and choice is not None:
            raise PluginError(
                f"post and check of {_plugins(task)} disagree: the checks accept a plan that the "
                f"model forbids ({_described(choice)})"
            )
        if status == "infeasible" or (status == "unknown" and choice is None):
            return None, None, None, status
        if status == "unknown":
            # The start is a plan; what CP-SAT did not repeat it did not refute either.
            return choice, *_open_end(task, prepared, variables, choice, bounds), "feasible"
        choice = variables.extract(solver)
        value, bound = round(solver.objective_value), round(solver.best_objective_bound)
        vector.append(value)
        bounds.append(bound)
        model.add(expression == value)
        if status == "feasible" or session.interrupted:
            return choice, *_open_end(task, prepared, variables, choice, bounds), "feasible"
    return choice, tuple(vector), tuple(bounds), "optimal"


def _open_end(
    task: Task,
    prepared: Prepared,
    variables: PlanVariables,
    choice: Choice | None,
    bounds: list[int],
) -> tuple[Vector, Vector]:
    """Return a plan's values, and bounds; levels that were not reached take the table's."""
    assert choice is not None  # callers have a plan
    vector = _values(task, variables, choice)
    rest = tuple(_optimistic(task, prepared, i) for i in range(len(bounds), len(vector)))
    return vector, (*bounds, *rest)


def _values(task: Task, variables: PlanVariables, choice: Choice) -> Vector:
    """Return the integer value of every objective at a point of the model."""
    row = variables.rows.take(np.array([choice.row]))
    table = next(g.table for g in variables.groups if choice.row in g.members)
    stops = np.cumsum(choice.split)
    wanted = set(zip((stops - np.array(choice.split)).tolist(), stops.tolist(), strict=True))
    pairs = zip(table.first.tolist(), table.stop.tolist(), strict=True)
    chosen = np.array([k for k, pair in enumerate(pairs) if pair in wanted], dtype=np.int64)
    return tuple(o.of_split(row, table, chosen) for o in task.objectives)


def _optimistic(task: Task, prepared: Prepared, level: int) -> int:
    """Return what no candidate in the model beats in one objective."""
    column = task.objectives[level].optimistic(task.problem, prepared.rows)
    return int(column.max() if task.objectives[level].sense == "max" else column.min())


def _uniqueness(session: _Session, variables: PlanVariables, choice: Choice) -> Uniqueness:
    """Ask for another optimum: other degrees, or other stage sizes. None means unique.

    The model already holds every objective at its optimal value.
    """
    model = session.model
    model.clear_objective()
    model.clear_hints()
    alike = all(_cost_depends_on_length_alone(group.table) for group in variables.groups)
    differs = [~variables.pick[choice.row]]
    differs += _other_sizes(model, variables, choice) if alike else _other_cuts(variables, choice)
    model.add_bool_or(differs)
    solver = session.solve()
    status = _status(solver)
    method = (
        "all objectives held at their optimum, the found degrees with the found stage sizes "
        "forbidden: {}; up to renaming equal layers, experts, shards, GPUs, nodes and domains"
    )
    if not alike:  # the ends of the pipeline cost more: the order of stage sizes matters
        method = method.replace("stage sizes", "stage sizes in their order")
    if status == "infeasible":
        return Uniqueness(unique=True, method=method.format("CP-SAT proves that no plan is left"))
    if status == "unknown":
        return Uniqueness(unique=None, method=method.format("not decided within the limit"))
    other_choice = variables.extract(solver)
    return Uniqueness(
        unique=False,
        method=method.format("CP-SAT finds another plan"),
        other=_described(other_choice),
    )


def _plugins(task: Task) -> str:
    names = [repr(c.name) for c in task.constraints if not isinstance(c, Constraint)]
    return f"plug-in {' or '.join(names)}" if names else "a built-in constraint"


def _described(choice: Choice) -> str:
    """Return a choice in a line: degrees, and layers per stage."""
    candidate, sizes = choice.candidate, sorted(set(choice.split))
    degrees = [f"{key} {getattr(candidate, key)}" for key in ("replicas", "pp", "tp", "cp")]
    for key, of_size in (
        ("attn_dp", candidate.stage_attn_dp), ("spread", candidate.stage_spread),
    ):  # fmt: skip
        values = {of_size(size) for size in sizes}
        degrees.append(f"{key} {values.pop()}" if len(values) == 1 else f"{key} varies")
    degrees += [f"{key} {getattr(candidate, key)}" for key in ("ep", "etp")]
    return f"{', '.join(degrees)}; layers per stage {', '.join(map(str, choice.split))}"


def _cost_depends_on_length_alone(table: SegmentTable) -> bool:
    """Whether segments of one length all cost the same, so that stages can change places."""
    columns = [table.time, table.rate, table.memory]
    columns += [] if table.tpot is None else [table.tpot]
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


def _other_sizes(model: Any, variables: PlanVariables, choice: Choice) -> list[Any]:
    """Return literals of which one holds when some stage size occurs fewer or more times."""
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
            other = model.new_bool_var(f"{name}_of_{length}_layers")
            model.add(condition).only_enforce_if(other)
            differs.append(other)
    return differs


def _status(solver: Any) -> Status:
    """Map every CP-SAT status to ours; a model that CP-SAT rejects is a bug of ours."""
    status = solver.response_proto.status.name  # status_name() without argument fails in 9.15
    match status:
        case "OPTIMAL":
            return "optimal"
        case "FEASIBLE":
            return "feasible"
        case "INFEASIBLE":
            return "infeasible"
        case "UNKNOWN":
            return "unknown"
        case _:
            raise AutoparError(f"CP-SAT answered {status}: {solver.solution_info()}")


class _Watch:
    """Turns CP-SAT's callbacks into progress reports."""

    def __init__(
        self, session: _Session, name: str, to_unit: Callable[[int], float], report: Report | None
    ) -> None:
        self.session, self.name, self.to_unit, self.report = session, name, to_unit, report
        self.value: float | None = None
        self.bound: float | None = None

    def on_solution(self) -> Any:
        """Return a solution callback, or None where nobody listens."""
        if self.report is None:
            return None
        watch = self

        class Callback(self.session.cp.CpSolverSolutionCallback):  # type: ignore[name-defined,misc]
            def on_solution_callback(self) -> None:
                watch.value = watch.to_unit(round(self.objective_value))
                watch.bound = watch.to_unit(round(self.best_objective_bound))
                watch.tell()

        return Callback()

    def on_bound(self, bound: float) -> None:
        """Take a better bound."""
        self.bound = self.to_unit(round(bound))
        self.tell()

    def tell(self) -> None:
        """Report what is known."""
        assert self.report is not None
        gap = None
        if self.value is not None and self.bound is not None:
            gap = relative_gap(self.value, self.bound)
        elapsed = time.perf_counter() - self.session.started
        self.report(Progress(elapsed, self.name, self.value, self.bound, gap))
