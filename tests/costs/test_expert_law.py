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


def least_factor(counts, held):
    """The mean over layers of the least load of the busiest rank, by trying every placement.

    On as many ranks as an expert parallel size with so many experts per rank may have.
    """
    num_experts = len(counts[0])
    ranks = max(ep for ep in range(1, num_experts + 1) if -(-num_experts // ep) == held)
    found = []
    for row in counts:
        tops = []
        for places in product(range(ranks), repeat=num_experts):
            sizes = np.bincount(places, minlength=ranks)
            if sizes.max() <= held:
                tops.append(np.bincount(places, weights=row, minlength=ranks).max())
        found.append(min(tops) / (sum(row) * held / num_experts))
    return float(np.mean(found))


def test_two_ranks_take_a_heavy_and_a_light_expert_each():
    # 8 + 1 and 6 + 1 of 16, where the mean is 8; the even layer has 10 of 20.
    assert PlacedCounts(COUNTS).reached(2) == pytest.approx((9 / 8 + 1) / 2)


def test_a_rank_with_all_experts_has_the_mean():
    assert PlacedCounts(COUNTS).reached(4) == pytest.approx(1)


def test_a_rank_with_one_expert_has_the_heaviest():
    assert PlacedCounts(COUNTS).reached(1) == pytest.approx((8 / 4 + 1) / 2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    counts=st.integers(3, 5).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(0, 30), min_size=n, max_size=n).filter(any), min_size=1, max_size=2
        )
    ),
    ep=st.integers(1, 5),
)
def test_bound_is_at_most_the_best_placement_which_is_at_most_what_was_reached(counts, ep):
    held = -(-len(counts[0]) // min(ep, len(counts[0])))
    placed = PlacedCounts(tuple(map(tuple, counts)))
    best = least_factor(counts, held)
    assert placed.bound(held) <= best * (1 + 1e-9)
    assert best <= placed.reached(held) * (1 + 1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(row=st.lists(st.integers(0, 30), min_size=2, max_size=9).filter(any), data=st.data())
def test_every_rank_has_an_expert_and_none_is_busier_than_was_reached(row, data):
    ep = data.draw(st.integers(1, len(row)))
    placed, held = PlacedCounts((tuple(row),)), -(-len(row) // ep)
    ranks = placed.ranks(ep)[0]
    assert set(ranks.tolist()) == set(range(ep))
    assert np.bincount(ranks).max() <= held
    top = np.bincount(ranks, weights=row).max()
    assert top / (sum(row) * held / len(row)) == pytest.approx(placed.reached(held))


def test_the_busiest_rank_has_its_factor_times_the_mean_rows():
    law = Reached(placed_counts(COUNTS))
    rows = busiest_rows(100, np.array([2, 0]), 4, 2, law)
    assert rows == pytest.approx([100 * 2 * 2 / 4 * (9 / 8 + 1) / 2, 0])


def test_a_workload_gives_the_law_that_it_names():
    work = {"name": "w", "phase": "decode", "batch_sequences": 1, "sequence_tokens": 1}
    assert law_of(Workload(**work)) == "even"
    reached = law_of(Workload(**work, expert_load="measured", expert_counts=COUNTS))
    bound = law_of(Workload(**work, expert_load="measured_bound", expert_counts=COUNTS))
    assert isinstance(reached, Reached)
    assert isinstance(bound, Bounded)
    assert bound.factor(2) <= reached.factor(2)
