"""How a table of factors by rows enters a GEMM, alone and over ranges of rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autopar.costs.operations import kernels
from autopar.costs.operations.device import Device
from autopar.costs.operations.row_factors import row_factor
from autopar.specs import Gpu
from autopar.specs.kernels import GEMM_ROWS, GemmFit, Kernels

UP_AND_DOWN = tuple(1.0 + 0.5 * (-1) ** i for i in range(len(GEMM_ROWS)))  # 1.5 at 1 row, 0.5 at 8
factors = st.lists(st.floats(0.1, 10.0), min_size=len(GEMM_ROWS), max_size=len(GEMM_ROWS)).map(
    tuple
)


def device(row_factors=()):
    fit = GemmFit(
        start_us=3.0, inner_us=0.001, compute_fraction=0.8, memory_fraction=0.8,
        activation_fraction=0.8, row_factors=row_factors,
    )  # fmt: skip
    gpu = Gpu(
        name="g",
        peak_flops_per_s=1e15,
        memory_bytes=1e9,
        memory_bandwidth_bytes_per_s=1e12,
        kernels=Kernels(gemm={"bf16": fit}),
    )
    return Device.of(gpu)


def at(rows, growth=1.0, known=UP_AND_DOWN):
    return float(row_factor(known, np.array([float(rows)]), growth)[0])


def test_factors_are_linear_between_the_rows_of_the_table():
    """At 1 and 8 rows they are 1.5 and 0.5; 4.5 rows lie half way."""
    assert [at(rows) for rows in (1, 8, 4.5)] == [1.5, 0.5, 1.0]


def test_beyond_the_table_they_are_those_of_its_ends():
    assert at(0.5) == UP_AND_DOWN[0]
    assert at(1_000_000) == UP_AND_DOWN[-1]


def test_only_the_busy_time_is_multiplied():
    """1 row, 4,000 x 5,000: 50.0225 us of traffic (test_gemm.py), 3 of start, 4 of the loop."""
    found = kernels.gemm_us(1, 4000, 5000, "bf16", device(UP_AND_DOWN))
    assert found == pytest.approx(1.5 * 50.0225 + 7, abs=1e-6)


def test_without_a_table_no_time_falls_with_the_rows():
    assert device().is_smooth
    assert not device(UP_AND_DOWN).is_smooth


@given(factors, st.integers(1, 3000), st.floats(1.0, 40.0))
def test_the_least_of_a_range_is_no_more_than_any_in_it(known, rows, growth):
    """Of all whole numbers of rows to one above growth * rows, and close to the least of them."""
    least = at(rows, growth, known)
    most = int(rows * growth) + 1 if growth > 1 else rows
    inside = row_factor(known, np.arange(rows, most + 1).astype(float), 1.0)
    assert least <= inside.min()
    assert least >= min(inside.min(), float(np.interp(rows * growth + 1, GEMM_ROWS, known))) - 1e-9


def test_ranges_and_single_rows_may_stand_side_by_side():
    """From 1 to 17 rows, the least is 0.5 at 8; at 1 row alone it is 1.5."""
    found = row_factor(UP_AND_DOWN, np.array([1.0, 1.0]), np.array([16.0, 1.0]))
    assert found.tolist() == [0.5, 1.5]


@given(factors, st.integers(1, 3000), st.floats(1.0, 40.0))
def test_no_gemm_of_a_range_beats_its_bound(known, rows, growth):
    one = device(known)
    least = kernels.gemm_us(rows, 300, 500, "bf16", one, growth)
    for more in np.linspace(rows, rows * growth, 20):
        assert kernels.gemm_us(more, 300, 500, "bf16", one) >= least * (1 - 1e-12)


def test_a_table_of_another_length_is_refused():
    with pytest.raises(ValidationError, match="row_factors has 2 numbers; expected none, or one"):
        device((1.0, 2.0))
