"""Bytes on single GPUs of a model with layers of every kind, counted by hand.

Two stages of three layers, each on 6 GPUs: 3 attention groups of 2 GPUs, 3 expert ranks of 2.
"""

from dataclasses import replace

import numpy as np
import pytest

from autopar.costs.operations.precisions import precision_bytes
from autopar.plans import plan_from_spec
from autopar.specs import PlanSpec
from autopar.verifier.layout import layout_of
from autopar.verifier.metrics import measure

DECODE = {"phase": "decode", "input_tokens": 100, "output_tokens": 28}
DRAFTS = {**DECODE, "speculation": {"draft_tokens": 1, "acceptance": 0.5}}
# Parameters on a GPU: queries and output 2 x 4 heads of 25, keys and values 2 x 2, a gate of 4; a
# dense half of 240 columns; shared experts of 40; router; 2 experts of 30; 501 rows of embedding.
FULL, GATED, DENSE = 200 * 25 * (8 + 4), 200 * 25 * (12 + 4), 3 * 200 * 240
SHARED, ROUTER, EXPERTS, TABLE = 3 * 200 * 40, 200 * 6, 2 * 3 * 200 * 30, 200 * 501
# Latents of queries and of keys 200 x (48 + 64 + 16); for 2 heads queries 48 x 48, keys and values
# 64 x (32 + 20), output 20 x 200.
LATENT = 200 * (48 + 64 + 16) + 2 * (48 * 48 + 64 * 52 + 20 * 200)
LINEAR = 200 * (300 + 120)


def loads_of(scenario, degrees=None, **fields):
    degrees = degrees or {"pp": 2, "tp": 2, "ep": 3, "etp": 2}
    spec = {"name": "plan", "llm": scenario.llm.name, "degrees": degrees, "batch": 3, **fields}
    plan = plan_from_spec(PlanSpec.model_validate(spec), scenario)
    return measure(scenario, plan, layout_of(plan, scenario.llm.num_layers)).loads


def test_weights_are_those_of_the_layers_and_ends_of_a_stage(mixed_scenario):
    weights = loads_of(mixed_scenario(workload=DECODE)).weights_bytes
    first = 400 + FULL + DENSE + GATED + DENSE + FULL + SHARED + ROUTER + EXPERTS + TABLE
    last = LATENT + LINEAR + 3 * (SHARED + ROUTER + EXPERTS) + TABLE + 200
    assert weights[:6].tolist() == [2 * first] * 6
    assert weights[6:12].tolist() == [2 * last] * 6
    assert not weights[12:].any()


def test_every_part_is_stored_in_its_precision(mixed_scenario):
    """Norms, embedding and router stay in bf16."""
    precisions = {"attention": "fp8", "feed_forward": "int4", "experts": "nvfp4"}
    scenario = mixed_scenario(workload=DECODE, precisions=precisions)
    weights = loads_of(scenario).weights_bytes
    expected = (
        (FULL + GATED + FULL)
        + (DENSE + DENSE + SHARED) * precision_bytes("int4")
        + EXPERTS * precision_bytes("nvfp4")
        + 2 * (400 + ROUTER + TABLE)
    )
    assert weights[0] == pytest.approx(expected, rel=1e-12)


def test_layers_that_draft_are_held_only_where_tokens_are_drafted(mixed_scenario):
    """One more layer with full attention and experts, and 600 more, on the last stage.

    It starts from the embedding, which the stage has only if it is the first too, or if the head is
    the same table; and caches 6 sequences of 128 tokens of 200 bytes.
    """
    layer = 2 * (FULL + SHARED + ROUTER + EXPERTS + 600)
    for shared, table in ((False, TABLE), (True, 0)):
        without = loads_of(mixed_scenario(workload=DECODE, shares_embeddings=shared))
        drafting = loads_of(mixed_scenario(workload=DRAFTS, shares_embeddings=shared))
        assert drafting.weights_bytes[0] == without.weights_bytes[0]
        assert drafting.weights_bytes[6] - without.weights_bytes[6] == layer + 2 * table
        assert drafting.kv_cache_bytes[0] == without.kv_cache_bytes[0]
        assert drafting.kv_cache_bytes[6] - without.kv_cache_bytes[6] == 2 * 3 * 128 * 200
    one = {"pp": 1, "tp": 2, "ep": 3, "etp": 2}
    without, drafting = (loads_of(mixed_scenario(workload=w), one) for w in (DECODE, DRAFTS))
    assert drafting.weights_bytes[0] - without.weights_bytes[0] == layer


def test_one_stage_holds_a_shared_table_once(mixed_scenario):
    degrees = {"pp": 1, "tp": 2, "ep": 3, "etp": 2}
    shared, own = (
        loads_of(mixed_scenario(workload=DECODE, shares_embeddings=s), degrees).weights_bytes
        for s in (True, False)
    )
    assert own[0] - shared[0] == 2 * TABLE


def test_caches_are_pages_windows_latents_and_states(mixed_scenario):
    """2 x 3 sequences of 128 tokens, which fill 8 pages, in flight on each GPU.

    2 key-value heads of 25 in bf16 are 200 bytes per token; the window holds 40 tokens of each
    sequence; a latent has 64 + 16 elements; a state 600 elements of 4 bytes.
    """
    caches = loads_of(mixed_scenario(workload=DECODE)).kv_cache_bytes
    assert caches[:6].tolist() == [2 * 768 * 200 + 6 * 40 * 200] * 6
    assert caches[6:12].tolist() == [768 * 80 * 2 + 6 * 600 * 4] * 6
    smaller = loads_of(mixed_scenario(workload=DECODE, precisions={"kv_cache": "fp8"}))
    assert smaller.kv_cache_bytes[6] == 768 * 80 + 6 * 600 * 4


def test_buffers_are_those_of_the_largest_operation(mixed_scenario):
    """3 tokens per group: residual and norm 2 x 200 each.

    9 tokens of the stage bring 9 x 2 / 6 x 2 = 6 rows of 2 x 200 and 6 pairs of 3 x 30 to a GPU:
    5,880 bytes, more than the 3 x 3 x 240 x 2 of a dense layer.
    """
    buffers = loads_of(mixed_scenario(workload=DECODE)).activation_bytes
    residual = 3 * 2 * 200 * 2
    assert buffers[0] == residual + 6 * 400 * 2 + 6 * 90 * 2
    assert buffers[6] == buffers[0]
    assert not buffers[12:].any()


def test_groups_with_fewer_sequences_keep_less(mixed_scenario):
    """7 given sequences in 2 micro-batches: 3, 2 and 2 for the three groups, of 100 tokens."""
    given = {"phase": "decode", "batch_sequences": 7, "sequence_tokens": 100}
    caches = loads_of(mixed_scenario(workload=given), batch=None).kv_cache_bytes
    each = 2 * 100 * 200 + 40 * 200
    assert caches[:6].tolist() == [3 * each] * 2 + [2 * each] * 4


def test_two_shards_of_an_expert_on_one_gpu_weigh_twice(mixed_scenario):
    scenario = mixed_scenario(workload=DECODE)
    spec = {"name": "plan", "llm": "mixed-llm", "batch": 3,
            "degrees": {"pp": 2, "tp": 2, "ep": 3, "etp": 2}}  # fmt: skip
    plan = plan_from_spec(PlanSpec.model_validate(spec), scenario)
    table = plan.placement.copy()
    table[table[:, 4] == 1, 4] = 0
    layout = layout_of(plan, 6)
    before, after = (
        measure(scenario, p, layout).loads.weights_bytes
        for p in (plan, replace(plan, placement=table))
    )
    moved = after - before
    assert moved[0] == 2 * EXPERTS
    assert moved[1] == -2 * EXPERTS
    assert np.flatnonzero(moved).tolist() == [0, 1]
