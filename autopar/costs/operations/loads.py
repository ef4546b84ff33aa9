"""What the busiest of the ranks that hold experts works on, under random and under skewed routing.

A skewed law is that of the measured tables (ai-dynamo/aiconfigurator at commit 095f58a5,
collector/helper.py): the load of each expert is drawn from a bounded power law, no expert gets more
than every token, neighbours share a rank, and the rank with most rows sets the pace. Here the mean
over a fixed set of draws, so that the answer is one number and always the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import starmap
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from autopar.costs.operations.arrays import FloatArray, real
from autopar.specs.kernels import EXPERT_ROWS, ExpertsFit

Law = Literal["even", "power_law_1.01", "power_law_1.2"]


class RankFactors(Protocol):
    """Measured loads, placed: how much more than the mean the busiest rank of a layer has.

    It must have a hash, as the laws have.
    """

    def factor(self, held: int, ranks: int) -> float:
        """Load of the busiest rank over that of `held` mean experts, as the mean over layers.

        ranks: that hold the experts, each at most `held`.
        """
        ...

    def peak(self, held: int, ranks: int) -> float:
        """Return the same of the layer in which it is largest: what a buffer must have room for."""
        ...


_EXPONENTS = {"power_law_1.01": 1.01, "power_law_1.2": 1.2}
_DRAWS = 32  # the mean of the busiest rank's rows is then known to about 3 %
_OCTAVES = 25  # of tokens: 1, 2, 4, ... 16.8 million
_OCTAVE = np.arange(_OCTAVES)
_LOG_ROWS = np.log2(real(EXPERT_ROWS))
_NO_FIT = ExpertsFit(start_us=0.0, weight_passes=(1.0,) * len(EXPERT_ROWS))  # rows do not need one


@dataclass(frozen=True, slots=True)
class RankLoad:
    """The work of the busiest rank in one layer; every array has the shape of the arguments.

    rows: (token, expert) pairs. read: experts that get rows. passes: time of their GEMMs, in passes
    over the weights of one expert at peak memory bandwidth.
    """

    rows: FloatArray
    read: FloatArray
    passes: FloatArray


def experts_read(rows: ArrayLike, num_experts: ArrayLike) -> FloatArray:
    """Mean number of experts that get a row, of `num_experts` to which rows go at random.

    E (1 - exp(-rows / E)), the Poisson limit; a rank that works at all has a row.
    """
    r, e = np.maximum(real(rows), 1.0), real(num_experts)
    return real(-e * np.expm1(-r / np.maximum(e, 1.0)))


def weight_passes(rows_per_expert: ArrayLike, table: tuple[float, ...]) -> FloatArray:
    """Time over that of one pass over the weights, where each expert has so many rows.

    A power law between the points of the table, so that time grows with rows and with experts.
    """
    x = np.log2(np.maximum(real(rows_per_expert), 1.0))
    beyond = np.maximum(x - _LOG_ROWS[-1], 0.0)
    return real(np.exp2(np.interp(x, _LOG_ROWS, np.log2(real(table))) + beyond))


def grouped_load(rows: ArrayLike, read: ArrayLike, table: tuple[float, ...]) -> RankLoad:
    """Return the work of a rank of whose experts `read` get an equal part of `rows` rows."""
    r, busy = real(rows), np.maximum(real(read), 1e-9)
    return RankLoad(r, busy, busy * weight_passes(r / busy, table))


def even_load(rows: ArrayLike, num_experts: ArrayLike, table: tuple[float, ...]) -> RankLoad:
    """Return the work of a rank with `num_experts` experts, to which `rows` rows go at random."""
    return grouped_load(rows, experts_read(rows, num_experts), table)


def skewed_load(
    tokens: ArrayLike,
    held: ArrayLike,
    num_experts: int,
    experts_per_token: int,
    law: Law,
    fit: ExpertsFit,
) -> RankLoad:
    """Return the work of the busiest rank under a law other than "even".

    tokens: of all ranks together. held: experts on one rank; a rank without any does nothing.
    Linear in the logarithms between powers of two of tokens, so that it grows with them.
    """
    everything, share = np.broadcast_arrays(real(tokens), real(held))
    x = np.log2(np.maximum(everything, 1.0))
    beyond = np.exp2(np.maximum(x - (_OCTAVES - 1), 0.0))
    columns = np.zeros((3, *x.shape))
    for number in sorted({int(n) for n in share.ravel()} - {0}):
        here = share == number
        known = _tabled(
            law, num_experts, experts_per_token, number, fit.weight_passes, fit.uneven_rows
        )
        columns[:, here] = [np.exp2(np.interp(x[here], _OCTAVE, column)) for column in known]
    return RankLoad(columns[0] * beyond, real(columns[1]), columns[2] * beyond)


def measured_load(
    tokens: ArrayLike,
    held: ArrayLike,
    num_experts: int,
    experts_per_token: int,
    measured: RankFactors,
    table: tuple[float, ...],
    ranks: ArrayLike,
) -> RankLoad:
    """Return the work of the busiest rank under measured loads that were placed.

    As under random routing, with the rows that the busiest rank gets: how they spread over its own
    experts is not looked at. Arguments as in `skewed_load`.
    """
    share = _measured_share(held, ranks, num_experts, measured.factor)
    return even_load(real(tokens) * experts_per_token * share, held, table)


def _measured_share(
    held: ArrayLike, ranks: ArrayLike, num_experts: int, factor: Callable[[int, int], float]
) -> FloatArray:
    """Return which part of all rows the busiest rank gets."""
    counts, sizes = np.broadcast_arrays(np.asarray(held), np.asarray(ranks))
    factors = np.zeros(counts.shape)
    pairs = set(zip(counts.ravel().tolist(), sizes.ravel().tolist(), strict=True))
    for number, size in sorted(pairs):
        if number:
            factors[(counts == number) & (sizes == size)] = factor(int(number), int(size))
    return real(factors * counts / num_experts)


def busiest_rows(
    tokens: ArrayLike,
    held: ArrayLike,
    num_experts: int,
    experts_per_token: int,
    law: Law | RankFactors,
    ranks: ArrayLike = 1,
) -> FloatArray:
    """Return the (token, expert) pairs of the busiest rank; arguments as in `skewed_load`.

    ranks: that hold the experts. Of measured loads those of the layer that is least even.
    """
    if not isinstance(law, str):
        share = _measured_share(held, ranks, num_experts, law.peak)
        return real(tokens) * experts_per_token * share
    if law == "even":
        return real(tokens) * experts_per_token * real(held) / num_experts
    return skewed_load(tokens, held, num_experts, experts_per_token, law, _NO_FIT).rows


@lru_cache(maxsize=512)
def _tabled(
    law: Law,
    num_experts: int,
    experts_per_token: int,
    held: int,
    table: tuple[float, ...],
    uneven_rows: float,
) -> FloatArray:
    """Return log2 of rows, read and passes of the busiest rank, shape (3, octaves); all grow."""
    shares = _shares(law, num_experts, experts_per_token)
    ranks = -(-num_experts // held)
    padded = np.zeros((*shares.shape[:2], ranks * held))
    padded[..., :num_experts] = shares
    grouped = padded.reshape(*shares.shape[:2], ranks, held)
    busiest = grouped.sum(axis=3).argmax(axis=2)
    mine = np.take_along_axis(grouped, busiest[..., None, None], axis=2)[:, :, 0]
    rows = mine * np.exp2(_OCTAVE)[None, :, None]
    read = -np.expm1(-rows)  # of each expert: whether it gets a row, as under random routing
    passes = read * weight_passes(rows / np.maximum(read, 1e-12) + uneven_rows, table)
    means = np.array([part.sum(axis=2).mean(axis=0) for part in (rows, read, passes)])
    return real(np.log2(np.maximum.accumulate(np.maximum(means, 1e-9), axis=1)))


@lru_cache(maxsize=16)
def _shares(law: Law, num_experts: int, experts_per_token: int) -> FloatArray:
    """Return the share of tokens that goes to each expert, shape (draws, octaves, experts)."""
    # RandomState is the generator whose stream numpy has frozen (NEP 19).
    chance = np.random.RandomState(0).random_sample((_DRAWS, num_experts))
    exponent = 1.0 - _EXPONENTS[law]

    def at(low: float, high: float) -> FloatArray:
        bounds = low**exponent, high**exponent
        drawn = (bounds[0] + (bounds[1] - bounds[0]) * chance) ** (1.0 / exponent)
        return _limited(drawn * (experts_per_token / drawn.sum(axis=1, keepdims=True)))

    tokens = [2.0**octave for octave in range(_OCTAVES)]
    # Where there are fewer rows than experts the tables draw from another interval.
    intervals = [
        (1.0, 0.8 * count) if count * experts_per_token > num_experts else (0.01, 2.0)
        for count in tokens
    ]
    return np.stack(list(starmap(at, intervals)), axis=1)


def _limited(shares: FloatArray) -> FloatArray:
    """Return shares of at most 1 with the same sum: what is above goes where there is room.

    A token goes to an expert once. In proportion to the room, so that one round is enough.
    """
    over = np.clip(shares - 1.0, 0.0, None).sum(axis=1, keepdims=True)
    kept = np.minimum(shares, 1.0)
    room = 1.0 - kept
    spread: FloatArray = over * room / np.maximum(room.sum(axis=1, keepdims=True), 1e-12)
    return kept + spread
