"""Every stage of every replica has GPUs of its own, as many as the cluster has."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from autopar.constraints.base import Constraint
from autopar.problem import BoolArray, Candidates, Plan, Problem

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from autopar.variables import PlanVariables


class GpuBlocks(Constraint):
    """The blocks of all stages fit in the cluster together, where the scenario confines them."""

    name = "gpu_blocks"
    because = "a GPU belongs to one stage of one replica"

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray:
        """Candidates whose blocks fit; with a grid per layer, blocks are the grids themselves."""
        topology = problem.topology
        unit = topology.unit(rows.tp, rows.etp)
        per_layer = rows.spread == 0
        grids = rows.ep * rows.etp
        block = np.where(per_layer, grids, grids * rows.spread)
        in_order = problem.num_layers * grids <= problem.num_gpus
        return np.where(
            per_layer, in_order, rows.replicas * rows.pp <= topology.num_blocks(block, unit)
        )

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> None:
        """Fit by counting; where layers choose their block, no two take the same."""
        super().post(model, variables, problem)
        if variables.explicit_blocks:
            model.add_all_different(variables.layer_block)
            for ranks in variables.expert_rank:
                model.add_all_different(ranks)

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """GPU ids are in range and none appears twice."""
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
