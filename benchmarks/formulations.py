"""Formulations side by side: the ones that were kept and the ones that were not.

Writes results/formulations.md:

    python benchmarks/formulations.py
"""

import sys
import time

import numpy as np
from measure import RESULTS, describe_machine, machine, markdown_table, write

from autopar.catalog import load_scenario
from autopar.ortools_loader import load_cp_model
from autopar.search import Prepared, Task, in_order, make_task, narrowed, prepare
from autopar.segments import ShapeCache, segment_table
from autopar.solver import Outcome, optimise
from autopar.specs.change import changed

SYMMETRY_SIZES = ((8, 8), (16, 16), (32, 32))  # layers x experts on 2 GPUs per expert
PRUNING_SCENARIOS = ("moe-16x16-512gpu", "moe-16x16-512gpu-analytic", "mixtral-8x7b-8xh100")


def solved(task: Task, prepared: Prepared, *, uniqueness: bool) -> tuple[float, Outcome]:
    """Return the wall seconds of building and solving the model, and the outcome."""
    started = time.perf_counter()
    outcome = optimise(task, prepared, uniqueness=uniqueness)
    return time.perf_counter() - started, outcome


def symmetry_rows() -> list[list[str]]:
    """Blocks and experts in order, against a free variable for each layer and expert."""
    rows = []
    for layers, experts in SYMMETRY_SIZES:
        cells = [f"{layers * experts * 2:,} ({layers} x {experts} x TP2)"]
        answers = []
        for symmetry in ("canonical", "explicit"):
            scenario = load_scenario(
                "moe-16x16-512gpu",
                overrides=[
                    f"llm.num_layers={layers}",
                    f"llm.num_experts={experts}",
                    f"cluster.num_nodes={layers * experts // 4}",
                    f"cluster.gpus_per_domain={experts * 4}",
                ],
            )
            task = make_task(changed(scenario, "recipe.cp_sat.symmetry", symmetry))
            seconds, outcome = solved(task, prepare(task), uniqueness=True)
            answers.append(outcome.vector)
            cells.append(f"{seconds:.3f} s ({outcome.status})")
        rows.append([*cells, "yes" if answers[0] == answers[1] else "NO"])
    return rows


def everything(task: Task) -> Prepared:
    """Return all allowed candidates with all their segments: no incumbent, no bounds."""
    rows, optimistic = in_order(task)
    shapes: ShapeCache = {}
    tables = tuple(
        segment_table(task.problem, rows.take(np.array([i])), task.constraints, shapes)
        for i in range(len(rows))
    )
    has_path = np.ones(len(rows), dtype=np.bool_)
    return Prepared(
        num_candidates=len(task.problem.candidates),
        num_allowed=len(rows),
        rows=rows,
        tables=tables,
        has_path=has_path,
        incumbent=None,
        vector=None,
        floor=None,
        allowed=rows,
        optimistic=optimistic,
    )


def pruning_rows() -> list[list[str]]:
    """Bounds before the model, against the whole table in the model."""
    rows = []
    for name in PRUNING_SCENARIOS:
        task = make_task(load_scenario(name))
        cells, answers = [name], []
        for build in (prepare, everything):
            started = time.perf_counter()
            prepared = build(task)
            _, outcome = solved(task, prepared, uniqueness=False)
            seconds = time.perf_counter() - started
            size = sum(len(table.first) for table in narrowed(task, prepared))
            cells.append(f"{seconds:.2f} s ({len(prepared.rows)} rows, {size:,} segments)")
            answers.append(outcome.vector)
        rows.append([*cells, "yes" if answers[0] == answers[1] else "NO"])
    return rows


def main() -> int:
    """Measure and write the page."""
    load_cp_model()
    lines = [
        "# Formulations side by side",
        "",
        "Command: `python benchmarks/formulations.py`. One run each; read the ratios.",
        "",
        describe_machine(machine()),
        "",
        "## Symmetry: blocks and experts in order, or a variable each (ADR 0003)",
        "",
        "CP-SAT with all objectives and the proof of uniqueness.",
        "",
        *markdown_table(["GPUs", "canonical", "explicit", "same optimum"], symmetry_rows()),
        "",
        "## Bounds before the model, or the whole table in it (ADR 0005)",
        "",
        *markdown_table(["scenario", "pruned", "whole table", "same optimum"], pruning_rows()),
        "",
    ]
    write(RESULTS / "formulations.md", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
