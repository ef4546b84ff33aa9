"""Few moves: what counts as one, that no more are made, and what they are spent on."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autopar.errors import InfeasibleError
from autopar.placement.bounds import quick_bounds
from autopar.placement.machine import LayerTask, Machine, Rules
from autopar.placement.replan import (
    Step,
    _shared_out,
    kept_in_place,
    num_moves,
    replanned,
    without_twins,
)
from autopar.placement.synthetic import drifted, made_up


def quick(task):
    return float(quick_bounds(task.load[None], task.machine, task.rules)[0])


def test_a_move_is_an_expert_that_comes_to_a_gpu():
    """GPU 0 has 0, 1 and gets 2; GPU 1 has 2, 3 and gets 0 and 1; GPU 2 changes places alone."""
    now = np.array([0, 1, 2, 3, 4, 5])
    assert num_moves(np.array([2, 1, 0, 1, 5, 4]), now, 3) == 3
    assert num_moves(now, now, 3) == 0
    assert num_moves(np.array([1, 0, 3, 2, 5, 4]), now, 3) == 0
    assert num_moves(np.array([0, 1, 2, 3, 4, 5]), np.array([0, 0, 2, 3, 4, 5]), 3) == 1


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_what_stays_on_its_gpu_stays_in_its_slot(data):
    num_gpus, per_gpu, experts = 3, 3, 6
    row = st.permutations(range(experts)).map(lambda order: order[:per_gpu])
    now = np.array(data.draw(st.lists(row, min_size=num_gpus, max_size=num_gpus))).ravel()
    slots = np.array(data.draw(st.lists(row, min_size=num_gpus, max_size=num_gpus))).ravel()
    if data.draw(st.booleans()):
        now[1] = now[0]  # twins
    placed = kept_in_place(slots, now, num_gpus)
    for new, wanted, old in zip(*(a.reshape(num_gpus, -1) for a in (placed, slots, now)),
                                strict=True):  # fmt: skip
        assert sorted(new) == sorted(wanted)
        for expert in set(old) & set(wanted):
            assert old[list(new).index(expert)] == expert
    assert num_moves(placed, now, num_gpus) == num_moves(slots, now, num_gpus)


@given(st.data())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_moves_stay_within_the_limit_and_nothing_gets_worse(
    small_layers, boards, keeps, fullest_of, data
):
    task = data.draw(small_layers(ruled=True, speeds=data.draw(st.booleans())))
    assume(task.rules.num_groups == 1)
    lawful = list(boards(task))
    assume(lawful)
    layers = data.draw(st.lists(st.sampled_from(lawful), min_size=1, max_size=3))
    most = data.draw(st.integers(0, 6))
    tasks = [
        replace(task, current=np.array(now).ravel(), load=np.roll(task.load, i))
        for i, now in enumerate(layers)
    ]
    found = replanned(tasks, [quick(t) for t in tasks], most)
    num_gpus = task.machine.num_gpus
    moves = [num_moves(s, t.current, num_gpus) for s, t in zip(found, tasks, strict=True)]
    assert sum(moves) <= most
    for slots, one, now in zip(found, tasks, layers, strict=True):
        assert keeps(slots, replace(one, max_moves=most))
        after = fullest_of(slots.reshape(num_gpus, -1).tolist(), one)
        assert after <= fullest_of(now, one) * (1 + 1e-9)


def test_moves_are_worth_something_and_more_moves_more():
    loads = made_up("lognormal", 4, 16, 3)
    machine = Machine(8, 3)
    now = np.array([without_twins(LayerTask(load, machine, current=np.arange(24) % 16))
                    for load in loads])  # fmt: skip
    tasks = [
        LayerTask(load, machine, current=slots)
        for load, slots in zip(drifted(loads, 0.3, 1), now, strict=True)
    ]
    bounds = [quick(task) for task in tasks]
    sums = []
    for most in (0, 2, 8, 40):
        found = replanned(tasks, bounds, most)
        sums.append(
            sum(
                float((task.load / np.bincount(s))[s].reshape(8, 3).sum(axis=1).max())
                for task, s in zip(tasks, found, strict=True)
            )
        )
        assert sum(num_moves(s, n, 8) for s, n in zip(found, now, strict=True)) <= most
    assert sums == sorted(sums, reverse=True)
    assert len(set(sums)) == 4
    assert (np.array(replanned(tasks, bounds, 0)) == now).all()


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_moves_are_shared_out_as_every_way_to_do_it_would(data):
    step = st.tuples(st.integers(0, 4), st.integers(0, 30))
    layers = data.draw(st.lists(st.lists(step, min_size=1, max_size=4), min_size=1, max_size=4))
    none = np.array([0])
    steps = [[Step(moves, float(load), none) for moves, load in layer] for layer in layers]
    least = max(sum(layer[0].moves for layer in steps), *(s.moves for row in steps for s in row), 0)
    most = data.draw(st.integers(least, least + 6))

    def total(picks):
        chosen = [layer[i] for layer, i in zip(steps, picks, strict=True)]
        moves = sum(one.moves for one in chosen)
        return sum(one.max_load for one in chosen) if moves <= most else np.inf

    best = min(total(picks) for picks in product(*(range(len(layer)) for layer in steps)))
    assert total(_shared_out(steps, most)) == best


def test_twins_make_room_for_the_expert_with_most_load_per_replica():
    """GPU 0 holds 0 twice; of what it lacks, 2 (7 in one replica) is heaviest: loads 11.5, 5.5.

    The search then brings 1 instead, with one move as before: 8 + 1 and 1 + 7.
    """
    task = LayerTask(np.array([8.0, 2.0, 7.0]), Machine(2, 2), current=np.array([0, 0, 1, 2]))
    assert without_twins(task).tolist() == [0, 2, 1, 2]
    assert replanned([task], [0.0], 1)[0].tolist() == [0, 1, 1, 2]
    with pytest.raises(InfeasibleError, match="0 moves are fewer than the 1 that it takes"):
        replanned([task], [0.0], 0)


def test_a_twin_makes_room_only_for_what_the_rules_let_come(keeps):
    """Expert 3 has most load per replica, but may not lie beside 0: 2 comes."""
    load = np.array([8.0, 2.0, 6.0, 9.0])
    task = LayerTask(
        load, Machine(3, 2), Rules(forbidden_pairs=((0, 3),)), np.array([0, 0, 1, 2, 3, 1])
    )
    assert without_twins(task).tolist() == [0, 2, 1, 2, 3, 1]
    assert keeps(without_twins(task), task)
    nodes = replace(
        task,
        machine=Machine(4, 2, num_nodes=2),
        rules=Rules(distinct_nodes=True),
        current=np.array([0, 0, 3, 1, 2, 1, 3, 0]),
    )
    assert without_twins(nodes).tolist() == [0, 2, 3, 1, 2, 1, 3, 0]
    assert keeps(without_twins(nodes), nodes)
