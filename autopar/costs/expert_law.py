"""How tokens spread over experts: a law by its name, or measured counts with a placement of them.

What counts say of a layer is a number per expert; what its time depends on is the busiest rank, so
on where the experts lie. Each number of ranks gets the placement that a search finds for it, and a
bound that no placement beats; a rank has no more slots than experts make necessary.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from autopar.costs.operations.loads import Law, RankFactors
from autopar.placement.bounds import quick_bounds
from autopar.placement.improve import search
from autopar.placement.machine import NO_RULES, FloatArray, IntArray, LayerTask, Machine
from autopar.placement.starts import starts
from autopar.specs import Workload

_TOLERANCE = 1e-3  # above the bound: where the search of a layer stops
_ROUNDS = 8  # kicks in a row without a gain; many degrees are looked at


class PlacedCounts:
    """Measured counts with a placement for each number of experts per rank, found when asked for.

    counts: tokens that each expert got, shape (expert layers, experts).
    """

    def __init__(self, counts: tuple[tuple[float, ...], ...]) -> None:
        self._counts = np.asarray(counts, dtype=np.float64)
        self._known: dict[int, tuple[float, float, IntArray]] = {}

    def reached(self, held: int) -> float:
        """Load of the busiest rank over that of `held` mean experts, as the mean over layers."""
        return self._placed(held)[0]

    def bound(self, held: int) -> float:
        """Return what no placement beats."""
        return self._placed(held)[1]

    def ranks(self, ep: int) -> IntArray:
        """Return the expert rank of each expert, shape (expert layers, experts).

        Every rank has an expert: where the placement leaves ranks empty they take one each from the
        ranks that have several and least load, which makes no busiest rank busier.
        """
        num_experts = self._counts.shape[1]
        held = -(-num_experts // ep)
        ranks = self._placed(held)[2].copy()
        for row, load in zip(ranks, self._counts, strict=True):
            for empty in sorted(set(range(ep)) - set(row.tolist())):
                work = np.bincount(row, weights=load, minlength=ep)
                work[np.bincount(row, minlength=ep) < 2] = np.inf
                giver = np.flatnonzero(row == work.argmin())
                row[giver[load[giver].argmin()]] = empty
        return ranks

    def _placed(self, held: int) -> tuple[float, float, IntArray]:
        if held not in self._known:
            self._known[held] = _place(self._counts, held)
        return self._known[held]


@dataclass(frozen=True, slots=True)
class Reached:
    """The law of counts as they were placed."""

    placed: PlacedCounts

    def factor(self, held: int) -> float:
        """Load of the busiest rank over the mean."""
        return self.placed.reached(held)


@dataclass(frozen=True, slots=True)
class Bounded:
    """The law of counts as if every placement reached its lower bound."""

    placed: PlacedCounts

    def factor(self, held: int) -> float:
        """Least load of the busiest rank over the mean."""
        return self.placed.bound(held)


def law_of(workload: Workload) -> Law | RankFactors:
    """Return the law of a workload; placements of the same counts are kept."""
    if workload.expert_counts is None:
        law = workload.expert_load
        assert law != "measured"
        assert law != "measured_bound"  # the spec demands counts of both
        return law
    placed = placed_counts(workload.expert_counts)
    return Reached(placed) if workload.expert_load == "measured" else Bounded(placed)


@lru_cache(maxsize=8)
def placed_counts(counts: tuple[tuple[float, ...], ...]) -> PlacedCounts:
    """Return measured counts with their placements, which are kept."""
    return PlacedCounts(counts)


def _place(counts: FloatArray, held: int) -> tuple[float, float, IntArray]:
    """Return the mean factor that is reached, its bound, and the rank of each expert.

    All expert parallel sizes for which a rank has at most `held` experts share them: what is
    reached is reached by the fewest such ranks, and what is bounded by the most.
    """
    num_experts = counts.shape[1]
    few, many = -(-num_experts // held), num_experts
    if held > 1:
        many = -(-num_experts // (held - 1)) - 1
    machine = Machine(few, held)
    loads = _with_empty(counts, few * held)
    begins = starts(loads, machine)[0]
    goals = quick_bounds(loads, machine, NO_RULES) * (1 + _TOLERANCE)
    ranks = np.zeros(loads.shape, dtype=np.int64)
    fullest = np.zeros(len(loads))
    for row, (load, begin, goal) in enumerate(zip(loads, begins, goals.tolist(), strict=True)):
        slots = search(LayerTask(load, machine), begin, goal, _ROUNDS, 0)
        ranks[row, slots] = np.arange(len(slots)) // held
        fullest[row] = load[slots].reshape(-1, held).sum(axis=1).max()
    mean = counts.sum(axis=1) * held / num_experts
    bounds = quick_bounds(_with_empty(counts, many * held), Machine(many, held), NO_RULES)
    reached, bound = (float((top / mean).mean()) for top in (fullest, np.minimum(bounds, fullest)))
    return reached, bound, ranks[:, :num_experts]


def _with_empty(counts: FloatArray, num_slots: int) -> FloatArray:
    """Return the counts with an expert without load for each slot that stays empty."""
    return np.pad(counts, ((0, 0), (0, num_slots - counts.shape[1])))
