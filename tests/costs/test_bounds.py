"""Bounds of a row against every split of its layers, on small models."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.costs.analytic import AnalyticCosts
from autopar.costs.declared import DeclaredCosts
from autopar.problem import Candidate, Candidates
from autopar.specs import Declared


def splits(num_layers, pp):
    """Every way to cut the layers into pp stages of at least one layer, as lists of boundaries."""
    for cuts in itertools.combinations(range(1, num_layers), pp - 1):
        yield [0, *cuts, num_layers]


def best_of_all_splits(model, candidate, num_layers):
    """Least bottleneck, sum and peak memory, greatest rate, each over all splits."""
    found = []
    for edges in splits(num_layers, candidate.pp):
        rows = Candidates.of([candidate] * candidate.pp)
        costs = model.stage_costs(rows, np.array(edges[:-1]), np.array(edges[1:]))
        tpot_us = costs.tpot_us.max() if costs.tpot_us is not None else 0.0
        rate, memory = costs.tokens_per_s.min(), costs.memory_bytes.max()
        found.append((rate, costs.time_us.sum(), tpot_us, memory))
    rates, totals, tpots, peaks = zip(*found, strict=True)
    return max(rates), min(totals), min(tpots), min(peaks)


def check_bounds(model, candidate, num_layers):
    """Assert that no split beats the bounds; return (bounds, best of all splits)."""
    bounds = model.bounds(Candidates.of([candidate]))
    rate, total_us, tpot_us, peak = best_of_all_splits(model, candidate, num_layers)
    assert bounds.tokens_per_s[0] >= rate
    assert bounds.memory_bytes[0] <= peak
    if bounds.ttft_us is not None:
        assert bounds.ttft_us[0] <= total_us
    if bounds.tpot_us is not None:
        assert bounds.tpot_us[0] <= tpot_us
    return bounds, (rate, total_us, tpot_us, peak)


sizes = st.fixed_dictionaries(
    {
        "num_layers": st.integers(1, 7),
        "num_experts": st.sampled_from([0, 6]),
        "phase": st.sampled_from(["prefill", "decode"]),
        "batch": st.integers(1, 3000),
        "sequence_tokens": st.integers(1, 2000),
        "shares_embeddings": st.booleans(),
    }
)


@settings(max_examples=120, deadline=None)
@given(sizes=sizes, data=st.data())
def test_no_split_beats_the_bounds_and_the_bottleneck_is_exact(sizes, data, analytic_scenario):
    scenario = analytic_scenario(**sizes)
    pp = data.draw(st.integers(1, scenario.llm.num_layers))
    tp, groups = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    gpus = tp * groups
    grid = (gpus, 1, 1) if scenario.llm.num_experts else (1, 1, gpus)
    candidate = Candidate(2, pp, tp, 1, groups, *grid)
    model = AnalyticCosts(scenario)
    bounds, (rate, total_us, tpot_us, peak) = check_bounds(model, candidate, sizes["num_layers"])
    assert bounds.tokens_per_s[0] == pytest.approx(rate, rel=1e-12)
    if bounds.ttft_us is not None:
        assert bounds.ttft_us[0] == pytest.approx(total_us, rel=1e-11)
    if bounds.tpot_us is not None:
        assert bounds.tpot_us[0] == pytest.approx(tpot_us, rel=1e-12)
    if pp == 1:
        assert bounds.memory_bytes[0] == pytest.approx(peak, rel=1e-12)


@settings(max_examples=120, deadline=None)
@given(sizes=sizes, data=st.data())
def test_no_split_beats_the_bounds_where_a_layer_brings_its_own_grid(
    sizes, data, analytic_scenario
):
    scenario = analytic_scenario(**(sizes | {"num_experts": 6}))
    pp = data.draw(st.integers(1, scenario.llm.num_layers))
    tp, ep = data.draw(st.sampled_from([(1, 1), (1, 3), (2, 2), (3, 6), (1, 6)]))
    candidate = Candidate(1, pp, tp, 1, 0, ep, data.draw(st.integers(1, 2)), 0)
    model = AnalyticCosts(scenario)
    bounds, (rate, *_) = check_bounds(model, candidate, sizes["num_layers"])
    if pp == sizes["num_layers"]:  # one split only
        assert bounds.tokens_per_s[0] == pytest.approx(rate, rel=1e-12)


def test_bounds_of_a_table_are_those_of_its_rows(analytic_scenario):
    """Rows with and without a fixed spread in one table keep their places."""
    model = AnalyticCosts(analytic_scenario(num_layers=6))
    rows = [
        Candidate(1, 3, 1, 1, 0, 3, 1, 0),
        Candidate(2, 2, 2, 1, 3, 3, 2, 1),
        Candidate(1, 6, 1, 1, 0, 6, 1, 0),
        Candidate(1, 1, 3, 1, 2, 6, 1, 1),
    ]
    together = model.bounds(Candidates.of(rows))
    for i, row in enumerate(rows):
        alone = model.bounds(Candidates.of([row]))
        assert alone.tokens_per_s[0] == together.tokens_per_s[i]
        assert alone.memory_bytes[0] == together.memory_bytes[i]
    assert (
        len(model.bounds(Candidates.of(rows).take(np.array([], dtype=np.int64))).memory_bytes) == 0
    )


@pytest.mark.parametrize("pp", [1, 2, 3, 5])
@pytest.mark.parametrize("spread", [0, 1, 2])
def test_no_split_beats_the_declared_bounds(pp, spread, analytic_scenario):
    declared = Declared(
        flops_per_token=1e9, compute_efficiency=0.5, utilisation=0.5, layer_time_us=7.0
    )
    scenario = analytic_scenario(num_layers=5, phase="prefill")
    scenario = scenario.model_copy(update={"cost_model": "declared", "declared": declared})
    candidate = Candidate(1, pp, 1, 1, 0 if spread == 0 else 6 * spread, 6, 1, spread)
    bounds, (rate, total_us, _, peak) = check_bounds(DeclaredCosts(scenario), candidate, 5)
    assert bounds.tokens_per_s[0] == pytest.approx(rate)
    assert bounds.ttft_us[0] == pytest.approx(total_us)
    assert bounds.memory_bytes[0] == pytest.approx(peak)
