"""Bytes -> plain data: YAML and JSON, read strictly and within bounds of time and memory.

A document may come from anywhere, so nothing in it is trusted: its size and depth are limited,
YAML is built from parser events without recursion (a deep document overflows the C stack of
PyYAML's composer), aliases, tags and repeated keys are refused, and numbers must be finite.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from autopar.errors import SpecError, shorten, suggest

Data = dict[str, Any]

MAX_DEPTH = 64
MAX_JSON_BYTES = 64_000_000  # a plan with a million placement rows
MAX_YAML_BYTES = 16_000_000  # YAML takes about ten times as long to read
MAX_SPEC_BYTES = 4_000_000  # everything but plans and answers is written by people

# YAML 1.2 core schema (yaml.org/spec/1.2.2, 10.3.2): `no` is a word, `1e3` a number, `010` is ten.
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INSPECTED = (dict, list, float)
_MAX_DIGITS = 4_000  # Python refuses to convert more than 4,300
_EXPECTED = "text in YAML or JSON"


def label_of(source: str | Path) -> str:
    """Return how messages name a source: its path, cut where it is absurdly long."""
    text = "standard input" if source == "-" else str(source)
    return text if len(text) <= 200 else f"{text[:60]}... ({len(text):,} characters)"


def read(source: str | Path, *, max_bytes: int = MAX_JSON_BYTES) -> Data:
    """Return the mapping in a YAML or JSON file, or on standard input for `-`.

    Raises SpecError, which names the file, if it cannot be read or is not one strict mapping.
    """
    label = label_of(source)
    return parse(_read_text(source, label, max_bytes), label)


def read_config(path: Path) -> Data:
    """Return the mapping in a config.json of another program, which Python's json wrote.

    It writes Infinity and NaN, which are no JSON (RFC 8259); they become text, so that no size can
    be one. Raises SpecError as `read` does, and for what is no regular file: a pipe waits forever.
    """
    label = label_of(path)
    try:
        is_special = path.exists() and not path.is_file() and not path.is_dir()
    except (OSError, ValueError):
        is_special = False  # reading says what is wrong with the name
    if is_special:
        raise SpecError(f"{label}: found a pipe or a device, expected a file or a folder")
    return parse(_read_text(path, label, MAX_SPEC_BYTES), label, constant=str)


def read_text(
    source: str | Path, *, max_bytes: int = MAX_JSON_BYTES, expected: str = _EXPECTED
) -> str:
    """Return the text of a file, or of standard input for `-`; expected: what messages ask for.

    Raises SpecError, which names the file, if it cannot be read or is not UTF-8 text.
    """
    return _read_text(source, label_of(source), max_bytes, expected)


def parse(text: str, label: str, constant: Callable[[str], Any] | None = None) -> Data:
    """Return the mapping that a text holds; JSON where it starts with a brace.

    constant: what becomes of Infinity and NaN in JSON, as json.loads takes it; else refused.
    """
    body = text.lstrip()
    if not body:
        raise SpecError(f"{label}: the file is empty; expected a mapping of fields in YAML or JSON")
    is_json = label.endswith(".json") or (body[0] == "{" and not label.endswith((".yaml", ".yml")))
    data = _parse_json(text, label, constant) if is_json else _parse_yaml(text, label)
    if not isinstance(data, dict):
        raise SpecError(f"{label}: found {found(data)} at the top, expected a mapping of fields")
    _refuse_non_finite(data, label)
    return data


def parse_any(text: str, label: str) -> Any:
    """Return what a JSON text holds, or a YAML one with a mapping: arrays of arrays too.

    Raises SpecError, which names the label, for what is neither, and for NaN and infinities.
    """
    if not text.lstrip().startswith("["):
        return parse(text, label)
    data = _parse_json(text, label)
    _refuse_non_finite(data, label)
    return data


def parse_value(text: str, label: str) -> Any:
    """Return the value of a YAML scalar or flow collection, as `--set` takes it."""
    if len(text) > MAX_SPEC_BYTES:
        raise SpecError(f"{label}: the value has {len(text):,} characters, too many")
    value = _parse_yaml(text, label) if text.strip() else ""
    _refuse_non_finite(value, label)
    return value


def kind_error(label: str, expected: str, data: Mapping[str, Any]) -> SpecError:
    """Return the error for a document of another kind than the expected one."""
    return SpecError(
        f"{label}: kind: expected kind {expected}, found {shorten(data.get('kind'))}"
        f"{suggest(str(data.get('kind')), [expected])}"
    )


def found(value: object) -> str:
    """Return a value as a message shows it: short, and in the words of YAML."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return f"a mapping of {len(value)} fields"
        case list() | tuple():
            return f"a list of {len(value):,} items"
        case int() if abs(value) > 10**60:
            return f"an integer of about {abs(value).bit_length() * math.log10(2):,.0f} digits"
        case _:
            return shorten(value)


def path_text(path: tuple[str | int, ...]) -> str:
    """Return a path into a document as people write it: `stages[2].layers`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if len(step) <= 60 else f"{step[:60]}..."
            text += f".{name}" if text else name
    return text


def _read_text(source: str | Path, label: str, max_bytes: int, expected: str = _EXPECTED) -> str:
    try:
        if source == "-":
            raw = sys.stdin.buffer.read(max_bytes + 1)
        else:
            path = Path(source)
            if path.is_dir():
                raise SpecError(f"{label}: found a directory, expected a YAML or JSON file")
            if not path.exists():
                raise SpecError(f"{label}: no such file{_near_file(path)}")
            with path.open("rb") as stream:
                raw = stream.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(f"{label}: cannot be read: {reason}") from None
    if len(raw) > max_bytes:
        raise SpecError(f"{label}: larger than {max_bytes // 1_000_000} MB, the most that is read")
    if b"\0" in raw:
        raise SpecError(f"{label}: found binary data, expected {expected}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{label}: byte {error.start} is not UTF-8; expected {expected}") from None


def _near_file(path: Path) -> str:
    try:
        names = [str(path.parent / p.name) for p in path.parent.iterdir()][:10_000]
    except OSError:
        return ""
    return suggest(str(path), names)


def _parse_json(text: str, label: str, constant: Callable[[str], Any] | None = None) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> Data:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            key = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
            raise SpecError(f"{label}: {path_text((key,))}: found twice in one object")
        return result

    if len(text) > MAX_JSON_BYTES:
        raise SpecError(f"{label}: larger than {MAX_JSON_BYTES // 1_000_000} MB")
    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise SpecError(
            f"{label}: line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
        ) from None
    except RecursionError:
        raise SpecError(f"{label}: nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        raise SpecError(f"{label}: an integer has more than {_MAX_DIGITS:,} digits") from None


def _refuse_non_finite(data: Any, label: str) -> None:
    """Raise SpecError with the field of the first NaN or infinity, and for too deep a document."""
    stack: list[tuple[tuple[str | int, ...], Any]] = [((), data)]
    while stack:
        path, value = stack.pop()
        if len(path) > MAX_DEPTH:
            raise SpecError(f"{label}: nested deeper than {MAX_DEPTH} levels")
        items: Iterator[tuple[str | int, Any]]
        if isinstance(value, dict):
            items = iter(value.items())
        elif isinstance(value, list):
            items = iter(enumerate(value))
        elif isinstance(value, float) and not math.isfinite(value):
            where = f"{label}: {path_text(path)}" if path else label
            raise SpecError(f"{where}: found {value}, expected a finite number")
        else:
            continue
        stack.extend(((*path, step), item) for step, item in items if type(item) in _INSPECTED)


class _Builder:
    """Data from YAML events, with an explicit stack in place of recursion."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.stack: list[tuple[Data | list[Any], list[str]]] = []  # container, its pending key
        self.root: Any = None
        self.has_root = False

    def error(self, event: Any, message: str) -> SpecError:
        mark = event.start_mark
        return SpecError(f"{self.label}: line {mark.line + 1}, column {mark.column + 1}: {message}")

    def open(self, event: Any, container: Data | list[Any]) -> None:
        self.refuse_tag(event)
        if len(self.stack) >= MAX_DEPTH:
            raise self.error(event, f"nested deeper than {MAX_DEPTH} levels")
        if self.stack and isinstance(self.stack[-1][0], dict) and not self.stack[-1][1]:
            raise self.error(event, f"found {found(container)} as a key, expected a field name")
        self.add(event, container)
        self.stack.append((container, []))

    def scalar(self, event: Any) -> None:
        self.refuse_tag(event)
        if self.stack and isinstance(self.stack[-1][0], dict) and not self.stack[-1][1]:
            container, pending = self.stack[-1]
            if event.value in container:
                key = path_text((event.value,))
                raise self.error(event, f"field {key!r} is given twice in one mapping")
            pending.append(event.value)
            return
        self.add(event, self.plain(event) if event.implicit[0] else event.value)

    def add(self, event: Any, value: Any) -> None:
        if not self.stack:
            if self.has_root:
                raise self.error(event, "found a second document, expected one per file")
            self.root, self.has_root = value, True
            return
        container, pending = self.stack[-1]
        if isinstance(container, dict):
            container[pending.pop()] = value
        else:
            container.append(value)

    def plain(self, event: Any) -> Any:
        text: str = event.value
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if text[0] not in "+-.0123456789" or len(text) > _MAX_DIGITS:
            return text
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _SPECIAL.fullmatch(text):
            return float(text.replace(".", ""))
        return text

    def refuse_tag(self, event: Any) -> None:
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise self.error(event, f"found the tag {shorten(event.tag)}; tags are not supported")


def _parse_yaml(text: str, label: str) -> Any:
    import yaml  # noqa: PLC0415  # JSON needs no YAML

    if len(text) > MAX_YAML_BYTES:
        megabytes = MAX_YAML_BYTES // 1_000_000
        raise SpecError(f"{label}: larger than {megabytes} MB of YAML; write it as JSON")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    build = _Builder(label)
    try:
        for event in yaml.parse(text, loader):
            match event:
                case yaml.ScalarEvent():
                    build.scalar(event)
                case yaml.MappingStartEvent():
                    build.open(event, {})
                case yaml.SequenceStartEvent():
                    build.open(event, [])
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    build.stack.pop()
                case yaml.AliasEvent():
                    raise build.error(
                        event, "aliases (*name) are not supported; write the value out"
                    )
                case _:
                    pass  # stream and document marks
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SpecError(f"{label}: {where}not valid YAML: {shorten_text(error.problem)}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{label}: not valid YAML: {shorten_text(str(error))}") from None
    return build.root


def shorten_text(text: str | None, limit: int = 200) -> str:
    """Return a message of another library on one line and of bounded length."""
    line = " ".join((text or "unknown problem").split())
    return line if len(line) <= limit else f"{line[:limit]}..."


def dump_yaml(data: Data) -> str:
    """Return a document as YAML that `parse` reads back as the same data."""
    import yaml  # noqa: PLC0415

    base = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    # Text that PyYAML (YAML 1.1) takes for a word, and `parse` for a number, must be quoted.
    dumper: Any = type("_Dumper", (base,), {})
    number = re.compile(rf"(?:{_FLOAT.pattern})\Z", re.ASCII)
    dumper.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    text: str = yaml.dump(
        data, Dumper=dumper, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True
    )
    return text
