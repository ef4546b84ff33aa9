"""Pydantic's findings -> one line: where, what was found, what was expected, what to do."""

import re
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from autopar.documents import found, path_text, shorten_text
from autopar.errors import SpecError, suggest

Path = tuple[str | int, ...]


class Shape(NamedTuple):
    """What may stand at one place: the fields of a mapping, the element of a list, or neither."""

    fields: Mapping[str, Any] | None  # name in the file -> annotation
    element: Any  # annotation of a list's elements, None where it is no list

    @property
    def is_leaf(self) -> bool:
        """Whether nothing stands below this place."""
        return self.fields is None and self.element is None


def shape_of(annotation: Any) -> Shape:
    """Return what an annotation allows below it, looking through Optional and Annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return shape_of(get_args(annotation)[0])
    if origin in (Union, UnionType):
        shapes = [shape_of(a) for a in get_args(annotation) if a is not NoneType]
        return next((s for s in shapes if not s.is_leaf), Shape(None, None))
    if origin in (tuple, list):
        return Shape(None, get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        return Shape({f.alias or name: f.annotation for name, f in fields.items()}, None)
    return Shape(None, None)


def shape_at(model: type[BaseModel], path: Sequence[str | int]) -> Shape:
    """Return what may stand at `path` inside a document of `model`."""
    shape = shape_of(model)
    for step in path:
        if isinstance(step, int):
            shape = shape_of(shape.element)
        elif shape.fields is None or step not in shape.fields:
            return Shape(None, None)
        else:
            shape = shape_of(shape.fields[step])
    return shape


def unknown_field(field: str, known: Sequence[str]) -> str:
    """Return the sentence for a field that does not exist: the nearest one, or all of them."""
    near = suggest(field, known)
    if near:
        return f"unknown field{near}"
    return f"unknown field; expected one of {', '.join(known)}" if known else "unknown field"


def spec_error(
    error: ValidationError,
    model: type[BaseModel],
    data: Mapping[str, Any],
    where: Callable[[Path], str],
    where_rule: Callable[[Path], str] | None = None,
) -> SpecError:
    """Return the error that says the first problem in full, and how many more there are.

    where: gives the file, or the `--set`, that a path of `data` comes from.
    where_rule: the same for fields that do not fit together; `path` is that of their mapping.
    """
    problems: dict[Path, list[str]] = {}
    together: dict[Path, bool] = {}
    details = error.errors(include_url=False, include_context=True)
    # A misspelt field is also a missing one; the misspelling is what to say first.
    for detail in sorted(details, key=lambda d: d["type"] != "extra_forbidden"):
        path, value = _path_in(data, detail["loc"], missing=detail["type"] == "missing")
        sentence = _sentence(detail, model, path, value)
        said = problems.setdefault(path, [])
        together.setdefault(path, detail["type"] == "value_error" and isinstance(value, dict))
        if sentence not in said:
            said.append(sentence)
    path, sentences = next(iter(problems.items()))
    label = (where_rule or where)(path) if together[path] else where(path)
    place = f"{label}: {path_text(path)}" if path else label
    more = len(problems) - 1
    tail = f" (and {more:,} more problem{'s' if more > 1 else ''})" if more else ""
    return SpecError(f"{place}: {_joined(sentences)}{tail}")


def _joined(sentences: Sequence[str]) -> str:
    """Join what the members of a union expected: `found X, expected A or B`."""
    head, mark, _ = sentences[0].partition(", expected ")
    same = [s for s in sentences if s.startswith(head + mark)]
    return f"{head}{mark}" + " or ".join(s[len(head + mark) :] for s in same)


def _path_in(data: Any, loc: tuple[str | int, ...], *, missing: bool) -> tuple[Path, Any]:
    """Return the steps of `loc` that exist in the data; pydantic adds names of union members."""
    path: list[str | int] = []
    value = data
    for position, step in enumerate(loc):
        last = position == len(loc) - 1
        if (
            isinstance(value, dict)
            and isinstance(step, str)
            and (step in value or (missing and last))
        ):
            path.append(step)
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            path.append(step)
            value = value[step]
    return tuple(path), value


def _sentence(detail: Any, model: type[BaseModel], path: Path, value: Any) -> str:
    kind, message = detail["type"], str(detail["msg"])
    if kind == "extra_forbidden":
        return unknown_field(str(path[-1]), list(shape_at(model, path[:-1]).fields or ()))
    if kind == "missing":
        return "found nothing, expected a value: the field is required"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        fields = list(shape_at(model, path).fields or ())
        return f"found {found(value)}, expected a mapping{_of_fields(fields)}"
    if kind in ("value_error", "assertion_error"):
        own = shorten_text(message.partition(", ")[2], 300)
        if isinstance(value, dict | list) or own.startswith(("found", "schema")):
            return own
        glue = "," if own.startswith("expected") else ":"
        return f"found {found(value)}{glue} {own}"
    wanted = re.sub(r"^\w+ should ", "", shorten_text(message))
    wanted = re.sub(r"^be ", "", re.sub(r"^have ", "", wanted))
    near = suggest(value, re.findall(r"'([^']+)'", wanted)) if isinstance(value, str) else ""
    near = near if kind == "literal_error" else ""
    return f"found {found(value)}, expected {_plain(kind, wanted)}{near}"


def _plain(kind: str, wanted: str) -> str:
    """Say an expectation in the words of a file, not of Python."""
    if kind == "string_pattern_mismatch":
        return "a name: letters, digits and . _ + - after a first letter or digit"
    if kind in ("tuple_type", "list_type"):
        return "a list"
    if kind == "string_type":
        return "text"
    if kind.startswith(("greater_than", "less_than")):
        return f"a number {wanted}"
    return wanted.replace("a valid integer", "an integer").replace("a valid ", "a ")


def _of_fields(fields: Sequence[str]) -> str:
    return f" with fields such as {', '.join(fields[:4])}" if fields else ""
