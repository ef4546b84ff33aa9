"""Shortest time to first token: a batch runs through all stages one after another."""

from typing import TYPE_CHECKING, Any

from autopar.costs.scaling import TIME_QUANTUM_US, times_to_int
from autopar.objectives.base import Objective
from autopar.problem import Candidates, IntArray, Metrics, Problem
from autopar.segments import SegmentTable

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from autopar.variables import PlanVariables


class Ttft(Objective):
    """Sum over the stages of what they add to the first token."""

    name = "ttft"
    unit = "us"
    sense = "min"
    quantum = TIME_QUANTUM_US
    says = "shortest time to first token"

    def applies(self, problem: Problem) -> bool:
        """Where prompts are worked on."""
        return problem.scenario.workload.phase != "decode"

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> Any:
        """The sum over the chosen segments."""
        return variables.total_time()

    def optimistic(self, problem: Problem, rows: Candidates) -> IntArray:
        """The bound of the cost model."""
        ttft_us = problem.cost_model.bounds(rows).ttft_us
        assert ttft_us is not None  # applies() holds
        return times_to_int(ttft_us)

    def of_split(self, row: Candidates, table: SegmentTable, chosen: IntArray) -> int:
        """The sum of the chosen segments."""
        return int(table.time[chosen].sum())

    def of_metrics(self, metrics: Metrics) -> float:
        """TTFT in us."""
        assert metrics.ttft_us is not None
        return metrics.ttft_us

    def terms(self, problem: Problem) -> int:
        """One rounding per stage, of which there are at most as many as layers."""
        return problem.num_layers
