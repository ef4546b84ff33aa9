"""Two slots per GPU and few experts: all replica counts, each with its best pairing."""

from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np

from autopar.placement.machine import FloatArray, IntArray, LayerTask

_MOST_COUNTS = 100_000  # ways to share out further replicas that are all looked at
_MOST_PAIRS = 50_000  # pairs tried where experts would meet themselves


def can_fold(task: LayerTask) -> bool:
    """Whether `folded` is quick and exact: two slots, GPUs alike, no rule of the user's."""
    machine, further = task.machine, task.machine.num_slots - len(task.load)
    return (
        machine.slots_per_gpu == 2
        and machine.speeds is None
        and task.rules.are_none
        and task.max_moves is None
        and comb(further + len(task.load) - 1, further) <= _MOST_COUNTS
    )


def folded(task: LayerTask) -> tuple[IntArray | None, float]:
    """Return the best placement of all, and what none beats; they agree unless pairs run out.

    With counts given, the heaviest replica beside the lightest, the second beside the second
    lightest and so on has the least fullest pair of all pairings (exchange argument). Where that
    puts an expert beside itself the pairs are searched one by one.
    """
    num_slots = task.machine.num_slots
    counts = _all_counts(len(task.load), num_slots, task.machine.num_gpus)
    share = task.load / counts
    order = np.argsort(-share, axis=1, kind="stable")
    sorted_counts = np.take_along_axis(counts, order, axis=1)
    experts = np.repeat(order.ravel(), sorted_counts.ravel()).reshape(len(counts), num_slots)
    sizes = np.take_along_axis(share, experts, axis=1)
    fullest = (sizes + sizes[:, ::-1]).max(axis=1)
    twins = (experts == experts[:, ::-1]).any(axis=1)
    best, least = None, np.inf
    budget = [_MOST_PAIRS]
    for row in np.argsort(fullest, kind="stable").tolist():
        if fullest[row] >= least:
            return best, least
        if not twins[row]:
            half = num_slots // 2
            pairs = np.stack([experts[row, :half], experts[row, ::-1][:half]], axis=1)
            return pairs.ravel(), float(fullest[row])
        found = _paired(experts[row].tolist(), sizes[row].tolist(), least, budget)
        if found is not None:
            best = np.array(found, dtype=np.int64).ravel()
            least = float(_pair_loads(best, share[row]).max())
        if budget[0] <= 0:
            return best, float(fullest[row])
    return best, least


def _pair_loads(slots: IntArray, share: FloatArray) -> FloatArray:
    return np.asarray(share[slots].reshape(-1, 2).sum(axis=1))


def _paired(
    experts: list[int], sizes: list[float], limit: float, budget: list[int]
) -> list[tuple[int, int]] | None:
    """Return the pairs without twins whose fullest is least, if that is below `limit`.

    experts, sizes: heaviest first. The heaviest that is left takes each other expert in turn, the
    lightest first; budget: pairs that may still be tried, counted down.
    """
    if not experts:
        return []
    best: list[tuple[int, int]] | None = None
    seen = set()
    for at in range(len(experts) - 1, 0, -1):
        together = sizes[0] + sizes[at]
        if together >= limit or budget[0] <= 0:
            break
        if experts[at] == experts[0] or experts[at] in seen:
            continue
        seen.add(experts[at])
        budget[0] -= 1
        rest = [i for i in range(1, len(experts)) if i != at]
        found = _paired([experts[i] for i in rest], [sizes[i] for i in rest], limit, budget)
        if found is not None:
            best = [(experts[0], experts[at]), *found]
            share = dict(zip(experts, sizes, strict=True))
            limit = max(share[one] + share[other] for one, other in best)
    return best


@lru_cache(maxsize=4)
def _all_counts(num_experts: int, num_slots: int, most: int) -> IntArray:
    """Return every way to give each expert 1 to `most` slots, shape (ways, experts)."""
    further = num_slots - num_experts
    bars = np.array(
        list(combinations(range(further + num_experts - 1), num_experts - 1)), dtype=np.int64
    ).reshape(-1, num_experts - 1)
    first, last = np.full((len(bars), 1), -1), np.full((len(bars), 1), further + num_experts - 1)
    counts = np.diff(np.concatenate([first, bars, last], axis=1), axis=1)
    return np.asarray(counts[(counts <= most).all(axis=1)])
