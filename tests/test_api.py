"""The Python interface: typed results, nothing shown that does not verify, replayable answers."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from pydantic import ValidationError

import autopar
from autopar import api, results
from autopar.errors import SpecError, VerificationError
from autopar.plans import plan_parts
from autopar.problem import Metrics, Plan
from autopar.specs import PlanSpec, Scenario

Build = Callable[..., Scenario]

# 4 layers x 16 experts x 2 shards on 128 GPUs in two domains of 64.
SMALL = {"llm.num_layers": 4, "cluster.num_nodes": 16}
LIGHT = {**SMALL, "llm.num_experts": 4, "cluster.num_nodes": 4, "cluster.gpus_per_domain": 16}


def written(scenario: Scenario, **fields: Any) -> PlanSpec:
    """The document's plan as a person writes it."""
    degrees = {"replicas": 1, "pp": 8, "tp": 2, "ep": 16, "etp": 2, "spread": 2}
    plan = {"name": "by-hand", "llm": scenario.llm.name, "degrees": degrees, "layers_per_stage": 2}
    return PlanSpec.model_validate(plan | fields)


def test_solve_returns_a_typed_answer(document_scenario: Build) -> None:
    scenario = document_scenario(SMALL)
    solution = autopar.solve(scenario)
    assert isinstance(solution, results.Solution)
    assert solution.status == "optimal"
    assert solution.scenario is scenario
    assert isinstance(solution.plan, Plan)
    assert isinstance(solution.metrics, Metrics)
    names = [o.name for o in solution.objectives]
    assert names == ["throughput", "ttft", "traffic", "memory"]  # no TPOT in prefill
    for objective in solution.objectives:
        assert objective.gap == 0.0
        assert objective.value == objective.bound
    assert solution.conflict == ()
    assert solution.repairs == ()
    assert not solution.interrupted
    assert solution.solver.candidates >= solution.solver.candidates_in_model > 0
    assert set(solution.solver.phases_s) >= {"candidates", "cp_sat", "unfold", "verify"}
    with pytest.raises(FrozenInstanceError):
        solution.status = "infeasible"


def test_the_document_comes_out_as_it_states(document_scenario: Build) -> None:
    """400 T x 60 % x 25 % / 0.5 G = 120,000 tokens/s per GPU; 16 x 100 ms; 20 GB / 512."""
    solution = autopar.solve(document_scenario())
    assert solution.plan is not None
    assert solution.metrics is not None
    degrees = {key: solution.plan.degree(key) for key in ("pp", "tp", "ep", "etp", "spread")}
    assert degrees == {"pp": 8, "tp": 2, "ep": 16, "etp": 2, "spread": 2}
    assert solution.metrics.tokens_per_s_per_gpu == pytest.approx(120e3)
    assert solution.metrics.ttft_us == pytest.approx(1.6e6)
    assert solution.metrics.peak_memory_bytes == pytest.approx(20e9 / 512)
    assert solution.uniqueness is not None
    assert solution.uniqueness.unique is True
    tied = {o.name: o.tied for o in solution.objectives}
    assert (tied["throughput"], tied["ttft"], tied["traffic"]) == (True, True, False)
    assert any("traffic decides" in note for note in solution.notes)
    assert "all_to_all_within" in solution.binding


def test_infeasible_is_an_answer_with_blame_and_repairs(document_scenario: Build) -> None:
    solution = autopar.solve(document_scenario({"cluster.gpus_per_domain": 16}))
    assert solution.status == "infeasible"
    assert solution.plan is None
    assert solution.metrics is None
    assert solution.objectives == ()
    assert solution.uniqueness is None
    assert set(solution.conflict) == {"coverage", "all_to_all_within"}
    assert all(isinstance(repair, results.Repair) for repair in solution.repairs)
    assert solution.repairs


def test_independent_clashes_are_all_told(document_scenario: Build) -> None:
    """Layers of 8 GPUs in domains of 4, and 400 ms of layers in 1 ms: neither mends the other."""
    both = {"cluster.gpus_per_domain": 4, "requirements.max_ttft_us": 1e3}
    solution = autopar.solve(document_scenario(LIGHT | both))
    assert solution.status == "infeasible"
    (note,) = [n for n in solution.notes if "another clash" in n]
    for clash in ({"ttft"}, {"coverage", "all_to_all_within"}):
        assert set(solution.conflict) == clash or all(name in note for name in clash)


def test_without_diagnosis_nothing_is_blamed(document_scenario: Build) -> None:
    bad = api.solve(document_scenario({"cluster.gpus_per_domain": 16}), diagnose=False)
    assert (bad.status, bad.conflict, bad.repairs) == ("infeasible", (), ())
    good = api.solve(document_scenario(SMALL), diagnose=False)
    assert (good.status, good.binding, good.uniqueness) == ("optimal", None, None)


def test_verify_takes_a_plan_or_a_file_and_returns_a_report(document_scenario: Build) -> None:
    scenario = document_scenario()
    by_hand = autopar.verify(scenario, written(scenario))
    assert isinstance(by_hand, results.VerifyReport)
    assert by_hand.ok
    solution = autopar.solve(scenario, diagnose=False)
    assert solution.plan is not None
    own = autopar.verify(scenario, solution.plan)
    assert own.ok
    assert own.metrics == by_hand.metrics == solution.metrics


def test_verify_names_what_a_wrong_plan_breaks(document_scenario: Build) -> None:
    scenario = document_scenario({"requirements.max_ttft_us": 1.5e6})
    report = autopar.verify(scenario, written(scenario))
    assert not report.ok
    assert [v.kind for v in report.violations] == ["TTFT over limit"]


def test_a_solved_plan_survives_its_own_file(document_scenario: Build) -> None:
    scenario = document_scenario(LIGHT)
    plan = autopar.solve(scenario, diagnose=False).plan
    assert plan is not None
    report = autopar.verify(scenario, PlanSpec.model_validate(plan_parts(plan)))
    assert report.ok


def test_explain_gives_the_reason_of_every_name(document_scenario: Build) -> None:
    for changes in ({"cluster.gpus_per_domain": 16}, SMALL):
        explanation = autopar.explain(document_scenario(changes))
        assert isinstance(explanation, results.Explanation)
        named = {*explanation.conflict, *explanation.binding}
        assert named
        assert set(explanation.because) == named
        assert all(explanation.because.values())
        assert bool(explanation.conflict) == (explanation.status == "infeasible")


def test_the_hand_written_document_plan_equals_the_solvers_own(document_scenario: Build) -> None:
    scenario = document_scenario()
    comparison = autopar.compare(scenario, [written(scenario)])
    assert isinstance(comparison, results.Comparison)
    assert [plan.name for plan in comparison.plans] == ["by-hand", "autopar"]
    hand, own = comparison.plans
    assert hand.report.metrics == own.report.metrics
    for name in ("throughput", "ttft", "traffic", "memory"):
        assert hand.gaps[name] == pytest.approx(0.0, abs=1e-9)
        assert own.gaps[name] == pytest.approx(0.0, abs=1e-9)
        assert comparison.best[name] == ("by-hand", "autopar")


def test_a_worse_plan_has_a_gap_and_does_not_lead(document_scenario: Build) -> None:
    """16 stages where 8 are enough: 15 boundaries against 7."""
    scenario = document_scenario()
    deep = {"replicas": 1, "pp": 16, "tp": 2, "ep": 16, "etp": 2, "spread": 1}
    comparison = autopar.compare(
        scenario, [written(scenario, name="deep", degrees=deep, layers_per_stage=1)]
    )
    plan = comparison.plans[0]
    assert plan.report.ok
    assert plan.gaps["traffic"] == pytest.approx((15 - 7) / 7)
    assert plan.gaps["throughput"] == pytest.approx(0.0, abs=1e-9)
    assert comparison.best["traffic"] == ("autopar",)
    assert "deep" in comparison.best["throughput"]


def test_a_plan_that_breaks_the_spec_leads_nothing(document_scenario: Build) -> None:
    scenario = document_scenario({"cluster.gpus_per_domain": 32})
    comparison = autopar.compare(scenario, [written(scenario)])
    assert not comparison.plans[0].report.ok
    assert comparison.plans[0].gaps["traffic"] < 0  # fewer boundaries than is possible here
    assert all(leaders == ("autopar",) for leaders in comparison.best.values())


def test_two_plans_of_one_name_are_refused(document_scenario: Build) -> None:
    scenario = document_scenario()
    with pytest.raises(SpecError, match="two plans have the name 'by-hand'"):
        autopar.compare(scenario, [written(scenario), written(scenario)])


def test_the_price_of_the_one_to_one_mapping_is_told(analytic_scenario: Build) -> None:
    """Under physics, a plan with replicas beats the partition, and the comparison shows it."""
    document = analytic_scenario(num_layers=4, num_experts=4, num_nodes=4).document()
    for coverage, told in (("partition", True), ("up_to", False)):
        document["requirements"] = {"coverage": coverage}
        comparison = autopar.compare(Scenario.model_validate(document), [])
        own = comparison.solution
        assert own.status == "optimal"
        assert (comparison.relaxed is not None) == told
        if comparison.relaxed is not None:
            relaxed = comparison.relaxed
            assert relaxed.scenario.requirements.coverage == "every_gpu"
            assert relaxed.status == "optimal"
            assert relaxed.objectives[0].value > own.objectives[0].value


def test_where_weaker_coverage_gains_nothing_it_is_not_shown(document_scenario: Build) -> None:
    changes = {"requirements.coverage": "every_gpu", "recipe.objectives": ["throughput"]}
    comparison = autopar.compare(document_scenario(LIGHT | changes), [])
    assert comparison.solution.status == "optimal"
    assert comparison.relaxed is None


def corrupt_gpus(plan: Plan) -> Plan:
    gpus = plan.gpus[0]
    return replace(plan, gpus=(((gpus[0][1], *gpus[0][1:]), *gpus[1:]),))


def corrupt_placement(plan: Plan) -> Plan:
    return replace(plan, placement=plan.placement[1:])


def corrupt_layers(plan: Plan) -> Plan:
    stages = tuple(replace(s, layers=s.layers[::-1]) for s in plan.stages)
    return replace(plan, stages=stages)


def corrupt_shards(plan: Plan) -> Plan:
    placement = plan.placement.copy()
    placement[[0, 1], 4] = placement[[1, 0], 4]
    return replace(plan, placement=placement)


@pytest.mark.parametrize(
    "corrupt", [corrupt_gpus, corrupt_placement, corrupt_layers, corrupt_shards]
)
def test_a_plan_that_does_not_verify_is_never_returned(
    document_scenario: Build, monkeypatch: pytest.MonkeyPatch, corrupt: Callable[[Plan], Plan]
) -> None:
    true_unfold = api.unfold
    monkeypatch.setattr(api, "unfold", lambda *a, **k: corrupt(true_unfold(*a, **k)))
    answer = None
    with pytest.raises(VerificationError):
        answer = autopar.solve(document_scenario(SMALL))
    assert answer is None


def test_a_value_that_the_verifier_does_not_find_is_never_returned(
    document_scenario: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One unit in the last objective is 1 byte in 156,250,000; a part in a million is refused."""
    true_optimise = api.optimise

    def boast(*args: Any, **keywords: Any) -> Any:
        outcome = true_optimise(*args, **keywords)
        first, *rest = outcome.vector
        return replace(outcome, vector=(first + first // 10**6, *rest))

    monkeypatch.setattr(api, "optimise", boast)
    with pytest.raises(VerificationError, match="throughput: the solver says"):
        autopar.solve(document_scenario(SMALL))


def leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(data, dict | list):
        items = data.items() if isinstance(data, dict) else enumerate(data)
        for key, value in items:
            yield from leaves(value, (*path, key))
    else:
        yield path


def other_values(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value * 2, value + 1, value / 2, 0.5]
    return [f"{value}x", "every_gpu", "decode", "explicit", "cluster", "node", "analytic", "gpus"]


def test_the_fingerprint_changes_with_every_field(
    document_scenario: Build, analytic_scenario: Build
) -> None:
    """Every value that a scenario holds, changed alone to another legal one."""
    changed = 0
    for scenario in (document_scenario(), analytic_scenario()):
        seen = {api.fingerprint(scenario)}
        for path in leaves(scenario.document()):
            for value in other_values(at(scenario.document(), path)):
                document = scenario.document()
                at(document, path[:-1])[path[-1]] = value
                try:
                    other = Scenario.model_validate(document)
                except ValidationError:
                    continue
                if other != scenario:
                    mark = api.fingerprint(other)
                    assert mark not in seen, path
                    changed += 1
                    break
    assert changed > 60


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def test_the_fingerprint_is_the_same_in_another_process(document_scenario: Build) -> None:
    scenario = document_scenario()
    program = (
        "import sys; from autopar.specs import Scenario; from autopar.api import fingerprint; "
        "print(fingerprint(Scenario.model_validate_json(sys.stdin.read())))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program], input=scenario.model_dump_json(by_alias=True),
            capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert said == {api.fingerprint(scenario)}


def test_two_solves_of_one_scenario_differ_in_time_alone(document_scenario: Build) -> None:
    first, second = (autopar.solve(document_scenario(SMALL)) for _ in range(2))
    assert first.plan is not None
    assert second.plan is not None
    assert plan_parts(first.plan) == plan_parts(second.plan)
    for name in ("status", "metrics", "objectives", "binding", "uniqueness", "notes"):
        assert getattr(first, name) == getattr(second, name)
    clockless = [replace(s.solver, wall_s=0.0, phases_s={}) for s in (first, second)]
    assert clockless[0] == clockless[1]


def test_every_public_name_loads_and_verbs_stay_functions_after_all_imports() -> None:
    program = (
        "import importlib, pkgutil, autopar\n"
        "for module in pkgutil.walk_packages(autopar.__path__, 'autopar.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "for name in autopar.__all__:\n"
        "    assert name in dir(autopar)\n"
        "    thing = getattr(autopar, name)\n"
        "    assert callable(thing) or name == '__version__', name\n"
        "from autopar import compare, explain, register, solve, verify\n"
        "assert all(callable(f) for f in (compare, explain, register, solve, verify))\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'slove'"):
        _ = autopar.slove


def test_progress_reaches_the_caller(document_scenario: Build) -> None:
    steps: list[results.Progress] = []
    solution = autopar.solve(document_scenario(SMALL), progress=steps.append, diagnose=False)
    assert {step.objective for step in steps} <= {o.name for o in solution.objectives}
    assert all(isinstance(step, results.Progress) for step in steps)
    assert steps


@pytest.mark.parametrize("objective", ["throughput", "ttft", "traffic", "memory", "gpus"])
def test_one_objective_alone_does_not_hide_that_there_is_no_plan(
    document_scenario: Build, objective: str
) -> None:
    """A model without any segment has sums over nothing, which are numbers and still no plan."""
    changes = {"recipe.objectives": [objective], "cluster.gpus_per_domain": 16}
    solution = autopar.solve(document_scenario(changes))
    assert solution.status == "infeasible"
    assert set(solution.conflict) == {"coverage", "all_to_all_within"}


@pytest.mark.parametrize(
    ("domain", "note"),
    [
        (64, "throughput and ttft tie over all 9 choices of degrees that have a plan; traffic"),
        (32, "only one choice of degrees has a plan"),
        (512, "throughput and ttft tie over all 16 choices of degrees that have a plan; traffic"),
    ],
)
def test_ties_count_what_has_a_plan(document_scenario: Build, domain: int, note: str) -> None:
    """In domains of 64, two layers of 32 GPUs fit, so PP is 8 to 16; in domains of 32, only 16."""
    solution = autopar.solve(document_scenario({"cluster.gpus_per_domain": domain}))
    assert any(said.startswith(note) for said in solution.notes), solution.notes


def test_another_optimum_is_described_in_degrees(document_scenario: Build) -> None:
    uniqueness = autopar.solve(document_scenario({"rules": []})).uniqueness
    assert uniqueness is not None
    assert uniqueness.unique is False
    assert "spread 2" in uniqueness.other
    assert "attn_dp 0" not in uniqueness.other


def test_require_plan_returns_the_plan_or_raises_with_the_clash(document_scenario: Build) -> None:
    solution = autopar.solve(document_scenario(SMALL))
    assert solution.require_plan() is solution.plan
    bad = autopar.solve(document_scenario({"cluster.gpus_per_domain": 16}))
    with pytest.raises(autopar.InfeasibleError, match="all_to_all_within") as caught:
        bad.require_plan()
    assert caught.value.conflict == bad.conflict
    assert caught.value.exit_code == 3
    with pytest.raises(autopar.SolveLimitError, match="within the limit"):
        replace(bad, status="unknown").require_plan()
