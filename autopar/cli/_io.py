"""Streams and files: results to standard output, documents to files, all else to stderr."""
# ruff: noqa: PLC0415  rich and the reports are imported when they print

import logging
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopar.cli._errors import OutputError, silence
from autopar.cli._options import Output
from autopar.errors import SpecError

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80  # of text that does not go to a terminal
_MAX_WIDTH = 120  # longer lines are hard to read
_YAML = (".yaml", ".yml")
_LOG_HANDLER = "autopar.cli"


def prepare(output: Output) -> None:
    """Set the log level, and refuse a file that cannot be written before the work starts.

    Raises SpecError for it.
    """
    quiet = logging.ERROR if output.quiet else logging.WARNING
    _log({0: quiet, 1: logging.INFO}.get(output.verbose, logging.DEBUG))
    if output.file is not None:
        refuse_unwritable(output.file, "-o")


def refuse_unwritable(file: Path, option: str) -> None:
    """Raise SpecError for a file that cannot be written, naming the option that gave it."""
    folder, place = file.parent, f"{option} {str(file)!r}"
    if not folder.is_dir():
        raise SpecError(f"{place}: {str(folder)!r} is not a directory; create it first")
    if file.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
        raise SpecError(f"{place}: cannot be written; expected a writable file")


def emit(
    output: Output,
    document: Callable[[], dict[str, Any]],
    text: Callable[["Console"], None],
    dumped: Callable[[], str] | None = None,
) -> None:
    """Write the document to the file of -o, and print it (--json) or the text.

    Only what is asked for is made; rich is imported for text alone. dumped: the document as JSON,
    if there is a faster way to it.
    """
    if output.file is not None:
        if dumped is None or is_yaml(output.file):
            write_document(output.file, document())
        else:
            write_text(output.file, dumped() + "\n")
    if output.as_json:
        put(_json(document()) if dumped is None else dumped() + "\n")
    else:
        put(rendered(output, text))


def rendered(output: Output, text: Callable[["Console"], None]) -> str:
    """Return what `text` prints: in colour on a terminal that wants it, without trailing spaces."""
    from rich.console import Console

    stream = sys.stdout
    terminal = stream.isatty()
    plain = not (output.color and terminal) or _is_colorless()
    width = min(Console(file=stream).width, _MAX_WIDTH) if terminal else WIDTH
    console = Console(
        file=_Buffer(stream.encoding),
        width=width,
        color_system=None if plain else "auto",
        force_terminal=not plain,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as captured:
        text(console)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def put(text: str) -> None:
    """Write to standard output; a reader that has gone away is no error.

    Raises OutputError if it cannot be written.
    """
    stream = sys.stdout
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        silence(stream)
    except OSError as error:
        raise OutputError(error.strerror or error) from None


def write_document(file: Path, document: dict[str, Any]) -> None:
    """Write a document so that a reader sees the old file or the whole new one.

    Raises SpecError if the file cannot be written.
    """
    write_text(file, _yaml(document) if is_yaml(file) else _json(document))


def write_text(file: Path, content: str, option: str = "-o") -> None:
    """Write a text so that a reader sees the old file or the whole new one.

    Raises SpecError, which names the option that gave the file, if it cannot be written.
    """
    try:
        if file.exists() and not stat.S_ISREG(file.stat().st_mode):
            file.write_text(content, encoding="utf-8")  # a device or a pipe is not to be replaced
        else:
            _replace(file.resolve(), content)
    except OSError as error:
        reason = error.strerror or error
        raise SpecError(f"{option} {str(file)!r}: cannot be written: {reason}") from None


def _log(level: int) -> None:
    """Send autopar's log to standard error, and leave other loggers alone."""
    logger = logging.getLogger("autopar")
    for handler in [h for h in logger.handlers if h.get_name() == _LOG_HANDLER]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(_LOG_HANDLER)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)


def _replace(file: Path, content: str) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(file.stat().st_mode if file.exists() else 0o666 & ~mask)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def is_yaml(file: Path) -> bool:
    """Whether a document goes into a file as YAML."""
    return file.suffix.lower() in _YAML


def _json(document: dict[str, Any]) -> str:
    from autopar.report.json import dump

    return dump(document) + "\n"


def _yaml(document: dict[str, Any]) -> str:
    from autopar.documents import dump_yaml

    return dump_yaml(document)


def _is_colorless() -> bool:
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")


class _Buffer(StringIO):
    """Text with the encoding of the stream it is meant for: rich draws no line that it lacks."""

    def __init__(self, encoding: str | None) -> None:
        super().__init__()
        self._encoding = encoding or "utf-8"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream that the text will go to."""
        return self._encoding
