"""Measured rows, column by column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of equal length."""

    columns: Mapping[str, Column]

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[float]]) -> "Rows":
        """Return rows of numbers."""
        return cls({name: np.array(values, np.float64) for name, values in columns.items()})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def number(self, name: str) -> NDArray[np.float64]:
        """Return a column as numbers."""
        return self.columns[name].astype(np.float64)

    def where(self, mask: Column) -> "Rows":
        """Return the rows of a mask."""
        return Rows({name: column[mask] for name, column in self.columns.items()})


def joined(*parts: Rows) -> Rows:
    """Return rows below one another; only the columns of the first are kept."""
    names = parts[0].columns
    return Rows({name: np.concatenate([part[name] for part in parts]) for name in names})
