"""Fit the error bands that answers carry to what was measured: models/bands/default.yaml.

    python benchmarks/fit_bands.py TABLE.csv [--write]

TABLE.csv: measured runs, as `autopar validate --data` reads them. A band is the narrowest of
quantiles of measured / predicted that holds 80 % of the rows of cells (source, model, GPU) that it
was not fitted to; a cell of n rows weighs as much as sqrt(n). Left aside: runs whose requests were
held back, and a source that contradicts another one (CONTRADICTED).
Without measured kernels: predictions as if none of a GPU's kernels were known, for GPUs whose
kernels are not those that are assumed. The bands of costs are the errors of the fits of kernels
(results/kernel-fits.md), and what is said beside them.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from measure import RESULTS

from autopar.validation.bulk import read_bulk
from autopar.validation.outcomes import Outcome, evaluate
from autopar.validation.statistics import fitted_band

SHARE = 0.8
# An experimental folder whose servers are not described: prompts take five times as long as in the
# main table for the same model, GPU and engine.
CONTRADICTED = ("inferencex_slo", "inferencex-slo")
FILE = Path(__file__).parents[1] / "models" / "bands" / "default.yaml"
METRICS = {"tpot": ("tpot_ms", "e2e_s", "us_per_token"), "ttft": ("ttft_ms", "ttft_few_ms")}
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
# Costs that no table of kernels has.
SAID = {
    "elementwise": (1.3, "no table: 0.8 of the bandwidth is assumed"),
    "point_to_point": (1.5, "no table: latencies and 0.85 of the link are assumed"),
    "host": (2.0, "fitted to whole runs; that of an engine's next version is another"),
}
WIDER = (
    1.25  # on a GPU whose kernels nobody measured: H100's fractions on B200 and A100 miss so much
)


def metric_lines(measured: Sequence[Outcome], bare: Sequence[Outcome]) -> list[str]:
    """Return the bands of metrics as YAML."""
    lines = []
    for has_kernels, outcomes in ((True, measured), (False, bare)):
        for metric, names in METRICS.items():
            for is_moe in (False, True):
                own = [
                    o
                    for o in outcomes
                    if o.metric in names and o.is_moe == is_moe and not o.is_held_back
                ]
                cells = [o.cell for o in own]
                if len(set(cells)) < 2:
                    continue
                band = fitted_band([o.ratio for o in own], cells, SHARE)
                lines.append(
                    f"  - {{metric: {metric}, is_moe: {str(is_moe).lower()}, "
                    f"has_kernels: {str(has_kernels).lower()}, low: {band.low:.3g}, "
                    f"high: {band.high:.3g}, rows: {len(own)}, cells: {len(set(cells))}, "
                    f"coverage: {band.coverage:.2f}}}"
                )
    return lines


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
    factors |= {name: factor for name, (factor, _) in SAID.items()}
    why |= {name: reason for name, (_, reason) in SAID.items()}
    measured = [f"    {name}: {factor:.3g}  # {why[name]}" for name, factor in factors.items()]
    assumed = [f"    {name}: {factor * WIDER:.3g}" for name, factor in factors.items()]
    return ["costs:", "  measured:", *measured, "  assumed:", *assumed]


def main() -> None:
    """Fit and print, or write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name}")
    options = parser.parse_args()
    cases = [(s, c) for s, c in read_bulk(options.table).cases if s not in CONTRADICTED]
    measured = evaluate(cases).outcomes
    bare = [o for o in evaluate(cases, bare=True).outcomes if o.gpu != ASSUMED_OF]
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
        *metric_lines(measured, bare),
        *cost_lines(),
    ]
    text = "\n".join(lines) + "\n"
    if options.write:
        FILE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
