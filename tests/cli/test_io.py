"""Files are replaced whole or not at all; text is coloured only where it may be."""

import json
import os
import stat
import sys
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest

from autopar.cli import _io
from autopar.cli._options import Output
from autopar.documents import parse
from autopar.errors import SpecError

PLAIN = Output(as_json=False, file=None, color=True, verbose=0, quiet=False)


class Terminal(StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def colored(console):
    console.print("word", style="bold red")


def test_the_suffix_decides_between_yaml_and_json(tmp_path):
    document = {"a": [1, 2], "b": {"c": "1e3"}}
    for name in ("x.json", "x.yaml", "x.yml", "x"):
        _io.write_document(tmp_path / name, document)
        text = (tmp_path / name).read_text()
        assert parse(text, name) == document
        assert text.startswith("{") == (name in ("x.json", "x"))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "x.json"
    file.write_text("old")

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SpecError, match="No space left"):
        _io.write_document(file, {"a": 1})
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_the_target_of_a_link_is_replaced_and_its_mode_kept(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    _io.write_document(link, {"a": 1})
    assert link.is_symlink()
    assert json.loads(target.read_text()) == {"a": 1}
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.skipif(os.name != "posix", reason="needs a device file")
def test_a_device_is_written_and_not_replaced():
    _io.write_document(Path(os.devnull), {"a": 1})
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.parametrize(
    ("environment", "color", "expected"),
    [
        ({"TERM": "xterm-256color"}, True, True),
        ({"TERM": "xterm-256color"}, False, False),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(monkeypatch, environment, color, expected):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    output = Output(as_json=False, file=None, color=color, verbose=0, quiet=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert ("\x1b[" in _io.rendered(output, colored)) == expected
    monkeypatch.setattr(sys, "stdout", StringIO())
    assert "\x1b[" not in _io.rendered(output, colored)


def test_an_ascii_stream_gets_ascii(monkeypatch):
    raw = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(raw, encoding="ascii"))
    _io.put("12 \u00b5s\n")
    assert raw.getvalue() == b"12 ?s\n"
