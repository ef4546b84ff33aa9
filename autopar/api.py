"""The Python interface: the verbs of the command line as functions with typed results."""

from collections.abc import Callable, Sequence

from autopar.results import Comparison, Explanation, Progress, Solution, VerifyReport
from autopar.specs import PlanSpec, Scenario


def solve(
    scenario: Scenario,
    *,
    plugins: Sequence[object] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Solution:
    """Return the best plan of a scenario with its proof, or the proof that there is none."""
    raise NotImplementedError


def verify(scenario: Scenario, plan: PlanSpec) -> VerifyReport:
    """Check a plan against a scenario and audit its claims, without the solver."""
    raise NotImplementedError


def compare(scenario: Scenario, plans: Sequence[PlanSpec]) -> Comparison:
    """Put hand-written plans and the solver's own side by side."""
    raise NotImplementedError


def explain(scenario: Scenario) -> Explanation:
    """Say which requirements clash and what repairs them, or what binds the optimum."""
    raise NotImplementedError
