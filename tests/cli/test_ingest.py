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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "python -m dynamo.vllm --model x",
            "not read: the command 'python -m dynamo.vllm --model x'",
        ),
        ("hello world", "not read: the command 'hello world'"),
        (
            "apiVersion: nvidia.com/v1alpha1\nkind: DynamoGraphDeployment\nspec: {services: {}}\n",
            "or a compose file\n",
        ),
    ],
)
def test_a_plan_of_no_engine_is_refused_as_such_and_not_for_its_model(text, words):
    result = CliRunner().invoke(main, ["ingest", "plan", "-"], input=text)
    assert result.exit_code == 2
    assert "the commands: no command of an engine; expected" in result.stderr
    assert words in result.stderr


def test_options_that_name_no_model_ask_for_it():
    result = CliRunner().invoke(main, ["ingest", "plan", "-"], input="max_batch_size: 3")
    assert result.exit_code == 2
    assert "the commands name no model; give --model" in result.stderr
