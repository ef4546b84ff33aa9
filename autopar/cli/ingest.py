"""`autopar ingest`: a group whose subcommands are modules `_ingest_NAME`, imported on use."""

from importlib import import_module

import click

SOURCES = {
    "cluster": "Read a machine's own description into a cluster spec.",
    "plan": "Read the commands of an engine as a plan, for verify and compare.",
}


class _Sources(click.Group):
    """A group whose commands are imported on use."""

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
    """Read the world's own descriptions into specs, and say what was inferred."""
