"""What a fit of one GPU found, and how it is written down."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernel_tables import Tables

from autopar.calibration.fitting import Error
from autopar.calibration.forms import FIT_TYPES
from autopar.calibration.written import flow
from autopar.costs.operations.device import Device
from autopar.specs import Gpu
from autopar.specs.kernels import Kernels

MODELS = Path(__file__).parents[1] / "models" / "gpus"
SCRIPT = "benchmarks/fit_kernels.py"
PACKAGE = "aiconfigurator-core 0.12.0 (Apache-2.0)"


@dataclass(frozen=True, slots=True)
class Source:
    """Where the tables of one GPU are, and which versions of the frameworks made them."""

    system: str
    trtllm: str = "1.3.0rc20"
    vllm: str = "0.24.0"
    sglang: str = "0.5.14"
    nccl: str = "2.29.2"
    links_gb_per_s: float = 0.0  # per direction, of the measured machine; 0: do not fit
    gpus_per_node: int = 8
    deepep: str = "0.5.12"
    # (operation, precision) whose constants are those of another system's table
    borrowed: Mapping[tuple[str, str], str] = field(default_factory=dict)
    # (operation, precision) whose base is another framework than on other GPUs
    first: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def frameworks(self) -> Iterator[tuple[str, str]]:
        """Yield the frameworks and their versions, the base first."""
        yield "trtllm", self.trtllm
        yield "vllm", self.vllm
        yield "sglang", self.sglang


@dataclass(slots=True)
class Result:
    """One fitted section and its errors, on its own table and on those of other frameworks."""

    operation: str
    name: str  # of the section: a precision, a collective
    framework: str
    constants: dict[str, Any]
    error: Error
    others: dict[str, Error] = field(default_factory=dict)


@dataclass(slots=True)
class Fit:
    """All that is fitted for one GPU."""

    name: str
    gpu: Gpu
    source: Source
    tables: Tables
    results: list[Result] = field(default_factory=list)

    def section(self) -> dict[str, Any]:
        """Return the section `kernels` of the GPU's document."""
        section: dict[str, Any] = {}
        for result in self.results:
            if result.operation == "exchange":
                section["collectives"].setdefault("exchange", []).append(result.constants)
            else:
                section.setdefault(result.operation, {})[result.name] = result.constants
        if "collectives" in section:
            section["collectives"]["link_bandwidth_bytes_per_s"] = 1e9 * self.source.links_gb_per_s
        return section

    def device(self) -> Device:
        """Return the device with what is fitted so far."""
        section = {k: v for k, v in self.section().items() if k != "collectives"}
        fitted = Kernels.model_validate(section)
        return Device.of(self.gpu.model_copy(update={"kernels": fitted}))


def document(fit: Fit) -> str:
    """Return the section `kernels` as YAML, a line for each fit with its errors."""
    lines = [
        f"# fitted: {SCRIPT}, to {fit.source.system} of {PACKAGE}; median and p90 error per line",
        "kernels:",
    ]
    section = fit.section()
    for operation in FIT_TYPES:
        of_operation = [result for result in fit.results if result.operation == operation]
        if of_operation:
            lines.append(f"  {operation}:")
        for result in of_operation:
            version = dict(fit.source.frameworks())[result.framework]
            lines.append(f"    # {result.framework} {version}: {result.error.text()}")
            lines.append(f"    {result.name}: {flow(section[operation][result.name])}")
    if "collectives" in section:
        lines.append("  collectives:")
        lines.append(f"    link_bandwidth_bytes_per_s: {fit.source.links_gb_per_s:g} GB/s")
        for result in fit.results:
            if result.operation == "collectives":
                lines.append(f"    # {result.framework}: {result.error.text()}")
                lines.append(f"    {result.name}: {flow(result.constants)}")
        ways = [result for result in fit.results if result.operation == "exchange"]
        if ways:
            lines.append("    exchange:")
        for result in ways:
            lines.append(f"      # {result.framework}, {result.name}: {result.error.text()}")
            lines.append(f"      - {flow(result.constants)}")
    return "\n".join(lines) + "\n"


def write(fit: Fit, operation: str | None = None) -> None:
    """Replace the section `kernels` at the end of the file of the GPU, or one operation in it."""
    path = MODELS / f"{fit.name}.yaml"
    before = path.read_text(encoding="utf-8")
    if operation is None:
        kept = before.split("# fitted: " + SCRIPT)[0]
        after = kept.rstrip() + "\n" + document(fit)
    else:
        section = re.compile(rf"^  {operation}:\n(?:    .*\n)+", re.MULTILINE)
        found = section.search(document(fit))
        after = before if found is None else section.sub(lambda _: found.group(0), before)
    path.write_text(after, encoding="utf-8")


def with_rows(before: str, after: str) -> str:
    """Return one report with those rows of its table replaced that another one has too."""
    fresh = {_key(line): line for line in after.splitlines() if line.startswith("| ")}
    return "".join(f"{fresh.get(_key(line), line)}\n" for line in before.splitlines())


def _key(line: str) -> tuple[str, ...]:
    """Return GPU, operation, fit and framework of a line."""
    return tuple(line.split("|")[1:5])


def report(fits: Sequence[Fit], command: str) -> str:
    """Return the table of all errors."""
    lines = [
        "# Kernel fits",
        "",
        f"Made by `{command}` with the tables of {PACKAGE}.",
        "",
        "Errors are of the product's formulas against every row of the region that serving uses,",
        "median / p90 of |ours / measured - 1|. Other frameworks: the same constants against their",
        "tables, and in brackets the median of ours / theirs.",
        "",
        "| GPU | operation | fit | from | rows | error | other frameworks |",
        "|---|---|---|---|--:|--:|---|",
    ]
    for fit in fits:
        for result in fit.results:
            others = "; ".join(
                f"{name} {error.text()} ({error.ratio:.2f})"
                for name, error in result.others.items()
            )
            lines.append(
                f"| {fit.name} | {result.operation} | {result.name} | {result.framework} "
                f"| {result.error.rows:,} | {result.error.text()} | {others} |"
            )
    return "\n".join(lines) + "\n"
