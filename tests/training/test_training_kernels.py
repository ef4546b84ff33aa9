"""Forward and backward of one operation, by hand, on a GPU of 1e15 FLOP/s and 1e12 bytes/s."""

import pytest

from autopar.costs.operations.device import Device
from autopar.training.factors import Factors
from autopar.training.kernels import Processor


@pytest.fixture
def make(toys):
    def build(sustained=1.0, gradient_bytes=4.0, **given):
        return Processor(Device.of(toys.gpu(**given)), gradient_bytes, Factors(sustained, 0.0))

    return build


def test_a_product_has_two_in_the_backward_and_adds_to_the_gradients(make):
    """1,000 tokens, 2,000 x 3,000: 1.2e10 FLOPs, 12 us each. Bytes, all at 1e12/s:

    forward 2 (2,000 x 3,000) + 2 x 1,000 (2,000 + 3,000) = 22e6; the gradient of the input as many;
    of the weights 2 (1,000 x 3,000) + 2 x 2,000 (1,000 + 3,000) = 22e6. Sums of both, as the toy's
    sharpness is 1: 34 us each. The buffer: 6e6 numbers of 4 bytes, read and written: 48 us.
    """
    work = make().product(1000, 2000, 3000, "bf16")
    assert (work.forward_us, work.backward_us) == pytest.approx((34, 34 + 34 + 48))


def test_gradients_in_bf16_move_half_as_much(make):
    """As above with 2 bytes each: 24 us less."""
    assert make(gradient_bytes=2.0).product(1000, 2000, 3000, "bf16").backward_us == pytest.approx(
        34 + 34 + 24
    )


def test_products_that_a_gpu_cannot_sustain_take_longer(make):
    """FLOPs alone take 12 us; at a tenth of the rate 120 us, which is more than 34.

    Only where there is FP8 arithmetic: older GPUs hold their clock.
    """
    forward = {
        fp8: make(sustained=0.1, fp8_flops_per_s=fp8).product(1000, 2000, 3000, "bf16").forward_us
        for fp8 in (None, 2e15)
    }
    assert forward == pytest.approx({None: 34, 2e15: 120})


def test_fp8_products_cast_what_they_read(make):
    """FLOPs take 6 us at 2e15/s. Weights move in 1 byte: 6e6 + 10e6 = 16e6, so 22 us forward.

    The input is read in 2 bytes and written twice in 1: 1,000 x 2,000 x 4 = 8 us.
    """
    work = make(fp8_flops_per_s=2e15).product(1000, 2000, 3000, "fp8")
    assert work.forward_us == pytest.approx(22 + 8)
    # Gradients: 6 + 6 + 10 and 6 + 3 + 16, 48 for the buffer, 1,000 x 3,000 x 4 = 12 for the cast.
    assert work.backward_us == pytest.approx(22 + 25 + 48 + 12)


def test_an_activation_function_moves_what_it_needs(make):
    """1,000 tokens of 500 columns: 1e6 bytes a row. With a gate 3 rows forward, 5 backward.

    Backward reads the gradient, up and gate, and writes two gradients; without a gate 2 and 3.
    """
    gated, plain = make().activation(1000, 500, 3), make().activation(1000, 500, 2)
    assert (gated.forward_us, gated.backward_us) == pytest.approx((3, 5))
    assert (plain.forward_us, plain.backward_us) == pytest.approx((2, 3))


def test_fused_attention_takes_two_and_a_half_times_as_long_in_the_backward(make):
    """2,048 queries of mean context 1,000, 8 heads of 64: 4 x 2,048 x 1,000 x 512 = 4.19e9 FLOPs.

    4.194 us at 1e15/s; bytes: 2 x 2 x 2,048 x 8 x 128 = 8.4e6 at 1e14/s, 0.084 us.
    """
    shapes = {"heads": 8, "kv_heads": 8, "qk_head_dim": 64, "v_head_dim": 64}
    work = make().fused_attention(2048, 1000, 2048, **shapes)
    assert work.forward_us == pytest.approx(4.194304 + 0.08388608, rel=1e-3)
    assert work.backward_us == 2.5 * work.forward_us


def test_scores_in_memory_are_moved_many_times(make):
    """1,000 queries, 1,000 keys, 1 head of 100: 1e6 scores; a product is 2e8 FLOPs, 0.2 us.

    Into scores: 2 (100 x 1,000) + 2 x 1,000 (100 + 1,000) = 2.4e6 bytes; from them as many: 2.6 us
    each. Softmax and dropout move 9 bytes of a score forward, 11 backward; backward has 4 products.
    """
    work = make().materialised_attention(1000, 1000, heads=1, head_dim=100)
    assert work.forward_us == pytest.approx(2 * 2.6 + 9)
    assert work.backward_us == pytest.approx(4 * 2.6 + 11)
