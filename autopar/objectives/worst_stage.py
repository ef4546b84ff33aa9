"""Objectives that the worst stage sets: TPOT and memory."""

from typing import TYPE_CHECKING, Any

import numpy as np

from autopar.costs.scaling import SIZE_QUANTUM_BYTES, TIME_QUANTUM_US, sizes_to_int, times_to_int
from autopar.objectives.base import Objective
from autopar.problem import Candidates, IntArray, Metrics, Problem
from autopar.segments import SegmentTable

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from autopar.variables import PlanVariables


class WorstStage(Objective):
    """The largest value over the chosen segments, to be made small."""

    sense = "min"

    def column(self, table: SegmentTable) -> IntArray:
        """Return the value of each segment."""
        raise NotImplementedError

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> Any:
        """At least the value of every chosen segment, and the least of the chosen group."""
        columns = [self.column(g.table) for g in variables.groups]
        top = max((int(c.max(initial=0)) for c in columns), default=0)
        worst = model.new_int_var(0, top, self.name)
        least = [int(c.min()) if len(c) else 0 for c in columns]
        groups = zip(variables.groups, least, strict=True)
        model.add(worst >= sum(v * variables.pick[i] for g, v in groups for i in g.members))
        for group, column, low in zip(variables.groups, columns, least, strict=True):
            for value, literal in zip(column.tolist(), group.segments, strict=True):
                if value > low:
                    model.add(worst >= value).only_enforce_if(literal)
        return worst

    def of_split(self, row: Candidates, table: SegmentTable, chosen: IntArray) -> int:
        """The largest value of the chosen segments."""
        return int(np.max(self.column(table)[chosen]))


class Tpot(WorstStage):
    """Shortest mean time per output token: one turn of the pipeline, set by its slowest stage."""

    name = "tpot"
    unit = "us"
    quantum = TIME_QUANTUM_US
    says = "shortest time per output token"

    def applies(self, problem: Problem) -> bool:
        """Where output tokens are made."""
        return problem.scenario.workload.phase != "prefill"

    def column(self, table: SegmentTable) -> IntArray:
        """The cycle time if the segment were the slowest."""
        assert table.tpot is not None  # applies() holds
        return table.tpot

    def optimistic(self, problem: Problem, rows: Candidates) -> IntArray:
        """The bound of the cost model."""
        tpot_us = problem.cost_model.bounds(rows).tpot_us
        assert tpot_us is not None
        return times_to_int(tpot_us)

    def of_metrics(self, metrics: Metrics) -> float:
        """TPOT in us."""
        assert metrics.tpot_us is not None
        return metrics.tpot_us


class Memory(WorstStage):
    """Least memory on the fullest GPU."""

    name = "memory"
    unit = "bytes"
    quantum = SIZE_QUANTUM_BYTES
    says = "least memory on the fullest GPU"

    def column(self, table: SegmentTable) -> IntArray:
        """Bytes on the fullest GPU of each segment."""
        return table.memory

    def optimistic(self, problem: Problem, rows: Candidates) -> IntArray:
        """The bound of the cost model."""
        return sizes_to_int(problem.cost_model.bounds(rows).memory_bytes)

    def of_metrics(self, metrics: Metrics) -> float:
        """Peak memory in bytes."""
        return metrics.peak_memory_bytes
