"""A shell script -> its simple commands, each with the environment that it sets.

Nothing is run and nothing is expanded: `$NAME` and `$(...)` stay as they are written. Quotes,
escapes, continuations and comments are those of POSIX (Shell Command Language, 2.2 and 2.3).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from autopar.errors import SpecError

MOST_WORDS = 100_000
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.ASCII | re.DOTALL)
_OPERATORS = ";&|\n()"
# Words before a command that start it and change nothing of it.
_STARTERS = ("exec", "env", "nohup", "sudo", "time", "command")


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command: its words, and what is set in its environment."""

    words: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)


def commands_in(text: str, label: str) -> list[Command]:
    """Return the commands of a script in order; `export NAME=value` counts for those after it.

    Raises SpecError for a quote that is not closed, and for an absurd number of words.
    """
    exported: dict[str, str] = {}
    found: list[Command] = []
    for words in _split(text, label):
        env, rest = _environment(words)
        if rest[:1] == ["export"]:
            exported |= _environment(rest[1:])[0]
        elif rest:
            found.append(Command(tuple(rest), {**exported, **env}))
        else:
            exported |= env  # NAME=value on a line of its own
    return found


def _environment(words: list[str]) -> tuple[dict[str, str], list[str]]:
    env: dict[str, str] = {}
    place = 0
    for place, word in enumerate(words):
        match = _ASSIGNMENT.fullmatch(word)
        if match is not None:
            env[match[1]] = match[2]
        elif word not in _STARTERS:
            return env, words[place:]
    return env, []


def _split(text: str, label: str) -> Iterator[list[str]]:
    """Yield the words of each command."""
    words: list[str] = []
    count = 0
    for word in _words(text.replace("\r\n", "\n"), label):
        if word is not None:
            words.append(word)
            count += 1
            if count > MOST_WORDS:
                raise SpecError(f"{label}: more than {MOST_WORDS:,} words; expected commands")
        elif words:
            yield words
            words = []
    if words:
        yield words


def _words(text: str, label: str) -> Iterator[str | None]:
    """Yield words, and None where a command ends."""
    word: list[str] | None = None
    place = 0
    while place < len(text):
        char = text[place]
        if char in " \t" or char in _OPERATORS:
            if word is not None:
                yield "".join(word)
                word = None
            if char in _OPERATORS:
                yield None
            place += 1
            continue
        if char == "#" and word is None:
            end = text.find("\n", place)
            place = len(text) if end < 0 else end
            continue
        part, place = _part(text, place, label)
        if part is not None:
            word = [*(word or []), part] if word is None else _appended(word, part)
    if word is not None:
        yield "".join(word)
    yield None


def _appended(word: list[str], part: str) -> list[str]:
    word.append(part)
    return word


def _part(text: str, place: int, label: str) -> tuple[str | None, int]:
    """Return what one character or quotation adds to a word (None: nothing), and where it ends."""
    char = text[place]
    if char == "\\":
        following = text[place + 1 : place + 2]
        return (None if following in ("\n", "") else following), place + 2
    if char == "'":
        end = text.find("'", place + 1)
        if end < 0:
            raise _unclosed(text, place, label)
        return text[place + 1 : end], end + 1
    if char == '"':
        return _double_quoted(text, place, label)
    if text.startswith("$(", place):
        end = text.find(")", place)
        if end < 0:
            raise _unclosed(text, place, label)
        return text[place : end + 1], end + 1
    return char, place + 1


def _double_quoted(text: str, start: int, label: str) -> tuple[str, int]:
    parts: list[str] = []
    place = start + 1
    while place < len(text):
        char = text[place]
        if char == '"':
            return "".join(parts), place + 1
        following = text[place + 1 : place + 2]
        if char == "\\" and following and following in '$`"\\\n':
            parts.append("" if following == "\n" else following)
            place += 2
            continue
        parts.append(char)
        place += 1
    raise _unclosed(text, start, label)


def _unclosed(text: str, place: int, label: str) -> SpecError:
    line = text.count("\n", 0, place) + 1
    return SpecError(f"{label}: line {line}: found {text[place]!r} that is not closed")
