"""User rules, evaluated for every stage of an explicit plan."""

import pytest

from autopar.errors import SpecError
from autopar.plans import plan_from_spec
from autopar.rules import NAMES
from autopar.specs import PlanSpec
from autopar.verifier import verify_plan


@pytest.fixture
def broken(document_scenario):
    """Return the messages of broken rules for one rule and the document's plan."""

    def check(rule, changes=None, **fields):
        rules = [{"name": "rule", "because": "the reason", **rule}]
        scenario = document_scenario({**(changes or {}), "rules": rules})
        spec = {
            "name": "plan", "llm": "moe-16x16-10b",
            "degrees": {"pp": 8, "tp": 2, "ep": 16, "etp": 2, "spread": 2}, **fields,
        }  # fmt: skip
        plan = plan_from_spec(PlanSpec.model_validate(spec), scenario)
        violations = verify_plan(scenario, plan).violations
        return [v.message for v in violations if v.kind == "rule broken"]

    return check


# The document's plan by every name a rule may use.
VALUES = {
    "attn_dp": 32, "spread": 2, "layers_per_stage": 2, "gpus": 64, "expert_group_gpus": 64,
    "replicas": 1, "pp": 8, "tp": 2, "cp": 1, "ep": 16, "etp": 2, "expert_grid_gpus": 32,
    "gpus_used": 512, "num_layers": 16, "num_experts": 16, "num_gpus": 512, "gpus_per_node": 8,
    "scale_up_domain_gpus": 64, "power_w": 700,
}  # fmt: skip


def test_verify_knows_every_name_that_the_solver_lets_a_rule_use():
    assert set(VALUES) == set(NAMES)


@pytest.mark.parametrize("name", VALUES)
def test_every_name_of_a_rule_has_its_value_in_the_plan(broken, name):
    changes = {"cluster.gpu.power_w": 700}
    assert broken({"require": f"{name} == {VALUES[name]}"}, changes) == []
    (message,) = broken({"forbid": f"{name} == {VALUES[name]}"}, changes)
    assert f"({name} = {VALUES[name]})" in message
    assert "the reason" in message


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"require": "expert_group_gpus <= 32"}, "replica 0 stage 0 (expert_group_gpus = 64)"),
        ({"require": "gpus < 64 or pp == 2"}, "and 7 more stages"),
        ({"forbid": "tp == etp"}, "forbid tp == etp"),
        ({"sum": "gpus", "at_most": 511}, "sum of gpus is 512, at most 511"),
        ({"sum": "gpus * 2", "at_least": 1025}, "sum of gpus * 2 is 1,024, at least 1,025"),
        ({"sum": "1", "at_most": 7}, "sum of 1 is 8, at most 7"),
    ],
)
def test_broken_rule_says_where_and_by_what(broken, rule, says):
    (message,) = broken(rule)
    assert says in message


@pytest.mark.parametrize(
    "rule",
    [
        {"require": "expert_group_gpus <= scale_up_domain_gpus"},
        {"forbid": "tp > gpus_per_node"},
        {"sum": "gpus", "at_most": 512, "at_least": 512},
        {"sum": "layers_per_stage", "at_most": 16},
    ],
)
def test_rule_that_holds_is_silent(broken, rule):
    assert broken(rule) == []


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"require": "ttp == 2"}, "rule 'rule': unknown name 'ttp'"),
        ({"require": "tp ** 2 == 4"}, "rule 'rule': a power"),
        ({"require": "tp / (pp - 8) == 4"}, "rule 'rule': division by zero"),
        ({"sum": "power_w * gpus", "at_most": 5}, "rule 'rule': the spec does not state power_w"),
    ],
)
def test_rule_that_cannot_be_evaluated_is_an_error_that_names_it(broken, rule, says):
    with pytest.raises(SpecError) as caught:
        broken(rule)
    assert says in str(caught.value)
