"""What moves between GPUs, and the ends of the model: collectives, and on how many bytes.

Times of single operations are those of `autopar.costs.operations`; what is worked out by hand here
is what they are asked for. A row of the small model has 2,000 bytes; nodes have 4 GPUs.
"""

import numpy as np
import pytest

from autopar.costs.operations import kernels
from autopar.costs.timing import causal_context, dispatched_bytes, limited
from autopar.problem import Candidate

FULL = {"kind": "gqa", "num_heads": 12, "num_kv_heads": 4, "head_dim": 80}
MOE = {"kind": "moe", "num_experts": 6, "experts_per_token": 2, "expert_size": 1500}
ONE = Candidate(1, 1, 1, 1, 1, 1, 1, 1)


class TestExchange:
    """48 tokens of which each takes 2 of 6 experts, on 2 ranks; 2,000 bytes a row."""

    def test_one_attention_group_needs_one_all_reduce(self, analytic_scenario, bench):
        """Every GPU has every token and gives its part of the sum."""
        one = bench(analytic_scenario(), Candidate(1, 1, 3, 1, 1, 3, 1, 1))
        assert one.exchange_us() == one.network.all_reduce_us(48 * 2000, 3)

    def test_one_gpu_exchanges_nothing(self, analytic_scenario, bench):
        assert bench(analytic_scenario(), ONE).exchange_us() == 0

    def test_more_groups_exchange_tokens_both_ways(self, analytic_scenario, bench):
        """3 groups of 1 GPU, ep 3: 16 tokens x 2 copies leave, 48 x 2 / 3 = 32 arrive."""
        one = bench(analytic_scenario(), Candidate(1, 1, 1, 1, 3, 3, 1, 1))
        one_way = one.network.all_to_all_us(32 * 2000, 3, 3, 2)
        assert one.exchange_us() == pytest.approx(2 * one_way)

    def test_sums_over_expert_shards_run_between_the_two(self, analytic_scenario, bench):
        """2 groups of tp 2, ep 2, etp 2: 24 tokens x 2 copies = 48 rows over 2 places, 4 GPUs."""
        one = bench(analytic_scenario(), Candidate(1, 1, 2, 1, 2, 2, 2, 1))
        one_way = one.network.all_to_all_us(48 * 2000, 2, 4, 2)
        between = one.network.all_reduce_us(48 * 2000, 2)
        assert one.exchange_us() == pytest.approx(2 * one_way + between)

    def test_the_busier_of_sender_and_receiver_counts(self, analytic_scenario, bench):
        """4 groups of one GPU, ep 2, etp 2.

        12 tokens x 2 copies = 24 leave a rank, each to both shards: 48; 48 arrive at each rank.
        On the way back a rank gets 24 rows, and an expert rank gives half of its 48 sums.
        """
        one = bench(analytic_scenario(), Candidate(1, 1, 1, 1, 4, 2, 2, 1))
        out = one.network.all_to_all_us(48 * 2000, 4, 4, 2)
        back = one.network.all_to_all_us(24 * 2000, 4, 4, 2)
        between = one.network.all_reduce_us(48 * 2000, 2)
        assert one.exchange_us() == pytest.approx(out + between + back)

    def test_idle_grids_make_the_working_one_the_bottleneck(self, analytic_scenario, bench):
        """4 groups of one GPU; ep 4 on one grid: 48 x 2 / 4 = 24 rows; ep 2 on one of two: 48.

        A GPU sends 24 rows either way, so that with two grids the 48 of the working one count.
        """
        scenario = analytic_scenario(num_experts=8)
        one = bench(scenario, Candidate(1, 1, 1, 1, 4, 4, 1, 1))
        two = bench(scenario, Candidate(1, 1, 1, 1, 4, 2, 1, 2))
        assert one.exchange_us() == pytest.approx(2 * one.network.all_to_all_us(48_000, 4, 4, 2))
        assert two.exchange_us() == pytest.approx(2 * two.network.all_to_all_us(96_000, 4, 4, 2))

    def test_experts_in_fp8_get_their_tokens_in_fp8(self, analytic_scenario, bench):
        """32 rows of 1,000 bytes there, of 2,000 back."""
        scenario = analytic_scenario(precisions={"experts": "fp8_block"})
        one = bench(scenario, Candidate(1, 1, 1, 1, 3, 3, 1, 1))
        out = one.network.all_to_all_us(32 * 1000, 3, 3, 2)
        back = one.network.all_to_all_us(32 * 2000, 3, 3, 2)
        assert one.exchange_us() == pytest.approx(out + back)

    @pytest.mark.parametrize(
        ("precision", "width"),
        [("fp8", 1), ("fp8_block", 1), ("nvfp4", 1), ("bf16", 2), ("mxfp4", 2), ("int4", 2)],
    )
    def test_width_of_dispatched_elements(self, precision, width):
        assert dispatched_bytes(precision) == width

    def test_a_token_goes_once_to_a_rank_that_has_all_its_experts(self, analytic_scenario, bench):
        """2 groups of one GPU share one expert rank of etp 2: one copy, 24 to both shards; 48 come.

        Nodes of 4, domains of 8: 12 groups of one GPU, ep 6 and 2 grids, leave their domain.
        """
        near = bench(analytic_scenario(), Candidate(1, 1, 1, 1, 2, 1, 2, 1))
        out = near.network.all_to_all_us(48 * 2000, 2, 2, 1)
        between = near.network.all_reduce_us(48 * 2000, 2)
        back = near.network.all_to_all_us(24 * 2000, 2, 2, 1)
        assert near.exchange_us() == pytest.approx(out + between + back)
        far = bench(analytic_scenario(), Candidate(1, 1, 1, 1, 12, 6, 1, 2))
        one_way = far.network.all_to_all_us(16 * 2000, 12, 12, 2)
        assert far.exchange_us() == pytest.approx(2 * one_way)

    def test_narrow_experts_get_narrow_tokens(self, analytic_scenario, bench, halves):
        """Experts that work on a latent of 400 exchange rows of 800 bytes."""
        narrow = halves(feed_forward=MOE | {"latent_size": 400})
        one = bench(analytic_scenario(architecture=narrow), Candidate(1, 1, 1, 1, 3, 3, 1, 1))
        assert one.exchange_us() == pytest.approx(2 * one.network.all_to_all_us(32 * 800, 3, 3, 2))

    def test_ranks_of_cp_are_places_of_their_own(self, analytic_scenario, bench):
        """One group of cp 2, ep 2: 24 tokens x 2 copies a rank, 48 arrive."""
        one = bench(analytic_scenario(), Candidate(1, 1, 1, 2, 1, 2, 1, 1))
        one_way = one.network.all_to_all_us(48 * 2000, 2, 2, 2)
        assert one.exchange_us() == pytest.approx(2 * one_way)


class TestEnds:
    """The embedding, the head, the drafts, the hop."""

    def test_the_embedding_reads_and_writes_a_row_of_each_token(self, analytic_scenario, bench):
        one = bench(analytic_scenario(), ONE)
        expected = kernels.elementwise_us(2 * 2000 * 48, one.device)
        assert one.clock.embedding_us(one.step)[0] == expected

    def test_the_head_works_on_one_token_per_prompt_in_prefill(self, analytic_scenario, bench):
        """100 tokens in prompts of 30: 4 rows by 5,003 columns on 1 GPU."""
        scenario = analytic_scenario(phase="prefill", batch=100, sequence_tokens=30)
        one = bench(scenario, ONE)
        found = one.clock.head_us(one.rows, one.step)[0]
        assert found == one.gemm_us(4, 1000, 5003)

    def test_the_head_gathers_logits_over_tensor_shards_in_decode(self, analytic_scenario, bench):
        """48 rows; 2 GPUs: 2,502 columns; logits 48 x 5,003 x 2 bytes."""
        one = bench(analytic_scenario(), Candidate(1, 1, 2, 1, 1, 2, 1, 1))
        found = one.clock.head_us(one.rows, one.step)[0]
        gather_us = one.network.all_gather_us(480_288, 2)
        assert found == pytest.approx(one.gemm_us(48, 1000, 2502) + gather_us)

    def test_the_head_has_the_precision_of_the_embeddings(self, analytic_scenario, bench):
        one = bench(analytic_scenario(precisions={"embeddings": "fp8"}), ONE)
        found = one.clock.head_us(one.rows, one.step)[0]
        assert found == one.gemm_us(48, 1000, 5003, "fp8")

    def test_each_draft_takes_a_layer_a_projection_and_the_head(
        self, analytic_scenario, bench, halves
    ):
        """3 drafts of 2 layers for 5 sequences, 4 queries each: 20 rows, then 20, then 5.

        Each layer caches the keys of all rows in its first pass; the logits are those of 5.
        """
        drafts = {"layer": {"attention": "only"}, "count": 2}
        scenario = analytic_scenario(
            architecture=halves(FULL, MOE, next_token_prediction=drafts), input_tokens=20,
            work={"speculation": {"draft_tokens": 3, "acceptance": 0.5}},
        )  # fmt: skip
        one = bench(scenario, Candidate(1, 1, 1, 1, 1, 1, 1, 1, batch=5))
        layer = one.arch.next_token_prediction.layer
        whole = one.clock.layer_us(layer, one.rows, one.groups, one.step)[0]
        whole += one.gemm_us(20, 2000, 1000)
        short = one.step.drafting(one.rows.cp, one.groups)
        assert (short.sequences[0], short.queries, short.stage_tokens[0]) == (5, 1.0, 5)
        again = one.clock.layer_us(layer, one.rows, one.groups, short)[0]
        again += one.gemm_us(5, 2000, 1000)
        expected = 2 * whole + again + 3 * one.gemm_us(5, 1000, 5003)
        found = one.clock.drafts_us(one.rows, one.groups, one.step)[0]
        assert found == pytest.approx(expected)

    def test_a_repeated_draft_reads_no_prompts(self, analytic_scenario, bench, halves):
        """In a step with a whole prompt of 100: that sequence drafts too, after its first token."""
        drafts = {"layer": {"attention": "only"}}
        scenario = analytic_scenario(
            architecture=halves(FULL, MOE, next_token_prediction=drafts), phase="serving",
            input_tokens=100, output_tokens=400, prefill_chunk_tokens=100,
            work={"speculation": {"draft_tokens": 2, "acceptance": 0.5}},
        )  # fmt: skip
        one = bench(scenario, Candidate(1, 1, 1, 1, 1, 1, 1, 1, batch=5))
        assert one.step.prompt_tokens[0] == 100
        short = one.step.drafting(one.rows.cp, one.groups)
        assert (short.prompt_tokens[0], short.prompt_keys[0], short.rank_tokens[0]) == (0, 0, 6)
        assert short.logit_rows[0] == 6

    def test_without_speculation_nothing_is_drafted(self, analytic_scenario, bench, halves):
        drafts = {"layer": {"attention": "only"}}
        scenario = analytic_scenario(architecture=halves(FULL, MOE, next_token_prediction=drafts))
        one = bench(scenario, ONE)
        assert one.clock.drafts_us(one.rows, one.groups, one.step)[0] == 0

    @pytest.mark.parametrize("groups", [1, 2, 4, 6])
    def test_a_hop_sends_the_tokens_of_a_rank_over_the_link_of_two_stages(
        self, groups, analytic_scenario, bench
    ):
        """96 sequences in 2 micro-batches: 48, 24, 12 and 8 of a rank; 2, 4, 8 and 12 GPUs."""
        scenario = analytic_scenario(batch=96)
        one = bench(scenario, Candidate(1, 2, 1, 1, groups, groups, 1, 1))
        found = one.clock.hop_us(one.groups, one.step)[0]
        size = 48 / groups * 2000
        assert found == one.network.point_to_point_us(size, 2 * groups)


@pytest.mark.parametrize(
    ("length", "window", "expected"),
    [
        (4, None, 2.5),  # 1 + 2 + 3 + 4
        (4, 4, 2.5),
        (4, 9, 2.5),
        (4, 2, 1.75),  # 1 + 2 + 2 + 2
        (5, 3, 2.4),  # 1 + 2 + 3 + 3 + 3
        (3, 1, 1.0),
    ],
)
def test_mean_keys_of_a_causal_prompt(length, window, expected):
    assert causal_context(length, window) == pytest.approx(expected)


def test_a_rank_reads_its_part_of_a_window():
    """A window of 9 over cp 2: 5 keys; where fewer stand there, all."""
    context = np.array([10.0, 4.0])
    assert limited(context, 9, np.array([2, 2])).tolist() == [5, 4]
    assert limited(context, None, np.array([2, 2])) is context
