"""A whole step: micro-batches through the pipeline, gradients, optimizer."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.errors import SpecError
from autopar.specs.counting import parameters
from autopar.training import step_us
from autopar.training.data_parallel import gradients_us, sharded_weights_us
from autopar.training.factors import Factors
from autopar.training.parameters import stage_shard
from autopar.training.step import stage_works


def step(toys, model=None, **given):
    return step_us(model or toys.llm(), toys.cluster(), toys.row(**given), toys.no_factors)


def test_parts_add_up(toys):
    time = step(toys, pp=2, tp=2, replicas=2, recompute="full")
    assert time.total_us == pytest.approx(sum(getattr(time, f.name) for f in fields(time)))


def test_one_gpu_works_through_its_micro_batches_and_updates(toys):
    """64 micro-batches of 4 layers and both ends; the optimizer moves 26 + 8 bytes a parameter."""
    clock, model = toys.clock(), toys.llm()
    (kind,) = model.architecture.layer_kinds
    layer, ends = clock.layer(kind), (clock.embedding(), clock.head())
    time = step(toys)
    forward = 4 * layer.forward_us + sum(end.forward_us for end in ends)
    assert time.forward_us == pytest.approx(64 * forward)
    assert time.optimizer_us == pytest.approx(34 * parameters(model.architecture) / 1e6)
    assert (time.bubble_us, time.hops_us, time.data_us, time.tensor_us) == (0, 0, 0, 0)


def test_the_bubble_is_a_pass_through_all_other_stages(toys):
    """Stages of 2 layers: while the slower one waits, the other works on one micro-batch.

    In two chunks, on half of one (Narayanan et al. 2021, arXiv:2104.04473, sec. 2.2).
    """
    clock = toys.clock(pp=2)
    times = [work.total_us for work in stage_works(clock)]
    assert step(toys, pp=2).bubble_us == pytest.approx(min(times))
    assert step(toys, pp=2, virtual_stages=2).bubble_us == pytest.approx(min(times) / 2)


def test_equal_stages_idle_for_pp_minus_1_of_the_micro_batches(toys):
    """Without ends to speak of (a vocabulary of 1): (pp - 1) / (m v) of the work, 3 / (64 x 2)."""
    time = step(toys, toys.llm(8, vocab_size=1), pp=4, virtual_stages=2)
    work = time.forward_us + time.backward_us
    assert time.bubble_us / work == pytest.approx(3 / (64 * 2), rel=0.02)


def test_every_chunk_of_every_micro_batch_hops_both_ways(toys):
    """64 x 2 chunks x 2 hops, and one pass of the pipeline to fill and drain."""
    hop = toys.clock(pp=2).hop_us()
    assert step(toys, pp=2, virtual_stages=2).hops_us == pytest.approx((64 * 2 + 1) * 2 * hop)
    assert step(toys, pp=2).hops_us == pytest.approx((64 + 1) * 2 * hop)


def test_hops_hide_behind_other_chunks(toys):
    """With nothing exposed only those of filling and draining are left."""
    hop = toys.clock(pp=2).hop_us()
    found = step(toys, pp=2, virtual_stages=2, overlaps=True).hops_us
    assert found == pytest.approx(2 * hop)


def test_gradients_are_summed_over_ranks(toys):
    """All parameters in 4 bytes over 8 ranks; spread: scattered, and the weights gathered in 2."""
    count = parameters(toys.llm().architecture)
    network = toys.clock(replicas=8).network
    assert step(toys, replicas=8).data_us == pytest.approx(
        float(network.all_reduce_us(4 * count, 8))
    )
    spread = network.reduce_scatter_us(4 * count, 8) + network.all_gather_us(2 * count, 8)
    assert step(toys, replicas=8, zero_stage=1).data_us == pytest.approx(float(spread))
    half = network.reduce_scatter_us(2 * count, 8) + network.all_gather_us(2 * count, 8)
    time = step(toys, replicas=8, zero_stage=1, reduces_in_bf16=True)
    assert time.data_us == pytest.approx(float(half))


def test_ranks_that_share_a_shard_stand_as_far_apart_as_a_rank_is_wide(toys):
    """tp 2: groups of 4 in steps of 2; experts of ep 4 in groups of 2 in steps of 4."""
    model = toys.llm(feed_forward=toys.experts)
    clock = toys.clock(model, tp=2, attn_dp=2, replicas=2, ep=4, etp=1)
    shard, work = stage_shard(clock.run, 0), stage_works(clock)[0]
    expected = clock.network.all_reduce_us(4 * shard.others, 4, 2)
    expected = expected + clock.network.all_reduce_us(4 * shard.experts, 2, 4)
    assert gradients_us(clock, shard, work) == pytest.approx(float(expected))


def test_sums_beside_the_backward_add_what_outlasts_it(toys):
    """Of one micro-batch where there is one chunk; of (v - 1) pp + 1 over v where there are v."""
    clock = toys.clock(replicas=8, overlaps=True)
    shard, work = stage_shard(clock.run, 0), stage_works(clock)[0]
    sum_us = float(clock.network.all_reduce_us(4 * shard.others, 8))
    expected = max(sum_us - work.backward_us, 0.0)
    assert gradients_us(clock, shard, work) == pytest.approx(expected)
    wide = toys.clock(replicas=8, overlaps=True, pp=2, virtual_stages=2)
    shard, work = stage_shard(wide.run, 0), stage_works(wide)[0]
    sum_us = float(wide.network.all_reduce_us(4 * shard.others, 8))
    expected = max(sum_us - 1.5 * work.backward_us, 0.0)
    assert gradients_us(wide, shard, work) == pytest.approx(expected)


def test_spread_weights_are_gathered_twice_and_scattered_in_every_micro_batch(toys):
    clock = toys.clock(replicas=8, zero_stage=3)
    shard, work = stage_shard(clock.run, 0), stage_works(clock)[0]
    network = clock.network
    expected = 2 * network.all_gather_us(2 * shard.others, 8)
    expected = expected + network.reduce_scatter_us(4 * shard.others, 8)
    assert sharded_weights_us(clock, shard, work) == pytest.approx(float(expected))
    time = step(toys, replicas=8, zero_stage=3)
    assert time.data_us == pytest.approx(8 * float(expected))


def test_a_spread_optimizer_updates_its_share(toys):
    whole, share = (step(toys, replicas=8, zero_stage=zero).optimizer_us for zero in (0, 1))
    assert share == pytest.approx(whole / 8)


def test_more_gpus_than_there_are_is_refused(toys):
    with pytest.raises(SpecError, match="needs 128 GPUs; cluster 'toys' has 64"):
        step_us(toys.llm(), toys.cluster(), toys.row(tp=8, replicas=16))


@given(
    tp=st.sampled_from([1, 2, 4]),
    pp=st.sampled_from([1, 2, 4]),
    micro=st.sampled_from([1, 2, 4]),
    recompute=st.sampled_from(["none", "selective", "full"]),
)
def test_a_step_grows_with_its_work_and_shrinks_with_overlap(toys, tp, pp, micro, recompute):
    part = Factors(sustained_fraction=0.8, exposed_fraction=0.3)

    def total(**changed):
        base = {"tp": tp, "pp": pp, "micro_batch_sequences": micro, "recompute": recompute}
        given = toys.row(**(base | {"replicas": 2, "zero_stage": 1} | changed))
        return step_us(toys.llm(), toys.cluster(fp8_flops_per_s=2e15), given, part).total_us

    assert total(global_batch_sequences=128) > total()
    assert total(sequence_tokens=2048) > total()
    assert total(recompute="full") >= total(recompute="selective") >= total(recompute="none")
    assert total(overlaps=True) <= total()
    assert total(overlaps_tensor=True) <= total()
    assert total(materialises_scores=True) > total(materialises_scores=False) or (
        recompute == "selective"
    )
