"""What a constraint is.

A plug-in needs a `name`, `post` and `check`. A built-in constraint that restricts candidates or
segments one by one says so as a filter over arrays, from which `post` follows; the solver uses the
same filters to leave out of the model what they forbid. `check` never uses a filter.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from autopar.errors import PluginError
from autopar.problem import BoolArray, Candidates, FloatArray, IntArray, Plan, Problem
from autopar.segments import SegmentTable
from autopar.specs import Scenario

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from autopar.variables import PlanVariables


@runtime_checkable
class PlugIn(Protocol):
    """The least that a constraint of a user needs."""

    @property
    def name(self) -> str:
        """The name under which it is disabled, explained and blamed."""
        ...

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> None:
        """Add the constraint to the CP-SAT model."""
        ...

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """Yield a sentence for every way in which an explicit plan breaks the constraint."""
        ...


def complaints(constraint: PlugIn, plan: Plan, problem: Problem) -> list[str]:
    """Return what a constraint's check says of a plan.

    Raises PluginError, naming the plug-in, if the check of a plug-in fails.
    """
    if isinstance(constraint, Constraint):
        return list(constraint.check(plan, problem))
    try:
        return [str(sentence) for sentence in constraint.check(plan, problem)]
    except Exception as error:
        raise PluginError(_failure(constraint, "check", error)) from error


def post(
    constraint: PlugIn, model: "CpModel", variables: "PlanVariables", problem: Problem
) -> None:
    """Post a constraint.

    Raises PluginError, naming the plug-in, if the post of a plug-in fails.
    """
    if isinstance(constraint, Constraint):
        constraint.post(model, variables, problem)
        return
    try:
        constraint.post(model, variables, problem)
    except Exception as error:
        raise PluginError(_failure(constraint, "post", error)) from error


def _failure(constraint: PlugIn, method: str, error: Exception) -> str:
    return f"plug-in {constraint.name!r}: {method} failed: {type(error).__name__}: {error}"


class Constraint:
    """Base of the built-in constraints: filters over candidates and segments, `post` from them."""

    name: str = ""
    because: str = ""
    # Whether the filters say all that `post` says, so that no plan of allowed parts breaks it.
    filters_completely: bool = True
    # Whether `allowed_segments` depends on the shape of a stage alone, not on pp or replicas, so
    # that candidates which differ only in these share its answer.
    filters_shapes: bool = False
    # How the filters depend on an open batch: not at all; what passes at one batch passes at every
    # smaller one ("grows"); through a rate, see `may_allow`; or in any way.
    depends_on_batch: Literal["not", "grows", "rate", "any"] = "not"

    def states(self, scenario: Scenario) -> str:
        """Return what the constraint demands in this scenario, with its numbers, and why."""
        return self.because

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray | None:
        """Return which candidates satisfy the constraint, shape (rows,); None for all."""
        return None

    def rows_decide(self, rows: Candidates) -> bool:
        """Whether `allowed_rows` is the whole constraint for these, whatever their split."""
        return False

    def may_allow(self, problem: Problem, rows: Candidates, ratio: FloatArray) -> BoolArray:
        """Return whether some batch from the candidate's own up to `ratio` times it may pass."""
        raise NotImplementedError

    def allowed_segments(
        self, problem: Problem, rows: Candidates, first: IntArray, stop: IntArray
    ) -> BoolArray | None:
        """Return which pairs of (candidate, segment) do, shape (pairs,); None for all."""
        return None

    def allowed_split(
        self, problem: Problem, row: Candidates, table: SegmentTable, chosen: IntArray
    ) -> bool:
        """Whether one split satisfies what the filters cannot say; see `filters_completely`."""
        return True

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> None:
        """Add the constraint to the CP-SAT model."""
        rows = self.allowed_rows(problem, variables.rows)
        if rows is not None:
            variables.forbid_rows(~rows)
        for group in variables.groups:
            segments = self.allowed_segments(
                problem, group.pair_rows(variables.rows), group.first, group.stop
            )
            if segments is not None:
                variables.forbid_segments(group, ~segments)

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """Yield a sentence for every way in which an explicit plan breaks the constraint."""
        raise NotImplementedError
