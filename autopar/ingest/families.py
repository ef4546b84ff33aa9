"""The families: for every known model_type, what its fields mean and what they leave unsaid.

What a field means, what its absence means and which small vectors there are is taken from the
configuration and modelling classes of transformers 5.23.0 (src/transformers/models/MODEL_TYPE) if
not said otherwise. Parameters are those that the checkpoint stores for the text part: the biases
that correct routing are buffers there and are counted, layers for multi-token prediction and the
towers for images and sound are not.
"""

from collections.abc import Mapping
from dataclasses import replace

from autopar.ingest.aliases import SHARED_EXPERTS
from autopar.ingest.attention import GroupedQuery, Latent
from autopar.ingest.family import Builder, Family
from autopar.ingest.feed_forward import BLOCK_SPARSE, Dense, Experts, numbered
from autopar.ingest.fields import Flag
from autopar.ingest.gemma4 import Gemma4Attention
from autopar.ingest.layers import (
    all_dense,
    all_experts,
    all_windows,
    ernie,
    even_window_layers,
    every,
    every_nth,
    first_dense,
    from_window_layer,
    gemma4_experts,
    granite_experts,
    indexers,
    interleaved,
    kimi_linear,
    listed,
    marked,
    marked_experts,
    rotary_chunks,
    sparse_steps,
    switched_windows,
    windows_but_nth,
    windows_from_layer,
    windows_without_rotation,
)
from autopar.ingest.linear import GatedDeltaNet, KimiDelta, Lightning, Mamba2
from autopar.ingest.mimo_v2 import MimoV2Attention
from autopar.ingest.nemotron import NemotronH, NemotronNas

_BIAS = Flag("attention_bias")
_BIAS_BY_DEFAULT = Flag("attention_bias", default=True)
_SHARED_EXPERT = numbered("mlp.shared_expert.{}_proj", "gate", "up", "down")
_WIDE_MLP = Dense(num_matrices=2, bias=Flag("mlp_bias"), modules=("mlp.up_proj", "mlp.down_proj"))
_TWO_WINDOWS = listed("layer_types", every_nth("sliding_window_pattern", 2))
_THREE_WINDOWS = listed("layer_types", every_nth("sliding_window_pattern", 4))
_FIVE_WINDOWS = listed("layer_types", every_nth("sliding_window_pattern", 6))

_LLAMA = Family(
    attention=GroupedQuery(bias=_BIAS, multi_head=True), dense=Dense(bias=Flag("mlp_bias"))
)
_MISTRAL = Family(attention=GroupedQuery(), attention_kinds=all_windows)

_QWEN_WINDOW = {"sliding_window": 4096}  # of no effect unless `use_sliding_window` is true
_QWEN2 = Family(
    attention=GroupedQuery(bias=True, out_bias=False),
    attention_kinds=listed("layer_types", from_window_layer),
    defaults=_QWEN_WINDOW,
)
_QWEN2_VL = replace(_QWEN2, defaults={**_QWEN_WINDOW, "max_window_layers": 80})
_QWEN3_ATTENTION = GroupedQuery(bias=_BIAS, query_key_norm="head")
_QWEN3 = Family(
    attention=_QWEN3_ATTENTION,
    attention_kinds=listed("layer_types", from_window_layer),
    defaults={**_QWEN_WINDOW, "head_dim": 128},
)
_QWEN3_MOE = Family(
    attention=replace(_QWEN3_ATTENTION, norm_switch=Flag("use_qk_norm", default=True)),
    attention_kinds=switched_windows,
    experts=Experts(),
    feed_forward_kinds=sparse_steps,
    defaults=_QWEN_WINDOW,
)
_QWEN_SHARED_EXPERT = Experts(  # hidden_vectors: the gate on the shared expert
    shared_size=("shared_expert_intermediate_size",),
    hidden_vectors=1,
    shared_modules=_SHARED_EXPERT,
)
_QWEN3_NEXT = Family(
    attention=replace(_QWEN3_ATTENTION, gates_output=Flag("attn_output_gate", default=True)),
    linear=GatedDeltaNet(),
    attention_kinds=listed(
        "layer_types", every_nth("full_attention_interval", 4, last="full", others="linear")
    ),
    experts=_QWEN_SHARED_EXPERT,
    feed_forward_kinds=sparse_steps,
    defaults={"head_dim": 256},
    ignores=("full_attention_interval", "output_gate_type"),
    drafts=("mtp_num_hidden_layers",),
)

_DEEPSEEK = Family(
    attention=Latent(),
    experts=Experts(shared_count=SHARED_EXPERTS, routing_bias=True),
    feed_forward_kinds=first_dense,
    ignores=("layer_types", "n_group", "topk_group"),
)
_DEEPSEEK_V3 = replace(_DEEPSEEK, defaults={"n_group": 8, "topk_group": 4})
_GLM4_MOE = Family(
    attention=GroupedQuery(
        bias=_BIAS, out_bias=False, query_key_norm="head", norm_switch=Flag("use_qk_norm")
    ),
    experts=Experts(shared_count=SHARED_EXPERTS, routing_bias=True),
    feed_forward_kinds=first_dense,
)
_MINIMAX_EXPERTS = Experts(size=("intermediate_size",), modules=BLOCK_SPARSE)
_MINIMAX = Family(
    attention=GroupedQuery(),
    linear=Lightning(),
    attention_kinds=listed(
        "layer_types",
        marked(
            "attn_type_list", ("linear", "full"), every_nth(None, 2, last="linear", others="full")
        ),
    ),
    experts=_MINIMAX_EXPERTS,
    feed_forward_kinds=all_experts,
)
_GEMMA = Family(
    attention=GroupedQuery(bias=_BIAS), ties_embeddings=True, defaults={"head_dim": 256}
)
_GEMMA3 = Family(
    attention=GroupedQuery(bias=_BIAS, query_key_norm="head"),
    attention_kinds=_FIVE_WINDOWS,
    norms=4,
    ties_embeddings=True,
    # google/gemma-3-*-it leave these out of their text_config: Gemma3TextConfig fills them in.
    defaults={
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
    },
    ignores=("_sliding_window_pattern", "sliding_window_pattern"),
)
_GEMMA4 = Family(
    attention=Gemma4Attention(),
    attention_kinds=_FIVE_WINDOWS,
    experts=Experts(  # hidden_vectors: the router's scale, three norms; routing_bias: scales
        per_token=("top_k_experts",),
        shared_size=("intermediate_size",),
        hidden_vectors=4,
        routing_bias=True,
        modules=numbered("experts.0.{}_proj", "gate", "up", "down"),
        shared_modules=Dense().modules,
    ),
    feed_forward_kinds=gemma4_experts,
    norms=4,
    layer_scalars=1,
    ties_embeddings=True,
    defaults={"head_dim": 256, "sliding_window": 512},
    ignores=("use_bidirectional_attention",),
)
_OLMO2 = Family(attention=GroupedQuery(bias=_BIAS, query_key_norm="width", multi_head=True))
_OLMOE = replace(
    _OLMO2, experts=Experts(size=("intermediate_size",)), feed_forward_kinds=all_experts
)
_GRANITE_EXPERTS = Experts(
    size=("intermediate_size",),
    shared_size=("shared_intermediate_size",),
    modules=("block_sparse_moe.input_linear", "block_sparse_moe.output_linear"),
    shared_modules=("shared_mlp.input_linear", "shared_mlp.output_linear"),
)
_GRANITE_MOE = Family(
    attention=GroupedQuery(bias=_BIAS, multi_head=True),
    experts=replace(_GRANITE_EXPERTS, shared_size=()),
    feed_forward_kinds=all_experts,
)
_COHERE = Family(
    attention=GroupedQuery(
        bias=_BIAS, query_key_norm="width", norm_switch=Flag("use_qk_norm"), multi_head=True
    ),
    norms=1,
    ties_embeddings=True,
)
_GLM = Family(
    attention=GroupedQuery(bias=_BIAS_BY_DEFAULT, out_bias=False),
    dense=Dense(modules=("mlp.gate_up_proj", "mlp.down_proj")),
    defaults={"head_dim": 128},
)
_ERNIE = Family(
    attention=GroupedQuery(bias=Flag("use_bias")),
    dense=Dense(bias=Flag("use_bias")),
    ties_embeddings=True,
)
_EXAONE4 = Family(
    attention=GroupedQuery(query_key_norm="head"),
    attention_kinds=listed("layer_types", windows_but_nth),
    defaults={"sliding_window": 4096},
    ignores=("sliding_window", "sliding_window_pattern"),
)

# Families by model_type, that of the text part where a model has others.
FAMILIES: Mapping[str, Builder] = {
    "llama": _LLAMA,
    "internlm3": replace(_LLAMA, attention=GroupedQuery(), defaults={"head_dim": 128}),
    "arcee": replace(_LLAMA, dense=_WIDE_MLP),
    "smollm3": replace(
        _LLAMA,
        attention=GroupedQuery(bias=_BIAS),
        attention_kinds=listed("layer_types", windows_without_rotation),
        ties_embeddings=True,
        ignores=("no_rope_layers", "no_rope_layer_interval"),
    ),
    # Remote code of LGAI-EXAONE/EXAONE-3.5-32B-Instruct; its files say whether the head is shared.
    "exaone": replace(_LLAMA, attention=GroupedQuery(), ties_embeddings=None),
    "llama4_text": Family(
        attention=GroupedQuery(bias=_BIAS, window=("attention_chunk_size",)),
        attention_kinds=rotary_chunks,
        dense=Dense(
            size=("intermediate_size_mlp",),
            modules=numbered("feed_forward.{}_proj", "gate", "up", "down"),
        ),
        experts=Experts(
            size=("intermediate_size",),
            always_shared=True,
            modules=numbered("feed_forward.experts.0.{}_proj", "gate", "up", "down"),
            shared_modules=numbered("feed_forward.shared_expert.{}_proj", "gate", "up", "down"),
        ),
        feed_forward_kinds=interleaved,
        defaults={"head_dim": 128, "attention_chunk_size": 8192},
        # Its norm of queries and keys has no weights (Llama4TextL2Norm).
        ignores=("use_qk_norm", "no_rope_layer_interval", "intermediate_size_mlp"),
    ),
    "mistral": replace(_MISTRAL, defaults={"sliding_window": 4096}),
    "ministral3": replace(_MISTRAL, defaults={"head_dim": 128}),
    "mixtral": replace(_MISTRAL, experts=_MINIMAX_EXPERTS, feed_forward_kinds=all_experts),
    "qwen2": _QWEN2,
    "qwen2_vl": _QWEN2_VL,
    "qwen2_vl_text": _QWEN2_VL,
    "qwen2_5_vl": _QWEN2_VL,
    "qwen2_5_vl_text": _QWEN2_VL,
    # Remote code of XiaomiMiMo/MiMo-7B-Base: Qwen2Attention, which has its biases in any case.
    "mimo": replace(_QWEN2, ignores=("attention_bias",)),
    "qwen2_moe": replace(
        _QWEN2,
        attention=GroupedQuery(bias=Flag("qkv_bias", default=True), out_bias=False),
        attention_kinds=listed("layer_types", even_window_layers),
        experts=_QWEN_SHARED_EXPERT,
        feed_forward_kinds=sparse_steps,
    ),
    "qwen3": _QWEN3,
    # The classes of Qwen3-VL have no windows.
    "qwen3_vl_text": replace(_QWEN3, attention_kinds=every("full")),
    "qwen3_moe": _QWEN3_MOE,
    "qwen3_vl_moe_text": replace(
        _QWEN3_MOE, attention_kinds=every("full"), ties_embeddings=True, defaults={}
    ),
    "qwen3_next": _QWEN3_NEXT,
    "qwen3_5_text": replace(_QWEN3_NEXT, feed_forward_kinds=all_dense),
    "qwen3_5_moe_text": replace(_QWEN3_NEXT, feed_forward_kinds=all_experts),
    "deepseek_v2": replace(
        _DEEPSEEK,
        experts=Experts(shared_count=SHARED_EXPERTS),
    ),
    "deepseek_v3": _DEEPSEEK_V3,
    "kimi_k2": _DEEPSEEK_V3,  # moonshotai/Kimi-K2-Instruct: DeepseekV3ForCausalLM
    "deepseek_v32": replace(_DEEPSEEK_V3, attention=Latent(indexed=True)),
    "glm4_moe_lite": _DEEPSEEK,
    "glm_moe_dsa": replace(_DEEPSEEK, attention=Latent(indexed=True), attention_kinds=indexers),
    "kimi_linear": replace(_DEEPSEEK, linear=KimiDelta(), attention_kinds=kimi_linear),
    "gpt_oss": Family(
        attention=GroupedQuery(bias=_BIAS_BY_DEFAULT, sinks=True),
        attention_kinds=_TWO_WINDOWS,
        experts=Experts(
            size=("intermediate_size",),
            router_bias=True,
            expert_bias=True,
            modules=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
        ),
        feed_forward_kinds=all_experts,
        defaults={"head_dim": 64},
    ),
    "glm": _GLM,
    "glm4": replace(_GLM, norms=4),
    "glm4_moe": _GLM4_MOE,
    "dots1": replace(
        _GLM4_MOE,
        attention=GroupedQuery(bias=_BIAS, query_key_norm="head"),
        attention_kinds=listed("layer_types", windows_from_layer),
        defaults={"sliding_window": 4096, "max_window_layers": 62},
    ),
    "minimax": _MINIMAX,
    # Remote code of MiniMaxAI/MiniMax-Text-01 and MiniMaxAI/MiniMax-M1-80k.
    "minimax_text_01": _MINIMAX,
    "minimax_m1": _MINIMAX,
    "minimax_m2": Family(
        attention=GroupedQuery(
            query_key_norm="width", norm_switch=Flag("use_qk_norm", default=True)
        ),
        attention_kinds=marked("attn_type_list", ("linear", "full"), every("full")),
        experts=replace(_MINIMAX_EXPERTS, routing_bias=Flag("use_routing_bias", default=True)),
        feed_forward_kinds=all_experts,
        defaults={"head_dim": 128},
        # What its drafting modules hold is not said, and no checkpoint of it has any.
        drafts=(),
        ignores=("use_mtp", "num_mtp_modules", "mtp_transformer_layers", "qk_norm_type"),
    ),
    "gemma": _GEMMA,
    "gemma2": replace(
        _GEMMA,
        attention_kinds=_TWO_WINDOWS,
        norms=4,
        defaults={"head_dim": 256, "sliding_window": 4096},
    ),
    "gemma3_text": _GEMMA3,
    "gemma4_text": _GEMMA4,
    "olmo": Family(attention=GroupedQuery(bias=_BIAS, multi_head=True), norm_vectors=0),
    "olmo2": _OLMO2,
    "olmo3": replace(_OLMO2, attention_kinds=_THREE_WINDOWS, defaults={"sliding_window": 4096}),
    "olmoe": _OLMOE,
    "flex_olmo": _OLMOE,
    "dbrx": Family(
        attention=GroupedQuery(kv_section="attn_config", modules=("norm_attn_norm.attn.Wqkv",)),
        experts=Experts(
            size=("ffn_hidden_size",), section="ffn_config", modules=("ffn.experts.mlp",)
        ),
        feed_forward_kinds=all_experts,
    ),
    "phi3": replace(
        _MISTRAL,
        attention=GroupedQuery(multi_head=True, modules=("self_attn.qkv_proj", "self_attn.o_proj")),
        dense=_GLM.dense,
    ),
    "phimoe": Family(
        attention=GroupedQuery(bias=_BIAS),
        attention_kinds=all_windows,
        experts=_MINIMAX_EXPERTS,
        feed_forward_kinds=all_experts,
        norm_vectors=2,
        head_bias=Flag("lm_head_bias"),
    ),
    "granite": _LLAMA,
    "granitemoe": _GRANITE_MOE,
    "granitemoeshared": replace(_GRANITE_MOE, experts=_GRANITE_EXPERTS),
    "granitemoehybrid": replace(
        _GRANITE_MOE,
        linear=Mamba2(
            heads="mamba_n_heads",
            head_dim="mamba_d_head",
            groups="mamba_n_groups",
            state="mamba_d_state",
            kernel="mamba_d_conv",
            conv_bias=Flag("mamba_conv_bias", default=True),
            bias=Flag("mamba_proj_bias"),
            modules=("mamba.in_proj", "mamba.out_proj"),
        ),
        attention_kinds=listed("layer_types", every("mamba")),
        dense=Dense(size=("shared_intermediate_size",), modules=_GRANITE_EXPERTS.shared_modules),
        experts=_GRANITE_EXPERTS,
        feed_forward_kinds=granite_experts,
        ignores=("mamba_expand", "mamba_chunk_size"),
    ),
    "nemotron": Family(
        attention=GroupedQuery(bias=_BIAS, multi_head=True), dense=_WIDE_MLP, norm_vectors=2
    ),
    "nemotron_h": NemotronH(),
    "nemotron-nas": NemotronNas(),
    "mimo_v2_flash": Family(
        attention=MimoV2Attention(),
        attention_kinds=listed(
            "layer_types", marked("hybrid_layer_pattern", ("full", "window"), every("full"))
        ),
        experts=Experts(routing_bias=True),
        feed_forward_kinds=marked_experts,
        drafts=(),  # how large its drafting layers are is not said
        ignores=("sliding_window_size", "hybrid_block_size"),
    ),
    "exaone4": _EXAONE4,
    "exaone_moe": replace(
        _EXAONE4,
        experts=Experts(shared_count=SHARED_EXPERTS, routing_bias=True),
        feed_forward_kinds=first_dense,
    ),
    "apertus": Family(
        attention=GroupedQuery(bias=_BIAS, query_key_norm="head", multi_head=True),
        dense=replace(_WIDE_MLP, bias=False, other_parameters=4),  # the four numbers of xIELU
    ),
    "cohere": _COHERE,
    "cohere2": replace(
        _COHERE,
        attention=GroupedQuery(bias=_BIAS, multi_head=True),
        attention_kinds=_THREE_WINDOWS,
        defaults={"sliding_window": 4096},
    ),
    "starcoder2": Family(
        attention=GroupedQuery(bias=Flag("use_bias", default=True)),
        attention_kinds=all_windows,
        dense=Dense(
            num_matrices=2,
            bias=Flag("use_bias", default=True),
            modules=("mlp.c_fc", "mlp.c_proj"),
        ),
        norm_vectors=2,
        ties_embeddings=True,
    ),
    "seed_oss": Family(
        attention=GroupedQuery(bias=_BIAS_BY_DEFAULT, out_bias=Flag("attention_out_bias")),
        dense=Dense(bias=Flag("mlp_bias")),
        defaults={"head_dim": 128},
    ),
    "ernie4_5": replace(_ERNIE, defaults={"head_dim": 128}),
    "ernie4_5_moe": replace(
        _ERNIE,
        experts=Experts(shared_count=SHARED_EXPERTS, routing_bias=True),
        feed_forward_kinds=ernie,
    ),
    "solar_open": replace(
        _GLM4_MOE,
        attention=GroupedQuery(bias=_BIAS, out_bias=False),
        feed_forward_kinds=all_experts,
        defaults={"head_dim": 128},
    ),
}

# What the absence of tie_word_embeddings means to a model of several parts, by its model_type,
# where its text part alone would take it otherwise.
WHOLE_TIES: Mapping[str, bool] = {"qwen3_vl_moe": False}

_V4 = "attention to compressed keys (compress_ratios) and hyper-connections (hc_mult)"

# Known model types whose fields say something that a document of ours cannot, and what.
NOT_EXPRESSED: Mapping[str, str] = {
    "deepseek_v4": _V4,
    "deepseek_ref": _V4,
    "minimax_m3": "attention to picked blocks of keys (sparse_attention_config)",
    "minimax_m3_vl": "attention to picked blocks of keys (sparse_attention_config)",
    "minimax_m3_vl_text": "attention to picked blocks of keys (index_topk_blocks)",
    "step3p7": "a gate per head, and other heads in the windows (attention_other_setting)",
    "step3p5": "a gate per head, and other heads in the windows (attention_other_setting)",
    "longcat_flash": "two attentions per layer, and experts without weights (zero_expert_num)",
    "jamba": "Mamba-1 layers (mamba_dt_rank)",
    "falcon_h1": "layers with a Mamba mixer beside the attention",
    "gemma3n_text": "embeddings per layer (hidden_size_per_layer_input)",
}
