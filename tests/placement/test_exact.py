"""CP-SAT on one layer against every placement, with each rule on."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.placement.exact import is_small, open_counts, solved
from autopar.placement.machine import LayerTask, Machine, Rules

LOAD = np.array([17.0, 11.0, 6.0, 3.0])
NOW = np.array([0, 1, 2, 3, 0, 2])
CASES = {
    "no rule": LayerTask(LOAD, Machine(3, 2)),
    "speeds": LayerTask(LOAD, Machine(3, 2, speeds=(1.0, 0.7, 2.0))),
    "distinct_nodes": LayerTask(LOAD, Machine(4, 2, 2), Rules(distinct_nodes=True)),
    "forbidden_pairs": LayerTask(LOAD, Machine(3, 2), Rules(forbidden_pairs=((0, 3), (0, 2)))),
    "groups_on_nodes": LayerTask(LOAD, Machine(4, 2, 2), Rules(num_groups=2)),
    "no move": LayerTask(LOAD, Machine(3, 2), current=NOW, max_moves=0),
    "one move": LayerTask(LOAD, Machine(3, 2), current=NOW, max_moves=1),
    "two moves": LayerTask(LOAD, Machine(3, 2), current=NOW, max_moves=2),
    "all": LayerTask(
        LOAD, Machine(4, 2, 2), Rules(True, ((0, 1),)), np.array([0, 2, 1, 3, 1, 2, 0, 3]), 2
    ),
}


def run(task, hint=None, bound=0.0):
    return solved(task, open_counts(task, np.inf), hint, bound, 5.0)


@pytest.mark.parametrize("name", CASES)
def test_it_finds_and_proves_the_optimum_under_each_rule(name, optimum, keeps, fullest_of):
    task = CASES[name]
    answer, best = run(task), optimum(task)
    assert answer.status == "optimal"
    assert keeps(answer.slots, task)
    board = answer.slots.reshape(task.machine.num_gpus, -1).tolist()
    assert fullest_of(board, task) == pytest.approx(best, rel=1e-5)
    assert best * (1 - 1e-5) <= answer.bound <= best * (1 + 1e-12)


@given(st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_it_agrees_with_every_placement(small_layers, optimum, keeps, fullest_of, data):
    task = data.draw(small_layers(ruled=True, speeds=data.draw(st.booleans())))
    best = optimum(task)
    answer = run(task)
    if best is None:
        assert (answer.status, answer.slots) == ("infeasible", None)
        return
    assert answer.status == "optimal"
    assert keeps(answer.slots, task)
    board = answer.slots.reshape(task.machine.num_gpus, -1).tolist()
    assert fullest_of(board, task) == pytest.approx(best, rel=1e-5)
    assert answer.bound <= best * (1 + 1e-12)


def test_a_hint_and_a_bound_change_no_answer(optimum):
    task = CASES["no rule"]
    best = optimum(task)
    for bound in (0.0, best * 0.99, best):
        answer = run(task, NOW, bound)
        assert answer.bound == pytest.approx(best, rel=1e-5)
        assert answer.bound >= bound


def test_counts_are_left_out_that_alone_exceed_the_load_at_hand():
    """Of at most 10 on a GPU: 17 needs two replicas, 11 two, 6 and 3 one; six slots for four."""
    assert open_counts(CASES["no rule"], 10.0) == {
        0: [2, 3], 1: [2, 3], 2: [1, 2, 3], 3: [1, 2, 3]
    }  # fmt: skip
    fast = open_counts(CASES["speeds"], 10.0)  # the fastest is 2 / (3.7 / 3) = 1.62 times the mean
    assert fast[0] == [2, 3]
    assert fast[1] == [1, 2, 3]


def test_fixed_counts_are_kept():
    task = CASES["no rule"]
    answer = solved(task, {0: [1], 1: [1], 2: [2], 3: [2]}, None, 0.0, 5.0)
    assert np.bincount(answer.slots).tolist() == [1, 1, 2, 2]


def test_large_layers_are_not_small():
    assert is_small(CASES["no rule"])
    assert not is_small(LayerTask(np.ones(64), Machine(32, 4)))
    assert is_small(replace(CASES["no rule"], max_moves=0, current=NOW))
