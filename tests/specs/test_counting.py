"""Parameters of small parts against hand-summed tensors, and of published models."""

from typing import Any

import pytest

from autopar.specs import Architecture
from autopar.specs.counting import (
    active_parameters,
    attention_parameters,
    expert_parameters,
    feed_forward_parameters,
    layer_parameters,
    parameters,
)


def small(attention: dict[str, Any], feed_forward: dict[str, Any], **more: Any) -> Architecture:
    """Two layers of one kind on a hidden size of 10, 7 rows of vocabulary."""
    return Architecture.model_validate(
        {
            "hidden_size": 10,
            "vocab_size": 7,
            "attention": {"a": attention},
            "feed_forward": {"f": feed_forward},
            "layers": [{"count": 2, "layers": [{"attention": "a", "feed_forward": "f"}]}],
            **more,
        }
    )


GROUPED = {"kind": "gqa", "num_heads": 4, "num_kv_heads": 2, "head_dim": 3, "other_parameters": 6}
DENSE = {"kind": "dense", "ffn_size": 5, "other_parameters": 2}
MOE = {
    "kind": "moe", "num_experts": 3, "experts_per_token": 2, "expert_size": 4,
    "other_parameters_per_expert": 9, "other_parameters": 3,
}  # fmt: skip
LATENT = {
    "kind": "mla", "num_heads": 4, "q_lora_rank": 6, "kv_lora_rank": 5, "qk_nope_head_dim": 3,
    "qk_rope_head_dim": 2, "v_head_dim": 7, "other_parameters": 11,
}  # fmt: skip


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        # q 10 x 12, k and v 10 x 6 each, o 12 x 10, 6 of norms
        (GROUPED, 120 + 60 + 60 + 120 + 6),
        # and a gate as wide as the result
        (GROUPED | {"gates_output": True}, 120 + 60 + 60 + 120 + 120 + 6),
        # values of 2: v 10 x 4, o 8 x 10, a gate of 10 x 8
        (GROUPED | {"v_head_dim": 2}, 120 + 60 + 40 + 80 + 6),
        (GROUPED | {"v_head_dim": 2, "gates_output": True}, 120 + 60 + 40 + 80 + 80 + 6),
        # one projection makes keys and values
        (GROUPED | {"keys_are_values": True}, 120 + 60 + 120 + 6),
        # q down 10 x 6, up 6 x 4 x 5; kv down 10 x 7, up 5 x 4 x (3 + 7); o 28 x 10; norms 11
        (LATENT, 60 + 120 + 70 + 200 + 280 + 11),
        # q 10 x 4 x 5 at once
        (LATENT | {"q_lora_rank": None}, 200 + 70 + 200 + 280 + 11),
        # an indexer of 3 heads of 8: queries 6 x 24, one key 10 x 8, a weight per head 10 x 3
        (
            LATENT | {"index_heads": 3, "index_head_dim": 8},
            60 + 120 + 70 + 200 + 280 + 11 + 144 + 80 + 30,
        ),
        # its queries come from the hidden state where there is no latent: 10 x 24
        (
            LATENT | {"q_lora_rank": None, "index_heads": 3, "index_head_dim": 8},
            200 + 70 + 200 + 280 + 11 + 240 + 80 + 30,
        ),
        # projections 10 x 40 and 12 x 10; the state is no parameter
        (
            {
                "kind": "linear", "num_heads": 2, "input_columns": 40, "output_rows": 12,
                "state_elements": 1000, "other_parameters": 5,
            },
            400 + 120 + 5,
        ),
    ],
)  # fmt: skip
def test_parameters_of_an_attention(attention: dict[str, Any], expected: int) -> None:
    found = small(attention, DENSE)
    assert attention_parameters(10, found.attention["a"]) == expected


@pytest.mark.parametrize(
    ("feed_forward", "expected"),
    [
        (DENSE, 3 * 50 + 2),
        (DENSE | {"num_matrices": 2}, 2 * 50 + 2),
        # 3 experts of 3 x 10 x 4 + 9; router 10 x 3; 3 of router bias
        (MOE, 3 * 129 + 30 + 3),
        # shared experts 3 x 10 x 8
        (MOE | {"shared_size": 8}, 3 * 129 + 30 + 3 + 240),
        # experts work on 6: 3 x 6 x 4 + 9; projections 10 x 6 down and up
        (MOE | {"latent_size": 6}, 3 * 81 + 30 + 3 + 120),
        # two matrices each; shared ones work on the hidden size: 2 x 10 x 8
        (
            MOE | {"latent_size": 6, "num_matrices": 2, "shared_size": 8},
            3 * 57 + 30 + 3 + 120 + 160,
        ),
    ],
)
def test_parameters_of_a_feed_forward(feed_forward: dict[str, Any], expected: int) -> None:
    found = small(GROUPED, feed_forward)
    assert feed_forward_parameters(10, found.feed_forward["f"]) == expected


def test_a_model_is_its_layers_and_its_ends() -> None:
    """2 x (366 + 152 + norms 20) + 2 tables of 7 x 10 + last norm 10."""
    layers = [
        {"count": 2, "layers": [{"attention": "a", "feed_forward": "f", "other_parameters": 20}]}
    ]
    found = small(GROUPED, DENSE, layers=layers, other_parameters=10)
    assert parameters(found) == 2 * (366 + 152 + 20) + 2 * 70 + 10
    shared = small(GROUPED, DENSE, layers=layers, other_parameters=10, shares_embeddings=True)
    assert parameters(shared) == parameters(found) - 70


def test_layers_of_one_half_count_only_that_half() -> None:
    layers = [{"layers": [{"attention": "a"}, {"feed_forward": "f"}]}]
    found = small(GROUPED, DENSE, layers=layers)
    assert [layer_parameters(found, layer) for layer in found.layer_sequence] == [366, 152]


def test_drafting_layers_are_counted_on_request() -> None:
    """Two more layers, each with 200 of input projection and norms; the ends are the model's."""
    drafts = {"layer": {"attention": "a", "feed_forward": "f"}, "count": 2, "other_parameters": 200}
    found = small(GROUPED, DENSE, next_token_prediction=drafts)
    assert parameters(found) == 2 * (366 + 152) + 140
    assert parameters(found, with_drafts=True) - parameters(found) == 2 * (366 + 152 + 200)


def test_a_token_leaves_the_experts_idle_that_it_does_not_take() -> None:
    """One of three, 129 parameters, in each of two layers."""
    found = small(GROUPED, MOE)
    assert expert_parameters(10, found.feed_forward["f"]) == 129
    assert parameters(found) - active_parameters(found) == 2 * 129
    dense = small(GROUPED, DENSE)
    assert active_parameters(dense) == parameters(dense)


def test_llama_3_1_70b() -> None:
    """meta-llama/Llama-3.1-70B, config.json; its checkpoint has 70,553,706,496 parameters.

    Layer: q and o 2 x 8192 x 8192, k and v 2 x 8192 x 1024, 3 x 8192 x 28672, norms 2 x 8192.
    """
    found = Architecture.model_validate(
        {
            "hidden_size": 8192,
            "vocab_size": 128_256,
            "attention": {
                "full": {"kind": "gqa", "num_heads": 64, "num_kv_heads": 8, "head_dim": 128}
            },
            "feed_forward": {"dense": {"kind": "dense", "ffn_size": 28_672}},
            "layers": [
                {
                    "count": 80,
                    "layers": [
                        {
                            "attention": "full",
                            "feed_forward": "dense",
                            "other_parameters": 2 * 8192,
                        }
                    ],
                }
            ],
            "other_parameters": 8192,
        }
    )
    assert parameters(found) == 70_553_706_496


def test_deepseek_v3() -> None:
    """deepseek-ai/DeepSeek-V3, config.json; 671 B parameters, 37 B active (arXiv:2412.19437).

    Attention: 7168 x 1536 + 1536 x 128 x 192 + 7168 x 576 + 512 x 128 x 256 + 128 x 128 x 7168
    = 187,105,280, norms 1536 + 512. 3 dense layers of 3 x 7168 x 18432 = 396,361,728; 58 of
    257 x 44,040,192 with shared, router 7168 x 256 and its bias 256. Two norms of 7168 a layer;
    tables 2 x 129280 x 7168. Idle: 248 experts of 44,040,192 in 58 layers.
    """
    norms = {"other_parameters": 2 * 7168}
    found = Architecture.model_validate(
        {
            "hidden_size": 7168,
            "vocab_size": 129_280,
            "attention": {
                "full": {
                    "kind": "mla", "num_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
                    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
                    "other_parameters": 2048,
                }
            },
            "feed_forward": {
                "dense": {"kind": "dense", "ffn_size": 18_432},
                "experts": {
                    "kind": "moe", "num_experts": 256, "experts_per_token": 8,
                    "expert_size": 2048, "shared_size": 2048, "other_parameters": 256,
                },
            },
            "layers": [
                {"count": 3, "layers": [{"attention": "full", "feed_forward": "dense"} | norms]},
                {"count": 58, "layers": [{"attention": "full", "feed_forward": "experts"} | norms]},
            ],
            "other_parameters": 7168,
        }
    )  # fmt: skip
    attention, expert = 187_105_280 + 2048, 44_040_192
    sparse = 257 * expert + 7168 * 256 + 256
    tables = 2 * 129_280 * 7168
    expected = 61 * (attention + 2 * 7168) + 3 * 396_361_728 + 58 * sparse + tables + 7168
    assert parameters(found) == expected == 671_026_419_200
    assert active_parameters(found) == expected - 58 * 248 * expert == 37_552_297_472


def test_gpt_oss_120b() -> None:
    """openai/gpt-oss-120b, config.json; 116.83 B parameters (its model card, table 1).

    Attention 2880 x 64 x 144, biases 4096 + 512 + 512 + 2880, 64 sinks; 128 experts of
    3 x 2880 x 2880 with 3 x 2880 of bias; router 2880 x 128 + 128; two norms.
    """
    attention = {
        "kind": "gqa", "num_heads": 64, "num_kv_heads": 8, "head_dim": 64,
        "other_parameters": 8000 + 64,
    }  # fmt: skip
    experts = {
        "kind": "moe", "num_experts": 128, "experts_per_token": 4, "expert_size": 2880,
        "other_parameters_per_expert": 3 * 2880, "other_parameters": 128,
    }  # fmt: skip
    layer = {"feed_forward": "experts", "other_parameters": 2 * 2880}
    found = Architecture.model_validate(
        {
            "hidden_size": 2880,
            "vocab_size": 201_088,
            "attention": {"window": attention | {"window_tokens": 128}, "full": attention},
            "feed_forward": {"experts": experts},
            "layers": [
                {
                    "count": 18,
                    "layers": [{"attention": "window"} | layer, {"attention": "full"} | layer],
                }
            ],
            "other_parameters": 2880,
        }
    )
    block = 26_542_080 + 8064 + 128 * (24_883_200 + 8640) + 368_640 + 128 + 5760
    assert parameters(found) == 36 * block + 2 * 201_088 * 2880 + 2880 == 116_829_156_672
