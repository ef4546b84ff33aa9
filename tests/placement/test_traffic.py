"""Distinct nodes per token, counted by hand and token by token; and what is traded for fewer."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.placement.machine import LayerTask, Machine, Rules, gpu_loads
from autopar.placement.options import Options
from autopar.placement.placing import placed
from autopar.placement.synthetic import clustered_routing
from autopar.placement.traffic import coactivation, gathered, nodes_per_token


def test_nodes_per_token_by_hand():
    """Two nodes of two GPUs of one slot: (0, 1) and (0, 2). Expert 0 is on either by halves.

    Token (0, 1): node 0 for 1, and 0 half the time elsewhere: 1.5. Token (1, 2): 2. Token (0, 2):
    1.5. The mean is 5/3.
    """
    routing = np.array([[0, 1], [1, 2], [0, 2]])
    machine = Machine(4, 1, num_nodes=2)
    assert nodes_per_token(np.array([0, 1, 0, 2]), routing, machine) == pytest.approx(5 / 3)
    assert nodes_per_token(np.array([0, 1, 0, 2]), routing, Machine(4, 1)) == 1.0


@given(st.data())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_nodes_per_token_is_the_mean_over_every_choice_of_replicas(data):
    machine = Machine(4, 2, num_nodes=data.draw(st.sampled_from([1, 2, 4])))
    slots = np.array(data.draw(st.permutations([0, 1, 2, 3, 4, 0, 1, 0])))
    token = st.permutations(range(5)).map(lambda order: order[:3])
    routing = np.array(data.draw(st.lists(token, min_size=1, max_size=4)))
    nodes = [slot // (8 // machine.num_nodes) for slot in range(8)]
    means = []
    for experts in routing.tolist():
        places = [[nodes[s] for s in range(8) if slots[s] == expert] for expert in experts]
        ways = [len(set(way)) for way in product(*places)]
        means.append(sum(ways) / len(ways))
    found = nodes_per_token(slots, routing, machine)
    assert found == pytest.approx(sum(means) / len(means))


def test_coactivation_counts_tokens_that_go_to_both():
    together = coactivation(np.array([[0, 1], [1, 0], [1, 2]]), 4)
    assert together.tolist() == [[0, 2, 0, 0], [2, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("tolerance", [0.02, 0.2])
@pytest.mark.parametrize("redundant", [0, 8])
def test_gathering_keeps_the_load_limit_and_the_rules_and_saves_nodes(
    distinct, tolerance, redundant, keeps
):
    routing = clustered_routing(2000, 32, 4, 4, seed=2)
    load = np.bincount(routing.ravel(), minlength=32).astype(float)
    machine, rules = Machine(8, 4 + redundant // 8, num_nodes=4), Rules(distinct_nodes=distinct)
    options = Options(effort="quick", rounds=5)
    (layer,) = placed(load[None], machine, rules, options)
    task = LayerTask(load, machine, rules)
    most = layer.max_load * (1 + tolerance)
    slots = gathered(task, layer.slots, coactivation(routing, 32), most)
    assert keeps(slots, task)
    assert (np.bincount(slots) == np.bincount(layer.slots)).all()
    assert gpu_loads(load[None], slots[None], machine).max() <= most * (1 + 1e-9)
    before, after = (nodes_per_token(s, routing, machine) for s in (layer.slots, slots))
    assert after < before or (slots.tolist(), tolerance) == (layer.slots.tolist(), 0.02)


def test_where_nothing_may_change_the_balanced_placement_comes_back():
    """Pairs 3 + 1 on each GPU and node are all there is within a limit of 4."""
    load, machine = np.array([3.0, 1.0, 3.0, 1.0]), Machine(2, 2, num_nodes=2)
    together = coactivation(np.array([[0, 2], [0, 2], [1, 3]]), 4)
    slots = np.array([0, 1, 2, 3])
    assert gathered(LayerTask(load, machine), slots, together, 4.0).tolist() == [0, 1, 2, 3]
    freed = gathered(LayerTask(load, machine), slots, together, 6.0)
    assert sorted(map(sorted, freed.reshape(2, 2).tolist())) == [[0, 2], [1, 3]]


def test_one_node_and_unlike_gpus_are_left_as_they_are():
    load, slots = np.array([3.0, 1.0, 3.0, 1.0]), np.array([0, 1, 2, 3])
    together = coactivation(np.array([[0, 2]]), 4)
    for machine in (Machine(2, 2), Machine(2, 2, num_nodes=2, speeds=(1.0, 2.0))):
        assert gathered(LayerTask(load, machine), slots, together, 99.0) is slots
