"""Files that commands name: of options (--config), and with maps of experts.

Sources: vLLM 0.33.0, utils/argparse_utils.py, _pull_args_from_config and parse_args; SGLang 0.5.23,
server_args_config_parser.py. In both the keys are long names of flags, and the command line wins.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autopar.documents import parse, read_text
from autopar.errors import SpecError, shorten
from autopar.ingest.plan.flags import known_flags, unset_in

_DOTTED = re.compile(r"(--?[A-Za-z][\w-]*)\.([\w.-]+)(\+)?")
_HUMAN = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])", re.ASCII)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, slots=True)
class Beside:
    """Where files are looked for: texts that came with a command, the command's folder, here."""

    folder: Path = field(default_factory=Path)
    texts: Mapping[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Return the text of a file.

        Raises SpecError, which names it, if it cannot be read.
        """
        plain = name.removeprefix("./")
        if plain in self.texts:
            return self.texts[plain]
        if unset_in(name):
            raise SpecError(
                f"the file {shorten(name)}: nothing that was read sets {unset_in(name)}"
            )
        there = self.folder / name
        return read_text(there if there.exists() or not Path(name).exists() else name)

    def options(self, name: str) -> dict[str, Any]:
        """Return the mapping in a file of options; an empty file has none."""
        text = self.text(name)
        return parse(text, name) if text.strip() else {}


def with_config(engine: str, words: Sequence[str], beside: Beside) -> list[str]:
    """Return words in which --config FILE is replaced by the flags of the file, before all others.

    Raises SpecError if the file cannot be read, or is named twice.
    """
    names: list[str] = []
    rest: list[str] = []
    place = 0
    while place < len(words):
        name, equals, value = words[place].partition("=")
        place += 1
        if name != "--config":
            rest.append(words[place - 1])
            continue
        if not equals:
            value = words[place] if place < len(words) else ""
            place += 1
        names.append(value)
    if not names:
        return list(words)
    if len(names) > 1 or not names[0]:
        raise SpecError(f"{engine}: --config: expected the name of one file")
    try:
        options = beside.options(names[0])
    except SpecError as error:
        raise SpecError(f"{engine}: --config: {error}") from None
    return [*_words_of(engine, options), *rest]


def _words_of(engine: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield flags as words; one word each, so that none of their values is taken for a model."""
    flags = known_flags(engine).flags
    for key, value in options.items():
        flag = f"--{key}"
        takes = flags.get(flag, flags.get(flag.replace("_", "-")))
        if isinstance(value, bool) and takes != 1:
            if value:
                yield flag
            elif f"--no-{key}" in flags:
                yield f"--no-{key}"
        elif isinstance(value, dict):
            yield f"{flag}={json.dumps(value)}"
        elif isinstance(value, list):
            if value:
                yield f"{flag}={' '.join(map(str, value))}"
        else:
            yield f"{flag}={str(value).lower() if isinstance(value, bool) else value}"


def without_dots(words: Sequence[str]) -> list[str]:
    """Return words of vLLM in which --name.key VALUE is --name '{"key": VALUE}', at the end.

    Raises SpecError for one without a value.
    """
    rest: list[str] = []
    found: dict[str, dict[str, Any]] = {}
    place = 0
    while place < len(words):
        name, equals, value = words[place].partition("=")
        place += 1
        match = _DOTTED.fullmatch(name)
        if match is None:
            rest.append(words[place - 1])
            continue
        if not equals:
            if place >= len(words) or words[place].startswith("--"):
                raise SpecError(f"vllm: {name}: found no value behind it, expected one")
            value = words[place]
            place += 1
        parsed: Any = value.split(",") if match[3] else _value(value)
        for key in reversed(match[2].split(".")):
            parsed = {key: parsed}
        flag = match[1].replace("_", "-")
        _merge(found.setdefault(flag, {}), parsed)
    return [*rest, *(word for flag, data in found.items() for word in (flag, json.dumps(data)))]


def count_of(text: str) -> str:
    """Return a count as vLLM takes it, such as 8k for 8,000 and 8K for 8,192, in digits."""
    match = _HUMAN.fullmatch(text.strip())
    if match is None or (match[2].isupper() and "." in match[1]):
        return text
    base = 1024 if match[2].isupper() else 1000
    return str(int(float(match[1]) * base ** _POWERS[match[2].lower()]))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        plain = count_of(text)
        return int(plain) if plain.isdecimal() and plain != text else text


def _merge(into: dict[str, Any], data: Mapping[str, Any]) -> None:
    for key, value in data.items():
        here = into.get(key)
        if isinstance(here, dict) and isinstance(value, dict):
            _merge(here, value)
        elif isinstance(here, list) and isinstance(value, list):
            here += value
        else:
            into[key] = value
