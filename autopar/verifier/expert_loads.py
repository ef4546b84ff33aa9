"""What measured counts make of a plan: how much more than the mean its busiest GPUs have."""

from dataclasses import dataclass

import numpy as np

from autopar.costs.operations.loads import Law, RankFactors
from autopar.errors import SpecError
from autopar.problem import Plan
from autopar.specs import LLM, Workload


@dataclass(frozen=True, slots=True)
class PlanFactors:
    """Load of the busiest GPU of a layer over that of so many mean experts.

    factors: the most experts that a GPU of a layer holds -> the mean, and the largest, of the
    layers and copies where that is so.
    """

    factors: tuple[tuple[int, float, float], ...]

    def factor(self, held: int, ranks: int) -> float:
        """Return the mean of layers whose fullest GPU holds so many experts, or the next more."""
        return self._near(held)[1]

    def peak(self, held: int, ranks: int) -> float:
        """Return the largest."""
        return self._near(held)[2]

    def _near(self, held: int) -> tuple[int, float, float]:
        return next((row for row in self.factors if row[0] >= held), self.factors[-1])


def law_of_plan(workload: Workload, llm: LLM, plan: Plan | None) -> Law | RankFactors:
    """Return the law of a workload; of measured counts, by where the plan puts each expert.

    plan: None where nothing depends on the law.
    Raises SpecError for a bound, which is of no plan.
    """
    if workload.expert_load == "measured_bound":
        raise SpecError("workload.expert_load: 'measured_bound' bounds plans, and is of none")
    if workload.expert_load != "measured":
        return workload.expert_load
    if plan is None or not len(plan.placement):
        return "even"
    counts = np.asarray(workload.expert_counts, dtype=np.float64)
    row_of = np.full(llm.num_layers, -1)
    row_of[list(llm.expert_layers)] = np.arange(len(counts))
    layer, expert, copy, _, gpu = plan.placement.T
    known = (layer >= 0) & (layer < llm.num_layers) & (expert >= 0) & (expert < llm.num_experts)
    placed = np.unique(np.stack([copy, layer, gpu, expert])[:, known], axis=1)  # shards beside
    rows = row_of[placed[1]]
    placed, rows = placed[:, rows >= 0], rows[rows >= 0]
    on_gpu, which = np.unique(placed[:3], axis=1, return_inverse=True)
    which = which.reshape(-1)
    experts = np.bincount(which)
    loads = np.bincount(which, weights=counts[rows, placed[3]])
    of_layer, place = np.unique(on_gpu[:2], axis=1, return_inverse=True)
    place = place.reshape(-1)
    most = np.zeros(of_layer.shape[1], dtype=np.int64)
    top = np.zeros(of_layer.shape[1])
    np.maximum.at(most, place, experts)
    np.maximum.at(top, place, loads)
    mean = counts.sum(axis=1)[row_of[of_layer[1]]] * most / llm.num_experts
    over = top / mean
    return PlanFactors(
        tuple(
            (count, float(over[most == count].mean()), float(over[most == count].max()))
            for count in np.unique(most).tolist()
        )
    )
