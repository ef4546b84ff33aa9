"""`--set path=value`: change any field of a resolved document, checked against its schema."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from autopar.documents import Data, parse_value, path_text
from autopar.errors import SpecError, shorten, suggest
from autopar.spec_errors import Path, Shape, shape_of, unknown_field


def apply(
    document: Data,
    texts: Sequence[str],
    model: type[BaseModel],
    options: Mapping[str, str] | None = None,
) -> dict[Path, str]:
    """Change `document` in place; return what set which path: `--set`, or another option.

    options: text -> the option that stands for it, as `--coverage` does.
    A path is field names and list places joined by dots, `rules.0.because` or `rules[0].because`;
    an element of a list may go by its `name`. `=null` unsets a field or removes an element; the
    place after the last element appends.
    Raises SpecError for a path that the schema does not know or a value that is not YAML.
    """
    origins: dict[Path, str] = {}
    for text in texts:
        name, equals, value_text = text.partition("=")
        option = (options or {}).get(text)
        label = option or f"--set {name.strip() if len(name) <= 80 else name[:80] + '...'}"
        if not equals or not name.strip():
            raise SpecError(
                f"--set: found {shorten(text)}, expected path=value such as "
                "requirements.coverage=every_gpu"
            )
        value = parse_value(value_text.strip(), label)
        path = _assign(document, _steps(name), value, model, label)
        origins[path] = option or "--set"
    return origins


def _steps(name: str) -> list[str]:
    return [step.strip() for step in name.replace("[", ".").replace("]", "").split(".")]


def _assign(
    document: Data, steps: Sequence[str], value: Any, model: type[BaseModel], label: str
) -> Path:
    shape = shape_of(model)
    target: Any = document
    path: list[str | int] = []
    for position, step in enumerate(steps):
        last = position == len(steps) - 1
        below, place = _step_into(shape, target, step, tuple(path), label)
        path.append(place)
        if last:
            _put(target, place, value)
            break
        if below.is_leaf:
            where = path_text(tuple(path))
            raise SpecError(
                f"{label}: {where} is a single value, it has no field {shorten(steps[-1])}"
            )
        existing = _get(target, place)
        if not isinstance(existing, dict | list):
            existing = {} if below.fields is not None else []
            _put(target, place, existing)
        target, shape = existing, below
    return tuple(path)


def _step_into(
    shape: Shape, target: Any, step: str, path: Path, label: str
) -> tuple[Shape, str | int]:
    if shape.fields is not None:
        if step not in shape.fields:
            inside = f" in {path_text(path)}" if path else ""
            raise SpecError(
                f"{label}: {shorten(step)}{inside}: {unknown_field(step, list(shape.fields))}"
            )
        return shape_of(shape.fields[step]), step
    names = [e.get("name") for e in target if isinstance(e, dict)]
    size = len(target)
    if step.isdecimal() and len(step) < 10 and int(step) <= size:
        return shape_of(shape.element), int(step)
    if step in names:
        return shape_of(shape.element), names.index(step)
    near = suggest(step, [n for n in names if isinstance(n, str)])
    raise SpecError(
        f"{label}: {path_text(path)} has {size} elements; found {shorten(step)}, expected a place "
        f"from 0 to {size}{' or a name' if names else ''}{near}"
    )


def _get(target: Any, place: str | int) -> Any:
    if isinstance(target, dict):
        return target.get(str(place))
    return target[place] if isinstance(place, int) and place < len(target) else None


def _put(target: Any, place: str | int, value: Any) -> None:
    if isinstance(target, dict):
        if value is None:
            target.pop(str(place), None)
        else:
            target[str(place)] = value
    elif isinstance(place, int):
        if value is None:
            del target[place : place + 1]
        elif place == len(target):
            target.append(value)
        else:
            target[place] = value
