"""What a config says that nobody read: refused where it may change a shape, never passed over.

A new version of a family announces itself by new fields. One whose name speaks of sizes, heads,
experts, biases and the like, and that is not null, false, 0 or empty, means that the shapes built
without it may be wrong.
"""

import re

from autopar.documents import found
from autopar.ingest.fields import Fields

_SHAPE = re.compile(
    r"size|dim|rank|heads?(_|$)|expert|group|layer|bias|gat(e|ing)|norm|lora|latent|index|mamba|ssm"
    r"|conv|linear|sparse|mtp|nextn|shared|^hc_|compress|block|adapter|kernel|wide|altup|laurel|mlp"
    r"|ffn|attn|attention|sink|depth|mod_|recurr|cross|memory"
)
# Positions, token numbers, and what only training looks at.
_OTHER = re.compile(
    r"rope|rotary|_eps(ilon)?$|dropout|_loss|token_(id|ind)|initiali[sz]er|_std$|_pdrop$"
)

# Names that match and change no shape: how values are computed, trained, initialised or sampled.
_HARMLESS = frozenset(
    (
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_flash_attn_2_enabled",
        "activation_situ_linear_beta",
        "add_cross_attention",
        "attention_chunk_size",
        "attention_dropout",
        "attention_multiplier",
        "attention_value_scale",
        "attn_implementation",
        "attn_logit_softcapping",
        "attn_pdrop",
        "attn_scale",
        "attn_temperature_tuning",
        "aux_loss_alpha",
        "block_size",
        "chunk_size_feed_forward",
        "clip_qkv",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "embedding_multiplier",
        "ep_size",
        "expert_selection_fn",
        "experts_implementation",
        "first_k_dense_replace",
        "full_attn_alpha_factor",
        "full_attn_beta_factor",
        "group_size",
        "head_dim",
        "index_share_for_mtp_iteration",
        "indexer_rope_interleave",
        "input_jitter_noise",
        "intermediate_size",
        "is_encoder_decoder",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "layer_rope_theta",
        "layer_types",
        "layernorm_full_attention_alpha",
        "layernorm_full_attention_beta",
        "layernorm_linear_attention_alpha",
        "layernorm_linear_attention_beta",
        "layernorm_mlp_alpha",
        "layernorm_mlp_beta",
        "linear_attn_alpha_factor",
        "linear_attn_beta_factor",
        "mamba_chunk_size",
        "mamba_hidden_act",
        "mamba_ssm_cache_dtype",
        "mamba_ssm_dtype",
        "max_window_layers",
        "mla_use_nope",
        "mlp_alpha_factor",
        "mlp_beta_factor",
        "mlp_hidden_act",
        "moe_aux_loss_coeff",
        "moe_layer_freq",
        "moe_norm_min",
        "moe_normalize_expert_weights",
        "moe_renormalize",
        "moe_shared_expert_overlap",
        "n_group",
        "no_repeat_ngram_size",
        "norm_eps",
        "norm_epsilon",
        "norm_expert_weight",
        "norm_topk_prob",
        "num_attention_heads",
        "num_beam_groups",
        "num_expert_group",
        "num_key_value_heads",
        "num_logits_to_keep",
        "output_attentions",
        "output_router_logits",
        "pooler_num_attention_heads",
        "postnorm",
        "qk_norm_type",
        "query_pre_attn_scalar",
        "rescale_prenorm_residual",
        "rms_norm_eps",
        "rope_interleave",
        "router_aux_loss_coef",
        "shared_moe_mode",
        "sliding_window",
        "sliding_window_pattern",
        "sliding_window_size",
        "sparse_step",
        "topk_group",
        "use_bidirectional_attention",
        "use_flash_attention",
        "use_grouped_topk",
        "use_mamba_kernels",
        "use_qk_norm",
        "use_sliding_window",
        "window_size",
    )
)


def refuse_unread(fields: Fields, model_type: str) -> None:
    """Raise SpecError for the first field that nobody read and that may change a shape."""
    for section, name, value in fields.unread(_may_shape):
        if value is None or value is False or value in (0, "", [], {}):
            continue
        if isinstance(value, list) and not any(value):
            continue
        raise section.error(
            name,
            f"found {found(value)}, which may change shapes and is not read for model_type "
            f"{model_type!r}; expected none of it",
        )


def _may_shape(name: str) -> bool:
    if name in _HARMLESS or _OTHER.search(name):
        return False
    return _SHAPE.search(name) is not None
