"""A bound for two slots per GPU and any number of experts: a linear programme over replica counts.

Let the fullest GPU have at most T. For every t of at least T/2, a replica heavier than t shares its
GPU with one of at most T - t, and no two of the heavy ones share one: there are no more replicas
above t than up to T - t. With an expert's choice among its counts made fractional this is linear.
Where it has no solution, multipliers of its rows prove that (Farkas); the proof is checked expert
by expert in numpy, over all counts, so that no tolerance of the LP solver enters the bound.
"""

from typing import Any

import numpy as np

from autopar.placement.machine import FloatArray, IntArray, LayerTask

_THRESHOLDS = 48  # values of t; more tighten the bound by less than 0.1 % on 256 experts
_CLOSE = 2e-4  # of the load: how near the largest refuted load is looked for
_ROUNDS = 60  # of new columns at most; then nothing is refuted


def pairing_bound(task: LayerTask, low: float, high: float) -> float:
    """Return the largest load that is proved too small, at least `low`.

    low, high: a load that no placement beats, and one that a placement has.
    """
    middle = high * (1 - _CLOSE)  # often the placement is the best there is
    while high - low > _CLOSE * high:
        if _is_refuted(task, middle):
            low = middle
        else:
            high = middle
        middle = (low + high) / 2
    return low


def _is_refuted(task: LayerTask, most: float) -> bool:
    """Whether it is proved that no placement has a fullest GPU of at most `most`."""
    load, num_slots = task.load, task.machine.num_slots
    fewest = np.maximum(np.ceil(load / most * (1 - 1e-12)), 1).astype(np.int64)
    further = num_slots - int(fewest.sum())
    if further < 0:
        return True
    counts = fewest[:, None] + np.arange(further + 1)  # (experts, further replicas)
    share = load[:, None] / counts
    limits = _limits(share, most)[:, None, None]
    heavy, light = share > limits, share <= most - limits
    rows = counts * (heavy.astype(np.float64) - light)  # (limits, experts, further replicas)
    master = _Master(rows, counts, num_slots)
    for _ in range(_ROUNDS):
        weights, price = master.multipliers()
        if weights is None:
            return False
        # For any counts of so many slots, the weighted rows and priced slots add up to at least:
        priced = np.tensordot(weights, rows, 1) + price * counts
        best = priced.argmin(axis=1)
        least = float(priced.min(axis=1).sum()) - price * num_slots
        if least > 1e-9 * (weights.sum() + abs(price)) * num_slots:
            return True
        if not master.take(best):
            return False
    return False


def _limits(share: FloatArray, most: float) -> FloatArray:
    """Return values of t: where heavy shares begin, and the other ends of light ones."""
    ends = np.concatenate([share[share >= most / 2], most - share[share <= most / 2]])
    if len(ends) > _THRESHOLDS:
        ends = np.quantile(ends, np.linspace(0, 1, _THRESHOLDS))
    return np.unique(np.maximum(np.append(ends * (1 - 1e-12), most / 2), most / 2))


class _Master:
    """The programme with the counts that were of use so far; rows may be exceeded by one amount."""

    def __init__(self, rows: FloatArray, counts: IntArray, num_slots: int) -> None:
        # Untyped, and half a second to import.
        from ortools.linear_solver import pywraplp  # type: ignore[import-untyped]  # noqa: PLC0415

        self._optimal = pywraplp.Solver.OPTIMAL
        self._rows, self._counts = rows, counts
        self._solver: Any = pywraplp.Solver.CreateSolver("GLOP")
        infinity = self._solver.infinity()
        self._excess = self._solver.NumVar(0.0, infinity, "excess")
        self._limits = [self._solver.RowConstraint(-infinity, 0.0, "") for _ in rows]
        for limit in self._limits:
            limit.SetCoefficient(self._excess, -1.0)
        self._total = self._solver.RowConstraint(num_slots, num_slots, "slots")
        self._once = [
            self._solver.RowConstraint(1.0, 1.0, f"once[{e}]") for e in range(len(counts))
        ]
        self._known: set[tuple[int, int]] = set()
        self._solver.Minimize(self._excess)
        self.take(np.zeros(len(counts), dtype=np.int64))
        self.take(np.full(len(counts), counts.shape[1] - 1))

    def take(self, choice: IntArray) -> bool:
        """Add one count per expert, by its index; whether any was new."""
        new = [pair for pair in enumerate(choice.tolist()) if pair not in self._known]
        for expert, index in new:
            self._known.add((expert, index))
            variable = self._solver.NumVar(0.0, self._solver.infinity(), f"z[{expert},{index}]")
            self._once[expert].SetCoefficient(variable, 1.0)
            self._total.SetCoefficient(variable, float(self._counts[expert, index]))
            column = self._rows[:, expert, index]
            for row in np.flatnonzero(column).tolist():
                self._limits[row].SetCoefficient(variable, float(column[row]))
        return bool(new)

    def multipliers(self) -> tuple[FloatArray | None, float]:
        """Return the duals of the limits and of the slots; None where no limit is exceeded."""
        if self._solver.Solve() != self._optimal or self._excess.solution_value() <= 1e-9:
            return None, 0.0
        weights = np.maximum([-limit.dual_value() for limit in self._limits], 0.0)
        return np.asarray(weights), -float(self._total.dual_value())
