"""Node-limited routing: whole groups on nodes, as many on each, and each node placed by itself."""

import numpy as np
import pytest

from autopar.errors import InfeasibleError
from autopar.placement.grouped import grouped
from autopar.placement.machine import LayerTask, Machine, Rules
from autopar.placement.options import Options
from autopar.placement.placing import placed
from autopar.placement.synthetic import made_up


@pytest.mark.parametrize("groups", [2, 4, 8])
@pytest.mark.parametrize("speeds", [None, (1.0, 1.0, 2.0, 0.5, 1.0, 1.0, 1.0, 1.0)])
@pytest.mark.parametrize("pairs", [(), ((0, 1), (2, 9))])
def test_each_group_lies_on_one_node_and_as_many_on_every_node(groups, speeds, pairs, keeps):
    machine = Machine(8, 3, num_nodes=2, speeds=speeds)
    rules = Rules(forbidden_pairs=pairs, num_groups=groups)
    for load in made_up("heavy", 2, 16, 4):
        task = LayerTask(load, machine, rules)
        slots = grouped(task, 1e-3, 5, 0)
        assert keeps(slots, task)


def test_groups_are_shared_out_by_their_load():
    """Groups of 9, 8, 2, 1 on two nodes: 9 + 1 and 8 + 2.

    Inside, 5 + 0 and 4 + 1, and 5 + 1 and 3 + 1: the fullest GPU has 6.
    """
    load = np.array([5.0, 4.0, 5.0, 3.0, 1.0, 1.0, 1.0, 0.0])
    rules = Rules(num_groups=4)
    (layer,) = placed(load[None], Machine(4, 2, num_nodes=2), rules)
    on_nodes = [set((held // 2).tolist()) for held in layer.slots.reshape(2, -1)]
    assert sorted(map(sorted, on_nodes)) == [[0, 3], [1, 2]]
    assert layer.max_load == 6.0


def test_a_pair_that_only_other_groups_on_the_node_keep_apart_is_no_infeasibility(optimum, keeps):
    """One GPU per node: 10 + 1 and 5 + 5 balance best, but 10 and 1 may not meet; 15 and 6 do."""
    rules = Rules(forbidden_pairs=((0, 3),), num_groups=4)
    task = LayerTask(np.array([10.0, 5.0, 5.0, 1.0]), Machine(2, 2, num_nodes=2), rules)
    (layer,) = placed(task.load[None], task.machine, rules, Options(tolerance=0.0))
    assert keeps(layer.slots, task)
    assert layer.max_load == pytest.approx(optimum(task)) == 15.0


def test_groups_that_no_placement_keeps_together_are_infeasible():
    """The two experts of a group must share the one GPU of a node, which a pair forbids."""
    rules = Rules(forbidden_pairs=((0, 1),), num_groups=2)
    with pytest.raises(InfeasibleError) as caught:
        placed(np.ones((1, 4)), Machine(2, 2, num_nodes=2), rules)
    assert set(caught.value.conflict) >= {"forbidden_pairs", "groups_on_nodes"}
