"""Predictions of measured runs are what the cost model says, and arithmetic on it."""

import numpy as np
import pytest

from autopar import api
from autopar.catalog import load_plan, load_scenario
from autopar.errors import SpecError
from autopar.specs import ServingCase, ServingRow
from autopar.validation.serving import FEW, predict, setup_of

CASE = {"llm": "llama-3.1-70b-fp8", "cluster": "1xhgx-h200", "source": "nobody"}
LENGTHS = {"input_tokens": 1024, "output_tokens": 512}


def case_of(mode="closed_loop", rows=(), **fields):
    return ServingCase.model_validate(
        CASE | fields | {"mode": mode, "rows": rows or [{"id": "r", "tpot_ms": 1, **LENGTHS}]}
    )


def predicted(mode="closed_loop", case=None, engine=None, **row):
    case = case_of(mode, **(case or {}))
    full = ServingRow.model_validate({"id": "r", "tpot_ms": 1, **LENGTHS, **row})
    setup = setup_of(case, full.num_gpus)
    if engine is not None:
        setup = setup.with_engine(engine)
    return predict(setup, mode, full)


def verified(workload, batch, plan=None, **parts):
    """What verify says of a plan of tensor parallelism 2 under a workload."""
    scenario = load_scenario(
        {
            "name": "s",
            "llm": CASE["llm"],
            "cluster": CASE["cluster"],
            "workload": {"name": "w", **workload},
        }
    )
    degrees = {"tp": 2, "replicas": 1}
    document = {"name": "p", "llm": CASE["llm"], "degrees": degrees, **(plan or {})}
    if batch:
        document["batch"] = batch
    report = api.verify(scenario, load_plan(document))
    assert report.metrics is not None, report.violations
    return report.metrics


def test_a_static_batch_is_what_verify_says_of_its_two_phases():
    found = predicted("static", tp=2, concurrency=16, e2e_s=1.0)
    prompts = verified({"phase": "prefill", "batch_tokens": 16 * 1024, "sequence_tokens": 1024}, 0)
    answers = verified({"phase": "decode", "batch_sequences": 16, "sequence_tokens": 1024 + 256}, 0)
    assert found.ttft_ms == pytest.approx(prompts.ttft_us / 1e3)
    assert found.tpot_ms == pytest.approx(answers.tpot_us / 1e3)
    assert found.e2e_s == pytest.approx((prompts.ttft_us + 511 * answers.tpot_us) / 1e6)


def test_a_closed_loop_meets_the_prompts_of_the_others_and_not_its_own():
    """quiet + (1 - 1/16) (mixed - quiet), as verify recomputes both."""
    found = predicted(tp=2, concurrency=16)
    lengths = {"input_tokens": 1024, "output_tokens": 512}
    mixed = verified({"phase": "serving", **lengths}, 16)
    quiet = verified({"phase": "decode", **lengths}, 16)
    expected = quiet.tpot_us + (1 - 1 / 16) * (mixed.tpot_us - quiet.tpot_us)
    assert found.tpot_ms == pytest.approx(expected / 1e3)
    assert found.batch == 16


def test_a_lone_client_meets_no_prompt():
    found = predicted(tp=2, concurrency=1)
    quiet = verified({"phase": "decode", "input_tokens": 1024, "output_tokens": 512}, 1)
    alone = verified({"phase": "prefill", "input_tokens": 1024}, 1)
    assert found.tpot_ms == pytest.approx(quiet.tpot_us / 1e3)
    assert found.ttft_ms == pytest.approx(alone.ttft_us / 1e3)


def test_where_prompts_go_first_half_of_them_come_before_the_first_token():
    apart = predicted(tp=2, concurrency=16, engine={"prompts_first": True})
    mixed = predicted(tp=2, concurrency=16, engine={})
    quiet = verified({"phase": "decode", "input_tokens": 1024, "output_tokens": 512}, 16)
    prompts_ms = mixed.tpot_ms - quiet.tpot_us / 1e3
    assert apart.tpot_ms == pytest.approx(mixed.tpot_ms - prompts_ms / 2)
    assert apart.tokens_per_s_per_gpu == pytest.approx(mixed.tokens_per_s_per_gpu)


def test_more_clients_than_memory_holds_do_not_run_at_once():
    some, more = (
        predicted(tp=1, concurrency=n, input_tokens=8192, output_tokens=1024) for n in (64, 128)
    )
    assert some.batch < 64
    assert more.batch == some.batch
    assert more.tpot_ms == pytest.approx(some.tpot_ms)


def test_ttft_is_of_lone_requests_and_of_few_clients_apart():
    alone, few, many = (predicted(tp=2, concurrency=n) for n in (1, FEW, FEW + 1))
    assert alone.ttft_ms == alone.prompt_ms
    assert alone.ttft_few_ms is None
    assert few.ttft_ms is None
    assert few.ttft_few_ms > few.prompt_ms
    assert (many.ttft_ms, many.ttft_few_ms) == (None, None)


def test_groups_and_replicas_share_the_clients():
    whole = predicted(tp=2, concurrency=16)
    halves = predicted(tp=2, replicas=2, concurrency=32)
    assert halves.tpot_ms == pytest.approx(whole.tpot_ms)
    assert halves.tokens_per_s_per_gpu == pytest.approx(whole.tokens_per_s_per_gpu)


def test_pipelined_stages_take_their_clients_in_turn():
    found = predicted(tp=2, pp=2, concurrency=32)
    assert found.batch == 16


def test_phases_alone_give_rates_per_gpu():
    deepseek = {"llm": "deepseek-v3", "cluster": "4xhgx-h100", "expert_load": "even"}
    prefill = predicted(
        "prefill", case=deepseek, attn_dp=32, ep=32, input_tokens=4096, step_tokens=8192
    )
    decode = predicted(
        "decode", case=deepseek, attn_dp=32, ep=32, concurrency=32 * 64, output_tokens=100
    )
    assert prefill.tokens_per_s_per_gpu > 1000
    assert decode.tokens_per_s_per_gpu == pytest.approx(64e3 / decode.tpot_ms)


def test_skewed_experts_are_slower_than_balanced_ones():
    deepseek = {"llm": "deepseek-v3", "cluster": "4xhgx-h100"}
    row = {"attn_dp": 32, "ep": 32, "input_tokens": 4096, "step_tokens": 8192}
    rates = [
        predicted("prefill", case=deepseek | {"expert_load": load}, **row).tokens_per_s_per_gpu
        for load in ("even", "power_law_1.01")
    ]
    assert rates[0] > rates[1]


def test_a_cluster_grows_to_hold_the_run():
    case = case_of(llm="deepseek-v3", cluster="1xhgx-h100")
    assert setup_of(case, 72).cluster.num_gpus == 72
    assert setup_of(case, 4).cluster.num_gpus == 8


def test_a_bare_gpu_takes_what_is_assumed():
    case = case_of(cluster="1xhgx-b200")
    row = ServingRow.model_validate({"id": "r", "tpot_ms": 1, "tp": 2, **LENGTHS})
    measured, bare = (
        predict(setup_of(case, 2, bare=flag), "closed_loop", row).tpot_ms for flag in (False, True)
    )
    assert measured != pytest.approx(bare)
    assert setup_of(case, 2, bare=True).cluster.gpu.kernels is None


def test_a_name_that_the_catalogue_lacks_is_said():
    with pytest.raises(SpecError, match="llama-9"):
        setup_of(case_of(llm="llama-9"), 1)


def test_time_grows_with_clients():
    times = [predicted(tp=2, concurrency=n).tpot_ms for n in (1, 2, 8, 32, 128)]
    assert np.all(np.diff(times) > 0)
