"""GPUs are renamed so that fewest replicas move."""

from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.placement.machine import Machine
from autopar.placement.renamed import renamed
from autopar.placement.replan import num_moves


def fewest(slots, current, machine):
    """By every order of the GPUs that leaves each on its node and among those of its speed."""
    new, found = slots.reshape(machine.num_gpus, -1), []
    for order in permutations(range(machine.num_gpus)):
        at = np.array(order)
        same = (machine.node_of[at] == machine.node_of) & (machine.speed[at] == machine.speed)
        if same.all():
            found.append(num_moves(new[at].ravel(), current, machine.num_gpus))
    return min(found)


def test_a_shuffled_placement_moves_nothing():
    machine = Machine(4, 2)
    now = np.array([0, 1, 2, 3, 4, 5, 6, 7])
    assert num_moves(renamed(now[[6, 7, 0, 1, 4, 5, 2, 3]], now, machine), now, 4) == 0


def test_nodes_keep_what_they_hold():
    machine = Machine(4, 1, num_nodes=2)
    now = np.array([0, 1, 2, 3])
    assert renamed(np.array([2, 3, 1, 0]), now, machine).tolist() == [2, 3, 1, 0]
    assert renamed(np.array([1, 0, 3, 2]), now, machine).tolist() == [0, 1, 2, 3]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_order_of_the_gpus_moves_fewer(data):
    num_gpus, per_gpu = data.draw(st.sampled_from([(2, 2), (3, 2), (4, 1), (4, 3)]))
    nodes = data.draw(st.sampled_from([n for n in (1, 2) if num_gpus % n == 0]))
    speeds = data.draw(st.sampled_from([None, (1.0,) * (num_gpus - 1) + (2.0,)]))
    machine = Machine(num_gpus, per_gpu, nodes, speeds)
    rows = st.permutations(range(4)).map(lambda order: sorted(order[:per_gpu]))
    slots, current = (
        np.array(data.draw(st.lists(rows, min_size=num_gpus, max_size=num_gpus))).ravel()
        for _ in range(2)
    )
    found = renamed(slots, current, machine)
    board, new = found.reshape(num_gpus, -1), slots.reshape(num_gpus, -1)
    assert sorted(map(tuple, board.tolist())) == sorted(map(tuple, new.tolist()))
    assert num_moves(found, current, num_gpus) == fewest(slots, current, machine)
