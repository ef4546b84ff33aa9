"""How sure an answer is of its plan, in words: the next best layout, and errors of the costs."""

from collections.abc import Mapping
from typing import cast

from autopar.report import words
from autopar.report.words import percent, quantity
from autopar.results import Degrees, RunnerUp


def runner_up(found: RunnerUp, *, is_moe: bool) -> str:
    """Return which layout comes next to the plan, by how much, and whether that is sure."""
    if found.bound is None:
        return "none: no other layout satisfies the spec"
    bound = quantity(found.bound, found.unit)
    if found.degrees is None or found.value is None:
        return f"no other layout beats {bound}, proven{_lead(found, 'at least ')}"
    said = f"{layout(found.degrees, is_moe=is_moe)}: {quantity(found.value, found.unit)}"
    if found.value != found.bound:
        return f"{said}, found; no other layout beats {bound}, proven{_lead(found, '')}"
    if found.lead:
        return f"{said}{_lead(found, '')}"
    if found.decides is None:
        return f"{said}; as good as the plan in every objective"
    return f"{said}, as much as the plan; {found.decides} decides"


def layout(degrees: Degrees | Mapping[str, Degrees], *, is_moe: bool) -> str:
    """Return the degrees of a layout, or of both roles, as engines write them."""
    roles = {key: value for key, value in degrees.items() if isinstance(value, dict)}
    if not roles:
        return words.shorthand(cast("Degrees", degrees), is_moe=is_moe)
    return " + ".join(
        f"{role} {words.shorthand(own, is_moe=is_moe)}" for role, own in roles.items()
    )


def _lead(found: RunnerUp, least: str) -> str:
    """Return by how much the plan leads, and whether predictions are sure enough to say so."""
    if found.lead is None:
        return ""
    said = f"; the plan leads by {least}{percent(found.lead)}"
    if found.band is None:
        return said
    band = percent(found.band)
    if found.within_band:
        return f"{said}, within the error of such predictions ({band}): the two are not told apart"
    return f"{said}, more than the error of such predictions ({band})"
