"""Write results/peer.md and .json: what the peer alone answers, from recorded runs.

    python benchmarks/peer/peer_report.py --peer-runs DIR

DIR is what run_peer.py and run_oracle.py filled.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cases import Case, load_cases
from report import NONE, machine_line, number, say_degrees, table
from run_oracle import recorded_oracle
from run_peer import PEER_PACKAGE, PEER_VERSION, recorded

RESULTS = Path(__file__).parents[2] / "results"
ROLES = ("prefill", "decode")


def say_winner(found: Mapping[str, Any] | None) -> str:
    """Return a winner or an oracle's best in a few letters."""
    if not found:
        return "none"
    if "prefill" in found:
        parts = (f"{found[r]['workers']}x({say_degrees(found[r])})" for r in ROLES)
        times = f"{found['replicas']}x" if found.get("replicas", 1) != 1 else ""
        return f"{times}[{' + '.join(parts)}]"
    tokens = f", C{found['ctx_tokens']}" if "ctx_tokens" in found else ""
    times = f"{found['replicas']}x " if "replicas" in found else ""
    return f"{times}{say_degrees(found)}{tokens}"


def without_messages(oracle: Mapping[str, Any]) -> dict[str, Any]:
    """Return an oracle with the names of what lacks data, by kind of error, not its messages."""
    kept = dict(oracle)
    for mode in ("agg", "disagg"):
        if mode in kept:
            names: dict[str, list[str]] = {}
            for name, message in kept[mode]["without_data"].items():
                names.setdefault(message.split(":", 1)[0], []).append(name)
            kept[mode] = {**kept[mode], "without_data": names}
    return kept


def _memory(found: Mapping[str, Any]) -> str:
    if "prefill" in found:
        return "/".join(f"{found[role]['memory']:.0f}" for role in ROLES)
    return f"{found['memory']:.0f}"


def searches(entries: Sequence[tuple[Case, Mapping[str, Any]]]) -> list[str]:
    """Return the table of the searches: cost, rows kept, and both winners."""
    lines = []
    for case, run in entries:
        for mode in ("agg", "disagg"):
            found = run["best"].get(mode)
            lines.append(
                [
                    f"{case.name} {mode}",
                    f"{case.peer.backend}",
                    f"{case.ttft_ms:g}/{case.tpot_ms:g}",
                    number(run["wall_s"]) if mode == "agg" else "",
                    number(run["user_s"]) if mode == "agg" else "",
                    f"{run['peak_rss_bytes'] / 1e6:.0f}" if mode == "agg" else "",
                    str(run["rows"].get(mode, 0)),
                    say_winner(found),
                    number(found["tokens_per_s_per_gpu"]) if found else NONE,
                    number(found["ttft_ms"], ".0f") if found else NONE,
                    number(found["tpot_ms"]) if found else NONE,
                    _memory(found) if found else NONE,
                ]
            )
    header = ["case", "backend", "limits ms", "wall s", "user s", "RSS MB", "rows", "winner"]
    header += ["tok/s/GPU", "TTFT ms", "TPOT ms", "GiB/GPU"]
    return ["## Its own search (`cli default`)", "", *table(header, lines)]


def oracles(entries: Sequence[tuple[Case, Mapping[str, Any]]]) -> list[str]:
    """Return the table of the enumerated optima."""
    lines = []
    for case, oracle in entries:
        for mode in ("agg", "disagg"):
            part = oracle.get(mode) or {}
            grid, best = part.get("best_on_its_batches"), part.get("best")
            lines.append(
                [
                    f"{case.name} {mode}",
                    str(part.get("degree_sets", NONE)),
                    str(len(part.get("without_data", {}))),
                    str(part.get("points", NONE)),
                    number(part.get("seconds")),
                    number(grid["tokens_per_s_per_gpu"]) if grid else NONE,
                    say_winner(best),
                    number(best["tokens_per_s_per_gpu"]) if best else NONE,
                    number(best["ttft_ms"], ".0f") if best else NONE,
                    number(best["tpot_ms"]) if best else NONE,
                ]
            )
    header = ["case", "sets of degrees", "without data", "points", "s", "best on its batches"]
    header += ["best", "tok/s/GPU", "TTFT ms", "TPOT ms"]
    return ["## Best of everything that it could choose", "", *table(header, lines)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peer-runs", type=Path, required=True, help="recorded searches")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results files")
    options = parser.parse_args(arguments)
    cases = [case for case in load_cases() if not case.peer.cannot]
    runs = [(c, r) for c in cases if (r := recorded(c, options.peer_runs))]
    found = [(c, o) for c in cases if (o := recorded_oracle(c, options.peer_runs))]
    dates = sorted({run["date"] for _, run in runs})
    head = (
        f"{', '.join(dates)}. {machine_line()}. Input 4000, output 1000. b: sequences per "
        "attention group and pipeline slot; C: prompt tokens per mixed step; tok/s/GPU over the "
        "whole cluster. The search's time covers both ways of serving. The meaning of its numbers "
        "and the commands: `benchmarks/peer/README.md`."
    )
    lines = [
        f"# {PEER_PACKAGE} {PEER_VERSION} alone",
        "",
        head,
        "",
        *searches(runs),
        *oracles(found),
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "peer.md").write_text("\n".join(lines), encoding="utf-8")
    record = {
        "machine": machine_line(),
        "runs": [run for _, run in runs],
        "oracles": [without_messages(oracle) for _, oracle in found],
    }
    text = json.dumps(record, indent=1) + "\n"
    (options.out / "peer.json").write_text(text, encoding="utf-8")
    print("wrote peer.md and peer.json", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
