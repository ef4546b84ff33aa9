"""Write docs/cli.md: what `--help` of the command and of every verb says, 80 columns wide.

python docs/make_cli_reference.py
"""

from collections.abc import Iterator
from pathlib import Path

import click

from autopar.cli import VERBS, main

PAGE = Path(__file__).resolve().parent / "cli.md"
WIDTH = 80
HEAD = """\
# The command line

Written by `make docs` from the help texts; change those, not this page.
"""


def page() -> str:
    """Return the whole page."""
    return "\n".join((HEAD, *_sections()))


def _sections() -> Iterator[str]:
    parent = click.Context(
        main,
        info_name="autopar",
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        **main.context_settings,
    )
    yield _section("autopar", main.get_help(parent))
    for verb in VERBS:
        command = main.get_command(parent, verb)
        if command is None:
            raise LookupError(verb)
        context = click.Context(command, parent=parent, info_name=verb)
        yield _section(f"autopar {verb}", command.get_help(context))
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                part = command.get_command(context, name)
                if part is None:
                    raise LookupError(name)
                inner = click.Context(part, parent=context, info_name=name)
                yield _section(f"autopar {verb} {name}", part.get_help(inner))


def _section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
