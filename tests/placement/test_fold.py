"""Two slots per GPU: all replica counts with their best pairing is the best of all placements."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.placement import fold
from autopar.placement.fold import can_fold, folded
from autopar.placement.machine import LayerTask, Machine, Rules


@given(st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_the_fold_is_the_optimum_and_its_bound_is_its_load(
    small_layers, optimum, keeps, fullest_of, data
):
    task = data.draw(small_layers(per_gpu=2))
    assert can_fold(task)
    slots, bound = folded(task)
    best = optimum(task)
    assert keeps(slots, task)
    assert fullest_of(slots.reshape(-1, 2).tolist(), task) == pytest.approx(best, rel=1e-12)
    assert bound == pytest.approx(best, rel=1e-12)


@given(st.data(), st.integers(0, 3))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_where_pairs_run_out_the_bound_still_holds(
    small_layers, optimum, keeps, fullest_of, data, budget
):
    task = data.draw(small_layers(per_gpu=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold, "_MOST_PAIRS", budget)
        slots, bound = folded(task)
    best = optimum(task)
    assert bound <= best * (1 + 1e-12)
    if slots is not None:
        assert keeps(slots, task)
        assert fullest_of(slots.reshape(-1, 2).tolist(), task) >= best * (1 - 1e-12)


def test_twins_of_the_plain_fold_are_taken_apart():
    """9 and 1 in four slots of two GPUs: each must hold both, 4.5 + 0.5 = 5."""
    slots, bound = folded(LayerTask(np.array([9.0, 1.0]), Machine(2, 2)))
    assert sorted(map(sorted, slots.reshape(2, 2).tolist())) == [[0, 1], [0, 1]]
    assert bound == 5.0


@pytest.mark.parametrize(
    "task",
    [
        LayerTask(np.ones(4), Machine(2, 3)),
        LayerTask(np.ones(4), Machine(2, 2, speeds=(1.0, 2.0))),
        LayerTask(np.ones(4), Machine(2, 2, 2), Rules(distinct_nodes=True)),
        LayerTask(np.ones(4), Machine(2, 2), current=np.arange(4), max_moves=1),
        LayerTask(np.ones(64), Machine(40, 2)),
    ],
)
def test_what_it_does_not_know_or_takes_too_long_is_left_to_others(task):
    assert not can_fold(task)
