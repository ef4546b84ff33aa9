"""`autopar ingest`: a group whose commands are imported on use."""

from importlib import import_module

import click

SOURCES = {"plan": "Read the commands of an engine as a plan."}


class _Sources(click.Group):
    """What can be read, each from a module of its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SOURCES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SOURCES:
            return None
        command: click.Command = import_module(f"autopar.cli._ingest_{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SOURCES.items()))


@click.group("ingest", cls=_Sources)
def command() -> None:
    """Read what is there, and write it as a file of autopar."""
