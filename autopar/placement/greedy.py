"""The rule of EPLB in our words: its plan is one start, so that ours is never worse.

deepseek-ai/EPLB (MIT), eplb.py: each further replica to the expert with most load per replica;
then replicas, heaviest first, to the GPU with least load that has a free slot. Two replicas of one
expert may meet on one GPU. Here all layers take a step at once.
"""

import numpy as np

from autopar.placement.machine import FloatArray, IntArray, Machine
from autopar.placement.replicas import water_filled


def greedy_rule(loads: FloatArray, machine: Machine) -> IntArray:
    """Return EPLB's placement without groups, shape (layers, slots).

    loads: shape (layers, experts). Equal weights are taken in the order of experts, where EPLB
    leaves the order to its sort.
    """
    num_layers = len(loads)
    num_gpus, per_gpu = machine.num_gpus, machine.slots_per_gpu
    counts = water_filled(loads, machine.num_slots, most=machine.num_slots)
    share = loads / counts
    order = np.argsort(-share, axis=1, kind="stable")
    ordered_counts = np.take_along_axis(counts, order, axis=1)
    experts = np.repeat(order.ravel(), ordered_counts.ravel()).reshape(num_layers, -1)
    layer = np.arange(num_layers)
    work = np.zeros((num_layers, num_gpus))
    used = np.zeros((num_layers, num_gpus), dtype=np.int64)
    slots = np.full((num_layers, machine.num_slots), -1, dtype=np.int64)
    for expert in experts.T:
        gpu = work.argmin(axis=1)
        slots[layer, gpu * per_gpu + used[layer, gpu]] = expert
        used[layer, gpu] += 1
        work[layer, gpu] += share[layer, expert]
        full = used[layer, gpu] == per_gpu
        work[layer[full], gpu[full]] = np.inf
    return slots
