"""Ask how GEMMs depend on their rows: smoothly, in tiles, or by a table.

    python benchmarks/gemm_rows.py DIRECTORY [--gpu NAME]

DIRECTORY: as for fit_kernels.py. Writes results/gemm-rows.md: the constants are fitted again with
rows rounded up to whole tiles of several sizes, and with a factor for each of GEMM_ROWS as
fit_kernels.py does it. For the smooth formula the mean of measured / ours is given for each number
of rows.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from fit_kernels import SOURCES, tables_of
from kernel_report import MODELS, PACKAGE, Fit
from kernel_rows import fit_gemm
from kernel_tables import Tables
from measure import RESULTS, markdown_table
from numpy.typing import NDArray

from autopar.calibration.fitting import Error, fit_constants, with_constants
from autopar.calibration.forms import FORMS, Form, gemm
from autopar.calibration.rows import Rows
from autopar.costs.operations.device import Device
from autopar.specs import Gpu

TILES = (1, 32, 64, 128, 256)
FEW, MANY = 64, 512  # rows between which decode steps lie, and tiles could matter most
LARGE_WEIGHTS = 4_000_000  # below, GEMMs are mostly start-up
TABLES = (  # what a case of benchmarks/peer was late by; sglang's fp8 table is of two kernels
    *(("trtllm", "bf16"), ("trtllm", "fp8"), ("trtllm", "fp8_block")),
    *(("vllm", "bf16"), ("sglang", "bf16"), ("sglang", "fp8_block")),
)


def in_tiles(form: Form, tile: int) -> Form:
    """Return the formula with rows rounded up to whole tiles."""

    def predict(rows: Rows, precision: str, device: Device) -> NDArray[np.float64]:
        padded = np.ceil(rows.number("m") / tile) * tile
        return gemm(Rows({**rows.columns, "m": padded}), precision, device)

    return replace(form, predict=predict)


def fitted(form: Form, rows: Rows, precision: str, device: Device) -> NDArray[np.float64]:
    """Return what a formula says of the rows with the constants that suit it best."""
    constants = fit_constants(form, rows, precision, device)
    return form.predict(rows, precision, with_constants(device, form, precision, constants))


def main() -> int:
    """Fit, compare and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("directory", type=Path, help="unpacked systems/data")
    parser.add_argument("--gpu", choices=sorted(SOURCES), default="h200-sxm-141gb")
    options = parser.parse_args()
    source = SOURCES[options.gpu]
    document = yaml.safe_load((MODELS / f"{options.gpu}.yaml").read_text("utf-8"))
    gpu = Gpu.model_validate({**document, "kernels": None})
    fit = Fit(options.gpu, gpu, source, Tables(options.directory / source.system))
    form = next(form for form in FORMS if form.operation == "gemm")
    errors, ratios, heights = [], [], np.zeros(0)
    for framework, precision in TABLES:
        rows = tables_of(fit, form, framework, dict(source.frameworks())[framework])[precision]
        us, m = rows.number("us"), rows.number("m")
        some = (m > FEW) & (m <= MANY)
        cells = []
        for tile in TILES:
            found = fitted(in_tiles(form, tile), rows, precision, fit.device())
            cells.append(f"{Error.of(found, us).text()}; {Error.of(found[some], us[some]).text()}")
            if tile == 1:
                large = rows.number("k") * rows.number("n") >= LARGE_WEIGHTS
                heights = np.unique(m[m <= 2 * MANY])
                means = [np.exp(np.log(us / found)[large & (m == h)].mean()) for h in heights]
                ratios.append([f"{framework} {precision}", *(f"{mean:.2f}" for mean in means)])
        constants = fit_gemm(form, rows, precision, fit.device())
        device = with_constants(fit.device(), form, precision, constants)
        found = form.predict(rows, precision, device)
        cells.append(f"{Error.of(found, us).text()}; {Error.of(found[some], us[some]).text()}")
        errors.append([f"{framework} {precision}", *cells])
        print(" | ".join(errors[-1]), flush=True)
    lines = [
        "# GEMMs by their rows",
        "",
        f"`python benchmarks/gemm_rows.py DIRECTORY --gpu {options.gpu}`, with the tables of",
        f"{PACKAGE}.",
        "",
        f"Errors as in kernel-fits.md: of all rows; of those with {FEW + 1} to {MANY}.",
        "",
        *markdown_table(["table", *(f"tiles of {t}" for t in TILES), "factors by rows"], errors),
        "",
        f"Mean of measured / ours by the smooth formula, for {LARGE_WEIGHTS:,} weights and more:",
        "",
        *markdown_table(
            ["rows", *(r[0] for r in ratios)],
            list(zip([f"{h:.0f}" for h in heights], *(r[1:] for r in ratios), strict=True)),
        ),
    ]
    (RESULTS / "gemm-rows.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
