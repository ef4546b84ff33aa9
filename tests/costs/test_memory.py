"""Bytes of a stage, by hand; h = 1,000, 12 heads and 4 kv heads of 80, f = 1,500, V = 5,003."""

import numpy as np
import pytest

from autopar.costs.analytic import AnalyticCosts
from autopar.problem import Candidate, Candidates

ONE_GPU = Candidate(1, 1, 1, 1, 1, 1, 1, 1)


def costs_of(scenario, candidate, first, stop):
    pair = Candidates.of([candidate])
    return AnalyticCosts(scenario).stage_costs(pair, np.array([first]), np.array([stop]))


def test_weights_of_a_middle_layer(analytic_scenario):
    """Attention 1,000 x 80 x (24 + 8) = 2,560,000; norms 2,000; router 6,000; experts 6 x 4.5e6.

    29,568,000 parameters, 2 bytes each: 59,136,000 bytes.
    """
    costs = costs_of(analytic_scenario(), ONE_GPU, 1, 2)
    assert costs.weights_bytes[0] == 2 * (2_560_000 + 2_000 + 6_000 + 27_000_000)


def test_weights_of_a_dense_layer_with_tensor_parallelism(analytic_scenario):
    """tp 2: heads 6 and 2: 1,280,000; norms 2,000; ffn 3 x 1,000 x 750 = 2,250,000."""
    candidate = Candidate(1, 1, 2, 1, 1, 1, 1, 2)
    costs = costs_of(analytic_scenario(num_experts=0), candidate, 1, 2)
    assert costs.weights_bytes[0] == 2 * (1_280_000 + 2_000 + 2_250_000)


def test_the_ends_hold_embedding_head_and_last_norm(analytic_scenario):
    """Embedding and head 5,003,000 parameters each, the last norm 1,000; 2 bytes."""
    scenario = analytic_scenario()
    first, middle, last = (
        costs_of(scenario, ONE_GPU, i, i + 1).weights_bytes[0] for i in (0, 1, 3)
    )
    assert first - middle == 2 * 5_003_000
    assert last - middle == 2 * 5_004_000


@pytest.mark.parametrize(("shared", "copies"), [(False, 2), (True, 1)])
def test_shared_embeddings_are_one_copy_only_where_one_stage_is_both_ends(
    shared, copies, analytic_scenario
):
    scenario = analytic_scenario(shares_embeddings=shared)
    whole = costs_of(scenario, ONE_GPU, 0, 4).weights_bytes[0]
    halves = [costs_of(scenario, ONE_GPU, *run).weights_bytes[0] for run in ((0, 2), (2, 4))]
    assert sum(halves) - whole == (2 - copies) * 2 * 5_003_000


def test_experts_lie_only_on_the_grid_of_their_layer(analytic_scenario):
    """3 layers on 2 grids: the fuller one serves 2 layers, all GPUs have 3 layers of attention.

    3 x 2,568,000 + 2 x 27,000,000 parameters.
    """
    costs = costs_of(analytic_scenario(), Candidate(1, 2, 1, 1, 2, 1, 1, 2), 1, 4)
    head = 5_004_000
    assert costs.weights_bytes[0] == 2 * (3 * 2_568_000 + 2 * 27_000_000 + head)


def test_shared_experts_are_sharded_with_attention(analytic_scenario):
    """2 shared experts, tp 2: 3 x 1,000 x (2 x 1,500 / 2) = 4,500,000 more a GPU and layer."""
    candidate = Candidate(1, 1, 2, 1, 1, 2, 1, 1)
    with_shared = costs_of(analytic_scenario(num_shared_experts=2), candidate, 1, 2)
    without = costs_of(analytic_scenario(), candidate, 1, 2)
    assert with_shared.weights_bytes[0] - without.weights_bytes[0] == 2 * 4_500_000


def test_kv_cache_of_a_decode_stage(analytic_scenario):
    """48 sequences x 20 tokens x 2 x 4 heads x 80 x 2 bytes = 1,228,800 a layer; 2 layers."""
    costs = costs_of(analytic_scenario(), ONE_GPU, 0, 2)
    assert costs.kv_cache_bytes[0] == 2 * 1_228_800


def test_kv_cache_cannot_be_split_below_one_head(analytic_scenario):
    """4 kv heads: tp 4 and tp 8 both keep one head on a GPU."""
    scenario = analytic_scenario(num_experts=0)
    four, eight = (
        costs_of(scenario, Candidate(1, 1, tp, 1, 1, 1, 1, tp), 0, 2).kv_cache_bytes[0]
        for tp in (4, 8)
    )
    assert four == eight == 2 * 1_228_800 / 4


def test_activations_of_a_dense_stage(analytic_scenario):
    """48 rows: residual and norm 2,000; gate, up, product 4,500 against q, k, v, o 2,560.

    A middle stage: 48 x 6,500 x 2 bytes. The last one: logits, 5,003, are larger than 4,500.
    """
    scenario = analytic_scenario(num_experts=0)
    middle, last = (costs_of(scenario, ONE_GPU, i, i + 1).activation_bytes[0] for i in (1, 3))
    assert middle == 48 * 6_500 * 2
    assert last == 48 * 7_003 * 2


def test_activations_of_an_expert_stage(analytic_scenario):
    """One GPU: 48 tokens in and out, 2,000 each; 96 rows of gate, up, product, 4,500 each."""
    costs = costs_of(analytic_scenario(), ONE_GPU, 1, 2)
    assert costs.activation_bytes[0] == 2 * (48 * 2_000 + 48 * 2_000 + 96 * 4_500)
