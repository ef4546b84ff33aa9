"""So few experts and GPUs that every placement can be looked at."""

from functools import lru_cache
from itertools import combinations, combinations_with_replacement
from math import comb

import numpy as np

from autopar.placement.machine import IntArray, LayerTask, Machine

_MOST_PLACEMENTS = 600_000


def can_try_all(task: LayerTask) -> bool:
    """Whether `best_of_all` is quick: few sets of experts per GPU, GPUs alike, no rule."""
    machine = task.machine
    sets = comb(len(task.load), machine.slots_per_gpu)
    return (
        machine.speeds is None
        and task.rules.are_none
        and task.max_moves is None
        and comb(sets + machine.num_gpus - 1, machine.num_gpus) <= _MOST_PLACEMENTS
    )


def best_of_all(task: LayerTask) -> IntArray:
    """Return the placement with the least fullest GPU, shape (slots,)."""
    contents, placements, counts = _all(len(task.load), task.machine)
    share = task.load / counts
    fullest = np.zeros(len(placements))
    for gpu in range(task.machine.num_gpus):
        held = contents[placements[:, gpu]]
        fullest = np.maximum(fullest, np.take_along_axis(share, held, axis=1).sum(axis=1))
    return np.asarray(contents[placements[int(fullest.argmin())]].ravel())


@lru_cache(maxsize=4)
def _all(num_experts: int, machine: Machine) -> tuple[IntArray, IntArray, IntArray]:
    """Return what a GPU may hold, which placements those make, and the counts of each.

    Shapes (sets, slots per GPU), (placements, GPUs), (placements, experts). GPUs are alike, so a
    placement is a multiset; those that lose an expert are left out.
    """
    contents = np.array(list(combinations(range(num_experts), machine.slots_per_gpu)))
    placements = np.array(
        list(combinations_with_replacement(range(len(contents)), machine.num_gpus))
    )
    holds = np.zeros((len(contents), num_experts), dtype=np.int64)
    np.put_along_axis(holds, contents, 1, axis=1)
    counts = np.zeros((len(placements), num_experts), dtype=np.int64)
    for gpu in range(machine.num_gpus):
        counts += holds[placements[:, gpu]]
    complete = (counts > 0).all(axis=1)
    return contents, placements[complete], counts[complete]
