"""YAML rules: what their names mean, what they refuse, and that sums are exact.

The rule packs of the engines are in test_engines.py.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import autopar
from autopar import oracle
from autopar.errors import SpecError
from autopar.problem import Plan, Problem
from autopar.rules import LAYER_NAMES, NAMES, Rule, rule_constraint
from autopar.search import make_task, prepare
from autopar.solver import optimise
from autopar.specs import Architecture, Layer, RuleSpec, Scenario
from autopar.specs.counting import parameters
from autopar.testing import assert_post_matches_check, every_choice
from autopar.unfold import unfold
from autopar.verifier.layout import layout_of
from autopar.verifier.limits import rule_violations

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

# The same with shapes: two kinds of attention, and a layer of each kind of feed-forward at least.
ARCHITECTURE = Architecture.model_validate(
    {
        "hidden_size": 64,
        "vocab_size": 1000,
        "attention": {
            "full": {"kind": "gqa", "num_heads": 12, "num_kv_heads": 4, "head_dim": 16},
            "latent": {
                "kind": "mla", "num_heads": 6, "kv_lora_rank": 32, "qk_nope_head_dim": 24,
                "qk_rope_head_dim": 12, "v_head_dim": 18,
            },
            "state": {
                "kind": "linear", "num_heads": 4, "input_columns": 96, "output_rows": 64,
                "state_elements": 256,
            },
        },
        "feed_forward": {
            "dense": {"kind": "dense", "ffn_size": 96},
            "moe": {"kind": "moe", "num_experts": 2, "experts_per_token": 1, "expert_size": 36},
        },
        "layers": [
            {"layers": [{"attention": "full", "feed_forward": "dense"}]},
            {"layers": [{"attention": "latent", "feed_forward": "moe"}, {"attention": "state"}]},
        ],
    }
)  # fmt: skip
SHAPED = SMALL | {
    "llm.architecture": ARCHITECTURE.model_dump(exclude_none=True),
    "llm.num_parameters": parameters(ARCHITECTURE),
    "llm.precisions": {"attention": "fp8_block", "experts": "fp8_block"},
}
# Of each of the three layers; what a layer lacks is not there.
SIZES = [
    {
        "num_heads": 12, "kv_heads": 4, "head_dim": 16, "uses_mla": 0,
        "keeps_every_token": 1, "attention_columns": 192, "ffn_size": 96,
    },
    {  # heads times the widths of query, key with value, value: 6 * gcd(36, 42, 18)
        "num_heads": 6, "kv_heads": 1, "uses_mla": 1, "attention_columns": 36,
        "keeps_every_token": 1,
        "expert_size": 36, "shared_size": 0,
    },
    {"num_heads": 4, "uses_mla": 0, "attention_columns": 32, "keeps_every_token": 0},
]  # fmt: skip


def rule(**fields: Any) -> Rule:
    return rule_constraint(RuleSpec.model_validate({"name": "r", "because": "a test", **fields}))


def layers_of(architecture: Architecture | None) -> tuple[Layer, ...]:
    assert architecture is not None
    return architecture.layer_sequence


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
        "batch": 0,
        "is_moe": 1,
        "attention_block": 128,
        "feed_forward_block": 1,
        "expert_block": 128,
        "is_prefill": 1,
        "is_decode": 0,
        "is_role": 0,
        "hidden_size": 64,
        "vocab_size": 1000,
        "keeps_states": any(layer.attention == "state" for layer in layers_of(llm.architecture)),
        "num_gpus": 12,
        "num_nodes": 3,
        "gpus_per_node": 4,
        "scale_up_domain_gpus": 12,
        "power_w": cluster.gpu.power_w or 0.0,
    }
    return values[name] if name in values else float(getattr(mine, name))


@pytest.mark.parametrize("name", sorted(NAMES.keys() - LAYER_NAMES.keys()))
@pytest.mark.parametrize("base", [SMALL, PARTITION], ids=["every_gpu", "partition"])
def test_a_name_has_the_value_that_the_explicit_plan_gives_it(
    document_scenario: Build, base: dict[str, Any], name: str
) -> None:
    """In the table of candidates and segments, as in the walk over the plan."""
    shapes = {key: SHAPED[key] for key in SHAPED if key.startswith("llm.")}
    if base is PARTITION:  # which wants experts in every layer
        layer = {"attention": "full", "feed_forward": "moe"}
        changes = {"layers": [{"count": 3, "layers": [layer]}]}
        alike = Architecture.model_validate(shapes["llm.architecture"] | changes)
        shapes["llm.architecture"] = alike.model_dump(exclude_none=True)
        shapes["llm.num_parameters"] = parameters(alike)
    problem = make_task(document_scenario(base | shapes)).problem
    one = rule(sum=name, at_most=1e9)
    rows = problem.candidates
    for choice in list(every_choice(problem))[::17]:
        plan = unfold(problem, choice.candidate, choice.split)
        expected = [spoken(name, plan, problem, s) for s in range(plan.pp)]
        row = rows.take(np.full(plan.pp, choice.row))
        values = one.table_values(problem, row, np.array(choice.split, dtype=np.int64))
        assert np.broadcast_to(values[name], plan.pp).tolist() == expected
        walked = [(float(v[name]), n) for _, n, v in one.plan_values(plan, problem)]
        assert walked == [(value, plan.replicas) for value in expected]


@pytest.mark.parametrize("name", sorted(LAYER_NAMES))
def test_a_size_of_layers_has_the_value_of_each_layer_that_has_it(
    document_scenario: Build, name: str
) -> None:
    expected = {layer[name] for layer in SIZES if name in layer}
    scenario = document_scenario(SHAPED)
    problem = make_task(scenario).problem
    choice = next(iter(every_choice(problem)))
    plan = unfold(problem, choice.candidate, choice.split)
    for value in expected:
        others = " or ".join(f"{name} == {v}" for v in sorted({999, *expected} - {value}))
        one = rule(require=others)
        assert len(list(one.check(plan, problem))) == 1
        assert f"({name} = {value})" in verified(document_scenario, others, plan)
    every = " or ".join(f"{name} == {v}" for v in sorted(expected))
    assert list(rule(require=every).check(plan, problem)) == []
    assert verified(document_scenario, every, plan) == ""


def verified(document_scenario: Build, text: str, plan: Plan, form: str = "require") -> str:
    """What `verify` says of a rule."""
    rules = [{"name": "r", form: text, "because": "a test"}]
    scenario = document_scenario(SHAPED | {"rules": rules})
    found = rule_violations(scenario, plan, layout_of(plan, scenario.llm.num_layers))
    return " ".join(violation.message for violation in found)


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("num_heads % tp == 0", {3, 4, 6, 12}),  # 12, 6 and 4 heads
        ("kv_heads % tp == 0 or tp % kv_heads == 0", {3, 6}),  # 4 heads or 1, no such in the third
        ("uses_mla == 0 or num_heads % tp == 0", {4, 12}),
        ("ffn_size % (tp * 4) == 0", set()),
        ("expert_size % (tp * 4) == 0", {2, 4, 6, 12}),
        ("ffn_size % tp == 0 and expert_size % tp == 0", set()),  # no layer has both
        ("attention_columns % (tp * 9) == 0 and shared_size % tp == 0", {3, 6, 12}),
        ("hidden_size % tp == 0", {3, 6, 12}),
    ],
)
def test_a_rule_holds_if_it_holds_for_every_layer_that_has_what_it_names(
    document_scenario: Build, text: str, bad: set[int]
) -> None:
    """Posted, checked and verified alike; `forbid` of the opposite says the same."""
    problem = make_task(document_scenario(SHAPED)).problem
    forbid = f"not ({text})"
    assert_post_matches_check(rule(require=text), problem, problem.candidates.take(np.arange(6)))
    assert_post_matches_check(rule(forbid=forbid), problem, problem.candidates.take(np.arange(6)))
    by_tp = {choice.candidate.tp: choice for choice in every_choice(problem)}
    assert by_tp.keys() == {1, 2, 3, 4, 6, 12}
    for tp, choice in by_tp.items():
        plan = unfold(problem, choice.candidate, choice.split)
        for one in (rule(require=text), rule(forbid=forbid)):
            assert bool(list(one.check(plan, problem))) == (tp in bad)
        assert bool(verified(document_scenario, text, plan)) == (tp in bad)
        assert bool(verified(document_scenario, forbid, plan, "forbid")) == (tp in bad)


def test_a_size_of_layers_is_asked_for_where_no_spec_states_it(document_scenario: Build) -> None:
    for text in ("num_heads % tp == 0", "hidden_size % tp == 0"):
        heads = {"name": "heads", "require": text, "because": "a test"}
        with pytest.raises(SpecError) as caught:
            autopar.solve(document_scenario(SMALL | {"rules": [heads]}))
        used = f"rule 'heads' uses {text.split()[0]}, but model 'moe-16x16-10b' states no arch"
        assert used in str(caught.value)
        assert "set llm.architecture" in str(caught.value)


@pytest.mark.parametrize("name", sorted(LAYER_NAMES))
def test_a_size_of_layers_cannot_be_summed(name: str) -> None:
    with pytest.raises(SpecError, match=f"rule 'r': sum: {name} may differ from layer to layer"):
        rule(sum=f"{name} * gpus", at_most=1)


@pytest.mark.parametrize(
    ("text", "by_batch", "by_shape"),
    [
        ("tp <= 4", "not", True),
        ("batch <= 4", "any", True),
        ("gpus * pp <= 4", "not", False),
        ("replicas == 1", "not", False),
        ("gpus_used == 1", "not", False),
    ],
)
def test_a_rule_says_what_its_filters_depend_on(text: str, by_batch: str, by_shape: bool) -> None:
    """On an open batch they are asked again, and one answer serves all candidates of a shape."""
    assert rule(require=text).depends_on_batch == by_batch
    assert rule(require=text).filters_shapes is by_shape


NUMBERS = st.sampled_from(sorted(NAMES.keys() - {"power_w"}))
NEVER_ZERO = st.sampled_from(["tp", "gpus", "num_heads", "kv_heads", "ffn_size", "expert_block"])
TEXTS = st.builds(
    "{} % {} {} {} {} {} * {} {} {}".format,
    NUMBERS, NEVER_ZERO, st.sampled_from(["==", "<", ">="]), NUMBERS,
    st.sampled_from(["and", "or"]), NUMBERS, NUMBERS, st.sampled_from(["!=", "<=", ">"]), NUMBERS,
)  # fmt: skip


@given(text=TEXTS, form=st.sampled_from(["require", "forbid"]), first=st.integers(0, 200))
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
def test_filters_check_and_verify_agree_on_any_rule(
    document_scenario: Build, text: str, form: str, first: int
) -> None:
    problem = make_task(document_scenario(SHAPED)).problem
    one = rule(**{form: text})
    for choice in list(every_choice(problem))[first::201]:
        plan = unfold(problem, choice.candidate, choice.split)
        row = problem.candidates.take(np.array([choice.row]))
        stop = np.cumsum(choice.split)
        rows = row.take(np.zeros(plan.pp, dtype=np.int64))
        segments = one.allowed_segments(problem, rows, stop - choice.split, stop)
        by_row = one.allowed_rows(problem, row)
        broken = bool(list(one.check(plan, problem)))
        assert broken == bool(verified(document_scenario, text, plan, form))
        assert broken == (not segments.all())
        assert by_row is None or broken == (not by_row[0])


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


@pytest.mark.parametrize("form", ["require", "forbid"])
def test_a_number_is_no_rule(form: str) -> None:
    with pytest.raises(SpecError, match=f"rule 'r': {form}: 'tp' is a number"):
        rule(**{form: "tp"})
    rule(sum="tp", at_most=4.0)  # a total is one


def test_the_names_that_are_conditions_are_those_that_say_so() -> None:
    alone = [name for name in NAMES if _is_rule(name)]
    assert alone == [name for name, says in NAMES.items() if says.startswith("1 if ")]


def _is_rule(text: str) -> bool:
    try:
        rule(require=text)
    except SpecError:
        return False
    return True


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


def test_a_stage_that_differs_in_one_replica_alone_is_seen(document_scenario: Build) -> None:
    """All others are alike and asked once; this one lacks a GPU."""
    problem = make_task(document_scenario({"requirements.coverage": "every_gpu"})).problem
    choice = next(c for c in every_choice(problem) if c.candidate.replicas > 2)
    plan = unfold(problem, choice.candidate, choice.split)
    stage_gpus = len(plan.gpus[0][0])
    whole = rule(require=f"gpus == {stage_gpus}")
    assert list(whole.check(plan, problem)) == []
    last = plan.gpus[-1]
    broken = replace(plan, gpus=(*plan.gpus[:-1], (last[0][:-1], *last[1:])))
    (sentence,) = whole.check(broken, problem)
    assert sentence.startswith(f"replica {plan.replicas - 1} stage 0: ")
