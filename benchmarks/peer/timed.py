"""Run one command and say what it cost: wall time, CPU time, peak memory."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Timed:
    """One run; times in seconds, of the command and of every process that it waited for."""

    exit_code: int
    timed_out: bool
    wall_s: float
    user_s: float
    system_s: float
    peak_rss_bytes: int


def run_timed(
    command: Sequence[str], out: Path, err: Path, *, limit_s: float, folder: Path | None = None
) -> Timed:
    """Run a command to its end or its time limit, its output in two files.

    Peak memory is ru_maxrss of the child. At the limit its whole process group is killed. Programs
    run as they do once installed, with byte code: what lacks it gets it in the first run.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with out.open("w", encoding="utf-8") as stdout, err.open("w", encoding="utf-8") as stderr:
        start = time.perf_counter()
        child = subprocess.Popen(
            command,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            start_new_session=True,
            env=environment,
        )
        fired = threading.Event()

        def kill() -> None:
            fired.set()
            os.killpg(child.pid, signal.SIGKILL)

        timer = threading.Timer(limit_s, kill)
        timer.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        finally:
            timer.cancel()
        wall_s = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)  # it is reaped: Popen need not wait
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB (getrusage(2))
    return Timed(
        exit_code=child.returncode,
        timed_out=fired.is_set(),
        wall_s=wall_s,
        user_s=usage.ru_utime,
        system_s=usage.ru_stime,
        peak_rss_bytes=usage.ru_maxrss * unit,
    )
