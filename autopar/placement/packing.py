"""A first placement: heaviest replica first, to the GPU that has least to do."""

import numpy as np

from autopar.placement.machine import FloatArray, IntArray, Machine


def packed(loads: FloatArray, counts: IntArray, machine: Machine) -> IntArray:
    """Return slots for all replicas, no two of an expert on one GPU; shape (layers, slots).

    loads, counts: shape (layers, experts); an expert has at most as many replicas as there are
    GPUs. Every layer takes its step at once, so that the work per layer is numpy's.
    """
    num_layers = len(loads)
    num_gpus, per_gpu = machine.num_gpus, machine.slots_per_gpu
    share = loads / counts
    order = np.argsort(-share, axis=1, kind="stable")
    layer = np.arange(num_layers)
    # The replicas in order, those of one expert one after another: shape (layers, slots).
    ordered_counts = np.take_along_axis(counts, order, axis=1)
    experts = np.repeat(order.ravel(), ordered_counts.ravel()).reshape(num_layers, -1)
    speed = machine.speed
    work = np.zeros((num_layers, num_gpus))
    used = np.zeros((num_layers, num_gpus), dtype=np.int64)
    holds = np.zeros((num_layers, num_gpus), dtype=bool)  # the expert whose turn it is
    slots = np.full((num_layers, num_gpus * per_gpu), -1, dtype=np.int64)
    before = np.full(num_layers, -1)
    for expert in experts.T:
        holds[expert != before] = False
        load = share[layer, expert]
        then = (work + load[:, None]) / speed
        then[(used == per_gpu) | holds] = np.inf
        gpu = then.argmin(axis=1)
        stuck = np.isinf(then[layer, gpu])
        for late in np.flatnonzero(stuck):
            gpu[late] = _make_room(slots[late], used[late], work[late], share[late], expert[late])
        slots[layer, gpu * per_gpu + used[layer, gpu]] = expert
        work[layer, gpu] += load
        used[layer, gpu] += 1
        holds[layer, gpu] = True
        before = expert
    return slots


def paired(loads: FloatArray, counts: IntArray) -> IntArray:
    """Return two replicas per GPU, the heaviest beside the lightest, and so on inwards.

    With the counts given no pairs have a less full fullest one (exchange argument). An expert may
    come beside itself. Shapes as in `packed`.
    """
    num_layers = len(loads)
    order = np.argsort(-loads / counts, axis=1, kind="stable")
    ordered_counts = np.take_along_axis(counts, order, axis=1)
    experts = np.repeat(order.ravel(), ordered_counts.ravel()).reshape(num_layers, -1)
    half = experts.shape[1] // 2
    return np.stack([experts[:, :half], experts[:, ::-1][:, :half]], axis=2).reshape(num_layers, -1)


def _make_room(
    slots: IntArray, used: IntArray, work: FloatArray, share: FloatArray, expert: int
) -> int:
    """Free a slot on a GPU without the expert, where all GPUs with free slots have it.

    Moves a replica from a full GPU that lacks the expert to a free slot, and returns the full GPU.
    """
    per_gpu = len(slots) // len(used)
    board = slots.reshape(-1, per_gpu)
    best = (np.inf, -1, -1, -1)
    for free in np.flatnonzero(used < per_gpu).tolist():
        for full in np.flatnonzero((board != expert).all(axis=1)).tolist():
            for place in range(per_gpu):
                other = board[full, place]
                if (board[free] == other).any():
                    continue
                now = max(work[free] + share[other], work[full] - share[other] + share[expert])
                best = min(best, (float(now), free, full, place))
    _, free, full, place = best
    moved = board[full, place]
    board[free, used[free]] = moved
    used[free] += 1
    work[free] += share[moved]
    work[full] -= share[moved]
    used[full] -= 1
    board[full, place] = board[full, used[full]]
    board[full, used[full]] = -1
    return full
