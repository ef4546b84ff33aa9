"""How many parameters an architecture has, exactly: every matrix once, every small vector.

Quantisation scales are not parameters. Layers that only draft tokens are counted on request.
"""

from autopar.specs.architecture import (
    Architecture,
    Attention,
    DenseFeedForward,
    ExpertFeedForward,
    FeedForward,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
)


def parameters(architecture: Architecture, *, with_drafts: bool = False) -> int:
    """Return the parameters of a whole model.

    with_drafts: whether to count the layers of multi-token prediction, which share the embedding
    and the head of the model.
    """
    total = sum(layer_parameters(architecture, layer) for layer in architecture.layer_sequence)
    drafts = architecture.next_token_prediction
    if with_drafts and drafts is not None:
        each = layer_parameters(architecture, drafts.layer) + drafts.other_parameters
        total += drafts.count * each
    return total + _ends(architecture)


def active_parameters(architecture: Architecture) -> int:
    """Return the parameters that one token is multiplied with: of the experts, those it takes."""
    idle = 0
    for layer in architecture.layer_sequence:
        feed_forward = architecture.feed_forward_of(layer)
        if isinstance(feed_forward, ExpertFeedForward):
            unused = feed_forward.num_experts - feed_forward.experts_per_token
            idle += unused * expert_parameters(architecture.hidden_size, feed_forward)
    return parameters(architecture) - idle


def layer_parameters(architecture: Architecture, layer: Layer) -> int:
    """Return the parameters of one layer."""
    hidden, total = architecture.hidden_size, layer.other_parameters
    attention = architecture.attention_of(layer)
    if attention is not None:
        total += attention_parameters(hidden, attention)
    feed_forward = architecture.feed_forward_of(layer)
    if feed_forward is not None:
        total += feed_forward_parameters(hidden, feed_forward)
    return total


def attention_parameters(hidden_size: int, attention: Attention) -> int:
    """Return the parameters of one attention with its small vectors."""
    match attention:
        case GroupedQueryAttention():
            keys, values = attention.head_dim, attention.v_head_dim or attention.head_dim
            results = values * (2 if attention.gates_output else 1)  # the result, its gate
            cached = keys + (0 if attention.keys_are_values else values)
            columns = attention.num_heads * (keys + results) + attention.num_kv_heads * cached
            matrices = hidden_size * columns
        case LatentAttention():
            matrices = _latent(hidden_size, attention)
        case LinearAttention():
            matrices = hidden_size * (attention.input_columns + attention.output_rows)
    return matrices + attention.other_parameters


def _latent(hidden: int, attention: LatentAttention) -> int:
    heads, latent = attention.num_heads, attention.kv_lora_rank
    query_columns = heads * (attention.qk_nope_head_dim + attention.qk_rope_head_dim)
    rank = attention.q_lora_rank
    queries = hidden * query_columns if rank is None else rank * (hidden + query_columns)
    down = hidden * (latent + attention.qk_rope_head_dim)
    up = latent * heads * (attention.qk_nope_head_dim + attention.v_head_dim)
    output = heads * attention.v_head_dim * hidden
    index = 0
    if attention.index_heads:  # queries from the query latent, one key, one weight per head
        index_columns = attention.index_heads * attention.index_head_dim
        source = hidden if rank is None else rank
        index = source * index_columns + hidden * (attention.index_head_dim + attention.index_heads)
    return queries + down + up + output + index


def feed_forward_parameters(hidden_size: int, feed_forward: FeedForward) -> int:
    """Return the parameters of one feed-forward: of all its experts, its router, what is shared."""
    if isinstance(feed_forward, DenseFeedForward):
        matrices = feed_forward.num_matrices * hidden_size * feed_forward.ffn_size
        return matrices + feed_forward.other_parameters
    shared = feed_forward.num_matrices * hidden_size * feed_forward.shared_size
    router = hidden_size * feed_forward.num_experts
    latent = 2 * hidden_size * (feed_forward.latent_size or 0)
    experts = feed_forward.num_experts * expert_parameters(hidden_size, feed_forward)
    return experts + shared + router + latent + feed_forward.other_parameters


def expert_parameters(hidden_size: int, feed_forward: ExpertFeedForward) -> int:
    """Return the parameters of one routed expert."""
    width = feed_forward.latent_size or hidden_size
    matrices = feed_forward.num_matrices * width * feed_forward.expert_size
    return matrices + feed_forward.other_parameters_per_expert


def _ends(architecture: Architecture) -> int:
    tables = 1 if architecture.shares_embeddings else 2
    table = architecture.vocab_size * architecture.hidden_size
    return tables * table + architecture.other_parameters
