"""The documents keep the contract; the text fits 80 columns and loses no number."""

import json
import shlex
from dataclasses import replace

import pytest
from rich.console import Console

from autopar import learnt
from autopar.api import compare, explain, robustness, solve, verify
from autopar.catalog import load_plan, load_scenario
from autopar.report import certainty, text, words
from autopar.report import json as documents
from autopar.results import (
    Explanation,
    ObjectiveValue,
    Repair,
    Verdict,
    VerifyReport,
    Violation,
)
from autopar.specs import CostFactors, PlanSpec

CONTRACT = {
    "schema", "status", "objective", "degrees", "num_gpus", "idle_gpus", "stages", "placement",
    "metrics", "binding", "conflict", "repairs", "solver",
}  # fmt: skip
METRICS = {
    "tokens_per_s", "tokens_per_s_per_gpu", "ttft_ms", "tpot_ms", "concurrency", "batch_per_gpu",
    "peak_memory_bytes", "memory",
}  # fmt: skip


@pytest.fixture(scope="module")
def solution(document_scenario):
    return solve(document_scenario({"cluster.gpus_per_domain": 128}))


@pytest.fixture(scope="module")
def infeasible(document_scenario):
    return solve(document_scenario({"cluster.gpus_per_domain": 16}))


@pytest.fixture
def printed():
    def show(print_it, *args, width=80):
        console = Console(width=width, color_system=None, highlight=False, markup=False)
        with console.capture() as captured:
            print_it(console, *args)
        output = captured.get()
        assert max(len(line) for line in output.splitlines()) <= width
        return " ".join(output.split())

    return show


def test_the_answer_keeps_the_contract(solution):
    document = documents.solution_document(solution)
    assert document.keys() >= CONTRACT
    assert document["metrics"].keys() >= METRICS
    assert document["metrics"]["memory"].keys() == {
        "weights",
        "kv_cache",
        "activations",
        "reserved",
    }
    assert document["objective"].keys() >= {"name", "value", "bound", "gap", "unit"}
    assert document["solver"].keys() >= {"wall_s", "cost_model", "version", "seed", "fingerprint"}
    assert document["degrees"].keys() == set(words.DEGREES)
    assert document["metrics"]["ttft_ms"] == pytest.approx(solution.metrics.ttft_us / 1000)
    assert document["idle_gpus"] == 512 - document["num_gpus"] == 0
    assert len(document["placement"]) == 16 * 16 * 2
    assert document["placement"][0].keys() == {"layer", "expert", "copy", "shard", "gpu"}
    assert sorted(g for stage in document["stages"] for g in stage["gpus"]) == list(range(512))


def test_the_answer_is_a_plan_file_that_verifies_and_a_scenario(solution):
    document = json.loads(documents.dump(documents.solution_document(solution)))
    plan = load_plan(document)
    assert isinstance(plan, PlanSpec)
    assert load_scenario(document["spec"]) == solution.scenario
    assert verify(solution.scenario, plan).violations == ()


def test_the_text_of_an_answer_is_that_of_its_document(solution, infeasible):
    """With the rows of the placement, of a dense model without any, and without a plan."""
    dense = replace(solution, plan=replace(solution.plan, placement=solution.plan.placement[:0]))
    assert len(solution.plan.placement)
    for answer in (solution, dense, infeasible):
        assert documents.solution_text(answer) == documents.dump(
            documents.solution_document(answer)
        )


def test_an_answer_without_a_plan_keeps_the_contract(infeasible):
    document = documents.solution_document(infeasible)
    assert document.keys() >= CONTRACT
    assert document["kind"] == "answer"
    assert document["status"] == "infeasible"
    assert document["degrees"] is None
    assert document["placement"] == []
    assert document["conflict"]
    assert document["repairs"][0].keys() == {"requirement", "change", "size", "relative"}


def test_dump_is_json_with_one_row_per_line_and_no_nan():
    document = {"a": 1, "rows": [{"x": 1}, {"x": float("nan")}], "deep": {"b": [1], "c": {"d": 2}}}
    dumped = documents.dump(document)
    assert json.loads(dumped) == document | {"rows": [{"x": 1}, {"x": None}]}
    assert '    {"x": 1},\n    {"x": null}\n' in dumped
    assert documents.dump({"e": [], "t": "\u00b5"}).isascii()


@pytest.mark.parametrize(
    "rows",
    [
        [{"gpu": 0}, {"gpu": 1}, {"gpu": 2}],
        [{"text": "ends like }, { this"}, {"text": ""}],
        [{"parts": [{"a": 1}, {"a": 2}]}, {"parts": []}],
        [{}, {}],
        [[1, 2], [{}, {}]],
        [{"only": 1}],
    ],
)
def test_every_row_has_a_line_of_its_own_whatever_it_holds(rows):
    lines = documents.dump({"rows": rows}).splitlines()
    assert [json.loads(line.strip().removesuffix(",")) for line in lines[2:-2]] == rows


def test_the_solution_in_text_says_everything(solution, printed):
    said = printed(text.print_solution, solution)
    for part in (
        "proven optimal",
        "TP2 x PP4 x attention DP64, experts EP16 x ETP2 x spread 4",
        "tp 2 * cp 1 * attn_dp 64 = ep 16 * etp 2 * spread 4 = 128 GPUs per stage",
        "0 to 3 4 each: 0-3 to 12-15 128 each: 0-127 to 384-511",
        "TTFT 1.60 s",
        "traffic (min) 3 stage boundaries 3 stage boundaries 0 % decides",
        "all_to_all_within",
        solution.uniqueness.method,
        *solution.notes,
        solution.solver.fingerprint,
    ):
        assert part in said


def test_a_gap_and_an_interruption_are_never_called_optimal(solution, printed):
    loose = ObjectiveValue("throughput", 50.0, 100.0, 0.5, "tokens/s", "max", False, 0.0)
    partial = replace(solution, status="feasible", objectives=(loose,), interrupted=True)
    said = printed(text.print_solution, partial)
    assert "optimality not proven" in said
    assert "interrupted" in said
    assert "50 %" in said
    assert "proven optimal" not in said


def test_the_infeasible_answer_names_the_clash_and_the_repairs(infeasible, printed):
    said = printed(text.print_solution, infeasible)
    assert "infeasible, proven" in said
    for name in infeasible.conflict:
        assert name in said
    assert "Any one of these makes it feasible: add to the command" in said
    for repair in infeasible.repairs:
        assert f"--set {repair.change}" in said
        assert repair.size in said


def test_a_repair_is_one_unbroken_line_that_a_shell_takes():
    changes = {
        "requirements.max_ttft_us=1600000.00": ["requirements.max_ttft_us=1600000.00"],
        "cluster.num_nodes=32 --set requirements.coverage=every_gpu": [
            "cluster.num_nodes=32",
            "requirements.coverage=every_gpu",
        ],
        "recipe.disable=[memory,a_rule_with_quite_a_long_name,another_one_of_them]": [
            "recipe.disable=[memory,a_rule_with_quite_a_long_name,another_one_of_them]"
        ],
    }
    repairs = [Repair("ttft", change, "longer " * 20 + "still", 0.5) for change in changes]
    console = Console(width=80, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        text.print_conflict(console, ("ttft",), {}, repairs)
    lines = [line for line in captured.get().splitlines() if line.startswith("  --set ")]
    for line, wanted in zip(lines, changes.values(), strict=True):
        assert shlex.split(line) == [word for value in wanted for word in ("--set", value)]
    assert "'recipe.disable=[" in lines[-1]
    others = [line for line in captured.get().splitlines() if "--set" not in line]
    assert max(map(len, others)) <= 80
    assert "still, a change of 50 %" in " ".join(captured.get().split())


def test_a_clash_without_a_repair_says_that_none_was_found(infeasible, printed):
    said = printed(text.print_solution, replace(infeasible, repairs=()))
    assert "no repair found by changing one requirement" in said


def test_assumptions_of_a_changed_scenario_are_told_as_those_of_the_original(solution, printed):
    assumed = ("eight domains of 64", "no overlap")
    scenario = solution.scenario.model_copy(update={"assumptions": assumed})
    solution = replace(solution, scenario=scenario)
    same = printed(text.print_solution, solution)
    assert "as the scenario was written" not in same
    changed = printed(lambda c, s: text.print_solution(c, s, changed=True), solution)
    assert "Assumed, as the scenario was written" in changed
    assert all(said in same and said in changed for said in assumed)


def test_unknown_is_not_called_infeasible(infeasible, printed):
    unknown = replace(infeasible, status="unknown", conflict=(), repairs=())
    said = printed(text.print_solution, unknown)
    assert "not decided" in said
    assert "infeasible" not in said


def test_stages_that_differ_get_a_row_each(solution, printed):
    plan = solution.plan
    first = replace(plan.stages[0], tp=4, attn_dp=32)
    said = printed(
        text.print_solution, replace(solution, plan=replace(plan, stages=(first, *plan.stages[1:])))
    )
    assert "TP varies" in said
    assert "tp 4" in said
    assert "1 to 3" in said


def test_every_claim_is_printed_whole(solution, document_scenario, printed):
    verdicts = tuple(
        Verdict(f"claim-{i}", word, "1,234,567,890 tokens/ms", "1,234,567 tokens/ms", 1000.0, why)
        for i, (word, why) in enumerate(
            [("reproduced", "counted"), ("wrong", "unit slip " * 20), ("not derivable", "none")]
        )
    )
    broken = (Violation("memory", "gpu 3: 90 GB of 64 GB"),)
    report = VerifyReport("p", broken, solution.metrics, verdicts, ("a note",))
    said = printed(text.print_verification, report, document_scenario())
    assert said.count("1,234,567,890 tokens/ms") == 3
    assert said.count("unit slip") == 20
    assert "1,000 times" in said
    assert "3 claims: 1 reproduced, 1 wrong, 1 not derivable" in said
    assert "1 violation" in said
    assert "gpu 3: 90 GB of 64 GB" in said
    document = documents.verification_document(report)
    assert document["ok"] is False
    assert [c["verdict"] for c in document["claims"]] == [v.verdict for v in verdicts]


def test_a_report_without_metrics_prints(document_scenario, printed):
    report = VerifyReport("p", (Violation("layers", "layer 3 is missing"),), None)
    assert "layer 3 is missing" in printed(text.print_verification, report, document_scenario())
    assert documents.verification_document(report)["metrics"] is None


def test_the_comparison_shows_differences_and_gaps(document_scenario, printed):
    scenario = document_scenario()
    slow = PlanSpec(
        name="slow", llm="moe-16x16-10b", degrees={"pp": 16, "tp": 2, "ep": 16, "etp": 2}
    )
    comparison = compare(scenario, [slow])
    said = printed(text.print_comparison, comparison)
    assert "TP2 x PP16 x attention" in said
    assert "15 (+114 %)" in said
    assert "gap, traffic 114 % 0 %" in said
    assert "What coverage partition costs against every_gpu" in said
    document = documents.comparison_document(comparison)
    assert json.loads(documents.dump(document)) == json.loads(json.dumps(document))
    assert document["plans"][0]["gaps"]["traffic"] == pytest.approx(8 / 7)
    assert document["best"]["traffic"] == ["autopar"]


def test_the_explanation_gives_reasons(document_scenario, printed):
    explanation = explain(document_scenario({"cluster.gpus_per_domain": 16}))
    said = printed(text.print_explanation, explanation, load_scenario("moe-16x16-512gpu"))
    for name in explanation.conflict:
        assert f"{name} {explanation.because[name]}" in said
    document = documents.explanation_document(explanation)
    assert document["conflict"] == list(explanation.conflict)
    assert json.loads(documents.dump(document))["repairs"]


def test_an_optimum_that_nothing_binds_says_so(printed):
    free = Explanation("optimal", (), {}, (), ())
    said = printed(text.print_explanation, free, load_scenario("moe-16x16-512gpu"))
    assert "no single requirement stands in the way" in said


@pytest.mark.parametrize("binding", [(), ("memory",)])
def test_what_was_not_decided_is_not_said_to_leave_a_better_plan_open(binding, printed):
    because = {"memory": "it must fit"}
    open_ones = Explanation(
        "optimal", (), because, (), binding, undecided=("coverage", "max_spread")
    )
    said = printed(text.print_explanation, open_ones, load_scenario("moe-16x16-512gpu"))
    assert "not decided within the limits: whether coverage or max_spread binds" in said
    assert "no other single requirement stands in the way" in said
    assert "no single requirement" not in said
    assert ("Binding: without it" in said) == bool(binding)
    assert documents.explanation_document(open_ones)["undecided"] == ["coverage", "max_spread"]


def test_what_is_beyond_the_budget_is_told_with_what_binds(monkeypatch, document_scenario, printed):
    monkeypatch.setattr(learnt, "BINDING_BUDGET", 0)
    answer = solve(document_scenario())
    assert answer.binding == ()
    assert "coverage" in answer.undecided
    said = printed(text.print_solution, answer)
    assert "not decided within the limits: whether " in said
    assert "no single requirement stands" not in said
    document = documents.solution_document(answer)
    assert document["undecided"] == list(answer.undecided)
    assert not [note for note in answer.notes if "not decided" in note]


BANDS = {"share", "tokens_per_s", "tokens_per_s_per_gpu", "ttft_ms", "tpot_ms", "biased"}
PARTS = {"llm": "llama-3.1-70b", "cluster": "2xhgx-h100"}


@pytest.mark.parametrize("workload", ["chat-4k-1k", "chat-4k-1k-disaggregated"])
def test_metrics_carry_their_bands_in_the_document_and_in_the_text(workload, printed):
    limits = ["requirements.max_ttft_us=5s", "requirements.max_tpot_us=50ms"]
    asked = load_scenario(None, parts=PARTS | {"workload": workload}, overrides=limits)
    answer = solve(asked, diagnose=False)
    document = documents.solution_document(answer)
    bands, metrics = document["metrics"]["bands"], document["metrics"]
    assert bands.keys() == BANDS
    low, high = bands["tpot_ms"]
    assert low < metrics["tpot_ms"] < high
    assert [end * answer.plan.num_gpus for end in bands["tokens_per_s_per_gpu"]] == pytest.approx(
        bands["tokens_per_s"]
    )
    report = verify(asked, answer.plan)
    assert documents.verification_document(report)["metrics"]["bands"] == bands
    spoken = words.interval(answer.metrics.expected.tpot_us, "us")
    assert f"here {words.percent(bands['share'])} of the runs in the notes lie" in printed(
        text.print_solution, answer
    )
    assert spoken in printed(text.print_solution, answer)
    assert spoken in printed(text.print_verification, report, asked)


def test_the_ranges_of_each_role_are_printed(printed):
    parts = PARTS | {"workload": "chat-4k-1k-disaggregated"}
    answer = solve(load_scenario(None, parts=parts), diagnose=False)
    said = printed(text.print_solution, answer)
    for role, name in (("prefill", "ttft_us"), ("decode", "tpot_us")):
        interval = getattr(answer.roles[role].expected, name)
        assert words.interval(interval, "us") in said
    assert "biased: " in said  # of both together: clients queue for a service, not for a role


def test_an_answer_about_two_roles_says_who_looks_for_the_runner_up(printed):
    parts = PARTS | {"workload": "chat-4k-1k-disaggregated"}
    answer = solve(load_scenario(None, parts=parts), diagnose=False)
    assert answer.runner_up is None
    assert "Runner-up of two roles" in printed(text.print_solution, answer)
    one = solve(load_scenario(None, parts=PARTS | {"workload": "chat-4k-1k"}), diagnose=False)
    assert "Runner-up" not in printed(text.print_solution, one)


def test_a_metric_that_nothing_like_it_was_measured_for_says_so(document_scenario, printed):
    asked = load_scenario("llama-3.1-70b-16xh100")
    answer = solve(asked, diagnose=False)
    none = replace(answer.metrics.expected, tokens_per_s=None, ttft_us=None, tpot_us=None)
    bare = replace(answer, metrics=replace(answer.metrics, expected=none))
    bands = documents.solution_document(bare)["metrics"]["bands"]
    assert [bands[key] for key in ("tokens_per_s", "ttft_ms", "tpot_ms")] == [None] * 3
    assert "no measurement like it" in printed(text.print_solution, bare)


def test_what_a_document_declares_has_no_bands(solution, printed):
    assert documents.solution_document(solution)["metrics"]["bands"] is None
    assert "measured values lie" not in printed(text.print_solution, solution)


def test_a_comparison_has_the_range_of_every_plan(printed):
    asked = load_scenario("llama-3.1-70b-16xh100")
    own = load_plan(documents.solution_document(solve(asked, diagnose=False)))
    assert "TPOT measured" in printed(text.print_comparison, compare(asked, [own]))


def test_the_runner_up_is_in_the_document_and_in_the_text(solution, printed):
    found = documents.solution_document(solution)["runner_up"]
    keys = {"objective", "unit", "degrees", "value", "bound", "lead", "band", "decides"}
    assert found.keys() == keys | {"within_band", "over_fabric"}
    assert found["degrees"].keys() == set(words.DEGREES)
    assert found["within_band"] is None  # what a document declares has no errors
    assert f"Runner-up {certainty.runner_up(solution.runner_up, is_moe=True)}" in printed(
        text.print_solution, solution
    )


def test_the_explanation_has_the_runner_up_too(document_scenario, printed):
    scenario = document_scenario({"cluster.gpus_per_domain": 128})
    explanation = explain(scenario)
    assert documents.explanation_document(explanation)["runner_up"]["degrees"]
    assert "Runner-up" in printed(text.print_explanation, explanation, scenario)


@pytest.mark.parametrize("workload", ["chat-4k-1k", "chat-4k-1k-disaggregated"])
def test_robustness_is_in_the_document_and_in_the_text(workload, printed):
    parts = {"llm": "llama-3.1-8b", "cluster": "1xhgx-h100", "workload": workload}
    asked = load_scenario(None, parts=parts, overrides=["requirements.max_tpot_us=30ms"])
    answer = solve(asked, diagnose=False)
    assert documents.solution_document(answer)["robustness"] is None
    answer = robustness(answer)
    found = json.loads(documents.solution_text(answer))["robustness"]
    assert found.keys() == {"holds", "settles", "skipped", "costs"}
    assert {cost["kind"] for cost in found["costs"]} | found["skipped"].keys() == set(
        CostFactors.model_fields
    )
    for cost in found["costs"]:
        assert cost.keys() == {"kind", "band", "faster", "slower", "overtakes"}
        assert cost["slower"]["factor"] == cost["band"]
        for end in (cost["faster"], cost["slower"]):
            assert end.keys() == {
                "factor",
                "verdict",
                "regret",
                "flip",
                "degrees",
                "breaks",
                "lead",
            }
    assert load_plan(documents.solution_document(answer))
    said = printed(text.print_solution, answer)
    assert "Robust: each cost alone, at both ends of its error band" in said
    assert "host was not moved: no engine is named" in said
