"""Each verb as a user runs it: streams, documents, exit codes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from autopar import api
from autopar.catalog import load_scenario, names, read_text
from autopar.cli import main
from autopar.documents import parse
from autopar.report.json import dump, solution_document

DOCUMENT, PLAN = "moe-16x16-512gpu", "ep16-tp2-pp8"
CLASH = ("--set", "cluster.gpus_per_domain=16")


def run(*args, stdin=None):
    return CliRunner().invoke(main, [str(a) for a in args], input=stdin)


@pytest.fixture(scope="module")
def solution():
    return api.solve(load_scenario(DOCUMENT))


def test_solve_prints_the_plan_and_nothing_else():
    result = run("solve", DOCUMENT)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "TP2 x PP8 x attention DP32, experts EP16 x ETP2 x spread 2" in result.stdout
    assert "traffic decides" in " ".join(result.stdout.split())
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert not any(line != line.rstrip() for line in result.stdout.splitlines())


def test_solve_json_is_one_document_and_the_file_holds_the_same(tmp_path):
    file = tmp_path / "answer.yaml"
    result = run("solve", DOCUMENT, "--json", "-o", file)
    document = json.loads(result.stdout)
    assert document["degrees"]["pp"] == 8
    assert parse(file.read_text(), "answer.yaml") == document
    assert run("verify", file).exit_code == 0
    assert run("verify", DOCUMENT, file).exit_code == 0
    assert run("verify", "-", stdin=file.read_text()).exit_code == 0
    plan = run("verify", "-", stdin=read_text("plans", PLAN))
    assert plan.exit_code == 2
    assert "found no answer of solve --json" in plan.stderr


def test_robust_moves_the_costs_and_a_document_has_none():
    asked = ("--model", "llama-3.1-8b", "--cluster", "1xhgx-h100", "--workload", "chat-4k-1k")
    result = run("solve", *asked, "--tpot", "30ms", "--robust", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["robustness"]["costs"]
    refused = run("solve", DOCUMENT, "--robust")
    assert refused.exit_code == 2
    assert "cost model 'declared' has no costs of operations to move" in refused.stderr


@pytest.mark.parametrize(("domain", "pp"), [(32, 16), (128, 4), (256, 2), (512, 1)])
def test_set_changes_the_answer(domain, pp):
    result = run("solve", DOCUMENT, "--set", f"cluster.gpus_per_domain={domain}", "--json")
    assert json.loads(result.stdout)["degrees"]["pp"] == pp


def test_solve_reads_standard_input():
    text = json.dumps(load_scenario(DOCUMENT).document())
    assert run("solve", "-", "--json", stdin=text).exit_code == 0


def test_shorthands_are_overrides(monkeypatch, solution):
    seen = []
    monkeypatch.setattr(api, "solve", lambda scenario, **_: seen.append(scenario) or solution)
    options = ("--coverage", "up_to", "--ttft", "2s", "--tpot", "40ms", "--recipe", "explicit")
    assert run("solve", DOCUMENT, *options).exit_code == 0
    wanted = seen[0].requirements
    assert (wanted.coverage, wanted.max_ttft_us, wanted.max_tpot_us) == ("up_to", 2e6, 40e3)
    assert seen[0].recipe.cp_sat.symmetry == "explicit"


@pytest.mark.parametrize(
    ("status", "code"), [("optimal", 0), ("feasible", 0), ("infeasible", 3), ("unknown", 4)]
)
def test_the_exit_code_says_the_status(monkeypatch, solution, status, code):
    answer = replace(solution, status=status)
    if code:
        answer = replace(answer, plan=None, metrics=None, objectives=(), uniqueness=None)
    monkeypatch.setattr(api, "solve", lambda *_, **__: answer)
    result = run("solve", DOCUMENT)
    assert result.exit_code == code
    assert json.loads(run("solve", DOCUMENT, "--json").stdout)["status"] == status


def test_an_interrupted_solve_prints_its_plan(monkeypatch, solution):
    partial = replace(solution, status="feasible", interrupted=True)
    monkeypatch.setattr(api, "solve", lambda *_, **__: partial)
    result = run("solve", DOCUMENT)
    assert result.exit_code == 130
    assert "TP2 x PP8 x attention DP32, experts EP16 x ETP2 x spread 2" in result.stdout
    assert "interrupted" in result.stdout


def test_replay_finds_the_same_answer_and_a_changed_one(tmp_path):
    file = tmp_path / "answer.json"
    run("solve", DOCUMENT, "--json", "-o", file)
    result = run("solve", "--replay", file)
    assert result.exit_code == 0
    assert "the answer is the same" in result.stderr
    recorded = json.loads(file.read_text())
    recorded["placement"][5]["gpu"] += 1
    recorded["objectives"][0]["value"] *= 2
    file.write_text(json.dumps(recorded))
    result = run("solve", "--replay", file)
    assert result.exit_code == 1
    assert "placement[5]: differs" in result.stderr
    assert "throughput value" in result.stderr
    assert run("solve", DOCUMENT, "--replay", file).exit_code == 2


def test_verify_passes_a_plan_with_wrong_claims_unless_claims_are_checked():
    result = run("verify", DOCUMENT, PLAN)
    assert result.exit_code == 0
    assert "satisfies the spec" in result.stdout
    assert "wrong" in result.stdout
    assert run("verify", DOCUMENT, PLAN, "--check-claims").exit_code == 1
    assert run("verify", DOCUMENT, "-", stdin=read_text("plans", PLAN)).exit_code == 0


def test_verify_fails_a_plan_that_breaks_the_spec():
    result = run("verify", DOCUMENT, PLAN, "--ttft", "1s", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert not document["ok"]
    assert document["violations"]


def test_compare_puts_plans_side_by_side():
    result = run("compare", DOCUMENT, PLAN)
    assert result.exit_code == 0
    assert PLAN in result.stdout
    names_of = [
        p["name"] for p in json.loads(run("compare", DOCUMENT, PLAN, "--json").stdout)["plans"]
    ]
    assert names_of == [PLAN, "autopar"]


def test_compare_takes_a_lone_argument_beside_the_parts_of_a_scenario_as_the_plan(tmp_path):
    parts = ("--model", "qwen3-1.7b", "--cluster", "1xhgx-h100", "--workload", "prefill-8k")
    one_gpu = ("--set", "cluster.gpus_per_node=1")
    file = tmp_path / "plan.json"
    assert run("solve", *parts, *one_gpu, "-o", file).exit_code == 0
    result = run("compare", *parts, *one_gpu, file, "--json")
    assert result.exit_code == 0, result.stderr
    ours, own = json.loads(result.stdout)["plans"]
    assert own["name"] == "autopar"
    assert ours["metrics"] == own["metrics"]
    assert run("compare", *parts).exit_code == 2
    assert run("compare", *parts[:4], DOCUMENT).exit_code == 2


def test_compare_exits_with_3_only_where_no_plan_exists():
    result = run("compare", DOCUMENT, PLAN, *CLASH)
    assert result.exit_code == 3
    costs = result.stdout.partition("What coverage partition costs")[2]
    rows = [line for line in costs.splitlines() if " no plan  " in line]
    assert rows
    assert all(row.rstrip().endswith("-") for row in rows)
    violated = run("compare", DOCUMENT, PLAN, "--set", "cluster.gpus_per_domain=32")
    assert violated.exit_code == 0
    assert f"Violations of {PLAN}" in violated.stdout
    said = " ".join(run("compare", "--help").stdout.split())
    assert "Exits with 3 if the scenario provably has no plan" in said


def test_assumptions_are_marked_where_an_option_changed_the_scenario(monkeypatch, solution):
    marked = "Assumed, as the scenario was written"
    changed = run("solve", DOCUMENT, "--set", "cluster.gpus_per_domain=32").stdout
    assert "eight scale-up domains of 64" in changed.partition(marked)[2]
    monkeypatch.setattr(api, "solve", lambda *_, **__: solution)
    assert marked not in run("solve", DOCUMENT).stdout
    assert marked in run("solve", DOCUMENT, "--recipe", "explicit").stdout


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("objective", "value"), "objective.value"),
        (("objective", "bound"), "objective.bound"),
        (("objectives", 1, "bound"), "ttft bound"),
        (("metrics", "ttft_ms"), "metrics.ttft_ms"),
        (("metrics", "memory", "weights"), "metrics.memory.weights"),
    ],
)
def test_replay_names_a_number_that_differs(tmp_path, solution, path, named):
    recorded = json.loads(dump(solution_document(solution)))
    *steps, last = path
    place = recorded
    for step in steps:
        place = place[step]
    file = tmp_path / "answer.json"
    place[last] *= 1 + 1e-12
    file.write_text(json.dumps(recorded))
    assert run("solve", "--replay", file).exit_code == 0
    place[last] *= 2
    file.write_text(json.dumps(recorded))
    result = run("solve", "--replay", file)
    assert result.exit_code == 1
    assert f"replay: {named}: recorded" in result.stderr


def test_replay_compares_only_the_metrics_that_are_stated(tmp_path, solution):
    recorded = json.loads(dump(solution_document(solution)))
    del recorded["metrics"], recorded["objective"]
    file = tmp_path / "answer.json"
    file.write_text(json.dumps(recorded))
    assert run("solve", "--replay", file).exit_code == 0


def test_explain_names_the_clash_and_exits_like_solve():
    result = run("explain", DOCUMENT, *CLASH)
    assert result.exit_code == 3
    assert "all_to_all_within" in result.stdout
    assert json.loads(run("explain", DOCUMENT, *CLASH, "--json").stdout)["conflict"]
    assert run("explain", DOCUMENT).exit_code == 0


def test_a_repair_that_explain_names_is_taken_by_set():
    repairs = json.loads(run("explain", DOCUMENT, *CLASH, "--json").stdout)["repairs"]
    changes = [r["change"] for r in repairs if "=" in r["change"]]
    assert changes
    for change in changes:
        assert run("solve", DOCUMENT, *CLASH, "--set", change).exit_code == 0


def test_catalog_lists_everything_and_shows_one():
    result = run("catalog")
    assert result.exit_code == 0
    for name in (*names("scenario"), *names("plan"), *names("recipe")):
        assert name in result.stdout
    listed = json.loads(run("catalog", "llms", "--json").stdout)["llms"]
    assert [entry["name"] for entry in listed] == names("llm")
    assert "gpus_per_domain: 64" in run("catalog", "clusters", "doc-8x64").stdout
    assert json.loads(run("catalog", "cluster", "doc-8x64", "--json").stdout)["num_nodes"] == 64


def test_a_plug_in_is_held_by_solve_and_by_verify(tmp_path):
    file: Path = tmp_path / "few_stages.py"
    file.write_text(PLUG_IN)
    solved = run("solve", DOCUMENT, "--plugin", file, "--json")
    assert solved.exit_code == 0, solved.stderr
    assert json.loads(solved.stdout)["degrees"]["pp"] == 9
    result = run("verify", DOCUMENT, PLAN, "--plugin", file, "--json")
    assert result.exit_code == 1
    assert {"kind": "deep", "message": "8 stages"} in json.loads(result.stdout)["violations"]


PLUG_IN = '''
from autopar.constraints import register


@register
class Deep:
    """At least nine stages."""

    name = "deep"

    def post(self, model, variables, problem):
        variables.forbid_rows(variables.rows.pp < 9)

    def check(self, plan, problem):
        if plan.pp < 9:
            yield f"{plan.pp} stages"
'''
