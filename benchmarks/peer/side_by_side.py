"""Run every case through autopar and through the peer, and score both plans with both evaluators.

    python benchmarks/peer/side_by_side.py --peer-env ENV [--peer-runs DIR] [--case NAME ...]

Writes results/side-by-side.md and .json. --peer-runs takes the peer's recorded searches and oracles
(run_peer.py, run_oracle.py) instead of searching again; --autopar-runs takes recorded answers of
autopar, to try the pipeline without it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import autopar_side as ours
import run_peer
from cases import Case, load_cases, select
from report import write_report
from run_oracle import recorded_oracle

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "results"


@dataclass(slots=True)
class Row:
    """One case and one way of serving: what both programs said, and what both say of both plans.

    Scores are peer_score.py's; ours is our own evaluation of the peer's plan.
    """

    case: Case
    mode: str
    answer: ours.Answer | None = None
    failed: str = ""  # why autopar gave no plan
    peer_run: Mapping[str, Any] | None = None
    oracle: Mapping[str, Any] | None = None
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_autopar: dict[str, Any] = field(default_factory=dict)

    @property
    def winner(self) -> Mapping[str, Any] | None:
        """The peer's best plan of this way of serving."""
        found: Mapping[str, Any] | None = (self.peer_run or {}).get("best", {}).get(self.mode)
        return found

    @property
    def disagreement(self) -> float | None:
        """How far peer_score.py is from what the peer itself printed for its winner, relative."""
        score = self.scores.get("peer") or {}
        if not self.winner or score.get("status") != "scored":
            return None
        names = ("tokens_per_s_per_gpu", "ttft_ms", "tpot_ms")
        return float(max(abs(score[name] / self.winner[name] - 1) for name in names))

    def record(self) -> dict[str, Any]:
        """Return the row as it goes into the .json file."""
        answer = self.answer
        return {
            "case": self.case.name,
            "mode": self.mode,
            "limits": {"ttft_ms": self.case.ttft_ms, "tpot_ms": self.case.tpot_ms},
            "autopar": {
                "command": self.case.autopar_command(self.mode),
                "failed": self.failed,
                **(
                    {
                        "wall_s": answer.wall_s,
                        "cpu_s": answer.cpu_s,
                        "solve_s": answer.solve_s,
                        "peak_rss_bytes": answer.peak_rss_bytes,
                        "status": answer.document.get("status"),
                        "degrees": answer.document.get("degrees"),
                        "batch": answer.document.get("batch"),
                        "objective": answer.document.get("objective"),
                        "metrics": answer.document.get("metrics"),
                    }
                    if answer
                    else {}
                ),
            },
            "peer": self.peer_run or {"cannot": self.case.peer.cannot},
            "oracle": (self.oracle or {}).get(self.mode),
            "by_the_peer": self.scores,
            "disagreement": self.disagreement,
            "by_autopar": self.by_autopar,
            "why": self.case.why,
        }


def ask_autopar(row: Row, options: argparse.Namespace, folder: Path) -> None:
    """Put autopar's answer, or why there is none, into a row."""
    try:
        if options.autopar_runs:
            row.answer = ours.recorded(row.case, row.mode, options.autopar_runs)
        else:
            row.answer = ours.solve(row.case, row.mode, folder, options.runs)
    except ours.AutoparError as error:
        row.failed = str(error)
        return
    if not row.answer.has_plan:
        row.failed = str(row.answer.document.get("status", "no status"))


def ask_peer(row: Row, options: argparse.Namespace, work: Path) -> None:
    """Put the peer's search, recorded or new, and its oracle where there is one into a row."""
    if row.case.peer.cannot:
        return
    where = options.peer_runs or work
    found = run_peer.recorded(row.case, where)
    row.peer_run = found or run_peer.run_case(row.case, options.peer_env, where)
    row.oracle = recorded_oracle(row.case, where)


def plans_to_score(row: Row, env: Path, work: Path) -> None:
    """Put both plans in the peer's words into a row; what has none is scored as `cannot`."""
    if row.case.peer.cannot:
        return
    folder = work / row.case.name
    folder.mkdir(parents=True, exist_ok=True)
    model = run_peer.model_path(row.case, env, folder)
    if row.answer and row.answer.has_plan:
        try:
            row.plans["autopar"] = ours.as_peer_plan(row.case, row.answer.document, model)
        except ours.NoCounterpartError as error:
            row.scores["autopar"] = {"status": "cannot", "error": f"no counterpart: {error}"}
    if row.winner:
        row.plans["peer"] = ours.winner_as_peer_plan(row.case, row.winner, model)


def score_with_peer(rows: Sequence[Row], python: str) -> None:
    """Let the peer's evaluator score every plan, in one process."""
    asked = [(row, whose) for row in rows for whose in row.plans]
    done = subprocess.run(
        [python, str(HERE / "peer_score.py")],
        input=json.dumps([row.plans[whose] for row, whose in asked]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise run_peer.PeerError(f"peer_score.py: exit {done.returncode}\n{done.stderr[-2000:]}")
    for (row, whose), score in zip(asked, json.loads(done.stdout), strict=True):
        row.scores[whose] = score


def score_with_autopar(row: Row, folder: Path) -> None:
    """Put our own evaluation of both plans into a row."""
    if not (row.answer and row.answer.has_plan):
        return
    row.by_autopar["autopar"] = {"metrics": row.answer.document.get("metrics")}
    if not row.winner:
        return
    try:
        plan = ours.winner_as_our_plan(row.answer.document, row.winner)
        row.by_autopar["peer"] = ours.verify(row.answer, plan, folder)
    except (ours.NoCounterpartError, ours.AutoparError, KeyError) as error:
        row.by_autopar["peer"] = {"error": f"{type(error).__name__}: {error}"}


def run(cases: Sequence[Case], options: argparse.Namespace, work: Path) -> list[Row]:
    """Run the comparison, one case after the other."""
    python = run_peer.peer_python(options.peer_env)
    rows = [Row(case, mode) for case in cases for mode in case.modes]
    for row in rows:
        folder = work / row.case.name / "autopar"
        ask_autopar(row, options, folder)
        ask_peer(row, options, work)
        plans_to_score(row, options.peer_env, work)
        score_with_autopar(row, folder / f"verify-{row.mode}")
        print(f"{row.case.name} {row.mode}: {row.failed or 'solved'}", file=sys.stderr, flush=True)
    score_with_peer(rows, python)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, and write both results files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peer-env", type=Path, required=True, help="the peer's environment")
    parser.add_argument("--peer-runs", type=Path, help="recorded searches of the peer")
    parser.add_argument("--autopar-runs", type=Path, help="recorded answers of autopar")
    parser.add_argument("--runs", type=int, default=3, help="runs of autopar, of which the median")
    parser.add_argument("--case", action="append", default=[], help="a case; all by default")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results files")
    options = parser.parse_args(arguments)
    options.peer_env = options.peer_env.absolute()
    if options.peer_runs:
        options.peer_runs = options.peer_runs.absolute()
    cases = select(load_cases(), options.case)
    with tempfile.TemporaryDirectory() as name:
        rows = run(cases, options, Path(name))
        start_s = run_peer.start_s(options.peer_env, Path(name))
    write_report(rows, options.out, start_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
