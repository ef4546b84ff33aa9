"""Measured training runs are scored beside those of serving."""

import pytest

from autopar.catalog import load_scenario
from autopar.specs import TrainingCase
from autopar.training import memory, step_us
from autopar.validation.outcomes import evaluate
from autopar.validation.report import validate

ROW = {
    "id": "run",
    "tp": 8,
    "sequence_tokens": 2048,
    "global_batch_sequences": 4,
    "micro_batch_sequences": 4,
}


def case_of(**row):
    return TrainingCase.model_validate(
        {
            "mode": "training",
            "llm": "gpt-22b",
            "cluster": "1xhgx-a100",
            "source": "nobody",
            "rows": [ROW | row],
        }
    )


def outcomes_of(**row):
    found = evaluate([("here", case_of(**row))])
    assert not found.left_out
    return {outcome.metric: outcome for outcome in found.outcomes}


def test_a_run_is_predicted_by_the_cost_of_its_step_and_of_its_memory():
    found = outcomes_of(step_s=1.5, state_gib=45.0, activation_gib=50.0)
    row = case_of(step_s=1.5).rows[0]
    scenario = load_scenario(
        parts={"llm": "gpt-22b", "cluster": "1xhgx-a100", "workload": "prefill-8k"},
        overrides=["llm.max_context_tokens=null"],
    )
    expected = step_us(scenario.llm, scenario.cluster, row).total_us / 1e6
    assert found["step_s"].predicted == pytest.approx(expected)
    kept = memory(scenario.llm, row)
    assert found["state_gib"].predicted == pytest.approx(kept.state_bytes / 2**30)
    assert found["activation_gib"].predicted == pytest.approx(kept.activations_bytes / 2**30)


def test_a_trivial_model_takes_six_flops_for_each_parameter_and_token():
    """6 x 22e9 x 8,192 tokens over 8 x 312 TFLOPS: 0.43 s."""
    trivial = outcomes_of(step_s=1.5)["step_s"].trivial
    assert trivial["flops"] == pytest.approx(0.43, rel=0.05)
    assert "bytes" not in trivial


def test_a_layout_that_does_not_fit_is_left_out_with_the_reason():
    found = evaluate([("here", case_of(step_s=1.5, replicas=3))])
    assert not found.outcomes
    [reason] = found.left_out
    assert "not a multiple" in reason


@pytest.mark.measured
def test_published_runs_have_no_band_and_an_order_of_their_own():
    found = validate(only=["korthikanti-2022", "vtrain-2023"])
    assert found.group("step_s").inside is None
    assert found.group("state_gib").mape <= 0.08
    assert found.group("activation_gib").mape <= 0.08
    assert found.ranking is None
    assert found.training_ranking.tau >= 0.7
