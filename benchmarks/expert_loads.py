"""Which law of expert loads predicts measured runs of mixtures of experts best.

    python benchmarks/expert_loads.py TABLE.csv

TABLE.csv: measured runs, as `autopar validate --data` reads them. Writes
results/validation/expert-loads.md: the errors of TPOT under each law that a workload can name, of
runs in a closed loop whose requests were not held back.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import get_args

from measure import RESULTS, describe_machine, machine, markdown_table, write

from autopar.specs import ServingCase
from autopar.specs.workload import ExpertLoad
from autopar.validation.bulk import read_bulk
from autopar.validation.outcomes import evaluate
from autopar.validation.statistics import score

LEFT_ASIDE = "inferencex_slo"  # contradicts another source: benchmarks/fit_bands.py


def main() -> None:
    """Predict under each law, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    options = parser.parse_args()
    laws: tuple[ExpertLoad, ...] = get_args(ExpertLoad)
    cases = [
        (source, case)
        for source, case in read_bulk(options.table).cases
        if source != LEFT_ASIDE and isinstance(case, ServingCase)
    ]
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for law in laws:
        moved = [(s, c.model_copy(update={"expert_load": law})) for s, c in cases]
        groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for outcome in evaluate(moved).outcomes:
            if outcome.is_moe and outcome.metric == "tpot_ms" and not outcome.is_held_back:
                pair = outcome.predicted, outcome.measured
                groups["**all**"].append(pair)
                groups[f"{outcome.llm}, {outcome.gpu}, {outcome.engine}"].append(pair)
        for name, pairs in groups.items():
            one = score([p for p, _ in pairs], [m for _, m in pairs])
            found[name][law] = f"{one.mape:.1%} ({one.bias:+.1%}) of {one.rows}"
    rows = [[name, *(by_law.get(law, "") for law in laws)] for name, by_law in found.items()]
    lines = [
        "# Loads of experts",
        f"\n{describe_machine(machine())} `python benchmarks/expert_loads.py TABLE.csv`.\n",
        "MAPE of TPOT, and in brackets the median of predicted / measured - 1, under each law.\n",
        *markdown_table(["model, GPU, engine", *laws], sorted(rows)),
    ]
    write(RESULTS / "validation" / "expert-loads.md", lines)


if __name__ == "__main__":
    main()
