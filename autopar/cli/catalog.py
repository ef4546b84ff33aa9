"""`autopar catalog`."""
# ruff: noqa: PLC0415  --help imports no pydantic

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autopar.cli._io import emit, prepare, put
from autopar.cli._options import Output, catalog_option, output_options

if TYPE_CHECKING:
    from rich.console import Console


@click.command("catalog")
@click.argument("kind", required=False)
@click.argument("name", required=False)
@catalog_option
@output_options
def command(kind: str | None, name: str | None, catalogs: tuple[Path, ...], output: Output) -> None:
    """List and show what models/ and solvers/ hold.

    KIND is one of scenarios, llms, gpus, clusters, workloads, engines, plans, measurements, bands,
    recipes, rules. With NAME, the document is shown as it stands in its file.
    """
    from autopar.catalog import read_document, read_text
    from autopar.report.json import catalog_document

    prepare(output)
    if kind is not None and name is not None:
        text = read_text(kind, name, catalogs=catalogs)
        document = read_document(kind, name, catalogs=catalogs)
        if output.as_json or output.file is not None:
            emit(output, lambda: document, lambda console: console.print(name))
        else:
            put(text)
        return
    entries = _entries(kind, catalogs)
    emit(output, lambda: catalog_document(entries), lambda console: _print(console, entries))


def _entries(kind: str | None, catalogs: tuple[Path, ...]) -> dict[str, list[dict[str, str]]]:
    """Return the name and description of all documents, by the folder of their kind."""
    from autopar.catalog import names, read_document
    from autopar.shelves import KINDS, kind_of

    kinds = KINDS.values() if kind is None else [kind_of(kind)]
    entries: dict[str, list[dict[str, str]]] = {}
    for each in kinds:
        listed = []
        for name in names(each.name, catalogs=catalogs):
            document = read_document(each.name, name, catalogs=catalogs)
            description = " ".join(str(document.get("description", "")).split())
            listed.append({"name": name, "description": description})
        entries[each.folder] = listed
    return entries


def _print(console: "Console", entries: dict[str, list[dict[str, str]]]) -> None:
    from autopar.report.text import print_catalog

    print_catalog(console, entries)
