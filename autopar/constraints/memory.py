"""The fullest GPU of every stage holds what the stage puts on it."""

from collections.abc import Iterator

from autopar.constraints.base import Constraint
from autopar.costs.scaling import sizes_to_int
from autopar.problem import BoolArray, Candidates, IntArray, Plan, Problem
from autopar.segments import plan_costs
from autopar.specs import Scenario
from autopar.units import format_bytes


class Memory(Constraint):
    """Weights, KV cache, activations and reserve fit in the memory of one GPU."""

    name = "memory"
    because = "what a GPU holds must fit in its memory"
    depends_on_batch = "grows"

    def states(self, scenario: Scenario) -> str:
        """Name the memory of a GPU and the share that a plan may use."""
        share = scenario.requirements.max_memory_fraction
        size = format_bytes(scenario.cluster.gpu.memory_bytes * share)
        return f"what a GPU holds fits in {size} ({share:.0%} of its memory)"

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray:
        """Candidates whose fullest GPU fits at best."""
        least = problem.cost_model.bounds(rows).memory_bytes
        return sizes_to_int(least) <= int(capacity_bytes(problem))

    def allowed_segments(
        self, problem: Problem, rows: Candidates, first: IntArray, stop: IntArray
    ) -> BoolArray:
        """Segments whose fullest GPU fits."""
        costs = problem.cost_model.stage_costs(rows, first, stop)
        return sizes_to_int(costs.memory_bytes) <= int(capacity_bytes(problem))

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """Compare every stage with the memory of its GPUs."""
        capacity = capacity_bytes(problem)
        for stage, peak in zip(
            plan.stages, plan_costs(plan, problem).memory_bytes.tolist(), strict=True
        ):
            if peak > capacity + 1:  # a byte of rounding
                yield f"stage {stage.index} needs {peak:,.0f} bytes per GPU of {capacity:,.0f}"


def capacity_bytes(problem: Problem) -> float:
    """Return the bytes of a GPU that the scenario lets a plan use."""
    gpu = problem.scenario.cluster.gpu
    return gpu.memory_bytes * problem.scenario.requirements.max_memory_fraction
