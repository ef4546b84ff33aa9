"""`autopar ingest`: the group; its subcommands are tested with what they read."""

from click.testing import CliRunner

from autopar.cli import main


def run(*args):
    return CliRunner().invoke(main, ["ingest", *args])


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
