"""Metrics carry the ranges that measured runs justify, and the notes that these need."""

from dataclasses import replace

import pytest

from autopar.api import solve, verify
from autopar.bands import default_bands, metric_range, ranges
from autopar.catalog import load_plan, load_scenario
from autopar.expected import band_of
from autopar.problem import Expected
from autopar.specs.change import changed

PARTS = {"llm": "llama-3.1-70b", "cluster": "2xhgx-h100", "workload": "chat-4k-1k"}
PAIR = PARTS | {"workload": "chat-4k-1k-disaggregated"}
LIMITS = ["requirements.max_ttft_us=5s", "requirements.max_tpot_us=50ms"]


@pytest.fixture(scope="module")
def scenario():
    return load_scenario(None, parts=PARTS, overrides=LIMITS)


@pytest.fixture(scope="module")
def solution(scenario):
    return solve(scenario, diagnose=False)


def test_every_metric_that_was_measured_has_its_range(solution):
    known, metrics = ranges(solution.scenario), solution.metrics
    expected = metrics.expected
    assert expected.share == default_bands().share
    assert expected.tpot_us == pytest.approx(
        (metrics.tpot_us * known["tpot"].low, metrics.tpot_us * known["tpot"].high)
    )
    assert expected.ttft_us[1] == pytest.approx(metrics.ttft_us * known["ttft"].high)
    assert expected.tokens_per_s == pytest.approx(
        (metrics.tokens_per_s / known["tpot"].high, metrics.tokens_per_s / known["tpot"].low)
    )


def test_the_second_opinion_on_the_same_plan_has_the_same_ranges(scenario, solution):
    report = verify(scenario, solution.plan)
    assert report.metrics == solution.metrics
    assert set(report.notes) <= set(solution.notes)


def test_a_note_says_what_the_ranges_are_from(solution):
    band = metric_range("tpot", is_moe=False, has_kernels=True).basis
    (note,) = [n for n in solution.notes if "measured runs" in n]
    assert f"TPOT from {band.rows:,} runs of {band.cells} cells" in note
    assert "autopar validate" in note


def test_a_limit_that_only_part_of_the_range_meets_is_named(scenario, solution):
    """TPOT ends just below its limit, and half of the measured runs are slower than predicted."""
    assert any(
        n.startswith("TPOT meets 50.0 ms in the prediction; its range") for n in solution.notes
    )
    loose = changed(scenario, "requirements.max_tpot_us", "10 s")
    report = verify(loose, replace(solution.plan))
    assert not any(note.startswith("TPOT meets") for note in report.notes)


def test_a_rate_that_only_part_of_the_range_meets_is_named(scenario, solution):
    rate = solution.metrics.tokens_per_s
    for least, named in ((rate * 0.999, True), (rate * 0.1, False)):
        needy = changed(scenario, "requirements.min_tokens_per_s", f"{least} tokens/s")
        notes = verify(needy, solution.plan).notes
        assert any(note.startswith("throughput meets") for note in notes) is named


def test_a_gpu_without_measured_kernels_has_its_own_ranges_and_says_so(scenario):
    bare = load_scenario(None, parts=PARTS, overrides=[*LIMITS, "cluster.gpu.kernels=null"])
    solution = solve(bare, diagnose=False)
    band = metric_range("tpot", is_moe=False, has_kernels=False)
    metrics = solution.metrics
    assert metrics.expected.tpot_us[1] == pytest.approx(metrics.tpot_us * band.high)
    assert any("no kernels of" in note for note in solution.notes)


def test_what_a_document_declares_has_no_range():
    scenario = load_scenario("moe-16x16-512gpu")
    report = verify(scenario, load_plan("ep16-tp2-pp8"))
    assert report.metrics.expected is None
    assert not any("measured" in note for note in report.notes)


def test_groups_that_span_nodes_are_named_and_replicas_inside_nodes_are_not(scenario):
    spanning = changed(scenario, "rules", [_rule("tp * pp == 16")])
    confined = changed(scenario, "rules", [_rule("tp * pp <= 8")])
    said = [
        any("spans several nodes" in note for note in solve(asked, diagnose=False).notes)
        for asked in (spanning, confined)
    ]
    assert said == [True, False]


def test_the_rate_of_two_roles_ends_where_that_of_the_slower_one_does():
    """A request has 1,024 tokens of output, of which decode makes all but the first."""
    solution = solve(load_scenario(None, parts=PAIR, overrides=LIMITS), diagnose=False)
    roles, work = solution.roles, solution.scenario.workload
    per_s = {
        "prefill": [end / work.input_tokens for end in roles["prefill"].expected.tokens_per_s],
        "decode": [end / (work.output_tokens - 1) for end in roles["decode"].expected.tokens_per_s],
    }
    ends = [min(pair) * work.output_tokens for pair in zip(*per_s.values(), strict=True)]
    assert solution.metrics.expected.tokens_per_s == pytest.approx(ends)
    assert roles["prefill"].expected.tpot_us is None
    assert roles["decode"].expected.ttft_us is None


def _rule(text):
    return {"name": "shape", "require": text, "because": "the test asks for it"}


def test_leads_are_held_against_half_of_a_range_about_its_middle(solution):
    """Measured values from 0.8 to 1.8 times: a bias of 1.2 is common, what is left is 1.5 times."""
    biased = replace(solution.metrics, expected=Expected(0.8, (0.8, 1.8), None, None))
    assert band_of("throughput", biased) == pytest.approx(0.5)
    assert band_of("cost", biased) == pytest.approx(0.5)
    assert band_of("ttft", biased) is None
    assert band_of("memory", biased) is None
    assert band_of("throughput", replace(solution.metrics, expected=None)) is None
