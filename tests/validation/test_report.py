"""Scores by group, and how they are said."""

import json

import pytest
from rich.console import Console

from autopar.bands import default_bands, metric_range
from autopar.errors import SpecError
from autopar.report.validation import print_validation, validation_document
from autopar.validation.outcomes import Evaluation, Outcome
from autopar.validation.report import METRICS, scored, validate


def outcome(predicted=10.0, measured=10.0, **fields):
    given = {
        "source": "s",
        "row": "r",
        "cell": "c",
        "case": "q",
        "llm": "m",
        "gpu": "h100-sxm-80gb",
        "engine": "vllm",
        "mode": "closed_loop",
        "is_moe": False,
        "has_kernels": True,
        "metric": "tpot_ms",
        "trivial": {"flops": 5.0, "bytes": 20.0},
    }
    return Outcome(predicted=predicted, measured=measured, **(given | fields))


def scores(*outcomes):
    return scored(Evaluation(outcomes, {}))


def test_groups_are_scored_apart_and_together():
    found = scores(outcome(), outcome(predicted=12.0, gpu="b200-sxm-180gb", engine="sglang"))
    assert found.group("tpot_ms").mape == pytest.approx(0.1)
    assert found.group("tpot_ms", "gpu", "h100-sxm-80gb").mape == 0
    assert found.group("tpot_ms", "engine", "sglang").bias == pytest.approx(0.2)
    assert found.group("ttft_ms") is None


def test_a_trivial_model_has_one_constant_for_all_groups():
    """5 and 10 for 10 and 10: the median ratio of 0.75 makes 6.7 and 13.3, a third off each."""
    found = scores(outcome(), outcome(trivial={"flops": 10.0, "bytes": 20.0}, gpu="other"))
    assert found.group("tpot_ms").baselines["flops"] == pytest.approx(1 / 3)
    assert found.group("tpot_ms", "gpu", "other").baselines["flops"] == pytest.approx(1 / 3)
    assert found.group("tpot_ms").baselines["bytes"] == pytest.approx(0.0)


def test_a_row_is_inside_the_band_that_answers_carry():
    band = metric_range("tpot", is_moe=False, has_kernels=True)
    edges = [outcome(measured=10 * edge) for edge in (band.low * 1.001, band.high * 0.999)]
    beyond = [outcome(measured=10 * edge) for edge in (band.low * 0.99, band.high * 1.01)]
    assert scores(*edges).group("tpot_ms").inside == 1
    assert scores(*beyond).group("tpot_ms").inside == 0


def test_a_row_without_a_band_is_outside():
    nothing = outcome(is_moe=True, has_kernels=False, metric="ttft_ms")
    if metric_range("ttft", is_moe=True, has_kernels=False) is None:
        assert scores(nothing).group("ttft_ms").inside == 0


def test_plans_of_one_question_are_ordered_by_their_rates():
    found = scores(outcome(rate=(100.0, 90.0)), outcome(rate=(50.0, 95.0)))
    assert found.ranking.tau == -1
    assert scores(outcome(rate=(100.0, 90.0), case="a"), outcome(rate=(5.0, 9.0))).ranking is None


def test_rows_that_were_held_back_are_a_group():
    found = scores(outcome(is_held_back=True, predicted=30.0), outcome())
    assert found.group("tpot_ms", "load", "held back").mape == pytest.approx(2.0)
    assert found.group("tpot_ms", "load", "admitted").mape == 0


def test_the_document_has_every_group_and_the_rows_that_are_asked_for():
    found = scores(outcome(), outcome(metric="ttft_ms"))
    document = json.loads(json.dumps(validation_document(found, rows=True)))
    assert document["schema"] == 1
    assert document["band_share"] == default_bands().share
    assert {g["metric"] for g in document["groups"]} == {"tpot_ms", "ttft_ms"}
    assert document["rows"][0]["predicted"] == 10
    assert "rows" not in validation_document(found)


def test_the_text_fits_80_columns_and_names_everything():
    found = scored(
        Evaluation(
            (outcome(source="a-source-with-quite-a-long-name"), outcome(gpu="b200-sxm-180gb")),
            {f"reason {i}": 1 for i in range(12)},
        )
    )
    console = Console(width=80, file=None, color_system=None, record=True)
    with console.capture() as captured:
        print_validation(console, found)
    lines = captured.get().splitlines()
    assert max(len(line) for line in lines) <= 80
    text = " ".join(captured.get().split())
    assert "b200-sxm-180gb" in text
    assert "4 rows for other reasons" in text


def test_an_unknown_source_is_refused_with_the_known_ones():
    with pytest.raises(SpecError, match=r"unknown source 'nims'.*nim-llama-3\.3-70b"):
        validate(only=["nims"])


@pytest.mark.measured
def test_shipped_measurements_are_predicted_within_the_stated_errors():
    """As results/validation/shipped.md says, with a little room for a change of constants."""
    found = validate()
    most = {"tpot_ms": 0.20, "e2e_s": 0.12, "ttft_ms": 0.25, "us_per_token": 0.12}
    for metric, error in most.items():
        assert found.group(metric).mape <= error, METRICS[metric]
    assert found.group("tpot_ms", "load", "admitted").mape <= 0.15
    assert found.ranking.tau >= 0.8
    assert not found.left_out
