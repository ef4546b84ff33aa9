"""A model beside its architecture: what is stated twice must agree."""

from typing import Any

import pytest
from pydantic import ValidationError

from autopar.specs import LLM
from autopar.specs.counting import parameters

ATTENTION = {"kind": "gqa", "num_heads": 4, "num_kv_heads": 2, "head_dim": 3}
MOE = {"kind": "moe", "num_experts": 3, "experts_per_token": 2, "expert_size": 4}
DENSE = {"kind": "dense", "ffn_size": 5}


def architecture(**changes: Any) -> dict[str, Any]:
    """One dense layer, then two with experts, then one with attention alone."""
    return {
        "hidden_size": 10,
        "vocab_size": 7,
        "attention": {"a": ATTENTION},
        "feed_forward": {"dense": DENSE, "moe": MOE},
        "layers": [
            {"layers": [{"attention": "a", "feed_forward": "dense"}]},
            {"count": 2, "layers": [{"attention": "a", "feed_forward": "moe"}]},
            {"layers": [{"attention": "a"}]},
        ],
        **changes,
    }


def built(**changes: Any) -> LLM:
    """By hand: 4 x 360 of attention, 150 dense, 2 x (3 x 120 + 30) of experts, 2 tables of 70."""
    fields: dict[str, Any] = {
        "num_layers": 4,
        "num_experts": 3,
        "experts_per_token": 2,
        "num_parameters": 4 * 360 + 150 + 2 * (3 * 120 + 30) + 140,
        "architecture": architecture(),
    }
    return LLM(name="m", **(fields | changes))


def test_a_model_that_agrees_with_its_architecture_is_accepted() -> None:
    found = built()
    assert found.architecture is not None
    assert found.num_parameters == parameters(found.architecture) == 2510
    assert found.is_moe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 5}, "num_layers is 5, but the architecture has 4"),
        ({"num_experts": 4}, "num_experts is 4, but the architecture has 3"),
        ({"experts_per_token": 1}, "experts_per_token is 1, but the architecture has 2"),
        (
            {"num_experts": 0, "experts_per_token": None},
            "num_experts is 0, but the architecture has 3",
        ),
        (
            {"num_parameters": 2.6e3},
            "num_parameters is 2,600, but the architecture has 2,510",
        ),
        (
            {"num_experts": 0},
            r"experts_per_token is set, but num_experts is 0 \(a dense model\)",
        ),
        ({"experts_per_token": 4}, "experts_per_token 4 is more than num_experts 3"),
    ],
)
def test_a_slip_in_either_is_found(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        built(**changes)


@pytest.mark.parametrize("stated", [2461, 2500, 2560])
def test_a_rounded_number_of_parameters_is_accepted(stated: int) -> None:
    """Within 2 % of 2,510: 2,459.8 to 2,560.2."""
    assert built(num_parameters=stated).num_parameters == stated


def test_experts_per_token_may_be_left_to_the_architecture() -> None:
    assert built(experts_per_token=None).architecture.experts_per_token == 2


def test_only_layers_with_experts_are_expert_layers() -> None:
    assert built().expert_layers == (1, 2)


def test_without_an_architecture_all_layers_of_a_sparse_model_have_experts() -> None:
    sparse = LLM(name="m", num_layers=3, num_experts=2, num_parameters=1e6)
    assert sparse.expert_layers == (0, 1, 2)
    dense = LLM(name="m", num_layers=3, num_parameters=1e6)
    assert dense.expert_layers == ()
    assert not dense.is_moe


def test_a_document_counts_bytes_by_its_own_width() -> None:
    assert LLM(
        name="m", num_layers=3, num_parameters=1e6, bytes_per_parameter=0.5
    ).weight_bytes == pytest.approx(5e5)


def test_a_precision_that_does_not_exist_is_refused() -> None:
    assert built(precisions={"experts": "mxfp4"}).precisions.attention == "bf16"
    with pytest.raises(ValidationError, match=r"precisions\.experts"):
        built(precisions={"experts": "fp6"})
