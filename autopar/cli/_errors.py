"""Exceptions -> one line on standard error and an exit code."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

import click

from autopar.errors import AutoparError

INTERRUPTED = 130
_verbosity = 0


def set_verbosity(level: int) -> None:
    """Remember how often -v was given: twice shows tracebacks."""
    global _verbosity  # noqa: PLW0603  the handler of last resort has no context to ask
    _verbosity = level


def run(command: Callable[[], Any]) -> NoReturn:
    """Run a command and end the process with its exit code."""
    set_verbosity(0)
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupt) if in_main_thread else None
    code, stdout = 1, sys.stdout
    try:
        result = command()
        code = result if isinstance(result, int) else 0
        flush(sys.stdout)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except SystemExit:  # click ends so on a closed pipe, and puts a wrapper around the stream
        code = 0 if sys.stdout is not stdout else 1
    except click.UsageError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        code = _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        code = _fail("interrupted", INTERRUPTED)
    except AutoparError as error:
        code = _fail(str(error), error.exit_code)
    except BrokenPipeError:
        silence(sys.stdout)
        code = 0
    except MemoryError:
        code = _fail("out of memory; the problem is too large for this machine", 1)
    except Exception as error:  # noqa: BLE001  the last resort: a message, not a traceback
        code = _unexpected(error)
    flush(sys.stdout)
    flush(sys.stderr)
    if before is not None:
        signal.signal(signal.SIGTERM, before)
    sys.exit(code)


def flush(stream: TextIO) -> None:
    """Flush a stream; a reader that has gone away is no error."""
    try:
        stream.flush()
    except BrokenPipeError:
        silence(stream)
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
    click.echo(f"error: {one_line(message)}", err=True)
    return code


def _unexpected(error: Exception) -> int:
    message = f"{type(error).__name__}: {error}"
    return _fail(
        f"this is a bug in autopar, please report it with the output of -v -v: {message[:500]}", 1
    )
