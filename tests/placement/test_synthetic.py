"""Loads made up from a seed."""

import numpy as np
import pytest

from autopar.placement.synthetic import KINDS, clustered_routing, drifted, made_up, windows


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_loads_have_their_mean_and_their_seed(kind):
    loads = made_up(kind, 3, 16, 7)
    assert loads.shape == (3, 16)
    assert loads.min() > 0
    assert loads.mean(axis=1) == pytest.approx(1000.0)
    assert (loads == made_up(kind, 3, 16, 7)).all()
    assert not (loads == made_up(kind, 3, 16, 8)).all()


def test_an_unknown_kind_is_an_error_that_names_those_known():
    with pytest.raises(ValueError, match="kind 'even': expected one of mild, lognormal"):
        made_up("even", 1, 4, 0)


def test_loads_drift_and_keep_their_sum():
    loads = made_up("mild", 2, 12, 0)
    moved = drifted(loads, 0.2, 1)
    assert moved.sum(axis=1) == pytest.approx(loads.sum(axis=1))
    assert not np.allclose(moved, loads)
    assert drifted(loads, 0.0, 1) == pytest.approx(loads)


def test_a_window_has_as_many_pairs_as_were_asked_for():
    counts = windows(made_up("zipf", 2, 6, 0), 5, 777, 0.1, 3)
    assert counts.shape == (5, 2, 6)
    assert (counts.sum(axis=2) == 777).all()


def test_a_token_goes_to_different_experts():
    routing = clustered_routing(200, 12, 4, 3, 0)
    assert routing.shape == (200, 4)
    assert (np.diff(routing, axis=1) > 0).all()
    assert 0 <= routing.min() < routing.max() < 12
