"""Every stage of every replica has GPUs of its own, which lie as their links are charged."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autopar.constraints.base import Constraint
from autopar.problem import BoolArray, Candidates, IntArray, Plan, Problem
from autopar.spans import ill_placed

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from autopar.variables import PlanVariables


class GpuBlocks(Constraint):
    """The blocks of all stages fit in the cluster together, confined by prices and limits."""

    name = "gpu_blocks"
    because = "a GPU belongs to one stage of one replica, and a group lies as its links are charged"
    filters_shapes = True

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray:
        """Candidates whose stages fit; with a grid per layer, whose groups lie right in a row."""
        topology = problem.topology
        per_layer = rows.spread == 0
        stage_gpus = rows.stage_gpus(np.ones_like(rows.pp))  # with a grid per layer, of one layer
        degrees = (rows.tp, rows.cp, rows.etp, stage_gpus)
        if per_layer.all():
            groups = topology.of_groups()
            in_order = problem.num_layers * stage_gpus <= problem.num_gpus
            return in_order & groups.tiles(groups.footprint(*degrees))
        allowed = rows.replicas * rows.pp <= topology.num_stages(topology.footprint(*degrees))
        if per_layer.any():
            index = np.flatnonzero(per_layer)
            allowed[index] = self.allowed_rows(problem, rows.take(index))
        return allowed

    def allowed_segments(
        self, problem: Problem, rows: Candidates, first: IntArray, stop: IntArray
    ) -> BoolArray | None:
        """With a grid per layer: segments whose blocks, taken in order, lie as they are charged.

        As in `AllToAllWithin`, taking blocks in order loses nothing, but for stages over parts of
        three domains or more, which `autopar.space` names as not searched. Where blocks are
        variables, only the size is filtered.
        """
        topology = problem.topology
        if not topology.charges_links or not (rows.spread == 0).any():
            return None
        grid = rows.ep * rows.etp
        stage_gpus = (stop - first) * grid
        if problem.scenario.recipe.cp_sat.symmetry == "explicit":
            small = stage_gpus <= topology.domain
            as_charged = small | (topology.row_offset(stage_gpus) >= 0)
        else:
            as_charged = topology.row_is_as_charged(first * grid, stage_gpus)
        allowed: BoolArray = (rows.spread > 0) | as_charged
        return allowed

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> None:
        """Fit by counting; where layers choose their block, no two take the same.

        And the blocks of one stage then share a container, or stand in a row over several.
        """
        super().post(model, variables, problem)
        if variables.explicit_blocks:
            model.add_all_different(variables.layer_block)
            for ranks in variables.expert_rank:
                model.add_all_different(ranks)
            if problem.topology.charges_links and problem.topology.stage_exchanges:
                self._post_stages(model, variables, problem)

    @staticmethod
    def _post_stages(model: "CpModel", variables: "PlanVariables", problem: Problem) -> None:
        topology, blocks = problem.topology, variables.layer_block
        grid = int(variables.rows.ep[0] * variables.rows.etp[0])
        homes = {
            size: _containers(model, blocks, grid, size, problem.num_gpus)
            for size in {topology.node, topology.domain}
        }
        for group in variables.groups:
            for first, stop, literal in zip(
                group.first.tolist(), group.stop.tolist(), group.segments, strict=True
            ):
                stage_gpus = (stop - first) * grid
                if stage_gpus > topology.domain:
                    domain = model.new_int_var(
                        0, problem.num_gpus // topology.domain + 1, f"first_domain[{first},{stop}]"
                    )
                    start = blocks[first] * grid + int(topology.row_offset(np.array(stage_gpus)))
                    model.add(start == domain * topology.domain).only_enforce_if(literal)
                    for layer in range(first + 1, stop):
                        next_one = blocks[layer] == blocks[layer - 1] + 1
                        model.add(next_one).only_enforce_if(literal)
                    continue
                size = topology.node if stage_gpus <= topology.node else topology.domain
                home = homes[size]
                model.add(home[first] * size < problem.num_gpus).only_enforce_if(literal)
                for layer in range(first + 1, stop):
                    model.add(home[layer] == home[first]).only_enforce_if(literal)

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """GPU ids are in range, none appears twice, and every group lies as it is charged."""
        yield from ill_placed(plan, problem.scenario)
        owner: dict[int, str] = {}
        num_gpus = problem.num_gpus
        for replica, stage_gpus in enumerate(plan.gpus):
            for stage, gpus in enumerate(stage_gpus):
                where = f"replica {replica} stage {stage}"
                for gpu in gpus:
                    if not 0 <= gpu < num_gpus:
                        yield f"{where}: GPU {gpu} is not one of the {num_gpus}"
                    elif gpu in owner:
                        yield f"GPU {gpu} is in {owner[gpu]} and in {where}"
                    owner[gpu] = where


def _containers(
    model: "CpModel", blocks: Sequence[Any], grid: int, size: int, num_gpus: int
) -> list[Any]:
    """Return the container of each layer's block; one beyond the last for a block in several."""
    most = -(-num_gpus // size)
    starts = range(0, num_gpus, grid)
    table = [
        (b, g // size if g // size == (g + grid - 1) // size else most)
        for b, g in enumerate(starts)
    ]
    containers = []
    for layer, block in enumerate(blocks):
        container = model.new_int_var(0, most, f"container_of_{size}[{layer}]")
        model.add_allowed_assignments([block, container], table)
        containers.append(container)
    return containers
