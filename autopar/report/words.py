"""Numbers, ranges and layouts in words: plain text, no colour, every number whole."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from autopar.problem import AnyPlan, DisaggregatedPlan, Interval, Plan, Stage, is_outside
from autopar.units import format_bytes, format_rate, format_us, plural

DEGREES = ("replicas", "pp", "tp", "cp", "attn_dp", "ep", "etp", "spread")
_STAGE_DEGREES = DEGREES[2:]
_WHOLE = {
    "tp": "TP", "pp": "PP", "cp": "CP", "attn_dp": "attention DP", "replicas": "replicas ",
}  # fmt: skip
_EXPERTS = {"ep": "EP", "etp": "ETP", "spread": "spread "}
_MAX_RUNS = 6  # longer id lists are cut, and say how long they are


def quantity(value: float | None, unit: str) -> str:
    """Return a value with its unit as people write it; "not stated" for None."""
    if value is None:
        return "not stated"
    match unit:
        case "us":
            return format_us(value)
        case "bytes":
            return format_bytes(value)
        case "tokens/s":
            return format_rate(value)
        case _:
            return f"{value:,.10g} {unit}".strip()


def interval(ends: Interval | None, unit: str) -> str:
    """Return two values with their unit, named once where both have the same: 40.5 to 61.5 ms."""
    if ends is None:
        return "no measurement like it"
    low, high = (quantity(end, unit) for end in ends)
    (number, _, low_unit), high_unit = low.rpartition(" "), high.rpartition(" ")[2]
    return f"{number if low_unit == high_unit else low} to {high}"


def around(value: float, ends: Interval | None, unit: str) -> str:
    """Return where measured values lie; as multiples of a predicted value that lies outside."""
    if ends is None or not is_outside(value, ends):
        return interval(ends, unit)
    low, high = (end / value for end in ends)
    longer = "as long" if unit == "us" else "as much"
    return f"biased: {low:.3g} to {high:.3g} times {longer}"


def percent(fraction: float) -> str:
    """Return a fraction in percent, exact zero told from a small number: 0 %, <0.01 %, 12.5 %."""
    size = abs(fraction)
    if size == 0:
        return "0 %"
    sign = "-" if fraction < 0 else ""
    if size < 1e-4:
        return f"{sign}<0.01 %"
    return f"{sign}{size * 100:,.3g} %" if size < 10 else f"{sign}{size * 100:,.0f} %"


def difference(value: float, reference: float) -> str:
    """Return how far a value lies from a reference, `+12.5 %`; empty where they are equal."""
    if abs(value - reference) <= 1e-9 * max(abs(value), abs(reference)):
        return ""
    if reference == 0:
        return f"{value - reference:+,.6g}"
    text = percent(value / reference - 1)
    return text if text.startswith("-") else f"+{text}"


def set_options(change: str) -> str:
    """Return a repair as it is typed: `--set a=1 --set b=2`, quoted where a shell needs it."""
    return " ".join(f"--set {shlex.quote(text)}" for text in change.split(" --set "))


def ranges(ids: Sequence[int]) -> str:
    """Return ids as runs, `0-63, 128-191`; a long list is cut and says how many ids it has."""
    runs = []
    for _, group in groupby(enumerate(ids), key=lambda pair: pair[1] - pair[0]):
        run = [value for _, value in group]
        runs.append(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}")
    if len(runs) > _MAX_RUNS:
        return f"{', '.join(runs[: _MAX_RUNS - 1])}, ... {runs[-1]} ({len(ids):,} in all)"
    return ", ".join(runs)


def layout(plan: AnyPlan) -> str:
    """Return the degrees in engine shorthand: TP2 x PP8 x attention DP4, experts EP4 x ETP2.

    All that are above 1, so that those before the comma multiply to the GPUs, and those of the
    experts to the GPUs of a stage; tp and pp always.
    """
    if isinstance(plan, DisaggregatedPlan):
        return " + ".join(f"{role} {layout(part)}" for role, part in plan.roles.items())
    values = {key: plan.degree(key) for key in DEGREES}
    return shorthand(values, is_moe=bool(len(plan.placement)))


def shorthand(values: Mapping[str, int | None], *, is_moe: bool) -> str:
    """Return degrees as engines write them; None where the stages differ."""
    whole, experts = _named(values, _WHOLE), _named(values, _EXPERTS)
    if not experts or not is_moe:  # a dense model's are those of attention
        return whole
    return f"{whole}, experts {experts}"


def _named(values: Mapping[str, int | None], names: Mapping[str, str]) -> str:
    texts = []
    for key, name in names.items():
        value = values[key]
        if value is None:
            texts.append(f"{name.strip()} varies")
        elif value != 1 or key in ("tp", "pp"):
            texts.append(f"{name}{value}")
    return " x ".join(texts)


def degrees(plan: AnyPlan) -> str:
    """Return every degree by its key; `varies` where the stages differ."""
    if isinstance(plan, DisaggregatedPlan):
        return "; ".join(f"{role}: {degrees(part)}" for role, part in plan.roles.items())
    values = ((key, plan.degree(key)) for key in DEGREES)
    return ", ".join(f"{key} {'varies' if value is None else value}" for key, value in values)


def batch(plan: Plan) -> str:
    """Return the batch that was found, in words; empty where the workload gives it."""
    if not plan.batch:
        return ""
    text = f"batch: {plural(plan.batch, 'sequence')} per attention group and micro-batch"
    return text if plan.chunks == 1 else f"{text}; prompts in {plan.chunks} parts"


def grid_identity(plan: Plan) -> str:
    """Return the grid identity of a stage with its numbers; empty where the stages differ."""
    sizes = {key: plan.degree(key) for key in _STAGE_DEGREES}
    if not plan.stages or None in sizes.values():
        return ""
    stage = plan.stages[0]
    left = " * ".join(f"{key} {sizes[key]}" for key in ("tp", "cp", "attn_dp"))
    right = " * ".join(f"{key} {sizes[key]}" for key in ("ep", "etp", "spread"))
    if not len(plan.placement):
        return f"{left} = {plural(stage.num_gpus, 'GPU')} per stage"
    return f"{left} = {right} = {plural(stage.num_gpus, 'GPU')} per stage"


def stage_rows(plan: Plan) -> Iterator[tuple[str, str, str, str]]:
    """Yield (stages, layers, GPUs, degrees) of the first replica; equal neighbours share a row."""
    stages = list(zip(plan.stages, plan.gpus[0] if plan.gpus else (), strict=False))

    def shape(pair: tuple[Stage, tuple[int, ...]]) -> tuple[object, ...]:
        stage, gpus = pair
        return (
            len(stage.layers),
            len(gpus),
            *(getattr(stage, key) for key in _STAGE_DEGREES),
        )

    for _, run in groupby(stages, key=shape):
        group = list(run)
        (first, first_gpus), (last, last_gpus) = group[0], group[-1]
        degrees_text = " ".join(f"{key} {getattr(first, key)}" for key in _STAGE_DEGREES)
        if len(group) == 1:
            yield str(first.index), ranges(first.layers), ranges(first_gpus), degrees_text
            continue
        yield (
            f"{first.index} to {last.index}",
            f"{len(first.layers)} each: {ranges(first.layers)} to {ranges(last.layers)}",
            f"{len(first_gpus):,} each: {ranges(first_gpus)} to {ranges(last_gpus)}",
            degrees_text,
        )
