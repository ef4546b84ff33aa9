"""How a batch and a model are divided, by hand."""

import numpy as np
import pytest

from autopar.costs.shares import Shape, Shares, ceil_div
from autopar.problem import Candidate, Candidates


def shares_of(scenario, candidate, num_layers=2):
    shape = Shape.of(scenario.llm, scenario.workload)
    return Shares.of(shape, Candidates.of([candidate]), np.array([num_layers]))


def test_ceil_div_rounds_up():
    assert ceil_div(7, np.array([1, 2, 3, 7, 8])).tolist() == [7, 4, 3, 1, 1]


def test_decode_takes_turns_in_micro_batches(analytic_scenario):
    """50 sequences, pp 4: 13 at once; 3 groups: 5 of them in the busiest.

    All 50 stay: ceil(50 / 3) = 17 sequences x 20 tokens of context = 340 tokens.
    """
    share = shares_of(analytic_scenario(batch=50), Candidate(1, 4, 2, 1, 3, 6, 1, 1))
    assert share.step_tokens == 13
    assert share.group_tokens == share.rank_tokens == share.group_sequences == 5
    assert share.resident_tokens == 340


def test_decode_splits_the_context_of_a_sequence_over_cp(analytic_scenario):
    """48 sequences, 2 groups: 24; cp 3: 8 tokens a rank; ceil(20 / 3) = 7 keys; 24 x 7 = 168."""
    share = shares_of(analytic_scenario(), Candidate(1, 1, 1, 3, 2, 6, 1, 1))
    assert (share.group_tokens, share.rank_tokens, share.context) == (24, 8, 7)
    assert share.resident_tokens == 168


def test_a_prompt_stays_whole_in_its_group(analytic_scenario):
    """100 tokens in prompts of 30: 4 prompts, the last one cut.

    1 group: all 100. 3 groups: 2 prompts, 60 tokens. 6 groups: still one prompt of 30.
    """
    scenario = analytic_scenario(phase="prefill", batch=100, sequence_tokens=30)
    for groups, sequences, tokens in ((1, 4, 100), (3, 2, 60), (6, 1, 30)):
        share = shares_of(scenario, Candidate(1, 1, 1, 1, groups, groups, 1, 1))
        assert share.step_tokens == 100
        assert (share.group_sequences, share.group_tokens) == (sequences, tokens)


def test_a_prompt_longer_than_the_batch_is_cut_to_it(analytic_scenario):
    scenario = analytic_scenario(phase="prefill", batch=100, sequence_tokens=500)
    shape = Shape.of(scenario.llm, scenario.workload)
    assert (shape.num_sequences, shape.sequence_tokens) == (1, 100)


def test_prefill_keeps_one_batch_per_stage(analytic_scenario):
    """3 stages x 50 tokens a rank."""
    scenario = analytic_scenario(phase="prefill", batch=100, sequence_tokens=30)
    assert shares_of(scenario, Candidate(1, 3, 1, 2, 1, 2, 1, 1)).resident_tokens == 150


def test_shards_are_rounded_up_to_whole_heads_rows_and_experts(analytic_scenario):
    """12 heads / 5 = 3; 4 kv heads / 5 = 1; 5,003 / 5 = 1,001; 1,500 / 7 = 215; 6 / 4 = 2."""
    share = shares_of(analytic_scenario(), Candidate(1, 1, 5, 1, 28, 4, 7, 5))
    assert (share.heads, share.kv_heads, share.vocab_size) == (3, 1, 1001)
    assert (share.expert_size, share.experts, share.ffn_size) == (215, 2, 0)


def test_rows_of_an_expert_rank(analytic_scenario):
    """48 tokens x 2 experts each / 6 experts = 16 rows an expert; 2 experts on a rank: 32 rows.

    A token goes to 2 of 3 ranks: 48 x 2 / 3 = 32 arrive. With one rank each token arrives once: 48.
    """
    scenario = analytic_scenario()
    three = shares_of(scenario, Candidate(1, 1, 1, 1, 3, 3, 1, 1))
    assert (three.expert_rows, three.copies) == (32, 2)
    assert three.dispatched_rows == pytest.approx(32)
    one = shares_of(scenario, Candidate(1, 1, 1, 1, 1, 1, 1, 1))
    assert (one.expert_rows, one.copies, one.dispatched_rows) == (96, 1, 48)


def test_a_grid_per_layer_adds_attention_groups(analytic_scenario):
    """Grids of 6 x 2 GPUs; 3 layers: 36 GPUs, tp 2: 18 groups."""
    share = shares_of(analytic_scenario(), Candidate(1, 1, 2, 1, 0, 6, 2, 0), num_layers=3)
    assert (share.spread, share.groups, share.stage_gpus) == (3, 18, 36)
