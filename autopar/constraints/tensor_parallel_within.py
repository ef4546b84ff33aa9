"""Tensor-parallel groups, of attention and of experts, stay inside a node or a domain."""

from collections.abc import Iterator, Sequence

import numpy as np

from autopar.constraints.base import Constraint
from autopar.problem import BoolArray, Candidates, Plan, Problem
from autopar.specs import Scenario
from autopar.topology import Topology
from autopar.units import plural


class TensorParallelWithin(Constraint):
    """All-reduces of tensor parallelism run inside one container."""

    name = "tensor_parallel_within"
    because = "tensor-parallel all-reduces need the fast links"

    def states(self, scenario: Scenario) -> str:
        """Name the container and its size."""
        level = scenario.requirements.tensor_parallel_within
        size = scenario.cluster.container_gpus(level)
        return f"every tensor-parallel group lies inside one {level} of {plural(size, 'GPU')}"

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray:
        """Candidates whose groups fit, counting the GPUs that groups leave over in a container."""
        cluster = problem.scenario.cluster
        level = problem.scenario.requirements.tensor_parallel_within
        topology = Topology.of(cluster, level, "cluster")
        stage_gpus = rows.stage_gpus(np.ones_like(rows.pp))
        needs = topology.footprint(rows.tp, rows.cp, rows.etp, stage_gpus)
        has_room = topology.num_stages(needs) >= rows.replicas * rows.pp
        return np.where(rows.spread == 0, topology.tiles(needs), has_room)

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """Every run of tp ranks, and every run of etp ranks, lies in one container."""
        level = problem.scenario.requirements.tensor_parallel_within
        size = problem.scenario.cluster.container_gpus(level)
        for replica, stage_gpus in enumerate(plan.gpus):
            for stage, gpus in zip(plan.stages, stage_gpus, strict=True):
                for key, width in (("tp", stage.tp), ("etp", stage.etp)):
                    group = _straddling(gpus, width, size)
                    if group:
                        yield (
                            f"replica {replica} stage {stage.index}: the {key} group {group} "
                            f"leaves its {level} of {plural(size, 'GPU')}"
                        )


def _straddling(gpus: Sequence[int], width: int, size: int) -> list[int]:
    for start in range(0, len(gpus), width):
        group = gpus[start : start + width]
        if len({gpu // size for gpu in group}) > 1:
            return list(group)
    return []
