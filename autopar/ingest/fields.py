"""The fields of one config.json, read strictly: present, of the right type, in range.

A field may have several spellings; null counts as absent. Every name that was asked for is
remembered, so that afterwards what nobody read can be looked at (`autopar.ingest.unread`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from autopar.documents import found, path_text
from autopar.errors import SpecError, suggest
from autopar.specs.architecture import MAX_SIZE

Names = tuple[str, ...]


class Flag(NamedTuple):
    """A field that is true or false, and what its absence means."""

    name: str
    default: bool = False


Switch = bool | Flag


class Fields:
    """One mapping of a config.

    where: the file, as messages name it. path: of this mapping in the file.
    """

    def __init__(self, data: Mapping[str, Any], where: str, path: tuple[str, ...] = ()) -> None:
        self.where = where
        self.path = path
        self._data = data
        self._defaults: dict[str, int] = {}
        self._read: set[str] = set()
        self._sections: dict[str, Fields] = {}

    def error(self, name: str, message: str, *, index: int | None = None) -> SpecError:
        """Return the error for one field: file, field, message."""
        steps: tuple[str | int, ...] = (*self.path, name)
        steps += () if index is None else (index,)
        return SpecError(f"{self.where}: {path_text(steps)}: {message}")

    def has(self, *names: str) -> bool:
        """Whether one of the names is there and not null; a null counts as read."""
        return self._first(names) is not None

    def spelled(self, *names: str) -> str:
        """Return the one of several names that is there, the first where none is."""
        first = self._first(names)
        return names[0] if first is None else first[0]

    def is_absent(self, *names: str) -> bool:
        """Whether none of the names is there, not even as null."""
        self._read.update(names)
        return not any(name in self._data or name in self._defaults for name in names)

    def integer(self, *names: str, low: int = 1, high: int = MAX_SIZE) -> int:
        """Return an integer that must be there.

        Raises SpecError if it is absent, no integer, or outside [low, high].
        """
        value = self.optional(*names, low=low, high=high)
        if value is None:
            raise self._missing(names, _integer_text(low, high))
        return value

    def optional(self, *names: str, low: int = 1, high: int = MAX_SIZE) -> int | None:
        """Return an integer, None where it is absent or null."""
        first = self._first(names)
        return None if first is None else self._in_range(*first, low, high)

    def integer_or(self, default: int, *names: str, low: int = 0, high: int = MAX_SIZE) -> int:
        """Return an integer, `default` where it is absent or null."""
        value = self.optional(*names, low=low, high=high)
        return default if value is None else value

    def stated(self, *names: str, low: int = 0, high: int = MAX_SIZE) -> int:
        """Return an integer that must be there, 0 where it is null."""
        if self.is_absent(*names):
            raise self._missing(names, f"{_integer_text(low, high)} or null")
        return self.integer_or(0, *names, low=low, high=high)

    def switch(self, switch: Switch) -> bool:
        """Return what a switch says here."""
        if isinstance(switch, bool):
            return switch
        first = self._first((switch.name,))
        if first is None:
            return switch.default
        name, value = first
        if not isinstance(value, bool):
            raise self.error(name, f"found {found(value)}, expected true or false")
        return value

    def text(self, *names: str) -> str | None:
        """Return a text, None where it is absent or null."""
        first = self._first(names)
        if first is None:
            return None
        name, value = first
        if not isinstance(value, str):
            raise self.error(name, f"found {found(value)}, expected text")
        return value

    def number(self, name: str) -> float | None:
        """Return a number, None where it is absent or null."""
        first = self._first((name,))
        if first is None:
            return None
        value = first[1]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, f"found {found(value)}, expected a number")
        if not 0 <= value <= MAX_SIZE:
            raise self.error(
                name, f"found {found(value)}, expected a number from 0 to {MAX_SIZE:,}"
            )
        return float(value)

    def words(self, name: str, known: Mapping[str, str], count: int | None = None) -> list[str]:
        """Return a list of words, each as `known` translates it; `count` is the legal length."""
        values = self.items(name, count)
        for index, value in enumerate(values):
            if not isinstance(value, str) or value not in known:
                near = suggest(value, known) if isinstance(value, str) else ""
                expected = f"one of {', '.join(known)}"
                message = f"found {found(value)}, expected {expected}{near}"
                raise self.error(name, message, index=index)
        return [known[value] for value in values]

    def integers(self, name: str, *, low: int, high: int, count: int | None = None) -> list[int]:
        """Return a list of integers in [low, high]; `count` is the legal length."""
        values = self.items(name, count)
        return [self._in_range(name, v, low, high, index=i) for i, v in enumerate(values)]

    def items(self, name: str, count: int | None = None) -> list[Any]:
        """Return a list that must be there; `count` is the legal length."""
        first = self._first((name,))
        if first is None:
            raise self._missing((name,), "a list")
        value = first[1]
        if not isinstance(value, list | tuple):
            raise self.error(name, f"found {found(value)}, expected a list")
        if count is not None and len(value) != count:
            raise self.error(name, f"found {found(value)}, expected {count:,}, one per layer")
        return list(value)

    def section(self, name: str) -> "Fields | None":
        """Return a nested mapping, None where it is absent or null."""
        if name in self._sections:
            return self._sections[name]
        first = self._first((name,))
        if first is None:
            return None
        if not isinstance(first[1], Mapping):
            raise self.error(name, f"found {found(first[1])}, expected a mapping of fields")
        section = Fields(first[1], self.where, (*self.path, name))
        self._sections[name] = section
        return section

    def sections(self, name: str, count: int | None = None) -> "list[Fields]":
        """Return a list of nested mappings that must be there."""
        sections = []
        for index, value in enumerate(self.items(name, count)):
            if not isinstance(value, Mapping):
                message = f"found {found(value)}, expected a mapping of fields"
                raise self.error(name, message, index=index)
            sections.append(Fields(value, self.where, (*self.path, f"{name}[{index}]")))
        return sections

    def fill(self, defaults: Mapping[str, int]) -> None:
        """Let the absence of some fields mean what the model's own code makes of it."""
        self._defaults.update(defaults)

    def ignore(self, *names: str) -> None:
        """Count fields as read that say nothing about shapes in this family."""
        self._read.update(names)

    def unread(self, wanted: Callable[[str], bool]) -> "Iterator[tuple[Fields, str, Any]]":
        """Yield what nobody asked for and `wanted` does not excuse, nested mappings included."""
        for name, value in self._data.items():
            if isinstance(name, str) and name not in self._read and wanted(name):
                yield self, name, value
        for section in self._sections.values():
            yield from section.unread(wanted)

    @property
    def data(self) -> Mapping[str, Any]:
        """The mapping as it stands."""
        return self._data

    def value(self, name: str) -> Any:
        """Return a field as it stands, None where it is absent."""
        self._read.add(name)
        return self._data.get(name)

    def _first(self, names: Sequence[str]) -> tuple[str, Any] | None:
        """Return the first name that has a value; all that have one must agree."""
        self._read.update(names)
        there = [(n, self._data[n]) for n in names if self._data.get(n) is not None]
        if not there:
            absent = [n for n in names if n in self._defaults and n not in self._data]
            return (absent[0], self._defaults[absent[0]]) if absent else None
        name, value = there[0]
        for other, different in there[1:]:
            if different != value or type(different) is not type(value):
                message = f"found {found(value)}, but {other} is {found(different)}"
                raise self.error(name, f"{message}; expected one value, they mean the same")
        return name, value

    def _missing(self, names: Sequence[str], expected: str) -> SpecError:
        others = f" (nor as {', '.join(names[1:])})" if len(names) > 1 else ""
        return self.error(names[0], f"found nothing{others}, expected {expected}")

    def _in_range(
        self, name: str, value: Any, low: int, high: int, *, index: int | None = None
    ) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            message = f"found {found(value)}, expected {_integer_text(low, high)}"
            raise self.error(name, message, index=index)
        return value


def _integer_text(low: int, high: int) -> str:
    return f"an integer from {low:,} to {high:,}"
