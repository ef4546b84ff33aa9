"""One CP-SAT model with its solver: limits, seed, interruption, progress, status."""

import atexit
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from autopar.errors import AutoparError
from autopar.ortools_loader import SEARCH_THREAD, load_cp_model
from autopar.results import Progress, Status
from autopar.specs import CpSatParameters

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

logger = logging.getLogger("autopar.solver")

Report = Callable[[Progress], None]

_POLL_S = 0.05
# CP-SAT looks at a stop between steps of its presolve, which take seconds where a model has a
# million Booleans (7 s of them, OR-Tools 9.15). Longer than this nobody waits for it.
_GRACE_S = 1.0

# Stands for a solver that was asked to stop and has not: nothing is known of its search.
_SILENT = SimpleNamespace(
    response_proto=SimpleNamespace(status=SimpleNamespace(name="UNKNOWN")),
    best_objective_bound=-math.inf,
)


class Session:
    """One model with its solver: repeated solves share limits, seed and interruption."""

    def __init__(
        self,
        model: "cp_model.CpModel",
        parameters: CpSatParameters,
        tuning: Mapping[str, int] | None = None,
    ) -> None:
        """tuning: further fields of CP-SAT's parameters, for a model of its own kind."""
        self.cp = load_cp_model()
        self.model: Any = model  # ortools types some of its methods, not all
        self.parameters = parameters
        self.tuning = tuning or {}
        self.deterministic_time = 0.0
        self.interrupted = False
        self.abandoned = False  # a search that goes on after it was asked to stop
        self.started = time.perf_counter()

    def solve(
        self,
        callback: Any = None,
        on_bound: Callable[[float], None] | None = None,
        at_most: float = math.inf,
    ) -> Any:
        """Solve the model as it stands and return the solver; Ctrl-C ends the search, not us.

        Where CP-SAT does not heed it within a second, what is returned knows nothing.
        at_most: deterministic seconds, where fewer than the recipe's limit leaves.
        """
        solver = self.cp.CpSolver()
        solver.parameters.num_workers = self.parameters.num_workers
        solver.parameters.random_seed = self.parameters.seed
        solver.parameters.catch_sigint_signal = False
        # Paths of equal cost make probing long and teach it nothing: 3.8 s against 0.2 s where the
        # TTFT of 64 equal layers over 3 stages is all that counts (OR-Tools 9.15).
        solver.parameters.cp_model_probing_level = 0
        for name, value in self.tuning.items():
            setattr(solver.parameters, name, value)
        if self.parameters.num_workers > 1:
            solver.parameters.interleave_search = True  # many workers, one answer
        left = self.parameters.deterministic_time_limit - self.deterministic_time
        solver.parameters.max_deterministic_time = max(min(left, at_most), 1e-3)
        if logger.isEnabledFor(logging.DEBUG):
            solver.parameters.log_search_progress = True
            solver.parameters.log_to_stdout = False
            solver.log_callback = logger.debug
        if on_bound is not None:
            solver.best_bound_callback = on_bound
        self._run(solver, callback)
        if self.abandoned:
            return _SILENT
        self.deterministic_time += solver.deterministic_time
        return solver

    def _run(self, solver: Any, callback: Any) -> None:
        failure: list[BaseException] = []
        guarded, done = threading.Event(), threading.Event()

        def work() -> None:
            guarded.wait()
            try:
                solver.solve(self.model, callback)
            except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
                failure.append(error)
            finally:
                done.set()

        if threading.current_thread() is not threading.main_thread():
            guarded.set()
            work()
        else:
            thread = threading.Thread(target=work, name=SEARCH_THREAD, daemon=True)
            thread.start()
            self._wait(solver, guarded, done)
            if self.abandoned:
                atexit.register(thread.join)  # C++ may not run on while Python takes itself apart
                return
            thread.join()
        if failure:
            raise failure[0]

    def _wait(self, solver: Any, guarded: threading.Event, done: threading.Event) -> None:
        """Wait for the search in the thread; Ctrl-C stops it.

        The search begins when `guarded` is set, and every turn of the loop is inside the `try`:
        the search's first news may bring Ctrl-C with it, and Python raises that wherever the main
        thread stands. Not thread.join(): interrupted, it takes a running thread for a finished one
        (CPython 3.11, threading.Thread._wait_for_tstate_lock).
        """
        waiting, latest = True, math.inf
        while waiting:
            try:
                guarded.set()
                while not self.abandoned and not done.wait(_POLL_S):
                    if self.interrupted:  # before CP-SAT had begun, the first stop had no effect
                        solver.stop_search()
                        self.abandoned = time.monotonic() > latest
                waiting = False
            except KeyboardInterrupt:
                latest = min(latest, time.monotonic() + _GRACE_S)
                self.interrupted = True
                solver.stop_search()


def status_of(solver: Any) -> Status:
    """Map every CP-SAT status to ours; a model that CP-SAT rejects is a bug of ours.

    Raises AutoparError for that.
    """
    status = solver.response_proto.status.name  # status_name() without argument fails in 9.15
    match status:
        case "OPTIMAL":
            return "optimal"
        case "FEASIBLE":
            return "feasible"
        case "INFEASIBLE":
            return "infeasible"
        case "UNKNOWN":
            return "unknown"
        case _:
            raise AutoparError(f"CP-SAT answered {status}: {solver.solution_info()}")


def relative_gap(value: float, bound: float) -> float:
    """Return |value - bound| relative to the larger of the two; 0.0 where they are equal."""
    return 0.0 if value == bound else abs(value - bound) / max(abs(value), abs(bound))


class Watch:
    """Turns CP-SAT's callbacks into progress reports."""

    def __init__(
        self, session: Session, name: str, to_unit: Callable[[int], float], report: Report | None
    ) -> None:
        self.session, self.name, self.to_unit, self.report = session, name, to_unit, report
        self.value: float | None = None
        self.bound: float | None = None

    def on_solution(self) -> Any:
        """Return a solution callback, or None where nobody listens."""
        if self.report is None:
            return None
        watch = self

        class Callback(self.session.cp.CpSolverSolutionCallback):  # type: ignore[name-defined,misc]
            def on_solution_callback(self) -> None:
                watch.value = watch.to_unit(round(self.objective_value))
                watch.bound = watch.to_unit(round(self.best_objective_bound))
                watch.tell()

        return Callback()

    def on_bound(self, bound: float) -> None:
        """Take a better bound."""
        self.bound = self.to_unit(round(bound))
        self.tell()

    def tell(self) -> None:
        """Report what is known."""
        assert self.report is not None
        gap = None
        if self.value is not None and self.bound is not None:
            gap = relative_gap(self.value, self.bound)
        elapsed = time.perf_counter() - self.session.started
        self.report(Progress(elapsed, self.name, self.value, self.bound, gap))
