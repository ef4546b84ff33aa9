"""An engine that exchanges one half of a step while it computes the other."""

import numpy as np
import pytest

from autopar.catalog import load_scenario
from autopar.costs.pieces import Physics
from autopar.costs.steps import Steps
from autopar.costs.timing import Exchange
from autopar.problem import Candidate, Candidates

PARTS = {
    "llm": "deepseek-v3",
    "cluster": "4xhgx-h100",
    "workload": "chat-4k-1k",
    "engine": "sglang",
}


def layer_us(overlaps, attn_dp, ep, etp=1, tp=1):
    """Return the time of a layer with experts, half of its step, and the parts of that half."""
    override = f"engine.two_batch_overlap={str(overlaps).lower()}"
    physics = Physics.of(load_scenario(parts=PARTS, overrides=[override]))
    degrees = {"tp": tp, "attn_dp": attn_dp, "ep": ep, "etp": etp}
    row = Candidate(replicas=1, pp=1, cp=1, spread=1, batch=64, chunks=1, **degrees)
    rows = Candidates.of([row])
    step = Steps.of(physics.shape, rows, rows.attn_dp).quiet
    assert step is not None
    kind = physics.shape.kinds[-1]
    groups = rows.attn_dp.astype(np.float64)
    half, clock = step.half(rows.cp), physics.clock
    part = physics.shape.architecture.feed_forward_of(kind)
    exchanged = Exchange.of(part, rows, groups, half)
    parts = (
        clock._work_us(kind, rows, groups, half),
        clock._exchange_us(part, rows, exchanged, half),
    )
    return clock.layer_us(kind, rows, groups, step)[0], half, [us[0] for us in parts]


def test_the_longer_of_work_and_exchange_counts_once_for_each_half():
    beside, _, parts = layer_us(True, attn_dp=32, ep=32)
    assert beside == pytest.approx(2 * max(parts))
    assert min(parts) > 0
    assert beside != pytest.approx(layer_us(False, attn_dp=32, ep=32)[0])


def test_one_attention_group_exchanges_by_a_sum_that_nothing_hides():
    apart, *_ = layer_us(False, attn_dp=1, ep=8, tp=8)
    beside, *_ = layer_us(True, attn_dp=1, ep=8, tp=8)
    assert beside == pytest.approx(apart)


def test_half_a_step_has_half_of_everything():
    _, half, _ = layer_us(True, attn_dp=32, ep=32)
    assert half.sequences.tolist() == [32]
    assert half.stage_tokens.tolist() == [32 * 32]
    assert half.rank_tokens.tolist() == [32]
