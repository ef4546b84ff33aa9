import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.validation.statistics import (
    Band,
    cell_weights,
    fitted_band,
    ranking,
    scaled_to_fit,
    score,
    weighted_quantiles,
)

RATIOS = st.lists(st.floats(0.2, 5.0), min_size=1, max_size=40)


def test_errors_of_three_rows():
    """Predicted 9, 20, 45 of 10, 20, 30: errors 10 %, 0, 50 %; ratios 0.9, 1, 1.5."""
    found = score([9, 20, 45], [10, 20, 30], inside=[True, True, False])
    assert found.mape == pytest.approx(0.2)
    assert found.median == pytest.approx(0.1)
    assert found.bias == pytest.approx(0.0)
    assert found.inside == pytest.approx(2 / 3)
    assert found.rows == 3


def test_a_trivial_model_is_scored_beside():
    found = score([10], [10], baselines={"flops": [12]})
    assert found.baselines == {"flops": pytest.approx(0.2)}


@given(RATIOS, st.floats(0.1, 10.0))
def test_no_other_constant_has_a_lower_mape(values, factor):
    truth = [1.0 + place % 3 for place in range(len(values))]
    best = score(scaled_to_fit(values, truth), truth).mape
    assert best <= score([factor * value for value in values], truth).mape + 1e-9


def test_the_constant_of_three_rows():
    """Ratios 1, 2 and 4 want 1, 1/2 and 1/4; half of their weight of 7 lies at 4, so 1/4."""
    assert scaled_to_fit([1.0, 2.0, 4.0], [1.0, 1.0, 1.0]) == pytest.approx([0.25, 0.5, 1.0])


def test_order_of_plans():
    """Of three pairs one is swapped: tau 1/3; the best is found, nothing is lost."""
    found = ranking([([3.0, 1.0, 2.0], [30.0, 20.0, 10.0])])
    assert found is not None
    assert (found.cases, found.pairs) == (1, 3)
    assert found.tau == pytest.approx(1 / 3)
    assert (found.best_found, found.lost) == (1.0, 0.0)


def test_a_wrong_winner_loses_what_the_best_would_give():
    found = ranking([([2.0, 1.0], [8.0, 10.0])])
    assert found is not None
    assert found.tau == -1
    assert found.best_found == 0
    assert found.lost == pytest.approx(0.2)


def test_measured_ties_decide_nothing():
    assert ranking([([2.0, 1.0], [5.0, 5.0])]) is None
    assert ranking([]) is None


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=12, unique=True))
def test_the_true_order_has_tau_one(rates):
    found = ranking([(rates, rates)])
    assert found is not None
    assert found.tau == 1
    assert found.lost == 0


def test_weights_count_a_cell_by_the_root_of_its_rows():
    weights = cell_weights(["a", "a", "a", "a", "b"])
    assert weights.tolist() == [0.5, 0.5, 0.5, 0.5, 1.0]


def test_quantiles_of_equal_weights_are_midpoints():
    """Five values stand at 0.1, 0.3, 0.5, 0.7 and 0.9 of the weight."""
    values = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    assert weighted_quantiles(values, np.ones(5), (0.1, 0.5, 0.8)) == pytest.approx([1, 3, 4.5])


def test_a_band_covers_cells_that_it_is_not_from():
    ratios = [0.9, 1.0, 1.1, 0.95, 1.0, 1.05, 0.92, 1.0, 1.08]
    band = fitted_band(ratios, ["a"] * 3 + ["b"] * 3 + ["c"] * 3, 0.5)
    assert band.low < 1 < band.high
    assert band.coverage >= 0.5


@given(RATIOS, st.floats(0.2, 1.0), st.floats(1.0, 5.0))
def test_a_band_holds_the_one_that_it_is_to_hold(ratios, low, high):
    cells = [str(i % 3) for i in range(len(ratios))]
    band = fitted_band(ratios, cells, 0.8, at_least=Band(low, high, 0.0))
    assert band.low <= low * (1 + 1e-9)
    assert band.high >= high * (1 - 1e-9)


def test_a_band_that_cannot_cover_says_how_little_it_covers():
    """Each cell lies outside the other: no band from one holds the other."""
    band = fitted_band([1.0, 1.0, 2.0, 2.0], ["a", "a", "b", "b"], 0.8)
    assert band.coverage == 0
    assert (band.low, band.high) == (pytest.approx(1.0), pytest.approx(2.0))


@given(RATIOS, st.floats(0.1, 1.0))
def test_a_band_lies_inside_the_ratios(ratios, share):
    band = fitted_band(ratios, [str(i % 3) for i in range(len(ratios))], share)
    assert min(ratios) <= band.low * (1 + 1e-9)
    assert band.high <= max(ratios) * (1 + 1e-9)
    assert band.low <= band.high * (1 + 1e-9)
