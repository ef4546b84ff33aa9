"""The share of a GPU's memory that SGLang is given for weights and caches."""

import math

from autopar.export.cache_room import cache_bytes
from autopar.export.layout import Layout
from autopar.specs import GroupedQueryAttention, LinearAttention

_DECIMALS = range(2, 7)  # two, as people write it; more only where a plan fills its GPUs
# Of the reserve, what SGLang takes after its cache: data of attention's kernels, slack (0.5.23,
# arg_groups/memory_hook.py, which sets as much aside on every GPU: 512 MB).
_LATER_BYTES = 512 * 2**20


def static_fraction(layout: Layout, tokens: int) -> float | None:
    """Return --mem-fraction-static; None where the plan does not state its cache, or is too full.

    tokens: of one attention group, as --max-total-tokens.

    SGLang takes the share of what is free once the runtime and its communicators are up, loads the
    weights, and what is left of the share is for the cache, which is limited by its tokens besides.
    So it is (weights + cache) / (memory - reserve) at least, and 1 - activations / (memory -
    reserve) at most. Neither weights nor activations are known to the byte, so that what the plan
    leaves free goes to both evenly.
    What of the reserve is taken only later is still free before loading: the share leaves it, and
    has room for weights and cache in the rest.
    Source: SGLang 0.5.23, mem_cache/kv_cache_configurator.py: _profile_available_bytes; the fullest
    rank's weights count for all ranks.
    """
    capacity = layout.capacity
    if capacity.kv_bytes is None:
        return None
    free_bytes = layout.cluster.gpu.memory_bytes - capacity.reserved_bytes
    if free_bytes <= 0:
        return None
    least = (capacity.weights_bytes + cache_bytes(layout, tokens)) / free_bytes
    most = 1 - capacity.activation_bytes / free_bytes
    for decimals in _DECIMALS:
        share = round((least + most) / 2, decimals)
        if least <= share <= most:
            return min(share, _most_share(layout, free_bytes))
    # Fullest of weights and of caches may be two GPUs. Tokens limit both, so that more harms none.
    share = round(least + 0.5 * 10.0 ** -_DECIMALS[-1], _DECIMALS[-1])
    return min(share, _most_share(layout, free_bytes)) if share < 1 else None


def _most_share(layout: Layout, free_bytes: float) -> float:
    """Return the share, rounded up, of what SGLang finds that leaves what it takes later.

    free_bytes: without all of the reserve, so that a plan which fits in them fits in the share.
    """
    later = min(_LATER_BYTES, layout.capacity.reserved_bytes)
    exact = free_bytes / (free_bytes + later)
    steps = 10.0 ** _DECIMALS[-1]
    return math.ceil(exact * steps) / steps


def has_own_ratios(layout: Layout) -> bool:
    """Whether some layers keep a state or a window of tokens instead of all of them."""
    architecture = layout.llm.architecture
    if architecture is None:
        return False
    kinds = [architecture.attention_of(kind) for kind in architecture.layer_kinds]
    return any(
        isinstance(kind, LinearAttention)
        or (isinstance(kind, GroupedQueryAttention) and kind.window_tokens is not None)
        for kind in kinds
    )
