"""Every kind of bad input: exit code 2 and one line that says where, what, and what is expected."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autopar.cli import main

SCENARIO = """\
name: small
llm: {name: tiny, num_layers: 2, num_experts: 2, num_parameters: 1 M}
cluster:
  gpu: {name: g, peak_flops_per_s: 1 TFLOPS, memory_bytes: 1 GB}
  num_nodes: 1
  gpus_per_node: 4
workload: {phase: prefill, batch_tokens: 64, sequence_tokens: 8}
cost_model: declared
declared:
  flops_per_token: 1 MFLOP
  compute_efficiency: 50 %
  utilisation: 0.5
  layer_time_us: 1 ms
"""
PLAN = {"name": "p", "llm": "tiny", "degrees": {"pp": 2, "ep": 2}}


def run(*args: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, list(args), input=stdin)


def complaint(result: Result) -> str:
    """Return the one line of a refused input."""
    assert result.exit_code == 2, (result.exit_code, result.output)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in lines[0]
    assert "bug in autopar" not in lines[0]
    assert len(lines[0]) < 700
    return lines[0]


def write(folder: Path, content: str | bytes, name: str = "bad.yaml") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_the_good_scenario_is_good(tmp_path):
    result = run("solve", write(tmp_path, SCENARIO))
    assert result.exit_code == 0, result.output
    assert "proven optimal" in result.stdout


def bomb() -> str:
    levels = ["a0: &a0 [x, x]"]
    levels += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    return "\n".join(levels)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "the file is empty"),
        ("  \n", "the file is empty"),
        (b"\x89PNG\x00\x01", "binary"),
        (b"name: caf\xe9", "byte 9 is not UTF-8"),
        ("name: [1, 2", "line 2, column 1: not valid YAML"),
        ("a: b: c", "not valid YAML"),
        (bomb(), "aliases"),
        ("[" * 100_000, "nested deeper"),
        ("- " * 100_000, "nested deeper"),
        ("{a: " * 50_000, "nested deeper"),
        ("just text", "found 'just text' at the top"),
        ("- 1\n- 2", "found a list of 2 items at the top"),
        ("null", "found null at the top"),
        ("a: !!python/object/apply:os.system [ls]", "tag"),
        ("name: a\nname: b", "line 2, column 1: field 'name' is given twice"),
        ("a: 1\n---\nb: 2", "expected one per file"),
        ("[a]: 1", "as a key"),
        (SCENARIO.replace("small", "x" * 1_000_000), "(1,000,000 characters)"),
        ("x" * 1_000_000, "(1,000,000 characters)"),
        (SCENARIO + f"{'k' * 600}: 1\n", "unknown field"),
        (SCENARIO.replace("num_nodes: 1", "num_nodes: .nan"), "cluster.num_nodes: found nan"),
        (SCENARIO.replace("num_nodes: 1", "num_nodes: -.inf"), "cluster.num_nodes: found -inf"),
        (SCENARIO.replace("num_nodes: 1", "num_nodes: 1e999"), "cluster.num_nodes: found inf"),
    ],
)
def test_unreadable_file_is_refused(tmp_path, content, expected):
    line = complaint(run("solve", write(tmp_path, content)))
    assert "bad.yaml" in line
    assert expected in line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"name": "a",}', "line 1, column 14: not valid JSON"),
        ('{"name": 1', "line 1, column 11: not valid JSON"),
        ('{"name": "a", "name": "b"}', "name: found twice"),
        ('{"llm": NaN}', "llm: found nan"),
        ('{"a": {"b": [1, 1e999]}}', "a.b[1]: found inf"),
        ('{"a": ' + "[" * 100_000, "nested deeper"),
        ('{"a": ' + "9" * 10_000 + "}", "digits"),
        ("[]", "found a list of 0 items at the top"),
    ],
)
def test_unreadable_json_is_refused(tmp_path, content, expected):
    line = complaint(run("solve", write(tmp_path, content, "bad.json")))
    assert "bad.json" in line
    assert expected in line


def test_missing_file_directory_and_name_are_refused(tmp_path):
    assert "no such file" in complaint(run("solve", str(tmp_path / "none.yaml")))
    assert "found a directory" in complaint(run("solve", str(tmp_path)))
    assert "found a directory" in complaint(run("solve", "."))
    line = complaint(run("solve", "moe-16x16-512gpus"))
    assert "did you mean 'moe-16x16-512gpu'" in line
    assert "autopar catalog scenarios" in line
    assert "characters" in complaint(run("solve", "x" * 1_000_000))
    complaint(run("solve", "./" + "x" * 100_000))
    complaint(run("solve", "./nul\0.yaml"))


def test_a_near_file_name_is_suggested(tmp_path):
    write(tmp_path, SCENARIO, "scenario.yaml")
    assert "scenario.yaml'?" in complaint(run("solve", str(tmp_path / "scenaro.yaml")))


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    line = complaint(run("solve", str(tmp_path / "\x1b[31mred\n.yaml")))
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "num_nodes: 1",
            "num_node: 1",
            "cluster.num_node: unknown field; did you mean 'num_nodes'",
        ),
        ("num_nodes: 1", "num_nodes: many", "cluster.num_nodes: found 'many', expected an integer"),
        ("num_nodes: 1", "num_nodes: -1", "cluster.num_nodes: found -1"),
        ("num_nodes: 1", "num_nodes: 0", "cluster.num_nodes: found 0"),
        ("num_nodes: 1", "num_nodes: 1e30", "cluster.num_nodes: found 1e+30"),
        ("num_nodes: 1", "num_nodes: 1.5", "cluster.num_nodes: found 1.5"),
        ("num_nodes: 1", "num_nodes: true", "cluster.num_nodes: found true"),
        ("num_nodes: 1", "num_nodes: [1]", "cluster.num_nodes: found a list of 1 items"),
        ("num_nodes: 1", "num_nodes: 99999999999999", "cluster.num_nodes"),
        ("num_nodes: 1", "num_nodes: " + "9" * 3000, "an integer of about 3,000 digits"),
        ("  num_nodes: 1\n", "", "cluster.num_nodes: found nothing"),
        ("memory_bytes: 1 GB", "memory_bytes: 1 XB", "cluster.gpu.memory_bytes"),
        ("memory_bytes: 1 GB", "memory_bytes: 0", "cluster.gpu.memory_bytes: found 0"),
        ("memory_bytes: 1 GB", "memory_bytes: -1 GB", "cluster.gpu.memory_bytes: found '-1 GB'"),
        ("memory_bytes: 1 GB", "memory_bytes: 1e30", "cluster.gpu.memory_bytes"),
        ("utilisation: 0.5", "utilisation: 150 %", "declared.utilisation"),
        ("layer_time_us: 1 ms", "layer_time_us: 0", "declared.layer_time_us"),
        ("phase: prefill", "phase: prefil", "did you mean 'prefill'"),
        ("name: small", "name: ../etc", "name: found '../etc', expected a name"),
        ("num_experts: 2", "num_experts: {a: 1}", "llm.num_experts: found a mapping of 1 fields"),
        ("num_experts: 2", "num_experts: 2, experts_per_token: 3", "llm: experts_per_token 3"),
        ("cost_model: declared", "cost_model: declard", "declard"),
        ("cost_model: declared", "schema: 2", "schema 2 is not supported"),
        ("cost_model: declared", "schema: one", "schema: found 'one'"),
        ("cost_model: declared", "kind: plan", "expected kind scenario"),
        ("cost_model: declared", "kind: llm", "expected kind scenario, found 'llm'"),
        ("cost_model: declared", "base: nowhere", "unknown scenario 'nowhere'"),
        ("cost_model: declared", "base: 3", "base: found 3, expected a name or a path"),
        ("cost_model: declared", "recipe: defaults", "did you mean 'default'"),
        ("cost_model: declared", "recipe: ./none.yaml", "none.yaml: no such file"),
        ("cost_model: declared", "rule_packs: [none]", "rule_packs[0]: unknown rules 'none'"),
        ("cost_model: declared", "rule_packs: none", "rule_packs: found 'none', expected a list"),
        ("cost_model: declared", "requirements: 3", "requirements: found 3, expected a mapping"),
        ("cost_model: declared", "requirements: {coverage: all}", "requirements.coverage"),
        ("cost_model: declared", "requirements: {max_ttft_us: 1 parsec}", "unknown unit 'parsec'"),
    ],
)
def test_wrong_field_is_named_with_what_was_found(tmp_path, old, new, expected):
    assert old in SCENARIO
    line = complaint(run("solve", write(tmp_path, SCENARIO.replace(old, new))))
    assert "bad.yaml" in line
    assert expected in line


def test_the_message_counts_the_other_problems(tmp_path):
    bad = SCENARIO.replace("num_nodes: 1", "num_nodes: 0").replace("gpus_per_node: 4", "g: 0")
    assert "(and 2 more problems)" in complaint(run("solve", write(tmp_path, bad)))


def test_the_file_of_the_part_is_named(tmp_path):
    write(tmp_path, "{name: tiny, num_layers: 0, num_parameters: 1 M}", "tiny.yaml")
    text = SCENARIO.replace(SCENARIO.splitlines()[1], "llm: ./tiny.yaml")
    line = complaint(run("solve", write(tmp_path, text)))
    assert "tiny.yaml: llm.num_layers: found 0" in line
    assert "bad.yaml" not in line


TWO_RULES = """\
rules:
  - {name: a, require: pp > 1, because: x}
  - {name: a, require: pp > 1, because: x}
"""
BASED = "base: moe-16x16-512gpu\n"


@pytest.mark.parametrize(
    ("text", "options", "blamed"),
    [
        (BASED + TWO_RULES, [], "bad.yaml: two rules"),
        (BASED + TWO_RULES, ["--set", "cluster.gpus_per_domain=32"], "bad.yaml: two rules"),
        (BASED + TWO_RULES.replace("a,", "b,", 1), ["--set", "rules.0.name=a"], "--set: two rules"),
        (BASED + "cluster: {base: doc-8x64, gpus_per_node: 6}", [], "bad.yaml: cluster: gpus_per"),
        (BASED + "cluster: {gpus_per_node: 6}", [], "bad.yaml: cluster: gpus_per"),
        (BASED, ["--set", "cluster.gpus_per_node=6"], "--set: cluster: gpus_per"),
    ],
)
def test_fields_that_do_not_fit_together_are_blamed_on_who_changed_them(
    tmp_path, text, options, blamed
):
    line = complaint(run("solve", write(tmp_path, text), *options))
    assert blamed in line
    assert "doc-8x64.yaml" not in line
    assert "moe-16x16-512gpu.yaml" not in line


def test_a_file_that_only_names_its_base_is_not_blamed(tmp_path):
    write(tmp_path, BASED + TWO_RULES, "middle.yaml")
    line = complaint(run("solve", write(tmp_path, "{base: ./middle.yaml, name: mine}")))
    assert "middle.yaml: two rules" in line


def test_a_field_of_a_part_with_a_base_is_named_with_its_file(tmp_path):
    text = BASED + "cluster: {base: doc-8x64, gpus_per_node: six}"
    line = complaint(run("solve", write(tmp_path, text)))
    assert "bad.yaml: cluster.gpus_per_node: found 'six'" in line


@pytest.mark.parametrize(
    "path",
    ["x" * 100_000, "cluster." + "x" * 100_000, "name." + "x" * 100_000, "rules." + "x" * 99],
)
def test_a_long_path_of_set_is_not_repeated(path):
    complaint(run("solve", "moe-16x16-512gpu", "--set", f"{path}=1"))


def test_a_circle_of_bases_is_refused(tmp_path):
    write(tmp_path, "{base: ./b.yaml, name: a}", "a.yaml")
    write(tmp_path, "{base: ./a.yaml, name: b}", "b.yaml")
    assert "circle" in complaint(run("solve", str(tmp_path / "a.yaml")))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("[{name: r, require: tpp == 1, because: x}]", "did you mean 'tp'"),
        ("[{name: r, require: __import__('os'), because: x}]", "r"),
        ("[{name: r, require: tp.__class__ == 1, because: x}]", "r"),
        ("[{name: r, require: 'tp ==', because: x}]", "r"),
        ("[{name: r, require: tp == 1}]", "rules[0].because: found nothing"),
        ("[{name: r, because: x}]", "exactly one of require, forbid, sum"),
        ("[{name: r, require: tp == 1, at_most: 3, because: x}]", "rules[0]"),
        (
            "[{name: r, require: tp == 1, because: x}, {name: r, require: pp == 1, because: x}]",
            "two rules have the name 'r'",
        ),
    ],
)
def test_bad_rule_is_refused(tmp_path, rules, expected):
    line = complaint(run("solve", write(tmp_path, SCENARIO + f"rules: {rules}\n")))
    assert expected in line


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema": 99}, "schema 99 is not supported"),
        ({"kind": "scenario"}, "expected kind plan, found 'scenario'"),
        ({"llm": "another"}, "found 'another', expected 'tiny'"),
        ({"cluster": "another"}, "found 'another'"),
        ({"degrees": {"pp": 0}}, "degrees.pp: found 0"),
        ({"degrees": {"pipeline": 2}}, "degrees.pipeline: unknown field"),
        ({"degrees": None}, "degrees"),
        ({"degrees": None, "status": "infeasible"}, "it holds no plan"),
        ({"stages": [{"index": 0, "layers": [0, "x"], "gpus": []}]}, "stages[0].layers[1]"),
        ({"layers_per_stage": "x"}, "layers_per_stage: found 'x'"),
        ({"placement": [{"layer": 0, "expert": 0, "gpu": -1}]}, "placement[0].gpu: found -1"),
        ({"claims": [{"name": "c", "value": 1}]}, "claims[0]: a claim needs a metric"),
        ({"claims": [{"name": "c", "metric": "tp", "value": "x"}]}, "claims[0].value"),
        ({"claims": [{"name": "c", "metric": "tp", "value": 1}] * 2}, "two claims"),
    ],
)
def test_bad_plan_is_refused(tmp_path, change, expected):
    plan = write(tmp_path, json.dumps(PLAN | change), "plan.json")
    line = complaint(run("verify", write(tmp_path, SCENARIO), plan))
    assert expected in line


def test_a_plan_without_a_scenario_is_refused(tmp_path):
    plan = write(tmp_path, json.dumps(PLAN | {"kind": "plan"}), "plan.json")
    assert "embeds no spec" in complaint(run("solve", plan))
    assert "embeds its spec" in complaint(run("solve", "--replay", plan))


def test_plug_ins_need_consent(tmp_path):
    marker = tmp_path / "ran"
    write(tmp_path, f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n", "plug.py")
    recipe = write(tmp_path, "{name: r, plugins: [plug.py]}", "recipe.yaml")
    scenario = write(tmp_path, SCENARIO)
    line = complaint(run("solve", scenario, "--recipe", recipe))
    assert "--allow-plugins" in line
    assert "plug.py" in line
    assert not marker.exists()
    assert "registers no constraint" in complaint(
        run("solve", scenario, "--recipe", recipe, "--allow-plugins")
    )
    assert marker.exists()
    assert "no such file" in complaint(run("solve", scenario, "--plugin", "none.py"))


def test_unwritable_output_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("autopar.api.solve", lambda *_, **__: pytest.fail("solved for nothing"))
    scenario = write(tmp_path, SCENARIO)
    assert "is not a directory" in complaint(run("solve", scenario, "-o", f"{tmp_path}/no/x.json"))
    (tmp_path / "file").write_text("")
    assert "is not a directory" in complaint(run("solve", scenario, "-o", f"{tmp_path}/file/x"))


def test_standard_input_may_be_bad_too():
    assert "standard input: the file is empty" in complaint(run("solve", "-", stdin=""))
    assert "standard input: found binary" in complaint(run("solve", "-", stdin=b"\0\1"))
    assert "only once" in complaint(run("verify", "-", "-", stdin=SCENARIO))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("cluster.num_node=1", "unknown field; did you mean 'num_nodes'"),
        ("clutser.num_nodes=1", "did you mean 'cluster'"),
        ("cluster.num_nodes=0", "cluster.num_nodes: found 0"),
        ("cluster.num_nodes", "expected path=value"),
        ("=1", "expected path=value"),
        ("cost_model.x=1", "single value"),
        ("rules.5.require=1", "rules has 0 elements; found '5'"),
        ("cluster.num_nodes={a: [", "not valid YAML"),
        ("cluster.num_nodes=*a", "aliases"),
        ("llm=nope", "unknown llm 'nope'"),
        ("llm.name=" + "x" * 1_000_000, "(1,000,000 characters)"),
    ],
)
def test_bad_override_is_refused(tmp_path, override, expected):
    line = complaint(run("solve", write(tmp_path, SCENARIO), "--set", override))
    assert "--set" in line
    assert expected in line


def test_bad_catalogue_is_refused(tmp_path, monkeypatch):
    assert "is not a directory" in complaint(run("catalog", "--catalog", str(tmp_path / "none")))
    monkeypatch.setenv("AUTOPAR_CATALOG", str(tmp_path / "none"))
    assert "AUTOPAR_CATALOG" in complaint(run("catalog"))


def test_bad_catalogue_entry_is_refused():
    assert "did you mean 'gpus'" in complaint(run("catalog", "gps"))
    assert "did you mean 'doc-8x64'" in complaint(run("catalog", "clusters", "doc-8x65"))
