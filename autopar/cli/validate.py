"""`autopar validate`."""
# ruff: noqa: PLC0415  --help imports no numpy

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autopar.cli._io import emit, prepare
from autopar.cli._options import Output, catalog_option, output_options

if TYPE_CHECKING:
    from rich.console import Console

    from autopar.validation.report import Validation


@click.command("validate")
@click.argument("sources", nargs=-1)
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Score the rows of a table (CSV) instead of the catalogue's measurements.",
)
@click.option(
    "--tier",
    "tiers",
    multiple=True,
    default=("A",),
    show_default=True,
    help="Rows of which tier of --data; may be given several times.",
)
@click.option("--rows", is_flag=True, help="Put every prediction into the document too.")
@catalog_option
@output_options
def command(
    sources: tuple[str, ...],
    data: Path | None,
    tiers: tuple[str, ...],
    rows: bool,
    catalogs: tuple[Path, ...],
    output: Output,
) -> None:
    """Predict published measurements, and say how far off that is.

    SOURCES are names of measurements (autopar catalog measurements), or keys of sources in the
    table of --data; all where none is given. Nothing of the measured figures goes into a
    prediction. docs/measured.md, "Measured runs", says what is predicted and how. In a table,
    notes with the word EPLB stand for experts with an even load; rows that are not predicted are
    counted by reason.
    """
    from autopar.report.validation import validation_document
    from autopar.validation.report import validate

    prepare(output)
    found = validate(data=data, tiers=tiers, catalogs=catalogs, only=sources)
    emit(
        output,
        lambda: validation_document(found, rows=rows),
        lambda console: _print(console, found),
    )


def _print(console: "Console", found: "Validation") -> None:
    from autopar.report.validation import print_validation

    print_validation(console, found)
