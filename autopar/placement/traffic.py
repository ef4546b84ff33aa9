"""Distinct nodes per token: what a dispatch that crosses the fabric once per node pays.

A token that goes to several experts is sent to each node that holds one of them. With replicas it
goes to each replica with the same probability, as the loads are split.
"""

import numpy as np

from autopar.placement.board import Board
from autopar.placement.improve import descend
from autopar.placement.machine import BoolArray, FloatArray, IntArray, LayerTask, Machine, Rules
from autopar.placement.packing import packed

_SHARES = (1.0, 0.5, 0.25)  # of the tolerance that nodes take up, so that their GPUs have the rest
_MOST_SWAPS = 4  # per expert: the search ends long before


def nodes_per_token(slots: IntArray, routing: IntArray, machine: Machine) -> float:
    """Return the mean number of nodes that a token of a layer is sent to.

    slots: the expert in each slot. routing: the experts of each token, shape (tokens, experts per
    token). The replicas of different experts are drawn independently of one another.
    """
    share = _share_of_nodes(slots, int(max(slots.max(), routing.max())) + 1, machine)
    missed = np.ones((len(routing), machine.num_nodes))
    for column in routing.T:
        missed *= 1.0 - share[column]
    return float((1.0 - missed).sum(axis=1).mean())


def coactivation(routing: IntArray, num_experts: int) -> FloatArray:
    """Return how many tokens go to both of two experts, shape (experts, experts), 0 on itself."""
    together = np.zeros((num_experts, num_experts))
    for first in routing.T:
        for second in routing.T:
            np.add.at(together, (first, second), 1.0)
    np.fill_diagonal(together, 0.0)
    return together


def gathered(task: LayerTask, slots: IntArray, together: FloatArray, most_load: float) -> IntArray:
    """Return a placement with experts that work together on the same node.

    slots: a balanced placement, which gives the replica counts. together: shape (experts, experts).
    most_load: that no GPU may exceed; the given placement comes back where nothing better keeps it.

    Two levels: replicas to nodes by swaps that put most co-activation inside nodes while no node
    has more than its GPUs may hold; then each node's replicas to its GPUs as in any placement.
    """
    machine = task.machine
    if machine.num_nodes == 1 or np.ptp(machine.speed) > 0:
        return slots
    counts = np.bincount(slots, minlength=len(task.load))
    share = task.load / counts
    mean = float(share[slots].sum()) / machine.num_nodes
    room = most_load * machine.gpus_per_node / mean - 1
    for part in _SHARES:
        nodes = _clustered(
            slots.reshape(machine.num_nodes, -1),
            share,
            together / np.outer(counts, counts),
            mean * (1 + room * part),
            _limit(task),
        )
        placed = _inside(nodes, share, machine, most_load)
        if placed is not None:
            return placed
    return slots


def _limit(task: LayerTask) -> int:
    """How many replicas of an expert a node may hold."""
    return 1 if task.rules.distinct_nodes else task.machine.gpus_per_node


def _clustered(
    nodes: IntArray, share: FloatArray, together: FloatArray, most: float, limit: int
) -> IntArray:
    """Swap replicas between nodes while that puts more co-activation inside nodes.

    nodes: the experts on each, shape (nodes, slots). together: per pair of replicas.
    """
    num_nodes, per_node = nodes.shape
    experts = nodes.ravel().copy()
    node = np.repeat(np.arange(num_nodes), per_node)
    size = share[experts]
    pair = together[experts][:, experts]
    work = np.bincount(node, weights=size, minlength=num_nodes)
    member = np.zeros((len(experts), num_nodes))
    member[np.arange(len(experts)), node] = 1.0
    near = pair @ member  # co-activation of a replica with each node
    for _ in range(_MOST_SWAPS * len(experts)):
        own = near[np.arange(len(experts)), node]
        to = near[:, node]  # of the row's replica with the column's node
        gain = to + to.T - own[:, None] - own[None] - 2 * pair
        change = size[None] - size[:, None]  # at the row's node
        then = work[node][:, None] + change
        gain[(then > most) | (most < then.T) | (node[:, None] == node[None])] = -np.inf
        crowded = _crowded(experts, node, num_nodes, limit)
        gain[crowded[:, node] | crowded[:, node].T] = -np.inf
        at = int(gain.argmax())
        if gain.flat[at] <= 1e-9 * max(1.0, float(own.sum())):
            break
        x, y = divmod(at, len(experts))
        work[node[x]] += size[y] - size[x]
        work[node[y]] += size[x] - size[y]
        near[:, node[x]] += pair[:, y] - pair[:, x]
        near[:, node[y]] += pair[:, x] - pair[:, y]
        node[x], node[y] = node[y], node[x]
    return np.array([experts[node == n] for n in range(num_nodes)])


def _crowded(experts: IntArray, node: IntArray, num_nodes: int, limit: int) -> BoolArray:
    """Whether a node has as many replicas of an expert as it may, shape (replicas, nodes)."""
    held = np.zeros((int(experts.max()) + 1, num_nodes), dtype=np.int64)
    np.add.at(held, (experts, node), 1)
    return np.asarray(held[experts] >= limit)


def _inside(
    nodes: IntArray, share: FloatArray, machine: Machine, most_load: float
) -> IntArray | None:
    """Place each node's replicas on its GPUs; None if one gets more than it may."""
    inside = Machine(machine.gpus_per_node, machine.slots_per_gpu)
    slots = []
    for held in nodes:
        experts, counts = np.unique(held, return_counts=True)
        here = share[experts] * counts
        first = packed(here[None], counts[None], inside)[0]
        board = Board(here, first, inside, Rules())
        descend(board, most_load, copies=False)
        if board.pace.max() > most_load * (1 + 1e-9):
            return None
        slots.append(experts[board.slots])
    return np.concatenate(slots)


def _share_of_nodes(slots: IntArray, num_experts: int, machine: Machine) -> FloatArray:
    """Return which part of an expert's replicas lies on each node, shape (experts, nodes)."""
    held = np.zeros((num_experts, machine.num_nodes))
    node = np.repeat(machine.node_of, machine.slots_per_gpu)
    np.add.at(held, (slots, node), 1.0)
    return np.asarray(held / np.maximum(held.sum(axis=1, keepdims=True), 1.0))
