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
NODE = ("--cluster", "2xhgx-h100", "--set", "cluster.num_nodes=1", "--json")
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


def test_a_config_on_standard_input_is_read_as_a_model():
    """Also with Infinity, as Python's json writes it."""
    text = json.dumps(LLAMA | {"time_step_limit": [0.0, float("inf")]})
    command = ["solve", "--model", "-", *PREFILL, *NODE]
    result = CliRunner().invoke(main, command, input=text)
    assert result.exit_code == 0, result.stderr
    llm = json.loads(result.stdout)["spec"]["llm"]
    assert (llm["name"], llm["num_layers"]) == ("llama", 2)
    wrong = CliRunner().invoke(main, command, input=json.dumps(LLAMA | {"hidden_size": 0}))
    assert wrong.exit_code == 2
    assert "standard input: hidden_size: found 0" in " ".join(wrong.stderr.split())


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


@pytest.mark.parametrize(
    ("work", "tokens"),
    [
        ({"phase": "serving", "input_tokens": 900, "output_tokens": 125}, 1025),
        ({"phase": "decode", "input_tokens": 900, "output_tokens": 125}, 1025),
        ({"phase": "prefill", "input_tokens": 1025}, 1025),
        ({"phase": "prefill", "batch_tokens": 9000, "sequence_tokens": 1025}, 1025),
        ({"phase": "decode", "batch_sequences": 2, "sequence_tokens": 1025}, 1025),
    ],
)
def test_requests_longer_than_the_context_of_the_model_are_refused(tmp_path, work, tokens):
    model = folder_with(tmp_path / "tiny", max_position_embeddings=1024)
    file = tmp_path / "work.json"
    file.write_text(json.dumps({"schema": 1, "kind": "workload", "name": "long", **work}))
    question = ("solve", "--model", model, "--workload", file, *NODE)
    said = refusal(*question)
    # No part is to blame alone, least of all the cluster, which is laid over a base of its own.
    assert said.startswith("error: command line: workload 'long' has requests of 1,025 tokens")
    assert "llm 'tiny' takes at most 1,024 of context" in said
    assert f"--set llm.max_context_tokens={tokens}" in said
    assert run(*question, "--set", f"llm.max_context_tokens={tokens}").exit_code == 0
    assert run(*question, "--set", "llm.max_context_tokens=null").exit_code == 0


@pytest.fixture
def question(tmp_path):
    """A question of two small layers on one node: phase -> arguments."""

    def build(phase):
        model = folder_with(tmp_path / f"tiny-{phase}")
        lengths = {"input_tokens": 64} | ({} if phase == "prefill" else {"output_tokens": 16})
        file = tmp_path / f"{phase}.json"
        work = {"schema": 1, "kind": "workload", "name": phase, "phase": phase}
        file.write_text(json.dumps(work | lengths))
        return ("--model", model, "--workload", file, *NODE)

    return build


@pytest.mark.parametrize(
    ("phase", "key", "words"),
    [("prefill", "tpot", "time per output token"), ("decode", "ttft", "time to first token")],
)
def test_a_limit_on_a_time_that_the_workload_does_not_have_is_refused(question, phase, key, words):
    asked = question(phase)
    for verb in ("solve", "explain"):
        said = refusal(verb, *asked, f"--{key}", "2s")
        assert f"(--{key}): a {phase} workload has no {words}" in said
    said = refusal("solve", *asked, "--objective", key)
    assert f"--objective {key}: a {phase} workload has no {words}; expected one of" in said
    other = {"tpot": "ttft", "ttft": "tpot"}[key]
    assert run("solve", *asked, f"--{other}", "2s", "--objective", other).exit_code == 0


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--ttft", "2", "found '2', expected a time with its unit, such as 2s or 40ms"),
        ("--tpot", "40.", "found '40.', expected a time with its unit"),
        ("--ttft", "", "found '', expected a time with its unit"),
        ("--ttft", "soon", "found 'soon', expected a time with its unit"),
        ("--tpot", "4 parsec", "found '4 parsec', unknown unit 'parsec'; expected one of ns, us"),
        ("--ttft", "0", "found '0', expected more than zero"),
        ("--tpot", "-1ms", "found '-1ms', expected more than zero"),
        ("--min-rate", "", "found '', expected a rate such as 5000 (tokens/s)"),
        ("--min-rate", "0", "found '0', expected more than zero"),
    ],
)
def test_a_limit_says_its_unit_and_is_named_as_it_was_typed(question, option, value, message):
    said = refusal("solve", *question("serving"), option, value)
    assert said.startswith(f"error: {option}: {message}")


def test_several_engines_hold_together(question):
    engines = ("--engine", "vllm", "--engine", "sglang", "--engine", "vllm")
    result = run("solve", *question("serving"), *engines)
    assert result.exit_code == 0, result.stderr
    packs = [pack["name"] for pack in json.loads(result.stdout)["spec"]["rule_packs"]]
    assert packs == ["vllm", "sglang"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("--model", "x"), "--model: unknown llm 'x'"),
        (("--llm", "x"), "--llm: unknown llm 'x'"),
        (("--model", ""), "--model: found '', expected a name or a path"),
        (("--model", "x", "--cluster", ""), "--model: unknown llm 'x'"),
        (("--model", "llama-3.1-8b", "--cluster", ""), "--cluster: found '', expected a name"),
        (("--model", "llama-3.1-8b", "--engine", "vlm"), "--engine: unknown rules 'vlm'"),
        (
            ("--model", "llama-3.1-8b", "--coverage", "partition"),
            "--coverage: coverage 'partition'",
        ),
        (
            ("--cluster", "1xhgx-h100"),
            "no SPEC given; expected a scenario, or its parts by --model",
        ),
    ],
)
def test_a_refusal_names_the_option_that_was_typed(typed, message):
    said = refusal("solve", "--cluster", "1xhgx-h100", *PREFILL, *typed)
    assert said.startswith(f"error: {message}")


def test_model_and_llm_are_one_option():
    said = refusal("solve", "--model", "llama-3.1-8b", "--llm", "llama-3.1-8b", *PREFILL, *NODE)
    assert "found both --model and --llm" in said


def test_a_model_may_be_a_plain_folder_unless_the_catalogue_has_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "llama-3.1-8b"):
        folder_with(tmp_path / name)
    (tmp_path / "empty").mkdir()
    for name, layers in (("tiny", 2), ("llama-3.1-8b", 32), ("./llama-3.1-8b", 2)):
        answer = run("solve", "--model", name, *PREFILL, *NODE)
        assert json.loads(answer.stdout)["spec"]["llm"]["num_layers"] == layers
    for name in ("empty", "./empty"):
        said = refusal("solve", "--model", name, *PREFILL, *NODE)
        assert said == "error: --model: empty: found a folder without config.json"


def test_an_engine_file_lies_where_it_was_typed_not_beside_the_scenario(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    rules = (
        'schema: 1\nkind: rules\nname: mine\nrules: [{name: one, require: pp == 1, because: "x"}]'
    )
    (tmp_path / "here" / "mine.yaml").write_text(rules)
    (tmp_path / "one.yaml").write_text("base: llama-3.1-70b-16xh100\nrule_packs: [vllm]\n")
    monkeypatch.chdir(tmp_path / "here")
    engines = ("--engine", "./mine.yaml", "--engine", "vllm")
    result = run("solve", "../one.yaml", "--json", *engines)
    assert result.exit_code == 0, result.stderr
    packs = [pack["name"] for pack in json.loads(result.stdout)["spec"]["rule_packs"]]
    assert packs == ["vllm", "mine"]


def test_rules_on_the_command_line_hold_beside_those_of_the_spec(tmp_path):
    """They take names that are free, bind like any other, and stand in the answer's spec."""
    folder = folder_with(tmp_path / "tiny")
    own = 'rules=[{name: rule-1, require: "tp <= 4", because: a test}]'
    command = ["solve", "--model", folder, *PREFILL, *NODE, "--set", own]
    free = json.loads(run(*command).stdout)
    other = json.loads(run(*command, "--rule", f"tp != {free['degrees']['tp']}").stdout)
    assert other["degrees"]["tp"] != free["degrees"]["tp"]
    assert [rule["name"] for rule in other["spec"]["rules"]] == ["rule-1", "rule-2"]
    assert "rule-2" in other["binding"]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("", "--rule: found '', expected a predicate"),
        ("tp <= 4 " * 100, "(800 characters), expected a predicate of at most 500"),
        ("tp <=", "rule 'rule-1': require: 'tp <=': invalid syntax"),
        ("tensor <= 4", "rule 'rule-1': require: unknown name 'tensor'"),
        ("tp", "rule 'rule-1': require: 'tp' is a number; expected a condition"),
        ("prefill.tp > 1", "and the phase of this workload, prefill, has none"),
    ],
    ids=["empty", "long", "half", "unknown", "number", "roles"],
)
def test_a_rule_that_is_none_is_refused(tmp_path, rule, words):
    folder = folder_with(tmp_path / "tiny")
    assert words in refusal("solve", "--model", folder, *PREFILL, *NODE, "--rule", rule)
