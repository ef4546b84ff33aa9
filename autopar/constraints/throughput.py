"""The plan produces at least the tokens per second that the scenario asks for."""

from collections.abc import Iterator

import numpy as np

from autopar.constraints.base import Constraint
from autopar.costs.scaling import rates_to_int
from autopar.problem import BoolArray, Candidates, FloatArray, IntArray, Plan, Problem
from autopar.segments import plan_costs
from autopar.specs import Scenario
from autopar.units import format_rate


class Throughput(Constraint):
    """A rate in total, a rate per GPU used, or both."""

    name = "throughput"
    because = "the service must produce a rate"
    depends_on_batch = "rate"

    def states(self, scenario: Scenario) -> str:
        """Name the rates."""
        limits = scenario.requirements
        rates = ((limits.min_tokens_per_s, ""), (limits.min_tokens_per_s_per_gpu, " per GPU"))
        wanted = [format_rate(rate) + suffix for rate, suffix in rates if rate is not None]
        return f"at least {' and '.join(wanted)}"

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray:
        """Candidates that can reach the rate at best."""
        most = problem.cost_model.bounds(rows).tokens_per_s
        return rates_to_int(most) >= rates_to_int(_needed(problem, rows))

    def may_allow(self, problem: Problem, rows: Candidates, ratio: FloatArray) -> BoolArray:
        """A step takes no less time with more in it, so the rate grows no faster than the batch."""
        most = problem.cost_model.bounds(rows).tokens_per_s * ratio
        return rates_to_int(most) >= rates_to_int(_needed(problem, rows))

    def allowed_segments(
        self, problem: Problem, rows: Candidates, first: IntArray, stop: IntArray
    ) -> BoolArray:
        """Segments that would not be a bottleneck below the rate."""
        costs = problem.cost_model.stage_costs(rows, first, stop)
        return rates_to_int(costs.tokens_per_s) >= rates_to_int(_needed(problem, rows))

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """The slowest stage sets the rate."""
        rate = float(np.min(plan_costs(plan, problem).tokens_per_s))
        needed = required(problem, plan.num_gpus)
        if rate < needed * (1 - 1e-9) - 1e-3:
            yield f"{rate:,.3f} tokens/s is below the required {needed:,.3f}"


def required(problem: Problem, num_gpus_used: int) -> float:
    """Return the tokens per second that a plan on so many GPUs must reach."""
    requirements = problem.scenario.requirements
    per_gpu = (requirements.min_tokens_per_s_per_gpu or 0.0) * num_gpus_used
    return max(requirements.min_tokens_per_s or 0.0, per_gpu)


def _needed(problem: Problem, rows: Candidates) -> FloatArray:
    requirements = problem.scenario.requirements
    per_gpu = (requirements.min_tokens_per_s_per_gpu or 0.0) * rows.gpus_used(problem.num_layers)
    needed: FloatArray = np.maximum(requirements.min_tokens_per_s or 0.0, per_gpu)
    return needed
