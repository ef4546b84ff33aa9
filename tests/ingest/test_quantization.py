"""How a checkpoint is stored: every method that is read, the modules it leaves alone, refusals."""

import pytest

from autopar.costs.operations.precisions import precision_bytes
from autopar.errors import SpecError
from autopar.ingest import llm_from_config
from autopar.ingest.precisions import _BYTES

DENSE = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
}
MIXED = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "vocab_size": 1000,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
W8A8 = {"weights": {"num_bits": 8, "type": "float"}, "input_activations": {"num_bits": 8}}
NVFP4 = {
    "weights": {"num_bits": 4, "type": "float", "group_size": 16},
    "input_activations": {"num_bits": 4},
}


def ingest(fields, quantization=None, **changes):
    config = fields | changes
    if quantization is not None:
        config |= {"quantization_config": quantization}
    return llm_from_config(config, where="config.json")


def stored(fields, quantization, **changes):
    p = ingest(fields, quantization, **changes).precisions
    return p.attention, p.feed_forward, p.experts, p.embeddings, p.kv_cache


@pytest.mark.parametrize(
    ("quantization", "precision", "cache"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block", "bf16"),
        ({"quant_method": "fp8"}, "fp8", "bf16"),
        ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "fp8", "bf16"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", "bf16"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {}}, "int4", "bf16"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", "bf16"),
        (
            {"producer": {"name": "modelopt"}, "quant_algo": "FP8", "kv_cache_scheme": "FP8"},
            "fp8",
            "fp8",
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"},
            "fp8",
            "nvfp4",
        ),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": W8A8}}, "fp8", "bf16"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {**W8A8, "targets": ["Linear"]}},
                "kv_cache_scheme": {"num_bits": 8, "type": "float"},
            },
            "fp8",
            "fp8",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "a": {
                        "weights": {
                            "num_bits": 8, "type": "float", "strategy": "block",
                            "block_structure": [128, 128],
                        },
                        "input_activations": {"num_bits": 8},
                    }
                },
            },
            "fp8_block",
            "bf16",
        ),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": NVFP4}}, "nvfp4", "bf16"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "a": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}
                },
            },
            "int4",
            "bf16",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "a": {
                        "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
                        "input_activations": {"num_bits": 8},
                    }
                },
            },
            "int8",
            "bf16",
        ),
    ],
)  # fmt: skip
def test_a_method_that_is_known_stores_all_large_matrices(quantization, precision, cache):
    assert stored(DENSE, quantization) == (precision, precision, "bf16", "bf16", cache)
    assert stored(MIXED, quantization) == (precision, precision, precision, "bf16", cache)


def test_mxfp4_stores_nothing_but_experts():
    names = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"]
    method = {"quant_method": "mxfp4", "modules_to_not_convert": names}
    assert stored(MIXED, method) == ("bf16", "bf16", "mxfp4", "bf16", "bf16")


def test_nothing_said_means_bf16_and_the_data_type_decides_for_what_is_not_quantised():
    assert stored(DENSE, None) == ("bf16",) * 5
    assert stored(DENSE, None, torch_dtype="float16")[:4] == ("fp16",) * 4
    assert stored(DENSE, None, dtype="float32")[3] == "fp32"
    method = {"quant_method": "fp8", "modules_to_not_convert": ["self_attn"]}
    assert stored(DENSE, method, torch_dtype="float16")[:2] == ("fp16", "fp8")


@pytest.mark.parametrize(
    ("ignored", "expected"),
    [
        (["self_attn"], ("bf16", "fp8", "fp8")),
        (["model.layers.*.self_attn"], ("bf16", "fp8", "fp8")),
        (["model.language_model.layers.*.self_attn*"], ("bf16", "fp8", "fp8")),
        (["language_model.model.layers.*.self_attn*"], ("bf16", "fp8", "fp8")),
        ([f"model.layers.{i}.self_attn.{m}" for i in range(4)
          for m in ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")],
         ("bf16", "fp8", "fp8")),
        (["re:.*self_attn.*"], ("bf16", "fp8", "fp8")),
        (["re:model.layers.[0-9]+.self_attn.*"], ("bf16", "fp8", "fp8")),
        (["re:.*mlp\\.experts\\.\\d+\\..*"], ("fp8", "fp8", "bf16")),
        (["re:.*mlp\\.(gate|up|down)_proj$", "re:.*shared_experts.*"], ("fp8", "bf16", "fp8")),
        (["*.mlp.shared_experts.*", "model.layers.0*"], ("fp8", "bf16", "fp8")),
        (["mlp.experts"], ("fp8", "fp8", "bf16")),
        # Routers, heads, towers, layers for drafts: names that hit no large matrix of a layer.
        (["mlp.gate", "gate", "lm_head", "re:.*lm_head", "model.norm"], ("fp8",) * 3),
        (["vision_tower.encoder.layers.*", "model.visual*", "mtp*", "mtp.layers.0*"], ("fp8",) * 3),
        (["model.layers.0.input_layernorm"], ("fp8",) * 3),
    ],
)  # fmt: skip
def test_modules_that_are_left_alone_stay_as_they_are(ignored, expected):
    method = {"quant_method": "fp8", "modules_to_not_convert": ignored}
    assert stored(MIXED, method)[:3] == expected


def test_a_part_stored_in_two_ways_counts_as_most_of_it_and_is_remarked_on():
    names = ["model.layers.0.mlp", "model.layers.3.mlp.down_proj"]
    llm = ingest(DENSE, {"quant_method": "fp8", "modules_to_not_convert": names})
    assert llm.precisions.feed_forward == "fp8"
    assert "Stored in more than one way, mostly fp8: feed-forward." in llm.description
    most = ingest(
        DENSE, {"quant_method": "fp8", "ignored_layers": [f"layers.{i}" for i in (0, 1, 2)]}
    )
    assert most.precisions.feed_forward == "bf16"


def test_the_largest_matrices_decide_what_most_of_an_attention_is():
    # Of DeepSeek's attention, the output projection alone is more than the four others.
    big = MIXED | {"num_attention_heads": 32, "v_head_dim": 64, "q_lora_rank": 8}
    names = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"]
    llm = ingest(big, {"quant_method": "fp8", "modules_to_not_convert": names})
    assert llm.precisions.attention == "fp8"


def test_mixed_precision_is_read_module_by_module():
    algorithms = {
        f"model.layers.{i}.{name}": {"quant_algo": algorithm}
        for i in range(4)
        for name, algorithm in (("self_attn", "FP8"), ("mlp.experts", "NVFP4"))
    }
    method = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": algorithms,
    }
    assert stored(MIXED, method)[:3] == ("fp8", "bf16", "nvfp4")


def test_groups_with_targets_store_only_those():
    group = {"targets": ["re:.*self_attn.*"], **W8A8}
    method = {"quant_method": "compressed-tensors", "config_groups": {"a": group, "b": NVFP4}}
    assert stored(MIXED, method)[:3] == ("fp8", "nvfp4", "nvfp4")


def test_bytes_of_a_parameter_are_those_of_the_cost_model():
    assert {name: precision_bytes(name) for name in _BYTES} == _BYTES


def test_bytes_per_parameter_are_the_mean_over_all_parts():
    assert ingest(DENSE).bytes_per_parameter == 2.0
    assert ingest(DENSE, dtype="float32").bytes_per_parameter == 4.0
    fp8 = ingest(DENSE, {"quant_method": "fp8"})
    matrices = 4 * (64 * 16 * (4 + 4 + 2 + 2) + 3 * 64 * 256)
    rest = 2 * 1000 * 64 + 4 * 2 * 64 + 64
    expected = (matrices + 2 * rest) / (matrices + rest)
    assert fp8.num_parameters == matrices + rest
    assert fp8.bytes_per_parameter == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({}, "quant_method: found nothing, expected the name of a method"),
        ({"quant_method": "hqq"}, "quant_method: found 'hqq', expected one of fp8"),
        ({"quant_method": 8}, "quant_method: found 8, expected text"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, "expected [128, 128]"),
        ({"quant_method": "fp8", "weight_block_size": 128}, "found 128, expected a list"),
        ({"quant_method": "awq", "bits": 3, "group_size": 128}, "bits: found 3, expected 4"),
        ({"quant_method": "awq", "bits": 4, "group_size": 32}, "a scale for every 128 weights"),
        ({"quant_method": "gptq", "bits": 4}, "group_size: found nothing"),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"-:.*": {}}},
            "dynamic: found settings of their own for some modules",
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4"},
            "quant_algo: found 'W4A16_NVFP4': weights of 4 bits that are widened",
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "W4A4"},
            "quant_algo: found 'W4A4', expected one of FP8",
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"},
            "quantized_layers: found nothing",
        ),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {"layers.0": {}},
            },
            "quantized_layers.layers.0: found no quant_algo",
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP3"},
            "kv_cache_quant_algo: found 'FP3'",
        ),
        ({"quant_method": "modelopt"}, "quant_algo: found nothing, and no kv_cache_quant_algo;"),
        ({"quant_method": "compressed-tensors"}, "config_groups: found nothing"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {}},
            "config_groups: found no groups, and no kv_cache_scheme beside them; expected what",
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"a": {}}},
            "config_groups.a: found no weights",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "a": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}
                },
            },
            "groups of 32, null, for weights alone; our int4 has a scale for every 128 weights",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"weights": NVFP4["weights"]}},
            },
            "for weights alone; weights of 4 bits that are widened to compute in 16",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"weights": {"num_bits": 6, "type": "float"}}},
            },
            "for weights alone; no precision of ours is stored like this",
        ),
        ({"quant_method": "fp8", "modules_to_not_convert": "lm_head"}, "expected a list"),
        ({"quant_method": "fp8", "modules_to_not_convert": [3]}, "found 3, expected names"),
        ({"quant_method": "fp8", "ignore": ["re:(a+)+$"]}, "expected an expression of names"),
        ({"quant_method": "fp8", "ignore": ["re:[0-9]x"]}, "expected an expression of names"),
        ({"quant_method": "fp8", "ignore": ["re:" + "(a|b)" * 9]}, "expected an expression"),
        ({"quant_method": "fp8", "ignore": ["re:" + "(" * 9]}, "expected an expression"),
        ({"quant_method": "fp8", "ignore": ["re:" + "a" * 501]}, "expected an expression"),
        ({"quant_method": "fp8", "ignore": ["re:a"] * 1_001}, "more than 1,000 expressions"),
        ({"quant_method": "fp8", "ignore": ["a"] * 20_001}, "found 20,001 entries"),
        (
            {"quant_method": "fp8", "ignore": [f"*{i}" for i in range(33)]},
            "found more than 32 patterns that name no layer",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {f"{i}": W8A8 for i in range(9)},
            },
            "config_groups: found 9 groups, expected at most 8",
        ),
    ],
)
def test_what_is_not_understood_is_refused(quantization, message):
    with pytest.raises(SpecError) as caught:
        ingest(DENSE, quantization)
    text = str(caught.value)
    assert text.startswith("config.json: quantization_config.")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "name", ["ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules"]
)
def test_a_pattern_that_is_not_understood_is_named_by_its_own_list(name):
    method = {"quant_method": "modelopt", "quant_algo": "FP8", name: ["re:(a+)+$"]}
    with pytest.raises(SpecError, match=rf"quantization_config\.{name}: found 're:\(a"):
        ingest(DENSE, method)


def test_modules_of_all_lists_are_left_alone():
    lists = {"ignore": ["lm_head"], "exclude_modules": ["self_attn"]}
    method = {"quant_method": "modelopt", "quant_algo": "FP8", **lists}
    assert stored(MIXED, method)[:3] == ("bf16", "fp8", "fp8")


def test_the_cache_alone_may_be_quantised():
    eight = {"num_bits": 8, "type": "float"}
    for method in (
        {"quant_method": "compressed-tensors", "config_groups": {}, "kv_cache_scheme": eight},
        {"quant_method": "modelopt", "config_groups": {}, "kv_cache_scheme": eight},
        {"quant_method": "modelopt", "quant_algo": None, "kv_cache_quant_algo": "FP8"},
    ):
        assert stored(DENSE, method) == ("bf16", "bf16", "bf16", "bf16", "fp8")


def test_an_unknown_data_type_is_refused():
    with pytest.raises(SpecError, match="dtype: found 'float8_e4m3fn', expected one of bfloat16"):
        ingest(DENSE, dtype="float8_e4m3fn")
