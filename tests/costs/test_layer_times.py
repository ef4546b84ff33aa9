"""Time of one layer: which kernels run, on how many rows, and the sums after them.

Times of single operations are those of `autopar.costs.operations`; what is worked out by hand here
is what they are asked for. A row of the small model has 2,000 bytes; nodes have 4 GPUs.
"""

import numpy as np
import pytest

from autopar.costs.operations import kernels
from autopar.problem import Candidate

FULL = {"kind": "gqa", "num_heads": 12, "num_kv_heads": 4, "head_dim": 80}
LATENT = {
    "kind": "mla", "num_heads": 12, "q_lora_rank": 300, "kv_lora_rank": 200,
    "qk_nope_head_dim": 80, "qk_rope_head_dim": 40, "v_head_dim": 60,
}  # fmt: skip
MOE = {"kind": "moe", "num_experts": 6, "experts_per_token": 2, "expert_size": 1500}
DENSE = {"kind": "dense", "ffn_size": 1500}
BF16 = "bf16"
ONE = Candidate(1, 1, 1, 1, 1, 1, 1, 1)


def test_a_layer_with_experts(analytic_scenario, bench, halves):
    """3 groups: 16 tokens of each, norms, router; 32 tokens arrive as 32 rows on 2 experts."""
    scenario = analytic_scenario(architecture=halves(feed_forward=MOE))
    one = bench(scenario, Candidate(1, 1, 1, 1, 3, 3, 1, 1))
    expected = (
        one.norm_us(16)
        + one.gemm_us(16, 1000, 6)
        + one.experts_us(32, 32, 2, 1500)
        + one.exchange_us()
    )
    assert one.layer_us() == pytest.approx(expected)


def test_shards_of_experts_are_rounded_up_to_whole_columns(analytic_scenario, bench, halves):
    """etp 7: ceil(1,500 / 7) = 215; ep 4: ceil(6 / 4) = 2 experts, 48 x 2 / 6 x 2 = 32 rows."""
    scenario = analytic_scenario(architecture=halves(feed_forward=MOE))
    one = bench(scenario, Candidate(1, 1, 1, 1, 28, 4, 7, 1))
    alone = one.layer_us() - one.exchange_us()
    expected = one.norm_us(2) + one.gemm_us(2, 1000, 6) + one.experts_us(32, 32, 2, 215)
    assert alone == pytest.approx(expected)


def test_skewed_routing_makes_the_busiest_rank_slower(analytic_scenario, bench, halves):
    """Nothing but the experts changes: 3,000 tokens, 2 of 6 experts each, 2 on each of 3 ranks."""
    narrow = halves(feed_forward=MOE)
    candidate = Candidate(1, 1, 1, 1, 3, 3, 1, 1)
    even = bench(analytic_scenario(architecture=narrow, batch=3000), candidate)
    scenario = analytic_scenario(
        architecture=narrow, batch=3000, work={"expert_load": "power_law_1.2"}
    )
    skewed = bench(scenario, candidate)

    def routed_us(law):
        return kernels.routed_experts_us(
            3000, 2, num_experts=6, experts_per_token=2, law=law, hidden_size=1000, ffn_size=1500,
            num_matrices=3, precision="bf16", device=even.device, sorted_tokens=2000,
        )  # fmt: skip

    more_us = float(routed_us("power_law_1.2") - routed_us("even"))
    assert skewed.layer_us() - even.layer_us() == pytest.approx(more_us)
    assert more_us > 0


def test_narrow_experts_pay_two_projections(analytic_scenario, bench, halves):
    """Down from 1,000 to 400 and back up, as one product of 2,000 x 400; 96 rows of 48 tokens."""
    scenario = analytic_scenario(architecture=halves(feed_forward=MOE | {"latent_size": 400}))
    one = bench(scenario, ONE)
    expected = (
        one.norm_us(48)
        + one.gemm_us(48, 1000, 6)
        + one.experts_us(48, 96, 6, 1500, hidden=400)
        + one.gemm_us(48, 2000, 400)
    )
    assert one.layer_us() == pytest.approx(expected)


@pytest.mark.parametrize(("shared", "row_bytes"), [(0, 800), (3000, 2000)])
def test_shared_experts_beside_narrow_ones_are_summed_on_the_full_width(
    shared, row_bytes, analytic_scenario, bench, halves
):
    """tp 2, one group, latents of 400: shared experts take the residual of 1,000 and add to it.

    So do NemotronHMoE (transformers) and vLLM, which sums once, after the projection back up.
    """
    sizes = {"latent_size": 400, "shared_size": shared}
    one = bench(
        analytic_scenario(architecture=halves(feed_forward=MOE | sizes)),
        Candidate(1, 1, 2, 1, 1, 2, 1, 1),
    )
    assert one.exchange_us() == float(one.network.all_reduce_us(48 * row_bytes, 2))


@pytest.mark.parametrize("groups", [1, 2])
def test_shared_experts_are_summed_on_their_own_only_beside_an_all_to_all(
    groups, analytic_scenario, bench, halves
):
    """tp 2: 1,500 of 3,000 shared columns a GPU. One group: the one all-reduce sums both."""
    shared = halves(feed_forward=MOE | {"shared_size": 3000})
    candidate = Candidate(1, 1, 2, 1, groups, 2 * groups, 1, 1)
    with_shared = bench(analytic_scenario(architecture=shared), candidate)
    without = bench(analytic_scenario(architecture=halves(feed_forward=MOE)), candidate)
    tokens = 48 // groups
    sums = with_shared.network.all_reduce_us(tokens * 2000, 2) if groups > 1 else 0.0
    assert with_shared.layer_us() - without.layer_us() == pytest.approx(
        with_shared.ffn_us(tokens, 1500) + sums
    )


@pytest.mark.parametrize("matrices", [2, 3])
def test_a_dense_layer_is_summed_over_tp(matrices, analytic_scenario, bench, halves):
    """tp 4: 375 columns a GPU; one all-reduce of 48 rows."""
    dense = halves(feed_forward=DENSE | {"num_matrices": matrices})
    one = bench(analytic_scenario(architecture=dense), Candidate(1, 1, 4, 1, 1, 1, 1, 4))
    expected = one.norm_us(48) + one.ffn_us(48, 375, matrices)
    expected += one.network.all_reduce_us(96_000, 4)
    assert one.layer_us() == pytest.approx(expected)


def test_attention_of_running_sequences(analytic_scenario, bench, halves):
    """tp 2: 6 heads and 2 kv heads of 80: 800 columns in, 480 rows out; 20 keys each."""
    scenario = analytic_scenario(architecture=halves(attention=FULL))
    one = bench(scenario, Candidate(1, 1, 2, 1, 1, 1, 1, 2))
    scores_us = kernels.decode_attention_us(
        48, 20, heads=6, kv_heads=2, qk_head_dim=80, v_head_dim=80, kv_precision=BF16,
        device=one.device,
    )  # fmt: skip
    expected = (
        one.norm_us(48)
        + one.gemm_us(48, 1000, 800)
        + float(scores_us)
        + one.gemm_us(48, 480, 1000)
        + one.network.all_reduce_us(96_000, 2)
    )
    assert one.layer_us() == pytest.approx(expected)


def test_attention_of_prompts(analytic_scenario, bench, halves):
    """4 prompts of 30, of which the last is cut: 100 tokens that see 15.5 keys on average.

    A gate is as wide as the queries: 12 x 80 more columns.
    """
    scenario = analytic_scenario(
        architecture=halves(attention=FULL | {"gates_output": True}),
        phase="prefill", batch=100, sequence_tokens=30,
    )  # fmt: skip
    one = bench(scenario, ONE)
    scores_us = kernels.prefill_attention_us(
        100, 15.5, 100, heads=12, kv_heads=4, qk_head_dim=80, v_head_dim=80,
        kv_precision=BF16, device=one.device,
    )  # fmt: skip
    expected = (
        one.norm_us(100)
        + one.gemm_us(100, 1000, 12 * 80 + 12 * 80 + 2 * 4 * 80)
        + float(scores_us)
        + one.gemm_us(100, 960, 1000)
    )
    assert one.layer_us() == pytest.approx(expected)


def test_values_may_be_narrower_than_keys_or_be_the_keys(analytic_scenario, bench, halves):
    """12 heads of 80 with values of 50, gated: 12 x (80 + 50) + 4 x (80 + 50) columns.

    Where the keys are the values: 4 x 80. The result has 12 x 50 columns.
    """
    for keys_are_values, cached in ((False, 130), (True, 80)):
        odd = {"v_head_dim": 50, "gates_output": True, "keys_are_values": keys_are_values}
        one = bench(analytic_scenario(architecture=halves(FULL | odd)), ONE)
        scores_us = kernels.decode_attention_us(
            48, 20, heads=12, kv_heads=4, qk_head_dim=80, v_head_dim=50, kv_precision=BF16,
            device=one.device,
        )  # fmt: skip
        expected = (
            one.norm_us(48)
            + one.gemm_us(48, 1000, 12 * 130 + 4 * cached)
            + float(scores_us)
            + one.gemm_us(48, 600, 1000)
        )
        assert one.layer_us() == pytest.approx(expected)


@pytest.mark.parametrize("attention", [FULL, LATENT], ids=["full", "latent"])
def test_drafts_are_checked_together_so_that_keys_are_read_once(
    attention, analytic_scenario, bench, halves
):
    """3 queries for each of 5 sequences of 24 keys: as 3 times the heads."""
    drafts = {"layer": {"attention": "only"}}
    scenario = analytic_scenario(
        architecture=halves(attention, next_token_prediction=drafts), input_tokens=20,
        work={"speculation": {"draft_tokens": 2, "acceptance": 0.5}},
    )  # fmt: skip
    one = bench(scenario, Candidate(1, 1, 1, 1, 1, 1, 1, 1, batch=5))
    shapes = {"heads": 36, "kv_precision": BF16, "device": one.device}
    if attention is FULL:
        scores_us = kernels.decode_attention_us(
            5, 24, kv_heads=4, qk_head_dim=80, v_head_dim=80, **shapes
        )
        gemms = [(1000, 1600), (960, 1000)]
    else:
        scores_us = kernels.latent_decode_attention_us(5, 24, latent_dim=200, rope_dim=40, **shapes)
        gemms = [(1000, 540), (300, 1440), (960, 200), (720, 200), (720, 1000)]
    expected = one.norm_us(15) + float(scores_us)
    expected += sum(one.gemm_us(15, k, n) for k, n in gemms)
    assert one.layer_us() == pytest.approx(expected)


def test_every_rank_expands_the_latents_of_all_keys_that_it_sees(analytic_scenario, bench, halves):
    """Parts of 50 of a prompt of 150 see 100 keys on average, of which cp 2 computes 25 new ones.

    Expanded: 100 x (200 -> 12 x 140). Gathered over cp: the 50 new latents of 240.
    """
    latent = halves(attention=LATENT)
    scenario = analytic_scenario(architecture=latent, phase="prefill", input_tokens=150)
    one = bench(scenario, Candidate(1, 1, 1, 2, 1, 1, 1, 2, batch=1, chunks=3))
    scores_us = kernels.prefill_attention_us(
        25, 75.5, 100, heads=12, kv_heads=12, qk_head_dim=120, v_head_dim=60, kv_precision=BF16,
        device=one.device,
    )  # fmt: skip
    gemms = [(25, 1000, 540), (25, 300, 1440), (100, 200, 1680), (25, 720, 1000)]
    expected = one.norm_us(25) + float(scores_us) + one.network.all_gather_us(50 * 240 * 2, 2)
    expected += sum(one.gemm_us(m, k, n) for m, k, n in gemms)
    assert one.layer_us() == pytest.approx(expected)


def test_context_ranks_are_as_far_apart_as_a_rank_is_wide(analytic_scenario, bench, halves):
    """tp 4 on nodes of 4: the other half of the keys comes from another node."""
    scenario = analytic_scenario(architecture=halves(attention=FULL), phase="prefill", batch=100)
    one = bench(scenario, Candidate(1, 1, 4, 2, 1, 1, 1, 2))
    nothing = np.zeros(1)
    found = one.clock._exchange_over_cp_us(one.rows, one.step, np.array([160.0]), nothing)
    tokens = float(one.step.prompt_tokens[0])
    assert found[0] == one.network.all_gather_us(tokens * 160 * 2, 2, 4)
    assert found[0] > one.network.all_gather_us(tokens * 160 * 2, 2)


def test_context_parallel_prompts_gather_keys_and_values(analytic_scenario, bench, halves):
    """cp 2: 50 of 100 tokens; keys and values of all: 100 x 2 x 4 x 80 x 2 bytes."""
    sizes = {
        "architecture": halves(attention=FULL),
        "phase": "prefill",
        "batch": 100,
        "sequence_tokens": 100,
    }
    one = bench(analytic_scenario(**sizes), Candidate(1, 1, 1, 2, 1, 1, 1, 2))
    scores_us = kernels.prefill_attention_us(
        50, 50.5, 100, heads=12, kv_heads=4, qk_head_dim=80, v_head_dim=80,
        kv_precision=BF16, device=one.device,
    )  # fmt: skip
    expected = (
        one.norm_us(50)
        + one.gemm_us(50, 1000, 1600)
        + float(scores_us)
        + one.network.all_gather_us(100 * 640 * 2, 2)
        + one.gemm_us(50, 960, 1000)
    )
    assert one.layer_us() == pytest.approx(expected)


def test_context_parallel_sequences_sum_their_results(analytic_scenario, bench, halves):
    """cp 2: all 48 queries meet 10 keys on each rank; results of 12 x 80 are summed."""
    scenario = analytic_scenario(architecture=halves(attention=FULL))
    one = bench(scenario, Candidate(1, 1, 1, 2, 1, 1, 1, 2))
    scores_us = kernels.decode_attention_us(
        48, 10, heads=12, kv_heads=4, qk_head_dim=80, v_head_dim=80, kv_precision=BF16,
        device=one.device,
    )  # fmt: skip
    expected = (
        one.norm_us(24)
        + one.gemm_us(24, 1000, 1600)
        + float(scores_us)
        + one.network.all_reduce_us(48 * 960 * 2, 2)
        + one.gemm_us(24, 960, 1000)
    )
    assert one.layer_us() == pytest.approx(expected)


def test_a_window_hides_keys(analytic_scenario, bench, halves):
    """8 of 20 keys: a running sequence reads 8; the scores alone are faster."""
    narrow = FULL | {"window_tokens": 8}
    one = bench(analytic_scenario(architecture=halves(attention=narrow)), ONE)
    full = bench(analytic_scenario(architecture=halves(attention=FULL)), ONE)
    shapes = {
        "heads": 12, "kv_heads": 4, "qk_head_dim": 80, "v_head_dim": 80,
        "kv_precision": BF16, "device": one.device,
    }  # fmt: skip
    difference = kernels.decode_attention_us(48, 20, **shapes)
    difference -= kernels.decode_attention_us(48, 8, **shapes)
    assert full.layer_us() - one.layer_us() == pytest.approx(float(difference))


def test_latent_attention_of_running_sequences_absorbs_the_projections(
    analytic_scenario, bench, halves
):
    """tp 2, 6 heads: latents 300 + 200 + 40 whole, queries 300 -> 6 x 120.

    Absorbed: 6 x 80 and 6 x 60 by 200; keys of 200 + 40; result 6 x 60 -> 1,000.
    """
    scenario = analytic_scenario(
        architecture=halves(attention=LATENT),
        precisions={"attention": "fp8", "kv_cache": "fp8"},
    )
    one = bench(scenario, Candidate(1, 1, 2, 1, 1, 1, 1, 2))
    scores_us = kernels.latent_decode_attention_us(
        48, 20, heads=6, latent_dim=200, rope_dim=40, kv_precision="fp8", device=one.device
    )
    gemms = [(1000, 540), (300, 720), (480, 200), (360, 200), (360, 1000)]
    expected = one.norm_us(48) + float(scores_us)
    expected += sum(one.gemm_us(48, k, n, "fp8") for k, n in gemms)
    expected += one.network.all_reduce_us(96_000, 2)
    assert one.layer_us() == pytest.approx(expected)


def test_latent_attention_of_prompts_expands_keys_and_values(analytic_scenario, bench, halves):
    """12 heads; queries straight from 1,000; 200 -> 12 x (80 + 60); scores on 120 and 60."""
    scenario = analytic_scenario(
        architecture=halves(attention=LATENT | {"q_lora_rank": None}),
        phase="prefill", batch=100, sequence_tokens=100,
    )  # fmt: skip
    one = bench(scenario, ONE)
    scores_us = kernels.prefill_attention_us(
        100, 50.5, 100, heads=12, kv_heads=12, qk_head_dim=120, v_head_dim=60,
        kv_precision=BF16, device=one.device,
    )  # fmt: skip
    gemms = [(1000, 240), (1000, 1440), (200, 1680), (720, 1000)]
    expected = one.norm_us(100) + float(scores_us)
    expected += sum(one.gemm_us(100, k, n) for k, n in gemms)
    assert one.layer_us() == pytest.approx(expected)


def test_sparse_attention_reads_the_chosen_tokens_and_pays_the_indexer(
    analytic_scenario, bench, halves
):
    """8 of 20 tokens attended to; 2 index heads of 30 look at one key of all 20, in FP8."""
    index = {"index_heads": 2, "index_head_dim": 30, "index_tokens": 8}
    sparse = bench(analytic_scenario(architecture=halves(attention=LATENT | index)), ONE)
    plain = bench(analytic_scenario(architecture=halves(attention=LATENT)), ONE)
    shapes = {"heads": 12, "latent_dim": 200, "rope_dim": 40, "kv_precision": BF16}
    chosen_us, all_us = (
        float(kernels.latent_decode_attention_us(48, keys, **shapes, device=plain.device))
        for keys in (8, 20)
    )
    look_us = kernels.decode_attention_us(
        48, 20, heads=2, kv_heads=1, qk_head_dim=30, v_head_dim=0, kv_precision="fp8",
        device=plain.device,
    )  # fmt: skip
    index_us = plain.gemm_us(48, 300, 60) + float(look_us)
    assert sparse.layer_us() - plain.layer_us() == pytest.approx(index_us + chosen_us - all_us)


@pytest.mark.parametrize(("cp", "tokens"), [(1, 48), (2, 24)])
def test_linear_attention_reads_states_not_keys(cp, tokens, analytic_scenario, bench, halves):
    """tp 2: 150 of 300 columns, 50 of 100 rows, 2,000 of 4,000 state elements.

    cp 2: half of the tokens are projected, and all are gathered for the recurrence.
    """
    linear = {
        "kind": "linear", "num_heads": 20, "input_columns": 300, "output_rows": 100,
        "state_elements": 4000,
    }  # fmt: skip
    one = bench(
        analytic_scenario(architecture=halves(attention=linear)),
        Candidate(1, 1, 2, cp, 1, 1, 1, 2 * cp),
    )
    gather_us = one.network.all_gather_us(48 * 150 * 2, cp, 2)
    assert (gather_us > 0) == (cp > 1)
    mix_us = kernels.linear_attention_us(48, 48, state_elements=2000, device=one.device)
    expected = (
        one.norm_us(tokens)
        + one.gemm_us(tokens, 1000, 150)
        + gather_us
        + float(mix_us)
        + one.gemm_us(tokens, 50, 1000)
        + one.network.all_reduce_us(tokens * 2000, 2)
    )
    assert one.layer_us() == pytest.approx(expected)


def test_a_layer_is_the_sum_of_its_halves(analytic_scenario, bench, halves):
    """Each half with its norm."""
    candidate = Candidate(1, 1, 2, 1, 1, 2, 1, 1)
    halves = (halves(attention=FULL), halves(feed_forward=MOE), halves(FULL, MOE))
    attention, experts, both = (
        bench(analytic_scenario(architecture=part), candidate).layer_us() for part in halves
    )
    assert both == pytest.approx(attention + experts)


def test_a_mixed_step_pays_for_prompts_and_running_sequences(analytic_scenario, bench, halves):
    """One product over all tokens, one kernel of scores for each sort."""
    scenario = analytic_scenario(
        architecture=halves(attention=FULL), phase="serving", input_tokens=100,
        output_tokens=9, prefill_chunk_tokens=50,
    )  # fmt: skip
    one = bench(scenario, Candidate(1, 1, 1, 1, 1, 1, 1, 1, batch=2, chunks=2))
    shapes = {
        "heads": 12, "kv_heads": 4, "qk_head_dim": 80, "v_head_dim": 80,
        "kv_precision": BF16, "device": one.device,
    }  # fmt: skip
    prompt_us = kernels.prefill_attention_us(50, 50.5, 75, **shapes)
    running_us = kernels.decode_attention_us(2, 105, **shapes)
    expected = (
        one.norm_us(52)
        + one.gemm_us(52, 1000, 1600)
        + float(prompt_us + running_us)
        + one.gemm_us(52, 960, 1000)
    )
    assert one.layer_us() == pytest.approx(expected)


def test_chunks_read_a_window_before_their_own_tokens(analytic_scenario, bench, halves):
    """50 tokens of a prompt of 150, third by third: 100 keys on average, or 50 + 16 at most."""
    window = halves(attention=FULL | {"window_tokens": 16})
    scenario = analytic_scenario(architecture=window, phase="prefill", input_tokens=150)
    one = bench(scenario, Candidate(1, 1, 1, 1, 1, 1, 1, 1, batch=1, chunks=3))
    scores_us = kernels.prefill_attention_us(
        50, 16 - 16 * 15 / 300, 66, heads=12, kv_heads=4, qk_head_dim=80, v_head_dim=80,
        kv_precision=BF16, device=one.device,
    )  # fmt: skip
    expected = one.norm_us(50) + one.gemm_us(50, 1000, 1600) + float(scores_us)
    assert one.layer_us() == pytest.approx(expected + one.gemm_us(50, 960, 1000))
