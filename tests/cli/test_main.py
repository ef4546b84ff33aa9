"""The group: lazy imports, help, exit codes of errors, closed pipes, interruption."""

import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from autopar.cli import VERBS, main

HEAVY = {"pydantic", "numpy", "ortools", "yaml", "rich"}


def run(*args):
    return CliRunner().invoke(main, list(args))


@pytest.mark.parametrize(
    "args", [["--help"], ["solve", "--help"], ["ingest", "cluster", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(args):
    code = (
        "import sys; from autopar.cli import main\n"
        f"try: main({args!r}, prog_name='autopar')\nexcept SystemExit: pass\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "autopar" in done.stdout
    assert not HEAVY & set(done.stderr.split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_listed_with_the_first_line_of_its_help(verb):
    command = main.get_command(None, verb)
    assert command.help.splitlines()[0] == VERBS[verb]
    assert VERBS[verb] in " ".join(run("--help").stdout.split())
    assert run(verb, "--help").exit_code == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_help(verb):
    for parameter in main.get_command(None, verb).params:
        if parameter.param_type_name == "option":
            assert parameter.help


def test_an_unknown_verb_or_option_is_a_usage_error():
    result = run("solv")
    assert result.exit_code == 2
    assert "did you mean 'solve'" in result.stderr
    assert run("solve", "--nope").exit_code == 2
    assert run("solve").exit_code == 2
    assert run("compare", "moe-16x16-512gpu").exit_code == 2
    assert run("verify").exit_code == 2


def test_an_unexpected_error_is_one_line_and_a_traceback_only_on_demand(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("autopar.api.solve", fail)
    result = run("solve", "moe-16x16-512gpu")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "please report" in result.stderr
    assert "Traceback" in run("solve", "moe-16x16-512gpu", "-v", "-v").stderr


def test_an_interruption_exits_with_130(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("autopar.api.solve", interrupt)
    assert run("solve", "moe-16x16-512gpu").exit_code == 130


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM is a POSIX signal")
def test_a_kill_is_an_interruption(monkeypatch):
    monkeypatch.setattr("autopar.api.solve", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    assert run("solve", "moe-16x16-512gpu").exit_code == 130


@pytest.mark.skipif(os.name != "posix", reason="pipes close otherwise elsewhere")
@pytest.mark.parametrize("args", [["catalog"], ["solve", "moe-16x16-512gpu", "--json"], ["--help"]])
def test_a_closed_pipe_ends_quietly(args):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "autopar", *args], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 0


def shell(line):
    """Run a line in which $autopar is the command."""
    return subprocess.run(
        ["sh", "-c", line.replace("$autopar", f"{sys.executable} -m autopar")],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize("args", ["solve moe-16x16-512gpu", "--help", "catalog --json"])
def test_a_closed_standard_output_is_said_in_one_line(args):
    done = shell(f"$autopar {args} >&-")
    assert done.stderr == "error: cannot write to standard output: it is closed\n"
    assert done.returncode == 2
    done = shell(f"$autopar {args} >&- 2>&-")
    assert (done.returncode, done.stderr) == (2, "")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_a_closed_standard_error_leaves_the_result_and_the_exit_code():
    done = shell("$autopar catalog scenarios 2>&-")
    assert done.returncode == 0
    assert "moe-16x16-512gpu" in done.stdout
    assert shell("$autopar solv 2>&-").returncode == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
@pytest.mark.parametrize(
    "args", ["solve moe-16x16-512gpu", "solve moe-16x16-512gpu --json", "--help", "--version"]
)
def test_a_full_disk_is_said_in_one_line(args):
    done = shell(f"$autopar {args} > /dev/full")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: cannot write to standard output: No space left")
    assert done.returncode == 2
    assert shell("$autopar solv 2> /dev/full").returncode == 2
