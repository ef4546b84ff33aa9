"""How sure an answer is of its plan, in words: the next best layout, and errors of the costs."""

from collections.abc import Mapping, Sequence
from typing import cast

from autopar.report import words
from autopar.report.words import percent, quantity
from autopar.results import Degrees, Doubt, Measurement, Move, Robustness, RunnerUp

# Kinds of cost that a node of one's own is timed for (autopar.calibration.cases.NAMES).
_TIMED = ("gemm", "experts", "attention", "elementwise", "all_reduce", "gather", "all_to_all")

# What a lead does where one of two plans alone has such groups, or each its own.
_ON_FABRIC = (
    "hangs on collectives over the fabric that nobody measured: no error of such predictions is "
    "known that tells the two apart"
)


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


def robust_rows(found: Robustness, *, is_moe: bool) -> list[tuple[str, str, str, str]]:
    """Return kind, factors, what becomes of the plan's layout, and where the runner-up overtakes.

    Ends that are alike share a row.
    """
    rows = []
    for doubt in found.doubts:
        faster, slower = _said(doubt.faster, is_moe), _said(doubt.slower, is_moe)
        ahead = "not in the band" if doubt.overtakes is None else f"from x {doubt.overtakes:.3g} on"
        if all(move.lead is None for move in doubt.moves) and doubt.overtakes is None:
            ahead = ""  # none is named, or neither has a plan any more
        if faster == slower:
            ends = f"{_times(doubt.faster)} to {_times(doubt.slower)}"
            rows.append((doubt.kind, ends, faster, ahead))
            continue
        rows.append((doubt.kind, _times(doubt.faster), faster, ahead))
        rows.append(("", _times(doubt.slower), slower, ""))
    return rows


def robust_notes(found: Robustness, second: RunnerUp | None) -> list[str]:
    """Return what the moves of single costs come to, and which were not made.

    second: the runner-up of the plan.
    """
    notes = [_verdict(found, second)]
    if found.settles is not None:
        notes.append(_settles(found, found.settles))
    notes += [f"{kind} was not moved: {why}" for kind, why in found.skipped.items()]
    return notes


def _verdict(found: Robustness, second: RunnerUp | None) -> str:
    """Say in one sentence what single costs can do, and what the runner-up's distance is worth."""
    if found.holds:
        said = "the layout stays the best wherever one of these costs alone is in its band, proven"
    else:
        kinds = [d.kind for d in found.doubts if any(m.verdict != "stays" for m in d.moves)]
        said = f"the layout does not stay the best wherever one cost is in its band: {_and(kinds)}"
    if second is not None and second.bound is None:
        return f"{said}; no other layout satisfies the spec, so that none is to be told apart"
    if second is not None and second.over_fabric and second.lead is not None:
        return f"{said}; that it leads its runner-up by {percent(second.lead)} {_ON_FABRIC}"
    if second is None or second.within_band is None:
        return said
    band = percent(second.band or 0.0)
    ahead = f"it leads its runner-up by {percent(second.lead or 0.0)}"
    if second.within_band:
        return (
            f"{said}; {'yet' if found.holds else 'and'} {ahead}, within the error of such "
            f"predictions ({band}): several costs that are off together, which were not moved, can "
            "turn the two around, so that they are not told apart"
        )
    return f"{said}; {ahead}, more than the error of such predictions ({band})"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _settles(found: Robustness, settles: Measurement) -> str:
    """Return what to measure first, why, and how it is put in."""
    doubt = next(doubt for doubt in found.doubts if doubt.kind == settles.kind)
    put = f"--set cost_factors.{settles.kind}=MEASURED/PREDICTED"
    way = "autopar calibrate times it on your GPUs; or" if settles.kind in _TIMED else "Then:"
    measure = f"measure {settles.kind}: {'; '.join(settles.what)}."
    if settles.flip is not None and settles.part is not None:
        return (
            f"to settle it {measure} At {settles.flip:.3g} times what is predicted another layout "
            f"wins, {percent(settles.part)} of the way to {_end(doubt, settles.flip)}. {way} {put}"
        )
    return (
        f"to be surer {measure} No single cost decides, and this one takes most of the lead over "
        f"the runner-up: at x {settles.end or 1:.3g} {percent(settles.lead or 0.0)} is left. "
        f"{way} {put}"
    )


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
    if found.over_fabric:
        return f"{said}, which {_ON_FABRIC}"
    if found.band is None:
        return said
    band = percent(found.band)
    if found.within_band:
        return f"{said}, within the error of such predictions ({band}): the two are not told apart"
    return f"{said}, more than the error of such predictions ({band})"
