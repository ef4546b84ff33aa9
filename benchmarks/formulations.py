"""Formulations side by side: the ones that were kept and the ones that were not.

Writes results/formulations.md:

    python benchmarks/formulations.py
"""

import sys
import time
from collections.abc import Callable

import numpy as np
from measure import RESULTS, describe_machine, machine, markdown_table, write

from autopar.catalog import load_scenario
from autopar.ortools_loader import load_cp_model
from autopar.search import Prepared, Task, in_order, make_task, narrowed, prepare
from autopar.segments import ShapeCache, segment_table
from autopar.solver import optimise
from autopar.specs.change import changed

SYMMETRY_SIZES = ((8, 8), (16, 16), (32, 32))  # layers x experts on 2 GPUs per expert
PRUNING_SCENARIOS = ("moe-16x16-512gpu", "moe-16x16-512gpu-analytic", "mixtral-8x7b-8xh100")


def timed(work: Callable[[], object]) -> float:
    """Return the wall seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


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
            prepared = prepare(task)
            found = []
            seconds = timed(
                lambda t=task, p=prepared, f=found: f.append(optimise(t, p, uniqueness=True))
            )
            answers.append(found[0].vector)
            cells.append(f"{seconds:.3f} s ({found[0].status})")
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
        len(task.problem.candidates), len(rows), rows, tables, has_path, None, None, optimistic
    )


def pruning_rows() -> list[list[str]]:
    """Bounds before the model, against the whole table in the model."""
    rows = []
    for name in PRUNING_SCENARIOS:
        task = make_task(load_scenario(name))
        cells, answers = [name], []
        for build in (prepare, everything):
            found: list[Prepared] = []
            outcomes = []
            seconds = timed(lambda b=build, t=task, f=found: f.append(b(t)))
            seconds += timed(lambda t=task, f=found, o=outcomes: o.append(optimise(t, f[0])))
            size = sum(len(table.first) for table in narrowed(task, found[0]))
            cells.append(f"{seconds:.2f} s ({len(found[0].rows)} rows, {size:,} segments)")
            answers.append(outcomes[0].vector)
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
