"""Solve the objectives of one CP-SAT model one after another, and say what is proven.

What is solved is a `Program`: one layout for all GPUs, or a pair of layouts for two roles. It knows
its variables; this module knows the order of the objectives, the bounds and the status.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from autopar.cpsat import Report, Session, Watch, status_of
from autopar.errors import PluginError
from autopar.results import Progress, Status, Uniqueness
from autopar.specs import CpSatParameters
from autopar.variables import Choice, PairChoice

Vector = tuple[int, ...]  # one integer per objective

# Deterministic seconds for the question whether the plan is unique: the answer stands without it,
# and where very many paths have one sum of times it may take hours.
_UNIQUENESS_LIMIT = 2.0

_Point = TypeVar("_Point", bound=Choice | PairChoice)


class Program(Protocol[_Point]):
    """A CP-SAT model with its variables; a point of it is a `Choice` or a pair of them."""

    @property
    def model(self) -> Any:
        """The model."""
        ...

    @property
    def parameters(self) -> CpSatParameters:
        """How CP-SAT is to run."""
        ...

    @property
    def objectives(self) -> Sequence[Any]:
        """The objectives in their order; asked for their `name`, `sense` and `value`."""
        ...

    @property
    def expressions(self) -> Sequence[Any]:
        """One linear expression of the model per objective."""
        ...

    @property
    def start(self) -> _Point | None:
        """A point that all checks accept, if one is known."""
        ...

    @property
    def plugins(self) -> Sequence[str]:
        """Names of the plug-ins that were posted."""
        ...

    def hint(self, choice: _Point) -> None:
        """Give CP-SAT a complete starting point."""
        ...

    def extract(self, solver: Any) -> _Point:
        """Read the chosen point."""
        ...

    def values(self, choice: _Point) -> Vector:
        """Return the integer value of every objective at a point."""
        ...

    def optimistic(self, level: int) -> int:
        """Return what nothing in the model beats in one objective."""
        ...

    def is_proven(self, level: int) -> bool:
        """Whether no plan that is as good as the start before is better in an objective."""
        ...

    def described(self, choice: _Point) -> str:
        """Return a point in a line."""
        ...

    def others(self, choice: _Point) -> tuple[list[Any], bool]:
        """Return literals of which one holds at every other plan, and if sizes alone count.

        Sizes alone count where the order of the stages makes no difference to any cost.
        """
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What CP-SAT established.

    vector and bounds: one integer per objective in the objective's own direction; a bound holds
    while the objectives before it keep their values. All None without a plan.
    """

    status: Status
    choice: Choice | PairChoice | None
    vector: Vector | None
    bounds: Vector | None
    uniqueness: Uniqueness | None
    deterministic_time: float
    interrupted: bool


INFEASIBLE = Outcome("infeasible", None, None, None, None, 0.0, interrupted=False)


def run(program: Program[_Point], *, report: Report | None, uniqueness: bool) -> Outcome:
    """Return the lexicographic optimum of a program, with its proof.

    uniqueness: whether to ask for another optimum afterwards.
    """
    session = Session(program.model, program.parameters)
    choice, vector, bounds, status = _lexicographic(session, program, report)
    unique = None
    if uniqueness and status == "optimal" and choice is not None and not session.interrupted:
        if report is not None:
            elapsed = time.perf_counter() - session.started
            report(Progress(elapsed, "is the plan unique?", None, None, None))
        unique = _uniqueness(session, program, choice)
    return Outcome(
        status, choice, vector, bounds, unique, session.deterministic_time, session.interrupted
    )


def _lexicographic(
    session: Session, program: Program[_Point], report: Report | None
) -> tuple[_Point | None, Vector | None, Vector | None, Status]:
    """Optimise each objective in turn, holding the earlier ones at their values."""
    model, choice = session.model, program.start
    vector: list[int] = []
    bounds: list[int] = []
    for level, (objective, expression) in enumerate(
        zip(program.objectives, program.expressions, strict=True)
    ):
        if choice is not None and program.is_proven(level):
            value = program.values(choice)[level]
            vector.append(value)
            bounds.append(value)
            model.add(expression == value)
            if report is not None:
                elapsed, shown = time.perf_counter() - session.started, objective.value(value)
                report(Progress(elapsed, objective.name, shown, shown, 0.0))
            continue
        model.clear_hints()
        if choice is not None:
            program.hint(choice)
        (model.maximize if objective.sense == "max" else model.minimize)(expression)
        watch = Watch(session, objective.name, objective.value, report)
        solver = session.solve(watch.on_solution(), watch.on_bound if report else None)
        status = status_of(solver)
        if status == "infeasible" and choice is not None:
            raise PluginError(
                f"post and check of {_plugins(program)} disagree: the checks accept a plan that "
                f"the model forbids ({program.described(choice)})"
            )
        if status == "infeasible" or (status == "unknown" and choice is None):
            return None, None, None, status
        if status == "unknown":
            # The start is a plan; what CP-SAT did not repeat it did not refute either.
            return choice, *_open_end(program, choice, bounds), "feasible"
        choice = _better(program, choice, program.extract(solver))
        value, bound = round(solver.objective_value), round(solver.best_objective_bound)
        vector.append(value)
        bounds.append(bound)
        model.add(expression == value)
        if status == "feasible" or session.interrupted:
            return choice, *_open_end(program, choice, bounds), "feasible"
    return choice, tuple(vector), tuple(bounds), "optimal"


def _better(program: Program[_Point], known: _Point | None, found: _Point) -> _Point:
    """Return the better of two points, to start the next objective from.

    What CP-SAT finds for one objective may be poor in those that follow; from there it may climb
    in steps of a single unit.
    """
    if known is None:
        return found
    signs = [-1 if objective.sense == "max" else 1 for objective in program.objectives]
    before, after = (
        [sign * value for sign, value in zip(signs, program.values(point), strict=True)]
        for point in (known, found)
    )
    return known if before < after else found


def _open_end(
    program: Program[_Point], choice: _Point | None, bounds: list[int]
) -> tuple[Vector, Vector]:
    """Return a plan's values, and bounds; levels that were not reached take the table's."""
    assert choice is not None  # callers have a plan
    vector = program.values(choice)
    rest = tuple(program.optimistic(i) for i in range(len(bounds), len(vector)))
    return vector, (*bounds, *rest)


def _uniqueness(session: Session, program: Program[_Point], choice: _Point) -> Uniqueness:
    """Ask for another optimum: other degrees, or other stage sizes. None means unique.

    The model already holds every objective at its optimal value.
    """
    model = session.model
    model.clear_objective()
    model.clear_hints()
    differs, sizes_alone = program.others(choice)
    model.add_bool_or(differs)
    solver = session.solve(at_most=_UNIQUENESS_LIMIT)
    status = status_of(solver)
    method = (
        "all objectives held at their optimum, the found degrees with the found stage sizes "
        "forbidden: {}; up to renaming equal layers, experts, shards, GPUs, nodes and domains"
    )
    if not sizes_alone:  # the ends of the pipeline cost more: the order of stage sizes matters
        method = method.replace("stage sizes", "stage sizes in their order")
    if status == "infeasible":
        return Uniqueness(unique=True, method=method.format("CP-SAT proves that no plan is left"))
    if status == "unknown":
        return Uniqueness(unique=None, method=method.format("not decided within the limit"))
    return Uniqueness(
        unique=False,
        method=method.format("CP-SAT finds another plan"),
        other=program.described(program.extract(solver)),
    )


def _plugins(program: Program[_Point]) -> str:
    names = [repr(name) for name in program.plugins]
    return f"plug-in {' or '.join(names)}" if names else "a built-in constraint"
