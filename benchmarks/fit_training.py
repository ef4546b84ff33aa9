"""Fit the two factors of a training step to published runs, and say how well steps are predicted.

    python benchmarks/fit_training.py [--report]

Reads models/measurements. --report writes results/training-fits.md. The fit takes the factors with
the least mean |log(predicted / measured)| over the runs of `FITTED_GROUPS`; vTrain's plans are for
ranking and have nothing that overlaps. Cross-validation leaves out one source, GPU and model at a
time.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from statistics import mean, median
from typing import Any

from measure import RESULTS, markdown_table, write

from autopar.catalog import names
from autopar.costs.operations.parts import RUNTIME_RESERVE_BYTES
from autopar.resolve import Library
from autopar.shelves import KINDS
from autopar.specs import LLM, Cluster, Measurements, TrainingCase, TrainingRow
from autopar.training import memory, step_us
from autopar.training.factors import FITTED, Factors

GIB = 2**30
RANKING = "vtrain-2023"
FITTED_GROUPS = ("dense", "experts")
SUSTAINED = [0.70 + 0.02 * step for step in range(16)]
EXPOSED = [0.05 * step for step in range(15)]
PREDICTED: dict[tuple[str, Factors], float] = {}


@dataclass(frozen=True)
class Run:
    """One published run with its model and cluster; cell: what cross-validation leaves out."""

    document: str
    llm: LLM
    cluster: Cluster
    row: TrainingRow

    @property
    def cell(self) -> tuple[str, str, str]:
        """Source, GPU and model."""
        return self.document, self.cluster.gpu.name, self.llm.name

    @property
    def group(self) -> str:
        """The line of the table of errors."""
        if self.document == RANKING:
            return f"plans of {self.llm.name}"
        return "experts" if self.llm.is_moe else "dense"

    def predicted_s(self, factors: Factors) -> float:
        """Return the predicted time of a step; computed once for each of the factors."""
        key = self.row.id, factors
        if key not in PREDICTED:
            time = step_us(self.llm, self.cluster, self.row, factors)
            PREDICTED[key] = time.total_us / 1e6
        return PREDICTED[key]


def runs() -> Iterator[Run]:
    """Yield every published training run of the catalogue."""
    for name in names("measurements"):
        document: Measurements = load("measurements", name)
        for case in document.cases:
            if not isinstance(case, TrainingCase):
                continue
            llm: LLM = load("llm", case.llm)
            if case.precisions is not None:
                llm = llm.model_copy(update={"precisions": case.precisions})
            for row in case.rows:
                yield Run(name, llm, load("cluster", case.cluster), row)


@cache
def load(kind: str, name: str) -> Any:
    """Return a document of the catalogue."""
    which = KINDS[kind]
    return which.model.model_validate(Library(()).find(which, name, None, "fit_training").data)


def ratios(given: Sequence[Run], factors: Factors) -> list[float]:
    """Return predicted / measured of each run."""
    return [run.predicted_s(factors) / (run.row.step_s or math.nan) for run in given]


def fit(given: Sequence[Run]) -> Factors:
    """Return the factors of the grid that miss least."""
    grid = [Factors(round(s, 3), round(e, 3)) for s in SUSTAINED for e in EXPOSED]
    return min(grid, key=lambda one: mean(abs(math.log(r)) for r in ratios(given, one)))


def cross_validated(given: Sequence[Run]) -> dict[str, tuple[Factors, float]]:
    """Return, per run, the factors fitted without its cell and the ratio that they give."""
    found: dict[str, tuple[Factors, float]] = {}
    for cell in sorted({run.cell for run in given}):
        factors = fit([run for run in given if run.cell != cell])
        for run in given:
            if run.cell == cell:
                found[run.row.id] = factors, ratios([run], factors)[0]
    return found


def kendall_tau(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Kendall's rank correlation of pairs without ties."""
    signs = [
        1 if (one[0] - other[0]) * (one[1] - other[1]) > 0 else -1
        for one, other in combinations(pairs, 2)
    ]
    return mean(signs)


def summary(name: str, found: Sequence[float]) -> list[str]:
    """Return a line of the table of errors, of predicted / measured."""
    errors = [ratio - 1.0 for ratio in found]
    sizes = [abs(error) for error in errors]
    figures = (mean(sizes), median(sizes), max(sizes))
    return [
        name,
        str(len(found)),
        *(f"{100 * x:.1f} %" for x in figures),
        f"{100 * mean(errors):+.1f} %",
    ]


def time_lines(timed: Sequence[Run], validated: dict[str, tuple[Factors, float]]) -> list[str]:
    """Return the table of errors of step times, and the rank correlations."""
    table = []
    for group in sorted({run.group for run in timed}):
        chosen = [run for run in timed if run.group == group]
        table.append(summary(group, ratios(chosen, FITTED)))
        if group in FITTED_GROUPS:
            left_out = [validated[run.row.id][1] for run in chosen]
            table.append(summary(f"{group}, cross-validated", left_out))
    header = ("group", "n", "MAPE", "median", "largest", "mean signed")
    lines = markdown_table(header, table)
    for group in sorted({run.group for run in timed} - set(FITTED_GROUPS)):
        chosen = [run for run in timed if run.group == group]
        pairs = [(run.predicted_s(FITTED), run.row.step_s or math.nan) for run in chosen]
        lines += ["", f"Kendall's tau, {group}: {kendall_tau(pairs):.2f}."]
    return lines


def memory_lines(given: Sequence[Run]) -> list[str]:
    """Return the table of errors of memory, and how many runs are rightly said to fit or not."""
    state, activations, right = [], [], []
    for run in given:
        found = memory(run.llm, run.row)
        if run.row.state_gib is not None:
            state.append(found.state_bytes / GIB / run.row.state_gib)
        if run.row.activation_gib is not None:
            activations.append(found.activations_bytes / GIB / run.row.activation_gib)
        if run.row.step_s is not None or run.row.out_of_memory:
            needed = found.total_bytes + RUNTIME_RESERVE_BYTES
            right.append((needed > run.cluster.gpu.memory_bytes) == run.row.out_of_memory)
    header = ("memory", "n", "MAPE", "median", "largest", "mean signed")
    table = [summary("state", state), summary("activations", activations)]
    said = f"Fits or does not, with {RUNTIME_RESERVE_BYTES / GIB:.1f} GiB for the runtime: "
    return [*markdown_table(header, table), "", f"{said}{sum(right)} of {len(right)} right."]


def run_lines(timed: Sequence[Run]) -> list[str]:
    """Return one line per run."""
    header = ("run", "model", "GPU", "GPUs", "measured, s", "predicted, s", "error")
    table = []
    for run in timed:
        predicted, measured = run.predicted_s(FITTED), run.row.step_s or math.nan
        table.append(
            [
                run.row.id,
                run.llm.name,
                run.cluster.gpu.name,
                f"{run.row.num_gpus:,}",
                f"{measured:.3f}",
                f"{predicted:.3f}",
                f"{100 * (predicted / measured - 1):+.1f} %",
            ]
        )
    return markdown_table(header, table)


def main() -> int:
    """Fit, cross-validate, print; with --report write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", action="store_true", help="write results/training-fits.md")
    arguments = parser.parse_args()
    everything = list(runs())
    timed = [run for run in everything if run.row.step_s is not None]
    fitted = [run for run in timed if run.group in FITTED_GROUPS]
    best = fit(fitted)
    validated = cross_validated(fitted)
    spread: Callable[[str], str] = lambda key: " to ".join(  # noqa: E731
        f"{pick(getattr(one, key) for one, _ in validated.values()):g}" for pick in (min, max)
    )
    said = (
        f"Best of the grid: sustained fraction {best.sustained_fraction:g} (without one cell: "
        f"{spread('sustained_fraction')}), exposed fraction {best.exposed_fraction:g} "
        f"({spread('exposed_fraction')}). In the product: {FITTED.sustained_fraction:g} and "
        f"{FITTED.exposed_fraction:g}. Nothing else is fitted to these runs."
    )
    lines = [
        "# Training fits",
        "",
        "Made by `python benchmarks/fit_training.py --report` from models/measurements.",
        "",
        said,
        "",
        *time_lines(timed, validated),
        "",
        *memory_lines(everything),
        "",
        *run_lines(timed),
    ]
    print("\n".join(lines))
    if arguments.report:
        write(RESULTS / "training-fits.md", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
