"""One stage is tiled twice by the same GPUs: tp * cp * attn_dp = ep * etp * spread."""

from collections.abc import Iterator

from autopar.constraints.base import Constraint
from autopar.problem import BoolArray, Candidates, Plan, Problem


class GridIdentity(Constraint):
    """The attention grid and the expert grid of a stage are the same GPUs."""

    name = "grid_identity"
    because = "the attention grid and the expert grid of a stage are the same GPUs"

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray:
        """Candidates whose two grids agree; with a grid per layer, attention tiles each grid."""
        grid = rows.ep * rows.etp
        attention = rows.tp * rows.cp
        per_layer = (rows.spread == 0) & (rows.attn_dp == 0) & (grid % attention == 0)
        equal = attention * rows.attn_dp == grid * rows.spread
        allowed: BoolArray = per_layer | ((rows.spread > 0) & (rows.attn_dp > 0) & equal)
        return allowed

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """Both products equal the number of GPUs of every stage of every replica."""
        for replica, stage_gpus in enumerate(plan.gpus):
            for stage, gpus in zip(plan.stages, stage_gpus, strict=True):
                where = f"replica {replica} stage {stage.index}"
                attention = stage.tp * stage.cp * stage.attn_dp
                experts = stage.ep * stage.etp * stage.spread
                if attention != len(gpus):
                    yield f"{where}: tp x cp x attn_dp = {attention}, but it has {len(gpus)} GPUs"
                if experts != len(gpus):
                    yield f"{where}: ep x etp x spread = {experts}, but it has {len(gpus)} GPUs"
