"""One layer and the ends for one micro-batch, on toys: 1e15 FLOP/s, 1e12 bytes/s, links of 1e11."""

import pytest

from autopar.errors import SpecError
from autopar.training import kernels
from autopar.training.factors import Factors

TOKENS, WIDTH, FFN = 1024, 512, 2048


def kind_of(clock):
    return clock.run.architecture.layer_kinds[0]


def product(clock, *shape, count=1.0):
    return clock.gpu.product(*shape, "bf16", count)


def test_a_dense_layer_is_its_products_its_attention_and_what_moves(toys):
    """No shards, so no collectives: q, k and v in one product of 1,536 columns, rotary embedding on

    queries and keys (2 x 2 x 1,024 x 1,024 bytes), attention of mean context 512.5, two norms of
    4 rows, up and gate in one product, their activation, down.
    """
    clock = toys.clock()
    shapes = {"heads": 8, "kv_heads": 8, "qk_head_dim": 64, "v_head_dim": 64}
    turned, norms = 4 * TOKENS * 1024, 2 * 4 * 2 * WIDTH * TOKENS
    expected = [
        product(clock, TOKENS, WIDTH, 3 * WIDTH),
        clock.gpu.moved(turned, turned),
        clock.gpu.fused_attention(TOKENS, 512.5, TOKENS, **shapes),
        product(clock, TOKENS, WIDTH, WIDTH),
        clock.gpu.moved(norms, norms),
        product(clock, TOKENS, WIDTH, 2 * FFN),
        clock.gpu.activation(TOKENS, FFN, 3),
        product(clock, TOKENS, FFN, WIDTH),
    ]
    found = clock.layer(kind_of(clock))
    assert found.forward_us == pytest.approx(sum(work.forward_us for work in expected))
    assert found.backward_us == pytest.approx(sum(work.backward_us for work in expected))
    assert found.total_us == pytest.approx(found.forward_us + found.backward_us)


def test_each_half_of_a_layer_is_summed_over_shards_both_ways(toys):
    """4 all-reduces of 1,024 x 512 x 2 bytes; sequence parallelism gathers and scatters instead."""
    size = TOKENS * WIDTH * 2
    plain = toys.clock(tp=4)
    assert plain.layer(kind_of(plain)).tensor_us == pytest.approx(
        4 * float(plain.network.all_reduce_us(size, 4))
    )
    split = toys.clock(tp=4, sequence_parallel=True)
    both = split.network.all_gather_us(size, 4) + split.network.reduce_scatter_us(size, 4)
    assert split.layer(kind_of(split)).tensor_us == pytest.approx(4 * float(both))


def test_what_runs_beside_work_costs_its_exposed_part(toys):
    part = Factors(sustained_fraction=1.0, exposed_fraction=0.25)
    plain, beside = (
        toys.clock(factors=part, tp=4, overlaps_tensor=given).layer for given in (False, True)
    )
    (kind,) = toys.llm().architecture.layer_kinds
    assert beside(kind).tensor_us == pytest.approx(plain(kind).tensor_us / 4)


def test_beside_work_a_transfer_adds_a_part_and_what_outlasts_the_work():
    """10 us beside 6: 4 outlast it, and a quarter of 6 is exposed."""
    part = Factors(sustained_fraction=1.0, exposed_fraction=0.25)
    assert part.beside_us(10, 6) == pytest.approx(4 + 1.5)
    assert part.beside_us(4, 6) == pytest.approx(1)


def test_full_recomputation_is_another_forward_with_its_collectives(toys):
    none, full = (toys.clock(tp=4, recompute=how) for how in ("none", "full"))
    once, again = (clock.layer(kind_of(clock)) for clock in (none, full))
    assert again.recompute_us == once.forward_us
    assert again.tensor_us == pytest.approx(1.5 * once.tensor_us)
    assert (again.forward_us, again.backward_us) == (once.forward_us, once.backward_us)


def test_selective_recomputation_repeats_norms_and_activations(toys):
    """Norms 2 x 4 x 2 x 512 x 1,024 bytes, the activation 3 x 2 x 2,048 x 1,024, at 1e12/s."""
    clock = toys.clock(recompute="selective")
    expected = (8 * 2 * WIDTH * TOKENS + 3 * 2 * FFN * TOKENS) / 1e6
    assert clock.layer(kind_of(clock)).recompute_us == pytest.approx(expected)


def test_selective_recomputation_repeats_attention_where_scores_are_in_memory(toys):
    clock = toys.clock(recompute="selective", materialises_scores=True)
    core = clock.gpu.materialised_attention(TOKENS, TOKENS, heads=8, head_dim=64)
    assert clock.layer(kind_of(clock)).recompute_us == pytest.approx(core.forward_us)


def test_a_layer_with_experts_works_on_its_rows_and_exchanges_them(toys):
    """4 ranks of 1,024 tokens, 2 experts each: 1,024 rows for each of 8 experts, 2 on a rank.

    Each way twice: 1,024 x 2 rows of 1,024 bytes leave a GPU.
    """
    model = toys.llm(feed_forward=toys.experts)
    clock = toys.clock(model, attn_dp=4, ep=4, etp=1)
    (kind,) = model.architecture.layer_kinds
    found = clock.layer(kind)
    sent = 2 * TOKENS * WIDTH * 2
    each_us = float(clock.network.all_to_all_us(sent, 4, 4, 1.0))
    assert found.experts_us == pytest.approx(4 * each_us)
    experts = [
        product(clock, TOKENS, WIDTH, 8),
        product(clock, TOKENS, WIDTH, 2 * 1024, count=2),
        clock.gpu.activation(2 * TOKENS, 1024, 3),
        product(clock, TOKENS, 1024, WIDTH, count=2),
        clock.gpu.moved(*[2 * 2 * WIDTH * 2 * 2 * TOKENS] * 2),
    ]
    dense = toys.clock(attn_dp=4)
    halves = dense.layer(kind_of(dense)).forward_us
    ffn = [
        product(dense, TOKENS, WIDTH, 2 * FFN),
        dense.gpu.activation(TOKENS, FFN, 3),
        product(dense, TOKENS, FFN, WIDTH),
    ]
    rest_us = halves - sum(work.forward_us for work in ffn)
    assert found.forward_us == pytest.approx(rest_us + sum(work.forward_us for work in experts))


def test_shards_of_experts_gather_rows_and_scatter_sums(toys):
    """ep 2 x etp 2 on 4 ranks: over 2 shards the rows of both, 2 x 1,024 x 2 of 1,024 bytes."""
    model = toys.llm(feed_forward=toys.experts)
    clock = toys.clock(model, attn_dp=4, ep=2, etp=2)
    sent, gathered = 2 * TOKENS * WIDTH * 2, 2 * 2 * TOKENS * WIDTH * 2
    network = clock.network
    expected = 4 * network.all_to_all_us(sent, 2, 4, 1.0)
    expected += 2 * (network.all_gather_us(gathered, 2) + network.reduce_scatter_us(gathered, 2))
    assert clock.layer(kind_of(clock)).experts_us == pytest.approx(float(expected))


def test_keys_and_values_go_round_beside_attention(toys):
    """cp 2: each rank sends 512 tokens x 8 x 128 x 2 bytes once forward, twice backward.

    At 0.7 of 1e11 bytes/s 15 us and a start, more than attention of 512 tokens takes.
    """
    clock = toys.clock(cp=2)
    shapes = {"heads": 8, "kv_heads": 8, "qk_head_dim": 64, "v_head_dim": 64}
    core = clock.gpu.fused_attention(512, 512.5, 1024, **shapes)
    hop_us = float(clock.network.point_to_point_us(512 * 8 * 128 * 2, 2))
    expected = (hop_us - core.forward_us) + max(2 * hop_us - core.backward_us, 0)
    assert clock.layer(kind_of(clock)).context_us == pytest.approx(expected)


def test_the_head_computes_every_token_and_its_loss(toys):
    """1,024 x 512 x 1,000; each of the 1,024,000 logits moves 18 bytes forward and 6 back."""
    clock = toys.clock()
    found, logits = clock.head(), TOKENS * 1000
    head = product(clock, TOKENS, WIDTH, 1000)
    assert found.forward_us == pytest.approx(head.forward_us + 18 * logits / 1e6)
    assert found.backward_us == pytest.approx(head.backward_us + 6 * logits / 1e6)


def test_the_embedding_moves_a_row_both_ways(toys):
    """2 x 1,024 x 512 x 2 bytes at 1e12/s: 2.1 us; over 4 shards one sum each way."""
    assert toys.clock().embedding().forward_us == pytest.approx(2.097152)
    clock = toys.clock(tp=4)
    half = clock.layer(kind_of(clock)).tensor_us / 2
    assert clock.embedding().tensor_us == pytest.approx(half / 2)


def test_shards_send_their_part_to_the_next_stage(toys):
    """1,024 x 512 x 2 bytes, a quarter each; gathered again without sequence parallelism."""
    size = TOKENS * WIDTH * 2
    split, whole = (toys.clock(tp=4, pp=2, sequence_parallel=given) for given in (True, False))
    sent = float(split.network.point_to_point_us(size / 4, 8))
    assert split.hop_us() == pytest.approx(sent)
    assert whole.hop_us() == pytest.approx(sent + float(whole.network.all_gather_us(size, 4)))


def test_linear_attention_is_refused(load, toys):
    model = load("llm", "qwen3-next-80b-a3b")
    clock = toys.clock(model)
    arch = model.architecture
    linear = next(k for k in arch.layer_kinds if arch.attention_of(k).kind == "linear")
    with pytest.raises(SpecError, match="linear attention in training is not modelled"):
        clock.layer(linear)


def test_latent_attention_expands_keys_and_values(toys, load):
    """DeepSeek-V3: down 7,168 x (1,536 + 512 + 64), up to 128 heads of 192, 256 and back."""
    model = load("llm", "deepseek-v3")
    clock = toys.clock(model)
    (attention,) = model.architecture.attention.values()
    work, again_us = clock._latent(attention)
    core = clock.gpu.fused_attention(
        TOKENS, 512.5, TOKENS, heads=128, kv_heads=128, qk_head_dim=192, v_head_dim=128
    )
    precision = model.precisions.attention
    shapes = [(7168, 2112), (1536, 128 * 192), (512, 128 * 256), (128 * 128, 7168)]
    products = [clock.gpu.product(TOKENS, *shape, precision) for shape in shapes]
    expected = core.forward_us + sum(work.forward_us for work in products)
    assert work.forward_us == pytest.approx(expected)
    assert again_us == 0.0


# Combined time of a layer, ms: Korthikanti et al. 2022, arXiv:2205.05198, table 4 (from memory).
TABLE_4 = [
    ({}, 19.6),
    ({"sequence_parallel": True}, 19.0),
    ({"recompute": "full"}, 27.2),
    ({"recompute": "selective"}, 20.9),
    ({"recompute": "selective", "sequence_parallel": True}, 20.3),
]


@pytest.mark.measured
@pytest.mark.parametrize(("given", "measured_ms"), TABLE_4)
def test_a_layer_of_22b_on_a100_within_5_percent(load, toys, given, measured_ms):
    clock = toys.clock(
        load("llm", "gpt-22b"),
        hardware=load("cluster", "1xhgx-a100"),
        **({"tp": 8, "micro_batch_sequences": 4, "sequence_tokens": 2048} | given),
        materialises_scores=True,
    )
    assert clock.layer(kind_of(clock)).total_us / 1e3 == pytest.approx(measured_ms, rel=0.05)


def test_a_backward_of_attention_has_five_products_for_two():
    assert kernels.ATTENTION_BACKWARD == 5 / 2
