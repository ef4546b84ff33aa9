"""Say what is known of the runs whose TPOT is predicted worst: results/validation/misses.md.

    python benchmarks/misses.py TABLE.csv

TABLE.csv: measured runs, as `autopar validate --data` reads them. What is written are facts of the
table: figures that contradict each other, or that grow where they cannot. Why, its sources do not
say.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import RESULTS, describe_machine, machine, markdown_table, write

from autopar.specs import ServingCase, ServingRow
from autopar.validation.bulk import read_bulk
from autopar.validation.outcomes import BYTES, Outcome, evaluate
from autopar.validation.statistics import scaled_to_fit

WORST_GROUPS = """\
Groups of at least {rows} rows with the largest error of TPOT. bytes: the trivial model of
table.md. What follows are facts of the table; their causes its sources do not state.
"""
HELD = """\
With {clients} clients TPOT is that of so few as the fourth column says, while the first token takes
as long as the third: {near} of {rows} within 3.5 %. So few ran at a time; what held the others back
is not stated. Without these rows the error is {error:.0%}, of {others} rows.
"""
FOLDER = """\
Rows of an experimental folder. For prompts of one length on as many shards, with as many clients,
first tokens take several times as long as in the main table, whose experts are sharded by TP where
the folder's are by EP; and TPOT falls as clients are added (prompts of 8,192 tokens: 25.1 ms with 8
clients, 14.6 with 48, 113 with 64). No band is fitted to them; they stay in the scores.
"""
NIM = """\
Lone requests take 1.2 to 1.3 times as long as predicted, whatever their length, and so do most
others: our error of {:.0%} is nearly a constant factor, of a build of TensorRT-LLM that is not
named. Bytes over bandwidth, with its constant for all rows, errs by {:.0%}.
"""
GB200 = """\
One file. A lone request is predicted within 2 %; with a second client TPOT is 2.6 and 5.2 times as
long, which is no cost of a step, and it falls again where clients are added.
"""
SWAPPED = """\
The table at the end of table.md counts them: all swaps that are left are of inferencex_slo, above.
Left out are 15 runs of gpt-oss-120b on H200 (TensorRT-LLM) whose columns say TP4 with EP2 and whose
names say tp2_ep2. Their tp_size is 4 = 2 x 2, as that of the runs named tp4_ep4 is 16, and they are
as fast as TP2 on two GPUs: TPOT is within 2.6 % in all 15, and 13 to 37 % longer than that of TP4
on four GPUs (with 4 clients 5.90 ms, 5.85 and 4.98). As plans on four GPUs they lost 14 pairs that
predictions order the other way. 28 more pairs were two runs of one layout, which tie. With both,
tau was 0.29 of 87 pairs.
"""
FEWEST = 5  # rows of a group in the first table
WORST = 8  # groups in the first table
FEW = 64  # clients; runs with more may be held back by a limit that is not stated


@dataclass(frozen=True, slots=True)
class Run:
    """A run with its TPOT, and what the trivial model of bytes says of it."""

    outcome: Outcome
    row: ServingRow
    trivial_ms: float

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Source, model, GPU and engine."""
        one = self.outcome
        return one.source, one.llm, one.gpu, one.engine

    @property
    def work(self) -> tuple[int, int]:
        """Lengths of prompt and answer."""
        return self.row.input_tokens, self.row.output_tokens


def runs_of(table: Path) -> list[Run]:
    """Return the serving runs of a table that have a TPOT."""
    cases = [(s, c) for s, c in read_bulk(table).cases if isinstance(c, ServingCase)]
    rows = {row.id: row for _, case in cases for row in case.rows}
    found = [o for o in evaluate(cases).outcomes if o.metric == "tpot_ms"]
    trivial = scaled_to_fit([o.trivial[BYTES] for o in found], [o.measured for o in found])
    return [Run(o, rows[o.row], ms) for o, ms in zip(found, trivial, strict=True)]


def mape(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the mean of |predicted / measured - 1|."""
    return sum(abs(p / m - 1) for p, m in pairs) / len(pairs)


def errors(runs: Sequence[Run]) -> tuple[float, float]:
    """Return our error, and that of bytes over bandwidth."""
    ours = [(r.outcome.predicted, r.outcome.measured) for r in runs]
    return mape(ours), mape([(r.trivial_ms, r.outcome.measured) for r in runs])


def worst(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the groups that are predicted worst."""
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.group].append(run)
    ranked = sorted(
        (pair for pair in groups.items() if len(pair[1]) >= FEWEST), key=lambda p: -errors(p[1])[0]
    )
    table = [
        [*name, f"{len(own)}", *(f"{error:.0%}" for error in errors(own))]
        for name, own in ranked[:WORST]
    ]
    yield from markdown_table(["source", "model", "GPU", "engine", "rows", "MAPE", "bytes"], table)


def held(runs: Sequence[Run], clients: int) -> Iterator[str]:
    """Yield runs with so many clients whose TPOT is that of far fewer."""
    table, near = [], 0
    for run in (r for r in runs if r.row.concurrency == clients):
        same = [
            r
            for r in runs
            if (r.work, r.row.tp) == (run.work, run.row.tp) and r.row.concurrency <= FEW
        ]
        twin = min(same, key=lambda r: abs(r.outcome.measured / run.outcome.measured - 1))
        apart = twin.outcome.measured / run.outcome.measured - 1
        near += abs(apart) <= 0.035
        table.append(
            [
                f"TP{run.row.tp}, in {run.work[0]:,}, out {run.work[1]:,}",
                f"{run.outcome.measured:.2f}",
                f"{(run.row.ttft_ms or 0) / 1e3:.0f}",
                f"{twin.row.concurrency}",
                f"{twin.outcome.measured:.2f}",
                f"{apart:+.1%}",
                f"{run.outcome.predicted:.1f}",
            ]
        )
    rest = [r for r in runs if r.row.concurrency != clients]
    yield HELD.format(
        clients=clients, near=near, rows=len(table), error=errors(rest)[0], others=len(rest)
    )
    header = ["run", "TPOT, ms", "TTFT, s", "clients", "their TPOT", "apart", "predicted"]
    yield from markdown_table(header, table)


def beside(runs: Sequence[Run], others: Sequence[Run]) -> Iterator[str]:
    """Yield first tokens of two sources, for prompts of one length on as many shards and clients.

    Of several runs of the second source the slowest counts.
    """
    slowest: dict[tuple[int, int, int], float] = {}
    for other in others:
        slowest[_asked(other)] = max(slowest.get(_asked(other), 0.0), other.row.ttft_ms or 0.0)
    table = [
        [
            "TP{}, {:,} tokens, {} clients".format(*_asked(run)),
            f"{run.row.ttft_ms:,.0f}",
            f"{slowest[_asked(run)]:,.0f}",
            f"{(run.row.ttft_ms or 0) / slowest[_asked(run)]:.1f}",
        ]
        for run in sorted(runs, key=_asked)
        if slowest.get(_asked(run)) and run.row.concurrency <= FEW
    ]
    yield from markdown_table(["run", "TTFT, ms", "in the main table", "times"], table)


def _asked(run: Run) -> tuple[int, int, int]:
    return run.row.tp, run.row.input_tokens, run.row.concurrency


def by_clients(runs: Sequence[Run]) -> Iterator[str]:
    """Yield measured and predicted TPOT as clients grow."""
    table = [
        [
            f"in {run.work[0]:,}, out {run.work[1]:,}",
            f"{run.row.concurrency}",
            f"{run.outcome.measured:.2f}",
            f"{run.outcome.predicted:.2f}",
            f"{run.outcome.ratio:.2f}",
        ]
        for run in sorted(runs, key=lambda r: (r.work, r.row.concurrency))
    ]
    header = ["work", "clients", "measured, ms", "predicted", "measured / predicted"]
    yield from markdown_table(header, table)


def lines(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the page."""

    def of(source: str, llm: str, gpu: str, engine: str) -> list[Run]:
        return [r for r in runs if r.group == (source, llm, gpu, engine)]

    yield "# Where predictions miss"
    yield f"\n{describe_machine(machine())} `python benchmarks/misses.py TABLE.csv`.\n"
    yield WORST_GROUPS.format(rows=FEWEST)
    yield from worst(runs)
    yield "\n## gpt-oss-120b on H100, vLLM\n"
    yield from held(of("inferencex_aic", "gpt-oss-120b", "h100-sxm-80gb", "vllm"), 512)
    yield "\n## inferencex_slo: MiniMax-M2.5 on H200, vLLM\n"
    yield FOLDER
    main = of("inferencex_aic", "minimax-m2.5", "h200-sxm-141gb", "vllm")
    yield from beside(of("inferencex_slo", "minimax-m2.5", "h200-sxm-141gb", "vllm"), main)
    yield "\n## Llama 3.3 70B in BF16 on 4 H100, NIM\n"
    nim = of("nim_llama70b", "llama-3.1-70b", "h100-sxm-80gb", "tensorrt-llm")
    yield NIM.format(*errors(nim))
    yield from by_clients(nim)
    yield "\n## Qwen3-32B on GB200, TensorRT-LLM\n"
    yield GB200
    yield from by_clients(of("inferencex_aic", "qwen3-32b", "gb200-186gb", "tensorrt-llm"))
    yield "\n## Which plans on equally many GPUs are swapped\n"
    yield SWAPPED


def main() -> None:
    """Predict, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    options = parser.parse_args()
    write(RESULTS / "validation" / "misses.md", list(lines(runs_of(options.table))))


if __name__ == "__main__":
    main()
