"""Local search: rules are kept, nothing gets worse, the same seed does the same."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autopar.placement.board import Board
from autopar.placement.improve import descend, search
from autopar.placement.machine import LayerTask, Machine, gpu_loads
from autopar.placement.synthetic import made_up


@given(st.data(), st.integers(0, 5))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_search_keeps_the_rules_and_is_never_worse_than_its_start(
    small_layers, boards, keeps, fullest_of, data, seed
):
    """Groups are placed before the search, which sees one node at a time."""
    task = data.draw(small_layers(ruled=True, speeds=data.draw(st.booleans())))
    assume(task.rules.num_groups == 1)
    lawful = list(boards(task))
    assume(lawful)
    start = data.draw(st.sampled_from(lawful))
    found = search(task, np.array(start).ravel(), 0.0, 3, seed)
    assert keeps(found, task)
    board = found.reshape(task.machine.num_gpus, -1).tolist()
    assert fullest_of(board, task) <= fullest_of(start, task) * (1 + 1e-9)
    assert (search(task, np.array(start).ravel(), 0.0, 3, seed) == found).all()


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_board_stays_in_step_with_its_slots(small_layers, boards, data):
    task = data.draw(small_layers(ruled=True, speeds=data.draw(st.booleans())))
    assume(task.rules.num_groups == 1)
    lawful = list(boards(task))
    assume(lawful)
    start = np.array(data.draw(st.sampled_from(lawful))).ravel()
    board = Board(task.load, start, task.machine, task.rules)
    descend(board, 0.0)
    fresh = Board(task.load, board.slots, task.machine, task.rules)
    assert board.pace == pytest.approx(fresh.pace, rel=1e-9, abs=1e-9)
    assert board.share == pytest.approx(fresh.share)
    assert (board.counts == fresh.counts).all()
    assert (board.holds == fresh.holds).all()
    recomputed = gpu_loads(task.load[None], board.slots[None], task.machine)[0]
    assert board.pace == pytest.approx(recomputed, rel=1e-9, abs=1e-9)


def test_descent_without_copies_keeps_the_counts():
    load = np.array([9.0, 5.0, 4.0, 1.0])
    board = Board(load, np.array([0, 1, 0, 2, 3, 1]), Machine(3, 2))
    descend(board, 0.0, copies=False)
    assert np.bincount(board.slots).tolist() == [2, 2, 1, 1]


def test_one_swap_is_made_where_it_helps():
    """(9, 5) and (2, 1): 5 for 2 gives 11 and 6, 9 for 2 gives 7 and 10, 9 for 1 gives 6 and 11.

    From 14 the best exchange is 9 for 2, to 10; then nothing helps.
    """
    board = Board(np.array([9.0, 5.0, 2.0, 1.0]), np.array([0, 1, 2, 3]), Machine(2, 2))
    assert descend(board, 0.0) == 1
    assert sorted(board.pace.tolist()) == [7.0, 10.0]


def test_two_for_two_is_made_where_no_single_exchange_helps():
    """(3, 7, 6, 4) and (8, 8, 1, 1) are 20 and 18; only a move of 1 helps, to 19 and 19.

    One for one moves 2, 3, 5, 6 or less than 0; 3 + 7 for 8 + 1 moves 1.
    """
    load = np.array([3.0, 7.0, 6.0, 4.0, 8.0, 8.0, 1.0, 1.0])
    board = Board(load, np.arange(8), Machine(2, 4))
    assert descend(board, 0.0) == 1
    assert board.pace.tolist() == [19.0, 19.0]


def test_search_stops_at_its_goal():
    load = made_up("lognormal", 1, 16, 0)[0]
    task = LayerTask(load, Machine(4, 4))
    start = np.arange(16)
    goal = float(gpu_loads(load[None], start[None], task.machine).max())
    assert (search(task, start, goal, 10, 0) == start).all()
