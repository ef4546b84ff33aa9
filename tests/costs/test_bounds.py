"""Bounds of a row against every split of its layers, on small models."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopar.costs.analytic import AnalyticCosts
from autopar.costs.declared import DeclaredCosts
from autopar.costs.pieces import Pieces
from autopar.problem import Candidate, Candidates
from autopar.specs import Declared

many = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


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


@many
@given(data=st.data())
def test_no_split_beats_the_bounds(data, analytic_scenario, architectures, works, layouts):
    """Layers of several kinds, every phase. The sum is exact, and all is with one stage."""
    scenario = analytic_scenario(
        architecture=data.draw(architectures(6, data.draw(st.sampled_from([64, 1000])))),
        **data.draw(works),
    )
    candidate = data.draw(layouts(scenario))
    model = AnalyticCosts(scenario)
    bounds, (rate, total_us, tpot_us, peak) = check_bounds(
        model, candidate, scenario.llm.num_layers
    )
    if candidate.spread == 0:  # the GPUs of a stage grow with its layers, so the sum does not stay
        return
    if bounds.ttft_us is not None:
        assert bounds.ttft_us[0] == pytest.approx(total_us, rel=1e-11)
    if candidate.pp == 1:
        assert bounds.tokens_per_s[0] == pytest.approx(rate, rel=1e-11)
        if candidate.spread == 1:  # more grids may hold experts of different sizes
            assert bounds.memory_bytes[0] == pytest.approx(peak, rel=1e-11)
        if bounds.tpot_us is not None:
            assert bounds.tpot_us[0] == pytest.approx(tpot_us, rel=1e-11)


@many
@given(data=st.data(), num_layers=st.integers(1, 7), num_experts=st.sampled_from([0, 6]))
def test_the_bottleneck_of_equal_layers_is_exact_but_for_the_embedding(
    data, num_layers, num_experts, analytic_scenario, works, layouts
):
    sizes = data.draw(works)
    sizes["work"] = {**sizes["work"], "speculation": None}  # the model drafts no tokens
    scenario = analytic_scenario(num_layers=num_layers, num_experts=num_experts, **sizes)
    candidate = data.draw(layouts(scenario))
    model = AnalyticCosts(scenario)
    bounds, (rate, *_) = check_bounds(model, candidate, num_layers)
    row = Candidates.of([candidate])
    pieces = Pieces.of(model._physics, row, np.array([num_layers // candidate.pp]))
    if candidate.spread == 0 and candidate.pp > 1:  # stages differ in GPUs: a bound, no more
        return
    produced = candidate.replicas * pieces.tokens[0] * 1e6
    slowest_us, bound_us = produced / rate, produced / bounds.tokens_per_s[0]
    assert bound_us >= (slowest_us - pieces.embedding.tick_us[0]) * (1 - 1e-11)


@many
@given(data=st.data(), num_layers=st.integers(1, 6))
def test_the_memory_bound_of_equal_layers_is_that_of_an_even_split_at_least(
    data, num_layers, analytic_scenario, works, layouts
):
    """Some stage has ceil(layers / pp) layers; the ends add a table each, and logits."""
    sizes = data.draw(works)
    sizes["work"] = {**sizes["work"], "speculation": None}
    scenario = analytic_scenario(num_layers=num_layers, **sizes)
    candidate = data.draw(layouts(scenario))
    model = AnalyticCosts(scenario)
    longest = -(-num_layers // candidate.pp)
    if candidate.pp == 1 or longest + 2 > num_layers:
        return  # no stage in the middle is that long
    middle = model.stage_costs(Candidates.of([candidate]), np.array([1]), np.array([1 + longest]))
    bound = model.bounds(Candidates.of([candidate])).memory_bytes[0]
    assert bound >= middle.memory_bytes[0] * (1 - 1e-11)


@many
@given(data=st.data())
def test_a_bound_is_at_least_the_mean_over_the_stages(
    data, analytic_scenario, architectures, works, layouts
):
    """Of times per token, and of what GPUs hold for good, which no split of the layers changes."""
    scenario = analytic_scenario(architecture=data.draw(architectures(6)), **data.draw(works))
    candidate = data.draw(layouts(scenario))
    if candidate.spread != 1:
        return
    model, rows = AnalyticCosts(scenario), Candidates.of([candidate] * candidate.pp)
    edges = np.linspace(0, scenario.llm.num_layers, candidate.pp + 1).astype(np.int64)
    costs = model.stage_costs(rows, edges[:-1], edges[1:])
    bounds = model.bounds(Candidates.of([candidate]))
    held = costs.weights_bytes + costs.kv_cache_bytes + costs.reserved_bytes
    assert 1 / bounds.tokens_per_s[0] >= (1 / costs.tokens_per_s).mean() * (1 - 1e-11)
    assert bounds.memory_bytes[0] >= held.mean() * (1 - 1e-11)


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


def test_an_early_stage_hops_and_the_last_has_the_head(analytic_scenario):
    """Two layers of different kinds in two stages leave one split, so that the bound is its own.

    Only the slower stage counts, and no bound may mix the hop of one with the layer of the other.
    """
    model = AnalyticCosts(analytic_scenario(num_layers=2))
    row = Candidates.of([Candidate(1, 2, 1, 1, 3, 3, 1, 1)])
    both = row.take(np.array([0, 0]))
    costs = model.stage_costs(both, np.array([0, 1]), np.array([1, 2]))
    pieces = Pieces.of(model._physics, row, np.array([1]))
    first_us = pieces.layer.tick_us[0] + pieces.embedding.tick_us + pieces.hop.tick_us
    last_us = pieces.layer.tick_us[0] + pieces.head.tick_us
    assert costs.time_us.tolist() == pytest.approx([first_us[0], last_us[0]])
    least = max(first_us[0] - pieces.embedding.tick_us[0], last_us[0])
    assert model.bounds(row).tpot_us[0] == pytest.approx(2 * least)


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


@many
@given(data=st.data(), stated=st.sampled_from([None, 1e6]))
def test_no_split_beats_the_declared_bounds_of_mixed_layers(
    data, stated, analytic_scenario, architectures, layouts
):
    declared = Declared(
        flops_per_token=1e9, compute_efficiency=0.5, utilisation=0.5, layer_time_us=7.0,
        kv_cache_bytes_per_gpu=stated,
    )  # fmt: skip
    scenario = analytic_scenario(
        architecture=data.draw(architectures(6)),
        phase=data.draw(st.sampled_from(["prefill", "decode"])),
    ).model_copy(update={"cost_model": "declared", "declared": declared})
    candidate = data.draw(layouts(scenario))
    bounds, (rate, *_, peak) = check_bounds(
        DeclaredCosts(scenario), candidate, scenario.llm.num_layers
    )
    assert bounds.tokens_per_s[0] == pytest.approx(rate)
    if candidate.pp == 1:
        assert bounds.memory_bytes[0] == pytest.approx(peak)
