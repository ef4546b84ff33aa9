"""When a placement is good enough for the search to stop."""

import numpy as np

from autopar.placement.greedy import greedy_rule
from autopar.placement.machine import FloatArray, Machine, Rules, gpu_loads


def good_enough(
    loads: FloatArray, bounds: FloatArray, machine: Machine, rules: Rules, tolerance: float
) -> FloatArray:
    """Return a load of the fullest GPU: near the bound, and no worse than the rule of EPLB.

    loads: shape (layers, experts). bounds and the answer: shape (layers,).
    """
    goals = bounds * (1 + tolerance)
    if not rules.are_none:
        return goals
    rule = gpu_loads(loads, greedy_rule(loads, machine), machine).max(axis=1)
    return np.asarray(np.minimum(goals, np.maximum(rule, bounds)))
