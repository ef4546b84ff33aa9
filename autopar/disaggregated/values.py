"""What one role brings to a pair, in integers; a metric of the pair is a function of both."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from autopar.problem import BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class Values:
    """The part of one role, for many layouts at once; every array has the same shape.

    rate: output tokens per second of the requests served. time: from the start of a prompt to its
    last stage, 0 for decode. tpot: 0 for prefill. service: of one prompt by a group of prefill, 0
    for decode. In the quanta of `autopar.costs.scaling`.
    At a given rate of the pair, every metric gets no worse if the rate of a role grows and
    everything else shrinks; nor does the best rate of the pair.
    """

    rate: IntArray
    time: IntArray
    handover: IntArray
    tpot: IntArray
    boundaries: IntArray
    memory: IntArray
    gpus: IntArray
    service: IntArray

    def take(self, index: IntArray | BoolArray) -> "Values":
        """Return the values that `index` selects."""
        return Values(*(getattr(self, f.name)[index] for f in fields(self)))

    def row(self, index: int) -> "Values":
        """Return one of them, as a table of one."""
        return self.take(np.array([index]))

    def put(self, index: IntArray, others: "Values") -> None:
        """Overwrite some of them; others: as many as index names."""
        for f in fields(self):
            getattr(self, f.name)[index] = getattr(others, f.name)

    @classmethod
    def joined(cls, parts: "list[Values]") -> Self:
        """Return all parts in one table."""
        none = np.zeros(0, dtype=np.int64)
        return cls(
            *(np.concatenate([none, *(getattr(p, f.name) for p in parts)]) for f in fields(cls))
        )

    def best_so_far(self) -> "Values":
        """Return for each place the best of every value up to it: what no earlier one beats."""
        least = {f.name: np.minimum.accumulate(getattr(self, f.name)) for f in fields(self)}
        return Values(**least | {"rate": np.maximum.accumulate(self.rate)})

    def best_of_runs(self, start: IntArray) -> "Values":
        """Return the best of every value in each run of places, which begin at `start`."""
        least = {f.name: np.minimum.reduceat(getattr(self, f.name), start) for f in fields(self)}
        return Values(**least | {"rate": np.maximum.reduceat(self.rate, start)})
