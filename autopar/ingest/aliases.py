"""The spellings of one fact in the config.json of different models, the usual one first.

Spellings: the configuration classes of transformers 5.23.0 and their `attribute_map`s, and the
remote code of DBRX, DeciLM, EXAONE and MiniMax on Hugging Face.
"""

# The mapping that holds the text part of a model with other parts; the model itself otherwise.
TEXT_PARTS = ("text_config", "llm_config", "language_config")

LAYERS = ("num_hidden_layers", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "d_model")
HEADS = ("num_attention_heads", "n_heads")
KV_HEADS = ("num_key_value_heads", "kv_n_heads")
VOCABULARY = ("vocab_size",)
CONTEXT = ("max_position_embeddings", "model_max_length", "max_seq_len", "seq_length")
DTYPE = ("dtype", "torch_dtype")

DENSE_SIZE = ("intermediate_size",)
EXPERT_SIZE = ("moe_intermediate_size",)
EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
EXPERTS_PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
)
SHARED_EXPERTS = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
DRAFT_LAYERS = ("num_nextn_predict_layers",)
