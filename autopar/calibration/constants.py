"""Timings -> the constants of `autopar.specs.kernels`, each with its error."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autopar.calibration.cases import ARRAYS, NAMES
from autopar.calibration.collectives import fit_collective, network
from autopar.calibration.fitting import (
    DROPPED,
    Error,
    digits,
    fit_constants,
    optimizer,
    with_constants,
)
from autopar.calibration.forms import ELEMENTWISE, FORMS, Form
from autopar.calibration.rows import Rows
from autopar.calibration.timings import LeftOut, Timings
from autopar.costs.operations.assumed import ASSUMED_EXCHANGE
from autopar.costs.operations.device import Device
from autopar.specs import Gpu

ROWS_PER_CONSTANT = 2  # below, what was measured says too little
_COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter")
_SIZES_PER_GROUP = 8  # of messages, for the four constants of a collective
_US = 1e-6


@dataclass(frozen=True, slots=True)
class Fitted:
    """The constants of one section of a GPU's kernels, and how far they are from the timings.

    before: how far those of the starting GPU are; None where that was not asked.
    """

    operation: str
    name: str
    constants: dict[str, Any]
    error: Error
    kernels: str  # which ran
    before: Error | None = None

    @property
    def path(self) -> tuple[str, str]:
        """Where the constants stand in the section `kernels`."""
        if self.operation == "elementwise":
            return "elementwise", ""
        return self.operation, self.name


@dataclass(slots=True)
class Fits:
    """What could be fitted, and what could not, with the reason."""

    found: list[Fitted]
    left_out: list[LeftOut]

    def keep(self, fit: Fitted) -> None:
        """Keep a fit, unless the formula misses what was measured."""
        if fit.error.median <= DROPPED:
            self.found.append(fit)
            return
        self.drop(
            *(fit.operation, fit.name, fit.error.rows),
            f"the formula misses the timings by {fit.error.text()} (median / p90)",
        )

    def drop(self, operation: str, name: str, cases: int, reason: str) -> None:
        """Note why measured cases have no constants."""
        left = {"operation": operation, "name": name, "cases": cases, "reason": reason}
        self.left_out.append(LeftOut.model_validate(left))


def fit_all(timings: Timings, gpu: Gpu) -> Fits:
    """Return the constants of everything that was measured enough, on the peak rates of a GPU.

    Raises DeviceError without scipy.
    """
    optimizer()  # its absence is said once, before the work
    fits, device = Fits([], []), Device.of(gpu)
    for form, read in _readers():
        for name in NAMES[form.operation]:
            rows = timings.rows(form.operation, name)
            if rows is not None:
                _fit_form(fits, form, name, read(rows), _Source(timings, gpu, device))
    moved = _moved(timings)
    if moved is not None:
        source = _Source(timings, gpu, device)
        _fit_form(fits, ELEMENTWISE, NAMES["elementwise"][-1], moved, source)
    _fit_collectives(fits, timings, gpu)
    return fits


@dataclass(frozen=True, slots=True)
class _Source:
    timings: Timings
    gpu: Gpu
    device: Device

    def kernels(self, operation: str, *names: str) -> str:
        """Return the names of the kernels that ran, most frequent first."""
        ran = [
            t.kernel
            for t in self.timings.timings
            if t.operation == operation and t.name in names and t.kernel
        ]
        return ", ".join(sorted(set(ran), key=lambda kernel: (-ran.count(kernel), kernel)))


def _readers() -> Iterator[tuple[Form, Callable[[Rows], Rows]]]:
    readers = {
        "gemm": lambda rows: rows,
        "experts": _experts_rows,
        "prefill_attention": _prefill_rows,
        "decode_attention": lambda rows: rows,
    }
    for form in FORMS:
        if form.operation in readers:
            yield form, readers[form.operation]


def _experts_rows(rows: Rows) -> Rows:
    """Every expert gets as many rows as any other: `torch_timer` deals them out in turn."""
    pairs = rows.number("num_tokens") * rows.number("topk")
    size = len(rows)
    more = {"pairs": pairs, "matrices": np.full(size, 3), "even": np.full(size, True)}
    return Rows({**rows.columns, **more})


def _prefill_rows(rows: Rows) -> Rows:
    return Rows({**rows.columns, "qk_dim": rows["head_dim"], "v_dim": rows["head_dim"]})


def _moved(timings: Timings) -> Rows | None:
    """Return all kernels that only move data; `copy` may be a copy engine, which is none."""
    return timings.rows("elementwise", *(name for name in ARRAYS if name != "copy"))


def _fit_form(fits: Fits, form: Form, name: str, rows: Rows, source: _Source) -> None:
    needed = ROWS_PER_CONSTANT * len(form.start)
    operation = form.operation
    if len(rows) < needed:
        fits.drop(
            operation,
            name,
            len(rows),
            f"{len(rows)} timings are too few for a fit; expected {needed} (--seconds gives more)",
        )
        return
    if name == "fp8" and source.gpu.fp8_flops_per_s is None:
        fits.drop(operation, name, len(rows), f"{source.gpu.name} states no fp8_flops_per_s")
        return
    precision = name if operation != "elementwise" else "bf16"
    constants = fit_constants(form, rows, precision, source.device)
    device = with_constants(source.device, form, precision, constants)
    error = Error.of(form.predict(rows, precision, device), rows.number("us"))
    before = Error.of(form.predict(rows, precision, source.device), rows.number("us"))
    names = (name,) if operation != "elementwise" else NAMES[operation][1:]
    ran = source.kernels(operation, *names)
    fits.keep(Fitted(operation, name, constants, error, ran, before))


def _fit_collectives(fits: Fits, timings: Timings, gpu: Gpu) -> None:
    """Fit the three collectives, which stand in one section, and the exchange by all-to-all."""
    parts = {kind: timings.rows("collectives", kind) for kind in _COLLECTIVES}
    counts = {kind: len(rows) for kind, rows in parts.items() if rows is not None}
    if not counts:
        return
    measured = {kind: rows and _enough(rows) for kind, rows in parts.items()}
    lacking = [kind for kind, rows in measured.items() if rows is None]
    link = link_bandwidth(timings, gpu)
    reason = f"too few timings of {', '.join(lacking)}; they are fitted together"
    if link is None:
        reason = "the bandwidth of the GPU's links is not known; --link-bandwidth states it"
    elif not lacking:
        reason = _keep_collectives(fits, measured, timings)
    if reason or link is None:
        for kind, count in counts.items():
            fits.drop("collectives", kind, count, reason)
        return
    rows = timings.rows("collectives", "all_to_all")
    if rows is not None:
        fits.keep(_exchange(rows, link, gpu, timings))


def _keep_collectives(fits: Fits, parts: Mapping[str, Rows | None], timings: Timings) -> str:
    """Keep the three fits, or return why they are no good: one that misses spoils the section."""
    found = []
    for kind, rows in parts.items():
        assert rows is not None
        (constants,) = fit_collective(rows)
        fit = _collective(kind, digits_of(constants), rows, timings)
        if fit.error.median > DROPPED:
            return f"the formula misses the timings of {kind} by {fit.error.text()} (median / p90)"
        found.append(fit)
    fits.found += found
    return ""


def digits_of(constants: dict[str, Any]) -> dict[str, Any]:
    """Return constants with three digits each."""
    return {name: digits(values) for name, values in constants.items()}


def link_bandwidth(timings: Timings, gpu: Gpu) -> float | None:
    """Return the peak bandwidth of the links that collectives were measured on, if it is known."""
    if timings.link_bandwidth_bytes_per_s is not None:
        return timings.link_bandwidth_bytes_per_s
    known = None if gpu.kernels is None else gpu.kernels.collectives
    return None if known is None else known.link_bandwidth_bytes_per_s


def _enough(rows: Rows) -> Rows | None:
    """Return the rows of groups with enough messages for a fit, or None if there are none."""
    sizes, counts = np.unique(rows["gpus"], return_counts=True)
    kept = rows.where(np.isin(rows["gpus"], sizes[counts >= _SIZES_PER_GROUP]))
    return kept if len(kept) else None


def _collective(kind: str, constants: dict[str, Any], rows: Rows, timings: Timings) -> Fitted:
    """Return a fit with the error of the planner's own formula, on a network of these GPUs."""
    fits = {"link_bandwidth_bytes_per_s": 1e9, **dict.fromkeys(_COLLECTIVES, constants)}
    net = network(_BARE, {"collectives": fits}, 1.0, 2, 1024)
    found = getattr(net, f"{kind}_us")(rows.number("bytes"), rows.number("gpus"))
    error = Error.of(found, rows.number("us"))
    return Fitted("collectives", kind, constants, error, f"NCCL {timings.machine.nccl}".strip())


# Collectives do not depend on it; a network needs one.
_BARE = Gpu(schema=1, name="any", peak_flops_per_s=1.0, memory_bytes=1.0)


def _exchange(rows: Rows, link: float, gpu: Gpu, timings: Timings) -> Fitted:
    """Fit start and share of the link; between nodes, what the starting GPU has.

    A rank keeps 1/n of what it sends: `costs.operations.collectives`.
    """
    known = None if gpu.kernels is None else gpu.kernels.collectives
    fabric = ((known.exchange if known else ()) or ASSUMED_EXCHANGE)[0]
    near = rows.number("bytes") * (1.0 - 1.0 / rows.number("gpus"))
    logs = np.log(rows.number("us"))

    def time_us(x: Any) -> Any:
        return np.exp(x[0]) + near / (np.exp(x[1]) * link * _US)

    done = optimizer().least_squares(
        lambda x: np.log(time_us(x)) - logs, (2.7, -0.6), loss="soft_l1", f_scale=0.1
    )
    constants = digits_of(dict(zip(("start_us", "link_fraction"), np.exp(done.x), strict=True)))
    found = time_us(np.log([constants["start_us"], constants["link_fraction"]]))
    kept = ("fabric_fraction", "fabric_steps", "doubling_steps")
    constants |= {name: getattr(fabric, name) for name in kept} | {"sends_once": False}
    error = Error.of(found, rows.number("us"))
    return Fitted("collectives", "exchange", constants, error, f"NCCL {timings.machine.nccl}")
