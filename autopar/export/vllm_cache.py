"""The bytes of vLLM's cache, by the rule with which vLLM checks them when it starts.

Source: vLLM 0.33.0, v1/core/kv_cache_planning.py (get_kv_cache_groups, get_kv_cache_configs,
_max_memory_usage_bytes_from_groups) and v1/kv_cache_interface.py (max_memory_usage_bytes).
"""

from collections import defaultdict
from dataclasses import dataclass, replace

from autopar.costs.operations.precisions import precision_bytes
from autopar.costs.shape import KV_PAGE_TOKENS
from autopar.export.cache_room import cache_bytes, hand_over_factor, refuse_tokens_without_room
from autopar.export.layout import Layout
from autopar.export.options import NAMES
from autopar.export.stage_room import refuse_where_too_full
from autopar.specs import Architecture, GroupedQueryAttention, LatentAttention, LinearAttention

# The largest block that a backend asks for (cutlass_mla.py; flash_attn.py with heads of 256).
# Smaller ones divide it, and whatever has room in blocks of 128 has room in those.
_LARGE_BLOCK_TOKENS = 128
_WIDE_HEAD = 256  # flash_attn.py: uses_fa4_hd256_kernel
_STATE_BYTES = 4  # of an element of a state: fp32, as the plan counts it
_STATE_BLOCKS = 2  # of a request and layer with a state (MambaSpec, where prefixes are cached)
_INDEX_SCALE_BYTES = 4  # of a token beside its FP8 index (deepseek_v2.py: DeepseekV32IndexerCache)
_REFUSED = "vLLM would not start"
_FEW_MORE = 1.5  # layers of the commonest kind, up to which groups take padding (planning, 2025-06)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a layer keeps: bytes of one block on one GPU, tokens of a block.

    window_tokens: None where every token is kept; is_state: a state instead of tokens.
    """

    page_bytes: int
    block_tokens: int
    window_tokens: int | None = None
    is_state: bool = False


def vllm_cache_bytes(layout: Layout, step_tokens: int) -> int:
    """Return --kv-cache-memory-bytes.

    At least the plan's bytes and one block, which vLLM keeps empty, and what vLLM asks for one
    request of full length; where memory has room, all of the plan's sequences as vLLM counts them.
    step_tokens: --max-num-batched-tokens. Raises TooFullError where one request has no room.
    """
    capacity = layout.capacity
    plan = _rounded_up(cache_bytes(layout, capacity.kv_tokens + KV_PAGE_TOKENS))
    held = hand_over_factor(layout) * capacity.kept_sequences
    architecture = layout.llm.architecture
    if architecture is None:
        tokens = -(-capacity.request_tokens // KV_PAGE_TOKENS) * KV_PAGE_TOKENS + KV_PAGE_TOKENS
        refuse_tokens_without_room(layout, tokens, NAMES["vllm"], _REFUSED)
        least = wished = _rounded_up(cache_bytes(layout, tokens))
    else:
        kinds = _kinds_of_layers(layout, architecture)
        of_stages = _needed_bytes(layout, kinds, 1, step_tokens)
        refuse_where_too_full(capacity.stages, of_stages, NAMES["vllm"], layout.role, _REFUSED)
        least = max(of_stages)
        # Without its hybrid manager vLLM keeps all tokens of windows: Llama 4 with drafts, other
        # connectors.
        whole = [replace(kind, window_tokens=None) if kind else None for kind in kinds]
        wished = max(
            *_needed_bytes(layout, kinds, held, step_tokens),
            *_needed_bytes(layout, whole, 1, step_tokens),
        )
    room = (capacity.kv_bytes or 0) + int(capacity.spare_bytes)
    return max(plan, least, min(wished, room))


def _needed_bytes(
    layout: Layout, kinds: list[_Kind | None], requests: int, step_tokens: int
) -> list[int]:
    """Return the bytes of that many requests of full length and of the empty block, by stage.

    kinds: of each layer; None for one that keeps nothing. One block of a group has a page of each
    of its layers in the stage, and all groups take blocks of the size of the largest one.
    """
    groups = _groups(kinds)
    stage_of = [stage for stage, count in enumerate(layout.split) for _ in range(count)]
    widest = [0] * layout.pp
    for _, members in groups:
        of_stage: dict[int, int] = defaultdict(int)
        for layer, page_bytes in members:
            of_stage[stage_of[layer]] += page_bytes
        for stage, page_bytes in of_stage.items():
            widest[stage] = max(widest[stage], page_bytes)
    length = layout.capacity.request_tokens
    # One batch for each stage and one that is prepared meanwhile (config/vllm.py:
    # max_concurrent_batches).
    in_flight = (layout.pp + 1) * step_tokens
    blocks = sum(_blocks(kind, length, in_flight) for kind, _ in groups)
    return [page_bytes * (requests * blocks + 1) for page_bytes in widest]


def _blocks(kind: _Kind, length: int, in_flight: int) -> int:
    """Return the blocks that one request takes of a group, at most."""
    if kind.is_state:
        return _STATE_BLOCKS
    if kind.window_tokens is None:
        return -(-length // kind.block_tokens)
    # Blocks are freed once tokens are computed, and a window starts anywhere in a block.
    kept = min(kind.window_tokens - 1 + in_flight, length)
    return -(-kept // kind.block_tokens) + 1


def _groups(kinds: list[_Kind | None]) -> list[tuple[_Kind, list[tuple[int, int]]]]:
    """Return the groups of layers that share a table of blocks: (layer, bytes of its page)."""
    listed = [(layer, kind) for layer, kind in enumerate(kinds) if kind is not None]
    if not listed:
        return []
    if not any(kind.is_state or kind.window_tokens is not None for _, kind in listed):
        first = listed[0][1]
        return [(first, [(layer, kind.page_bytes) for layer, kind in listed])]
    page = max(kind.page_bytes for _, kind in listed)
    buckets: dict[_Kind, list[int]] = defaultdict(list)
    for layer, kind in listed:
        buckets[_with_page(kind, page)].append(layer)
    fewest, most = min(map(len, buckets.values())), max(map(len, buckets.values()))
    size = most if most < fewest * _FEW_MORE else fewest
    return [
        (kind, [(layer, page) for layer in layers[start :: -(-len(layers) // size)]])
        for kind, layers in buckets.items()
        for start in range(-(-len(layers) // size))
    ]


def _with_page(kind: _Kind, page_bytes: int) -> _Kind:
    """Return a kind with the page of all: more tokens in a block, or padding."""
    ratio = page_bytes // kind.page_bytes if page_bytes % kind.page_bytes == 0 else 1
    return replace(kind, page_bytes=page_bytes, block_tokens=kind.block_tokens * ratio)


def _kinds_of_layers(layout: Layout, architecture: Architecture) -> list[_Kind | None]:
    """Return what each layer keeps; blocks are as long as a state where there are some."""
    attentions = [architecture.attention_of(kind) for kind in architecture.layer_kinds]
    states = [
        -(-a.state_elements // layout.tp) * _STATE_BYTES
        for a in attentions
        if isinstance(a, LinearAttention)
    ]
    state_bytes = max(states, default=0)
    found = [_kind(layout, attention, state_bytes) for attention in attentions]
    return [found[number] for number in architecture.kind_of_layer]


def _kind(
    layout: Layout,
    attention: GroupedQueryAttention | LatentAttention | LinearAttention | None,
    state_bytes: int,
) -> _Kind | None:
    if attention is None:
        return None
    if isinstance(attention, LinearAttention):
        return _Kind(state_bytes, 1, is_state=True)
    width = precision_bytes(layout.llm.precisions.kv_cache)
    window = None
    if isinstance(attention, LatentAttention):
        token_bytes = (attention.kv_lora_rank + attention.qk_rope_head_dim) * width
        if attention.index_heads:
            token_bytes += attention.index_head_dim + _INDEX_SCALE_BYTES
        block = _LARGE_BLOCK_TOKENS
    else:
        heads = -(-attention.num_kv_heads // layout.tp)
        token_bytes = heads * (attention.head_dim + attention.value_dim) * width
        block = KV_PAGE_TOKENS if attention.head_dim < _WIDE_HEAD else _LARGE_BLOCK_TOKENS
        window = attention.window_tokens
    longer = -(-state_bytes // _rounded_up(token_bytes))
    block = max(block, -(-longer // KV_PAGE_TOKENS) * KV_PAGE_TOKENS)
    return _Kind(_rounded_up(token_bytes * block), block, window)


def _rounded_up(value: float) -> int:
    return -int(-value // 1)
