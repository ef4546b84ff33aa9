"""Remarks below a table: a name in bold, and under it what is to be said."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def remarks(console: Console, items: Mapping[str, Sequence[str]]) -> None:
    """Print named remarks, one row each, the name once."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, texts in items.items():
        for place, text in enumerate(texts):
            table.add_row(Text(name if place == 0 else "", "bold"), Text(text))
    if table.row_count:
        console.print()
        console.print(table)
