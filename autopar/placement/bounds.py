"""What no placement can beat: lower bounds on the load of the fullest GPU.

Each holds for every choice of replica counts, and with every rule, since rules only take away.
"""

import numpy as np

from autopar.placement.machine import FloatArray, Machine, Rules
from autopar.placement.replicas import least_share, water_filled


def quick_bounds(loads: FloatArray, machine: Machine, rules: Rules) -> FloatArray:
    """Return the largest of the bounds that cost nothing, over the speed of GPUs; shape (layers,).

    loads: shape (layers, experts).
    """
    found = np.maximum(_mean(loads, machine), _largest_share(loads, machine, rules))
    if machine.num_slots == loads.shape[1]:
        found = np.maximum(found, _without_replicas(loads, machine))
    else:
        found = np.maximum(found, _with_company(loads, machine, rules))
    return np.asarray(found)


def _mean(loads: FloatArray, machine: Machine) -> FloatArray:
    """All load over all speed."""
    return np.asarray(loads.sum(axis=1) / machine.speed.sum())


def _largest_share(loads: FloatArray, machine: Machine, rules: Rules) -> FloatArray:
    """The largest load of one replica, with the counts that make it least, on the fastest GPU."""
    counts = water_filled(loads, machine.num_slots, rules.most_replicas(machine))
    return np.asarray(least_share(loads, counts) / machine.speed.max())


def _without_replicas(loads: FloatArray, machine: Machine) -> FloatArray:
    """One slot per expert: of the j*G + 1 heaviest experts, some GPU holds j + 1.

    The lightest j + 1 of those, and as many of the lightest of all as fill the other slots, is the
    least that it can hold. For one kind of GPU, else on the fastest.
    """
    num_gpus, per_gpu = machine.num_gpus, machine.slots_per_gpu
    down = -np.sort(-loads, axis=1)
    up = np.concatenate([np.zeros((len(loads), 1)), np.cumsum(down[:, ::-1], axis=1)], axis=1)
    found = np.zeros(len(loads))
    for j in range(per_gpu):
        last = j * num_gpus
        together = down[:, last - j : last + 1].sum(axis=1) + up[:, per_gpu - j - 1]
        found = np.maximum(found, together)
    return np.asarray(found / machine.speed.max())


def _with_company(loads: FloatArray, machine: Machine, rules: Rules) -> FloatArray:
    """A GPU that holds a replica of the heaviest expert has other experts in its other slots.

    Its share is at least w / most, that of each other one at least w' / most, where most is the
    largest number of replicas that slots and rules allow an expert.
    """
    further = machine.num_slots - loads.shape[1]
    most = min(rules.most_replicas(machine), further + 1)
    least = np.sort(loads / most, axis=1)
    company = (
        np.cumsum(least, axis=1)[:, machine.slots_per_gpu - 2]
        if (machine.slots_per_gpu > 1)
        else np.zeros(len(loads))
    )
    return np.asarray((loads.max(axis=1) / most + company) / machine.speed.max())
