"""What every rule of a placement offers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from autopar.placement.machine import IntArray, LayerTask

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, IntVar


@dataclass(frozen=True, slots=True)
class Posting:
    """The CP-SAT model of one layer with its variables.

    lies: whether an expert with so many replicas has one on a GPU: (expert, count, GPU) -> 0 or 1.
    counted: whether an expert has so many replicas: (expert, count) -> 0 or 1.
    """

    model: "CpModel"
    task: LayerTask
    lies: "Mapping[tuple[int, int, int], IntVar]"
    counted: "Mapping[tuple[int, int], IntVar]"

    def on(self, expert: int, gpu: int) -> "list[IntVar]":
        """Return the variables of which one is 1 if the expert has a replica on the GPU."""
        counts = (count for e, count in self.counted if e == expert)
        return [self.lies[expert, count, gpu] for count in counts]


class PlacementRule(Protocol):
    """One rule; `check` may not use what `post` uses."""

    name: str

    def post(self, posting: Posting) -> None:
        """Add the rule to a model."""

    def check(self, task: LayerTask, slots: IntArray) -> Iterator[str]:
        """Say what in a placement breaks the rule; slots: the expert in each, shape (slots,)."""
        ...
