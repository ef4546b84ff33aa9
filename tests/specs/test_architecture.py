"""Architectures: what is refused and how, layers in order, and what tensor parallelism may cut."""

from typing import Any

import pytest
from pydantic import ValidationError

from autopar.specs import Architecture
from autopar.specs.base import MAX_LAYERS

FULL = {"kind": "gqa", "num_heads": 12, "num_kv_heads": 4, "head_dim": 80}
DENSE = {"kind": "dense", "ffn_size": 1500}
MOE = {"kind": "moe", "num_experts": 6, "experts_per_token": 2, "expert_size": 1400}
LATENT = {
    "kind": "mla", "num_heads": 8, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8, "v_head_dim": 16,
}  # fmt: skip
LINEAR = {
    "kind": "linear", "num_heads": 20, "input_columns": 300, "output_rows": 100,
    "state_elements": 4000,
}  # fmt: skip
BLOCK = {"attention": "full", "feed_forward": "dense"}


def document(**changes: Any) -> dict[str, Any]:
    """Two full layers with a dense feed-forward; keywords replace whole fields."""
    return {
        "hidden_size": 1000,
        "vocab_size": 5003,
        "attention": {"full": FULL},
        "feed_forward": {"dense": DENSE},
        "layers": [{"count": 2, "layers": [BLOCK]}],
        **changes,
    }


def built(**changes: Any) -> Architecture:
    return Architecture.model_validate(document(**changes))


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"layers": [{"layers": [{"attention": "ful"}]}]},
        "a layer names attention 'ful'; defined are: full",
    ),
    (
        {"layers": [{"layers": [BLOCK, {"feed_forward": "experts"}]}]},
        "a layer names feed_forward 'experts'; defined are: dense",
    ),
    (
        {"attention": {}},
        "a layer names attention 'full'; defined are: none",
    ),
    (
        {"next_token_prediction": {"layer": {"attention": "draft"}}},
        "a layer names attention 'draft'; defined are: full",
    ),
    (
        {"attention": {"full": FULL | {"num_kv_heads": 5}}},
        "num_heads 12 is not a multiple of num_kv_heads 5",
    ),
    (
        {"feed_forward": {"dense": MOE | {"experts_per_token": 7}}},
        "experts_per_token 7 is more than num_experts 6",
    ),
    (
        {
            "feed_forward": {"dense": MOE, "other": MOE | {"num_experts": 8}},
            "layers": [{"layers": [BLOCK, {"feed_forward": "other"}]}],
        },
        "layers with different numbers of experts are not supported",
    ),
    (
        {
            "feed_forward": {"dense": MOE, "other": MOE | {"experts_per_token": 1}},
            "layers": [{"layers": [BLOCK, {"feed_forward": "other"}]}],
        },
        "layers with different experts_per_token are not supported",
    ),
    ({"layers": []}, "at least 1 item"),
    ({"layers": [{"layers": []}]}, "at least 1 item"),
    ({"layers": [{"count": 0, "layers": [BLOCK]}]}, "greater than or equal to 1"),
    ({"layers": [{"count": 600, "layers": [BLOCK, BLOCK]}]}, "1,200 layers are more than"),
    ({"attention": {"full": FULL | {"kind": "sparse"}}}, "does not match any of the expected tags"),
    ({"attention": {"full": FULL | {"head_dim": 2**24 + 1}}}, "less than or equal to 16777216"),
    ({"attention": {"full": LATENT | {"q_lora_rank": 0}}}, "greater than or equal to 1"),
    ({"feed_forward": {"dense": DENSE | {"num_matrices": 4}}}, "Input should be 2 or 3"),
    ({"num_attention_heads": 12}, "Extra inputs are not permitted"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        built(**changes)


def test_shapes_that_no_layer_uses_may_differ() -> None:
    """Only experts that the layers name must agree in number; a shelf may hold others."""
    other = MOE | {"num_experts": 8, "experts_per_token": 3}
    found = built(
        feed_forward={"dense": DENSE, "a": MOE, "b": other},
        layers=[{"layers": [{"attention": "full", "feed_forward": "a"}]}],
    )
    assert (found.num_experts, found.experts_per_token) == (6, 2)


def test_as_many_layers_as_are_allowed_are_accepted() -> None:
    assert built(layers=[{"count": MAX_LAYERS, "layers": [BLOCK]}]).num_layers == MAX_LAYERS


def test_runs_are_laid_out_in_order() -> None:
    """One dense layer, then twice (experts alone, attention alone, experts alone)."""
    mixed, experts, attention = BLOCK, {"feed_forward": "moe"}, {"attention": "full"}
    found = built(
        feed_forward={"dense": DENSE, "moe": MOE},
        layers=[{"layers": [mixed]}, {"count": 2, "layers": [experts, attention, experts]}],
    )
    assert found.num_layers == len(found.layer_sequence) == 7
    assert found.kind_of_layer == (0, 1, 2, 1, 1, 2, 1)
    assert [kind.attention for kind in found.layer_kinds] == ["full", None, "full"]
    assert [kind.feed_forward for kind in found.layer_kinds] == ["dense", "moe", None]
    experts_only, attention_only = found.layer_kinds[1:]
    assert found.attention_of(experts_only) is found.feed_forward_of(attention_only) is None
    assert found.attention_of(attention_only) is found.attention["full"]
    assert found.feed_forward_of(experts_only) is found.feed_forward["moe"]


def test_equal_layers_of_different_runs_are_one_kind() -> None:
    norms = BLOCK | {"other_parameters": 2000}
    found = built(layers=[{"layers": [BLOCK]}, {"layers": [norms]}, {"layers": [BLOCK]}])
    assert found.kind_of_layer == (0, 1, 0)


def test_a_dense_model_has_no_experts() -> None:
    found = built()
    assert (found.num_experts, found.experts_per_token) == (0, None)


def test_units_of_a_dense_model() -> None:
    """gcd(12 heads, 1,500 columns) = 12; the feed-forward is cut as attention is."""
    assert (built().tensor_unit, built().expert_unit) == (12, 12)


def test_units_of_a_hybrid() -> None:
    """tp cuts 12 and 20 and 8 heads, 1,500 dense and 800 shared columns: gcd 4.

    etp cuts the routed experts, 1,400 and 700 columns: 700. Drafting layers do not bind either.
    """
    found = built(
        attention={"full": FULL, "linear": LINEAR, "latent": LATENT},
        feed_forward={
            "dense": DENSE,
            "moe": MOE | {"shared_size": 800},
            "narrow": MOE | {"expert_size": 700},
            "odd": {"kind": "dense", "ffn_size": 7},
        },
        layers=[
            {
                "layers": [
                    BLOCK,
                    {"attention": "linear", "feed_forward": "moe"},
                    {"attention": "latent"},
                    {"feed_forward": "narrow"},
                ]
            }
        ],
        next_token_prediction={"layer": {"attention": "full", "feed_forward": "odd"}},
    )
    assert (found.tensor_unit, found.expert_unit) == (4, 700)


# Published config.json: heads, dense and shared columns, columns of one routed expert.
PUBLISHED: dict[str, tuple[dict[str, Any], int, int]] = {
    # deepseek-ai/DeepSeek-V3: 128 heads, 18,432 in the first 3 layers, shared 2,048: gcd 128
    "deepseek-v3": (
        {
            "attention": {"full": LATENT | {"num_heads": 128}},
            "feed_forward": {
                "dense": {"kind": "dense", "ffn_size": 18_432},
                "moe": {
                    "kind": "moe", "num_experts": 256, "experts_per_token": 8,
                    "expert_size": 2048, "shared_size": 2048,
                },
            },
            "layers": [
                {"count": 3, "layers": [BLOCK]},
                {"count": 58, "layers": [{"attention": "full", "feed_forward": "moe"}]},
            ],
        },
        128,
        2048,
    ),
    # meta-llama/Llama-3.1-70B: 64 heads, 28,672 = 64 x 448 columns
    "llama-3.1-70b": (
        {
            "attention": {"full": FULL | {"num_heads": 64, "num_kv_heads": 8}},
            "feed_forward": {"dense": {"kind": "dense", "ffn_size": 28_672}},
            "layers": [{"count": 80, "layers": [BLOCK]}],
        },
        64,
        64,
    ),
    # openai/gpt-oss-120b: 64 heads, no dense columns; experts of 2,880
    "gpt-oss-120b": (
        {
            "attention": {
                "full": FULL | {"num_heads": 64, "num_kv_heads": 8},
                "window": FULL | {"num_heads": 64, "num_kv_heads": 8, "window_tokens": 128},
            },
            "feed_forward": {
                "moe": {
                    "kind": "moe", "num_experts": 128, "experts_per_token": 4,
                    "expert_size": 2880,
                },
            },
            "layers": [
                {
                    "count": 18,
                    "layers": [
                        {"attention": "window", "feed_forward": "moe"},
                        {"attention": "full", "feed_forward": "moe"},
                    ],
                }
            ],
        },
        64,
        2880,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_units_of_published_models(name: str) -> None:
    changes, tensor_unit, expert_unit = PUBLISHED[name]
    found = built(**changes)
    assert (found.tensor_unit, found.expert_unit) == (tensor_unit, expert_unit)
