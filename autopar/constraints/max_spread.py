"""A stage has no more expert grids than the scenario allows: one, for every engine of today."""

from collections.abc import Iterator

from autopar.constraints.base import Constraint
from autopar.problem import BoolArray, Candidates, IntArray, Plan, Problem
from autopar.specs import Scenario


class MaxSpread(Constraint):
    """No stage has more disjoint expert grids than the limit."""

    name = "max_spread"
    because = "what serves the plan must keep so many expert grids of a stage apart"
    filters_shapes = True

    def states(self, scenario: Scenario) -> str:
        """Name the limit."""
        most = scenario.requirements.max_spread
        return f"a stage has at most {most} expert grid{'' if most == 1 else 's'}"

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray:
        """Candidates whose equal stages have few enough; with a grid per layer (0) all."""
        allowed: BoolArray = rows.spread <= self._most(problem)
        return allowed

    def allowed_segments(
        self, problem: Problem, rows: Candidates, first: IntArray, stop: IntArray
    ) -> BoolArray:
        """With a grid per layer: stages of few enough layers."""
        allowed: BoolArray = (rows.spread > 0) | (stop - first <= self._most(problem))
        return allowed

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """Compare the spread of every stage."""
        for stage in plan.stages:
            if stage.spread > self._most(problem):
                yield (
                    f"stage {stage.index}: {stage.spread} expert grids, at most "
                    f"{self._most(problem)} allowed"
                )

    @staticmethod
    def _most(problem: Problem) -> int:
        most = problem.scenario.requirements.max_spread
        return problem.num_layers if most is None else most
