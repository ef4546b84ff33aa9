"""Quantities with units: parsed from specs into SI, printed for people.

Inside the code every quantity is in the unit that ends its name (`_bytes`, `_us`, `_flops`,
`_flops_per_s`, `_bytes_per_s`). A bare number in a spec is in that unit; text may carry another
one, `80 GiB` or `10 s`. GB is 1e9 bytes, GiB is 2**30 (IEC 80000-13).
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_SI = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

BYTES: Mapping[str, float] = {
    "byte": 1.0,
    "bytes": 1.0,
    **{f"{p}B": f for p, f in (_SI | _BINARY).items()},
}
DURATION_US: Mapping[str, float] = {
    "ns": 1e-3, "us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6, "min": 60e6, "h": 3600e6,
}  # fmt: skip
FLOPS: Mapping[str, float] = {
    **{f"{p}FLOP": f for p, f in _SI.items()},
    **{f"{p}FLOPs": f for p, f in _SI.items()},
}
FLOPS_PER_S: Mapping[str, float] = {
    **{f"{p}FLOPS": f for p, f in _SI.items()},
    **{f"{p}FLOP/s": f for p, f in _SI.items()},
}
BYTES_PER_S: Mapping[str, float] = {
    **{f"{p}B/s": f for p, f in (_SI | _BINARY).items()},
    **{f"{p}bit/s": f / 8 for p, f in _SI.items()},
}
TOKENS_PER_S: Mapping[str, float] = {
    "tokens/s": 1.0, "tokens/ms": 1e3, "tokens/us": 1e6, "tokens/min": 1 / 60, "tokens/h": 1 / 3600,
}  # fmt: skip
FRACTION: Mapping[str, float] = {"%": 0.01}
COUNT: Mapping[str, float] = {p: f for p, f in (_SI | {"B": 1e9}).items() if p}

_NUMBER = re.compile(r"\s*([+-]?(?:\d[\d,_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*", re.ASCII)
_LARGEST = 1e24  # beyond every quantity of a cluster; keeps products finite in float64


def parse(value: Any, units: Mapping[str, float], what: str) -> float:
    """Return `value` in the base unit of `units`.

    Raises ValueError if the text has no number, an unknown unit, or the number is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected {what}, found {type(value).__name__}")  # noqa: TRY004
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value) if len(value) < 64 else None
        if match is None:
            raise ValueError(f"expected {what}")
        unit = match[2]
        if unit and unit not in units:
            raise ValueError(f"unknown unit {unit!r}; expected one of {', '.join(units)}")
        number = float(match[1].replace(",", "").replace("_", "")) * units.get(unit, 1.0)
    else:
        number = float(value)
    if not math.isfinite(number) or abs(number) > _LARGEST:
        raise ValueError(f"expected {what}, a finite number of at most {_LARGEST:g}")
    return number


def _parser(units: Mapping[str, float], what: str) -> Callable[[Any], float]:
    return lambda value: parse(value, units, what)


Bytes = Annotated[float, BeforeValidator(_parser(BYTES, "a size such as '80 GiB'")), Field(ge=0)]
DurationUs = Annotated[
    float, BeforeValidator(_parser(DURATION_US, "a duration such as '10 ms'")), Field(gt=0)
]
LatencyUs = Annotated[
    float, BeforeValidator(_parser(DURATION_US, "a duration such as '2 us'")), Field(ge=0)
]
Flops = Annotated[float, BeforeValidator(_parser(FLOPS, "work such as '0.5 GFLOP'")), Field(gt=0)]
FlopsPerS = Annotated[
    float, BeforeValidator(_parser(FLOPS_PER_S, "a rate such as '400 TFLOPS'")), Field(gt=0)
]
BytesPerS = Annotated[
    float, BeforeValidator(_parser(BYTES_PER_S, "a rate such as '450 GB/s'")), Field(gt=0)
]
TokensPerS = Annotated[
    float, BeforeValidator(_parser(TOKENS_PER_S, "a rate such as '100 tokens/ms'")), Field(gt=0)
]
Fraction = Annotated[
    float, BeforeValidator(_parser(FRACTION, "a fraction such as 0.6 or '60 %'")), Field(gt=0, le=1)
]
Count = Annotated[float, BeforeValidator(_parser(COUNT, "a count such as '10 B'")), Field(gt=0)]


def format_bytes(value: float) -> str:
    """Return a size in decimal units, three significant digits: 39.1 MB."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB", "PB"), 1000.0)


def format_us(value: float) -> str:
    """Return a duration in the unit that reads best: 1.60 s, 200 ms, 12.0 us."""
    return _scaled(value, ("us", "ms", "s"), 1000.0)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: 1 stage, 8 stages."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_rate(value_per_s: float, noun: str = "tokens", *, beside: float | None = None) -> str:
    """Return a rate with thousands separators, per millisecond above 1e6 per second.

    beside: another rate of the same line; both are in the unit of the smaller.
    """
    smaller = value_per_s if beside is None else min(value_per_s, beside)
    if smaller >= 1e6:
        return f"{value_per_s / 1e3:,.0f} {noun}/ms"
    return f"{value_per_s:,.0f} {noun}/s" if value_per_s >= 100 else f"{value_per_s:,.3g} {noun}/s"


def _scaled(value: float, units: tuple[str, ...], step: float) -> str:
    index = 0
    while abs(value) >= step * 0.9995 and index < len(units) - 1:
        value /= step
        index += 1
    text = f"{value:,.0f}" if abs(value) >= 99.95 or value == 0 else f"{value:#.3g}"
    return f"{text} {units[index]}"
