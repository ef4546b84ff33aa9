"""Solve every layout with every batch of the cases of benchmarks/peer, and compare with the solver.

    python benchmarks/exhaustive.py [--case NAME ...] [--memory-only]

Writes results/exhaustive.md. What the solver leaves out by bounds on throughput, by intervals of
batches and by incumbents is solved here one by one: each candidate by the dynamic programme over
its splits, batch after batch, until a requirement that only gets harder with the batch surely fails
(memory, TTFT, TPOT; with --memory-only memory alone, which takes far longer). Splits
themselves are compared with all splits in tests/test_solver_against_oracle.py.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import RESULTS, describe_machine, machine, markdown_table, measure, write

from autopar.candidates import with_batch
from autopar.constraints import Constraint
from autopar.costs.steps import most_sequences
from autopar.problem import Candidates
from autopar.search import Splits, Task, Vector, make_task
from autopar.specs import Scenario

sys.path.insert(0, str(Path(__file__).parent / "peer"))
from cases import Case, load_cases, select

MOST_GPUS = 32  # larger cases take long


@dataclass(slots=True)
class Found:
    """What solving everything found: the best vector, where, and how much was solved."""

    layouts: int
    solved: int = 0
    with_plan: int = 0
    best: Vector | None = None
    where: str = "-"

    def take(self, values: Vector | None, row: Candidates) -> None:
        """Count one candidate."""
        self.solved += 1
        if values is None:
            return
        self.with_plan += 1
        if self.best is None or values < self.best:
            one = row.row(0)
            self.best = values
            self.where = (
                f"{one.replicas}x(pp{one.pp} tp{one.tp} cp{one.cp} dp{one.attn_dp} ep{one.ep} "
                f"etp{one.etp}), batch {one.batch}, {one.chunks} parts"
            )


def solve_all(task: Task, *, memory_only: bool) -> Found:
    """Solve every layout with every batch that no growing requirement rules out."""
    layouts = task.problem.candidates
    growing = [
        c
        for c in task.constraints
        if isinstance(c, Constraint) and c.depends_on_batch == "grows"
        if not memory_only or c.name == "memory"
    ]
    most = most_sequences(task.problem.scenario.workload, layouts.chunks)
    splits, found = Splits(task), Found(len(layouts))
    for index, limit in enumerate(most.tolist()):
        layout = layouts.take(np.array([index]))
        for batch in range(1, limit + 1):
            row = with_batch(layout, batch)
            fits = [c.allowed_rows(task.problem, row) for c in growing]
            if any(passes is not None and not passes.all() for passes in fits):
                break  # and so does no larger one
            found.take(splits.values(row), row)
    return found


def compare(case: Case, *, memory_only: bool) -> list[str]:
    """Return one line of the table."""
    answer = measure(case.autopar_arguments(), runs=1).answer()
    scenario = Scenario.model_validate(answer["spec"])
    task = make_task(scenario)
    start = time.perf_counter()
    found = solve_all(task, memory_only=memory_only)
    seconds = time.perf_counter() - start
    values = [objective["value"] for objective in answer["objectives"]]
    best = None
    if found.best is not None:
        signs = (1 if o.sense == "min" else -1 for o in task.objectives)
        best = [
            o.value(v * sign) for o, v, sign in zip(task.objectives, found.best, signs, strict=True)
        ]
    equal = best is not None and np.allclose(best, values, rtol=1e-12)
    return [
        case.name,
        f"{found.layouts:,}",
        f"{found.solved:,}",
        f"{found.with_plan:,}",
        f"{seconds:.0f}",
        found.where,
        "-" if best is None else f"{best[0]:,.3f}",
        f"{values[0]:,.3f}",
        "equal" if equal else "DIFFERENT",
    ]


def main() -> int:
    """Compare the cases that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--case", action="append", default=[], help="a case of benchmarks/peer")
    parser.add_argument("--memory-only", action="store_true", help="stop at memory alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results file")
    options = parser.parse_args()
    cases = select(load_cases(), options.case)
    if not options.case:
        cases = [case for case in cases if case.gpus <= MOST_GPUS]
    header = ["case", "layouts", "solved", "with a plan", "s", "best of all", "its throughput"]
    header += ["the solver's", "all objectives"]
    words = [*(f"--case {name}" for name in options.case)]
    words += ["--memory-only"] if options.memory_only else []
    lead = [
        "# Every layout with every batch",
        "",
        f"`{' '.join(['python benchmarks/exhaustive.py', *words])}`. {describe_machine(machine())}",
        "",
        "Throughput in tokens/s; all objectives, in order, are compared to 12 digits.",
        "",
    ]
    lines: list[list[str]] = []
    for case in cases:
        lines.append(compare(case, memory_only=options.memory_only))
        print(" | ".join(lines[-1]), flush=True)
        write(options.out / "exhaustive.md", [*lead, *markdown_table(header, lines)])
    return 1 if any(line[-1] != "equal" for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
