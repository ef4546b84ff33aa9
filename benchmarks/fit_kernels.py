"""Fit the constants of every kernel and collective to measured tables, and say how well they fit.

    python benchmarks/fit_kernels.py DIRECTORY [--gpu NAME ...] [--operation NAME] [--write]

DIRECTORY: `systems/data` of the package aiconfigurator-core 0.12.0 (Apache-2.0), unpacked. Needs
pyarrow and scipy. --write puts the section `kernels` into models/gpus; --report writes
results/kernel-fits.md. Errors are those of the product's own formulas with the rounded constants.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from kernel_collectives import exchanges, fit_exchange, measured
from kernel_report import (
    MODELS,
    SCRIPT,
    Fit,
    Result,
    Source,
    document,
    report,
    with_rows,
    write,
)
from kernel_rows import fit_gemm
from kernel_tables import Tables
from measure import RESULTS
from numpy.typing import NDArray

from autopar.calibration.collectives import fit_collective, network
from autopar.calibration.fitting import (
    COMMON_HEAD_DIM,
    DROPPED,
    NO_ERROR,
    Error,
    digits,
    fit_constants,
    with_constants,
)
from autopar.calibration.forms import FORMS, Form, skewed_experts
from autopar.calibration.rows import Rows
from autopar.costs.operations.device import Device
from autopar.costs.operations.loads import Law
from autopar.specs import Gpu
from autopar.specs.kernels import Kernels

Floats = NDArray[np.float64]

BAD = 0.12  # median error above which another framework's table is tried
NEARLY_RANDOM = "power_law_1.01"  # the measured routing that is nearest to random
LAWS: tuple[Law, ...] = ("power_law_1.01", "power_law_1.2")
UNEVEN_ROWS = [16 * step for step in range(13)]  # half of a tile of 128 rows, and around it


SOURCES = {
    "a100-sxm-80gb": Source(
        *("a100_sxm", "1.0.0", "0.14.0", "0.5.10", "2.27.3", 300.0),
        # trtllm's table has 1.6 times the memory bandwidth.
        first={("decode_attention", "bf16"): "vllm"},
    ),
    # The only tables of several nodes are of DeepEP at an older version.
    "h100-sxm-80gb": Source("h100_sxm", links_gb_per_s=450.0, deepep="0.5.6.post2"),
    "h200-sxm-141gb": Source("h200_sxm", links_gb_per_s=450.0),
    "b200-sxm-180gb": Source(
        "b200_sxm",
        links_gb_per_s=900.0,
        # A tenth of its rows were disturbed: twice as long as those of B300, with which all others
        # of this operation agree within 3 %.
        borrowed={("experts", "nvfp4"): "b300_sxm"},
    ),
    "b300-sxm-288gb": Source("b300_sxm", links_gb_per_s=900.0),
    "gb200-186gb": Source("gb200", links_gb_per_s=900.0, gpus_per_node=4),
    "gb300-288gb": Source("gb300", links_gb_per_s=900.0, gpus_per_node=4),
    # PCIe cards: what several get at once depends on the machine, so their links decide.
    "l40s-48gb": Source("l40s"),
    "rtx-pro-6000-96gb": Source("rtx_pro_6000_server"),
}
# Whose table is the base, where not trtllm's. Its FP4 layers quantise their input in a kernel of
# their own, so that they start in 12 us; engines do it in the norm before.
FIRST = {("gemm", "nvfp4"): "vllm"}
# What one node does not show of an exchange, from the H100 tables of 2, 4 and 8 nodes.
FABRIC_OF_H100 = {
    False: {"fabric_fraction": 0.925, "fabric_steps": 1.65, "doubling_steps": 0.667},
    True: {"fabric_fraction": 0.761, "fabric_steps": 3.72, "doubling_steps": 5.46},
}


def fit_form(fit: Fit, form: Form) -> None:
    """Fit one operation in every precision that was measured."""
    versions = list(fit.source.frameworks())
    found = {framework: tables_of(fit, form, framework, version) for framework, version in versions}
    for precision in dict.fromkeys(name for tables in found.values() for name in tables):
        tried: list[Result] = []
        first = {**FIRST, **fit.source.first}.get((form.operation, precision), "trtllm")
        for framework in sorted(found, key=lambda name: name != first):
            if precision not in found[framework]:
                continue
            rows = found[framework][precision]
            constants = _constants(fit, form, precision, framework, rows)
            device = with_constants(fit.device(), form, precision, constants)
            error = Error.of(form.predict(rows, precision, device), rows.number("us"))
            tried.append(Result(form.operation, precision, framework, constants, error))
            if error.median <= BAD:
                break
        best = min(tried, key=lambda result: result.error.median)
        device = with_constants(fit.device(), form, precision, best.constants)
        for framework, tables in found.items():
            if framework != best.framework and precision in tables:
                rows = tables[precision]
                predicted = form.predict(rows, precision, device)
                best.others[framework] = Error.of(predicted, rows.number("us"))
        best.others.update(_slices(form, found[best.framework][precision], precision, device))
        if best.error.median > DROPPED:
            print(f"  {form.operation} {precision} dropped: {best.error.text()}", flush=True)
            continue
        fit.results.append(best)
        print(f"  {form.operation} {precision} {best.framework}: {best.error.text()}", flush=True)


def _constants(fit: Fit, form: Form, precision: str, framework: str, rows: Rows) -> dict[str, Any]:
    """Fit to these rows, or to those of the system that the GPU borrows from."""
    system = fit.source.borrowed.get((form.operation, precision))
    if system is not None:
        theirs = replace(fit, tables=Tables(fit.tables.folder.parent / system))
        version = dict(fit.source.frameworks())[framework]
        rows = tables_of(theirs, form, framework, version)[precision]
    fitted = fit_gemm if form.operation == "gemm" else fit_constants
    return fitted(form, rows, precision, fit.device())


def _slices(form: Form, rows: Rows, precision: str, device: Device) -> dict[str, Error]:
    """Return the errors of parts of a table that models differ by."""
    parts = {}
    if form.operation == "prefill_attention":
        parts["head 128"] = rows["qk_dim"] == COMMON_HEAD_DIM
    elif form.operation == "decode_attention":
        parts["head 128"] = rows["head_dim"] == COMMON_HEAD_DIM
    elif form.operation == "experts":
        parts["without gates"] = rows["matrices"] == 2
    found = {}
    for name, mask in parts.items():
        part = rows.where(mask)
        if len(part):
            found[name] = Error.of(form.predict(part, precision, device), part.number("us"))
    return found


def tables_of(fit: Fit, form: Form, framework: str, version: str) -> dict[str, Rows]:
    """Return what a framework measured of one operation, by precision."""
    tables = fit.tables
    if form.operation == "experts":
        even = tables.experts(framework, version, "balanced")
        return even or alone(tables.experts(framework, version, NEARLY_RANDOM))
    read = {
        "gemm": tables.gemm,
        "prefill_attention": tables.prefill,
        "latent_prefill_attention": tables.latent_prefill,
        "decode_attention": tables.decode,
        "latent_decode_attention": tables.latent_decode,
        "linear_attention": tables.linear,
    }
    return read[form.operation](framework, version)


def alone(tables: dict[str, Rows]) -> dict[str, Rows]:
    """Return the rows of a single rank, on which no rank is busier than the others."""
    found = {name: rows.where(rows["moe_ep_size"] == 1) for name, rows in tables.items()}
    return {name: rows for name, rows in found.items() if len(rows)}


def fit_uneven(fit: Fit) -> None:
    """Find by how many rows uneven groups are longer than they are, and how well laws then fit."""
    versions = dict(fit.source.frameworks())
    for result in fit.results:
        if result.operation != "experts":
            continue
        tables = {
            law: fit.tables.experts(result.framework, versions[result.framework], law)
            for law in LAWS
        }
        measured = {law: rows[result.name] for law, rows in tables.items() if result.name in rows}
        errors: dict[float, dict[str, Error]] = {}
        for uneven_rows in UNEVEN_ROWS:
            result.constants["uneven_rows"] = uneven_rows
            device = fit.device()
            errors[uneven_rows] = {
                law: Error.of(skewed_experts(rows, result.name, device, law), rows.number("us"))
                for law, rows in measured.items()
            }
        best = min(UNEVEN_ROWS, key=lambda n: sum(e.median + e.p90 for e in errors[n].values()))
        result.constants["uneven_rows"] = best
        result.others.update(errors[best])


def fit_collectives(fit: Fit) -> None:
    """Fit collectives inside a node, and exchanges also over nodes where they were measured."""
    source = fit.source
    if not source.links_gb_per_s:
        return
    parts = _collectives(fit)
    for kind, rows in parts.items():
        is_sum = kind == "all_reduce"
        origin = f"NCCL {source.nccl}"
        if is_sum:
            origin += f" or trtllm {source.trtllm}, the faster"
        for name, fitted in zip(
            (kind, f"{kind}_small"), fit_collective(rows, 1 + is_sum), strict=False
        ):
            constants = {key: digits(values) for key, values in fitted.items()}
            fit.results.append(Result("collectives", name, origin, constants, NO_ERROR))
    for part in exchanges(fit.tables, source.deepep):
        constants = fit_exchange(
            part, source.gpus_per_node, _exchange_of(fit), FABRIC_OF_H100[part.sends_once]
        )
        constants = {name: digits(value) for name, value in constants.items()}
        found = _exchange_of(fit)(constants, part.rows, source.gpus_per_node)
        error = Error.of(found, part.rows.number("us"))
        name = "normal" if part.sends_once else "low latency"
        fit.results.append(Result("exchange", name, f"DeepEP {source.deepep}", constants, error))
        print(f"  exchange {name}: {error.text()}", flush=True)
    for result in fit.results:
        if result.operation == "collectives":
            kind = result.name.removesuffix("_small")  # the faster of both ways was measured
            rows = parts[kind]
            net = network(fit.gpu, fit.section(), source.links_gb_per_s, 2, 16)
            found = getattr(net, f"{kind}_us")(rows.number("bytes"), rows.number("gpus"))
            result.error = Error.of(found, rows.number("us"))
            print(f"  {result.name}: {result.error.text()}", flush=True)


def _collectives(fit: Fit) -> dict[str, Rows]:
    """Return the measured rows of each collective."""
    parts: dict[str, Rows] = {}
    for kind in ("all_reduce", "all_gather", "reduce_scatter"):
        rows = measured(fit.tables, kind, ("trtllm", fit.source.trtllm), fit.source.nccl)
        assert rows is not None
        parts[kind] = rows
    return parts


def _exchange_of(fit: Fit) -> Callable[[dict[str, Any], Rows, int], Floats]:
    """Return a function that predicts exchanges with given constants."""

    def predict(constants: dict[str, Any], rows: Rows, gpus_per_node: int) -> Floats:
        section = fit.section()
        section["collectives"]["exchange"] = [constants]
        net = network(fit.gpu, section, fit.source.links_gb_per_s, 8, gpus_per_node)
        ranks = rows.number("nodes") * gpus_per_node
        return net.all_to_all_us(rows.number("bytes"), ranks, ranks, rows.number("copies"))

    return predict


def fit_gpu(name: str, folder: Path, operation: str | None = None) -> Fit:
    """Fit everything that was measured of one GPU, or one operation of it."""
    path = MODELS / f"{name}.yaml"
    gpu = Gpu.model_validate({**yaml.safe_load(path.read_text("utf-8")), "kernels": None})
    source = SOURCES[name]
    fit = Fit(name, gpu, source, Tables(folder / source.system))
    for form in FORMS:
        if operation in (None, form.operation):
            fit_form(fit, form)
    fit_uneven(fit)
    if operation is None:
        fit_collectives(fit)
    Kernels.model_validate(fit.section())  # what is written can be read
    return fit


def main() -> int:
    """Fit the GPUs that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("directory", type=Path, help="unpacked systems/data")
    parser.add_argument("--gpu", action="append", choices=sorted(SOURCES), help="default: all")
    parser.add_argument(
        "--operation",
        choices=[form.operation for form in FORMS],
        help="fit, write and report this one alone; what the files say of others stays",
    )
    parser.add_argument("--write", action="store_true", help="write models/gpus")
    parser.add_argument("--report", action="store_true", help="write results/kernel-fits.md")
    options = parser.parse_args()
    fits = []
    for name in options.gpu or SOURCES:
        print(name, flush=True)
        fits.append(fit_gpu(name, options.directory, options.operation))
        print(document(fits[-1]))
        if options.write:
            write(fits[-1], options.operation)
    path = RESULTS / "kernel-fits.md"
    text = report(fits, f"python {SCRIPT} DIRECTORY --write --report")
    if options.operation is not None:
        text = with_rows(path.read_text(encoding="utf-8"), text)
    print(text)
    if options.report:
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
