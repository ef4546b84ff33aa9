"""How large a cache an engine is given: what the plan keeps, and what the engine asks for besides.

Engines refuse to start, or to take a request, unless one request of full length fits with what they
keep free beside it. A prefill server keeps a prompt until its decode server has taken it, while the
plan counts the prompts in progress alone.
"""

from fractions import Fraction

from autopar.costs.shape import KV_PAGE_TOKENS
from autopar.export.layout import Layout
from autopar.export.stage_room import refuse_where_too_full


def hand_over_factor(layout: Layout) -> int:
    """Return how many sets of the plan's sequences a server holds where memory has room for them.

    Prompts of one step travel while those of the next are computed: two on a prefill server.
    """
    return 2 if layout.role == "prefill" else 1


def cache_tokens(layout: Layout, least_tokens: int) -> int:
    """Return the tokens of the cache of one attention group.

    least_tokens: with which the engine serves one request of full length. Each sequence has a page
    more than its tokens where memory has room, for engines admit no request that fills the rest to
    the last token.
    """
    capacity = layout.capacity
    held = hand_over_factor(layout) * capacity.kv_tokens
    wished = held + capacity.kept_sequences * KV_PAGE_TOKENS
    return max(least_tokens, capacity.kv_tokens, min(wished, _room_tokens(layout)))


def cache_bytes(layout: Layout, tokens: int) -> float:
    """Return the bytes of that many tokens of an attention group on the GPU that keeps most."""
    capacity = layout.capacity
    return float(Fraction(capacity.kv_bytes or 0) * tokens / max(1, capacity.kv_tokens))


def refuse_tokens_without_room(layout: Layout, least_tokens: int, engine: str, what: str) -> None:
    """Raise TooFullError where a group's cache of that many tokens has no room on its GPUs.

    what: then happens.
    """
    tokens = max(1, layout.capacity.kv_tokens)
    stages = layout.capacity.stages
    needed = [stage.kv_bytes * least_tokens / tokens for stage in stages]
    refuse_where_too_full(stages, needed, engine, layout.role, what)


def hand_over_notes(layout: Layout) -> list[str]:
    """Say where prompts that wait for their transfer have no room beside those in progress."""
    capacity = layout.capacity
    if layout.role != "prefill" or not capacity.kv_bytes:
        return []
    spare = max(0, _room_tokens(layout) - capacity.kv_tokens)
    prompts = spare * capacity.kept_sequences // max(1, capacity.kv_tokens)
    if prompts >= capacity.kept_sequences:
        return []
    return [
        (
            "a prefill server keeps the cache of a prompt until its decode server has taken it; "
            f"beside the {capacity.kept_sequences} prompts in progress the plan's GPUs have room "
            f"for {prompts}, so that prefill waits for transfers, which the plan does not count"
        )
    ]


def _room_tokens(layout: Layout) -> int:
    """Return the tokens of a group's cache that has all memory which the plan leaves free."""
    capacity = layout.capacity
    if not capacity.kv_bytes:
        return capacity.kv_tokens
    spare = Fraction(int(capacity.spare_bytes), capacity.kv_bytes)
    return int(capacity.kv_tokens * (1 + spare))
