"""Find the constants of a form by robust least squares, and say how well they fit."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopar.calibration.forms import FIT_TYPES, Form
from autopar.calibration.rows import Rows
from autopar.costs.operations.device import Device
from autopar.errors import DeviceError
from autopar.specs.kernels import EXPERT_ROWS

Floats = NDArray[np.float64]

MOST_ROWS = 6_000  # for a fit; errors are of all rows
DROPPED = 0.25  # median error above which a fit is worse than an assumption
NEGLIGIBLE = 1e-7  # below what any constant can be worth
COMMON_HEAD_DIM = 128  # of most models; the tables have as many rows of 64, 192 and 256
COMMON_WEIGHT = 4.0
OCTAVES = ("m", "num_tokens")  # columns that count by powers of two


@dataclass(frozen=True, slots=True)
class Error:
    """How far a formula is from a table: relative errors, and the median of ours / measured."""

    rows: int
    median: float
    p90: float
    ratio: float

    @classmethod
    def of(cls, found: Floats, measured_us: Floats) -> "Error":
        """Return the errors of predictions."""
        off = np.abs(found / measured_us - 1.0)
        middle = float(np.median(found / measured_us))
        return cls(len(off), float(np.median(off)), float(np.quantile(off, 0.9)), middle)

    def text(self) -> str:
        """Return median and p90 in percent."""
        return f"{100 * self.median:.1f} % / {100 * self.p90:.0f} %"


NO_ERROR = Error(0, 0.0, 0.0, 1.0)


def optimizer() -> Any:
    """Return `scipy.optimize`, which no other part of the package needs.

    Raises DeviceError if it is not installed.
    """
    try:
        return importlib.import_module("scipy.optimize")
    except ImportError as error:
        raise DeviceError(
            f"calibrate: cannot fit: {error}; install scipy >= 1.11, or the extra "
            "'autopar[calibrate]' with torch and scipy"
        ) from None


def fit_constants(form: Form, rows: Rows, precision: str, device: Device) -> dict[str, Any]:
    """Return the constants with the least robust error of log(ours / measured)."""
    optimize = optimizer()
    rows = _sample(rows)
    weights = _weights(rows, form.weigh)
    for name in ("head_dim", "qk_dim"):
        if name in rows.columns:
            weights = weights * np.where(rows.number(name) == COMMON_HEAD_DIM, COMMON_WEIGHT, 1.0)
    measured = np.log(rows.number("us"))

    def misses(x: Floats, which: int) -> Floats:
        trial = with_constants(device, form, precision, form.make(x)[which])
        misses_by: Floats = np.log(form.predict(rows, precision, trial)) - measured
        return weights * misses_by

    best: tuple[float, dict[str, Any]] | None = None
    for which in range(len(form.make(np.array(form.start)))):
        done = optimize.least_squares(
            misses,
            form.start,
            bounds=(form.low, form.high),
            args=(which,),
            loss="soft_l1",
            f_scale=0.1,
            max_nfev=60,
        )
        if best is None or done.cost < best[0]:
            best = done.cost, form.make(done.x)[which]
    assert best is not None
    return rounded(best[1])


def with_constants(device: Device, form: Form, name: str, constants: dict[str, Any]) -> Device:
    """Return the device with other constants of one operation, not validated."""
    fit = FIT_TYPES[form.operation].model_construct(**constants)
    section: Any = fit
    if form.operation != "elementwise":  # which is not told apart by precision
        section = {**getattr(device.kernels, form.operation), name: fit}
    return replace(device, kernels=device.kernels.model_copy(update={form.operation: section}))


def rounded(constants: dict[str, Any]) -> dict[str, Any]:
    """Return constants with three digits that the spec accepts."""
    values = {name: digits(value) for name, value in constants.items()}
    passes = values.get("weight_passes")
    if passes is not None:  # rounding may not break what makes time grow
        for i in range(1, len(passes)):
            most = passes[i - 1] * EXPERT_ROWS[i] / EXPERT_ROWS[i - 1]
            passes[i] = min(max(passes[i], passes[i - 1]), most)
    return values


def digits(value: Any) -> Any:
    """Return a number, or a list of them, with three digits; integers as they are."""
    if isinstance(value, list):
        return [digits(each) for each in value]
    if isinstance(value, int):
        return value
    return 0.0 if abs(value) < NEGLIGIBLE else float(f"{value:.3g}")


def _sample(rows: Rows) -> Rows:
    if len(rows) <= MOST_ROWS:
        return rows
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[np.random.default_rng(1).choice(len(rows), MOST_ROWS, replace=False)] = True
    return rows.where(chosen)


def _weights(rows: Rows, names: Sequence[str]) -> Floats:
    """Return weights under which every combination of these columns counts as much."""
    keys = np.zeros(len(rows), dtype=np.int64)
    for name in names:
        column = rows.number(name)
        values, index = np.unique(
            np.floor(np.log2(column)) if name in OCTAVES else column, return_inverse=True
        )
        keys = keys * len(values) + index
    _, index, counts = np.unique(keys, return_inverse=True, return_counts=True)
    weights = 1.0 / np.sqrt(counts[index])
    scaled: Floats = weights / np.sqrt(np.mean(weights**2))
    return scaled
