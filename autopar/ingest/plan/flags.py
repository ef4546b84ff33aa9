"""The words after an engine's command -> flags and values, held against what the engine knows."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from autopar.errors import SpecError, shorten, suggest

_NUMBER = re.compile(r"-\d+(\.\d+)?", re.ASCII)
# $NAME, ${NAME}, ${NAME[@]}, $1, $@; $(NAME) of Kubernetes; $(command) and `command`.
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*|[@*#?0-9])[^}]*\}?|\$\(([A-Za-z_]\w*)\)", re.ASCII)
NOT_HELD = "not read, as a plan holds nothing of it"
NO_USE = "of no use to a plan"
LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::")  # noqa: S104  of any machine
_MACHINE = re.compile(r"[A-Za-z0-9][\w.:-]*", re.ASCII)
_SLIP = 0.85  # of the letters are the same: a letter more, less or changed in ten
_PORT_DIGITS = 6  # more are no port
_HIGHEST = 10**9  # of what flags count
# Flags of older versions under names that are no slip: what took their place.
_FORMER = {
    ("vllm", "-O"): "; what older versions took there is the value of --compilation-config (-cc)",
}
_FIXTURES = {
    "vllm": "vllm-0.33.0.json",
    "sglang": "sglang-0.5.23.json",
    "trtllm": "trtllm-1.4.json",
    "megatron": "megatron-0.19.2.json",
}


@dataclass(frozen=True, slots=True)
class Known:
    """What an engine takes: each flag with the number of its values, 0 or 1; keys of its YAML.

    nested: the keys below a key of the YAML, by its path.
    """

    engine: str
    version: str
    flags: Mapping[str, int]
    keys: frozenset[str] = frozenset()
    nested: Mapping[str, frozenset[str]] = field(default_factory=dict)


@cache
def known_flags(engine: str) -> Known:
    """Return the flags of an engine as they were extracted from its sources."""
    path = files("autopar.ingest.plan").joinpath("known", _FIXTURES[engine])
    data = json.loads(path.read_text("utf-8"))
    nested = {path: frozenset(keys) for path, keys in data.get("nested", {}).items()}
    keys = frozenset(data.get("keys", ()))
    return Known(data["engine"], data["version"], data["flags"], keys, nested)


@dataclass(slots=True)
class Given:
    """Flags of one command, under one name each; a switch has the value ''.

    unknown: flags that the engine does not have; variables: words in the place of flags that
    nothing sets. read: what somebody asked for, so that the rest can be reported.
    """

    engine: str
    values: dict[str, str]
    positional: list[str]
    unknown: list[str]
    variables: list[str] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    def text(self, flag: str, default: str = "") -> str:
        """Return the value of a flag as it is written."""
        self.read.add(flag)
        return self.values.get(flag, default)

    def has(self, flag: str) -> bool:
        """Whether a switch is on."""
        self.read.add(flag)
        return flag in self.values and self.values[flag].lower() not in ("false", "0")

    def number(self, flag: str, default: int = 1) -> int:
        """Return the value of a flag that counts something.

        Raises SpecError if it is no whole number above 0.
        """
        found = self.optional(flag)
        return default if found is None else found

    def optional(self, flag: str) -> int | None:
        """Return the same; None where the flag is absent.

        Raises SpecError if it is no whole number above 0.
        """
        self.read.add(flag)
        value = self.values.get(flag)
        return None if value is None else counted(f"{self.engine}: {flag}", value)

    def index(self, flag: str, count: int) -> int | None:
        """Return the value of a flag that numbers one of `count` from 0, which is the default.

        None where it is a variable, so that one command stands for all of them. Raises SpecError
        if it is no such number.
        """
        value = self.text(flag, "0") or "0"
        if unset_in(value):
            return None
        if not value.isdecimal() or int(value[:10]) >= count:
            raise SpecError(
                f"{self.engine}: {flag}: found {shorten(value)}, expected one of 0 to {count - 1}"
            )
        return int(value)

    def port(self, flag: str, default: int) -> int | None:
        """Return the port that a server listens on; None where it is a variable, or no number.

        It is no flag that a plan has a use for, and so does not count as read.
        """
        text = self.values.get(flag, str(default))
        return int(text) if text.isdecimal() and len(text) < _PORT_DIGITS else None

    def address(self, flag: str) -> str:
        """Return the machine whose address a server listens at; empty where it names none.

        The flag counts as read only where it names one.
        """
        text = self.values.get(flag, "")
        if text in LOCAL or _MACHINE.fullmatch(text) is None:
            return ""
        return self.text(flag)

    def rest(self) -> list[str]:
        """Return flags that the engine knows and nobody asked for."""
        return [flag for flag in self.values if flag not in self.read and flag not in self.unknown]


def unset_in(text: str) -> str:
    """Return the first variable in a text that nothing set, as `$NAME`; else nothing.

    What a shell would have to run, in $(...) or backquotes, is named as it is written.
    """
    match = _VARIABLE.search(text)
    if match is not None:
        return f"${match[1] or match[2]}"
    return text if "$(" in text or "`" in text else ""


def counted(where: str, text: str) -> int:
    """Return a number that counts something, as a shell hands it on.

    Raises SpecError, which starts with `where`, if it is no whole number above 0.
    """
    name = unset_in(text)
    if name:
        raise SpecError(
            f"{where}: found {shorten(text)}, and nothing that was read sets {shorten(name)}; "
            "write the number, or set it in a line before the command"
        )
    try:
        number = int(text[:40])
    except ValueError:
        number = 0
    if not 0 < number <= _HIGHEST:
        raise SpecError(f"{where}: found {shorten(text)}, expected a whole number above 0")
    return number


def given_flags(engine: str, words: Sequence[str], aliases: Mapping[str, str]) -> Given:
    """Return the flags among words; aliases: other names of a flag -> the one we ask for."""
    known = known_flags(engine)
    given = Given(engine, {}, [], [])
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if not _is_flag(word):
            given.positional.append(word)
            if unset_in(word) and place > 1:
                given.variables.append(word)
            continue
        name, equals, value = word.partition("=")
        flag = _known_name(name, known, aliases)
        canonical = aliases.get(flag, flag)
        takes = known.flags.get(flag, aliases_take(flag, aliases, known))
        if not equals and takes != 0 and place < len(words) and not _is_flag(words[place]):
            value = words[place]
            place += 1
            while takes is None and place < len(words) and not _is_flag(words[place]):
                place += 1  # values of a flag that nobody knows
        if takes is None:
            given.unknown.append(flag)
        given.values[canonical] = value
    return given


def aliases_take(flag: str, aliases: Mapping[str, str], known: Known) -> int | None:
    """Return how many values a flag takes; None if the engine does not know it."""
    return known.flags.get(aliases.get(flag, ""))


def _known_name(name: str, known: Known, aliases: Mapping[str, str]) -> str:
    """Return the name as the engine's list has it: vLLM and SGLang take _ for -, and --a.b."""
    if name in known.flags or name in aliases:
        return name
    for other in (name.replace("_", "-"), name.partition(".")[0]):
        if other in known.flags:
            return other
    return name


def _is_flag(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and _NUMBER.fullmatch(word) is None


def said_of_unknown(given: Given) -> list[str]:
    """Return a sentence for every flag that the engine does not have."""
    known = known_flags(given.engine)
    hidden = [
        f"unknown flags in {shorten(word)}: nothing that was read sets it"
        for word in given.variables
    ]
    return hidden + [
        f"unknown flag {shorten(flag)}: {known.engine} {known.version} has none of this name"
        f"{_FORMER.get((known.engine, flag)) or suggest_flag(flag, known.flags)}"
        for flag in given.unknown
    ]


def suggest_flag(flag: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" for a flag that is but a slip away, or nothing.

    Names of flags have much in common, so that a lower likeness names one that is not meant.
    """
    return suggest(flag, known, cutoff=_SLIP)


def said_of_unread(given: Given, no_use: Collection[str]) -> list[str]:
    """Return sentences on flags that the engine knows and nobody asked for.

    no_use: those that bear on no layout, and are said apart.
    """
    rest = given.rest()
    return [
        *said_of(NOT_HELD, [flag for flag in rest if flag not in no_use]),
        *said_of(NO_USE, [flag for flag in rest if flag in no_use]),
    ]


def said_of(what: str, names: Collection[str]) -> list[str]:
    """Return the sentence that lists names of flags or keys; nothing without any."""
    return [f"{what}: {', '.join(names)}"] if names else []
