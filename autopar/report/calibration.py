"""What `autopar calibrate` would run, and what it found, as text and as JSON documents."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from autopar.calibration.calibrated import Calibration
from autopar.calibration.outline import NOT_MEASURED, Line, Outline
from autopar.report.remarks import remarks
from autopar.specs import SCHEMA_VERSION
from autopar.units import format_bytes, plural

Json = dict[str, Any]


def outline_document(found: Outline) -> Json:
    """Return what would run: `kind` calibration-plan; sizes are [least, largest]."""
    return {
        "schema": SCHEMA_VERSION,
        "kind": "calibration-plan",
        "gpu": found.gpu,
        "num_gpus": found.num_gpus,
        "timings": found.timings,
        "seconds": round(found.seconds, 1),
        "budget_s": found.budget_s,
        "memory_bytes": max((line.memory_bytes for line in found.lines), default=0.0),
        "operations": [
            {
                "operation": line.operation,
                "name": line.name,
                "timings": line.timings,
                "sizes": {name: list(ends) for name, ends in line.sizes.items()},
                "memory_bytes": line.memory_bytes,
                "seconds": round(line.seconds, 1),
            }
            for line in found.lines
        ],
        "not_measured": dict(NOT_MEASURED),
        "notes": list(found.notes),
    }


def calibration_document(found: Calibration, command: str) -> Json:
    """Return what was found: `kind` calibration; errors are of the planner's own formulas.

    before: of the constants of the starting GPU against the same timings; the ratio is the median
    of predicted over measured. command: how the new GPU is used.
    """
    timings = found.timings
    return {
        "schema": SCHEMA_VERSION,
        "kind": "calibration",
        "gpu": found.gpu.document(),
        "start": found.start,
        "machine": timings.machine.model_dump(mode="json"),
        "measured_on": timings.measured_on,
        "timings": len(timings.timings),
        "seconds": timings.seconds,
        "interrupted": timings.interrupted,
        "fits": [
            {
                "operation": fit.operation,
                "name": fit.path[1],
                "timings": fit.error.rows,
                "median_error": fit.error.median,
                "p90_error": fit.error.p90,
                "median_error_before": None if fit.before is None else fit.before.median,
                "ratio_before": None if fit.before is None else fit.before.ratio,
                "kernels": fit.kernels,
                "constants": fit.constants,
            }
            for fit in found.fits
        ],
        "left_out": [left.model_dump(mode="json") for left in found.left_out],
        "notes": list(found.notes),
        "command": command,
    }


def print_outline(console: Console, found: Outline) -> None:
    """Print what would run, a line for all that is fitted together."""
    console.print(
        f"calibrate would time {plural(found.timings, 'case')} on {found.gpu}, about "
        f"{found.seconds:.0f} s of at most {found.budget_s:.0f} s\n"
    )
    table = _table("operation", "name", "timings", "memory", "seconds")
    sizes = {}
    for line in found.lines:
        sizes[_words(line.operation)] = _sizes(line)  # alike for all names of an operation
        table.add_row(
            *(_words(line.operation), _words(line.name), f"{line.timings:,}"),
            *(format_bytes(line.memory_bytes), f"{line.seconds:.0f}"),
        )
    console.print(table)
    never = [f"{what}: {why}" for what, why in NOT_MEASURED.items()]
    said = [f"{operation}: {text}" for operation, text in sizes.items()]
    remarks(console, {"Sizes": said, "Never": never, "Note": found.notes})


def print_calibration(console: Console, found: Calibration, command: str) -> None:
    """Print each fit with its error, what was left out, and how to use the new GPU."""
    timings = found.timings
    console.print(
        f"{found.gpu.name}: {plural(len(timings.timings), 'timing')} of "
        f"{timings.machine.device_name} in {timings.seconds:.0f} s\n"
    )
    table = _table("operation", "name", "timings", "median", "p90", "before", "kernels")
    for fit in found.fits:
        before = "" if fit.before is None else f"{100 * fit.before.median:.0f} %"
        error = (f"{100 * fit.error.median:.1f} %", f"{100 * fit.error.p90:.0f} %", before)
        named = (_words(fit.operation), _words(fit.path[1]), f"{fit.error.rows:,}")
        table.add_row(*named, *error, _words(fit.kernels))
    console.print(table)
    left = [
        f"{_words(each.operation)} {_words(each.name)}: {plural(each.cases, 'case')}: {each.reason}"
        for each in found.left_out
    ]
    start = f"the constants of {found.start}" if found.start else "the H100's shares of peak"
    errors = f"median and p90 error of the new constants; before: the median error of {start}"
    items = {"Errors": [errors], "Left out": left, "Note": found.notes, "Use": [command]}
    remarks(console, items)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _sizes(line: Line) -> str:
    """Return the range of each size: `m 1 to 8,192, k 1,024 to 16,384`."""
    said = []
    for name, ends in line.sizes.items():
        least, most = (format_bytes(e) if name == "bytes" else f"{e:,}" for e in ends)
        said.append(f"{_words(name)} {least}" + (f" to {most}" if most != least else ""))
    return ", ".join(said)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=place < 2)
    return table
