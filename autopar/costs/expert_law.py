"""How tokens spread over experts: a law by its name, or measured counts with a placement of them.

What counts say of a layer is a number per expert; what its time depends on is the busiest rank, so
on where the experts lie. Each number of ranks gets the placement that a search finds for it, and a
bound that no placement beats; a rank has no more slots than experts make necessary.
"""
# ruff: noqa: PLC0415  few scenarios have measured counts, and what places them is many modules

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from autopar.costs.operations.loads import Law, RankFactors
from autopar.problem import FloatArray, IntArray
from autopar.specs import Workload

_TOLERANCE = 1e-3  # above the bound: where the search of a layer stops
_ROUNDS = 8  # kicks in a row without a gain; many degrees are looked at


@dataclass(frozen=True, slots=True)
class _Placed:
    """Placements of all layers on some ranks.

    reached, bound: load of the busiest rank over that of so many mean experts, shape (layers,).
    ranks: of each expert, shape (layers, experts).
    """

    reached: FloatArray
    bound: FloatArray
    ranks: IntArray


class PlacedCounts:
    """Measured counts with a placement for each number of ranks, found when asked for.

    counts: tokens that each expert got, shape (expert layers, experts).
    """

    def __init__(self, counts: tuple[tuple[float, ...], ...]) -> None:
        self._counts = np.asarray(counts, dtype=np.float64)
        self._known: dict[tuple[int, int], _Placed] = {}

    @property
    def num_experts(self) -> int:
        """Experts of a layer."""
        return int(self._counts.shape[1])

    def on(self, ranks: int, held: int | None = None) -> _Placed:
        """Return the placements on so many ranks.

        held: the most experts of a rank; as few as can be where it is None.
        """
        most = -(-self.num_experts // ranks) if held is None else held
        if (most, ranks) not in self._known:
            self._known[most, ranks] = _place(self._counts, most, ranks)
        return self._known[most, ranks]


@dataclass(frozen=True, slots=True)
class Reached:
    """The law of counts as they were placed."""

    placed: PlacedCounts

    def factor(self, held: int, ranks: int) -> float:
        """Load of the busiest rank over the mean, as the mean over layers."""
        return float(self.placed.on(ranks, held).reached.mean())

    def peak(self, held: int, ranks: int) -> float:
        """Return that of the layer that is least even."""
        return float(self.placed.on(ranks, held).reached.max())


@dataclass(frozen=True, slots=True)
class Bounded:
    """The law of counts as if every placement reached its lower bound."""

    placed: PlacedCounts

    def factor(self, held: int, ranks: int) -> float:
        """Least load of the busiest rank over the mean, as the mean over layers."""
        return float(self.placed.on(ranks, held).bound.mean())

    def peak(self, held: int, ranks: int) -> float:
        """Return that of the layer that is least even."""
        return float(self.placed.on(ranks, held).bound.max())


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


def _place(counts: FloatArray, held: int, num_ranks: int) -> _Placed:
    """Place the experts of every layer on ranks, each of which holds at most `held` and at least 1.

    Slots that stay empty are filled with experts without load.
    """
    from autopar.placement.bounds import quick_bounds
    from autopar.placement.improve import search
    from autopar.placement.machine import NO_RULES, LayerTask, Machine
    from autopar.placement.starts import starts

    num_experts = counts.shape[1]
    machine = Machine(num_ranks, held)
    loads = np.pad(counts, ((0, 0), (0, machine.num_slots - num_experts)))
    begins = starts(loads, machine)[0]
    bounds = quick_bounds(loads, machine, NO_RULES)
    ranks = np.zeros(loads.shape, dtype=np.int64)
    for row, (load, begin, bound) in enumerate(zip(loads, begins, bounds.tolist(), strict=True)):
        slots = search(LayerTask(load, machine), begin, bound * (1 + _TOLERANCE), _ROUNDS, 0)
        ranks[row, slots] = np.arange(len(slots)) // held
    ranks = ranks[:, :num_experts]
    tops = np.zeros(len(counts))
    for row, load in enumerate(counts):
        _leave_none_empty(ranks[row], load, num_ranks)
        tops[row] = np.bincount(ranks[row], weights=load, minlength=num_ranks).max()
    mean = counts.sum(axis=1) * held / num_experts
    return _Placed(tops / mean, np.minimum(bounds, tops) / mean, ranks)


def _leave_none_empty(ranks: IntArray, load: FloatArray, num_ranks: int) -> None:
    """Give every rank without experts the lightest of the rank that has several and least load.

    That makes no busiest rank busier, unless all its load were of one expert, which it keeps.
    """
    for empty in sorted(set(range(num_ranks)) - set(ranks.tolist())):
        work = np.bincount(ranks, weights=load, minlength=num_ranks)
        work[np.bincount(ranks, minlength=num_ranks) < 2] = np.inf
        giver = np.flatnonzero(ranks == work.argmin())
        ranks[giver[load[giver].argmin()]] = empty
