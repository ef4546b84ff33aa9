"""Measured counts of experts: what their placement makes of the busiest rank."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.costs.expert_law import Bounded, PlacedCounts, Reached, law_of, placed_counts
from autopar.costs.operations.loads import busiest_rows
from autopar.specs import Workload

COUNTS = ((8.0, 1.0, 1.0, 6.0), (5.0, 5.0, 5.0, 5.0))


def least_factors(counts, ep):
    """The least load of the busiest rank of each layer over the mean, by trying every placement."""
    num_experts = len(counts[0])
    held = -(-num_experts // ep)
    found = []
    for row in counts:
        tops = [
            np.bincount(places, weights=row, minlength=ep).max()
            for places in product(range(ep), repeat=num_experts)
            if np.bincount(places, minlength=ep).max() <= held
        ]
        found.append(min(tops) / (sum(row) * held / num_experts))
    return np.array(found)


def test_two_ranks_take_a_heavy_and_a_light_expert_each():
    # 8 + 1 and 6 + 1 of 16, where the mean is 8; the even layer has 10 of 20.
    law = Reached(PlacedCounts(COUNTS))
    assert law.factor(2, 2) == pytest.approx((9 / 8 + 1) / 2)
    assert law.peak(2, 2) == pytest.approx(9 / 8)


def test_a_rank_with_all_experts_has_the_mean():
    assert Reached(PlacedCounts(COUNTS)).factor(4, 1) == pytest.approx(1)


def test_a_rank_with_one_expert_has_the_heaviest():
    assert Reached(PlacedCounts(COUNTS)).factor(1, 4) == pytest.approx((8 / 4 + 1) / 2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    counts=st.integers(3, 5).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(0, 30), min_size=n, max_size=n).filter(any), min_size=1, max_size=2
        )
    ),
    data=st.data(),
)
def test_bound_is_at_most_the_best_placement_which_is_at_most_what_was_reached(counts, data):
    ep = data.draw(st.integers(1, len(counts[0])))
    placed = PlacedCounts(tuple(map(tuple, counts))).on(ep)
    best = least_factors(counts, ep)
    assert (placed.bound <= best * (1 + 1e-9)).all()
    assert (best <= placed.reached * (1 + 1e-9)).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(row=st.lists(st.integers(0, 30), min_size=2, max_size=9).filter(any), data=st.data())
def test_every_rank_has_an_expert_and_the_busiest_has_what_was_reached(row, data):
    ep = data.draw(st.integers(1, len(row)))
    placed, held = PlacedCounts((tuple(row),)).on(ep), -(-len(row) // ep)
    ranks = placed.ranks[0]
    assert set(ranks.tolist()) == set(range(ep))
    assert np.bincount(ranks).max() <= held
    top = np.bincount(ranks, weights=row).max()
    assert top / (sum(row) * held / len(row)) == pytest.approx(placed.reached[0])


def test_no_bound_is_below_the_mean():
    placed = PlacedCounts((tuple(np.random.RandomState(1).lognormal(2, 1, 256)),))
    for ep in (8, 16, 32, 64):
        assert placed.on(ep).bound[0] >= 1 - 1e-12


def test_the_busiest_rank_of_the_least_even_layer_sizes_buffers():
    law = Reached(placed_counts(COUNTS))
    rows = busiest_rows(100, np.array([2, 0]), 4, 2, law, 2)
    assert rows == pytest.approx([100 * 2 * 2 / 4 * 9 / 8, 0])


def test_a_workload_gives_the_law_that_it_names():
    work = {"name": "w", "phase": "decode", "batch_sequences": 1, "sequence_tokens": 1}
    assert law_of(Workload(**work)) == "even"
    reached = law_of(Workload(**work, expert_load="measured", expert_counts=COUNTS))
    bound = law_of(Workload(**work, expert_load="measured_bound", expert_counts=COUNTS))
    assert isinstance(reached, Reached)
    assert isinstance(bound, Bounded)
    assert bound.factor(2, 2) <= reached.factor(2, 2)
