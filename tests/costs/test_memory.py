"""Bytes of a stage, by hand; h = 1,000, 12 heads and 4 kv heads of 80, f = 1,500, V = 5,003."""

import numpy as np
import pytest

from autopar.costs.analytic import AnalyticCosts
from autopar.costs.operations import kernels
from autopar.costs.operations.parts import RUNTIME_RESERVE_BYTES
from autopar.problem import Candidate, Candidates

ONE_GPU = Candidate(1, 1, 1, 1, 1, 1, 1, 1)
ONE_GPU_OPEN = Candidate(1, 1, 1, 1, 1, 1, 1, 1, batch=1)
FULL = {"kind": "gqa", "num_heads": 12, "num_kv_heads": 4, "head_dim": 80}
LATENT = {
    "kind": "mla", "num_heads": 12, "q_lora_rank": 300, "kv_lora_rank": 200,
    "qk_nope_head_dim": 80, "qk_rope_head_dim": 40, "v_head_dim": 60,
}  # fmt: skip
INDEX = {"index_heads": 2, "index_head_dim": 30}
LINEAR = {
    "kind": "linear", "num_heads": 20, "input_columns": 300, "output_rows": 100,
    "state_elements": 4000,
}  # fmt: skip
MOE = {"kind": "moe", "num_experts": 6, "experts_per_token": 2, "expert_size": 1500}
DENSE = {"kind": "dense", "ffn_size": 1500}


def costs_of(scenario, candidate, first, stop):
    pair = Candidates.of([candidate])
    return AnalyticCosts(scenario).stage_costs(pair, np.array([first]), np.array([stop]))


def test_weights_of_a_middle_layer(analytic_scenario):
    """Attention 1,000 x 80 x (24 + 8) = 2,560,000; router 6,000; experts 6 x 4.5e6; 2 bytes."""
    costs = costs_of(analytic_scenario(), ONE_GPU, 1, 2)
    assert costs.weights_bytes[0] == 2 * (2_560_000 + 6_000 + 27_000_000)


def test_small_vectors_lie_whole_on_every_gpu(analytic_scenario, halves):
    """tp 2: 7 of the layer, 5 of attention, 3 of the router; in bf16, whatever the rest is.

    3 more of each expert, of which an expert shard keeps its part: 6 x 3 / 2.
    """
    plain = halves(FULL, MOE)
    more = halves(
        FULL | {"other_parameters": 5},
        MOE | {"other_parameters": 3, "other_parameters_per_expert": 3},
    )
    more["layers"] = [
        {"count": 2, "layers": [{**plain["layers"][0]["layers"][0], "other_parameters": 7}]}
    ]
    candidate = Candidate(1, 1, 2, 1, 1, 1, 2, 1)
    with_more, without = (
        costs_of(analytic_scenario(architecture=model), candidate, 1, 2).weights_bytes[0]
        for model in (more, plain)
    )
    assert with_more - without == 2 * (7 + 5 + 3 + 6 * 3 / 2)


def test_weights_of_a_dense_layer_with_tensor_parallelism(analytic_scenario):
    """tp 2: heads 6 and 2: 1,280,000; ffn 3 x 1,000 x 750 = 2,250,000."""
    candidate = Candidate(1, 1, 2, 1, 1, 1, 1, 2)
    costs = costs_of(analytic_scenario(num_experts=0), candidate, 1, 2)
    assert costs.weights_bytes[0] == 2 * (1_280_000 + 2_250_000)


def test_every_part_has_its_own_precision(analytic_scenario, halves):
    """Attention in 1 byte; router in 4; experts in 0.5 and an 8-bit scale per 32; shared in 1.

    2,560,000; 6,000; 27,000,000; shared 3 x 1,000 x 700.
    """
    scenario = analytic_scenario(
        architecture=halves(FULL, MOE | {"shared_size": 700}),
        precisions={
            "attention": "fp8", "feed_forward": "int8", "experts": "mxfp4", "embeddings": "fp32",
        },
    )  # fmt: skip
    costs = costs_of(scenario, Candidate(1, 2, 1, 1, 1, 1, 1, 1), 0, 1)
    expected = 2_560_000 + 4 * 6_000 + 27_000_000 * (0.5 + 1 / 32) + 2_100_000
    assert costs.weights_bytes[0] == expected + 4 * 5_003_000  # and the embedding


def test_latents_lie_whole_on_every_gpu_and_heads_are_cut(analytic_scenario, halves):
    """tp 2, 6 heads: down 1,000 x (300 + 200 + 40) = 540,000; up 300 x 6 x 120 = 216,000.

    Keys and values 200 x 6 x (80 + 60) = 168,000; out 6 x 60 x 1,000 = 360,000. The indexer,
    whole: 300 x 60, one key 1,000 x 30, two weights 1,000 x 2.
    """
    candidate = Candidate(1, 2, 2, 1, 1, 1, 1, 2)
    plain, sparse = (
        costs_of(analytic_scenario(architecture=halves(part)), candidate, 1, 2).weights_bytes[0]
        for part in (LATENT, LATENT | INDEX)
    )
    head = 1000 * 2502
    assert plain == 2 * (540_000 + 216_000 + 168_000 + 360_000 + head)
    assert sparse - plain == 2 * (18_000 + 30_000 + 2_000)


def test_queries_without_a_latent_are_cut(analytic_scenario, halves):
    """tp 2: 1,000 x 6 x 120 in place of 1,000 x 300 and 300 x 6 x 120."""
    candidate = Candidate(1, 2, 2, 1, 1, 1, 1, 2)
    whole, direct = (
        costs_of(analytic_scenario(architecture=halves(part)), candidate, 0, 1).weights_bytes[0]
        for part in (LATENT, LATENT | {"q_lora_rank": None})
    )
    assert direct - whole == 2 * (720_000 - 300_000 - 216_000)


def test_weights_of_linear_attention_gates_and_two_matrices(analytic_scenario, halves):
    """tp 2: 1,000 x (150 + 50); a gate adds 6 heads to 6 + 6 + 2 + 2; two of three matrices.

    Values of 50: 6 x (80 + 50) + 2 x (80 + 50), without their own projection 2 x 80.
    """
    candidate = Candidate(1, 2, 2, 1, 1, 1, 1, 2)
    table = 1000 * 2502
    for part, expected in (
        (halves(LINEAR), 200_000),
        (halves(FULL | {"gates_output": True}), 1000 * 80 * 22),
        (halves(FULL | {"v_head_dim": 50}), 1000 * (6 * 130 + 2 * 130)),
        (halves(FULL | {"v_head_dim": 50, "keys_are_values": True}), 1000 * (6 * 130 + 2 * 80)),
        (halves(None, DENSE | {"num_matrices": 2}), 2 * 1000 * 750),
    ):
        costs = costs_of(analytic_scenario(architecture=part), candidate, 0, 1)
        assert costs.weights_bytes[0] == 2 * (expected + table)


def test_narrow_experts_and_their_projections(analytic_scenario, halves):
    """6 x 3 x 400 x 1,500; down and up 2 x 1,000 x 400 on every GPU; router."""
    scenario = analytic_scenario(architecture=halves(None, MOE | {"latent_size": 400}))
    costs = costs_of(scenario, Candidate(1, 2, 1, 1, 1, 1, 1, 1), 0, 1)
    assert costs.weights_bytes[0] == 2 * (10_800_000 + 800_000 + 6_000 + 5_003_000)


def test_the_ends_hold_embedding_head_and_last_norm(analytic_scenario, halves):
    """Embedding and head 5,003,000 parameters each, the last norm 1,000; 2 bytes."""
    scenario = analytic_scenario(architecture=halves(FULL, MOE, other_parameters=1000))
    layer = 2 * (2_560_000 + 6_000 + 27_000_000)
    pipe = Candidate(1, 2, 1, 1, 1, 1, 1, 1)
    assert costs_of(scenario, pipe, 0, 1).weights_bytes[0] == layer + 2 * 5_003_000
    assert costs_of(scenario, pipe, 1, 2).weights_bytes[0] == layer + 2 * 5_004_000


@pytest.mark.parametrize(("shared", "copies"), [(False, 2), (True, 1)])
def test_shared_embeddings_are_one_copy_only_where_one_stage_is_both_ends(
    shared, copies, analytic_scenario
):
    scenario = analytic_scenario(shares_embeddings=shared)
    whole = costs_of(scenario, ONE_GPU, 0, 4).weights_bytes[0]
    halves = [costs_of(scenario, ONE_GPU, *run).weights_bytes[0] for run in ((0, 2), (2, 4))]
    assert sum(halves) - whole == (2 - copies) * 2 * 5_003_000


@pytest.mark.parametrize(
    ("drafts", "layers"), [(None, 0), ({"draft_tokens": 1, "acceptance": 0.5}, 2)]
)
def test_drafting_layers_are_held_by_the_last_stage_that_uses_them(
    drafts, layers, analytic_scenario, halves
):
    """2 layers of attention and experts, 9 other parameters each: nothing without speculation.

    With it, the last of two stages has the embedding too, which they start from, and caches their
    keys: 2 sequences of 32 tokens, 4 kv heads of 80 + 80.
    """
    extra = {"layer": {"attention": "only", "feed_forward": "only"}, "count": 2}
    scenario = analytic_scenario(
        architecture=halves(FULL, MOE, next_token_prediction=extra | {"other_parameters": 9}),
        input_tokens=20, work={"speculation": drafts},
    )  # fmt: skip
    row = Candidate(1, 2, 1, 1, 1, 1, 1, 1, batch=1)
    first, last = (costs_of(scenario, row, i, i + 1).weights_bytes[0] for i in (0, 1))
    tables = 5_003_000 if layers else 0
    assert last - first == layers * 2 * (2_560_000 + 6_000 + 27_000_000 + 9) + 2 * tables
    first, last = (costs_of(scenario, row, i, i + 1).kv_cache_bytes[0] for i in (0, 1))
    assert last - first == layers * 2 * 32 * 640 * 2
    both = costs_of(scenario, ONE_GPU_OPEN, 0, 2).weights_bytes[0]
    assert both == (2 + layers) * 2 * 29_566_000 + layers * 2 * 9 + 2 * 2 * 5_003_000


def test_experts_lie_only_on_the_grid_of_their_layer(analytic_scenario):
    """3 layers on 2 grids: the fuller one serves 2 layers, all GPUs have 3 layers of attention.

    3 x 2,566,000 + 2 x 27,000,000 parameters.
    """
    costs = costs_of(analytic_scenario(), Candidate(1, 2, 1, 1, 2, 1, 1, 2), 1, 4)
    assert costs.weights_bytes[0] == 2 * (3 * 2_566_000 + 2 * 27_000_000 + 5_003_000)


def test_grids_are_dealt_to_layers_with_experts_alone(analytic_scenario, halves):
    """Dense, experts, dense, experts on 2 grids: each serves one layer."""
    dense, experts = {"feed_forward": "dense"}, {"feed_forward": "moe"}
    model = halves() | {
        "feed_forward": {"dense": DENSE, "moe": MOE},
        "layers": [{"count": 2, "layers": [dense, experts]}],
    }
    costs = costs_of(analytic_scenario(architecture=model), Candidate(1, 1, 1, 1, 2, 1, 1, 2), 0, 4)
    tables = 2 * 5_003_000
    assert costs.weights_bytes[0] == 2 * (2 * 4_500_000 + 2 * 6_000 + 27_000_000 + tables)


@pytest.mark.parametrize(
    ("spread", "widths"), [(1, 1500 + 3 * 700 + 1500), (2, 1500 + 700 + 700), (3, 1500 + 700)]
)
def test_experts_of_different_sizes_lie_where_their_layers_do(
    spread, widths, analytic_scenario, halves
):
    """Five layers with experts of 1,500, 700, 700, 700, 1,500 columns; grids take 0 1 2, 3 4.

    On 2 grids the first holds more, 2,900 columns against 2,200; on 3 grids, 0 1, 2 3, 4, too.
    """
    wide, narrow = {"feed_forward": "wide"}, {"feed_forward": "narrow"}
    model = halves() | {
        "feed_forward": {"wide": MOE, "narrow": MOE | {"expert_size": 700}},
        "layers": [{"layers": [wide, narrow, narrow, narrow, wide]}],
    }
    costs = costs_of(
        analytic_scenario(architecture=model), Candidate(1, 1, 1, 1, spread, 1, 1, spread), 0, 5
    )
    expected = 6 * 3 * 1000 * widths + 5 * 6_000 + 2 * 5_003_000
    assert costs.weights_bytes[0] == 2 * expected


def test_shared_experts_are_sharded_with_attention(analytic_scenario):
    """2 shared experts, tp 2: 3 x 1,000 x (2 x 1,500 / 2) = 4,500,000 more a GPU and layer."""
    candidate = Candidate(1, 1, 2, 1, 1, 2, 1, 1)
    with_shared = costs_of(analytic_scenario(num_shared_experts=2), candidate, 1, 2)
    without = costs_of(analytic_scenario(), candidate, 1, 2)
    assert with_shared.weights_bytes[0] - without.weights_bytes[0] == 2 * 4_500_000


class TestKvCache:
    """48 sequences of 20 tokens, unless it says otherwise."""

    def test_of_a_decode_stage(self, analytic_scenario):
        """48 x 20 tokens x 2 x 4 heads x 80 x 2 bytes = 1,228,800 a layer; 2 layers."""
        costs = costs_of(analytic_scenario(), ONE_GPU, 0, 2)
        assert costs.kv_cache_bytes[0] == 2 * 1_228_800

    def test_cannot_be_split_below_one_head(self, analytic_scenario):
        """4 kv heads: tp 4 and tp 8 both keep one head on a GPU."""
        scenario = analytic_scenario(num_experts=0)
        four, eight = (
            costs_of(scenario, Candidate(1, 1, tp, 1, 1, 1, 1, tp), 0, 2).kv_cache_bytes[0]
            for tp in (4, 8)
        )
        assert four == eight == 2 * 1_228_800 / 4

    @pytest.mark.parametrize(
        ("attention", "expected"),
        [
            (FULL | {"window_tokens": 8}, 48 * 8 * 640 * 2),  # no more than the window
            (FULL | {"window_tokens": 21}, 48 * 20 * 640 * 2),
            (FULL | {"v_head_dim": 50}, 48 * 20 * 4 * 130 * 2),
            (FULL | {"keys_are_values": True}, 48 * 20 * 640 * 2),  # both are kept
            (LATENT, 48 * 20 * 240 * 2),  # one latent of 200 + 40, whatever the heads
            (LATENT | INDEX, 48 * 20 * (240 * 2 + 30)),  # and one index key in FP8
            (LINEAR, 48 * 4000 * 4),  # a state in fp32 per sequence
        ],
    )
    def test_by_kind_of_attention(self, attention, expected, analytic_scenario, halves):
        scenario = analytic_scenario(architecture=halves(attention))
        assert costs_of(scenario, ONE_GPU, 0, 1).kv_cache_bytes[0] == expected

    def test_latents_are_not_cut_by_tp_and_states_are(self, analytic_scenario, halves):
        pair = Candidate(1, 1, 2, 1, 1, 1, 1, 2)
        for attention, parts in ((LATENT, 1), (LINEAR, 2), (FULL, 2)):
            scenario = analytic_scenario(architecture=halves(attention))
            one, two = (costs_of(scenario, c, 0, 1).kv_cache_bytes[0] for c in (ONE_GPU, pair))
            assert one == parts * two

    def test_in_its_own_precision(self, analytic_scenario):
        scenario = analytic_scenario(precisions={"kv_cache": "fp8"})
        assert costs_of(scenario, ONE_GPU, 0, 2).kv_cache_bytes[0] == 1_228_800

    def test_layers_without_attention_keep_nothing(self, analytic_scenario, halves):
        scenario = analytic_scenario(architecture=halves(None, MOE))
        assert costs_of(scenario, ONE_GPU, 0, 2).kv_cache_bytes[0] == 0

    def test_of_a_serving_stage(self, analytic_scenario):
        """4 running and ceil(1.27) = 2 prompts, 2 pages of 16, 2 micro-batches; a layer."""
        scenario = analytic_scenario(phase="serving", input_tokens=20, output_tokens=9)
        row = Candidate(1, 2, 1, 1, 1, 1, 1, 1, batch=4)
        costs = costs_of(scenario, row, 0, 1)
        assert costs.kv_cache_bytes[0] == 2 * 6 * 32 * 640 * 2


class TestActivations:
    """48 rows, unless it says otherwise."""

    def test_of_a_dense_stage(self, analytic_scenario):
        """Residual and norm 2,000; gate, up, product 4,500 against q, k, v, o 2,560.

        A middle stage: 48 x 6,500 x 2 bytes. The last one: logits, 5,003, are more than 4,500.
        """
        scenario = analytic_scenario(num_experts=0)
        middle, last = (costs_of(scenario, ONE_GPU, i, i + 1).activation_bytes[0] for i in (1, 3))
        assert middle == 48 * 6_500 * 2
        assert last == 48 * 7_003 * 2

    def test_of_an_expert_stage(self, analytic_scenario):
        """One GPU: 48 tokens in and out, 2,000 each; 96 rows of gate, up, product, 4,500 each."""
        costs = costs_of(analytic_scenario(), ONE_GPU, 1, 2)
        assert costs.activation_bytes[0] == 2 * (48 * 2_000 + 48 * 2_000 + 96 * 4_500)

    def test_of_the_busiest_rank_where_routing_is_uneven(self, analytic_scenario):
        """3 ranks of 2 experts: 96 of 48 x 2 rows would be 32 each, and 32 tokens in and out."""
        scenario = analytic_scenario(work={"expert_load": "power_law_1.2"})
        costs = costs_of(scenario, Candidate(1, 1, 1, 1, 3, 3, 1, 1), 1, 2)
        rows = float(kernels.busiest_rows(48, 2, 6, 2, "power_law_1.2"))
        tokens = min(32 * rows / 32, 48)
        assert rows > 32
        assert costs.activation_bytes[0] == pytest.approx(
            2 * (16 * 2_000 + tokens * 2_000 + rows * 4_500)
        )

    def test_the_largest_operation_of_any_layer_counts(self, analytic_scenario, halves):
        """Attention 2,560 in one layer, a dense feed-forward 4,500 in the other."""
        model = halves(FULL) | {
            "feed_forward": {"dense": DENSE},
            "layers": [
                {"layers": [{"attention": "only"}, {"feed_forward": "dense"}]},
                {"layers": [{"attention": "only"}]},
            ],
        }
        scenario = analytic_scenario(architecture=model)
        sizes = [costs_of(scenario, ONE_GPU, *run).activation_bytes[0] for run in ((0, 1), (0, 2))]
        assert sizes == [48 * 4_560 * 2, 48 * 6_500 * 2]

    def test_a_step_with_prompts_needs_the_most(self, analytic_scenario, halves):
        """2 sequences and 50 tokens of a prompt; logits of 2 and of half a prompt."""
        scenario = analytic_scenario(
            architecture=halves(FULL), phase="serving", input_tokens=100, output_tokens=9,
            prefill_chunk_tokens=50,
        )  # fmt: skip
        row = Candidate(1, 2, 1, 1, 1, 1, 1, 1, batch=2, chunks=2)
        first, last = (costs_of(scenario, row, i, i + 1).activation_bytes[0] for i in (0, 1))
        assert first == last == 52 * (2_000 + 2_560) * 2
        assert 2.5 * 5_003 < 52 * 2_560  # else the logits would count

    def test_latent_attention_expands_keys_and_values(self, analytic_scenario, halves):
        """Queries and keys of 120, values and result of 60, for 12 heads: 4,320."""
        scenario = analytic_scenario(architecture=halves(LATENT))
        assert costs_of(scenario, ONE_GPU, 0, 1).activation_bytes[0] == 48 * 6_320 * 2

    def test_linear_attention_holds_its_projections(self, analytic_scenario, halves):
        scenario = analytic_scenario(architecture=halves(LINEAR))
        assert costs_of(scenario, ONE_GPU, 0, 1).activation_bytes[0] == 48 * 2_400 * 2


def test_the_runtime_takes_its_part(analytic_scenario):
    costs = costs_of(analytic_scenario(), ONE_GPU, 0, 4)
    assert costs.reserved_bytes[0] == RUNTIME_RESERVE_BYTES
