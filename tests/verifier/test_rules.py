"""User rules, evaluated for every stage of an explicit plan."""

import pytest

from autopar.errors import SpecError
from autopar.plans import plan_from_spec
from autopar.rules import NAMES
from autopar.specs import Architecture, PlanSpec
from autopar.specs.counting import parameters
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


# An architecture for the document's model: of its 16 layers the last has latent attention.
ARCHITECTURE = Architecture.model_validate(
    {
        "hidden_size": 2048,
        "vocab_size": 32000,
        "attention": {
            "full": {"kind": "gqa", "num_heads": 16, "num_kv_heads": 8, "head_dim": 128},
            "latent": {
                "kind": "mla", "num_heads": 32, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
                "qk_rope_head_dim": 64, "v_head_dim": 96,
            },
        },
        "feed_forward": {
            "moe": {
                "kind": "moe", "num_experts": 16, "experts_per_token": 2, "expert_size": 6144,
                "shared_size": 1024,
            }
        },
        "layers": [
            {"count": 15, "layers": [{"attention": "full", "feed_forward": "moe"}]},
            {"layers": [{"attention": "latent", "feed_forward": "moe"}]},
        ],
    }
)  # fmt: skip
SHAPES = {
    "cluster.gpu.power_w": 700,
    "llm.architecture": ARCHITECTURE.model_dump(exclude_none=True),
    "llm.num_parameters": parameters(ARCHITECTURE),
    "llm.precisions": {"experts": "fp8_block"},
}

# The document's plan by every name a rule may use.
VALUES = {
    "attn_dp": 32, "spread": 2, "layers_per_stage": 2, "gpus": 64, "expert_group_gpus": 64,
    "replicas": 1, "pp": 8, "tp": 2, "cp": 1, "ep": 16, "etp": 2, "expert_grid_gpus": 32,
    "gpus_used": 512, "batch": 0, "num_layers": 16, "num_experts": 16, "is_moe": 1,
    "attention_block": 1, "feed_forward_block": 1, "expert_block": 128, "is_prefill": 1,
    "is_decode": 0, "is_role": 0, "num_gpus": 512, "num_nodes": 64, "gpus_per_node": 8,
    "scale_up_domain_gpus": 64, "power_w": 700, "hidden_size": 2048, "vocab_size": 32000,
    "keeps_states": 0, "expert_size": 6144, "shared_size": 1024,
}  # fmt: skip
# What its two kinds of layers have in common no more, in that order; one has it, or both.
OF_LAYERS = {
    "num_heads": (16, 32), "kv_heads": (8, 1), "head_dim": (128,), "uses_mla": (0, 1),
    "keeps_every_token": (1,),
    "attention_columns": (2048, 1024), "ffn_size": (),
}  # fmt: skip


def test_verify_knows_every_name_that_the_solver_lets_a_rule_use():
    assert VALUES.keys() | OF_LAYERS.keys() == NAMES.keys()


@pytest.mark.parametrize("name", VALUES)
def test_every_name_of_a_rule_has_its_value_in_the_plan(broken, name):
    assert broken({"require": f"{name} == {VALUES[name]}"}, SHAPES) == []
    (message,) = broken({"forbid": f"{name} == {VALUES[name]}"}, SHAPES)
    assert f"({name} = {VALUES[name]})" in message
    assert "the reason" in message


@pytest.mark.parametrize("name", OF_LAYERS)
def test_a_rule_on_layers_must_hold_for_each_of_them(broken, name):
    any_of_them = " or ".join(f"{name} == {value}" for value in (-1, *OF_LAYERS[name]))
    assert broken({"require": any_of_them}, SHAPES) == []
    for value in OF_LAYERS[name]:
        (message,) = broken({"forbid": f"{name} == {value}"}, SHAPES)
        assert f"in replica 0 stage 0 ({name} = {value}) and 7 more stages" in message


def test_a_rule_is_not_asked_of_layers_that_lack_what_it_names(broken):
    assert broken({"require": "num_heads == 16 or uses_mla == 1"}, SHAPES) == []
    assert broken({"require": "num_heads == 16 and head_dim == 128"}, SHAPES) == []
    assert broken({"forbid": "ffn_size > 0 and tp > 0"}, SHAPES) == []


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
        (
            {"require": "num_heads % tp == 0 and vocab_size > 0"},
            "rule 'rule': the spec does not state num_heads, vocab_size: llm.architecture is miss",
        ),
        (
            {"sum": "num_heads * gpus", "at_most": 5},
            "rule 'rule': num_heads may differ from layer to layer and cannot be summed",
        ),
    ],
)
def test_rule_that_cannot_be_evaluated_is_an_error_that_names_it(broken, rule, says):
    with pytest.raises(SpecError) as caught:
        broken(rule)
    assert says in str(caught.value)
