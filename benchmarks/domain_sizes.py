"""The document's scenario by size of the scale-up domain: which plan is best, and how sure.

Writes results/domain-sizes.md:

    python benchmarks/domain_sizes.py
"""

import argparse
import sys
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

DOMAINS = (32, 64, 128, 256, 512)


def layers_per_stage(answer: dict[str, Any]) -> str:
    """Return the layers of every stage, as one number where they are equal."""
    sizes = [len(stage["layers"]) for stage in answer["stages"]]
    return str(sizes[0]) if len(set(sizes)) == 1 else " + ".join(map(str, sizes))


def row(domain: int, result: Measurement) -> list[str]:
    """Return one line of the table."""
    answer = result.answer()
    if answer["status"] not in ("optimal", "feasible"):
        return [str(domain), "", "", "", answer["status"], "", "", "", "", f"{result.wall_s:.2f}"]
    objective = answer["objective"]
    degrees = answer["degrees"]
    layout = ", ".join(f"{key} {degrees[key]}" for key in ("tp", "ep", "etp") if degrees[key])
    return [
        str(domain),
        str(degrees["pp"]),
        layers_per_stage(answer),
        layout,
        answer["status"],
        is_unique(answer),
        f"{objective['value']:,.6g}",
        f"{objective['bound']:,.6g}",
        f"{objective['gap']:.2g}",
        f"{result.wall_s:.2f}",
    ]


def decided_by(answer: dict[str, Any]) -> str:
    """Return one sentence on the objectives that tied and the one that decided."""
    objectives = answer.get("objectives") or []
    tied = [o["name"] for o in objectives if o.get("tied")]
    decided = [
        f"{o['name']} ({o['value']:g} {o['unit']}, bound {o['bound']:g})"
        for o in objectives
        if not o.get("tied")
    ]
    return f"tied: {', '.join(tied) or 'none'}; decided by: {', '.join(decided) or 'none'}"


def main() -> int:
    """Solve every domain size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3, help="runs per size (default 3)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default results/)")
    options = parser.parse_args()
    results = {
        domain: measure(
            ["solve", SCENARIO, "--json", *overrides({"cluster.gpus_per_domain": domain})],
            options.runs,
            accept=(0, 3, 4),  # an infeasible size is a line of the table, not a failure
        )
        for domain in DOMAINS
    }
    answers = {domain: result.answer() for domain, result in results.items()}
    objective = next(iter(answers.values()))["objective"]
    header = ["domain, GPUs", "PP", "layers per stage", "layout", "status", "unique"]
    header += [f"{objective['name']}, {objective['unit']}", "bound", "gap", "wall, s"]
    methods = dict.fromkeys(
        str(a["uniqueness"]["method"]) for a in answers.values() if a.get("uniqueness")
    )
    lines = [
        "# The best plan by size of the scale-up domain",
        "",
        f"Made by `python benchmarks/domain_sizes.py --runs {options.runs}`; times are medians.",
        describe_machine(machine()),
        "",
        *markdown_table(header, [row(domain, result) for domain, result in results.items()]),
        "",
        "Unique means: no other optimum exists but the same plan with its parts renamed. Shown by:",
        "",
        *(f"- {method}" for method in methods or {"no method was reported": None}),
        "",
        "Objectives, in their order:",
        "",
        *(f"- {domain} GPUs: {decided_by(answer)}" for domain, answer in answers.items()),
        "",
        "The commands:",
        "",
        *(f"    {result.command}" for result in results.values()),
    ]
    write(options.output / "domain-sizes.md", lines)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CommandError as error:
        sys.exit(f"domain_sizes: {error}")
