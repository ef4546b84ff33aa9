"""How many replicas each expert gets, and what that alone says about the fullest GPU."""

import numpy as np

from autopar.placement.machine import FloatArray, IntArray


def water_filled(loads: FloatArray, num_slots: int, most: int) -> IntArray:
    """Return replica counts whose largest load per replica is the least possible.

    loads: shape (layers, experts). most: replicas that one expert may have.
    Returns shape (layers, experts), each row of the sum `num_slots`.

    Each further slot goes to the expert with most load per replica. No choice does better: where
    the answer's largest share is t, an expert with c replicas had more than t on c - 1 of them, so
    any counts with a smaller largest share need more slots than there are.
    """
    num_layers, num_experts = loads.shape
    counts = np.ones((num_layers, num_experts), dtype=np.int64)
    share = loads.astype(np.float64).copy()
    layer = np.arange(num_layers)
    for _ in range(num_slots - num_experts):
        if most == 1:
            break
        expert = share.argmax(axis=1)
        counts[layer, expert] += 1
        now = counts[layer, expert]
        share[layer, expert] = np.where(now < most, loads[layer, expert] / now, -1.0)
    return counts


def lean(loads: FloatArray, num_slots: int, most: int, top: FloatArray) -> IntArray:
    """Return the fewest replicas with shares of at most `top`, and the rest for light experts.

    loads: shape (layers, experts). top: shape (layers,); where it takes more slots than there are,
    water-filled counts. Heavy experts in few large shares leave whole GPUs to others, where water
    filling would put parts of two of them side by side.
    Returns shape (layers, experts).
    """
    counts = np.clip(np.ceil(loads / top[:, None] * (1 - 1e-12)), 1, most).astype(np.int64)
    full = counts.sum(axis=1) > num_slots
    counts[full] = water_filled(loads[full], num_slots, most)
    for row, load in zip(counts, loads, strict=True):
        for expert in np.argsort(load, kind="stable"):
            more = min(most - row[expert], num_slots - row.sum())
            if more <= 0:
                break
            row[expert] += min(more, 1)
        while row.sum() < num_slots:  # every expert has had one more: evenly from there
            row[np.where(row < most, load / row, -1.0).argmax()] += 1
    return counts


def least_share(loads: FloatArray, counts: IntArray) -> FloatArray:
    """Return the largest load of a replica, shape (layers,)."""
    return np.asarray((loads / counts).max(axis=1))
