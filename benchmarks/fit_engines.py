"""Fit what engines add to the time of their GPUs, and say what each constant is worth.

    python benchmarks/fit_engines.py TABLE.csv [--report]

TABLE.csv: measured runs, as `autopar validate --data` reads them. Needs scipy. Every set of
constants is fitted to all runs of an engine but those of one cell (source, model, GPU), and judged
by the runs that were left out. --report writes results/validation/engines.md. The constants go by
hand into models/engines, which names this script.
"""

import argparse
import importlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measure import RESULTS, describe_machine, machine
from numpy.typing import NDArray

from autopar.specs import ServingCase
from autopar.validation.bulk import read_bulk
from autopar.validation.outcomes import evaluate

Floats = NDArray[np.float64]

# A unit of each constant that a time is linear in; and the ways an engine may work.
UNITS = {"step_us": 100.0, "sequence_us": 1.0, "layer_us": 1.0, "all_reduce_us": 1.0}
WAYS: dict[str, tuple[dict[str, Any], ...]] = {
    "vllm": ({},),
    "tensorrt-llm": ({},),
    "sglang": ({}, {"prompts_first": True}),
    "tensorrt-llm-0.6": ({}, {"key_reads": 2}, {"key_reads": 4}, {"key_reads": 8}),
}
# An engine without what is fitted here; its kernels stay.
BARE: dict[str, Any] = dict.fromkeys(UNITS, 0.0) | {"key_reads": 1.0, "prompts_first": False}
# TTFT of several clients holds their queue, which is no matter of the engine.
METRICS = ("tpot_ms", "e2e_s", "ttft_ms")
MOST_CONSTANTS = 2


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of one engine under one way of working: measured, predicted, slopes by constant."""

    measured: Floats
    predicted: Floats
    slopes: dict[str, Floats]
    cells: NDArray[np.str_]

    def where(self, mask: NDArray[np.bool_]) -> "Runs":
        """Return some of the runs."""
        slopes = {name: slope[mask] for name, slope in self.slopes.items()}
        return Runs(self.measured[mask], self.predicted[mask], slopes, self.cells[mask])

    def errors(self, constants: dict[str, float]) -> Floats:
        """Return |predicted / measured - 1| with these constants."""
        moved = sum(self.slopes[name] * value for name, value in constants.items())
        errors: Floats = np.abs((self.predicted + moved) / self.measured - 1)
        return errors


def runs_of(cases: Sequence[tuple[str, ServingCase]], way: dict[str, Any]) -> Runs:
    """Predict all cases under a way of working, and with a unit of each constant on top."""
    base = _times(cases, way)
    slopes = {
        name: (_times(cases, {**way, name: unit}) - base) / unit for name, unit in UNITS.items()
    }
    outcomes = [o for o in evaluate(cases).outcomes if o.metric in METRICS]
    measured = np.array([o.measured for o in outcomes])
    return Runs(measured, base, slopes, np.array([o.cell for o in outcomes]))


def _times(cases: Sequence[tuple[str, ServingCase]], engine: dict[str, Any]) -> Floats:
    changes = {**BARE, **engine}
    found = evaluate(cases, engine=changes).outcomes
    return np.array([o.predicted for o in found if o.metric in METRICS])


def fitted(runs: Runs, names: Sequence[str]) -> dict[str, float]:
    """Return the constants of least robust error in log(predicted / measured), cells alike."""
    if not names:
        return {}
    optimize: Any = importlib.import_module("scipy.optimize")
    sizes = {cell: (runs.cells == cell).sum() for cell in np.unique(runs.cells)}
    weights = np.array([sizes[cell] ** -0.5 for cell in runs.cells])

    def misses(values: Floats) -> Floats:
        moved = sum(runs.slopes[n] * v for n, v in zip(names, values, strict=True))
        found: Floats = weights * np.log((runs.predicted + moved) / runs.measured)
        return found

    done = optimize.least_squares(
        misses, np.ones(len(names)), bounds=(0, np.inf), loss="soft_l1", f_scale=0.05
    )
    return dict(zip(names, done.x.tolist(), strict=True))


def left_out(runs: Runs, names: Sequence[str]) -> Floats:
    """Return the errors of each cell's runs with constants from all other cells."""
    errors = np.zeros(len(runs.measured))
    for cell in np.unique(runs.cells):
        held = runs.cells == cell
        constants = fitted(runs.where(~held), names) if (~held).any() else {}
        errors[held] = runs.where(held).errors(constants)
    return errors


def table(engine: str, cases: Sequence[tuple[str, ServingCase]]) -> Iterator[str]:
    """Yield the lines of an engine's table, with what errs least on left-out runs marked."""
    rows: list[tuple[float, int, str]] = []
    for way in WAYS[engine]:
        runs = runs_of(cases, way)
        for count in range(MOST_CONSTANTS + 1):
            for names in itertools.combinations(UNITS, count):
                constants = fitted(runs, names)
                own, other = runs.errors(constants), left_out(runs, names)
                said = ", ".join(
                    [f"{k}: {v}" for k, v in way.items()]
                    + [f"{name}: {value:.1f}" for name, value in constants.items()]
                )
                cells = f"| {said or 'none'} | {own.mean():.1%} | {np.median(own):.1%} "
                cells += f"| {other.mean():.1%} | {np.median(other):.1%} |"
                error = round(
                    float(other.mean() + np.median(other)), 3
                )  # less is no reason for a constant
                rows.append((error, len(way) + count, cells))
    best = min(rows)
    yield f"\n## {engine}\n"
    yield f"{len(runs.measured)} runs of {len(np.unique(runs.cells))} cells.\n"
    yield "| constants (us) | mean | median | left out: mean | left out: median | |"
    yield "|---|---:|---:|---:|---:|---|"
    yield from (f"{row[-1]} taken |" if row == best else f"{row[-1]} |" for row in rows)


def main() -> None:
    """Fit and print, or write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--report", action="store_true", help="write results/validation/engines.md")
    options = parser.parse_args()
    cases = [
        (source, case)
        for source, case in read_bulk(options.table).cases
        if isinstance(case, ServingCase)
        and case.mode in ("closed_loop", "static")
        and source != "inferencex_slo"
    ]
    lines = [
        "# What engines add to the time of their GPUs",
        f"\n{describe_machine(machine())} `python benchmarks/fit_engines.py TABLE.csv --report`.\n",
        "Errors of TPOT, of static batches and of the first token of a lone prompt, parts of",
        "the measured value. Left out: each cell (source, model, GPU) predicted with constants",
        "fitted to the others. The lowest sum of both decides, the fewest constants at a tie.",
    ]
    for engine in WAYS:
        own = [(source, case) for source, case in cases if case.engine == engine]
        lines += list(table(engine, own))
    text = "\n".join(lines) + "\n"
    if options.report:
        folder = RESULTS / "validation"
        folder.mkdir(exist_ok=True)
        (folder / "engines.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
