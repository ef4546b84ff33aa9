"""Rounding is always to the pessimistic side, and never by more than it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.costs import scaling

values = st.floats(0, 1e12, allow_nan=False)


def one(rounding, value):
    return int(rounding(np.array([value]))[0])


@given(value=values)
def test_times_and_sizes_round_up_by_less_than_one_quantum(value):
    for rounding, quantum in (
        (scaling.times_to_int, scaling.TIME_QUANTUM_US),
        (scaling.sizes_to_int, scaling.SIZE_QUANTUM_BYTES),
    ):
        error = one(rounding, value) * quantum - value
        bound = scaling.error_bound(quantum, 1, value)
        assert -1e-6 * quantum - 1e-9 * value <= error <= bound


@given(value=values)
def test_rates_round_down_by_less_than_one_quantum(value):
    quantum = scaling.RATE_QUANTUM_TOKENS_PER_S
    error = value - one(scaling.rates_to_int, value) * quantum
    assert -1e-6 * quantum - 1e-9 * value <= error <= scaling.error_bound(quantum, 1, value)


def test_hand_worked_values():
    """1.0005 us is 1,000.5 ns, up 1,001; 10.2 bytes, up 11; 1.0005 tokens/s, down 1,000."""
    assert one(scaling.times_to_int, 1.0005) == 1001
    assert one(scaling.sizes_to_int, 10.2) == 11
    assert one(scaling.rates_to_int, 1.0005) == 1000


def test_the_same_sum_in_another_order_is_the_same_integer():
    """0.1 + 0.2 is a little more than 0.3; both are 300 ns."""
    assert one(scaling.times_to_int, 0.1 + 0.2) == one(scaling.times_to_int, 0.3) == 300
    total = 39_062_500.0
    assert one(scaling.sizes_to_int, np.nextafter(total, 1e9)) == 39_062_500
    assert one(scaling.rates_to_int, np.nextafter(61.44e6, 0)) == 61_440_000_000


def test_huge_values_are_clipped_to_integers_that_can_be_added():
    largest = one(scaling.sizes_to_int, 1e300)
    assert largest == pytest.approx(2**52, rel=1e-14)
    assert largest * 1024 < 2**63
    assert one(scaling.times_to_int, float("inf")) == largest


@given(value=values, terms=st.integers(1, 100))
def test_a_sum_of_rounded_terms_stays_within_the_error_bound(value, terms):
    rounded = terms * one(scaling.times_to_int, value) * scaling.TIME_QUANTUM_US
    total = terms * value
    assert abs(rounded - total) <= scaling.error_bound(scaling.TIME_QUANTUM_US, terms, total)


@pytest.mark.parametrize("rounding", [scaling.times_to_int, scaling.sizes_to_int])
def test_shapes_are_kept(rounding):
    assert rounding(np.zeros((2, 3))).shape == (2, 3)
    assert rounding(np.zeros(0)).dtype == np.int64
