"""The progress line is for terminals, says what it knows, and leaves nothing behind."""

import sys
from io import StringIO

import pytest

from autopar.cli import _progress
from autopar.cli._options import Output
from autopar.results import Progress

STEP = Progress(1.0, "throughput", 50e6, 100e6, 0.5)


class Terminal(StringIO):
    def isatty(self):
        return True


def output(*, as_json=False, quiet=False):
    return Output(as_json=as_json, file=None, color=True, verbose=0, quiet=quiet)


def test_the_line_shows_incumbent_bound_and_gap():
    line = _progress.progress_text(STEP, 12.4)
    assert line == "12 s  throughput: incumbent 50,000 tokens/ms, bound 100,000 tokens/ms, gap 50 %"
    assert "preparing" in _progress.progress_text(None, 2.0)
    line = _progress.progress_text(Progress(1.0, "ttft", None, 1e6, None), 2.0)
    assert line == "2 s  ttft: incumbent none yet, bound 1.00 s"


@pytest.mark.parametrize(
    ("stream", "options", "active"),
    [
        (Terminal(), {}, True),
        (StringIO(), {}, False),
        (Terminal(), {"as_json": True}, False),
        (Terminal(), {"quiet": True}, False),
    ],
)
def test_progress_is_for_a_terminal_only(monkeypatch, stream, options, active):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(_progress, "_START_S", 0.0)
    line = _progress.ProgressLine(output(**options))
    assert line.active is active
    with line:
        line(STEP)
    assert stream.getvalue() == "" or active


def test_a_running_solve_is_shown_and_wiped(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(_progress, "_START_S", 0.0)
    monkeypatch.setattr(_progress, "_PERIOD_S", 0.0)
    line = _progress.ProgressLine(output())
    line(STEP)
    calls = iter([False, False, True])
    monkeypatch.setattr(line._done, "wait", lambda _: next(calls))
    line._show()
    shown = stream.getvalue().split("\r")
    assert "throughput: incumbent 50,000 tokens/ms" in shown[1]
    assert shown[-1] == ""
    assert shown[-2].strip() == ""


def test_a_short_solve_shows_nothing(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with _progress.ProgressLine(output()) as line:
        line(STEP)
    assert stream.getvalue() == ""
