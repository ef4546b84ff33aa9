"""A session with CP-SAT: Ctrl-C at any moment of a search ends the search, not the program."""

import signal
import threading
from typing import Any

import pytest

from autopar.cpsat import Session
from autopar.specs import CpSatParameters


class Restless:
    """A solver that brings Ctrl-C with its first breath and searches until it is stopped."""

    def __init__(self) -> None:
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
