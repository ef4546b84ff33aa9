"""Most tokens per second, of all replicas together: the slowest stage sets the rate."""

from typing import TYPE_CHECKING, Any

import numpy as np

from autopar.costs.scaling import RATE_QUANTUM_TOKENS_PER_S, rates_to_int
from autopar.objectives.base import Objective
from autopar.problem import Candidates, FloatArray, IntArray, Metrics, Problem
from autopar.segments import SegmentTable

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from autopar.variables import PlanVariables


class Throughput(Objective):
    """Input tokens per second in prefill, output tokens per second in decode."""

    name = "throughput"
    unit = "tokens/s"
    sense = "max"
    quantum = RATE_QUANTUM_TOKENS_PER_S
    says = "most tokens per second"

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> Any:
        """The rate is at most that of every chosen segment, and of the chosen group's best one."""
        tops = [int(g.table.rate.max(initial=0)) for g in variables.groups]
        rate = model.new_int_var(0, max(tops, default=0), "tokens_per_s")
        groups = zip(variables.groups, tops, strict=True)
        model.add(rate <= sum(top * variables.pick[i] for g, top in groups for i in g.members))
        for group, top in zip(variables.groups, tops, strict=True):
            for value, literal in zip(group.table.rate.tolist(), group.segments, strict=True):
                if value < top:
                    model.add(rate <= value).only_enforce_if(literal)
        return rate

    def optimistic(self, problem: Problem, rows: Candidates) -> IntArray:
        """The bound of the cost model."""
        return rates_to_int(problem.cost_model.bounds(rows).tokens_per_s)

    def over_batches(self, optimistic: IntArray, ratio: FloatArray) -> IntArray:
        """A step takes no less time with more in it, so the rate grows no faster than the batch."""
        return np.where(ratio > 1, np.ceil((optimistic + 1) * ratio), optimistic).astype(np.int64)

    def of_split(self, row: Candidates, table: SegmentTable, chosen: IntArray) -> int:
        """The smallest rate of the chosen segments."""
        return int(table.rate[chosen].min())

    def of_metrics(self, metrics: Metrics) -> float:
        """Tokens per second."""
        return metrics.tokens_per_s
