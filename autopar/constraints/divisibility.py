"""Experts divide over expert ranks; heads over tp and feed-forward columns over etp where known."""

from collections.abc import Iterator

import numpy as np

from autopar.candidates import known_architecture
from autopar.constraints.base import Constraint
from autopar.problem import BoolArray, Candidates, Plan, Problem


class Divisibility(Constraint):
    """Every rank holds the same number of experts, heads and columns."""

    name = "divisibility"
    because = "every rank holds the same share of experts, heads and feed-forward columns"

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray:
        """Candidates whose ep, tp and etp divide what they shard."""
        allowed = np.ones(len(rows), dtype=np.bool_)
        if problem.num_experts:
            allowed &= problem.num_experts % rows.ep == 0
        architecture = known_architecture(problem.scenario)
        if architecture is not None:
            allowed &= architecture.tensor_unit % rows.tp == 0
            allowed &= architecture.expert_unit % rows.etp == 0
        return allowed

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """Remainders are zero in every stage."""
        architecture = known_architecture(problem.scenario)
        for stage in plan.stages:
            shares = [(problem.num_experts, "experts", stage.ep, "ep")]
            if architecture is not None:
                shares += [
                    (architecture.tensor_unit, "heads and dense columns", stage.tp, "tp"),
                    (architecture.expert_unit, "expert columns", stage.etp, "etp"),
                ]
            for whole, what, degree, key in shares:
                if whole % degree:
                    yield f"stage {stage.index}: {whole} {what} do not divide by {key} = {degree}"
