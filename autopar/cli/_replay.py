"""Solve a recorded answer's scenario again and say where the two answers differ."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from autopar.catalog import read_document
from autopar.cli._options import Query
from autopar.errors import SpecError, shorten

COMPARED = ("status", "degrees", "num_gpus", "stages", "replicas", "placement")
STATED = ("objective", "metrics", "idle_gpus")  # compared where the recorded answer has them
_OF_THE_BANDS = "bands"  # where measured values lie: fitted anew, it moves, and the answer does not
_TOLERANCE = 1e-9  # relative; another machine may round the last digits otherwise


def recorded_answer(source: str, query: Query) -> dict[str, Any]:
    """Return the recorded answer.

    Raises SpecError if it embeds no scenario, or if a SPEC is given beside it.
    """
    if query.spec is not None:
        raise SpecError("--replay: solves the scenario inside PLAN; expected no SPEC beside it")
    recorded = read_document("plan", source, catalogs=query.catalogs)
    if not isinstance(recorded.get("spec"), dict):
        raise SpecError(f"--replay: {source}: expected an answer of solve, which embeds its spec")
    return recorded


def embedded_query(recorded: Mapping[str, Any], query: Query) -> Query:
    """Return the question that the recorded answer answers."""
    return replace(query, spec=recorded["spec"])


def differences(recorded: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
    """Return one sentence per field in which two answers differ."""
    found = [_said(key, recorded.get(key), answer[key]) for key in COMPARED]
    found.extend(_apart("roles", recorded.get("roles") or {}, answer.get("roles") or {}))
    before = {o["name"]: o for o in recorded.get("objectives") or []}
    for objective in answer["objectives"]:
        name = objective["name"]
        for key in ("value", "bound"):
            old = before.get(name, {}).get(key)
            if not _same(old, objective[key]):
                found.append(f"{name} {key}: recorded {shorten(old)}, now {objective[key]!r}")
    for key in STATED:
        if recorded.get(key) is not None:
            found.extend(_apart(key, recorded[key], answer[key]))
    return [sentence for sentence in found if sentence]


def _apart(path: str, old: Any, new: Any) -> Iterator[str]:
    """Yield one sentence per stated field that differs; what is not stated is not compared."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            if key == _OF_THE_BANDS:
                continue
            yield from _apart(f"{path}.{key}", value, new.get(key))
    elif old != new and not _same(old, new):
        yield f"{path}: recorded {shorten(old)}, now {shorten(new)}"


def _said(key: str, old: Any, new: Any) -> str:
    if old == new or (not old and not new):
        return ""
    if isinstance(new, list):
        old_list = old if isinstance(old, list) else []
        if len(old_list) != len(new):
            return f"{key}: recorded {len(old_list):,} entries, now {len(new):,}"
        place = next(i for i, (a, b) in enumerate(zip(old_list, new, strict=True)) if a != b)
        return f"{key}[{place}]: differs"
    return f"{key}: recorded {old!r}, now {new!r}"


def _same(old: Any, new: Any) -> bool:
    if not (_is_number(old) and _is_number(new)):
        return False
    return bool(abs(old - new) <= _TOLERANCE * max(abs(old), abs(new)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
