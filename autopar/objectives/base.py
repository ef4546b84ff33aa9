"""What an objective is: an integer expression, a bound per candidate, a value of an answer."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from autopar.costs.scaling import error_bound
from autopar.problem import Candidates, FloatArray, IntArray, Metrics, Problem
from autopar.segments import SegmentTable

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from autopar.variables import PlanVariables


class Objective:
    """Base of the objectives. Integers are in `quantum` units of `unit`."""

    name: ClassVar[str]
    unit: ClassVar[str]
    sense: ClassVar[Literal["max", "min"]]
    quantum: ClassVar[float]
    says: ClassVar[str]  # what it means to lead in it

    def applies(self, problem: Problem) -> bool:
        """Whether the cost model states this quantity for the scenario's workload."""
        return True

    def for_problem(self, problem: Problem) -> "Objective":
        """Return the objective with what it needs to know of the scenario.

        Raises SpecError if the scenario does not say it.
        """
        return self

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> Any:
        """Add what the objective needs and return it as a linear expression of integers."""
        raise NotImplementedError

    def optimistic(self, problem: Problem, rows: Candidates) -> IntArray:
        """Return for each candidate a value that no split of its layers beats, shape (rows,)."""
        raise NotImplementedError

    def over_batches(self, optimistic: IntArray, ratio: FloatArray) -> IntArray:
        """Return what no batch up to `ratio` times a candidate's own beats.

        optimistic: shape (rows,), for the candidates' own batches. Times and sizes only grow.
        """
        return optimistic

    def of_split(self, row: Candidates, table: SegmentTable, chosen: IntArray) -> int:
        """Return the integer value of one candidate with the chosen segments of its table."""
        raise NotImplementedError

    def of_metrics(self, metrics: Metrics) -> float:
        """Return the value in `unit` from the metrics of a plan."""
        raise NotImplementedError

    def terms(self, problem: Problem) -> int:
        """How many rounded numbers the value adds up, for the error bound."""
        return 1

    def rounding_error(self, problem: Problem, value: float) -> float:
        """Return the most by which an integer value may differ from the float one, in `unit`.

        value: the integer one, in `unit`.
        """
        return error_bound(self.quantum, self.terms(problem), value)

    def value(self, integer: int) -> float:
        """Return an integer value in `unit`."""
        return integer * self.quantum
