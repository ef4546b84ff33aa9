"""Errors of predictions: how large, in which direction, inside the band or not, in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of the rows of one group.

    mape, median: mean and median of |predicted / measured - 1|. bias: median of predicted /
    measured, less 1: above 0 where predictions are too long or too large. inside: share of rows in
    the printed band; None where none is printed. baselines: MAPE of each trivial model.
    """

    rows: int
    mape: float
    median: float
    bias: float
    inside: float | None
    baselines: Mapping[str, float]


def score(
    predicted: Sequence[float],
    measured: Sequence[float],
    *,
    inside: Sequence[bool] | None = None,
    baselines: Mapping[str, Sequence[float]] | None = None,
) -> Score:
    """Return the errors of a group of rows, at least one."""
    ratio = np.asarray(predicted, dtype=np.float64) / np.asarray(measured, dtype=np.float64)
    errors = np.abs(ratio - 1)
    return Score(
        rows=len(ratio),
        mape=float(errors.mean()),
        median=float(np.median(errors)),
        bias=float(np.median(ratio)) - 1,
        inside=None if inside is None else float(np.mean(np.asarray(inside, dtype=np.float64))),
        baselines={
            name: float(np.abs(np.asarray(values) / np.asarray(measured) - 1).mean())
            for name, values in (baselines or {}).items()
        },
    )


def scaled_to_fit(values: Sequence[float], measured: Sequence[float]) -> list[float]:
    """Return values times the one constant that makes their MAPE least.

    With r = value / measured it is the mean of r |constant - 1 / r|, least where half of the weight
    r lies on either side: at the median of 1 / r with weights r.
    """
    guesses, truth = np.asarray(values, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    ratios = np.sort(guesses / truth)[::-1]  # so that 1 / r ascends
    place = int(np.searchsorted(np.cumsum(ratios), ratios.sum() / 2))
    return [float(guess) for guess in guesses / ratios[min(place, len(ratios) - 1)]]


@dataclass(frozen=True, slots=True)
class Ranking:
    """How often two plans of one case stand in the measured order.

    tau: (pairs in order - pairs out of order) / pairs, over all pairs of all cases: Kendall's tau
    of the cases, weighted by their pairs. best_found: share of cases whose best plan is
    predicted to be the best; lost: mean share of the best throughput that the predicted best
    plan gives away. trivial: tau of each trivial order.
    """

    cases: int
    pairs: int
    tau: float
    best_found: float
    lost: float
    trivial: Mapping[str, float] = field(default_factory=dict)


def ranking(cases: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Ranking | None:
    """Return how well plans are ordered; a case: predicted and measured rates of its plans.

    Measured ties decide nothing and are left out. None without a case of two plans.
    """
    order = pairs = 0
    found: list[bool] = []
    lost: list[float] = []
    for predicted, measured in cases:
        guess, truth = np.asarray(predicted), np.asarray(measured)
        first, second = np.triu_indices(len(truth), k=1)
        signs = np.sign(guess[first] - guess[second]) * np.sign(truth[first] - truth[second])
        order += int(signs.sum())
        pairs += int((truth[first] != truth[second]).sum())
        if len(truth) > 1:
            chosen = float(truth[int(np.argmax(guess))])
            found.append(chosen == truth.max())
            lost.append(1 - chosen / float(truth.max()))
    if not pairs:
        return None
    return Ranking(len(found), pairs, order / pairs, float(np.mean(found)), float(np.mean(lost)))


def weighted_quantiles(values: Floats, weights: Floats, at: Sequence[float]) -> list[float]:
    """Return quantiles of weighted values, by linear interpolation between their midpoints."""
    order = np.argsort(values, kind="stable")
    ordered, share = values[order], weights[order] / weights.sum()
    return [float(q) for q in np.interp(at, np.cumsum(share) - share / 2, ordered)]


def cell_weights(cells: Sequence[str]) -> Floats:
    """Return a weight for each row, so that a cell of n rows weighs as much as sqrt(n).

    Rows of one cell share its errors; alike, a table of 200 rows of one model would decide alone.
    """
    names, counts = np.unique(np.asarray(cells), return_counts=True)
    sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
    return np.asarray([1 / np.sqrt(sizes[cell]) for cell in cells], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Band:
    """Where a share of measured / predicted lies, and how many rows of cells left out are in it."""

    low: float
    high: float
    coverage: float


# How much of each tail may be left out; the widest band is of all rows.
_TAILS = (0.10, 0.09, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01, 0.0)


def fitted_band(
    ratios: Sequence[float], cells: Sequence[str], share: float, *, at_least: Band | None = None
) -> Band:
    """Return the narrowest band that holds `share` of the rows of cells that it is not from.

    ratios: measured / predicted, one for each row. at_least: a band that every band holds. Where
    even all rows of the other cells leave more of a cell outside, the band of all rows is returned
    with its coverage.
    """
    least = (0.0, 0.0) if at_least is None else (np.log(at_least.low), np.log(at_least.high))

    def band_of(some: NDArray[np.bool_], tail: float) -> tuple[float, float]:
        low, high = weighted_quantiles(logs[some], weights[some], (tail, 1 - tail))
        return (low, high) if at_least is None else (min(low, least[0]), max(high, least[1]))

    logs, names = np.log(np.asarray(ratios, dtype=np.float64)), np.asarray(cells)
    weights = cell_weights(cells)
    band = Band(1.0, 1.0, 0.0)
    for tail in _TAILS:
        inside = np.zeros(len(logs), dtype=np.bool_)
        for cell in np.unique(names):
            held = names == cell
            others = ~held if (~held).any() else held
            low, high = band_of(others, tail)
            inside[held] = (logs[held] >= low) & (logs[held] <= high)
        low, high = band_of(np.ones(len(logs), dtype=np.bool_), tail)
        band = Band(float(np.exp(low)), float(np.exp(high)), float(inside.mean()))
        if band.coverage >= share:
            break
    return band
