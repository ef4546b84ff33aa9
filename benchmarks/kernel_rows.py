"""By what measured GEMMs differ from the smooth time at each number of rows."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopar.calibration.fitting import digits, fit_constants, with_constants
from autopar.calibration.forms import Form
from autopar.calibration.rows import Rows
from autopar.costs.operations.device import Device
from autopar.specs.kernels import GEMM_ROWS

ROUNDS = 3  # of constants and factors in turn, each fitted to what the other leaves


def fit_gemm(form: Form, rows: Rows, precision: str, device: Device) -> dict[str, Any]:
    """Return constants of GEMMs, with a factor for each of GEMM_ROWS where that is nearer."""
    best = trial = fit_constants(form, rows, precision, device)
    error = _error(form, rows, precision, device, best)
    for _ in range(ROUNDS):
        factors = _factors(form, rows, precision, device, trial)
        if factors is None:
            break
        trial = fit_constants(_with_factors(form, factors), rows, precision, device)
        found = _error(form, rows, precision, device, trial)
        if found < error:
            best, error = trial, found
    return best


def _with_factors(form: Form, factors: list[float]) -> Form:
    """Return the formula with factors that are not fitted."""

    def make(x: NDArray[np.float64]) -> list[dict[str, Any]]:
        return [{**constants, "row_factors": factors} for constants in form.make(x)]

    return replace(form, make=make)


def _factors(
    form: Form, rows: Rows, precision: str, device: Device, constants: dict[str, Any]
) -> list[float] | None:
    """Return the median of measured / smooth at each of GEMM_ROWS; None where many are missing.

    Of the busy time: what is left without the start and the loop that no parallelism shortens, of
    GEMMs in which it is at least as long as these. A table that lacks some rows says nothing of
    them: they take what lies between their neighbours.
    """
    smooth = {key: value for key, value in constants.items() if key != "row_factors"}
    found_us = form.predict(rows, precision, with_constants(device, form, precision, smooth))
    fixed_us = smooth["start_us"] + smooth["inner_us"] * rows.number("k")
    busy_us = found_us - fixed_us
    is_busy = busy_us >= fixed_us
    ratio = ((rows.number("us") - fixed_us) / busy_us)[is_busy]
    m = rows.number("m")[is_busy]
    known = [height for height in GEMM_ROWS if bool((m == height).any())]
    if 2 * len(known) < len(GEMM_ROWS):
        return None
    medians = [float(np.median(ratio[m == height])) for height in known]
    return [digits(max(float(f), 0.01)) for f in np.interp(GEMM_ROWS, known, medians)]


def _error(
    form: Form, rows: Rows, precision: str, device: Device, constants: dict[str, Any]
) -> float:
    """Return the mean of |log(ours / measured)|."""
    found = form.predict(rows, precision, with_constants(device, form, precision, constants))
    return float(np.abs(np.log(found / rows.number("us"))).mean())
