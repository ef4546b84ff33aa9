"""Fit the error bands that answers carry to what was measured: models/bands/default.yaml.

    python benchmarks/fit_bands.py TABLE.csv [--write]

TABLE.csv: measured runs, as `autopar validate --data` reads them. A band is the narrowest of
quantiles of measured / predicted that holds 80 % of the rows of cells (source, model, GPU) that it
was not fitted to; a cell of n rows weighs as much as sqrt(n). Left aside: runs whose requests were
held back, and a source that contradicts another one (CONTRADICTED).
Which band a figure is in, `Outcome.band` says, as for the scores of `autopar validate`. Models with
and without experts share a band where one kind alone has a single cell.
Measured: runs whose operations were all measured on their GPU, in their precisions. Without
measured kernels: predictions as if none of a GPU's kernels were known, for GPUs whose
kernels are not those that are assumed; never narrower than the band of measured GPUs, for nobody
knows those better that nobody measured. The bands of costs are the errors of the fits of kernels
(results/kernel-fits.md), and what is said beside them. --write also writes
results/validation/bands.md.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from measure import RESULTS, describe_machine, machine, markdown_table, write

from autopar.catalog import load_scenario
from autopar.costs.operations.collectives import Network
from autopar.specs.bands import TimeBand
from autopar.validation.bulk import read_bulk
from autopar.validation.outcomes import Outcome, evaluate
from autopar.validation.statistics import Band, fitted_band

SHARE = 0.8
# An experimental folder whose servers are not described: prompts take five times as long as in the
# main table for the same model, GPU and engine.
CONTRADICTED = ("inferencex_slo", "inferencex-slo")
FILE = Path(__file__).parents[1] / "models" / "bands" / "default.yaml"
WORDS = """\
Where {share:.0%} of measured values lie, as multiples of the predicted ones. Inside: share of the
rows that a band is fitted to, which is what table.md counts too. Left out: share of the rows of a
cell (source, model, GPU) that lie in the band of all other cells, which is what a prediction for
another model or GPU may hope for; the scores of table.md are in this sense nearly those of the
rows that bands were fitted to. Rows whose requests were held back are not among them, nor is
inferencex_slo. Whether requests were held back is decided from the measured TTFT: who asks for a
plan does not know it beforehand, so that a service which is held back lies outside more often.
Where kernels are assumed, every band holds that of measured kernels, which knows the cell that is
left out: their last column is no clean test.
"""
FEWEST_CELLS = 2  # of a band: one is left out, another must be left
ASSUMED_OF = "h100-sxm-80gb"  # whose constants are assumed for all others
# Kernels of each cost in results/kernel-fits.md; the p90 error of the GPU in the middle counts.
KERNELS = {
    "gemm": "gemm",
    "experts": "experts",
    "attention": "prefill_attention|decode_attention|latent_prefill_attention"
    "|latent_decode_attention|linear_attention",
    "all_reduce": "all_reduce",
    "gather": "all_gather|reduce_scatter",
    "all_to_all": "exchange",
}
# Bandwidth in GB/s of collectives over nodes of 8 H100, 400 Gbit/s a GPU, by GPUs of the group: the
# nanotron benchmark, medians of 151 to 283 jobs (comm_measured.csv; a world-group test of large
# messages, whose convention is not stated). Larger groups fall as 1/n, none of them one of tensor
# or context parallelism. Of small messages nothing is published; aiconfigurator at commit 095f58a5
# charges 9.6 times an all-reduce in a node for 16 GPUs: at 0.8 MB 5.4 times as much as we, at 8 MB
# 8.4.
PUBLISHED = {
    "all_reduce": {16: 341.0, 32: 161.1, 64: 95.5},
    "all_gather": {16: 169.2, 32: 99.2, 64: 53.4},
    "reduce_scatter": {16: 164.2, 32: 96.9, 64: 52.9},
}
PUBLISHED_ON = "64xhgx-h100"
LARGE_BYTES = 2.0**30
# Costs that no table of kernels has.
SAID = {
    "elementwise": (1.3, "no table: 0.8 of the bandwidth is assumed"),
    "point_to_point": (1.5, "no table: latencies and 0.85 of the link are assumed"),
    "host": (2.0, "fitted to whole runs; that of an engine's next version is another"),
}
WIDER = (
    1.25  # on a GPU whose kernels nobody measured: H100's fractions on B200 and A100 miss so much
)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A band with the rows that it is from; is_moe: None for models of both kinds."""

    metric: TimeBand
    is_moe: bool | None
    has_kernels: bool
    band: Band
    rows: tuple[Outcome, ...]

    @property
    def cells(self) -> int:
        """How many cells the rows are of."""
        return len({row.cell for row in self.rows})

    @property
    def gpus(self) -> list[str]:
        """The kinds of GPUs that the rows are of."""
        return sorted({row.gpu for row in self.rows})

    @property
    def inside(self) -> float:
        """Share of the rows that lie in the band that is fitted to them."""
        within = [self.band.low <= row.ratio <= self.band.high for row in self.rows]
        return sum(within) / len(within)

    def yaml(self) -> str:
        """Return the band as a line of the file."""
        kind = "" if self.is_moe is None else f"is_moe: {str(self.is_moe).lower()}, "
        return (
            f"  - {{metric: {self.metric}, {kind}has_kernels: {str(self.has_kernels).lower()}, "
            f"low: {self.band.low:.3g}, high: {self.band.high:.3g}, rows: {len(self.rows)}, "
            f"cells: {self.cells}, gpus: [{', '.join(self.gpus)}], "
            f"coverage: {self.band.coverage:.2f}}}"
        )


def fitted(measured: Sequence[Outcome], bare: Sequence[Outcome]) -> Iterator[Fitted]:
    """Yield all bands, those of measured GPUs first."""
    known: dict[tuple[TimeBand, bool | None], Band] = {}
    shared = {metric for metric in get_args(TimeBand) if _share(measured, metric)}
    for has_kernels, outcomes in ((True, measured), (False, bare)):
        for metric in get_args(TimeBand):
            own = [o for o in outcomes if o.band == metric and not o.is_held_back]
            for is_moe, rows in _by_kind(own, is_shared=metric in shared):
                cells = [row.cell for row in rows]
                if len(set(cells)) < FEWEST_CELLS:
                    continue
                least = None if has_kernels else known.get((metric, is_moe))
                band = fitted_band([row.ratio for row in rows], cells, SHARE, at_least=least)
                known.setdefault((metric, is_moe), band)
                yield Fitted(metric, is_moe, has_kernels, band, tuple(rows))


def _share(rows: Sequence[Outcome], metric: TimeBand) -> bool:
    """Whether models of both kinds share a band, as one kind alone has too few cells."""
    cells = [{o.cell for o in rows if (o.band, o.is_moe) == (metric, k)} for k in (False, True)]
    return any(0 < len(own) < FEWEST_CELLS for own in cells)


def _by_kind(
    rows: Sequence[Outcome], *, is_shared: bool
) -> Iterator[tuple[bool | None, Sequence[Outcome]]]:
    """Yield dense models and those with experts, or both as one."""
    if is_shared:
        yield None, rows
        return
    for is_moe in (False, True):
        yield is_moe, [row for row in rows if row.is_moe == is_moe]


def table(bands: Sequence[Fitted]) -> Iterator[str]:
    """Yield the page on what the bands are worth."""
    yield "# Bands of predictions"
    yield f"\n{describe_machine(machine())} `python benchmarks/fit_bands.py TABLE.csv --write`.\n"
    yield WORDS.format(share=SHARE)
    header = ["band", "models", "kernels", "low", "high", "rows", "cells", "inside", "left out"]
    words = {None: "all", False: "dense", True: "experts"}
    rows = [
        [
            one.metric,
            words[one.is_moe],
            "measured" if one.has_kernels else "assumed",
            f"{one.band.low:.3g}",
            f"{one.band.high:.3g}",
            f"{len(one.rows):,}",
            f"{one.cells}",
            f"{one.inside:.0%}",
            f"{one.band.coverage:.0%}",
        ]
        for one in bands
    ]
    yield from markdown_table(header, rows)
    yield ""
    for metric in get_args(TimeBand):
        for has_kernels in (True, False):
            own = [one for one in bands if (one.metric, one.has_kernels) == (metric, has_kernels)]
            gpus = sorted({gpu for one in own for gpu in one.gpus})
            what = "measured" if has_kernels else "assumed"
            yield f"- {metric}, kernels {what}: {', '.join(gpus) or 'none'}"
    yield "\nAll are NVIDIA's: on no other GPU has a prediction been held against a measurement."


def cost_lines() -> list[str]:
    """Return the bands of costs as YAML."""
    errors: dict[str, list[float]] = {name: [] for name in KERNELS}
    pattern = re.compile(r"^\| [\w.-]+ \| (\w+) \| ([^|]+) \|.*?\| [\d.]+ % / ([\d.]+) %")
    for line in (RESULTS / "kernel-fits.md").read_text("utf-8").splitlines():
        found = pattern.match(line)
        kernel = found and (found[2].strip() if found[1] == "collectives" else found[1])
        for name, kernels in KERNELS.items():
            if found and re.fullmatch(kernels, str(kernel)):
                errors[name].append(float(found[3]) / 100)
    factors = {n: 1 + sorted(e)[len(e) // 2] for n, e in errors.items()}
    why = {name: f"p90 of {len(errors[name])} fits, the median" for name in errors}
    apart = fabric_ratios()
    factors["fabric_collectives"] = apart[round(0.9 * (len(apart) - 1))]
    why["fabric_collectives"] = (
        f"p90 of {len(apart)} published figures (nanotron, H100, 16 to 64 GPUs), none of small "
        "messages; aiconfigurator charges 5.4 to 8.4 times as much"
    )
    factors |= {name: factor for name, (factor, _) in SAID.items()}
    why |= {name: reason for name, (_, reason) in SAID.items()}
    measured = [f"    {name}: {factor:.3g}  # {why[name]}" for name, factor in factors.items()]
    assumed = [f"    {name}: {factor * WIDER:.3g}" for name, factor in factors.items()]
    return ["costs:", "  measured:", *measured, "  assumed:", *assumed]


def fabric_ratios() -> list[float]:
    """Return predicted over published bandwidth of collectives over the fabric, in order."""
    parts = {"llm": "llama-3.1-8b", "cluster": PUBLISHED_ON, "workload": "chat-1k-256"}
    network = Network.of(load_scenario(None, parts=parts).cluster)
    found = []
    for kind, published in PUBLISHED.items():
        halves = 2 if kind == "all_reduce" else 1
        for gpus, rate in published.items():
            time_us = float(getattr(network, f"{kind}_us")(LARGE_BYTES, gpus))
            predicted = LARGE_BYTES * halves * (gpus - 1) / gpus / time_us / 1e3
            found.append(max(predicted / rate, rate / predicted))
    return sorted(found)


def main() -> None:
    """Fit and print, or write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name} and bands.md")
    options = parser.parse_args()
    cases = [(s, c) for s, c in read_bulk(options.table).cases if s not in CONTRADICTED]
    measured = [o for o in evaluate(cases).outcomes if o.has_kernels]
    bare = [o for o in evaluate(cases, bare=True).outcomes if o.gpu != ASSUMED_OF]
    bands = list(fitted(measured, bare))
    lines = [
        "schema: 1",
        "kind: bands",
        "name: default",
        "description: >-",
        "  Where 80 % of measured values lie, as multiples of the predicted ones, and by how much",
        "  the costs behind them may be off.",
        "sources:",
        '  - "benchmarks/fit_bands.py: measured runs, as in results/validation"',
        '  - "costs: errors of the fits of kernels, results/kernel-fits.md"',
        f"share: {SHARE}",
        "metrics:",
        *(band.yaml() for band in bands),
        *cost_lines(),
    ]
    text = "\n".join(lines) + "\n"
    if options.write:
        FILE.write_text(text, encoding="utf-8")
        write(RESULTS / "validation" / "bands.md", list(table(bands)))
    print(text)


if __name__ == "__main__":
    main()
