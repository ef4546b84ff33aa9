"""Replica counts: water-filling against every way to share the slots out."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.placement.replicas import lean, least_share, water_filled


@st.composite
def shares_to_fill(draw):
    num_experts = draw(st.integers(1, 4))
    most = draw(st.integers(1, 4))
    num_slots = draw(st.integers(num_experts, num_experts * most))
    layers = draw(
        st.lists(
            st.lists(st.integers(0, 50), min_size=num_experts, max_size=num_experts),
            min_size=1,
            max_size=3,
        )
    )
    return np.array(layers, dtype=float), num_slots, most


@given(shares_to_fill())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_water_filling_has_the_least_largest_share_of_all_counts(case):
    loads, num_slots, most = case
    counts = water_filled(loads, num_slots, most)
    assert (counts.sum(axis=1) == num_slots).all()
    assert counts.min() >= 1
    assert counts.max() <= most
    for load, row in zip(loads, counts, strict=True):
        ways = product(range(1, most + 1), repeat=len(load))
        best = min(max(load / way) for way in ways if sum(way) == num_slots)
        assert max(load / row) == pytest.approx(best, rel=1e-12)


def test_a_further_slot_goes_to_the_expert_with_most_load_per_replica():
    """9, 4, 1 in six slots: 9/2 > 4, then 9/3 = 3 < 4, so 9 gets 3 and 4 gets 2."""
    counts = water_filled(np.array([[9.0, 4.0, 1.0]]), 6, most=4)
    assert counts.tolist() == [[3, 2, 1]]
    assert least_share(np.array([[9.0, 4.0, 1.0]]), counts).tolist() == [3.0]


def test_a_limit_on_replicas_sends_slots_to_others():
    assert water_filled(np.array([[100.0, 1.0, 1.0]]), 5, most=2).tolist() == [[2, 2, 1]]


def test_lean_counts_have_the_fewest_replicas_of_heavy_experts():
    """Of 12 slots for 5 experts under a top of 10: 25 takes 3 and 18 takes 2, others one more."""
    loads = np.array([[25.0, 18.0, 3.0, 2.0, 1.0]])
    counts = lean(loads, 10, 4, np.array([10.0]))
    assert counts.tolist() == [[3, 2, 1, 2, 2]]
    assert lean(loads, 5, 4, np.array([10.0])).tolist() == [[1, 1, 1, 1, 1]]  # no room: as water


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    load=st.lists(st.integers(0, 50), min_size=2, max_size=8).filter(any),
    most=st.integers(1, 4),
    data=st.data(),
)
def test_lean_counts_fill_the_slots_and_keep_the_limit(load, most, data):
    slots = data.draw(st.integers(len(load), len(load) * most))
    top = data.draw(st.floats(0.5, 60))
    counts = lean(np.array([load], dtype=float), slots, most, np.array([top]))[0]
    assert counts.sum() == slots
    assert counts.min() >= 1
    assert counts.max() <= most
