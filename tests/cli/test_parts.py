"""A question made of parts on the command line: what is taken, and what is said of the rest."""

import json
import os

import pytest
from click.testing import CliRunner

from autopar.cli import main

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 1000,
}
NODE = ("--cluster", "1xhgx-h100", "--set", "cluster.gpus_per_node=1", "--json")
PREFILL = ("--workload", "prefill-8k")


def run(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def refusal(*args):
    """The one line that a command ends with, all of exit code 2."""
    result = run(*args)
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


def folder_with(path, **fields):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(LLAMA | fields))
    return path


def test_a_config_with_infinity_is_read_as_a_model(tmp_path):
    """Python's json writes it (Nemotron-H: time_step_limit), RFC 8259 has no such number."""
    folder = folder_with(tmp_path / "tiny", time_step_limit=[0.0, float("inf")])
    for model in (folder, folder / "config.json"):
        result = run("solve", "--model", model, *PREFILL, *NODE)
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["spec"]["llm"]["name"] == "tiny"


def test_a_spec_with_infinity_is_refused(tmp_path):
    file = tmp_path / "llm.json"
    file.write_text('{"kind": "llm", "num_parameters": Infinity}')
    assert "found inf, expected a finite number" in refusal(
        "solve", "--model", file, *PREFILL, *NODE
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_as_a_model_is_refused_and_not_waited_for(tmp_path):
    (tmp_path / "folder").mkdir()
    for pipe in (tmp_path / "model.json", tmp_path / "folder" / "config.json"):
        os.mkfifo(pipe)
        at = pipe if pipe.parent == tmp_path else pipe.parent
        assert "found a pipe or a device" in refusal("solve", "--model", at, *PREFILL, *NODE)
