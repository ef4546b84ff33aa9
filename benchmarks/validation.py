"""Predict measured runs, and write how far off that is, with a plot.

    python benchmarks/validation.py [TABLE.csv]

Writes results/validation/shipped.md, of the catalogue's measurements, and shipped.png, predicted
against measured. With TABLE.csv, a larger table that `autopar validate --data` reads, it writes
table.md and table.png besides. Needs matplotlib for the plots.
"""

import argparse
import importlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from measure import RESULTS, describe_machine, machine, markdown_table, write

from autopar.validation.outcomes import TRIVIAL, Outcome
from autopar.validation.report import (
    METRICS,
    Group,
    RankedPlan,
    Validation,
    plans_of,
    validate,
)
from autopar.validation.statistics import Score

FOLDER = RESULTS / "validation"
LEGEND = """\
MAPE and median are of |predicted / measured - 1|; bias is the median of predicted / measured,
less 1. In band: the share of rows in the band that answers carry, which claims {share:.0%}. flops,
bytes: MAPE of two trivial models with one constant each, which makes the MAPE of all rows of the
metric least: all work at a share of the peak rate; bytes of running sequences at a share of the
bandwidth, with prompts at the peak. In band is nearly in-sample: the bands are fitted to the rows
of table.md; bands.md has the share of cells that were left out.
Held back: requests waited for longer than the prompts of all clients take, so that the engine let
fewer run than its source says.
"""
FEWEST = 10  # rows of a metric that a plot is drawn of
VIEWS = ("all", "gpu", "engine", "model", "load", "source")


def cells(group: Group) -> list[str]:
    """Return the row of a group."""
    found: Score = group.score
    return [
        group.name if group.by != "all" else "**all**",
        f"{found.rows:,}",
        f"{found.mape:.1%}",
        f"{found.median:.1%}",
        f"{found.bias:+.1%}",
        "" if found.inside is None else f"{found.inside:.0%}",
        *(f"{found.baselines[n]:.0%}" if n in found.baselines else "" for n in TRIVIAL),
    ]


def lines(found: Validation, command: str, plot: str) -> Iterator[str]:
    """Yield the report."""
    yield "# Predicted and measured"
    yield f"\n{describe_machine(machine())} `{command}`.\n"
    yield LEGEND.format(share=found.share)
    yield f"![predicted against measured]({plot})"
    header = ["group", "rows", "MAPE", "median", "bias", "in band", "flops", "bytes"]
    for metric, title in METRICS.items():
        groups = [g for by in VIEWS for g in found.groups if (g.metric, g.by) == (metric, by)]
        if groups:
            yield f"\n## {title[0].upper()}{title[1:]}\n"
            yield from markdown_table(header, [cells(group) for group in groups])
    yield from orders(found)
    if found.left_out:
        yield "\n## Not predicted\n"
        reasons = sorted(found.left_out.items(), key=lambda pair: -pair[1])
        yield from (f"- {count:,} rows: {reason}" for reason, count in reasons)


def orders(found: Validation) -> Iterator[str]:
    """Yield how well plans are ordered, beside trivial orders, and which pairs are swapped."""
    for what, ranked in (
        ("plans", found.ranking),
        ("plans on equally many GPUs", found.equal_ranking),
        ("layouts of training", found.training_ranking),
    ):
        if ranked is None:
            continue
        yield f"\n## Order of {what}\n"
        yield f"Of those that answer the same question ({ranked.cases} questions, {ranked.pairs:,}"
        yield f"pairs): Kendall tau {ranked.tau:.2f}; the best is found in {ranked.best_found:.0%},"
        yield f"and {ranked.lost:.1%} of throughput per GPU is lost on average. Runs of one layout"
        yield "are one plan. Of orders that need no cost model: " + ", ".join(
            f"tau {tau:.2f} by {name}" for name, tau in ranked.trivial.items()
        )
    pairs: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for plans in plans_of(found.outcomes, "tpot_ms", on_equal_gpus=True):
        for one, other in combinations(sorted(plans, key=lambda p: -p.measured), 2):
            words = one.case.split(" in ")[0].split()
            pairs[" ".join(words[:-1]), one.layout, other.layout][_order(one, other)] += 1
    if pairs:
        yield "\nPairs on equally many GPUs, by the layouts that were faster and slower in fact:\n"
        header = ["source, model, GPU, engine", "faster", "slower", *_ORDERS]
        yield from markdown_table(
            header,
            [[*names, *(str(counts[o]) for o in _ORDERS)] for names, counts in pairs.items()],
        )


_ORDERS = ("in order", "tied", "swapped")


def _order(faster: RankedPlan, slower: RankedPlan) -> str:
    if faster.predicted == slower.predicted:
        return "tied"
    return "in order" if faster.predicted > slower.predicted else "swapped"


def plot(outcomes: Sequence[Outcome], file: Path) -> None:
    """Draw predicted against measured times, one colour for each kind of GPU."""
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    metrics = [name for name in METRICS if sum(o.metric == name for o in outcomes) >= FEWEST]
    figure, axes = pyplot.subplots(1, len(metrics), figsize=(4.2 * len(metrics), 4.4))
    gpus = sorted({o.gpu for o in outcomes})
    for axis, metric in zip(axes, metrics, strict=True):
        own = [o for o in outcomes if o.metric == metric]
        for place, gpu in enumerate(gpus):
            rows = [o for o in own if o.gpu == gpu]
            axis.loglog(
                [o.measured for o in rows],
                [o.predicted for o in rows],
                ".",
                color=f"C{place}",
                alpha=0.5,
                label=gpu,
            )
        ends = [f(o.measured for o in own) for f in (min, max)]
        axis.loglog(ends, ends, color="black", linewidth=0.8)
        for factor in (0.8, 1.25):
            axis.loglog(ends, [factor * e for e in ends], ":", color="black", linewidth=0.8)
        axis.set_title(METRICS[metric], fontsize=9)
        axis.set_xlabel(f"measured, {metric.rsplit('_', 1)[-1]}")
    axes[0].set_ylabel("predicted; dotted: 0.8 and 1.25 of measured")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    pyplot.close(figure)


def main() -> None:
    """Predict, and write the reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, nargs="?")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    asked: list[tuple[str, Path | None]] = [("shipped", None)]
    if options.table is not None:
        asked.append(("table", options.table))
    for name, data in asked:
        found = validate(data=data)
        command = "python benchmarks/validation.py" + ("" if data is None else " TABLE.csv")
        write(FOLDER / f"{name}.md", list(lines(found, command, f"{name}.png")))
        plot(found.outcomes, FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
