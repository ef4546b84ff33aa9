"""Placements without further rules, for the local search to start from."""

import numpy as np

from autopar.placement.greedy import greedy_rule
from autopar.placement.machine import BoolArray, FloatArray, IntArray, Machine, gpu_loads
from autopar.placement.packing import packed, paired
from autopar.placement.replicas import lean, water_filled


def starts(loads: FloatArray, machine: Machine, top: FloatArray | None = None) -> list[IntArray]:
    """Return placements of all layers, the better one of each layer first.

    loads: shape (layers, experts). top: a load that the fullest GPU is to have, shape (layers,);
    with it there is a third one, in which heavy experts have few replicas. Each has shape (layers,
    slots), no expert twice on a GPU: our packing, and EPLB's rule where it has no twins.
    """
    counts = water_filled(loads, machine.num_slots, machine.num_gpus)
    first, second = packed(loads, counts, machine), greedy_rule(loads, machine)
    if machine.slots_per_gpu == 2 and np.ptp(machine.speed) == 0:
        second = paired(loads, counts)  # of the same counts, and never worse than that rule
    twins = has_twins(second, machine)
    second[twins] = first[twins]
    fullest = [gpu_loads(loads, slots, machine).max(axis=1) for slots in (first, second)]
    ahead = (fullest[1] < fullest[0])[:, None]
    found = [np.where(ahead, second, first), np.where(ahead, first, second)]
    if top is not None:
        few = lean(loads, machine.num_slots, machine.num_gpus, top * machine.speed.max())
        found.append(packed(loads, few, machine))
    return found


def has_twins(slots: IntArray, machine: Machine) -> BoolArray:
    """Return in which layers a GPU holds an expert twice; shape (layers,)."""
    board = np.sort(slots.reshape(len(slots), machine.num_gpus, -1), axis=2)
    return np.asarray((np.diff(board, axis=2) == 0).any(axis=(1, 2)))
