"""The pieces of a stage's time: which collectives run, over which link, with how many bytes.

Links of the small cluster, GB/s and us: 400 and 1 in a node of 4 GPUs, 200 and 2 in a domain of 8,
50 and 4 beyond; 0.7 of the bandwidth arrives, a collective starts in 4.6 us. A row has 2,000 bytes.
"""

import numpy as np
import pytest

from autopar.costs.operations.kernels import Device
from autopar.costs.shares import Shape, Shares
from autopar.costs.timing import Clock
from autopar.problem import Candidate, Candidates


def clock_and_share(scenario, candidate, num_layers=1):
    shape = Shape.of(scenario.llm, scenario.workload)
    clock = Clock(shape, scenario.cluster, Device.of(scenario.cluster.gpu))
    return clock, Shares.of(shape, Candidates.of([candidate]), np.array([num_layers]))


def exchange_us(scenario, candidate):
    clock, share = clock_and_share(scenario, candidate)
    return clock._exchange_us(share)[0]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (1, 4.6 + 1 + 48 * 2000 / 0.28e6),  # 2 stages of 1 GPU: a node
        (2, 4.6 + 1 + 24 * 2000 / 0.28e6),  # of 2: just a node
        (4, 4.6 + 2 + 12 * 2000 / 0.14e6),  # of 4: a domain
        (6, 4.6 + 4 + 8 * 2000 / 0.035e6),  # of 6: beyond
    ],
)
def test_a_hop_sends_the_tokens_of_a_rank_over_the_link_of_two_stages(
    groups, expected, analytic_scenario
):
    scenario = analytic_scenario(batch=96)  # pp 2 halves it
    clock, share = clock_and_share(scenario, Candidate(1, 2, 1, 1, groups, groups, 1, 1))
    assert clock.hop_us(share)[0] == pytest.approx(expected)


def test_one_attention_group_needs_one_all_reduce(analytic_scenario):
    """tp 3: 2 x 2 steps of 1 us; 4/3 x 48 rows x 2,000 bytes / 0.28e12 = 0.457 us; + 4.6."""
    found = exchange_us(analytic_scenario(), Candidate(1, 1, 3, 1, 1, 3, 1, 1))
    assert found == pytest.approx(4.6 + 4 + 4 / 3 * 96_000 / 0.28e6)


def test_one_gpu_exchanges_nothing(analytic_scenario):
    assert exchange_us(analytic_scenario(), Candidate(1, 1, 1, 1, 1, 1, 1, 1)) == 0


def test_more_groups_exchange_tokens_both_ways(analytic_scenario):
    """3 groups of 1 GPU, ep 3: 16 tokens x 2 copies leave, 48 x 2 / 3 = 32 arrive: 32 rows.

    2 steps of 1 us, 2/3 x 64,000 / 0.28e12 = 0.152 us, + 4.6; twice. No sum over etp = 1.
    """
    found = exchange_us(analytic_scenario(), Candidate(1, 1, 1, 1, 3, 3, 1, 1))
    assert found == pytest.approx(2 * (4.6 + 2 + 2 / 3 * 64_000 / 0.28e6))


def test_sums_over_expert_shards_run_between_the_two(analytic_scenario):
    """2 groups of tp 2, ep 2, etp 2: 24 tokens x 2 copies = 48 rows, both ways over 2 groups.

    The sum over etp: 48 rows, 2 steps of 1 us, 96,000 bytes whole.
    """
    found = exchange_us(analytic_scenario(), Candidate(1, 1, 2, 1, 2, 2, 2, 1))
    one_way = 4.6 + 1 + 1 / 2 * 96_000 / 0.28e6
    assert found == pytest.approx(2 * one_way + 4.6 + 2 + 96_000 / 0.28e6)


def test_idle_grids_make_the_working_one_the_bottleneck(analytic_scenario):
    """4 groups of one GPU; ep 4 on one grid: 48 x 2 / 4 = 24 rows; ep 2 on one of two: 48 rows.

    2 steps of 1 us; 3/4 of the rows; twice. A GPU sends 24 rows either way, so that with two grids
    the 48 of the working one are the busier side.
    """
    scenario = analytic_scenario(num_experts=8)
    one = exchange_us(scenario, Candidate(1, 1, 1, 1, 4, 4, 1, 1))
    two = exchange_us(scenario, Candidate(1, 1, 1, 1, 4, 2, 1, 2))
    assert one == pytest.approx(2 * (4.6 + 2 + 3 / 4 * 48_000 / 0.28e6))
    assert two == pytest.approx(2 * (4.6 + 2 + 3 / 4 * 96_000 / 0.28e6))


def test_the_head_works_on_one_token_per_prompt_in_prefill(analytic_scenario):
    """100 tokens in prompts of 30: 4 rows; head 1,000 x 5,003, 2 bytes, on 1 GPU.

    10,006,000 bytes of weights + 4 x 6,003 x 2, over 0.8e12, is 12.568 us; + 3 of start.
    """
    scenario = analytic_scenario(phase="prefill", batch=100, sequence_tokens=30)
    clock, share = clock_and_share(scenario, Candidate(1, 1, 1, 1, 1, 1, 1, 1))
    expected = 3 + (10_006_000 + 4 * 6_003 * 2) / 0.8e6
    assert clock.head_us(share)[0] == pytest.approx(expected)


def test_the_head_gathers_logits_over_tensor_shards_in_decode(analytic_scenario):
    """48 rows; 2 GPUs: 2,502 columns; logits 48 x 5,003 x 2 bytes, half of them over the link."""
    clock, share = clock_and_share(analytic_scenario(), Candidate(1, 1, 2, 1, 1, 2, 1, 1))
    weights_us = (1000 * 2502 * 2 + 48 * 3502 * 2) / 0.8e6
    gather_us = 4.6 + 1 + 1 / 2 * 480_288 / 0.28e6
    assert clock.head_us(share)[0] == pytest.approx(3 + weights_us + gather_us)


def test_dense_tensor_parallelism_pays_two_all_reduces_a_layer(analytic_scenario):
    """4 GPUs of a node, 48 rows: 6 steps of 1 us, 1.5 x 96,000 bytes, + 4.6; per all-reduce."""
    clock, share = clock_and_share(
        analytic_scenario(num_experts=0), Candidate(1, 1, 4, 1, 1, 1, 1, 4)
    )
    assert clock._sum_over_tp_us(share)[0] == pytest.approx(4.6 + 6 + 1.5 * 96_000 / 0.28e6)
    kernels_us = clock._ffn_us(share, share.ffn_size)[0]
    assert clock.dense_ffn_us(share)[0] == kernels_us + clock._sum_over_tp_us(share)[0]
