"""Time of one micro-batch on one GPU, split by what takes it."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """Parts of the time of a micro-batch, us.

    recompute_us: what is computed a second time in the backward. tensor_us, context_us, experts_us:
    exposed collectives over tensor shards, context ranks and expert ranks.
    """

    forward_us: float = 0.0
    backward_us: float = 0.0
    recompute_us: float = 0.0
    tensor_us: float = 0.0
    context_us: float = 0.0
    experts_us: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(self.parts_us, other.parts_us, strict=True)))

    def __mul__(self, factor: float) -> "Work":
        return Work(*(factor * part for part in self.parts_us))

    @property
    def parts_us(self) -> tuple[float, ...]:
        """The parts in the order of the fields."""
        compute_us = self.forward_us, self.backward_us, self.recompute_us
        return (*compute_us, self.tensor_us, self.context_us, self.experts_us)

    @property
    def total_us(self) -> float:
        """All parts together."""
        return sum(self.parts_us)


def total(works: Iterable[Work]) -> Work:
    """Return the sum of some work."""
    return sum(works, start=Work())
