"""Output of a command as it was saved: lines without colour, and messages that name them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from autopar import documents
from autopar.errors import SpecError, shorten

MAX_BYTES = 64_000_000  # `kubectl get nodes -o json` has about 20 kB per node
# ECMA-48: control sequences (colours), and the commands that terminals answer to.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")


def is_digits(text: str) -> bool:
    """Whether a text is a number of digits 0 to 9, as commands print it, and of no other script."""
    return text.isascii() and text.isdecimal()


@dataclass(frozen=True, slots=True)
class Output:
    """What one file holds; line i of `lines` is number i + 1 of the file."""

    label: str
    lines: tuple[str, ...]

    @classmethod
    def read(cls, source: str | Path) -> Self:
        """Read a file, or standard input for `-`.

        Raises SpecError, which names the file, if it cannot be read, is no text, or is empty.
        """
        label = documents.label_of(source)
        expected = "the output of a command"
        return cls.of(documents.read_text(source, max_bytes=MAX_BYTES, expected=expected), label)

    @classmethod
    def of(cls, text: str, label: str) -> Self:
        """Return the lines of a text, without colours and carriage returns.

        Raises SpecError if there is nothing in it.
        """
        plain = _ESCAPES.sub("", text.removeprefix("\ufeff")).replace("\r\n", "\n")
        lines = tuple(line.rstrip() for line in plain.replace("\r", "\n").split("\n"))
        if not any(lines):
            raise SpecError(f"{label}: the file is empty; expected the output of a command")
        return cls(label, lines)

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)

    def numbered(self) -> Iterator[tuple[int, str]]:
        """Yield the number and the text of every line that has one."""
        return ((i, line) for i, line in enumerate(self.lines, 1) if line)

    def at(self, line: int) -> str:
        """Return how messages name a line."""
        return f"{self.label}: line {line}"

    def error(self, line: int, found: object, expected: str) -> SpecError:
        """Return the error for what stands in a line."""
        return SpecError(f"{self.at(line)}: found {shorten(found)}, expected {expected}")
