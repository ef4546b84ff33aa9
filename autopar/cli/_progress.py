"""One line on standard error that shows how a long solve is doing."""

import shutil
import sys
import threading
import time
from types import TracebackType
from typing import Self

from autopar.cli._options import Output
from autopar.report.words import percent, quantity
from autopar.results import Progress

_START_S = 1.0  # a shorter solve shows nothing
_PERIOD_S = 0.25
_UNITS = {"throughput": "tokens/s", "ttft": "us", "tpot": "us", "memory": "bytes"}


class ProgressLine:
    """Shows incumbent, bound and gap as they move; on a terminal only, not under --json or -q."""

    def __init__(self, output: Output) -> None:
        self.active = sys.stderr.isatty() and not output.as_json and not output.quiet
        self._latest: Progress | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True)
        self._started = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Take one step of the solve; called from the solver's thread."""
        self._latest = progress

    def __enter__(self) -> Self:
        if self.active:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._done.set()
        if self.active:
            self._thread.join()

    def _show(self) -> None:
        if self._done.wait(_START_S):
            return
        while not self._done.wait(_PERIOD_S):
            width = shutil.get_terminal_size().columns - 1
            line = progress_text(self._latest, time.monotonic() - self._started)[:width]
            sys.stderr.write(f"\r{line:<{width}}")
            sys.stderr.flush()
        sys.stderr.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
        sys.stderr.flush()


def progress_text(progress: Progress | None, wall_s: float) -> str:
    """Return the line: seconds, objective, incumbent, bound, gap."""
    head = f"{wall_s:.0f} s"
    if progress is None:
        return f"{head}  preparing"
    if progress.value is None and progress.bound is None and progress.objective not in _UNITS:
        return f"{head}  {progress.objective}"  # a question, not an objective
    unit = _UNITS.get(progress.objective, "")
    value = "none yet" if progress.value is None else quantity(progress.value, unit)
    bound = "none yet" if progress.bound is None else quantity(progress.bound, unit)
    gap = "" if progress.gap is None else f", gap {percent(progress.gap)}"
    return f"{head}  {progress.objective}: incumbent {value}, bound {bound}{gap}"
