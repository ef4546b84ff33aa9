"""The cost models by name."""

from autopar.costs.analytic import AnalyticCosts
from autopar.costs.declared import DeclaredCosts
from autopar.errors import SpecError, suggest
from autopar.problem import CostModel
from autopar.specs import Scenario

COST_MODELS = ("analytic", "declared")


def cost_model(scenario: Scenario) -> CostModel:
    """Return the cost model that a scenario names.

    Raises SpecError if there is none of that name, or if the scenario lacks what the model needs.
    """
    if scenario.cost_model == "declared":
        return DeclaredCosts(scenario)
    if scenario.cost_model == "analytic":
        return AnalyticCosts(scenario)
    near = suggest(scenario.cost_model, COST_MODELS)
    raise SpecError(
        f"cost_model: unknown cost model {scenario.cost_model!r}{near} "
        f"(expected one of {', '.join(COST_MODELS)})"
    )
