"""Timings and a GPU to start from -> the GPU as it was measured, and its file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autopar import documents
from autopar.calibration.cases import NAMES
from autopar.calibration.constants import Fits, Fitted, fit_all, link_bandwidth
from autopar.calibration.fitting import digits
from autopar.calibration.matching import memory_note
from autopar.calibration.timings import LeftOut, Timings
from autopar.calibration.written import gpu_text
from autopar.errors import SpecError, VerificationError, shorten
from autopar.spec_errors import spec_error
from autopar.specs import Gpu
from autopar.specs.base import Name
from autopar.specs.kernels import CollectivesFit, Kernels

UNSTEADY = 0.1  # spread of the runs of one case that a reader should know of
DRIFT = 0.05  # between the fastest and the slowest time of the reference
_LARGE_BYTES = 64e6  # of a kernel that moves data: beyond what its start costs
_BENDS = ("bend_us", "bend_bytes")


@dataclass(frozen=True, slots=True)
class Calibration:
    """A measured GPU: its spec as read back from `text`, and how it came about.

    start: the GPU that gives what was not measured, if there is one.
    """

    gpu: Gpu
    text: str
    start: str | None
    timings: Timings
    fits: tuple[Fitted, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


def calibrate(timings: Timings, start: Gpu | None, name: str | None = None) -> Calibration:
    """Fit what was measured, and lay it over the GPU to start from.

    start: None for a device that the catalogue does not have; its peaks are then the most that was
    measured. Raises SpecError if there is nothing to fit, and DeviceError without scipy.
    """
    base = _peaks(timings) if start is None else start
    fits = fit_all(timings, base)
    if not fits.found:
        raise SpecError(_nothing(fits, timings))
    head = _head(timings, base, start, fits.found, name or _default_name(timings, start))
    kernels = _kernels(timings, base, fits.found)
    kernels = {"note": _note(timings, start, fits.found, head["name"]), **kernels}
    text = gpu_text(head, kernels, _comments(timings, start, fits.found, kernels))
    return Calibration(
        gpu=_read_back(text),
        text=text,
        start=None if start is None else start.name,
        timings=timings,
        fits=tuple(fits.found),
        left_out=(*timings.left_out, *fits.left_out),
        notes=tuple(_notes(timings, base, start)),
    )


def check_name(name: str, place: str) -> None:
    """Raise SpecError for what is no name of a document."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise SpecError(
            f"{place}: found {shorten(name)}, expected a name: letters, digits and . _ + - after a "
            "first letter or digit"
        ) from None


def _nothing(fits: Fits, timings: Timings) -> str:
    if not fits.left_out:
        return f"calibrate: {len(timings.timings)} timings, none that a fit is made from"
    first = fits.left_out[0]
    return f"calibrate: nothing could be fitted: {first.operation} {first.name}: {first.reason}"


def _default_name(timings: Timings, start: Gpu | None) -> str:
    if start is not None:
        return f"{start.name}-measured"[:120]
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in timings.machine.device_name)
    return "-".join([*words.lower().split(), "measured"])[:120]


def _peaks(timings: Timings) -> Gpu:
    """Return a GPU of the highest rates that were measured.

    Raises SpecError if arithmetic or memory was not measured.
    """
    gemm = [timings.rows("gemm", name) for name in NAMES["gemm"]]
    rates = [
        None if rows is None else max(2.0 * rows["m"] * rows["k"] * rows["n"] / rows["us"]) * 1e6
        for rows in gemm
    ]
    moved = timings.rows("elementwise", *NAMES["elementwise"])
    large = None if moved is None else moved.where(moved["bytes"] >= _LARGE_BYTES)
    if rates[0] is None or large is None or not len(large):
        lacking = "gemm bf16" if rates[0] is None else "elementwise of 64 MB and more"
        raise SpecError(
            f"calibrate: {timings.machine.device_name!r} is no GPU of the catalogue, and its peak "
            f"rates cannot be measured without {lacking}; --gpu NAME starts from one "
            "(autopar catalog gpus lists them)"
        )
    return Gpu(
        schema=1,
        name=_default_name(timings, None),
        peak_flops_per_s=digits(float(rates[0])),
        fp8_flops_per_s=None if rates[1] is None else digits(float(rates[1])),
        memory_bytes=timings.machine.memory_bytes,
        memory_bandwidth_bytes_per_s=digits(float(max(large["bytes"] / large["us"])) * 1e6),
    )


def _head(
    timings: Timings, base: Gpu, start: Gpu | None, found: Sequence[Fitted], name: str
) -> dict[str, Any]:
    """Return the fields of the GPU's file before its kernels."""
    machine = timings.machine
    data = base.document()
    measured = f"kernels ({_listed(found)}): measured on {_machine_text(timings)}, by autopar"
    measured += f" calibrate {timings.autopar}".rstrip()
    if start is None:
        rest = "peak rates: the most that was measured, not those of a datasheet; kernels that "
        rest += "were not measured: assumed, the H100's share of each peak"
    elif start.kernels is None:
        rest = f"all but kernels: {start.name}; kernels that were not measured: assumed, the H100's"
        rest += " share of each peak"
    else:
        rest = f"all but kernels, and kernels that were not measured: {start.name}"
    sources = [*data.get("sources", ()), measured, rest]
    dropped = ("schema", "kind", "name", "description", "sources", "kernels")
    return {
        "name": name,
        "description": f"{machine.device_name} as autopar calibrate measured it.",
        "sources": sources,
        **{k: v for k, v in data.items() if k not in dropped and (k, v) != ("assumptions", [])},
    }


def _machine_text(timings: Timings) -> str:
    machine = timings.machine
    versions = [
        f"{what} {version}"
        for what, version in (
            *(("driver", machine.driver), ("CUDA", machine.cuda)),
            *(("torch", machine.torch), ("NCCL", machine.nccl)),
        )
        if version
    ]
    inside = f" ({', '.join(versions)})" if versions else ""
    return f"{machine.device_name}{inside} on {timings.measured_on}"


def _listed(found: Sequence[Fitted]) -> str:
    """Return what was measured: `gemm bf16 and fp8, elementwise`."""
    by_operation: dict[str, list[str]] = {}
    for fit in found:
        names = by_operation.setdefault(fit.operation, [])
        if fit.path[1]:
            names.append(fit.name)
    words = {key: " and ".join(names) for key, names in by_operation.items()}
    return ", ".join(f"{key} {text}".strip().replace("_", " ") for key, text in words.items())


def _note(timings: Timings, start: Gpu | None, found: Sequence[Fitted], name: str) -> str:
    """Return the sentence that every answer of the planner shows."""
    note = f"kernels of {name}: measured on {timings.measured_on}: {_listed(found)}; the others "
    if start is None or start.kernels is None:
        return note + "are assumed"
    kept = f" ({start.kernels.note})" if start.kernels.note else ""
    return f"{note}are those of {start.name}{kept}"


def _kernels(timings: Timings, base: Gpu, found: Sequence[Fitted]) -> dict[str, Any]:
    """Return the section `kernels`: of the base, with the fitted constants over it."""
    own: dict[str, Any] = {}
    if base.kernels is not None:
        own = base.kernels.model_dump(mode="json", exclude_none=True, exclude={"note"})
    for fit in found:
        operation, name = fit.path
        if operation == "elementwise":
            own[operation] = fit.constants
        elif operation != "collectives":
            section = own.setdefault(operation, {})
            # Routing was even: what uneven rows cost is not measured.
            uneven = section.get(name, {}).get("uneven_rows")
            kept = {} if uneven is None else {"uneven_rows": uneven}
            section[name] = fit.constants | kept
    measured = {fit.name: fit.constants for fit in found if fit.operation == "collectives"}
    if measured:
        link = link_bandwidth(timings, base)
        assert link is not None
        known = None if base.kernels is None else base.kernels.collectives
        own["collectives"] = _collectives(measured, known, link)
    return {key: own[key] for key in Kernels.model_fields if own.get(key)}


def _collectives(
    measured: dict[str, Any], known: CollectivesFit | None, link: float
) -> dict[str, Any]:
    """Return measured collectives; on links alike, also groups that are too large for this machine.

    An engine's kernel for small messages stays, and so do its exchanges, beside NCCL's: the planner
    takes the fastest way, and engines bring their own.
    """
    section: dict[str, Any] = {"link_bandwidth_bytes_per_s": link}
    kept = {} if known is None else known.model_dump(mode="json", exclude_none=True)
    ways = [*kept.pop("exchange", ()), *(measured[key] for key in ("exchange",) if key in measured)]
    if kept.pop("link_bandwidth_bytes_per_s", None) != link:
        kept = {}
    for key in CollectivesFit.model_fields:
        if key in measured and key != "exchange":
            section[key] = _with_larger_groups(measured[key], kept.get(key))
        elif key in kept:
            section[key] = kept[key]
    return section | ({"exchange": ways} if ways else {})


def _with_larger_groups(fit: dict[str, Any], known: dict[str, Any] | None) -> dict[str, Any]:
    """Return a fit with the groups that only the other has."""
    if known is None:
        return fit
    more = [i for i, gpus in enumerate(known["gpus"]) if gpus > max(fit["gpus"])]
    merged = {}
    for key, values in fit.items():
        none = [0.0 if key == "bend_us" else 1e12] * len(known["gpus"])
        theirs = (known.get(key) or none) if key in _BENDS else known[key]
        merged[key] = [*values, *(theirs[i] for i in more)]
    return merged


def _comments(
    timings: Timings, start: Gpu | None, found: Sequence[Fitted], kernels: dict[str, Any]
) -> dict[tuple[str, str], str]:
    """Return what the file says of each line."""
    fitted = f"fitted: autopar calibrate, to {_machine_text(timings)}"
    comments = {("", ""): f"{fitted}; median and p90 error per line"}
    for fit in found:
        kernel = f"{fit.kernels}, " if fit.kernels else ""
        comments[fit.path] = f"{kernel}{fit.error.rows} timings: {fit.error.text()}"
        if fit.name == "exchange" and len(kernels["collectives"]["exchange"]) > 1:
            comments[fit.path] = f"the last: {comments[fit.path]}; the others: of "
            comments[fit.path] += start.name if start else ""
        larger = _larger_groups(fit, kernels)
        if larger:
            comments[fit.path] += f"; {larger} GPUs: of {start.name if start else ''}"
    for operation, section in kernels.items():
        names = [""] if operation == "elementwise" else section
        for name in names if operation != "note" else ():
            if name != "link_bandwidth_bytes_per_s" and start is not None:
                comments.setdefault((operation, name), f"of {start.name}, not measured here")
    return comments


def _larger_groups(fit: Fitted, kernels: dict[str, Any]) -> str:
    if fit.operation != "collectives" or fit.name == "exchange":
        return ""
    more = kernels["collectives"][fit.name]["gpus"][len(fit.constants["gpus"]) :]
    return ", ".join(map(str, more))


def _read_back(text: str) -> Gpu:
    """Return the GPU that a file describes; what is written must be what can be read."""
    data = documents.parse(text, "gpu.yaml")
    try:
        return Gpu.model_validate(data)
    except ValidationError as error:
        found = spec_error(error, Gpu, data, lambda _: "calibrate: the new GPU")
        raise VerificationError(str(found)) from None


def _notes(timings: Timings, base: Gpu, start: Gpu | None) -> list[str]:
    """Return what a reader of the constants should know."""
    notes = []
    if start is None:
        notes.append(
            f"{timings.machine.device_name} is no GPU of the catalogue: its peak rates are the "
            "most that was measured; --gpu NAME starts from one"
        )
    elif memory_note(base, timings.machine):
        notes.append(memory_note(base, timings.machine))
    times = timings.reference_us
    if len(times) > 1 and max(times) / min(times) > 1 + DRIFT:
        notes.append(
            f"the clocks moved: one product took {times[0]:.0f} us at first and "
            f"{max(times):.0f} us at most; heat or a power limit slows the GPU"
        )
    unsteady = sum(timed.spread > UNSTEADY for timed in timings.timings)
    if unsteady:
        notes.append(
            f"{unsteady:,} of {len(timings.timings):,} timings spread by more than "
            f"{100 * UNSTEADY:.0f} %: is something else running?"
        )
    if timings.interrupted:
        notes.append("interrupted: fitted to what was timed until then")
    return notes
