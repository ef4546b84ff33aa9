"""How sure an answer is of its plan, in words: the next best layout, and errors of the costs."""

from collections.abc import Mapping
from typing import cast

from autopar.report import words
from autopar.report.words import percent, quantity
from autopar.results import Degrees, Doubt, Move, Robustness, RunnerUp


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


def robust_rows(found: Robustness, *, is_moe: bool) -> list[tuple[str, str, str]]:
    """Return kind, factors and what becomes of the plan's layout, ends alike in one row."""
    rows = []
    for doubt in found.doubts:
        faster, slower = _said(doubt.faster, is_moe), _said(doubt.slower, is_moe)
        if faster == slower:
            rows.append((doubt.kind, f"{_times(doubt.faster)} to {_times(doubt.slower)}", faster))
            continue
        rows.append((doubt.kind, _times(doubt.faster), faster))
        rows.append(("", _times(doubt.slower), slower))
    return rows


def robust_notes(found: Robustness) -> list[str]:
    """Return what the moves of single costs come to, and which were not made."""
    notes = []
    if found.holds:
        notes.append("the layout stays the best wherever one of these costs is in its band")
    if found.settles is not None:
        settles = found.settles
        doubt = next(doubt for doubt in found.doubts if doubt.kind == settles.kind)
        notes.append(
            f"to settle it measure {settles.kind}: {'; '.join(settles.what)}. At "
            f"{settles.flip:.3g} times what is predicted another layout wins, "
            f"{percent(settles.part)} of the way to {_end(doubt, settles.flip)}. Then: "
            f"--set cost_factors.{settles.kind}=MEASURED/PREDICTED"
        )
    notes += [f"{kind} was not moved: {why}" for kind, why in found.skipped.items()]
    return notes


def _end(doubt: Doubt, flip: float) -> str:
    return f"the {_times(doubt.faster if flip < 1 else doubt.slower)} that is possible"


def _times(move: Move) -> str:
    return f"x {move.factor:.3g}"


def _said(move: Move, is_moe: bool) -> str:
    broken = f"; with the batch of the plan: {', '.join(move.breaks)}" if move.breaks else ""
    if move.verdict != "changes" or move.degrees is None or move.flip is None:
        return f"{move.verdict}{broken}"
    wins = f"from x {move.flip:.3g} on {layout(move.degrees, is_moe=is_moe)} wins"
    if move.regret is None:
        return f"{wins}; at {_times(move)} no batch of the plan's layout will do{broken}"
    return f"{wins}; at {_times(move)} the plan's layout loses {percent(move.regret)}{broken}"


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
