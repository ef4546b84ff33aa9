"""Objectives that weigh the rate against the GPUs that it takes: rate per GPU, cost per token."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from autopar.costs.scaling import RATE_QUANTUM_TOKENS_PER_S, rates_to_int
from autopar.errors import SpecError
from autopar.objectives.base import Objective
from autopar.objectives.worst_stage import WorstStage
from autopar.problem import Candidates, FloatArray, IntArray, Metrics, Problem
from autopar.segments import SegmentTable

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from autopar.variables import PlanVariables

_FINER = 1000  # a rate per GPU is counted in finer steps than a rate, of which it is a part
_TOKENS = 1e6  # of the price of a million tokens
_LARGEST = 2**50


class ThroughputPerGpu(Objective):
    """Most tokens per second and GPU used, so that idle GPUs do not count."""

    name: ClassVar[str] = "throughput_per_gpu"
    unit: ClassVar[str] = "tokens/s per GPU"
    sense: ClassVar[Literal["max", "min"]] = "max"
    quantum: ClassVar[float] = RATE_QUANTUM_TOKENS_PER_S / _FINER
    says: ClassVar[str] = "most tokens per second per GPU"

    def column(self, table: SegmentTable) -> IntArray:
        """Return the rate per GPU if the segment were the bottleneck."""
        return table.rate * _FINER // table.gpus

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> Any:
        """At most that of every chosen segment, and of the chosen group's best one."""
        columns = [self.column(g.table) for g in variables.groups]
        tops = [int(c.max(initial=0)) for c in columns]
        rate = model.new_int_var(0, max(tops, default=0), self.name)
        groups = zip(variables.groups, tops, strict=True)
        model.add(rate <= sum(top * variables.pick[i] for g, top in groups for i in g.members))
        for group, column, top in zip(variables.groups, columns, tops, strict=True):
            for value, literal in zip(column.tolist(), group.segments, strict=True):
                if value < top:
                    model.add(rate <= value).only_enforce_if(literal)
        return rate

    def optimistic(self, problem: Problem, rows: Candidates) -> IntArray:
        """The bound of the cost model over the GPUs that the candidate uses."""
        rate = rates_to_int(problem.cost_model.bounds(rows).tokens_per_s)
        return rate * _FINER // rows.gpus_used(problem.num_layers)

    def over_batches(self, optimistic: IntArray, ratio: FloatArray) -> IntArray:
        """The rate grows no faster than the batch; it may be a quantum larger than its integer."""
        most = np.ceil((optimistic + 1 + _FINER) * ratio)
        return np.where(ratio > 1, most, optimistic).astype(np.int64)

    def terms(self, problem: Problem) -> int:
        """The rounding of the rate is that of `_FINER` quanta of the rate of one GPU."""
        return 1 + _FINER

    def of_split(self, row: Candidates, table: SegmentTable, chosen: IntArray) -> int:
        """The smallest of the chosen segments."""
        return int(self.column(table)[chosen].min())

    def of_metrics(self, metrics: Metrics) -> float:
        """Tokens per second per GPU."""
        return metrics.tokens_per_s_per_gpu


class Cost(WorstStage):
    """Lowest price of a million tokens: the GPUs used, by the hour, over the rate."""

    name = "cost"
    unit = "USD per million tokens"
    quantum = 1e-6
    says = "lowest cost per million tokens"

    def __init__(self, usd_per_gpu_hour: float = 0.0) -> None:
        self._usd_per_gpu_second = usd_per_gpu_hour / 3600

    def for_problem(self, problem: Problem) -> "Cost":
        """Return the objective with the price of the scenario's GPU.

        Raises SpecError where it has none.
        """
        gpu = problem.scenario.cluster.gpu
        if gpu.usd_per_hour is None:
            raise SpecError(
                f"objective 'cost' needs the price of GPU {gpu.name!r}; expected "
                "cluster.gpu.usd_per_hour (add --set cluster.gpu.usd_per_hour=2.5)"
            )
        return Cost(gpu.usd_per_hour)

    def column(self, table: SegmentTable) -> IntArray:
        """Return the cost if the segment were the bottleneck."""
        return self._of_rates(table.rate, table.gpus)

    def optimistic(self, problem: Problem, rows: Candidates) -> IntArray:
        """The cost at the bound of the rate."""
        rate = rates_to_int(problem.cost_model.bounds(rows).tokens_per_s)
        return self._of_rates(rate, rows.gpus_used(problem.num_layers))

    def over_batches(self, optimistic: IntArray, ratio: FloatArray) -> IntArray:
        """The rate grows no faster than the batch; it may be a quantum larger than its integer.

        A cost of c quanta is one of c - 1 at least before it was rounded up, so of a rate of K /
        (c - 1), where K is the cost at a rate of 1; one quantum more makes the cost
        K / (K / (c - 1) + 1). K is least for one GPU.
        """
        before = np.maximum(optimistic - 1.0, 0.0)
        one_gpu = self._usd_per_gpu_second / RATE_QUANTUM_TOKENS_PER_S * _TOKENS / self.quantum
        least = np.floor(before / (1 + before / one_gpu) / ratio)
        return np.where(ratio > 1, least, optimistic).astype(np.int64)

    def rounding_error(self, problem: Problem, value: float) -> float:
        """The cost is rounded up; before, the rate is rounded down, by more of it where it is low.

        The rate is that of one GPU at least.
        """
        rate = self._usd_per_gpu_second * _TOKENS / value if value else np.inf
        return super().rounding_error(problem, value) + value * RATE_QUANTUM_TOKENS_PER_S / rate

    def of_metrics(self, metrics: Metrics) -> float:
        """USD per million tokens."""
        return self._usd_per_gpu_second * _TOKENS / metrics.tokens_per_s_per_gpu

    def _of_rates(self, rate: IntArray, gpus: IntArray | int) -> IntArray:
        tokens_per_s = np.maximum(rate, 1) * RATE_QUANTUM_TOKENS_PER_S
        cost = self._usd_per_gpu_second * gpus / tokens_per_s * _TOKENS / self.quantum
        return np.minimum(np.ceil(cost - 1e-6), _LARGEST).astype(np.int64)
