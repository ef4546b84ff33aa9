"""GPUs, nodes, speeds, and the loads that follow from slots."""

import numpy as np
import pytest

from autopar.errors import SpecError
from autopar.placement.machine import Machine, Rules, gpu_loads, replica_counts


def test_loads_are_split_evenly_over_replicas_and_divided_by_speed():
    """Expert 0 has 12 in three replicas of 4, expert 1 has 6, expert 2 has 2.

    GPUs hold 0+1 = 10, 0+2 = 6, 0+... : (0,1) 10, (0,2) 6, (0,1) with 6/2 = 3 each: 7, 6, 7. The
    speeds 1, 1, 2 over their mean 4/3 are 0.75, 0.75, 1.5.
    """
    slots = np.array([[0, 1, 0, 2, 0, 1]])
    loads = np.array([[12.0, 6.0, 2.0]])
    assert replica_counts(slots, 3).tolist() == [[3, 2, 1]]
    assert gpu_loads(loads, slots, Machine(3, 2)).tolist() == [[7.0, 6.0, 7.0]]
    uneven = Machine(3, 2, speeds=(1.0, 1.0, 2.0))
    assert gpu_loads(loads, slots, uneven)[0].tolist() == pytest.approx([7 / 0.75, 8.0, 7 / 1.5])


def test_layers_are_counted_apart():
    slots = np.array([[0, 0, 1], [1, 1, 2]])
    assert replica_counts(slots, 3).tolist() == [[2, 1, 0], [0, 2, 1]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, 2), "expected at least 1 of each"),
        ((2, 0), "expected at least 1 of each"),
        ((4, 2, 0), "expected at least 1 of each"),
        ((4, 2, 3), "4 GPUs on 3 nodes: expected as many GPUs on each node"),
        ((4, 2, 1, (1.0, 2.0)), "found 2 speeds for 4 GPUs; expected one each"),
        ((2, 2, 1, (1.0, 0.0)), "expected numbers above zero"),
        ((2, 2, 1, (1.0, float("inf"))), "expected numbers above zero"),
        ((2, 2, 1, (1.0, float("nan"))), "expected numbers above zero"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(arguments, said):
    with pytest.raises(SpecError, match=said):
        Machine(*arguments)


@pytest.mark.parametrize(
    ("rules", "most"),
    [
        (Rules(), 6),
        (Rules(distinct_nodes=True), 3),
        (Rules(num_groups=3), 2),
        (Rules(distinct_nodes=True, num_groups=3), 1),
        (Rules(forbidden_pairs=((0, 1),)), 6),
    ],
)
def test_the_rules_say_how_many_replicas_an_expert_may_have(rules, most):
    assert rules.most_replicas(Machine(6, 2, num_nodes=3)) == most
