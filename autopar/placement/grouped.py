"""Groups of experts on nodes first, then each node by itself: node-limited routing."""

import numpy as np

from autopar.placement.bounds import quick_bounds
from autopar.placement.improve import search
from autopar.placement.lawful import lawful_starts
from autopar.placement.machine import FloatArray, IntArray, LayerTask, Machine, Rules


def grouped(task: LayerTask, tolerance: float, rounds: int, seed: int) -> IntArray:
    """Return a placement in which each group of consecutive experts lies on one node.

    Each group is an item and each node a GPU of the first problem; each node's experts on its GPUs
    are the second, with replicas inside the node.
    """
    machine, rules = task.machine, task.rules
    size = len(task.load) // rules.num_groups
    of_groups = task.load.reshape(rules.num_groups, size).sum(axis=1)
    by_node = Machine(
        machine.num_nodes,
        rules.num_groups // machine.num_nodes,
        speeds=tuple(machine.speed.reshape(machine.num_nodes, -1).mean(axis=1)),
    )
    nodes = _placed(of_groups, by_node, Rules(), tolerance, rounds, seed)
    slots = []
    for node, groups in enumerate(nodes.reshape(machine.num_nodes, -1)):
        experts = np.sort((groups[:, None] * size + np.arange(size)).ravel())
        inside = Machine(
            machine.gpus_per_node,
            machine.slots_per_gpu,
            speeds=tuple(machine.speed.reshape(machine.num_nodes, -1)[node]),
        )
        place = {int(expert): index for index, expert in enumerate(experts)}
        pairs = tuple(
            (place[one], place[other])
            for one, other in rules.forbidden_pairs
            if one in place and other in place
        )
        own = Rules(forbidden_pairs=pairs)
        slots.append(experts[_placed(task.load[experts], inside, own, tolerance, rounds, seed)])
    return np.concatenate(slots)


def _placed(
    load: FloatArray, machine: Machine, rules: Rules, tolerance: float, rounds: int, seed: int
) -> IntArray:
    task = LayerTask(load, machine, rules)
    goal = float(quick_bounds(load[None], machine, rules)[0]) * (1 + tolerance)
    return search(task, lawful_starts(load[None], machine, rules)[0][0], goal, rounds, seed)
