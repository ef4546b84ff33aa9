"""Bytes on the fullest GPU: what Korthikanti et al. count, and what ZeRO spreads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.specs import TrainingRow
from autopar.specs.counting import parameters
from autopar.training import memory
from autopar.training.activations import in_flight, layer_bytes, stage_activation_bytes
from autopar.training.parameters import stage_shard
from autopar.training.run import Run

GIB = 2**30


def gpt_row(**changed):
    base = {
        "id": "r",
        "tp": 8,
        "sequence_tokens": 2048,
        "global_batch_sequences": 64,
        "materialises_scores": True,
        "step_s": 1.0,
    }
    return TrainingRow.model_validate(base | changed)


@pytest.mark.parametrize(
    ("changed", "share"),
    [
        ({"tp": 1}, 34 + 5 * 64 * 2048 / 6144),
        ({}, 10 + 24 / 8 + 5 * 64 * 2048 / (6144 * 8)),
        ({"sequence_parallel": True}, 34 / 8 + 5 * 64 * 2048 / (6144 * 8)),
        ({"sequence_parallel": True, "recompute": "selective"}, 34 / 8),
        ({"recompute": "full"}, 2),
    ],
)
def test_a_gpt_layer_keeps_what_the_paper_counts(load, changed, share):
    """Korthikanti et al. 2022, table 2: s b h (10 + 24/t + 5as/(ht)) and its kin.

    22B: s 2,048, b 4, h 6,144, a 64, t 8: 50.3e6 x (10 + 3 + 13.33) = 1.325e9 bytes.
    """
    llm = load("llm", "gpt-22b")
    run = Run.of(llm, gpt_row(micro_batch_sequences=4, **changed))
    sbh = 2048 * 4 * 6144
    assert layer_bytes(run, llm.architecture.layer_kinds[0]) == pytest.approx(sbh * share)


def test_activations_of_22b_without_recomputation(load):
    """48 layers x 50.3e6 x 26.33 bytes = 59.25 GiB, the paper's figure 1.

    The ends come on top: dropout of the embedding 1, inputs of norm and head 4 bytes a number of
    50.3e6, logits 4 x 8,192 x 51,200 / 8: 0.43 GiB.
    """
    found = memory(load("llm", "gpt-22b"), gpt_row(micro_batch_sequences=4)).activations_bytes
    assert found == pytest.approx(59.25 * GIB + 5 * 2048 * 4 * 6144 + 4 * 8192 * 51200 / 8)


def test_activations_of_175b_on_interleaved_stages(load):
    """96 layers on 8 stages of 3 chunks; the first holds 8 (1 + 7/24) micro-batches of 12 layers.

    25.2e6 x 34 / 8 x 12 x 10.33 = 12.35 GiB with sequence parallelism and selective recomputation,
    the paper's figure 1; dropout behind the embedding 8 x 25.2e6 / 8 = 0.02 GiB on top.
    """
    row = gpt_row(pp=8, virtual_stages=3, sequence_parallel=True, recompute="selective")
    found = memory(load("llm", "gpt-175b"), row).activations_bytes
    assert found == pytest.approx(12.3515625 * GIB + 2048 * 12288, rel=1e-6)


def test_full_recomputation_keeps_inputs_and_one_layer(toys):
    """4 layers keep 2 x 512 bytes of each of 1,024 tokens; one layer is whole for a while."""
    model = toys.llm()
    full = Run.of(model, toys.row(recompute="full"))
    none = Run.of(model, toys.row())
    (kind,) = model.architecture.layer_kinds
    ends = 2 * 2 * 512 * 1024 + 4 * 1024 * 1000
    expected = 4 * 2 * 512 * 1024 + layer_bytes(none, kind) + ends
    assert stage_activation_bytes(full, 0) == pytest.approx(expected)


def test_a_gated_layer_with_few_key_heads(toys):
    """Per token, in numbers of 2 bytes: norms 2 x 2 x 512; queries and result 2 x 512; keys and

    values 2 x 128; up, gate and what down reads 3 x 2,048. 9,472 numbers of 1,024 tokens.
    """
    model = toys.llm(kv_heads=2)
    run = Run.of(model, toys.row())
    numbers = 4 * 512 + 2 * 512 + 2 * 128 + 3 * 2048
    assert layer_bytes(run, model.architecture.layer_kinds[0]) == 2 * 1024 * numbers


def test_a_layer_with_experts_keeps_rows(toys):
    """2 experts a token: rows in and out 2 x 2 x 512, and 3 x 1,024 each inside."""
    model = toys.llm(feed_forward=toys.experts)
    run = Run.of(model, toys.row())
    numbers = 4 * 512 + 4 * 512 + 2 * (2 * 512 + 3 * 1024)
    assert layer_bytes(run, model.architecture.layer_kinds[0]) == 2 * 1024 * numbers


@pytest.mark.parametrize(
    ("pp", "chunks", "stage", "expected"),
    [(4, 1, 0, 4), (4, 1, 3, 1), (8, 3, 0, 8 * (1 + 7 / 24)), (4, 2, 3, 5 / 2), (1, 1, 0, 1)],
)
def test_micro_batches_in_flight(toys, pp, chunks, stage, expected):
    run = Run.of(toys.llm(24), toys.row(pp=pp, virtual_stages=chunks))
    assert in_flight(run, stage) == pytest.approx(expected)


def test_no_more_micro_batches_are_in_flight_than_there_are(toys):
    run = Run.of(toys.llm(24), toys.row(pp=8, global_batch_sequences=2))
    assert in_flight(run, 0) == 2


@pytest.mark.parametrize(
    ("zero", "widths"),
    [(0, (2, 4, 12)), (1, (2, 4, 12 / 8)), (2, (2, 4 / 8, 12 / 8)), (3, (2 / 8, 4 / 8, 12 / 8))],
)
def test_state_takes_18_bytes_a_parameter_and_zero_spreads_it(toys, zero, widths):
    model = toys.llm()
    found = memory(model, toys.row(replicas=8, zero_stage=zero))
    count = parameters(model.architecture)
    parts = (found.parameters_bytes, found.gradients_bytes, found.optimizer_bytes)
    assert parts == pytest.approx([count * width for width in widths])
    assert found.total_bytes == pytest.approx(sum(parts) + found.activations_bytes)


def test_gradients_in_bf16_take_2_bytes(toys):
    model = toys.llm()
    found = memory(model, toys.row(reduces_in_bf16=True))
    assert found.gradients_bytes == 2 * parameters(model.architecture)


def test_context_ranks_share_the_optimizer_too(toys):
    model = toys.llm()
    found = memory(model, toys.row(cp=2, replicas=4, zero_stage=1))
    assert found.optimizer_bytes == pytest.approx(12 * parameters(model.architecture) / 8)


@pytest.mark.parametrize("layout", [{}, {"pp": 2}, {"pp": 2, "virtual_stages": 2}])
def test_shards_of_the_stages_are_the_whole_model(toys, layout):
    """8 experts over ep 4 x etp 2; matrices over tp 2; router and norms whole on every GPU."""
    model = toys.llm(feed_forward=toys.experts)
    given = {"tp": 2, "attn_dp": 4, "ep": 4, "etp": 2, **layout}
    run = Run.of(model, toys.row(**given))
    shards = [stage_shard(run, stage) for stage in range(run.row.pp)]
    small = 4 * (1024 + 512 * 8) + 512
    others = sum(shard.others for shard in shards) - small
    total = 8 * sum(shard.experts for shard in shards) + 2 * others + small
    assert total == parameters(model.architecture)


def test_a_shared_table_lies_on_both_ends_of_a_pipeline(toys):
    model = toys.llm(shares=True)
    one, two = (Run.of(model, toys.row(pp=pp)) for pp in (1, 2))
    count = parameters(model.architecture)
    assert stage_shard(one, 0).others == count
    assert sum(stage_shard(two, stage).others for stage in (0, 1)) == count + 1000 * 512


@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    micro=st.sampled_from([1, 2, 4]),
    recompute=st.sampled_from(["none", "selective", "full"]),
    pp=st.sampled_from([1, 2, 4]),
)
def test_memory_falls_with_shards_and_recomputation_and_grows_with_the_batch(
    toys, tp, micro, recompute, pp
):
    model = toys.llm()

    def total(**changed):
        base = {"tp": tp, "pp": pp, "micro_batch_sequences": micro, "recompute": recompute}
        return memory(model, toys.row(**(base | changed))).total_bytes

    assert total(micro_batch_sequences=2 * micro) > total()
    assert total(sequence_parallel=True) <= total()
    assert total(recompute="selective") <= total(recompute="none")
    if tp < 8:
        assert total(tp=2 * tp) < total()
