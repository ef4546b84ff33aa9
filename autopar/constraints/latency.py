"""TTFT and TPOT stay within their limits."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from autopar.constraints.base import Constraint
from autopar.costs.scaling import times_to_int
from autopar.problem import BoolArray, Candidates, IntArray, Plan, Problem
from autopar.segments import SegmentTable, plan_costs
from autopar.specs import Scenario
from autopar.units import format_us

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from autopar.variables import PlanVariables


class Ttft(Constraint):
    """The time of a batch through all stages, submission to first output token."""

    name = "ttft"
    because = "the service promises a time to first token"
    depends_on_batch = "grows"
    filters_completely = False

    def states(self, scenario: Scenario) -> str:
        """Name the limit."""
        return f"TTFT at most {format_us(scenario.requirements.max_ttft_us or 0.0)}"

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray | None:
        """Candidates that no split of layers brings over the limit by their bound alone."""
        ttft_us = problem.cost_model.bounds(rows).ttft_us
        return None if ttft_us is None else times_to_int(ttft_us) <= _limit_int(self, problem)

    def allowed_split(
        self, problem: Problem, row: Candidates, table: SegmentTable, chosen: IntArray
    ) -> bool:
        """The sum of the chosen segments' times is within the limit."""
        if problem.scenario.workload.phase == "decode":
            return True
        return int(table.time[chosen].sum()) <= _limit_int(self, problem)

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> None:
        """The sum of the chosen segments' times is within the limit."""
        super().post(model, variables, problem)
        if problem.scenario.workload.phase != "decode":
            model.add(variables.total_time() <= _limit_int(self, problem))

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """Add up the stages."""
        if problem.scenario.workload.phase == "decode":
            return
        ttft_us = float(plan_costs(plan, problem).time_us.sum())
        limit_us = limit(self, problem)
        if ttft_us > limit_us * (1 + 1e-9) + 1e-3 * plan.pp:
            yield f"TTFT {ttft_us:,.3f} us is over the limit of {limit_us:,.3f} us"


class Tpot(Constraint):
    """The mean time per output token after the first, of one request."""

    name = "tpot"
    because = "the service promises a time per output token"
    depends_on_batch = "grows"

    def states(self, scenario: Scenario) -> str:
        """Name the limit."""
        return f"TPOT at most {format_us(scenario.requirements.max_tpot_us or 0.0)}"

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray | None:
        """Candidates that can be fast enough at best."""
        tpot_us = problem.cost_model.bounds(rows).tpot_us
        return None if tpot_us is None else times_to_int(tpot_us) <= _limit_int(self, problem)

    def allowed_segments(
        self, problem: Problem, rows: Candidates, first: IntArray, stop: IntArray
    ) -> BoolArray | None:
        """Segments that would not make the pipeline's cycle too long."""
        tpot_us = problem.cost_model.stage_costs(rows, first, stop).tpot_us
        return None if tpot_us is None else times_to_int(tpot_us) <= _limit_int(self, problem)

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """Look at the slowest stage."""
        tpot_us = plan_costs(plan, problem).tpot_us
        limit_us = limit(self, problem)
        if tpot_us is not None and float(np.max(tpot_us)) > limit_us * (1 + 1e-9) + 1e-3:
            yield f"TPOT {float(np.max(tpot_us)):,.3f} us is over the limit of {limit_us:,.3f} us"


def limit(constraint: Ttft | Tpot, problem: Problem) -> float:
    """Return the limit of the scenario, in us."""
    requirements = problem.scenario.requirements
    value = requirements.max_ttft_us if constraint.name == "ttft" else requirements.max_tpot_us
    assert value is not None  # active() adds the constraint only then
    return value


def _limit_int(constraint: Ttft | Tpot, problem: Problem) -> int:
    return int(times_to_int(np.array([limit(constraint, problem)]))[0])
