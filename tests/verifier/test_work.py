"""What a step works on, worked by hand from the definitions."""

from math import exp

import numpy as np
import pytest

from autopar.problem import Plan, Stage
from autopar.specs import Workload
from autopar.verifier.work import largest_batch, prompts_of_batch, tokens_gained, work_of


def work(*, pp=1, cp=1, groups=1, batch=0, chunks=1, **workload):
    """Return the work of a stage; only what a step depends on is filled in."""
    stage = Stage(0, (0,), tp=1, cp=cp, attn_dp=groups, ep=1, etp=1, spread=1)
    none = np.zeros((0, 5), dtype=np.int64)
    plan = Plan("plan", "llm", "cluster", 1, pp, (stage,), (), none, batch, chunks)
    return work_of(Workload(name="work", **workload), plan, stage)


def test_given_prompts_are_dealt_whole_to_the_groups():
    """100 tokens in prompts of 30 are 4 prompts, the last of 10: 2, 1 and 1 for three groups."""
    done = work(
        pp=4, cp=2, groups=3, phase="prefill", batch_tokens=100, sequence_tokens=30
    )  # fmt: skip
    (turn,) = done.turns
    assert turn.prompt_parts.tolist() == turn.prompt_ends.tolist() == [2, 1, 1]
    assert turn.group_tokens.tolist() == turn.prompt_keys.tolist() == [60, 30, 30]
    assert turn.rank_tokens.tolist() == [30, 15, 15]
    assert turn.stage_tokens == done.tokens == 100
    assert done.kept_tokens.tolist() == [120, 60, 60]
    assert done.kept_sequences.tolist() == [8, 4, 4]
    assert (done.tick.tolist(), done.passing.tolist()) == ([1], [1])


def test_given_sequences_take_turns_and_all_keep_their_keys():
    """130 sequences: 33 in the largest of 4 micro-batches, 5 of them in the first of 8 groups."""
    done = work(pp=4, cp=2, groups=8, phase="decode", batch_sequences=130, sequence_tokens=99)
    (turn,) = done.turns
    assert turn.sequences.tolist() == turn.logit_rows.tolist() == [5, 4, 4, 4, 4, 4, 4, 4]
    assert turn.context == 50
    assert turn.stage_tokens == 33
    assert done.kept_sequences.tolist() == [17, 17, 16, 16, 16, 16, 16, 16]
    assert done.kept_tokens[0] == 17 * 50
    assert done.tokens == 130 / 4


def test_long_prompt_is_computed_in_parts_that_follow_each_other():
    """20,000 tokens in 4 parts of 5,000, which read 5,000, 10,000, 15,000 and 20,000 keys.

    Over 2 stages the last part ends after 5 of 2 x 1 half passes: 2.5 passes, twice as many with a
    prompt ahead.
    """
    done = work(
        pp=2, groups=3, batch=1, chunks=4, phase="prefill", input_tokens=20_000, prompts_ahead=1.0
    )  # fmt: skip
    (turn,) = done.turns
    assert turn.group_tokens.tolist() == [5000] * 3
    assert turn.prompt_keys.tolist() == [12_500] * 3
    assert turn.prompt_ends.tolist() == turn.logit_rows.tolist() == [0.25] * 3
    assert turn.prompt_length == 20_000
    assert done.passing.tolist() == [5.0]
    assert done.tokens == turn.stage_tokens == 15_000
    assert done.kept_tokens.tolist() == [2 * 20_000] * 3


def test_drafts_widen_a_step_and_gain_what_is_accepted():
    """With 2 drafts at 0.5 a step works on 3 tokens and gains 1 + 0.5 + 0.25.

    1,000 tokens and half of 102 stand in the context, 526 on each of two ranks; 1,102 tokens take
    69 pages of 16, 552 tokens on a rank.
    """
    request = {
        "phase": "decode", "input_tokens": 1000, "output_tokens": 102,
        "speculation": {"draft_tokens": 2, "acceptance": 0.5},
    }  # fmt: skip
    done = work(pp=3, cp=2, groups=2, batch=10, **request)
    (turn,) = done.turns
    assert turn.query_tokens.tolist() == turn.logit_rows.tolist() == [30, 30]
    assert turn.rank_tokens.tolist() == [15, 15]
    assert turn.context == 526
    assert turn.stage_tokens == 60
    assert tokens_gained(Workload(name="w", **request)) == 1.75
    assert done.tokens == 2 * 10 * 1.75
    assert done.kept_sequences.tolist() == [30, 30]
    assert done.kept_tokens.tolist() == [30 * 552] * 2


def test_prompts_come_to_steps_at_random():
    """50 sequences of 101 tokens end at a rate of one half per step.

    A step has no prompt with probability exp(-1/2), and 0.5 / (1 - exp(-1/2)) where it has any. One
    of 3 stages works on a prompt unless three steps had none. 8 prompts of 1,000 fit in a step: it
    is filled to 1/16, and the queue is 1/16 / (2 x 15/16) = 1/30 of the eighth of a step that one
    prompt takes.
    """
    done = work(
        pp=3, groups=2, batch=50, phase="serving", input_tokens=1000, output_tokens=101
    )  # fmt: skip
    quiet, loaded = done.turns
    prompts = 0.5 / (1 - exp(-0.5))
    assert quiet.group_tokens.tolist() == [50, 50]
    assert loaded.group_tokens == pytest.approx([50 + 1000 * prompts] * 2)
    assert loaded.prompt_keys == pytest.approx([1000 * prompts] * 2)
    assert loaded.logit_rows == pytest.approx([50 + prompts] * 2)
    assert loaded.stage_tokens == pytest.approx(2 * (50 + 1000 * prompts))
    share = 1 - exp(-1.5)
    assert done.tick == pytest.approx([1 - share, share])
    waits = 0.5 + 1 / 240
    assert done.passing == pytest.approx([waits * (1 - share), 1 + waits * share])
    assert done.tokens == 100
    assert done.kept_sequences.tolist() == [3 * (50 + 2)] * 2
    assert done.kept_tokens.tolist() == [3 * 52 * 69 * 16] * 2


def test_parts_of_a_prompt_lengthen_fewer_steps_than_as_many_prompts():
    """4 parts in a row keep some of 3 stages busy for 6 steps, 1.5 for each part.

    10 sequences bring 10 x 4 / 100 parts to a step, which takes one of 5,000 tokens at a time.
    """
    done = work(pp=3, batch=10, chunks=4, phase="serving", input_tokens=20_000, output_tokens=101)
    assert done.turns[1].prompt_tokens == pytest.approx([5000])
    assert done.tick[1] == pytest.approx(1 - 0.6**1.5)


def test_steps_hold_no_more_prompts_than_fit():
    """100 sequences bring 3 parts of 7,000 tokens per 3 steps or so; only one fits in 8,192."""
    done = work(batch=33, chunks=3, phase="serving", input_tokens=21_000, output_tokens=101)
    assert done.turns[1].prompt_tokens.tolist() == [7000]
    assert done.tick[1] == pytest.approx(0.99)  # 33 x 3 / 100 of the steps
    assert done.passing.sum() == pytest.approx(3 + 0.5 + 3 * 0.99 / (2 * 0.01))


@pytest.mark.parametrize(
    ("chunks", "workload", "most", "why"),
    [
        (1, {"phase": "prefill", "input_tokens": 1000}, 8, "8,192 tokens"),
        (1, {"phase": "prefill", "input_tokens": 10}, 512, "max_batch_sequences"),
        (2, {"phase": "prefill", "input_tokens": 1000}, 1, "2 parts"),
        (1, {"phase": "decode", "input_tokens": 1000, "output_tokens": 5}, 512, "max_batch"),
        (1, {"phase": "serving", "input_tokens": 1000, "output_tokens": 11}, 79, "as fast"),
        (3, {"phase": "serving", "input_tokens": 24_000, "output_tokens": 100}, 32, "as fast"),
        (2, {"phase": "serving", "input_tokens": 16_000, "output_tokens": 1}, 0, "as fast"),
    ],
)
def test_largest_batch_is_what_the_steps_can_take(chunks, workload, most, why):
    """8 prompts of 1,000 fit in a step of 8,192, 80 sequences of 11 tokens bring 8, too many."""
    found, reason = largest_batch(Workload(name="work", **workload), chunks)
    assert found == most
    assert why in reason


def test_last_prompt_of_a_given_batch_may_be_cut():
    given = {"name": "work", "phase": "prefill", "sequence_tokens": 30}
    assert prompts_of_batch(Workload(batch_tokens=100, **given)) == 4
    assert prompts_of_batch(Workload(batch_tokens=20, **given)) == 1
