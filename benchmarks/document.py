"""The 512-GPU document: the plan recovered, the hand-written plan audited, both compared.

Writes results/recovered-plan.md and .json, results/audit.md and results/comparison.md:

    python benchmarks/document.py
"""

import sys

from measure import RESULTS, SCENARIO, describe_machine, machine, run_once, write

PLAN = "ep16-tp2-pp8"
PAGES = {
    "recovered-plan.md": (
        "The plan that the solver finds for the 512-GPU document",
        [["solve", SCENARIO]],
    ),
    "audit.md": (
        "The hand-written plan of the 512-GPU document, checked and audited",
        [["verify", SCENARIO, PLAN]],
    ),
    "comparison.md": (
        "The hand-written plan beside the solver's, and what the one-to-one mapping costs",
        [
            ["compare", SCENARIO, PLAN],
            ["compare", f"{SCENARIO}-analytic", PLAN],
            ["compare", f"{SCENARIO}-analytic", PLAN, "--coverage", "partition"],
        ],
    ),
}


def main() -> int:
    """Run the commands and write what they print."""
    facts = describe_machine(machine())
    for name, (title, commands) in PAGES.items():
        lines = [f"# {title}", "", "Made by `python benchmarks/document.py`.", facts, ""]
        for arguments in commands:
            shown = run_once([*arguments, "--no-color"]).stdout.rstrip()
            lines += [f"    $ autopar {' '.join(arguments)}"]
            lines += [f"    {line}".rstrip() for line in shown.splitlines()]
            lines += [""]
        write(RESULTS / name, lines[:-1])
    plan = RESULTS / "recovered-plan.json"
    run_once(["solve", SCENARIO, "-q", "-o", str(plan)])
    run_once(["verify", SCENARIO, str(plan)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
