"""A map of experts: which expert each slot of each layer holds."""

from dataclasses import dataclass

import numpy as np

from autopar.errors import SpecError
from autopar.placement.files.measured import MOST_EXPERTS
from autopar.placement.machine import IntArray


@dataclass(frozen=True, slots=True)
class ExpertMap:
    """slots: the expert in each slot, shape (layers, slots). layers: their numbers in the model."""

    slots: IntArray
    layers: tuple[int, ...]

    def differences(self, other: "ExpertMap") -> list[str]:
        """Say where another map is not this one; empty where it is."""
        if self.layers != other.layers:
            return [f"layers {_few(other.layers)}; expected {_few(self.layers)}"]
        if self.slots.shape != other.slots.shape:
            return [f"{other.slots.shape[1]} slots; expected {self.slots.shape[1]}"]
        return [
            f"layer {self.layers[row]}, slot {slot}: expert {other.slots[row, slot]}; expected "
            f"{self.slots[row, slot]}"
            for row, slot in np.argwhere(self.slots != other.slots)[:1]
        ]


def table_of(label: str, rows: object) -> IntArray:
    """Return [layers][slots] as an array.

    Raises SpecError if it is no table of expert numbers.
    """
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise SpecError(f"{label}: expected a list of slots for each layer")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]) or not row:
            raise SpecError(
                f"{label}[{number}]: found {len(row)} slots, expected {len(rows[0])} as in row 0"
            )
        wrong = [value for value in row if type(value) is not int or not 0 <= value < MOST_EXPERTS]
        if wrong:
            raise SpecError(
                f"{label}[{number}]: found {wrong[0]!r}, expected the number of an expert"
            )
    return np.asarray(rows, dtype=np.int64)


def _few(layers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, layers[:6]))
    return f"{shown}, ... ({len(layers)})" if len(layers) > 6 else shown
