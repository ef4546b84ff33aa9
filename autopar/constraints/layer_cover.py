"""Every layer is in exactly one stage, stages are runs of layers in order, and none is empty."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from autopar.constraints.base import Constraint
from autopar.problem import BoolArray, Candidates, IntArray, Plan, Problem

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from autopar.variables import PlanVariables


class LayerCover(Constraint):
    """The segments of the chosen candidate form a path of exactly pp steps over the layers."""

    name = "layer_cover"
    because = "every layer runs once, in order"
    filters_shapes = True

    def allowed_segments(
        self, problem: Problem, rows: Candidates, first: IntArray, stop: IntArray
    ) -> BoolArray:
        """Segments that leave every expert grid of the stage at least one layer with experts."""
        if not problem.num_experts:
            return np.ones(len(first), dtype=np.bool_)
        upto = problem.expert_layers_before
        enough: BoolArray = (rows.spread <= 1) | (upto[stop] - upto[first] >= rows.spread)
        return enough

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> None:
        """One unit of flow from layer 0 to the end, over segments of the chosen group."""
        super().post(model, variables, problem)
        model.add_exactly_one(variables.pick)
        for group in variables.groups:
            active = sum(variables.pick[i] for i in group.members)
            leaving: list[list[Any]] = [[] for _ in range(problem.num_layers + 1)]
            entering: list[list[Any]] = [[] for _ in range(problem.num_layers + 1)]
            for f, s, literal in zip(
                group.first.tolist(), group.stop.tolist(), group.segments, strict=True
            ):
                leaving[f].append(literal)
                entering[s].append(literal)
            model.add(sum(leaving[0]) == active)
            model.add(sum(entering[problem.num_layers]) == active)
            for layer in range(1, problem.num_layers):
                model.add(sum(entering[layer]) == sum(leaving[layer]))
            pp = sum(variables.pick[i] * int(variables.rows.pp[i]) for i in group.members)
            model.add(sum(group.segments) == pp)

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """The layers of the stages, read in order, are 0, 1, 2, ...; each grid has a layer."""
        if len(plan.stages) != plan.pp:
            yield f"{len(plan.stages)} stages, but pp = {plan.pp}"
        layers = [layer for stage in plan.stages for layer in stage.layers]
        if layers != list(range(problem.num_layers)):
            last = problem.num_layers - 1
            yield f"the stages hold layers {layers}, not each of 0..{last} in order"
        for stage in plan.stages:
            if not stage.layers:
                yield f"stage {stage.index} has no layer"
                continue
            experts = len(set(stage.layers) & set(problem.scenario.llm.expert_layers))
            if problem.num_experts and stage.spread > 1 and experts < stage.spread:
                yield (
                    f"stage {stage.index}: {experts} layers with experts over {stage.spread} "
                    "expert grids leave a grid without experts"
                )
