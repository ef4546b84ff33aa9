"""A config of each family, with the sizes of the model named above it, and its parameters.

The number belongs to the fields as they stand here, whoever counted them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

# Counted by transformers 5.23.0, whose model was built on the meta device: parameters, and the
# biases that correct routing, which are buffers there.
ORACLE = "transformers 5.23.0, meta device"
# The same under another name: remote code on Hugging Face that derives from that class.
ALIAS = "transformers 5.23.0, meta device, as another model_type of the same shapes"
PUBLISHED = "parameters that Hugging Face shows for its safetensors files, as remembered"


class Known(NamedTuple):
    """A config, its parameters, and who counted them."""

    fields: Mapping[str, Any]
    parameters: int
    source: str = ORACLE


def gqa(layers, hidden, heads, kv_heads, ffn, vocab, **more):
    """Return the fields that most decoders share."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        "tie_word_embeddings": False,
    } | more


def mla(layers, hidden, heads, rank, ffn, vocab, **more):
    """Return the fields of latent attention with experts, as DeepSeek names them."""
    return (
        gqa(layers, hidden, heads, heads, ffn, vocab)
        | {
            "q_lora_rank": rank,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "moe_layer_freq": 1,
        }
        | more
    )


def experts(count, per_token, **more):
    return {"num_experts": count, "num_experts_per_tok": per_token} | more


def routed(count, per_token, size, shared, dense):
    """Return the fields of DeepSeek's experts."""
    return {
        "n_routed_experts": count,
        "num_experts_per_tok": per_token,
        "moe_intermediate_size": size,
        "n_shared_experts": shared,
        "first_k_dense_replace": dense,
    }


def local(count, per_token):
    return {"num_local_experts": count, "num_experts_per_tok": per_token}


DELTA = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "full_attention_interval": 4,
}
MAMBA = {
    "mamba_n_heads": 128,
    "mamba_d_head": 64,
    "mamba_n_groups": 1,
    "mamba_d_state": 128,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
}
GEMMA3 = gqa(62, 5376, 32, 16, 21504, 262208, head_dim=128, sliding_window=1024)
del GEMMA3["tie_word_embeddings"]


def nas_blocks():
    """Return the blocks of Llama 3.3 Nemotron Super 49B: whether they attend, width, how many."""
    runs = [
        (1, 2.625, 1), (1, 5.25, 5), (0, 2.625, 2), (1, 5.25, 3), (0, 3.28125, 1), (1, 5.25, 30),
        (0, 1.3125, 1), (0, 2.625, 2), (0, 1.3125, 1), (0, 5.25, 1), (0, 1.3125, 1), (0, 2.625, 1),
        (0, 1.3125, 3), (1, 5.25, 1), (0, 1.3125, 1), (0, 1.0, 2), (0, 1.3125, 1), (0, 1.0, 3),
        (0, 1.3125, 2), (0, 0.5, 2), (0, 1.0, 2), (0, 0.5, 2), (0, 1.0, 1), (0, 0.5, 2),
        (1, 5.25, 9),
    ]  # fmt: skip
    return [
        {
            "attention": {"n_heads_in_group": 8 if attends else None, "no_op": not attends},
            "ffn": {"ffn_mult": width, "no_op": False},
        }
        for attends, width, count in runs
        for _ in range(count)
    ]


QWEN2 = gqa(28, 3584, 28, 4, 18944, 152064)
MINIMAX_01 = gqa(80, 6144, 64, 8, 9216, 200064, head_dim=128, **local(32, 2))
# fmt: off
KNOWN = {
    # Llama 3.1 8B
    "llama": Known(gqa(32, 4096, 32, 8, 14336, 128256), 8_030_261_248),
    # InternLM3 8B
    "internlm3": Known(gqa(48, 4096, 32, 2, 10240, 128512, head_dim=128), 8_804_241_408),
    # AFM 4.5B
    "arcee": Known(gqa(36, 2560, 20, 4, 18432, 128004, head_dim=128), 4_619_184_640),
    # SmolLM3 3B
    "smollm3": Known(gqa(36, 2048, 16, 4, 11008, 128256, tie_word_embeddings=True),
        3_075_098_624),
    # EXAONE 3.5 7.8B
    "exaone": Known({"num_layers": 32} | gqa(32, 4096, 32, 8, 14336, 102400), 7_818_448_896,
        ALIAS),
    # Llama 4 Maverick
    "llama4_text": Known(gqa(48, 5120, 40, 8, 8192, 202048, intermediate_size_mlp=16384,
        head_dim=128, interleave_moe_layer_step=2, attention_chunk_size=8192, **local(128, 1)),
        400_711_848_960),
    # Mistral 7B v0.1
    "mistral": Known(gqa(32, 4096, 32, 8, 14336, 32000, sliding_window=4096), 7_241_732_096),
    # Ministral 3 8B
    "ministral3": Known(gqa(34, 4096, 32, 8, 14336, 131072, head_dim=128), 8_489_553_920),
    # Mixtral 8x7B
    "mixtral": Known(gqa(32, 4096, 32, 8, 14336, 32000, **local(8, 2)), 46_702_792_704),
    # Qwen2.5 7B
    "qwen2": Known(gqa(28, 3584, 28, 4, 18944, 152064, use_sliding_window=False,
        sliding_window=131072, max_window_layers=28), 7_615_616_512),
    "qwen2_vl": Known(QWEN2, 7_615_616_512, ALIAS),
    "qwen2_vl_text": Known(QWEN2, 7_615_616_512, ALIAS),
    "qwen2_5_vl": Known(QWEN2, 7_615_616_512, ALIAS),
    "qwen2_5_vl_text": Known(QWEN2, 7_615_616_512, ALIAS),
    # MiMo 7B
    "mimo": Known(gqa(36, 4096, 32, 8, 11008, 151680, head_dim=128, attention_bias=True,
        num_nextn_predict_layers=1), 7_622_619_136, ALIAS),
    # Qwen2 57B-A14B
    "qwen2_moe": Known(gqa(28, 3584, 28, 4, 18944, 151936, decoder_sparse_step=1,
        moe_intermediate_size=2560, shared_expert_intermediate_size=20480, **experts(64, 8)),
        57_408_658_944),
    # Qwen3 8B
    "qwen3": Known(gqa(36, 4096, 32, 8, 12288, 151936, head_dim=128, attention_bias=False),
        8_190_735_360),
    # Qwen3-VL 8B
    "qwen3_vl_text": Known(gqa(36, 4096, 32, 8, 12288, 151936, head_dim=128), 8_190_735_360,
        ALIAS),
    # Qwen3 235B-A22B
    "qwen3_moe": Known(gqa(94, 4096, 64, 4, 12288, 151936, head_dim=128, decoder_sparse_step=1,
        mlp_only_layers=[], moe_intermediate_size=1536, **experts(128, 8)), 235_093_634_560),
    # Qwen3-VL 30B-A3B
    "qwen3_vl_moe_text": Known(gqa(48, 2048, 32, 4, 6144, 151936, head_dim=128,
        moe_intermediate_size=768, **experts(128, 8)), 30_532_122_624, ALIAS),
    # Qwen3-Next 80B-A3B
    "qwen3_next": Known(gqa(48, 2048, 16, 2, 5120, 151936, head_dim=256,
        linear_num_value_heads=32, moe_intermediate_size=512,
        shared_expert_intermediate_size=512, **DELTA, **experts(512, 10)), 79_674_391_296),
    # Qwen3.5 27B
    "qwen3_5_text": Known(gqa(64, 5120, 24, 4, 17408, 248320, head_dim=256,
        linear_num_value_heads=48, mtp_num_hidden_layers=1, **DELTA), 26_895_998_464),
    # Qwen3.5 397B-A17B
    "qwen3_5_moe_text": Known(gqa(60, 4096, 32, 2, None, 248320, head_dim=256,
        linear_num_value_heads=64, moe_intermediate_size=1024,
        shared_expert_intermediate_size=1024, **DELTA, **experts(512, 10)), 396_346_350_336),
    # DeepSeek-V2-Lite
    "deepseek_v2": Known(mla(27, 2048, 16, None, 10944, 102400, **routed(64, 6, 1408, 2, 1)),
        15_706_484_224),
    # DeepSeek-V3
    "deepseek_v3": Known(mla(61, 7168, 128, 1536, 18432, 129280, num_nextn_predict_layers=1,
        **routed(256, 8, 2048, 1, 3)), 671_026_419_200),
    # Kimi K2
    "kimi_k2": Known(mla(61, 7168, 64, 1536, 18432, 163840, **routed(384, 8, 2048, 1, 1)),
        1_026_408_232_448, ALIAS),
    # DeepSeek-V3.2
    "deepseek_v32": Known(mla(61, 7168, 128, 1536, 18432, 129280, index_n_heads=64,
        index_head_dim=128, index_topk=2048, **routed(256, 8, 2048, 1, 3)), 671_877_944_064),
    # GLM-4.7-Flash
    "glm4_moe_lite": Known(mla(47, 2048, 20, 768, 10240, 154880, **routed(64, 4, 1536, 1, 1)) |
        {"qk_nope_head_dim": 192, "v_head_dim": 256}, 29_943_393_920),
    # GLM-5.2
    "glm_moe_dsa": Known(mla(78, 6144, 64, 2048, 12288, 154880, index_n_heads=32,
        index_head_dim=128, index_topk=2048, index_topk_freq=4, index_skip_topk_offset=3,
        num_nextn_predict_layers=1, **routed(256, 8, 2048, 1, 3)) | {"qk_nope_head_dim": 192,
        "v_head_dim": 256}, 743_377_019_904),
    # Kimi Linear 48B-A3B
    "kimi_linear": Known(mla(27, 2304, 32, None, 9216, 163840, num_experts=256,
        num_experts_per_token=8, num_shared_experts=1, moe_intermediate_size=1024,
        first_k_dense_replace=1, linear_attn_config={"full_attn_layers": [4, 8, 12, 16, 20, 24,
        27], "kda_layers": [i for i in range(1, 27) if i % 4], "num_heads": 32, "head_dim":
        128, "short_conv_kernel_size": 4}), 49_122_681_728),
    # gpt-oss 120B
    "gpt_oss": Known(gqa(36, 2880, 64, 8, 2880, 201088, head_dim=64, sliding_window=128,
        attention_bias=True, **local(128, 4)), 116_829_156_672),
    # GLM-4 9B
    "glm": Known(gqa(40, 4096, 32, 2, 13696, 151552, head_dim=128, attention_bias=True),
        9_399_951_360),
    # GLM-4 32B
    "glm4": Known(gqa(61, 6144, 48, 2, 23040, 151552, head_dim=128, attention_bias=False),
        32_566_081_536),
    # GLM-4.5
    "glm4_moe": Known(gqa(92, 5120, 96, 8, 12288, 151552, head_dim=128, attention_bias=True,
        use_qk_norm=True, num_nextn_predict_layers=1, **routed(160, 8, 1536, 1, 3)),
        352_797_829_024),
    # dots.llm1
    "dots1": Known(gqa(62, 4096, 32, 32, 10944, 152064, head_dim=128, **routed(128, 6, 1408, 2,
        1)), 142_774_381_696),
    # MiniMax-Text-01
    "minimax": Known(MINIMAX_01 | {"layer_types": (["linear_attention"] * 7 +
        ["full_attention"]) * 10}, 456_089_655_296),
    "minimax_text_01": Known(MINIMAX_01 | {"attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10},
        456_089_655_296, ALIAS),
    "minimax_m1": Known(MINIMAX_01 | {"attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10},
        456_089_655_296, ALIAS),
    # MiniMax-M2
    "minimax_m2": Known(gqa(62, 3072, 48, 8, 1536, 200064, head_dim=128, use_qk_norm=True,
        use_routing_bias=True, use_mtp=True, num_mtp_modules=3, **local(256, 8)),
        228_689_764_864),
    # Gemma 7B
    "gemma": Known(gqa(28, 3072, 16, 16, 24576, 256000, head_dim=256,
        tie_word_embeddings=True), 8_537_680_896),
    # Gemma 2 9B
    "gemma2": Known(gqa(42, 3584, 16, 8, 14336, 256000, head_dim=256, sliding_window=4096,
        tie_word_embeddings=True), 9_241_705_984),
    # Gemma 3 27B
    "gemma3_text": Known(GEMMA3, 27_009_346_304),
    # Gemma 4 26B-A4B
    "gemma4_text": Known(gqa(30, 2816, 16, 8, 2112, 262144, head_dim=256, global_head_dim=512,
        attention_k_eq_v=True, num_global_key_value_heads=2, enable_moe_block=True,
        moe_intermediate_size=704, top_k_experts=8, num_experts=128,
        hidden_size_per_layer_input=0, sliding_window=1024, tie_word_embeddings=True),
        25_233_141_790),
    # OLMo 7B
    "olmo": Known(gqa(32, 4096, 32, 32, 11008, 50304), 6_888_095_744),
    # OLMo 2 32B
    "olmo2": Known(gqa(64, 5120, 40, 8, 27648, 100352), 32_234_279_936),
    # OLMo 3 32B
    "olmo3": Known(gqa(64, 5120, 40, 8, 27648, 100278, sliding_window=4096), 32_233_522_176),
    # OLMoE 1B-7B
    "olmoe": Known(gqa(16, 2048, 16, 16, 1024, 50304, **experts(64, 8)), 6_919_161_856),
    # FlexOlmo 7x7B
    "flex_olmo": Known(gqa(32, 4096, 32, 32, 11008, 100352, **experts(7, 5)), 33_270_665_216),
    # DBRX
    "dbrx": Known({"n_layers": 40, "d_model": 6144, "n_heads": 48, "vocab_size": 100352,
        "max_seq_len": 32768, "attn_config": {"kv_n_heads": 8, "clip_qkv": 8, "rope_theta":
        500000}, "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k":
        4, "moe_normalize_expert_weights": 1}}, 131_596_523_520, PUBLISHED),
    # Phi-4 14B
    "phi3": Known(gqa(40, 5120, 40, 10, 17920, 100352), 14_659_507_200),
    # Phi-3.5-MoE
    "phimoe": Known(gqa(32, 4096, 32, 8, 6400, 32064, attention_bias=True, lm_head_bias=True,
        sliding_window=131072, **local(16, 2)), 41_873_153_344),
    # Granite 3.3 8B
    "granite": Known(gqa(40, 4096, 32, 8, 12800, 49155, tie_word_embeddings=True),
        8_170_848_256),
    # Granite 3.0 3B-A800M
    "granitemoe": Known(gqa(32, 1536, 24, 8, 512, 49155, tie_word_embeddings=True, **local(40,
        8)), 3_298_793_472),
    # Granite 3.0 3B-A800M with a shared expert
    "granitemoeshared": Known(gqa(32, 1536, 24, 8, 512, 49155, shared_intermediate_size=1024,
        **local(40, 8)), 3_525_290_496),
    # Granite 4.0 H Small
    "granitemoehybrid": Known(gqa(40, 4096, 32, 8, 768, 100352, tie_word_embeddings=True,
        shared_intermediate_size=1536, layer_types=["attention" if i % 10 == 5 else "mamba" for
        i in range(40)], **MAMBA, **local(72, 10)), 32_207_337_984),
    # Nemotron-4 340B
    "nemotron": Known(gqa(96, 18432, 96, 8, 73728, 256000, head_dim=192), 341_029_195_776),
    # Nemotron 3 Nano
    "nemotron_h": Known({"hybrid_override_pattern":
        "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", "n_routed_experts": 128,
        "num_experts_per_tok": 6, "moe_intermediate_size": 1856,
        "moe_shared_expert_intermediate_size": 3712, "n_shared_experts": 1, "mamba_num_heads":
        64, "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128, "conv_kernel": 4} |
        gqa(52, 2688, 32, 2, 1856, 131072, head_dim=128), 31_577_940_288),
    # Llama 3.3 Nemotron Super 49B
    "nemotron-nas": Known({"num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads":
        64, "vocab_size": 128256, "block_configs": nas_blocks()}, 49_867_145_216, PUBLISHED),
    # MiMo-V2-Flash
    "mimo_v2_flash": Known(gqa(48, 4096, 64, 4, 16384, 152576, head_dim=192, v_head_dim=128,
        sliding_window=128, swa_num_key_value_heads=8, hybrid_layer_pattern=[0, 1, 1, 1, 1, 0]
        + [1, 1, 1, 1, 1, 0] * 7, moe_layer_freq=[0] + [1] * 47, n_routed_experts=256,
        num_experts_per_tok=8, moe_intermediate_size=2048), 308_778_780_864),
    # EXAONE 4.0 32B
    "exaone4": Known(gqa(64, 5120, 40, 8, 27392, 102400, head_dim=128, sliding_window=4096,
        sliding_window_pattern=4), 32_003_216_384),
    # K-EXAONE 236B
    "exaone_moe": Known(gqa(48, 6144, 64, 8, 18432, 153600, head_dim=128, sliding_window=128,
        sliding_window_pattern=4, num_experts=128, num_experts_per_tok=8,
        moe_intermediate_size=2048, num_shared_experts=1, first_k_dense_replace=1),
        236_571_156_352),
    # Apertus 70B
    "apertus": Known(gqa(80, 8192, 64, 8, 43008, 131072), 70_599_864_640),
    # Command R+
    "cohere": Known(gqa(64, 12288, 96, 8, 33792, 256000, use_qk_norm=True,
        tie_word_embeddings=True), 103_810_674_688),
    # Command A
    "cohere2": Known(gqa(64, 12288, 96, 8, 36864, 256000, sliding_window=4096,
        tie_word_embeddings=True), 111_057_580_032),
    # StarCoder2 15B
    "starcoder2": Known(gqa(40, 6144, 48, 4, 24576, 49152, use_bias=True), 15_957_889_024),
    # Seed-OSS 36B
    "seed_oss": Known(gqa(64, 5120, 80, 8, 27648, 155136, head_dim=128, attention_bias=True),
        36_151_104_512),
    # ERNIE 4.5 0.3B
    "ernie4_5": Known(gqa(18, 1024, 16, 2, 3072, 103424, head_dim=128,
        tie_word_embeddings=True), 360_748_032),
    # ERNIE 4.5 300B-A47B
    "ernie4_5_moe": Known(gqa(54, 8192, 64, 8, 28672, 103424, moe_num_experts=64, moe_k=8,
        moe_intermediate_size=3584, moe_num_shared_experts=0, moe_layer_start_index=3,
        moe_layer_interval=1), 299_484_163_264),
    # Solar Open 100B
    "solar_open": Known(gqa(48, 4096, 64, 8, 10240, 196608, head_dim=128, **routed(128, 8,
        1280, 1, 0)), 102_651_799_552),
}
# fmt: on


@pytest.fixture(scope="module")
def known() -> Mapping[str, Known]:
    """Return a config of each family and its parameters, by model_type."""
    return KNOWN
