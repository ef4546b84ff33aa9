"""Lower bounds are never above the best of all placements, and sometimes reach it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.placement.bounds import quick_bounds
from autopar.placement.machine import NO_RULES, LayerTask, Machine
from autopar.placement.pairing import pairing_bound


def quick(task):
    return float(quick_bounds(task.load[None], task.machine, task.rules)[0])


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_quick_bounds_are_never_above_the_optimum(small_layers, optimum, data):
    task = data.draw(small_layers(speeds=data.draw(st.booleans())))
    assert quick(task) <= optimum(task) * (1 + 1e-12)


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_quick_bounds_hold_under_rules(small_layers, optimum, data):
    task = data.draw(small_layers(ruled=True))
    machine, rules = task.machine, task.rules
    best = optimum(task)
    if best is None or machine.num_slots > rules.most_replicas(machine) * len(task.load):
        return
    assert quick(task) <= best * (1 + 1e-12)


@pytest.mark.parametrize(
    ("load", "num_gpus", "per_gpu", "bound"),
    [
        ([4.0, 4.0, 4.0, 4.0], 2, 2, 8.0),  # the mean
        ([9.0, 2.0, 1.0], 3, 2, 4.0),  # the mean; 9/3 and 1/3 beside it are less
        ([30.0, 2.0, 2.0, 2.0], 4, 1, 30.0),  # no replicas: the heaviest alone
        ([30.0, 2.0, 2.0], 4, 1, 15.0),  # one further slot: half of the heaviest
        ([10.0, 1.0, 1.0, 1.0], 2, 2, 11.0),  # no replicas: 10 beside the lightest
        ([5.0, 5.0, 5.0, 1.0], 2, 2, 10.0),  # no replicas: two of three fives meet
    ],
)
def test_what_each_bound_says_by_hand(load, num_gpus, per_gpu, bound):
    task = LayerTask(np.array(load), Machine(num_gpus, per_gpu))
    assert quick(task) == pytest.approx(bound)


def test_an_expert_has_company_on_its_gpu():
    """30 and four of 3 in six slots of three GPUs: 30/2 and beside it at least 3/2, so 16.5.

    The mean is 14 and the largest share 15.
    """
    assert quick(LayerTask(np.array([30.0, 3.0, 3.0, 3.0, 3.0]), Machine(3, 2))) == 16.5


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_pairing_bound_is_never_above_the_optimum(small_layers, optimum, data):
    task = data.draw(small_layers(per_gpu=2))
    best, low = optimum(task), quick(task)
    for high in (best, best * 1.1, best * 3):  # what is refuted does not hang on where it begins
        assert low <= pairing_bound(task, low, high) <= best * (1 + 1e-12)


def test_the_pairing_bound_is_more_than_the_mean_where_pairs_do_not_fit():
    """Weights 12, 12, 12, 1 in four slots of two GPUs: two heavy ones meet (24), the mean is 18.5.

    Three are heavier than 12 - e and one is as light as T - 12: 3 > 1 for every T below 24.
    """
    task = LayerTask(np.array([12.0, 12.0, 12.0, 1.0]), Machine(2, 2))
    assert pairing_bound(task, 18.5, 24.0) == pytest.approx(24.0, rel=5e-4)
    assert pairing_bound(task, 18.5, 40.0) == pytest.approx(24.0, rel=5e-4)


def test_the_pairing_bound_holds_on_many_experts():
    """32 experts in 48 slots, against a pairing that the programme allows and rules may not."""
    rng = np.random.RandomState(3)
    for seed in range(3):
        load = np.exp(1.5 * rng.standard_normal(32)) + seed
        task = LayerTask(load, Machine(24, 2), NO_RULES)
        low = quick(task)
        counts = np.ones(32, dtype=int)
        for _ in range(16):
            counts[(load / counts).argmax()] += 1
        shares = np.sort(np.repeat(load / counts, counts))
        high = float((shares + shares[::-1]).max())
        assert low <= pairing_bound(task, low, 2 * high) <= high
