"""`autopar ingest`: the group; its subcommands are tested with what they read."""

import pytest
from click.testing import CliRunner

from autopar.cli import ingest, main


def run(*args):
    return CliRunner().invoke(main, ["ingest", *args])


@pytest.mark.parametrize("name", ingest.SOURCES)
def test_every_subcommand_is_listed_with_the_first_line_of_its_help(name):
    command = ingest.command.get_command(None, name)
    assert command.help.splitlines()[0] == ingest.SOURCES[name]
    assert all(p.help for p in command.params if p.param_type_name == "option")


def test_help_lists_the_subcommands():
    result = run("--help")
    assert result.exit_code == 0
    assert "cluster  Read a machine's own description" in result.stdout


def test_an_unknown_subcommand_is_refused():
    result = run("clutser")
    assert result.exit_code == 2
    assert "'clutser'" in result.stderr


def test_a_subcommand_wants_files():
    result = run("cluster")
    assert result.exit_code == 2
    assert "Missing argument 'FILE...'" in result.stderr
