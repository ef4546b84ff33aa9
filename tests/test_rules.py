"""YAML rules: what their names mean, what they refuse, and that sums are exact."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import autopar
from autopar import oracle
from autopar.errors import SpecError
from autopar.problem import Plan, Problem
from autopar.rules import NAMES, Rule, rule_constraint
from autopar.search import make_task, prepare
from autopar.solver import optimise
from autopar.specs import RuleSpec, Scenario
from autopar.testing import assert_post_matches_check, every_choice
from autopar.unfold import unfold

Build = Callable[[dict[str, Any]], Scenario]

# 3 layers x 2 experts on 12 GPUs: nodes of 4, one domain.
SMALL = {
    "llm.num_layers": 3,
    "llm.num_experts": 2,
    "cluster.num_nodes": 3,
    "cluster.gpus_per_node": 4,
    "cluster.gpus_per_domain": 12,
    "cluster.gpu.power_w": 700.5,
    "rules": [],
    "requirements": {"coverage": "every_gpu", "max_context_parallel_size": 2},
}
PARTITION = SMALL | {"requirements": {"coverage": "partition", "max_context_parallel_size": 2}}


def rule(**fields: Any) -> Rule:
    return rule_constraint(RuleSpec.model_validate({"name": "r", "because": "a test", **fields}))


def spoken(name: str, plan: Plan, problem: Problem, stage: int) -> float:
    """What a name means, read from the explicit plan and the spec and nothing else."""
    cluster, llm = problem.scenario.cluster, problem.scenario.llm
    mine, gpus = plan.stages[stage], plan.gpus[0][stage]
    every = [gpu for replica in plan.gpus for ids in replica for gpu in ids]
    values: dict[str, float] = {
        "replicas": len(plan.gpus),
        "pp": len(plan.stages),
        "expert_grid_gpus": mine.ep * mine.etp,
        "gpus_used": len(set(every)),
        "layers_per_stage": len(mine.layers),
        "gpus": len(gpus),
        "expert_group_gpus": len(gpus),
        "num_layers": llm.num_layers,
        "num_experts": llm.num_experts,
        "num_gpus": 12,
        "gpus_per_node": 4,
        "scale_up_domain_gpus": 12,
        "power_w": cluster.gpu.power_w or 0.0,
    }
    return values[name] if name in values else float(getattr(mine, name))


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("base", [SMALL, PARTITION], ids=["every_gpu", "partition"])
def test_a_name_has_the_value_that_the_explicit_plan_gives_it(
    document_scenario: Build, base: dict[str, Any], name: str
) -> None:
    """In the table of candidates and segments, as in the walk over the plan."""
    problem = make_task(document_scenario(base)).problem
    one = rule(sum=name, at_most=1e9)
    rows = problem.candidates
    for choice in list(every_choice(problem))[::17]:
        plan = unfold(problem, choice.candidate, choice.split)
        expected = [spoken(name, plan, problem, s) for s in range(plan.pp)]
        row = rows.take(np.full(plan.pp, choice.row))
        values = one.table_values(problem, row, np.array(choice.split, dtype=np.int64))
        assert np.broadcast_to(values[name], plan.pp).tolist() == expected
        walked = [float(v[name]) for _, v in one.plan_values(plan, problem)]
        assert walked == expected * plan.replicas


@pytest.mark.parametrize("form", ["require", "forbid", "sum"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dp == 2", "unknown name 'dp'"),
        ("exper_grid_gpus > 1", "did you mean 'expert_grid_gpus'"),
        ("tp.real == 1", "attribute"),
        ("max(tp, pp) < 3", "function call"),
        ("tp ** 2 > 4", "power"),
        ("tp[0] == 1", "subscript"),
        ("tp if pp else 1", "conditional"),
        ("'a' == 'b'", "not a number"),
        ("tp ==", "invalid syntax"),
        ("__import__ == 1", "unknown name '__import__'"),
    ],
)
def test_what_the_grammar_lacks_is_refused_with_rule_and_field(
    form: str, text: str, says: str
) -> None:
    bounds = {"at_most": 1.0} if form == "sum" else {}
    with pytest.raises(SpecError) as caught:
        rule(**{form: text}, **bounds)
    assert str(caught.value).startswith(f"rule 'r': {form}: ")
    assert says in str(caught.value)


def test_a_bad_rule_is_refused_before_anything_is_solved(document_scenario: Build) -> None:
    bad = {"name": "typo", "require": "tp = etp", "because": "a test"}
    with pytest.raises(SpecError, match="rule 'typo': require: "):
        autopar.solve(document_scenario({"rules": [bad]}))


def test_a_division_by_zero_is_an_error_of_the_rule(document_scenario: Build) -> None:
    bad = {"name": "zero", "require": "tp / (pp - 1) > 0", "because": "a test"}
    with pytest.raises(SpecError, match="rule 'zero': division by zero"):
        autopar.solve(document_scenario(SMALL | {"rules": [bad]}))


def test_power_that_no_spec_states_is_asked_for(document_scenario: Build) -> None:
    watts = {"name": "rack", "sum": "power_w * gpus", "at_most": 5000, "because": "one feed"}
    changes = {key: value for key, value in SMALL.items() if key != "cluster.gpu.power_w"}
    with pytest.raises(SpecError) as caught:
        autopar.solve(document_scenario(changes | {"rules": [watts]}))
    assert "rule 'rack' uses power_w" in str(caught.value)
    assert "set cluster.gpu.power_w" in str(caught.value)


@pytest.mark.parametrize(("watts", "gpus"), [(8406.0, 12), (8405.9, 11), (700.5, 1), (700.4, 0)])
def test_a_power_limit_leaves_the_gpus_that_it_feeds(
    document_scenario: Build, watts: float, gpus: int
) -> None:
    """12 GPUs of 700.5 W are 8,406 W."""
    feed = {"name": "feed", "sum": "power_w * gpus", "at_most": watts, "because": "one feed"}
    free = {"coverage": "up_to"}
    solution = autopar.solve(document_scenario(SMALL | {"rules": [feed], "requirements": free}))
    assert solution.status == ("optimal" if gpus else "infeasible")
    assert (solution.plan.num_gpus if solution.plan else 0) == gpus
    if gpus == 0:
        assert solution.conflict == ("feed",)


SUMS: list[dict[str, Any]] = [
    {"sum": "gpus", "at_most": 12},
    {"sum": "layers_per_stage * layers_per_stage", "at_most": 5},
    {"sum": "layers_per_stage * layers_per_stage / 3", "at_most": 5 / 3},
    {"sum": "layers_per_stage * layers_per_stage * 0.1", "at_most": 0.5},
    {"sum": "layers_per_stage * layers_per_stage * 0.1", "at_least": 0.5},
    {"sum": "0.1 * tp + 0.7 / layers_per_stage", "at_least": 1.4, "at_most": 2.05},
    {"sum": "-layers_per_stage * tp", "at_least": -6},
    {"sum": "1e-7 * gpus * layers_per_stage", "at_most": 20e-7},
    {"sum": "3e14 * layers_per_stage + 1 / 3", "at_most": 9.1e14},
]


@pytest.mark.parametrize("fields", SUMS, ids=lambda fields: fields["sum"])
@pytest.mark.parametrize("base", [SMALL, PARTITION], ids=["every_gpu", "partition"])
def test_sums_with_fractions_are_posted_as_they_are_checked(
    document_scenario: Build, base: dict[str, Any], fields: dict[str, Any]
) -> None:
    problem = make_task(document_scenario(base)).problem
    step = max(1, len(problem.candidates) // 40)
    rows = problem.candidates.take(np.arange(0, len(problem.candidates), step))
    allowed, forbidden = assert_post_matches_check(rule(**fields), problem, rows)
    assert allowed + forbidden > 0


@pytest.mark.parametrize("fields", SUMS[1:], ids=lambda fields: fields["sum"])
def test_the_sums_tell_plans_apart(document_scenario: Build, fields: dict[str, Any]) -> None:
    """Each of the sums above allows and forbids something, so that the comparison says much."""
    answers = set()
    for base in (SMALL, PARTITION):
        problem = make_task(document_scenario(base)).problem
        for choice in every_choice(problem):
            plan = unfold(problem, choice.candidate, choice.split)
            answers.add(any(True for _ in rule(**fields).check(plan, problem)))
    assert answers == {True, False}


@pytest.mark.parametrize("fields", SUMS, ids=lambda fields: fields["sum"])
def test_a_sum_is_total_over_all_stages_of_all_replicas(
    document_scenario: Build, fields: dict[str, Any]
) -> None:
    scenario = document_scenario(SMALL | {"rules": [{"name": "s", "because": "x", **fields}]})
    task = make_task(scenario)
    expected = oracle.best(task.problem, task.constraints, [o.name for o in task.objectives])
    outcome = optimise(task, prepare(task))
    assert (outcome.status == "optimal") == (expected is not None)
    if expected is not None:
        assert outcome.vector is not None
        assert task.oriented(outcome.vector) == expected[0]


def test_a_broken_rule_says_where_with_which_values_and_why(document_scenario: Build) -> None:
    problem = make_task(document_scenario(SMALL)).problem
    choice = next(c for c in every_choice(problem) if c.candidate.tp == 4 and c.candidate.pp == 1)
    plan = unfold(problem, choice.candidate, choice.split)
    (text,) = rule(require="tp <= 2", because="half a board").check(plan, problem)
    assert "replica 0 stage 0" in text
    assert "require 'tp <= 2' is broken (tp = 4); half a board" in text
    (text,) = rule(forbid="tp > 2", because="half a board").check(plan, problem)
    assert "forbid 'tp > 2' is broken (tp = 4); half a board" in text
    (text,) = rule(sum="gpus", at_most=5, because="few").check(plan, problem)
    assert "sum 'gpus' is 12, at most 5; few" in text


@pytest.mark.parametrize(("text", "total"), [("1", 1.0), ("gpus - gpus", 0.0)])
def test_a_sum_without_names_counts_stages(
    document_scenario: Build, text: str, total: float
) -> None:
    problem = make_task(document_scenario(SMALL)).problem
    for choice in list(every_choice(problem))[::29]:
        plan = unfold(problem, choice.candidate, choice.split)
        stages = plan.pp * plan.replicas
        exact = {"at_most": total * stages, "at_least": total * stages}
        assert list(rule(sum=text, **exact).check(plan, problem)) == []
        assert list(rule(sum=text, at_most=total * stages - 0.5).check(plan, problem))
