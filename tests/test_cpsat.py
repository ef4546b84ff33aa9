"""A session with CP-SAT: Ctrl-C at any moment of a search ends the search, not the program."""

import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from autopar import cpsat
from autopar.cpsat import Session, status_of
from autopar.ortools_loader import SEARCH_THREAD
from autopar.specs import CpSatParameters


class Restless:
    """A solver that brings Ctrl-C with its first breath and searches until it is stopped."""

    def __init__(self) -> None:
        self.parameters = SimpleNamespace()  # takes what is set
        self.stopped = threading.Event()

    def solve(self, model: Any, callback: Any) -> None:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        assert self.stopped.wait(60), "nobody stopped the search"

    def stop_search(self) -> None:
        self.stopped.set()


def test_ctrl_c_at_the_first_moment_of_a_search_stops_it() -> None:
    """Many times: Python may raise it while the main thread starts the search or turns to wait."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a shell
    try:
        for _ in range(200):
            session = Session(None, CpSatParameters())  # type: ignore[arg-type]
            session._run(Restless(), None)
            assert session.interrupted
    except KeyboardInterrupt:
        pytest.fail("Ctrl-C left the search running and got past it")
    finally:
        signal.signal(signal.SIGINT, before)


class Deaf(Restless):
    """A solver that is in a presolve which does not look at stops."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()

    def solve(self, model: Any, callback: Any) -> None:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        assert self.ended.wait(60), "nobody let the search go"


def test_a_search_that_does_not_heed_a_stop_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session then says that nothing is known, and does not wait for it."""
    monkeypatch.setattr(cpsat, "_GRACE_S", 0.1)
    ends: list[Any] = []
    monkeypatch.setattr(cpsat.atexit, "register", ends.append)
    solver = Deaf()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a shell
    session = Session(None, CpSatParameters())  # type: ignore[arg-type]
    monkeypatch.setattr(session.cp, "CpSolver", lambda: solver)
    try:
        status = status_of(session.solve())
    finally:
        signal.signal(signal.SIGINT, before)
    assert (session.interrupted, session.abandoned, status) == (True, True, "unknown")
    assert solver.stopped.is_set()
    assert [t.is_alive() for t in threading.enumerate() if t.name == SEARCH_THREAD] == [True]
    solver.ended.set()
    assert len(ends) == 1
    ends[0]()  # as Python's end does
    assert SEARCH_THREAD not in [t.name for t in threading.enumerate()]
