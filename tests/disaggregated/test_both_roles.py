"""Rules that relate both roles: what they forbid, in four ways, and what they refuse."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import autopar
from autopar.disaggregated.compatible import Compatibility
from autopar.disaggregated.program import optimise_pair
from autopar.disaggregated.search import prepare_pair
from autopar.disaggregated.task import PairTask, make_pair
from autopar.disaggregated.variables import PairVariables
from autopar.errors import SpecError
from autopar.ortools_loader import load_cp_model
from autopar.pair_rules import PairRule
from autopar.problem import DisaggregatedPlan
from autopar.segments import segment_table
from autopar.specs import Scenario
from autopar.testing import every_choice
from autopar.unfold import unfold
from autopar.variables import Choice
from autopar.verifier.pair_rules import pair_rule_violations

Build = Callable[..., Scenario]
Says = Callable[[Sequence[str], Any, Any], bool]

RULES = (
    "prefill.tp == decode.tp",
    "prefill.gpus * prefill.pp + decode.gpus * decode.pp == 3",
    "prefill.attn_dp + decode.cp + prefill.spread == 3 and prefill.etp <= decode.expert_grid_gpus",
    "prefill.tp <= decode.tp or prefill.tp < kv_heads or keeps_states",
    "decode.pp == 1 or same_stages",
    "not same_stages",
    "prefill.pp > 2 * num_heads",
)


def posted(task: PairTask, choices: Sequence[Choice]) -> bool:
    """Whether the model allows two layouts by what is posted for the pair's rules."""
    cp = load_cp_model()
    model = cp.CpModel()
    problems = [role.problem for role in task.roles]
    own = [
        problem.candidates.take(np.array([choice.row]))
        for problem, choice in zip(problems, choices, strict=True)
    ]
    tables = [[segment_table(problem, row, ())] for problem, row in zip(problems, own, strict=True)]
    pair = PairVariables(model, problems, own, tables, range(95, 96), task.allows_gpus)
    for joint in task.pair:
        if joint.name.startswith("r"):
            joint.post(pair)
    for variables, choice in zip(pair.roles, choices, strict=True):
        variables.fix(Choice(0, choice.candidate, choice.split))
    solver = cp.CpSolver()
    solver.parameters.num_workers = 1
    return bool(solver.solve(model) in (cp.OPTIMAL, cp.FEASIBLE))


def kinds_allow(task: PairTask, rule: PairRule, choices: Sequence[Choice]) -> bool:
    """Whether the search may match two layouts."""
    rows = [role.problem.candidates for role in task.roles]
    said = Compatibility.of([rule], task.problem.scenario, rows)
    prefill, decode = (
        int(of_role.of_rows(table)[choice.row])
        for of_role, table, choice in zip(said.kinds, rows, choices, strict=True)
    )
    return said.allows(prefill, decode, same=choices[0].split == choices[1].split)


@pytest.mark.parametrize("word", ["require", "forbid"])
@pytest.mark.parametrize("text", RULES)
def test_model_search_check_and_verifier_agree_on_every_two_layouts(
    pair_scenario: Build, python_says: Says, text: str, word: str
) -> None:
    """On 3 GPUs with 3 layers, cut in every way."""
    document = pair_scenario(num_layers=3, num_nodes=1, gpus_per_node=3).document()
    rule = {"name": "r", word: text, "because": "a test"}
    scenario = Scenario.model_validate(document | {"rules": [rule]})
    task = make_pair(scenario)
    (constraint,) = [c for c in task.constraints if isinstance(c, PairRule)]
    (joint,) = [c for c in task.pair if c.name == "r"]
    seen = set()
    for mine in every_choice(task.prefill.problem):
        for theirs in every_choice(task.decode.problem):
            choices = (mine, theirs)
            prefill, decode = (
                unfold(role.problem, choice.candidate, choice.split)
                for role, choice in zip(task.roles, choices, strict=True)
            )
            plan = DisaggregatedPlan("p", prefill, decode)
            cuts = [(choice.candidate, choice.split) for choice in choices]
            good = python_says([text], *cuts) == (word == "require")
            seen.add(good)
            assert posted(task, choices) == good
            assert kinds_allow(task, constraint, choices) == good
            assert (not list(joint.check(plan, task.problems))) == good
            assert (not list(pair_rule_violations(scenario, plan))) == good
    assert True in seen or "2 * num_heads" in text or word == "forbid"


def test_the_split_of_one_role_is_tried_in_the_other(pair_scenario: Build) -> None:
    """The best splits of the roles differ, and no split of each alone makes the best pair."""
    rule = "same_stages and decode.pp == 2"
    objectives = ("throughput", "ttft")
    task = make_pair(pair_scenario(num_layers=5, num_nodes=3, objectives=objectives, rules=[rule]))
    prepared = prepare_pair(task)
    assert prepared.vector == task.oriented(optimise_pair(task, prepared).vector or ())
    assert prepared.is_proven


def test_a_rule_about_both_roles_binds_and_is_blamed(pair_scenario: Build) -> None:
    bound = autopar.solve(pair_scenario(num_nodes=3, rules=["prefill.tp > decode.tp"]))
    assert bound.status == "optimal"
    assert bound.binding == ("r0",)
    assert "prefill.tp > decode.tp" in bound.because["r0"]
    none = autopar.solve(pair_scenario(rules=["prefill.tp > 4 * decode.tp", "decode.tp >= 1"]))
    assert none.status == "infeasible"
    assert none.conflict == ("r0",)
    assert [repair.change for repair in none.repairs] == ["recipe.disable=[r0]"]


def test_a_plan_that_breaks_it_is_told_where_and_why(pair_scenario: Build) -> None:
    plan = autopar.solve(pair_scenario(num_nodes=3), diagnose=False).require_plan()
    asked = pair_scenario(num_nodes=3, rules=["prefill.tp >= 4 and decode.tp > kv_heads"])
    report = autopar.verify(asked, plan)
    (broken,) = [v for v in report.violations if v.kind == "rule broken"]
    assert "does not hold for prefill replica 0 stage 0, decode replica 0 stage 0" in broken.message
    assert "kv_heads = 2" in broken.message
    assert "a test" in broken.message


def test_without_roles_it_says_nothing(pair_scenario: Build) -> None:
    document = pair_scenario(rules=["prefill.tp > 4 * decode.tp"]).document()
    work = document["workload"] | {"phase": "serving"}
    scenario = Scenario.model_validate(document | {"workload": work})
    solution = autopar.solve(scenario)
    assert solution.status == "optimal"
    assert solution.plan is not None
    assert autopar.verify(scenario, solution.plan).ok


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"sum": "prefill.tp", "at_most": 3}, "a total over stages cannot speak of both roles"),
        ({"require": "tp <= decode.tp"}, "unknown name 'tp'"),
        ({"require": "prefill.batch <= 3"}, "unknown name 'prefill.batch'"),
        ({"require": "is_prefill or prefill.tp == 1"}, "unknown name 'is_prefill'"),
        ({"require": "prefill.tp.real == 1"}, "an attribute"),
        ({"require": "prefill.tp"}, "'prefill.tp' is a number; expected a condition"),
    ],
)
def test_what_it_cannot_say_is_refused_by_name(
    pair_scenario: Build, rule: dict[str, Any], says: str
) -> None:
    document = pair_scenario().document()
    own = {"name": "mine", "because": "a test", **rule}
    with pytest.raises(SpecError, match=f"rule 'mine'.*{says}"):
        make_pair(Scenario.model_validate(document | {"rules": [own]}))


def test_a_rule_about_both_roles_is_said_to_be_silent_where_there_are_none(
    analytic_scenario: Build,
) -> None:
    """Those of an engine are meant for its pairs: nobody asked for them here."""
    rule = {"name": "mine", "require": "prefill.tp > 100", "because": "a test"}
    pack = {"kind": "rules", "name": "pack", "rules": [rule | {"name": "theirs"}]}
    document = analytic_scenario().document() | {"rules": [rule], "rule_packs": [pack]}
    scenario = Scenario.model_validate(document)
    solution = autopar.solve(scenario, diagnose=False)
    said = [note for note in solution.notes if "relates the roles" in note]
    phase = scenario.workload.phase
    relates = "rule mine relates the roles prefill and decode; this work is"
    assert said == [f"{relates} {phase}, of which it says nothing"]
    assert solution.plan is not None
    assert said[0] in autopar.verify(scenario, solution.plan).notes
