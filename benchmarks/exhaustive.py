"""Solve every layout with every batch of the cases of benchmarks/peer, and compare with the solver.

    python benchmarks/exhaustive.py [--case NAME ...] [--way whole|parts|pairs ...] [--memory-only]

Writes results/exhaustive.md. What the solver leaves out by bounds on throughput, by intervals of
batches and by incumbents is solved here one by one: each candidate by the dynamic programme over
its splits, batch after batch, until a requirement that only gets harder with the batch surely fails
(memory, TTFT, TPOT; with --memory-only memory alone, which takes far longer). Splits
themselves are compared with all splits in tests/test_solver_against_oracle.py, pairs of roles with
all pairs of splits in tests/disaggregated/test_exhaustive.py.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from exhaustive_pairs import best_pair, every_plan, rows_that_fit
from measure import RESULTS, describe_machine, machine, markdown_table, measure, write

from autopar.disaggregated.task import make_pair
from autopar.problem import Candidate, Candidates
from autopar.search import Splits, Task, Vector, make_task
from autopar.specs import Scenario

sys.path.insert(0, str(Path(__file__).parent / "peer"))
from cases import Case, load_cases, select

COMMAND = "python benchmarks/exhaustive.py"
WHOLE = "workload.chunked_prefill=false"  # what the cases add, as the peer computes prompts whole
MOST_GPUS_IN_PARTS = 96  # with parts of prompts, larger cases take an hour


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
            self.best = values
            self.where = words(row.row(0))


def words(one: Candidate) -> str:
    """Return a layout in a cell of the table."""
    return (
        f"{one.replicas}x(pp{one.pp} tp{one.tp} cp{one.cp} dp{one.attn_dp} ep{one.ep} "
        f"etp{one.etp}), batch {one.batch}, {one.chunks} parts"
    )


def solve_all(task: Task, *, memory_only: bool) -> Found:
    """Solve every layout with every batch that no growing requirement rules out."""
    splits, found = Splits(task), Found(len(task.problem.candidates))
    for row in rows_that_fit(task, memory_only=memory_only):
        found.take(splits.values(row), row)
    return found


def one_role(arguments: list[str], *, memory_only: bool) -> list[str]:
    """Return one line of the table of plans whose GPUs do both prefill and decode."""
    answer = measure(arguments, runs=1).answer()
    task = make_task(Scenario.model_validate(answer["spec"]))
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
        f"{found.layouts:,}",
        f"{found.solved:,}",
        f"{found.with_plan:,}",
        f"{seconds:.0f}",
        found.where,
        "-" if best is None else f"{best[0]:,.3f}",
        f"{values[0]:,.3f}",
        "equal" if equal else "DIFFERENT",
    ]


def two_roles(arguments: list[str]) -> list[str]:
    """Return one line of the table of pairs."""
    answer = measure(arguments, runs=1).answer()
    task = make_pair(Scenario.model_validate(answer["spec"]))
    start = time.perf_counter()
    sides = [every_plan(role) for role in task.roles]
    reached = best_pair(task, sides[0], sides[1], "reached")
    unbeaten = best_pair(task, sides[0], sides[1], "unbeaten")
    seconds = time.perf_counter() - start
    value = float(answer["objectives"][0]["value"])
    rate = task.objectives[0].value
    equal = (
        reached is not None
        and unbeaten is not None
        and np.allclose([rate(reached.rate), rate(unbeaten.rate)], value, rtol=1e-12)
    )
    return [
        " + ".join(f"{len(role.problem.candidates):,}" for role in task.roles),
        " + ".join(f"{side.solved:,}" for side in sides),
        f"{len(sides[0].rows) * len(sides[1].rows):,}",
        f"{seconds:.0f}",
        "-" if reached is None else f"{words(reached.prefill)} + {words(reached.decode)}",
        "-" if reached is None else f"{rate(reached.rate):,.3f}",
        "-" if unbeaten is None else f"{rate(unbeaten.rate):,.3f}",
        f"{value:,.3f}",
        "equal" if equal else "DIFFERENT",
    ]


def in_parts(case: Case) -> list[str]:
    """Return the command of a case that may compute prompts in parts, as it does by default."""
    arguments = case.autopar_arguments()
    at = arguments.index(WHOLE)
    return [*arguments[: at - 1], *arguments[at + 1 :]]


@dataclass(frozen=True, slots=True)
class Way:
    """One table: its heading and header, whether a case belongs there, and how a line is made."""

    heading: str
    header: str
    has: Callable[[Case], bool]
    line: Callable[[Case, bool], list[str]]


_ONE_ROLE = "layouts|solved|with a plan|s|best of all|its throughput|the solver's|all objectives"
WAYS = {
    "whole": Way(
        "One role, prompts whole",
        _ONE_ROLE,
        lambda _: True,
        lambda case, memory: one_role(case.autopar_arguments(), memory_only=memory),
    ),
    "parts": Way(
        "One role, prompts whole or in parts",
        _ONE_ROLE,
        lambda case: case.gpus <= MOST_GPUS_IN_PARTS,
        lambda case, memory: one_role(in_parts(case), memory_only=memory),
    ),
    "pairs": Way(
        "Two roles",
        "layouts|solved|pairs|s|best of all|its throughput|at most|the solver's|throughput",
        lambda case: "disagg" in case.modes,
        lambda case, _: two_roles(case.autopar_arguments("disagg")),
    ),
}


def main() -> int:
    """Compare the cases that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--case", action="append", default=[], help="a case of benchmarks/peer")
    parser.add_argument("--way", action="append", choices=sorted(WAYS), help="default: all")
    parser.add_argument("--memory-only", action="store_true", help="stop at memory alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results file")
    options = parser.parse_args()
    cases = select(load_cases(), options.case)
    asked = [*(f"--case {name}" for name in options.case)]
    asked += [f"--way {name}" for name in options.way or ()]
    asked += ["--memory-only"] if options.memory_only else []
    text = [
        "# Every layout with every batch",
        "",
        f"`{' '.join([COMMAND, *asked])}`. {describe_machine(machine())}",
        "",
        "Throughput in tokens/s. One role: all objectives, in order, are compared to 12 digits.",
        "Two roles: throughput, over every layout, number of replicas and batch of both. Splits",
        "that were looked at reach one figure, and no split has more than the other.",
    ]
    wrong = False
    for name in options.way or WAYS:
        way, lines = WAYS[name], list[list[str]]()
        for case in filter(way.has, cases):
            lines.append([case.name, *way.line(case, options.memory_only)])
            print(" | ".join(lines[-1]), flush=True)
            table = markdown_table(["case", *way.header.split("|")], lines)
            write(options.out / "exhaustive.md", [*text, "", f"## {way.heading}", "", *table])
        text += [
            "",
            f"## {way.heading}",
            "",
            *markdown_table(["case", *way.header.split("|")], lines),
        ]
        wrong |= any(line[-1] != "equal" for line in lines)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
