"""Run the command line as a user does, and record wall time, peak memory and the answer."""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

SCENARIO = "moe-16x16-512gpu"
RESULTS = Path(__file__).parents[1] / "results"


class CommandError(RuntimeError):
    """A measured command failed or gave an answer that is not what is being measured."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one command."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    stdout: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """Several runs of one command."""

    command: str
    runs: tuple[Run, ...]

    @property
    def wall_s(self) -> float:
        """Median wall time."""
        return median(run.wall_s for run in self.runs)

    @property
    def spread_s(self) -> tuple[float, float]:
        """Fastest and slowest run."""
        return min(run.wall_s for run in self.runs), max(run.wall_s for run in self.runs)

    @property
    def peak_rss_bytes(self) -> float:
        """Median peak memory."""
        return median(run.peak_rss_bytes for run in self.runs)

    def answer(self) -> dict[str, Any]:
        """Return the JSON document of the last run."""
        document: dict[str, Any] = json.loads(self.runs[-1].stdout)
        return document

    def phases_s(self) -> dict[str, float]:
        """Return the median seconds of each phase over the runs; empty where none are reported."""
        reports = [
            json.loads(run.stdout).get("solver", {}).get("phases_s", {}) for run in self.runs
        ]
        return {name: median(report.get(name, 0.0) for report in reports) for name in reports[0]}

    def record(self) -> dict[str, Any]:
        """Return what goes into the .json file: every run, not only the median."""
        return {
            "command": self.command,
            "median_wall_s": self.wall_s,
            "median_peak_rss_bytes": self.peak_rss_bytes,
            "wall_s": [run.wall_s for run in self.runs],
            "cpu_s": [run.cpu_s for run in self.runs],
            "peak_rss_bytes": [run.peak_rss_bytes for run in self.runs],
        }


def executable() -> str:
    """Return the `autopar` beside the interpreter that runs the benchmark, else the one on PATH."""
    # Not resolved: the interpreter of a virtual environment is a link out of it.
    beside = shutil.which("autopar", path=str(Path(sys.executable).absolute().parent))
    found = beside or shutil.which("autopar")
    if not found:
        raise CommandError("no command autopar; install the package first (make demo)")
    return found


def run_once(arguments: Sequence[str], accept: Sequence[int] = (0,)) -> Run:
    """Run `autopar ARGUMENTS` once.

    Peak memory is the child's ru_maxrss. The kernel counts from before exec, so this process, which
    imports nothing large, is its floor. Byte code is written where it is missing, as it is once
    autopar is installed.
    Raises CommandError if the exit code is not in `accept`.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        child = subprocess.Popen(
            [executable(), *arguments], stdout=out, stderr=err, env=environment
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)  # it is reaped: Popen need not wait
        out.seek(0)
        err.seek(0)
        if child.returncode not in accept:
            raise CommandError(
                f"autopar {shlex.join(arguments)}: exit {child.returncode}\n{err.read()[-2000:]}"
            )
        # Linux counts in KiB, macOS in bytes (getrusage(2) of each).
        unit = 1 if sys.platform == "darwin" else 1024
        return Run(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, out.read())


def measure(arguments: Sequence[str], runs: int, accept: Sequence[int] = (0,)) -> Measurement:
    """Run `autopar ARGUMENTS` once to warm the disk cache, then `runs` times; report on stderr.

    accept: exit codes of a run that counts.
    """
    run_once(arguments, accept)
    measured = Measurement(
        "autopar " + shlex.join(arguments), tuple(run_once(arguments, accept) for _ in range(runs))
    )
    print(
        f"{measured.wall_s:8.2f} s  {measured.peak_rss_bytes / 1e6:7.0f} MB  {measured.command}",
        file=sys.stderr,
    )
    return measured


def overrides(values: dict[str, float | int]) -> list[str]:
    """Return `--set path=value` for each field."""
    return [word for path, value in values.items() for word in ("--set", f"{path}={value}")]


def machine() -> dict[str, str | int]:
    """Return what the numbers depend on, without the machine's name or its paths."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        pass  # not Linux, or a processor that does not say
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    return {
        "processor": model,
        "cores": cores or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "ortools": version("ortools"),
        "autopar": version("autopar"),
        "commit": _commit(),
    }


def _git(*words: str) -> str | None:
    git = shutil.which("git")
    if not git:
        return None
    done = subprocess.run(
        [git, *words], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def _commit() -> str:
    head = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", "autopar", "models", "solvers")
    return (head or "commit unknown") + (" with changes" if changed else "")


def is_unique(answer: dict[str, Any]) -> str:
    """Return whether the answer proves its plan the only optimum, in one word or two."""
    unique = (answer.get("uniqueness") or {}).get("unique")
    return "not established" if unique is None else "yes" if unique else "no"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table; the first column is text, the others align right."""
    rule = "|---|" + "---:|" * (len(header) - 1)
    return [f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


def describe_machine(facts: dict[str, str | int]) -> str:
    """Return one sentence for the head of a results file."""
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['system']}, "
        f"Python {facts['python']}, OR-Tools {facts['ortools']}, "
        f"autopar {facts['autopar']} ({facts['commit']})."
    )


def write(path: Path, lines: Sequence[str]) -> None:
    """Write a results file and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {path.name}", file=sys.stderr)
