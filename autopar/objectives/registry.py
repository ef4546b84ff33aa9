"""The objectives by name, and those of a recipe."""

from autopar.errors import SpecError, suggest
from autopar.objectives.base import Objective
from autopar.objectives.counted import Gpus, Traffic
from autopar.objectives.per_gpu import Cost, ThroughputPerGpu
from autopar.objectives.throughput import Throughput
from autopar.objectives.ttft import Ttft
from autopar.objectives.worst_stage import Memory, Tpot
from autopar.problem import Problem

OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Throughput(),
        ThroughputPerGpu(),
        Cost(),
        Ttft(),
        Tpot(),
        Traffic(),
        Memory(),
        Gpus(),
    )
}


def objectives_for(problem: Problem) -> tuple[Objective, ...]:
    """Return the objectives of the scenario's recipe that apply, in its order.

    Raises SpecError for an unknown or repeated name, or if none applies.
    """
    names = problem.scenario.recipe.objectives
    for name in names:
        if name not in OBJECTIVES:
            raise SpecError(
                f"recipe.objectives: unknown objective {name!r}{suggest(name, OBJECTIVES)} "
                f"(expected some of {', '.join(OBJECTIVES)})"
            )
        if names.count(name) > 1:
            raise SpecError(f"recipe.objectives: {name!r} stands there twice")
    chosen = tuple(
        OBJECTIVES[name].for_problem(problem) for name in names if OBJECTIVES[name].applies(problem)
    )
    if not chosen:
        raise SpecError(f"recipe.objectives: none of {', '.join(names)} applies to this workload")
    return chosen
