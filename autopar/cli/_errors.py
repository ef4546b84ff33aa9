"""Exceptions -> one line on standard error and an exit code."""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from autopar.errors import AutoparError
from autopar.ortools_loader import SEARCH_THREAD

INTERRUPTED = 130
_STREAM_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EBADF)
_verbosity = 0


def set_verbosity(level: int) -> None:
    """Remember how often -v was given: twice shows tracebacks."""
    global _verbosity  # noqa: PLW0603  the handler of last resort has no context to ask
    _verbosity = level


class OutputError(AutoparError):
    """Standard output cannot be written: it is closed, or the disk is full."""

    exit_code = 2

    def __init__(self, reason: object) -> None:
        super().__init__(f"cannot write to standard output: {reason}")


def run(command: Callable[[], Any]) -> NoReturn:
    """Run a command and end the process with its exit code."""
    set_verbosity(0)
    if sys.stderr is None:  # closed by the caller; what is said there goes nowhere
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  to the end
    if sys.stdout is None:
        sys.exit(_fail(str(OutputError("it is closed")), OutputError.exit_code))
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupt) if in_main_thread else None
    code = _flushed(_code_of(command))
    if before is not None:
        signal.signal(signal.SIGTERM, before)
    if any(thread.name == SEARCH_THREAD for thread in threading.enumerate()):
        os._exit(code)  # all is said and written; CP-SAT has not heeded the stop
    sys.exit(code)


def _code_of(command: Callable[[], Any]) -> int:
    """Run a command, say its error, and return its exit code."""
    stdout = sys.stdout
    try:
        result = command()
    except click.exceptions.Exit as error:
        return error.exit_code
    except SystemExit:  # click ends so on a closed pipe, and puts a wrapper around the stream
        return 0 if sys.stdout is not stdout else 1
    except click.UsageError as error:
        with suppress(OSError):
            error.show()
        return error.exit_code
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except OutputError as error:
        silence(sys.stdout)
        return _fail(str(error), error.exit_code)
    except AutoparError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        silence(sys.stdout)
        return 0
    except OSError as error:
        if error.filename is not None or error.errno not in _STREAM_ERRORS:
            return _unexpected(error)
        silence(sys.stdout)  # --help and --version: click itself writes them
        failure = OutputError(error.strerror)
        return _fail(str(failure), failure.exit_code)
    except MemoryError:
        return _fail("out of memory; the problem is too large for this machine", 1)
    except Exception as error:  # noqa: BLE001  the last resort: a message, not a traceback
        return _unexpected(error)
    return result if isinstance(result, int) else 0


def _flushed(code: int) -> int:
    """Write out what is buffered; return the exit code, another one if that fails."""
    try:
        flush(sys.stdout)
    except OutputError as error:
        silence(sys.stdout)
        code = _fail(str(error), error.exit_code)
    try:
        flush(sys.stderr)
    except OutputError:
        silence(sys.stderr)
    return code


def flush(stream: TextIO) -> None:
    """Flush a stream; a reader that has gone away is no error.

    Raises OutputError if what is buffered cannot be written.
    """
    try:
        stream.flush()
    except BrokenPipeError:
        silence(stream)
    except OSError as error:
        raise OutputError(error.strerror or error) from None
    except ValueError:
        pass  # closed


def silence(stream: TextIO) -> None:
    """Send what is still to be written to a closed pipe nowhere, so that the exit stays quiet."""
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)
    except (OSError, ValueError):
        pass  # a stream without a file descriptor, as in tests


def one_line(text: str) -> str:
    """Return a message on one line without control characters, which a file name may contain."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> int:
    if _verbosity > 1:
        traceback.print_exc()
    with suppress(OSError):  # nowhere to say it; the exit code remains
        click.echo(f"error: {one_line(message)}", err=True)
    return code


def _unexpected(error: Exception) -> int:
    message = f"{type(error).__name__}: {error}"
    return _fail(
        f"this is a bug in autopar, please report it with the output of -v -v: {message[:500]}", 1
    )
