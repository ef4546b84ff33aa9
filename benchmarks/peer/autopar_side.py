"""Our side of the comparison: run autopar on a case, and turn its plan into the peer's words.

| autopar                | peer                         |
|------------------------|------------------------------|
| tp                     | tp                           |
| attn_dp                | attention dp                 |
| etp, ep                | moe tp, moe ep               |
| pp                     | pp                           |
| replicas               | workers (gpus // gpus of one)|
| batch                  | bs                           |

`batch` of both is sequences per attention rank and pipeline slot, so concurrency = batch x attn_dp
x pp x replicas. autopar's layers per stage have no counterpart: the peer splits a pipeline evenly.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cases import Case
from timed import run_timed

LIMIT_S = 120.0
ANSWERED = (0, 3, 4)  # solved, proven infeasible, limit reached (exit codes of `autopar solve`)


class AutoparError(RuntimeError):
    """autopar gave no answer that could be read."""


class NoCounterpartError(ValueError):
    """The peer has no words for this plan."""


@dataclass(frozen=True, slots=True)
class Answer:
    """autopar's document on one case and what it cost, as the median of its runs; in seconds."""

    document: Mapping[str, Any]
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    command: str

    @property
    def solve_s(self) -> float | None:
        """Wall time inside `solve`, as the answer states it: the last run's, without start-up."""
        solver = self.document.get("solver") or {}
        return float(solver["wall_s"]) if "wall_s" in solver else None

    @property
    def has_plan(self) -> bool:
        """Whether there is a plan to compare."""
        return self.document.get("status") in {"optimal", "feasible"}


def executable() -> str:
    """Return the `autopar` beside the interpreter that runs the benchmark, else the one on PATH.

    Raises AutoparError where there is none.
    """
    # Not resolved: the interpreter of a virtual environment is a link out of it.
    beside = shutil.which("autopar", path=str(Path(sys.executable).absolute().parent))
    found = beside or shutil.which("autopar")
    if not found:
        raise AutoparError("no command autopar; install the package first")
    return found


def solve(case: Case, mode: str, folder: Path, runs: int = 3) -> Answer:
    """Run `autopar solve` on a case, in `mode` agg or disagg.

    Raises AutoparError if it fails otherwise than by proof or limit, or prints no JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out, err = folder / f"{mode}.json", folder / f"{mode}.log"
    arguments = case.autopar_arguments(mode)
    costs = []
    for _ in range(runs):
        cost = run_timed([executable(), *arguments], out, err, limit_s=LIMIT_S)
        if cost.exit_code not in ANSWERED:
            last = err.read_text(encoding="utf-8").strip().splitlines()[-1:]
            raise AutoparError(f"exit {cost.exit_code}: {' '.join(last)}")
        costs.append(cost)
    return Answer(
        document=_read(out),
        wall_s=median(cost.wall_s for cost in costs),
        cpu_s=median(cost.user_s + cost.system_s for cost in costs),
        peak_rss_bytes=max(cost.peak_rss_bytes for cost in costs),
        command=case.autopar_command(mode),
    )


def recorded(case: Case, mode: str, folder: Path) -> Answer:
    """Return an answer that was stored as FOLDER/CASE.MODE.json, its cost in `measured`.

    Raises AutoparError where there is no such file.
    """
    path = folder / f"{case.name}.{mode}.json"
    if not path.exists():
        raise AutoparError(f"no recorded answer {path.name}")
    document = _read(path)
    cost = document.get("measured", {})
    return Answer(
        document=document,
        wall_s=cost.get("wall_s", float("nan")),
        cpu_s=cost.get("cpu_s", float("nan")),
        peak_rss_bytes=cost.get("peak_rss_bytes", 0),
        command=case.autopar_command(mode),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise AutoparError(f"{path.name}: no JSON document: {error}") from error
    return document


def peer_degrees(degrees: Mapping[str, Any]) -> dict[str, int]:
    """Return degrees of ours in the peer's names.

    Raises NoCounterpartError where stages differ, contexts are cut, or a stage is spread.
    """
    values = {name: degrees.get(name) for name in ("tp", "pp", "attn_dp", "ep", "etp")}
    differing = [name for name, value in values.items() if value is None]
    if differing:
        raise NoCounterpartError(f"stages differ in {', '.join(differing)}")
    for name in ("cp", "spread"):
        if (degrees.get(name) or 1) != 1:
            raise NoCounterpartError(f"{name} {degrees[name]}")
    counts = {name: int(value) for name, value in values.items() if value is not None}
    return {
        "tp": counts["tp"],
        "pp": counts["pp"],
        "attention_dp": counts["attn_dp"],
        "moe_tp": counts["etp"],
        "moe_ep": counts["ep"],
    }


def peer_batch(document: Mapping[str, Any], degrees: Mapping[str, Any]) -> dict[str, Any]:
    """Return `batch` or, where the document has none, `concurrency` of the whole cluster.

    Raises NoCounterpartError where it has neither.
    """
    if document.get("batch"):
        return {"batch": int(document["batch"])}
    concurrency = (document.get("metrics") or {}).get("concurrency")
    if not concurrency:
        raise NoCounterpartError(f"no batch and no concurrency (degrees {dict(degrees)})")
    return {"concurrency": float(concurrency)}


def as_peer_plan(case: Case, document: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return an answer of autopar as a plan that peer_score.py reads.

    A disaggregated answer has `roles`: {prefill, decode}, each with degrees and batch, where
    `replicas` counts the workers of the role.
    Raises NoCounterpartError where the peer has no words for it.
    """
    plan = plan_frame(case, model)
    if "roles" in document:
        plan |= {"mode": "disagg", "replicas": 1}
        for role, part in document["roles"].items():
            workers = int(part["degrees"].get("replicas") or 1)
            plan[role] = {
                **peer_degrees(part["degrees"]),
                **peer_batch(part, part["degrees"]),
                "workers": workers,
            }
        return plan
    degrees = document["degrees"]
    return plan | {
        "mode": "agg",
        "replicas": int(degrees.get("replicas") or 1),
        **peer_degrees(degrees),
        **peer_batch(document, degrees),
    }


def plan_frame(case: Case, model: str) -> dict[str, Any]:
    """Return what every plan of a case says to peer_score.py."""
    return {
        "name": case.name,
        "model": model,
        "system": case.peer.system,
        "backend": case.peer.backend,
        "isl": case.input_tokens,
        "osl": case.output_tokens,
        "num_gpus": case.gpus,
        "ttft_ms": case.ttft_ms,
        "tpot_ms": case.tpot_ms,
    }


def winner_as_peer_plan(case: Case, winner: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return a winner of the peer's command line as a plan that peer_score.py reads."""
    names = ("tp", "pp", "attention_dp", "moe_tp", "moe_ep")
    plan = plan_frame(case, model) | {"mode": winner["mode"], "replicas": winner["replicas"]}
    if winner["mode"] == "agg":
        more = {name: winner[name] for name in names}
        return plan | more | {"batch": winner["bs"], "ctx_tokens": winner["ctx_tokens"]}
    for role in ("prefill", "decode"):
        part = winner[role]
        more = {name: part[name] for name in names}
        plan[role] = more | {"batch": part["bs"], "workers": part["workers"]}
    return plan


def winner_as_our_plan(document: Mapping[str, Any], winner: Mapping[str, Any]) -> dict[str, Any]:
    """Return an aggregated winner of the peer as a plan file of ours.

    document: our answer to the same case, for the names of its model and cluster.
    """
    if winner["mode"] != "agg":
        raise NoCounterpartError("a disaggregated plan")
    is_moe = winner["moe_tp"] * winner["moe_ep"] > 1
    etp = winner["moe_tp"] if is_moe else winner["tp"] * winner["attention_dp"]
    return {
        "schema": 1,
        "kind": "plan",
        "name": "winner-of-the-peer",
        "llm": document["llm"],
        "cluster": document.get("cluster"),
        "degrees": {
            "replicas": winner["replicas"],
            "pp": winner["pp"],
            "tp": winner["tp"],
            "attn_dp": winner["attention_dp"],
            "ep": winner["moe_ep"],
            "etp": etp,
        },
        "batch": winner["bs"],
    }


def verify(answer: Answer, plan: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return our evaluation of a plan against the scenario that an answer embeds.

    The dictionary is {"metrics": ..., "violations": ...} of `autopar verify`, or {"error": ...}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec, written = folder / "scenario.json", folder / "plan.json"
    spec.write_text(json.dumps(answer.document.get("spec")), encoding="utf-8")
    written.write_text(json.dumps(plan), encoding="utf-8")
    out, err = folder / "verify.json", folder / "verify.log"
    command = [executable(), "verify", str(spec), str(written), "--json"]
    cost = run_timed(command, out, err, limit_s=LIMIT_S)
    if cost.exit_code not in {0, 1}:
        last = " ".join(err.read_text(encoding="utf-8").strip().splitlines()[-1:])
        return {"error": f"exit {cost.exit_code}: {last.replace(f'{folder}/', '')}"}
    try:
        found = _read(out)
    except AutoparError as error:
        return {"error": str(error)}
    return {
        "metrics": found.get("metrics"),
        "violations": found.get("violations", []),
        "accepted": cost.exit_code == 0,
    }
