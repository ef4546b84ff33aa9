"""Expert all-to-all stays inside a node or a domain: so does every stage that has experts.

The tokens of every GPU of a stage's attention grid go to the experts of each of its layers, so the
all-to-all group of a layer is the whole stage, also when the layer's own expert grid is smaller.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from autopar.constraints.base import Constraint
from autopar.problem import BoolArray, Candidates, IntArray, Plan, Problem
from autopar.specs import Scenario
from autopar.topology import Topology
from autopar.units import plural

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from autopar.variables import PlanVariables


class AllToAllWithin(Constraint):
    """A stage lies in one container."""

    name = "all_to_all_within"
    because = "expert all-to-all needs the scale-up fabric"
    filters_shapes = True

    def states(self, scenario: Scenario) -> str:
        """Name the container and its size."""
        level = scenario.requirements.all_to_all_within
        size = scenario.cluster.container_gpus(level)
        return (
            f"expert all-to-all, so every stage, lies inside one {level} of {plural(size, 'GPU')}"
        )

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray:
        """Candidates with equal stages whose blocks fit in containers."""
        topology = self._topology(problem)
        needs = topology.footprint(1, 1, 1, rows.stage_gpus(np.ones_like(rows.pp)))
        allowed: BoolArray = rows.spread == 0
        return allowed | (topology.num_stages(needs) >= rows.replicas * rows.pp)

    def allowed_segments(
        self, problem: Problem, rows: Candidates, first: IntArray, stop: IntArray
    ) -> BoolArray:
        """With a grid per layer: segments whose blocks, taken in order, lie in one container.

        Layers are alike, so stages can be sorted along the pipeline as they lie in the cluster, and
        taking blocks in order loses nothing. Where blocks are variables, only the size is filtered.
        """
        per_layer = rows.spread == 0
        grid = rows.ep * rows.etp
        if problem.scenario.recipe.cp_sat.symmetry == "explicit":
            fits = (stop - first) * grid <= self._topology(problem).stage_container
        else:
            fits = self._topology(problem).in_one_stage_container(first * grid, stop * grid - 1)
        allowed: BoolArray = ~per_layer | fits
        return allowed

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> None:
        """Filters; where blocks are variables, layers of one stage share a container."""
        super().post(model, variables, problem)
        if not variables.explicit_blocks:
            return
        size = self._topology(problem).stage_container
        grid = int(variables.rows.ep[0] * variables.rows.etp[0])
        starts = range(0, problem.num_gpus, grid)
        whole = [b for b, gpu in enumerate(starts) if gpu // size == (gpu + grid - 1) // size]
        table = [(b, b * grid // size) for b in whole]
        containers = []
        for layer, block in enumerate(variables.layer_block):
            container = model.new_int_var(0, -(-problem.num_gpus // size), f"container[{layer}]")
            model.add_allowed_assignments([block, container], table)
            containers.append(container)
        for layer in range(1, problem.num_layers):
            model.add(containers[layer] == containers[layer - 1]).only_enforce_if(
                ~variables.starts_stage[layer]
            )

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """The GPUs of every stage share one container."""
        level = problem.scenario.requirements.all_to_all_within
        size = problem.scenario.cluster.container_gpus(level)
        for replica, stage_gpus in enumerate(plan.gpus):
            for stage, gpus in enumerate(stage_gpus):
                touched = sorted({gpu // size for gpu in gpus})
                if len(touched) > 1:
                    yield (
                        f"replica {replica} stage {stage}: {len(gpus)} GPUs lie in "
                        f"{len(touched)} {level}s of {size} ({touched[0]} to {touched[-1]})"
                    )

    @staticmethod
    def _topology(problem: Problem) -> Topology:
        level = problem.scenario.requirements.all_to_all_within
        return Topology.of(problem.scenario.cluster, "cluster", level)
