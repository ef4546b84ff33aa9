"""Fit the kernels in which an engine differs from those that the GPUs' constants are of.

    python benchmarks/fit_engine_kernels.py DIRECTORY [--write]

DIRECTORY: as for fit_kernels.py, whose constants are TensorRT-LLM's. Where these miss the table of
another framework by more than 12 % in the median, and a fit to that table by less, the engine gets
constants of its own: the section `kernels` at the end of models/engines/*.yaml, by GPU. GEMMs
are left out: the tables of other frameworks time kernels that find scales with them.
"""

import argparse
import sys
from pathlib import Path

import yaml
from fit_kernels import BAD, SOURCES, fit_uneven, tables_of
from kernel_report import MODELS, PACKAGE, Fit, Result
from kernel_tables import Tables

from autopar.calibration.fitting import Error, fit_constants, with_constants
from autopar.calibration.forms import FORMS, Form
from autopar.calibration.written import flow
from autopar.costs.operations.device import Device
from autopar.specs import Gpu
from autopar.specs.kernels import Kernels

ENGINES = MODELS.parent / "engines"
SCRIPT = "benchmarks/fit_engine_kernels.py"
FRAMEWORKS = ("vllm", "sglang")
OPERATIONS = ("experts", "prefill_attention", "decode_attention")


def fit_engine(framework: str, gpu_name: str, folder: Path) -> Fit:
    """Return the constants in which a framework differs on one GPU."""
    gpu = Gpu.model_validate(yaml.safe_load((MODELS / f"{gpu_name}.yaml").read_text("utf-8")))
    source = SOURCES[gpu_name]
    version = dict(source.frameworks())[framework]
    fit = Fit(gpu_name, gpu, source, Tables(folder / source.system))
    for form in (form for form in FORMS if form.operation in OPERATIONS):
        for precision, rows in tables_of(fit, form, framework, version).items():
            found = _fitted(fit, Device.of(gpu), form, precision, framework)
            if found is not None and len(rows):
                fit.results.append(found)
    fit_uneven(fit)
    return fit


def _fitted(fit: Fit, device: Device, form: Form, precision: str, framework: str) -> Result | None:
    """Fit one operation to a framework's table; None where the GPU's own constants do as well."""
    version = dict(fit.source.frameworks())[framework]
    rows = tables_of(fit, form, framework, version)[precision]
    measured_us = rows.number("us")
    before = Error.of(form.predict(rows, precision, device), measured_us)
    if before.median <= BAD:
        return None
    constants = fit_constants(form, rows, precision, device)
    after = Error.of(
        form.predict(rows, precision, with_constants(device, form, precision, constants)),
        measured_us,
    )
    print(f"  {form.operation} {precision}: {before.text()} ({before.ratio:.2f}) -> {after.text()}")
    if after.median > BAD:
        return None
    return Result(form.operation, precision, framework, constants, after)


def lines(fits: list[Fit], framework: str) -> list[str]:
    """Return the section of an engine."""
    found = [
        f"# fitted: {SCRIPT}, to tables of {PACKAGE}; median and p90 error per line",
        "kernels:",
    ]
    for fit in fits:
        if not fit.results:
            continue
        version = dict(fit.source.frameworks())[framework]
        found.append(f"  {fit.name}:  # {framework} {version}")
        for operation in OPERATIONS:
            own = [result for result in fit.results if result.operation == operation]
            if own:
                found.append(f"    {operation}:")
            for result in own:
                found.append(f"      # {result.error.text()}")
                found.append(f"      {result.name}: {flow(result.constants)}")
    return found


def main() -> int:
    """Fit all engines, and print or write their sections."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("directory", type=Path, help="unpacked systems/data")
    parser.add_argument("--write", action="store_true", help="write models/engines")
    options = parser.parse_args()
    for framework in FRAMEWORKS:
        fits = []
        for name in SOURCES:
            print(f"{framework} on {name}", flush=True)
            fits.append(fit_engine(framework, name, options.directory))
            Kernels.model_validate(fits[-1].section())
        section = "\n".join(lines(fits, framework)) + "\n"
        print(section)
        if options.write:
            path = ENGINES / f"{framework}.yaml"
            kept = path.read_text("utf-8").split(f"# fitted: {SCRIPT}")[0]
            path.write_text(kept.rstrip() + "\n" + section, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
