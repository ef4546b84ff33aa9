"""Metrics carry the ranges that measured runs justify, and the notes that these need."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.api import solve, verify
from autopar.bands import cost_bands, default_bands, metric_range
from autopar.catalog import load_plan, load_scenario, names
from autopar.expected import band_of, with_ranges
from autopar.problem import Expected
from autopar.report.json import metrics_document
from autopar.report.text import range_rows
from autopar.results import VerifyReport
from autopar.specs import ErrorBands
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


@pytest.fixture
def planted(monkeypatch):
    """Bands whose ends are easy to multiply by, the same for all models and GPUs."""
    ends = {"tpot": (0.8, 1.25), "static": (0.9, 1.1), "ttft": (2.0, 4.0), "prompt": (0.5, 2.0)}
    basis = {"rows": 7, "cells": 2, "gpus": ["some-gpu"], "coverage": 0.5}
    metrics = [
        {"metric": name, "has_kernels": known, "low": low, "high": high, **basis}
        for name, (low, high) in ends.items()
        for known in (True, False)
    ]
    document = default_bands().document() | {"share": 0.7, "metrics": metrics}
    bands = ErrorBands.model_validate(document)
    monkeypatch.setattr("autopar.bands.default_bands", lambda: bands)


@pytest.mark.usefixtures("planted")
def test_times_are_multiplied_and_rates_divided(scenario, solution):
    """A service: TPOT and its rate by the band of TPOT, TTFT by that of clients who queue."""
    metrics = verify(scenario, solution.plan).metrics
    expected, rate = metrics.expected, metrics.tokens_per_s
    assert expected.share == 0.7
    assert expected.tpot_us == pytest.approx((0.8 * metrics.tpot_us, 1.25 * metrics.tpot_us))
    assert expected.ttft_us == pytest.approx((2 * metrics.ttft_us, 4 * metrics.ttft_us))
    assert expected.tokens_per_s == pytest.approx((0.8 * rate, 1.25 * rate))
    each = metrics.tokens_per_s_per_gpu
    assert expected.per_gpu(solution.plan.num_gpus) == pytest.approx((0.8 * each, 1.25 * each))


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize(
    ("workload", "ttft", "tpot", "rate"),
    [
        ("chat-4k-1k", (2.0, 4.0), (0.8, 1.25), (0.8, 1.25)),
        ("prefill-8k", (0.5, 2.0), None, (0.5, 2.0)),
        ("prefill-10240", (0.5, 2.0), None, (0.5, 2.0)),
        ("decode-256x4k", None, (0.9, 1.1), (1 / 1.1, 1 / 0.9)),
    ],
)
def test_each_kind_of_work_has_the_band_of_runs_like_it(solution, workload, ttft, tpot, rate):
    """Prompts alone wait for nobody; a given batch is decoded as a static one."""
    asked = load_scenario(None, parts=PARTS | {"workload": workload})
    metrics = replace(solution.metrics, tokens_per_s=1.0, ttft_us=1.0, tpot_us=1.0)
    found = with_ranges(asked, report_of(metrics), solution.plan).metrics.expected
    for own, ends in ((found.ttft_us, ttft), (found.tpot_us, tpot), (found.tokens_per_s, rate)):
        assert own == (None if ends is None else pytest.approx(ends))


def report_of(metrics):
    return VerifyReport("plan", violations=(), metrics=metrics)


@given(
    st.sampled_from(["llama-3.1-70b", "gpt-oss-120b"]),
    st.sampled_from(["2xhgx-h100", "1xhgx-h800", "1x8-mi300x"]),
    st.sampled_from(names("workload")),
    st.tuples(*[st.floats(1e-3, 1e9)] * 3),
)
def test_a_value_lies_in_its_range_unless_the_answer_calls_it_biased(
    solution, llm, cluster, workload, values
):
    parts = {"llm": llm, "cluster": cluster, "workload": workload}
    rate, ttft_us, tpot_us = values
    metrics = replace(
        solution.metrics,
        tokens_per_s=rate,
        tokens_per_s_per_gpu=rate / 16,
        ttft_us=ttft_us,
        tpot_us=tpot_us,
    )
    report = with_ranges(load_scenario(None, parts=parts), report_of(metrics), solution.plan)
    document = metrics_document(report.metrics)
    bands, rows = document["bands"], range_rows(report.metrics)
    for name, said in (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT"), ("tokens_per_s", "throughput")):
        if bands[name] is None:
            assert rows[said] == "no measurement like it"
            continue
        low, high = bands[name]
        outside = not low <= document[name] <= high
        assert (name in bands["biased"]) is outside
        assert rows[said].startswith("biased: ") is outside
        assert not outside or any("is biased: published runs" in note for note in report.notes)


def test_a_gpu_that_is_nearly_full_is_named(scenario, solution):
    """97.5 % of memory is the most that an error of 2.5 % leaves room for."""
    room = scenario.cluster.gpu.memory_bytes
    said = []
    for share in (0.97, 0.98):
        metrics = replace(solution.metrics, peak_memory_bytes=round(share * room))
        notes = with_ranges(scenario, report_of(metrics), solution.plan).notes
        said.append(any("of its memory, which has no range" in note for note in notes))
    assert said == [False, True]


def test_kernels_of_a_sibling_are_not_those_of_the_gpu(scenario):
    """Nobody measured an H800: it has the kernels of the H100, and the wider band."""
    own = load_scenario(None, parts=PARTS | {"cluster": "2xhgx-h800"}, overrides=LIMITS)
    answers = [solve(asked, diagnose=False) for asked in (scenario, own)]
    width = [a.metrics.expected.tpot_us[1] / a.metrics.tpot_us for a in answers]
    assert width[1] > width[0]
    [note] = [n for n in answers[1].notes if "no kernels of h800-sxm-80gb were measured" in n]
    assert "no GPU of another maker was tried" in note
    assert not any("no kernels of" in n for n in answers[0].notes)


def test_the_second_opinion_on_the_same_plan_has_the_same_ranges(scenario, solution):
    report = verify(scenario, solution.plan)
    assert report.metrics == solution.metrics
    assert set(report.notes) <= set(solution.notes)


def test_a_note_says_what_the_ranges_are_from(solution):
    band = metric_range("tpot", is_moe=False, has_kernels=True).basis
    (note,) = [n for n in solution.notes if "measured runs" in n]
    assert f"TPOT from {band.rows:,} runs of {band.cells} cells" in note
    assert "autopar validate" in note


def test_runs_are_named_by_gpu_and_no_share_is_claimed_for_a_gpu_without_any(scenario, solution):
    """The runs of TPOT are of H100s too, of TTFT they are not, and of L40S there are none."""
    [note] = [n for n in solution.notes if n.startswith("none of the runs")]
    assert "runs of TTFT (two to four clients) is on h100-sxm-80gb" in note
    own = {"llm": "llama-3.1-8b", "cluster": "8xl40s", "workload": "chat-4k-1k"}
    notes = solve(load_scenario(None, parts=own), diagnose=False).notes
    [note] = [n for n in notes if n.startswith("none of the runs")]
    assert "runs of TTFT (two to four clients) and TPOT is on l40s-48gb" in note
    [note] = [n for n in notes if "measured runs behind the ranges" in n]
    assert "(b200-sxm-180gb, gb200-186gb, h100-sxm-80gb, h200-sxm-141gb)" in note


@pytest.mark.parametrize(
    ("llm", "cluster", "what"),
    [
        ("qwen3-32b-fp8", "1xhgx-a100", "products with weights in fp8_block:"),
        (
            "deepseek-v3.1-nvfp4",
            "1xhgx-h200",
            "products of experts in nvfp4, products with weights in nvfp4:",
        ),
        ("llama-3.1-70b", "8xl40s", "all-reduce, all-gather and reduce-scatter:"),
    ],
)
def test_operations_that_are_assumed_are_named_and_widen_the_ranges(llm, cluster, what):
    """A100 has no fit of FP8, H200 none of 4 bits, L40S none of collectives."""
    parts = {"llm": llm, "cluster": cluster, "workload": "chat-4k-1k"}
    asked = load_scenario(None, parts=parts)
    if cluster == "8xl40s":
        asked = changed(asked, "rules", [_rule("tp > 1")])
    found = solve(asked, diagnose=False)
    [note] = [n for n in found.notes if n.startswith(f"not measured on {asked.cluster.gpu.name}")]
    assert f"but assumed: {what}" in note
    band = metric_range("tpot", is_moe=asked.llm.is_moe, has_kernels=False)
    metrics = found.metrics
    assert metrics.expected.tpot_us[1] == pytest.approx(metrics.tpot_us * band.high)


def test_one_measured_product_does_not_make_all_bands_narrow(scenario):
    """As a calibration of products alone would: attention and collectives are assumed."""
    kernels = scenario.cluster.gpu.kernels
    gemm = {"bf16": kernels.gemm["bf16"].model_dump()}
    alone = changed(scenario, "cluster.gpu.kernels", {"gemm": gemm})
    bands, costs = default_bands().costs, cost_bands(alone)
    assert costs.gemm == bands.measured.gemm
    for kind in ("attention", "all_reduce", "gather"):
        assert getattr(costs, kind) == getattr(bands.assumed, kind) > 1
    solution = solve(alone, diagnose=False)
    [note] = [n for n in solution.notes if n.startswith("not measured on h100-sxm-80gb")]
    assert "attention of prompts with a cache in bf16" in note
    assert "products with weights" not in note


def test_a_range_that_is_no_wider_is_not_called_so(scenario):
    """Without kernels a band is another one, or the same; the note says which are wider."""
    bare = load_scenario(None, parts=PARTS, overrides=[*LIMITS, "cluster.gpu.kernels=null"])
    [note] = [n for n in solve(bare, diagnose=False).notes if n.startswith("no kernels of")]
    for metric in ("tpot", "ttft"):
        with_, without = (
            metric_range(metric, is_moe=False, has_kernels=known) for known in (True, False)
        )
        wider = (without.low, without.high) != (with_.low, with_.high)
        name = {"tpot": "TPOT", "ttft": "TTFT (two to four clients)"}[metric]
        said_wider, _, rest = note.partition(" wider than with measured kernels")
        assert (name in said_wider) == (wider and bool(rest))


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


@pytest.mark.parametrize(("rule", "is_said"), [("tp * pp == 8", False), ("tp * pp == 80", True)])
def test_nodes_of_one_scale_up_domain_are_not_said_to_talk_over_the_fabric(rule, is_said):
    """Nodes of 4 GPUs, 18 of them in a domain of 72."""
    parts = PARTS | {"cluster": "2xgb200-nvl72"}
    asked = changed(load_scenario(None, parts=parts), "rules", [_rule(rule)])
    solution = solve(asked, diagnose=False)
    assert solution.plan is not None
    assert any("over the fabric" in note for note in solution.notes) is is_said


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
