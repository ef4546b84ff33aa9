"""Cells of a table of measured runs: counts and figures, with messages that name the column."""

from collections.abc import Mapping

from autopar.errors import shorten

_LARGEST = 1e12  # of any count or figure of a run

Line = Mapping[str, str]


def is_empty(line: Line, column: str) -> bool:
    """Whether a cell says nothing: it is empty, or no count at all."""
    return (line.get(column) or "").strip() in ("", "0", "0.0")


def is_zero(line: Line, column: str) -> bool:
    """Whether a cell states a number that is 0.

    Raises ValueError for what is no number.
    """
    return bool((line.get(column) or "").strip()) and figure(line, column) == 0


def count(line: Line, column: str, otherwise: int = 1) -> int:
    """Return a count; an empty cell and 0 say nothing.

    Raises ValueError for what is no count.
    """
    return round(figure(line, column)) or otherwise


def figure(line: Line, column: str) -> float:
    """Return a number; 0 where the cell says nothing.

    Raises ValueError for what is none, or out of every reason.
    """
    text = (line.get(column) or "0").strip()
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{column} is {shorten(text)}, expected a number") from None
    if not 0 <= value < _LARGEST:
        raise ValueError(f"{column} is {shorten(text)}, expected a number from 0 to {_LARGEST:g}")
    return value
