"""Groups of experts on nodes first, then each node by itself: node-limited routing."""

import numpy as np

from autopar.errors import InfeasibleError, SolveLimitError
from autopar.placement.bounds import quick_bounds
from autopar.placement.goals import good_enough
from autopar.placement.improve import search
from autopar.placement.lawful import found_by_cp_sat, lawful_starts
from autopar.placement.machine import (
    NO_RULES,
    FloatArray,
    IntArray,
    LayerTask,
    Machine,
    Rules,
    gpu_loads,
)
from autopar.placement.starts import starts


def grouped(task: LayerTask, tolerance: float, rounds: int, seed: int) -> IntArray:
    """Return a placement in which each group of consecutive experts lies on one node.

    Each group is an item and each node a GPU of the first problem; each node's experts on its GPUs
    are the second, with replicas inside the node. The most even nodes need not be the best: the
    greedy packing of groups, which EPLB takes, is tried too. Where the rules leave a node none,
    CP-SAT looks for groups that they do.
    Raises InfeasibleError if there are provably none.
    """
    found = []
    for nodes in _groups_on_nodes(task, tolerance, rounds, seed):
        try:
            found.append(_on_gpus(task, nodes, tolerance, rounds, seed))
        except (InfeasibleError, SolveLimitError):
            continue
    if not found:
        return found_by_cp_sat(task)
    tops = gpu_loads(np.tile(task.load, (len(found), 1)), np.array(found), task.machine).max(axis=1)
    return found[int(tops.argmin())]


def _groups_on_nodes(
    task: LayerTask, tolerance: float, rounds: int, seed: int
) -> list[tuple[int, ...]]:
    """Return ways to deal groups to nodes, the groups of one node after those of another."""
    machine, num_groups = task.machine, task.rules.num_groups
    of_groups = task.load.reshape(num_groups, -1).sum(axis=1)
    by_node = Machine(
        machine.num_nodes,
        num_groups // machine.num_nodes,
        speeds=tuple(machine.speed.reshape(machine.num_nodes, -1).mean(axis=1)),
    )
    dealt = [_placed(of_groups, by_node, NO_RULES, tolerance, rounds, seed)]
    dealt += [start[0] for start in starts(of_groups[None], by_node)]
    return list(dict.fromkeys(tuple(nodes.tolist()) for nodes in dealt))


def _on_gpus(
    task: LayerTask, nodes: tuple[int, ...], tolerance: float, rounds: int, seed: int
) -> IntArray:
    machine, rules = task.machine, task.rules
    size = len(task.load) // rules.num_groups
    slots = []
    for node, groups in enumerate(np.array(nodes).reshape(machine.num_nodes, -1)):
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
    loads = load[None]
    goals = good_enough(loads, quick_bounds(loads, machine, rules), machine, rules, tolerance)
    start = lawful_starts(loads, machine, rules)[0][0]
    return search(LayerTask(load, machine, rules), start, float(goals[0]), rounds, seed)
