"""Every placement, looked at in numpy, against every placement, looked at in plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.placement.every import best_of_all, can_try_all
from autopar.placement.machine import LayerTask, Machine, Rules


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_best_of_all_is_the_optimum(small_layers, optimum, keeps, fullest_of, data):
    task = data.draw(small_layers())
    assert can_try_all(task)
    slots = best_of_all(task)
    assert keeps(slots, task)
    board = slots.reshape(task.machine.num_gpus, -1).tolist()
    assert fullest_of(board, task) == pytest.approx(optimum(task), rel=1e-12)


@pytest.mark.parametrize(
    "task",
    [
        LayerTask(np.ones(4), Machine(2, 2, speeds=(1.0, 2.0))),
        LayerTask(np.ones(4), Machine(2, 2), Rules(forbidden_pairs=((0, 1),))),
        LayerTask(np.ones(4), Machine(2, 2), current=np.arange(4), max_moves=1),
        LayerTask(np.ones(64), Machine(8, 8)),
    ],
)
def test_what_it_does_not_know_or_takes_too_long_is_left_to_others(task):
    assert not can_try_all(task)
