"""Fields that are missing, of the wrong type, absurd or contradictory: one line, file and field."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.errors import SpecError
from autopar.ingest import llm_from_config
from autopar.ingest.families import FAMILIES, NOT_EXPRESSED

WHERE = "config.json"


def refusal(config):
    with pytest.raises(SpecError) as caught:
        llm_from_config(config, where=WHERE)
    text = str(caught.value)
    assert text.startswith(f"{WHERE}: ")
    assert "\n" not in text
    assert len(text) < 600
    return text.removeprefix(f"{WHERE}: ")


@pytest.fixture
def broken(known):
    """Return the refusal of a known model after some fields were replaced."""

    def build(model_type, **changes):
        fields = {"model_type": model_type, **known[model_type].fields, **changes}
        return refusal({k: v for k, v in fields.items() if v != "absent"})

    return build


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("4096", "found '4096'"),
        (True, "found true"),
        (4096.0, "found 4096.0"),
        (0, "found 0"),
        (-4096, "found -4096"),
        (2**24 + 1, "found 16777217"),
        (10**3000, "found an integer of about 3,000 digits"),
        ([4096], "found a list of 1 items"),
        ({"a": 1}, "found a mapping of 1 fields"),
        ("absent", "found nothing (nor as d_model)"),
        (None, "found nothing (nor as d_model)"),
    ],
)
def test_a_size_must_be_an_integer_in_range(broken, value, found):
    message = broken("llama", hidden_size=value)
    assert message == f"hidden_size: {found}, expected an integer from 1 to 16,777,216"


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("llama", {"num_hidden_layers": 1025}, "num_hidden_layers: found 1025, expected an intege"),
        ("llama", {"num_hidden_layers": "absent"}, "num_hidden_layers: found nothing (nor as n_l"),
        ("llama", {"vocab_size": "absent"}, "vocab_size: found nothing, expected an integer"),
        ("llama", {"intermediate_size": None}, "intermediate_size: found nothing"),
        ("llama", {"num_attention_heads": 2**15}, "num_attention_heads: found 32768"),
        ("llama", {"num_attention_heads": 33}, "num_key_value_heads: found 8, expected a divisor"),
        (
            "llama",
            {"num_attention_heads": 24, "num_key_value_heads": 8},
            "num_attention_heads: found 24, expected a divisor of hidden_size 4096, or a head_dim",
        ),
        ("llama", {"tie_word_embeddings": "no"}, "tie_word_embeddings: found 'no', expected true"),
        ("llama", {"attention_bias": 1}, "attention_bias: found 1, expected true or false"),
        ("llama", {"max_position_embeddings": 0}, "max_position_embeddings: found 0"),
        ("llama", {"n_layers": 31}, "num_hidden_layers: found 32, but n_layers is 31; expected on"),
        ("mistral", {"num_key_value_heads": "absent"}, "num_key_value_heads: found nothing"),
        ("smollm3", {"num_key_value_heads": "absent"}, "num_key_value_heads: found nothing"),
        ("exaone", {"tie_word_embeddings": "absent"}, "tie_word_embeddings: found nothing"),
        ("mixtral", {"num_experts_per_tok": 9}, "num_experts_per_tok: found 9, expected at most"),
        ("mixtral", {"num_local_experts": 5000}, "num_local_experts: found 5000, expected an int"),
        ("mixtral", {"num_local_experts": None}, "n_routed_experts: found nothing (nor as num_ex"),
        ("olmoe", {"num_experts_per_tok": 65}, "num_experts_per_tok: found 65, expected at most"),
        ("qwen3_moe", {"mlp_only_layers": [94]}, "mlp_only_layers[0]: found 94, expected an integ"),
        ("qwen3_moe", {"mlp_only_layers": 3}, "mlp_only_layers: found 3, expected a list"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step: found 0"),
        ("qwen3_moe", {"moe_intermediate_size": "absent"}, "moe_intermediate_size: found nothing"),
        ("qwen2_moe", {"shared_expert_intermediate_size": "absent"}, "shared_expert_intermediate_"),
        ("deepseek_v3", {"first_k_dense_replace": -1}, "first_k_dense_replace: found -1"),
        ("deepseek_v3", {"first_k_dense_replace": "absent"}, "first_k_dense_replace: found nothin"),
        ("deepseek_v3", {"n_shared_experts": "absent"}, "n_shared_experts: found nothing (nor as"),
        ("deepseek_v3", {"q_lora_rank": "absent"}, "q_lora_rank: found nothing, expected an integ"),
        ("deepseek_v3", {"kv_lora_rank": None}, "kv_lora_rank: found nothing"),
        ("deepseek_v3", {"num_nextn_predict_layers": 17}, "num_nextn_predict_layers: found 17"),
        ("deepseek_v3", {"n_shared_experts": 4096, "moe_intermediate_size": 2**20}, "n_shared_exp"),
        ("deepseek_v3", {"num_experts": 128}, "n_routed_experts: found 256, but num_experts is 12"),
        (
            "deepseek_v3",
            {"mlp_layer_types": ["sparse"] * 61},
            "mlp_layer_types: found a list that disagrees with first_k_dense_replace 3",
        ),
        ("deepseek_v3", {"mlp_layer_types": ["sparse"] * 60}, "found a list of 60 items, expected"),
        ("deepseek_v32", {"index_topk": "absent"}, "index_topk: found nothing"),
        ("glm_moe_dsa", {"indexer_types": ["half"] * 78}, "indexer_types[0]: found 'half', expect"),
        ("glm_moe_dsa", {"index_topk_pattern": "FS"}, "index_topk_pattern: found 'FS', expected o"),
        ("gpt_oss", {"layer_types": ["full_attention"] * 35}, "found a list of 35 items, expected"),
        ("gpt_oss", {"layer_types": ["full"] * 36}, "layer_types[0]: found 'full', expected one o"),
        ("gpt_oss", {"layer_types": [1] * 36}, "layer_types[0]: found 1, expected one of full_att"),
        ("gpt_oss", {"layer_types": "full_attention"}, "layer_types: found 'full_attention', expe"),
        ("gpt_oss", {"sliding_window": None}, "sliding_window: found nothing"),
        ("llama4_text", {"no_rope_layers": [2] * 48}, "no_rope_layers[0]: found 2, expected an in"),
        ("qwen3", {"layer_types": ["linear_attention"] * 36}, "layer_types: found layers without"),
        ("minimax_m2", {"attn_type_list": [0] * 62}, "attn_type_list: found layers without softma"),
        ("minimax", {"layer_types": ["mamba", "x"]}, "layer_types: found a list of 2 items, expec"),
        ("qwen3_next", {"linear_num_value_heads": 33}, "linear_num_value_heads: found 33, expecte"),
        ("qwen3_next", {"linear_key_head_dim": "absent"}, "linear_key_head_dim: found nothing"),
        ("kimi_linear", {"linear_attn_config": 3}, "linear_attn_config: found 3, expected a mappi"),
        ("kimi_linear", {"linear_attn_config": "absent"}, "linear_attn_config: found nothing"),
        (
            "kimi_linear",
            {"linear_attn_config": {"full_attn_layers": [1], "kda_layers": [1]}},
            "linear_attn_config.kda_layers: found layer 1 twice",
        ),
        (
            "kimi_linear",
            {"linear_attn_config": {"full_attn_layers": [1], "kda_layers": [2]}},
            "linear_attn_config.kda_layers: found no layer 3",
        ),
        ("kimi_linear", {"num_nextn_predict_layers": True}, "num_nextn_predict_layers: found true"),
        ("gemma4_text", {"hidden_size_per_layer_input": 256}, "hidden_size_per_layer_input: found"),
        ("gemma4_text", {"hidden_size_per_layer_input": "absent"}, "found null, expected 0"),
        ("gemma4_text", {"num_kv_shared_layers": 10}, "num_kv_shared_layers: found 10, expected 0"),
        ("gemma4_text", {"num_global_key_value_heads": 3}, "num_global_key_value_heads: found 3, "),
        ("gemma4_text", {"per_layer_config": {"5": 3}, "layer_types": []}, "found a list of 0 ite"),
        ("mimo_v2_flash", {"swa_num_attention_heads": 32}, "swa_num_attention_heads: found 32, ex"),
        ("mimo_v2_flash", {"swa_num_key_value_heads": 7}, "swa_num_key_value_heads: found 7, expe"),
        ("mimo_v2_flash", {"moe_layer_freq": "absent"}, "moe_layer_freq: found nothing"),
        ("dbrx", {"attn_config": "absent"}, "attn_config: found nothing, expected a mapping"),
        ("dbrx", {"ffn_config": None}, "ffn_config: found nothing, expected a mapping"),
        ("dbrx", {"attn_config": {"kv_n_heads": 7}}, "attn_config.kv_n_heads: found 7, expected a"),
        ("nemotron_h", {"hybrid_override_pattern": "MX"}, "hybrid_override_pattern: found 'X' in "),
        ("nemotron_h", {"hybrid_override_pattern": "M*"}, "num_hidden_layers: found 52, but the p"),
        ("nemotron_h", {"hybrid_override_pattern": ""}, "hybrid_override_pattern: found 0 layers"),
        ("nemotron_h", {"hybrid_override_pattern": None}, "layers_block_type: found nothing"),
        ("nemotron_h", {"n_shared_experts": 2}, "n_shared_experts: found 2, expected 1"),
        ("nemotron_h", {"tie_word_embeddings": True}, "tie_word_embeddings: found true, expected "),
        ("nemotron_h", {"n_groups": 7}, "n_groups: found 7, expected a divisor of the 64 heads"),
        (
            "nemotron_h",
            {"num_nextn_predict_layers": 1, "mtp_layers_block_type": ["mamba", "mamba"]},
            "mtp_layers_block_type: found a list of 2 items, expected one mixer and one feed-forwa",
        ),
        ("nemotron-nas", {"block_configs": [{}] * 80}, "block_configs[0].attention: found nothing"),
        ("nemotron-nas", {"block_configs": [3] * 80}, "block_configs[0]: found 3, expected a mapp"),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_named(broken, model_type, changes, message):
    assert message in broken(model_type, **changes)


@pytest.mark.parametrize(
    ("model_type", "field"),
    [
        ("deepseek_v2", "n_routed_experts"),
        ("deepseek_v3", "n_routed_experts"),
        ("deepseek_v32", "n_routed_experts"),
        ("dots1", "n_routed_experts"),
        ("exaone_moe", "num_experts"),
        ("glm4_moe", "n_routed_experts"),
        ("glm4_moe_lite", "n_routed_experts"),
        ("glm_moe_dsa", "n_routed_experts"),
        ("kimi_k2", "n_routed_experts"),
        ("kimi_linear", "num_experts"),
    ],
)
def test_without_a_number_of_experts_no_model_is_taken_for_a_dense_one(broken, model_type, field):
    assert broken(model_type, **{field: "absent"}) == (
        "n_routed_experts: found nothing (nor as num_experts, num_local_experts, moe_num_experts), "
        "expected an integer from 1 to 4,096 or null"
    )


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"n_heads_in_group": 7}, "attention.n_heads_in_group: found 7, expected a divisor"),
        ({"n_heads_in_group": 8, "window_length": 4096}, "attention.window_length: found 4096"),
        ({"replace_with_linear": True}, "attention.replace_with_linear: found true"),
        ({"no_op": "yes"}, "attention.no_op: found 'yes', expected true or false"),
    ],
)
def test_blocks_that_are_no_llama_blocks_are_refused(broken, part, message):
    block = {"attention": part, "ffn": {"ffn_mult": 1.0}}
    assert f"block_configs[0].{message}" in broken("nemotron-nas", block_configs=[block] * 80)


@pytest.mark.parametrize("width", [None, "wide", -1.0, 0.0, 1e9, float("nan"), True])
def test_the_width_of_a_block_must_be_a_sensible_number(broken, width):
    block = {"attention": {"no_op": True}, "ffn": {"ffn_mult": width}}
    assert "block_configs[0].ffn.ffn_mult: found" in broken(
        "nemotron-nas", block_configs=[block] * 80
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_k_dense_replace": 99}, "first_k_dense_replace: found 99, expected an integer fr"),
        ({"first_k_dense_replace": 61}, "first_k_dense_replace: found 61, expected an integer fr"),
        ({"n_group": 7}, "n_group: found 7, expected a divisor of the 256 experts"),
        ({"n_group": 8, "topk_group": 9}, "topk_group: found 9, expected at most the 8 groups"),
        (
            {"n_group": 8, "topk_group": 4, "num_experts_per_tok": 200},
            "num_experts_per_tok: found 200, expected at most the 128 experts of 4 groups",
        ),
    ],
)
def test_experts_that_no_token_can_reach_are_refused(known, changes, message):
    fields = {"model_type": "deepseek_v3", **known["deepseek_v3"].fields}
    sizes = {"num_hidden_layers": 61, "n_routed_experts": 256, "num_experts_per_tok": 8}
    assert refusal(fields | sizes | changes).startswith(message)


def test_more_parameters_than_any_model_has_are_refused_by_the_largest_size(broken):
    message = broken(
        "llama", hidden_size=2**20, intermediate_size=2**22, num_hidden_layers=1000,
        num_attention_heads=2**13, num_key_value_heads=2**13, head_dim=128,
    )  # fmt: skip
    assert message.startswith("intermediate_size: found 4194304, with which the model has 1.8e+16 ")
    assert message.endswith("expected sizes that make at most 1e+14")


def test_architectures_and_model_type_must_name_one_family(broken, known):
    assert broken("llama", architectures=["DeepseekV3ForCausalLM"]) == (
        "architectures[0]: found 'DeepseekV3ForCausalLM', but model_type is 'llama'; expected the "
        "same family in both"
    )
    fields = {"model_type": "llama", **known["llama"].fields}
    for legal in (["LlamaForCausalLM"], ["OfNobodyForCausalLM"], [3], "LlamaForCausalLM", None):
        assert llm_from_config(fields | {"architectures": legal}, where=WHERE).num_layers


def test_a_model_type_must_be_known():
    assert refusal({}) == (
        "model_type: found nothing, expected the family of the model, such as 'llama'"
    )
    near = refusal({"model_type": "llama5"})
    assert near.startswith("model_type: found 'llama5', expected one of those in docs/ingest.md")
    assert "must state its layers, hidden_size, vocab_size" in near
    assert near.endswith("did you mean 'llama'?")
    assert refusal({"model_type": 3}) == "model_type: found 3, expected text"
    assert refusal({"text_config": 3}) == ("text_config: found 3, expected a mapping of fields")


@pytest.mark.parametrize("model_type", NOT_EXPRESSED)
def test_a_model_that_we_cannot_express_says_what_it_has(model_type):
    assert model_type not in FAMILIES
    assert refusal({"model_type": model_type}).endswith(" is not expressed")


@pytest.mark.parametrize(
    ("model_type", "field", "value"),
    [
        ("kimi_linear", "attn_res_block_size", 12),
        ("kimi_linear", "routed_expert_hidden_size", 3584),
        ("deepseek_v3", "index_topk", 2048),
        ("llama", "num_nextn_heads", 3),
        ("llama", "q_lora_rank", 8),
        ("llama", "num_local_experts", 8),
        ("mistral", "attention_bias", True),
        ("deepseek_v2", "mlp_bias", True),
        ("qwen3_moe", "shared_expert_intermediate_size", 512),
        ("mixtral", "n_shared_experts", 1),
        ("qwen3_5_text", "mtp_use_dedicated_embeddings", True),
        ("nemotron_h", "use_bias", True),
    ],
)
def test_a_field_that_may_change_shapes_and_that_nobody_reads_is_refused(
    broken, model_type, field, value
):
    message = broken(model_type, **{field: value})
    assert message.startswith(f"{field}: found ")
    assert f"not read for model_type '{model_type}'" in message


def test_unread_fields_are_found_in_nested_mappings_too(broken, known):
    section = dict(known["kimi_linear"].fields["linear_attn_config"], use_full_rank_gate=True)
    message = broken("kimi_linear", linear_attn_config=section)
    assert message.startswith("linear_attn_config.use_full_rank_gate: found true")


def test_fields_that_say_nothing_about_shapes_are_passed_over(known):
    harmless = {
        "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "hidden_act": "silu",
        "rope_scaling": {"factor": 8.0}, "rms_norm_eps": 1e-5, "attention_dropout": 0.1,
        "pretraining_tp": 1, "image_token_index": 32000, "use_qk_norm": False, "num_experts": None,
        "q_lora_rank": 0, "index_types": [], "partial_rotary_factor": 0.5, "ep_size": 1,
    }  # fmt: skip
    config = {"model_type": "llama", **known["llama"].fields, **harmless}
    assert llm_from_config(config, where=WHERE).num_parameters == known["llama"].parameters


def test_the_whole_model_and_its_text_part_must_agree_on_the_head(known):
    text = {"model_type": "qwen3_vl_text", **known["qwen3_vl_text"].fields}
    message = refusal({"text_config": text, "tie_word_embeddings": True})
    assert message == (
        "text_config.tie_word_embeddings: found false, but the whole model has true; "
        "expected one value"
    )


def test_sizes_that_are_absurd_together_are_refused(broken):
    message = broken("kimi_linear", hidden_size=2**24, linear_attn_config={
        "full_attn_layers": [], "kda_layers": list(range(1, 28)), "num_heads": 2**14,
        "head_dim": 2**20, "short_conv_kernel_size": 4,
    })  # fmt: skip
    assert message.startswith("found sizes that make no model: ")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(data=st.data(), model_type=st.sampled_from(sorted(FAMILIES)))
def test_junk_in_any_field_gives_a_model_or_is_refused(data, model_type, known):
    fields = {"model_type": model_type, **known[model_type].fields}
    name = data.draw(st.sampled_from(sorted(fields)))
    with suppress(SpecError):
        llm_from_config(fields | {name: data.draw(JUNK)}, where=WHERE)


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "llava"])
@pytest.mark.parametrize(
    ("part", "value"),
    [
        ({"text_config": None}, "null"),
        ({"text_config": {}}, "a mapping of 0 fields"),
        ({"vision_config": {"depth": 2}}, "nothing"),
    ],
)
def test_a_model_of_several_parts_without_its_text_part_is_told_so(part, value, model_type):
    with pytest.raises(SpecError) as caught:
        llm_from_config({"model_type": model_type, **part}, where=WHERE)
    expected = f"text_config: found {value}, expected the fields of the text part"
    assert str(caught.value) == f"{WHERE}: {expected}"
