"""Every family: the exact number of parameters, the shapes of its layers, and the way back."""

import re
from pathlib import Path

import pytest

from autopar.documents import parse
from autopar.ingest import llm_from_config
from autopar.ingest.families import FAMILIES
from autopar.ingest.yaml_text import yaml_text
from autopar.specs import LLM
from autopar.specs.counting import parameters


def ingest(model_type, fields):
    return llm_from_config({"model_type": model_type, **fields}, where="config.json")


@pytest.fixture
def model(known):
    """Return the known model of a family, some fields replaced, None for those to take out."""

    def build(model_type, **changes):
        fields = dict(known[model_type].fields) | changes
        return ingest(model_type, {k: v for k, v in fields.items() if v != "absent"})

    return build


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_parameters_of_every_family_are_counted_exactly(model_type, known):
    llm = ingest(model_type, known[model_type].fields)
    assert llm.num_parameters == known[model_type].parameters
    assert llm.architecture is not None
    assert parameters(llm.architecture) == known[model_type].parameters


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_yaml_of_every_family_reads_back_as_the_same_model(model_type, known):
    llm = ingest(model_type, known[model_type].fields)
    text = yaml_text(llm)
    assert LLM.model_validate(parse(text, "model.yaml")) == llm
    assert max(len(line) for line in text.splitlines()) <= 100


def test_every_known_model_belongs_to_a_family(known):
    assert set(known) == set(FAMILIES)


def test_the_documentation_names_every_family_once():
    page = (Path(__file__).parents[2] / "docs" / "ingest.md").read_text(encoding="utf-8")
    table = page.partition("## Families")[2].partition("Known and refused")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "`" in line]
    assert sorted(re.findall("`([^`]+)`", "\n".join(rows))) == sorted(FAMILIES)


def attention_of(llm, index):
    return llm.architecture.attention_of(llm.architecture.layer_sequence[index])


def kinds_of(llm):
    return [layer.attention for layer in llm.architecture.layer_sequence]


def feeds_of(llm):
    return [layer.feed_forward for layer in llm.architecture.layer_sequence]


@pytest.mark.parametrize(
    ("model_type", "changes", "windows"),
    [
        ("mistral", {}, range(32)),
        ("mistral", {"sliding_window": None}, []),
        ("mistral", {"sliding_window": "absent"}, range(32)),  # 4096 to MistralConfig
        ("qwen2", {}, []),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 20}, range(20, 28)),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 99}, range(28, 36)),
        ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 99}, range(94)),
        (
            "qwen2_moe",
            {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 6},
            [0, 2, 4],
        ),
        ("gpt_oss", {}, range(0, 36, 2)),
        ("gemma2", {}, range(0, 42, 2)),
        ("gemma3_text", {}, [i for i in range(62) if i % 6 != 5]),
        ("gemma3_text", {"sliding_window_pattern": 3}, [i for i in range(62) if i % 3 != 2]),
        ("olmo3", {}, [i for i in range(64) if i % 4 != 3]),
        ("exaone4", {"sliding_window": None}, []),
        ("cohere2", {"sliding_window_pattern": 2}, range(0, 64, 2)),
        ("llama4_text", {}, [i for i in range(48) if i % 4 != 3]),
        ("llama4_text", {"no_rope_layers": [1, 0] * 24}, range(0, 48, 2)),
        ("llama4_text", {"attention_chunk_size": None}, []),
        ("llama4_text", {"attention_chunk_size": "absent"}, [i for i in range(48) if i % 4 != 3]),
        ("mimo_v2_flash", {}, [i for i in range(48) if i and (i + 1) % 6]),
        # Fields that are left out, and what the classes of transformers 5.23.0 make of that.
        ("qwen2", {"use_sliding_window": True, "num_hidden_layers": 90}, range(28, 90)),
        ("qwen2_vl_text", {"use_sliding_window": True, "num_hidden_layers": 90}, range(80, 90)),
        ("qwen2_5_vl", {"use_sliding_window": True, "num_hidden_layers": 90}, range(80, 90)),
        ("qwen3", {"use_sliding_window": True}, range(28, 36)),
        ("qwen3", {"use_sliding_window": True, "sliding_window": None}, []),
        ("qwen3_moe", {"use_sliding_window": True}, range(94)),
        ("qwen3_vl_text", {"use_sliding_window": True, "sliding_window": 99}, []),
        ("qwen3_vl_moe_text", {"use_sliding_window": True, "sliding_window": 99}, []),
        ("exaone4", {"sliding_window": "absent"}, [i for i in range(64) if i % 4 != 3]),
        ("exaone_moe", {"sliding_window": "absent"}, [i for i in range(48) if i % 4 != 3]),
        ("dots1", {}, []),
        ("dots1", {"max_window_layers": 60}, [60, 61]),
        ("dots1", {"max_window_layers": 60, "sliding_window": None}, []),
        ("dots1", {"num_hidden_layers": 64}, [62, 63]),
        ("smollm3", {"sliding_window": 99}, []),
        ("smollm3", {"use_sliding_window": True}, []),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 99}, range(3, 36, 4)),
        (
            "smollm3",
            {"use_sliding_window": True, "sliding_window": 99, "no_rope_layers": [1, 0] * 18},
            range(1, 36, 2),
        ),
    ],
)
def test_windows_are_on_the_layers_that_the_fields_say(model, model_type, changes, windows):
    kinds = kinds_of(model(model_type, **changes))
    assert [i for i, kind in enumerate(kinds) if kind == "window"] == list(windows)


def test_chunks_and_windows_without_a_size_have_that_of_the_class(model):
    def tokens(model_type, layer, **changes):
        return attention_of(model(model_type, **changes), layer).window_tokens

    assert tokens("llama4_text", 0, attention_chunk_size="absent") == 8192
    assert tokens("exaone4", 0, sliding_window="absent") == 4096
    assert tokens("qwen3", 30, use_sliding_window=True) == 4096
    assert tokens("dots1", 9, max_window_layers=9) == 4096


def test_a_list_of_layer_types_decides_over_every_pattern(model):
    words = ["full_attention"] * 30 + ["sliding_attention"] * 6
    llm = model("gpt_oss", layer_types=words, sliding_window_pattern=2)
    assert kinds_of(llm) == ["full"] * 30 + ["window"] * 6
    assert attention_of(llm, 35).window_tokens == 128


@pytest.mark.parametrize(
    ("model_type", "changes", "dense"),
    [
        ("deepseek_v3", {}, range(3)),
        ("deepseek_v3", {"moe_layer_freq": 2}, [0, 1, 2, *range(3, 61, 2)]),
        ("deepseek_v3", {"n_routed_experts": None}, range(61)),
        ("kimi_linear", {}, [0]),
        ("qwen3_moe", {"mlp_only_layers": [0, 93]}, [0, 93]),
        ("qwen3_moe", {"decoder_sparse_step": 2}, range(0, 94, 2)),
        ("llama4_text", {}, range(0, 48, 2)),
        ("llama4_text", {"moe_layers": [5, 6]}, [i for i in range(48) if i not in (5, 6)]),
        ("mimo_v2_flash", {}, [0]),
        ("ernie4_5_moe", {}, range(3)),
        ("ernie4_5_moe", {"moe_layer_end_index": 50}, [0, 1, 2, 51, 52, 53]),
        ("ernie4_5_moe", {"moe_layer_interval": 2}, [0, 1, 2, *range(4, 54, 2)]),
        ("gemma4_text", {"enable_moe_block": False}, range(30)),
        ("granitemoehybrid", {"num_local_experts": 0, "num_experts_per_tok": 0}, range(40)),
        (
            "glm_moe_dsa",
            {"first_k_dense_replace": None, "mlp_layer_types": ["dense"] + ["sparse"] * 77},
            [0],
        ),
    ],
)
def test_experts_are_in_the_layers_that_the_fields_say(model, model_type, changes, dense):
    feeds = feeds_of(model(model_type, **changes))
    assert [i for i, feed in enumerate(feeds) if feed == "dense"] == list(dense)


def test_shared_experts_have_the_width_of_all_of_them(model):
    assert model("deepseek_v2").architecture.feed_forward["experts"].shared_size == 2 * 1408
    assert model("qwen2_moe").architecture.feed_forward["experts"].shared_size == 20480
    assert model("llama4_text").architecture.feed_forward["experts"].shared_size == 8192
    assert model("gemma4_text").architecture.feed_forward["experts"].shared_size == 2112
    null = model("deepseek_v3", n_shared_experts=None)
    assert null.architecture.feed_forward["experts"].shared_size == 0


def test_layers_of_a_shared_indexer_have_none_of_their_own(model):
    llm = model("glm_moe_dsa")
    assert [i for i, kind in enumerate(kinds_of(llm)) if kind == "full"] == [0, 1, *range(2, 78, 4)]
    own, shared = attention_of(llm, 2), attention_of(llm, 3)
    assert (own.index_heads, own.index_head_dim, own.index_tokens) == (32, 128, 2048)
    assert (shared.index_heads, shared.index_head_dim, shared.index_tokens) == (0, 0, 2048)
    letters = model("glm_moe_dsa", index_topk_pattern="F" + "S" * 77)
    assert kinds_of(letters) == ["full"] + ["shared"] * 77


def test_values_narrower_than_keys_are_told_from_them(model):
    llm = model("mimo_v2_flash")
    full, window = attention_of(llm, 0), attention_of(llm, 1)
    assert (full.head_dim, full.v_head_dim, full.num_kv_heads) == (192, 128, 4)
    assert (window.window_tokens, window.num_kv_heads) == (128, 8)
    assert window.other_parameters == 64  # a sink per head; full layers have none
    assert full.other_parameters == 0


def test_full_layers_of_gemma_4_make_keys_and_values_with_one_projection(model):
    llm = model("gemma4_text")
    window, full = attention_of(llm, 0), attention_of(llm, 5)
    assert (full.keys_are_values, full.head_dim, full.num_kv_heads) == (True, 512, 2)
    assert (window.keys_are_values, window.head_dim, window.num_kv_heads) == (False, 256, 8)


def test_gemma_4_as_transformers_5_saves_it_is_the_same_model(model, known):
    types = ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(30)]
    wide = {"head_dim": 512, "num_key_value_heads": 2}
    saved = model(
        "gemma4_text",
        layer_types=types,
        per_layer_config={f"{i:02}": wide for i in range(5, 30, 6)},
        global_head_dim="absent",
        num_global_key_value_heads="absent",
    )
    assert saved.num_parameters == known["gemma4_text"].parameters


def test_kimi_linear_as_transformers_5_saves_it_is_the_same_model(model, known):
    old = known["kimi_linear"].fields["linear_attn_config"]
    types = [
        "full_attention" if i + 1 in old["full_attn_layers"] else "linear_attention"
        for i in range(27)
    ]
    saved = model(
        "kimi_linear",
        linear_attn_config="absent",
        layer_types=types,
        linear_num_heads=32,
        linear_head_dim=128,
        linear_conv_kernel_dim=4,
    )
    assert saved.architecture == model("kimi_linear").architecture


def test_mixers_have_a_state_of_constant_size(model):
    delta = attention_of(model("qwen3_next"), 0)
    # 32 value heads of 128 x 128, and 3 inputs of a convolution over 2 x 2048 + 4096 channels
    assert delta.state_elements == 32 * 128 * 128 + 3 * 8192
    assert delta.num_heads == 16  # cut by the fewer key heads
    mamba = attention_of(model("nemotron_h"), 0)
    assert mamba.state_elements == 64 * 64 * 128 + 3 * (4096 + 2 * 8 * 128)
    assert mamba.input_columns == 2 * 4096 + 2 * 8 * 128 + 64


# Parameters that Hugging Face shows for the safetensors files of a repository, less what is said.
@pytest.mark.parametrize(
    ("model_type", "changes", "with_drafts", "source"),
    [
        # Its layer for drafts is counted by transformers 5.23.0, MtpModel on the meta device.
        ("deepseek_v3", {}, 671_026_419_200 + 11_610_068_224, "transformers 5.23.0"),
        ("glm_moe_dsa", {}, 753_329_940_480, "zai-org/GLM-5.2"),
        ("glm_moe_dsa", {"index_topk_freq": 1}, 753_864_139_008, "zai-org/GLM-5"),
        ("glm4_moe", {}, 356_785_898_816, "zai-org/GLM-4.6"),
        # With a copy of embedding and head in the layer for drafts.
        ("glm4_moe", {}, 358_337_791_296 - 2 * 151_552 * 5120, "zai-org/GLM-4.5"),
        # With its vision tower, 456,010,480 by transformers 5.23.0.
        (
            "qwen3_5_moe_text",
            {"mtp_num_hidden_layers": 1},
            403_397_928_944 - 456_010_480,
            "Qwen/Qwen3.5-397B-A17B",
        ),
    ],
)
def test_layers_that_draft_tokens_are_counted_on_request(
    model, model_type, changes, with_drafts, source
):
    llm = model(model_type, **changes)
    assert parameters(llm.architecture, with_drafts=True) == with_drafts, source
    assert llm.num_parameters < with_drafts


def test_a_hybrid_drafts_with_full_attention(model):
    drafts = model("qwen3_5_moe_text", mtp_num_hidden_layers=2).architecture.next_token_prediction
    assert (drafts.layer.attention, drafts.layer.feed_forward, drafts.count) == (
        "full", "experts", 2,
    )  # fmt: skip
    pattern = model("nemotron_h", num_nextn_predict_layers=1, mtp_hybrid_override_pattern="*E")
    assert pattern.architecture.next_token_prediction.layer.attention == "full"


@pytest.mark.parametrize(
    ("model_type", "ties"),
    [("llama", False), ("qwen3", False), ("gemma", True), ("gemma3_text", True), ("cohere", True),
     ("starcoder2", True), ("ernie4_5", True), ("smollm3", True), ("gpt_oss", False),
     ("qwen3_vl_text", False), ("qwen3_vl_moe_text", True)],
)  # fmt: skip
def test_the_absence_of_tie_word_embeddings_means_what_it_means_to_the_family(
    model, model_type, ties
):
    llm = model(model_type, tie_word_embeddings="absent")
    assert llm.architecture.shares_embeddings is ties


@pytest.mark.parametrize(
    ("model_type", "heads", "width"),
    [
        # What the configuration classes of transformers 5.23.0 fill in; heads: other than known.
        ("ernie4_5", 16, 128),
        ("gpt_oss", 64, 64),
        ("internlm3", 64, 128),
        ("llama4_text", 80, 128),
        ("minimax_m2", 48, 128),
        ("ministral3", 64, 128),
        ("nemotron_h", 32, 128),
        ("qwen3", 64, 128),
        ("qwen3_next", 32, 256),
        ("gemma", 32, 256),
        # Their classes have none, and deal out the hidden size.
        ("ernie4_5_moe", 128, 64),
        ("exaone4", 80, 64),
        ("llama", 64, 64),
        ("mixtral", 64, 64),
    ],
)
def test_the_absence_of_head_dim_means_what_it_means_to_the_family(model, model_type, heads, width):
    llm = model(model_type, head_dim="absent", num_attention_heads=heads)
    softmax = [p for p in llm.architecture.attention.values() if hasattr(p, "head_dim")]
    assert {part.head_dim for part in softmax} == {width}


@pytest.mark.parametrize(
    ("model_type", "width"),
    [("ernie4_5", 64), ("gpt_oss", 45), ("minimax_m2", 64), ("nemotron_h", 84), ("qwen3", 128)],
)
def test_a_head_dim_of_null_deals_out_the_hidden_size(model, model_type, width):
    llm = model(model_type, head_dim=None)
    softmax = [p for p in llm.architecture.attention.values() if hasattr(p, "head_dim")]
    assert {part.head_dim for part in softmax} == {width}


def test_biases_and_norms_of_heads_follow_their_switches(model):
    def vectors(model_type, **changes):
        return attention_of(model(model_type, **changes), 3).other_parameters

    assert vectors("llama") == 0
    assert vectors("llama", attention_bias=True) == (32 + 2 * 8) * 128 + 4096
    assert vectors("qwen2") == (28 + 2 * 4) * 128
    assert vectors("qwen3_next", attention_bias=True) == (2 * 16 + 2 * 2) * 256 + 2048 + 2 * 256
    assert vectors("glm4_moe", use_qk_norm=False) == (96 + 2 * 8) * 128
    assert vectors("minimax_m2") == (48 + 8) * 128
    assert vectors("minimax_m2", use_qk_norm=False) == 0
    assert vectors("deepseek_v3", attention_bias=True) - vectors("deepseek_v3") == (
        1536 + 512 + 64 + 7168
    )


def test_the_text_part_of_a_model_with_others_is_read(known):
    text = {"model_type": "qwen3_vl_text", **known["qwen3_vl_text"].fields}
    del text["tie_word_embeddings"]
    for part in ("text_config", "llm_config", "language_config"):
        whole = {"model_type": "qwen3_vl", "vision_config": {"depth": 9}, part: text}
        llm = llm_from_config(whole | {"tie_word_embeddings": True}, where="config.json")
        assert llm.architecture.shares_embeddings
        assert llm.num_parameters == known["qwen3"].parameters - 151936 * 4096


def test_qwen3_vl_with_experts_ties_its_embeddings_only_where_its_text_part_is_alone(known):
    """Qwen3VLMoeTextConfig has true, Qwen3VLMoeConfig around it false (transformers 5.23.0)."""
    text = {"model_type": "qwen3_vl_moe_text", **known["qwen3_vl_moe_text"].fields}
    del text["tie_word_embeddings"]
    whole = {"model_type": "qwen3_vl_moe", "text_config": text}

    def ties(config):
        return llm_from_config(config, where="config.json").architecture.shares_embeddings

    assert ties(text)
    assert not ties(whole)
    assert ties(whole | {"text_config": text | {"tie_word_embeddings": True}})
    assert ties(whole | {"tie_word_embeddings": True})


def test_groups_of_experts_that_are_left_out_are_those_of_the_class(model):
    def groups(model_type, **changes):
        return model(model_type, **changes).architecture.feed_forward["experts"].router_groups

    assert groups("deepseek_v3") == groups("deepseek_v32") == groups("kimi_k2") == 8
    assert groups("deepseek_v3", n_group=None) == 1
    assert groups("deepseek_v2") == groups("glm4_moe_lite") == groups("glm_moe_dsa") == 1


def test_the_text_part_may_leave_its_type_to_the_whole(known):
    whole = {"model_type": "qwen2_5_vl", "text_config": dict(known["qwen2"].fields)}
    assert llm_from_config(whole, where="x").num_parameters == known["qwen2"].parameters


def test_the_description_says_what_a_token_uses(model):
    assert model("llama").description == "llama: 8,030,261,248 parameters of the text part."
    assert "22,190,763,520 of them for one token" in model("qwen3_moe").description


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"model_max_length": 8192}, 8192),
        ({"max_position_embeddings": 4096, "model_max_length": 8192}, 4096),
        ({}, None),
    ],
)
def test_the_longest_context_is_carried_over(known, fields, context):
    assert ingest("llama", {**known["llama"].fields, **fields}).max_context_tokens == context
