"""Run the peer's search on the cases and record its time and its winners.

    python benchmarks/peer/run_peer.py --peer-env ENV --out DIR [--case NAME ...]

ENV is a virtual environment that holds aiconfigurator==0.12.0. Every case writes DIR/NAME/run.json;
the peer's own files lie beside it. A case that DIR already holds is not run again unless --again.
"""

import argparse
import csv
import dataclasses
import datetime as dt
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cases import Case, load_cases, select
from timed import run_timed

PEER_PACKAGE = "aiconfigurator"
PEER_VERSION = "0.12.0"
LIMIT_S = 15 * 60.0
ROLES = {"prefill": "(p)", "decode": "(d)"}


class PeerError(RuntimeError):
    """The peer's environment is not what the benchmark is written for."""


def peer_python(env: Path) -> str:
    """Return the interpreter of the peer's environment.

    Raises PeerError where it is absent or holds another version.
    """
    python = env / "bin" / "python"
    if not python.exists():
        raise PeerError(f"{env}: no bin/python; benchmarks/peer/README.md says how to make it")
    code = f"from importlib.metadata import version; print(version({PEER_PACKAGE!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    found = done.stdout.strip()
    if found != PEER_VERSION:
        raise PeerError(f"{env}: {PEER_PACKAGE} {found or 'absent'}, expected {PEER_VERSION}")
    return str(python)


def model_path(case: Case, env: Path, folder: Path) -> str:
    """Return what the peer is given as model: its name, or a folder made from its own config.json.

    Raises PeerError where the peer ships no config.json of that model.
    """
    if not case.peer.needs_folder:
        return case.peer.model
    slug = case.peer.model.replace("/", "--")
    found = sorted(env.glob(f"lib/*/site-packages/*/model_configs/{slug}_config.json"))
    if not found:
        raise PeerError(f"{case.name}: the peer ships no config.json of {case.peer.model}")
    target = folder / "model" / slug
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found[0], target / "config.json")
    if case.peer.quantization:
        text = json.dumps({"quantization": dict(case.peer.quantization)})
        (target / "hf_quant_config.json").write_text(text, encoding="utf-8")
    return str(target)


def _number(text: str) -> float | int | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() else value


def _degrees(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    names = ("tp", "pp", "dp", "moe_tp", "moe_ep", "bs", "memory")
    found = {name: row[prefix + name] for name in names}
    found["attention_dp"] = found.pop("dp")
    return found


def winner(row: Mapping[str, str], num_gpus: int) -> dict[str, Any]:
    """Return one line of the peer's table in our words.

    tokens_per_s_per_gpu is over every GPU of the cluster, idle ones too; ttft and tpot in ms;
    memory in GiB per GPU; concurrency is of the whole cluster.
    """
    values = {name: _number(text) for name, text in row.items()}
    per_unit = int(float(row["num_total_gpus"]))
    replicas = num_gpus // per_unit
    found: dict[str, Any] = {
        "tokens_per_s_per_gpu": values["tokens/s/gpu_cluster"],
        "tokens_per_s_per_user": values["tokens/s/user"],
        "ttft_ms": values["ttft"],
        "tpot_ms": values["tpot"],
        "replicas": replicas,
        "gpus_per_replica": per_unit,
        "idle_gpus": num_gpus - replicas * per_unit,
        "concurrency": float(row["concurrency"]) * replicas,
    }
    if "(p)tp" in row:
        found["mode"] = "disagg"
        for role, prefix in ROLES.items():
            found[role] = _degrees(values, prefix) | {"workers": values[f"{prefix}workers"]}
    else:
        found |= {"mode": "agg"} | _degrees(values, "") | {"ctx_tokens": values["ctx_tokens"]}
    return found


def read_outputs(folder: Path, num_gpus: int) -> dict[str, Any]:
    """Return winners and table sizes from the files that one run of the peer left.

    The peer ranks its own table; where two modes answered, both winners are kept.
    """
    best: dict[str, Any] = {}
    for mode in ("agg", "disagg"):
        tables = sorted(folder.glob(f"**/{mode}/best_config_topn.csv"))
        if not tables:
            continue
        with tables[0].open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if rows:
            best[mode] = winner(rows[0], num_gpus)
    return best


def read_log(text: str) -> dict[str, Any]:
    """Return rows per mode and the errors that the peer logged."""
    rows: dict[str, int] = {}
    errors: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if "completed with" in line and "Experiment" in words:
            mode = words[words.index("Experiment") + 1]
            rows[mode] = int(words[words.index("with") + 1])
        elif "[aiconfigurator] [E]" in line or line.startswith(("RuntimeError", "ValueError")):
            errors.append(line.split("] ", 3)[-1].strip())
    return {"rows": rows, "errors": list(dict.fromkeys(errors))[:6]}


def run_case(case: Case, env: Path, out: Path, limit_s: float = LIMIT_S) -> dict[str, Any]:
    """Search one case with the peer and write its run.json; return what was written."""
    folder = out / case.name
    folder.mkdir(parents=True, exist_ok=True)
    for stale in ("saved", "model"):  # not the oracle, which another command wrote beside
        shutil.rmtree(folder / stale, ignore_errors=True)
    arguments = case.peer_arguments(model_path(case, env, folder), "saved")
    program = str(env / "bin" / PEER_PACKAGE)
    cost = run_timed(
        [program, *arguments],
        folder / "stdout.txt",
        folder / "stderr.txt",
        limit_s=limit_s,
        folder=folder,
    )
    logs = (folder / "stdout.txt").read_text() + (folder / "stderr.txt").read_text()
    shown = [case.peer.model if word.startswith(str(folder)) else word for word in arguments]
    record = {
        "case": case.name,
        "peer": f"{PEER_PACKAGE} {PEER_VERSION}",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": f"{PEER_PACKAGE} {shlex.join(shown)}",
        **dataclasses.asdict(cost),
        **read_log(logs),
        "best": read_outputs(folder / "saved", case.gpus),
    }
    (folder / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def recorded(case: Case, out: Path) -> dict[str, Any] | None:
    """Return the record of an earlier run, None where there is none."""
    path = out / case.name / "run.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _say(record: Mapping[str, Any]) -> None:
    best = {mode: row["tokens_per_s_per_gpu"] for mode, row in record["best"].items()}
    print(
        f"{record['case']}: exit {record['exit_code']}, {record['wall_s']:.1f} s wall, "
        f"{record['user_s']:.1f} s user, rows {record['rows']}, best {best}",
        file=sys.stderr,
        flush=True,
    )


def start_s(env: Path, work: Path) -> float:
    """Return the seconds that the peer's command takes to start, the median of three runs."""
    command = [str(env / "bin" / "aiconfigurator"), "cli", "--help"]
    out, err = work / "help.txt", work / "help.log"
    return median(run_timed(command, out, err, limit_s=LIMIT_S).wall_s for _ in range(3))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peer-env", type=Path, required=True, help="the peer's environment")
    parser.add_argument("--out", type=Path, required=True, help="where its raw outputs go")
    parser.add_argument("--case", action="append", default=[], help="a case; all by default")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="time limit of one case, s")
    parser.add_argument("--again", action="store_true", help="run recorded cases again")
    options = parser.parse_args(arguments)
    peer_python(options.peer_env)
    for case in select(load_cases(), options.case):
        if case.peer.cannot:
            print(f"{case.name}: the peer {case.peer.cannot}", file=sys.stderr)
            continue
        record = None if options.again else recorded(case, options.out)
        _say(record or run_case(case, options.peer_env.absolute(), options.out, options.limit_s))
    return 0


if __name__ == "__main__":
    sys.exit(main())
