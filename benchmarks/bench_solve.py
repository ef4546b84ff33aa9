"""Time and memory of the command line, and how they grow with the number of GPUs.

Writes results/benchmark.md and .json:

    python benchmarks/bench_solve.py [--runs 5] [--max-gpus 65536]
"""

import argparse
import datetime as dt
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import (
    RESULTS,
    SCENARIO,
    CommandError,
    Measurement,
    describe_machine,
    is_unique,
    machine,
    markdown_table,
    measure,
    overrides,
    write,
)

# The document behind the scenario, from which the other sizes are scaled.
BASE_LAYERS = 16
BASE_EXPERTS = 16
BASE_PARAMETERS = 10e9
BASE_TTFT_LIMIT_US = 10e6
SHARDS = 2  # TP2
LAYERS_PER_DOMAIN = 2
GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True)
class Size:
    """One size of the scenario, one GPU per expert shard; target_s is the wall time we promise."""

    layers: int
    experts: int
    target_s: float | None = None

    @property
    def gpus(self) -> int:
        """One GPU per (layer, expert, shard)."""
        return self.layers * self.experts * SHARDS

    def fields(self) -> dict[str, float | int]:
        """Fields of the scenario that make this size.

        Bytes per expert and the TTFT limit per layer stay those of the document, and a domain
        holds as many layers, so that only the size differs.
        """
        share = self.layers * self.experts / (BASE_LAYERS * BASE_EXPERTS)
        return {
            "llm.num_layers": self.layers,
            "llm.num_experts": self.experts,
            "llm.num_parameters": round(BASE_PARAMETERS * share),
            "cluster.num_nodes": self.gpus // GPUS_PER_NODE,
            "cluster.gpus_per_domain": self.experts * SHARDS * LAYERS_PER_DOMAIN,
            "requirements.max_ttft_us": round(BASE_TTFT_LIMIT_US * self.layers / BASE_LAYERS),
        }


SIZES = (
    Size(8, 8),
    Size(16, 16, target_s=1.5),
    Size(32, 32),
    Size(128, 32, target_s=4.0),
    Size(128, 128),
    Size(256, 128, target_s=30.0),
)
HELP_TARGET_S = 0.3


def check(size: Size, answer: dict[str, Any]) -> None:
    """Stop if the answer is not the one whose time is being reported."""
    if answer["status"] != "optimal" or answer["num_gpus"] != size.gpus:
        raise CommandError(
            f"{size}: expected an optimal plan on {size.gpus} GPUs, found "
            f"{answer['status']} on {answer['num_gpus']}"
        )
    shards = {(row["layer"], row["expert"], row["shard"]) for row in answer["placement"]}
    gpus = {row["gpu"] for row in answer["placement"]}
    if len(shards) != size.gpus or len(gpus) != size.gpus:
        raise CommandError(f"{size}: {len(shards)} expert shards on {len(gpus)} GPUs")


def verdict(measured_s: float, target_s: float | None) -> str:
    """Return the target and whether it was met."""
    if target_s is None:
        return ""
    return f"{target_s:g} s, {'met' if measured_s <= target_s else '**missed**'}"


def row(name: str, result: Measurement, target_s: float | None) -> list[str]:
    """Return one line of a table of times."""
    low, high = result.spread_s
    return [
        name,
        f"{result.wall_s:.2f}",
        f"{low:.2f} to {high:.2f}",
        f"{result.peak_rss_bytes / 1e6:.0f}",
        verdict(result.wall_s, target_s),
    ]


def shell_section(shell: dict[str, Measurement]) -> list[str]:
    """Return the part on what a user waits for at the shell."""
    header = ["command", "median, s", "runs, s", "peak RSS, MB", "target"]
    targets = {"help": HELP_TARGET_S, "solve": 1.5}
    rows = [row(f"`{m.command}`", m, targets[name]) for name, m in shell.items()]
    return ["## From the shell", "", *markdown_table(header, rows), ""]


def growth_section(growth: dict[Size, Measurement]) -> list[str]:
    """Return the part on growth: times, what was proven, phases, and the commands."""
    header = ["GPUs", "median, s", "runs, s", "peak RSS, MB", "target"]
    lines = ["## Growth", ""]
    lines += [
        "Every size is solved to proven optimality, with the explicit map of every expert shard",
        "to its GPU, and verified; the time includes printing the whole answer as JSON.",
        "",
    ]
    rows = [
        row(f"{s.gpus:,} = {s.layers} layers x {s.experts} experts x {SHARDS}", m, s.target_s)
        for s, m in growth.items()
    ]
    lines += [*markdown_table(header, rows), ""]
    proof = []
    for size, result in growth.items():
        answer = result.answer()
        proof.append(
            [
                f"{size.gpus:,}",
                answer["status"],
                f"{answer['objective']['gap']:.2g}",
                is_unique(answer),
                str(answer["degrees"]["pp"]),
            ]
        )
    lines += [*markdown_table(["GPUs", "status", "gap", "unique", "pp"], proof), ""]
    phases = {size: result.phases_s() for size, result in growth.items()}
    names = list(dict.fromkeys(name for spent in phases.values() for name in spent))
    if names:
        rows = [
            [f"{s.gpus:,}", *(f"{spent.get(n, 0.0):.3f}" for n in names)]
            for s, spent in phases.items()
        ]
        lines += [
            "Seconds by phase, as the answer itself reports them (`solver.phases_s`), medians:",
            "",
            *markdown_table(["GPUs", *names], rows),
            "",
        ]
    lines += ["The commands:", ""]
    lines += [f"    {result.command}" for result in growth.values()]
    return [*lines, ""]


def main() -> int:
    """Measure and write the two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5, help="runs per command (default 5)")
    parser.add_argument("--max-gpus", type=int, default=65_536, help="largest size (default 65536)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default results/)")
    options = parser.parse_args()
    shell = {
        "help": measure(["--help"], options.runs),
        "solve": measure(["solve", SCENARIO], options.runs),
    }
    growth: dict[Size, Measurement] = {}
    for size in SIZES:
        if size.gpus <= options.max_gpus:
            result = measure(["solve", SCENARIO, "--json", *overrides(size.fields())], options.runs)
            check(size, result.answer())
            growth[size] = result
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    facts = machine()
    made_by = (
        f"python benchmarks/bench_solve.py --runs {options.runs} --max-gpus {options.max_gpus}"
    )
    lines = [
        f"# Time and memory, {today}",
        "",
        f"Made by `{made_by}`: medians of {options.runs} runs after one to warm up.",
        describe_machine(facts),
        "",
        *shell_section(shell),
        *growth_section(growth),
    ]
    write(options.output / "benchmark.md", lines[:-1])
    record = {
        "command": made_by,
        "machine": facts,
        "shell": {name: result.record() for name, result in shell.items()},
        "growth": [
            {"gpus": s.gpus, "layers": s.layers, "experts": s.experts, "target_s": s.target_s}
            | m.record()
            | {"median_phases_s": m.phases_s()}
            for s, m in growth.items()
        ],
    }
    write(options.output / "benchmark.json", [json.dumps(record, indent=2)])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CommandError as error:
        sys.exit(f"bench_solve: {error}")
