"""Objectives that the degrees alone decide: traffic between stages, GPUs used."""

from typing import TYPE_CHECKING, Any

from autopar.objectives.base import Objective
from autopar.problem import Candidates, IntArray, Metrics, Problem
from autopar.segments import SegmentTable

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from autopar.variables import PlanVariables


class Counted(Objective):
    """A whole number that every candidate fixes, to be made small."""

    sense = "min"
    quantum = 1.0

    def terms(self, problem: Problem) -> int:
        """Whole numbers are not rounded."""
        return 0

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> Any:
        """The number of the chosen candidate."""
        values = self.optimistic(problem, variables.rows).tolist()
        return sum(v * p for v, p in zip(values, variables.pick, strict=True))


class Traffic(Counted):
    """Fewest stage boundaries: every token's activations cross each of them once."""

    name = "traffic"
    unit = "stage boundaries"
    says = "fewest stage boundaries for a token to cross"

    def optimistic(self, problem: Problem, rows: Candidates) -> IntArray:
        """Exact: pp - 1."""
        return rows.pp - 1

    def of_split(self, row: Candidates, table: SegmentTable, chosen: IntArray) -> int:
        """One less than the stages."""
        return len(chosen) - 1

    def of_metrics(self, metrics: Metrics) -> float:
        """Stage boundaries."""
        return float(metrics.stage_boundaries)


class Gpus(Counted):
    """Fewest GPUs used."""

    name = "gpus"
    unit = "GPUs"
    says = "fewest GPUs"

    def optimistic(self, problem: Problem, rows: Candidates) -> IntArray:
        """Exact: GPUs of all replicas."""
        return rows.gpus_used(problem.num_layers)

    def of_split(self, row: Candidates, table: SegmentTable, chosen: IntArray) -> int:
        """GPUs of all replicas."""
        return int(row.gpus_used(int(table.stop[chosen].max()))[0])

    def of_metrics(self, metrics: Metrics) -> float:
        """GPUs, from the total rate and the rate of one."""
        return round(metrics.tokens_per_s / metrics.tokens_per_s_per_gpu)
