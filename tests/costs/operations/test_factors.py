"""A factor moves the times of its own operations in proportion, and no others."""

import pytest

from autopar.costs.operations import kernels
from autopar.costs.operations.collectives import Network
from autopar.costs.operations.device import Device
from autopar.specs import CostFactors

HEADS = {"heads": 8, "kv_heads": 2, "qk_head_dim": 128, "v_head_dim": 128, "kv_precision": "bf16"}
EXPERTS = {
    "hidden_size": 4096,
    "ffn_size": 1024,
    "num_matrices": 3,
    "precision": "bf16",
}
TIMES = {
    "gemm": lambda d, n: kernels.gemm_us(64, 4096, 4096, "bf16", d),
    "experts": lambda d, n: kernels.experts_us(64, 8, device=d, **EXPERTS),
    "prefill attention": lambda d, n: kernels.prefill_attention_us(
        512, 256, 512, device=d, **HEADS
    ),
    "decode attention": lambda d, n: kernels.decode_attention_us(32, 4096, device=d, **HEADS),
    "latent attention": lambda d, n: kernels.latent_decode_attention_us(
        32, 4096, heads=16, latent_dim=512, rope_dim=64, kv_precision="bf16", device=d
    ),
    "linear attention": lambda d, n: kernels.linear_attention_us(
        64, 8, state_elements=9600, device=d
    ),
    "elementwise": lambda d, n: kernels.elementwise_us(1e6, d),
    "all-reduce": lambda d, n: n.all_reduce_us(1e6, 4),
    "all-reduce apart": lambda d, n: n.all_reduce_us(1e6, 2, 2),
    "all-gather": lambda d, n: n.all_gather_us(1e6, 4),
    "all-gather apart": lambda d, n: n.all_gather_us(1e6, 2, 2),
    "reduce-scatter": lambda d, n: n.reduce_scatter_us(1e6, 4),
    "all-reduce over the fabric": lambda d, n: n.all_reduce_us(1e6, 8),
    "all-reduce apart over the fabric": lambda d, n: n.all_reduce_us(1e6, 2, 4),
    "all-gather over the fabric": lambda d, n: n.all_gather_us(1e6, 8),
    "all-gather apart over the fabric": lambda d, n: n.all_gather_us(1e6, 4, 2),
    "reduce-scatter over the fabric": lambda d, n: n.reduce_scatter_us(1e6, 8),
    "all-to-all": lambda d, n: n.all_to_all_us(1e6, 8, 8),
    "message": lambda d, n: n.point_to_point_us(1e6, 8),
}
MOVED = {
    "gemm": {"gemm"},
    "experts": {"experts"},
    "attention": {"prefill attention", "decode attention", "latent attention", "linear attention"},
    "elementwise": {"elementwise"},
    "all_reduce": {"all-reduce", "all-reduce apart"},
    "gather": {"all-gather", "all-gather apart", "reduce-scatter"},
    "fabric_collectives": {name for name in TIMES if name.endswith("over the fabric")},
    "all_to_all": {"all-to-all"},
    "point_to_point": {"message"},
    "host": set(),
}


def test_every_factor_is_tried():
    assert set(MOVED) == set(CostFactors.model_fields)


@pytest.mark.parametrize("factor", MOVED)
def test_a_factor_moves_its_own_times_alone(factor, two_nodes):
    factors = CostFactors.model_validate({factor: 1.25})
    moved = Device.of(two_nodes.gpu, factors), Network.of(two_nodes, factors)
    plain = Device.of(two_nodes.gpu), Network.of(two_nodes)
    for name, time_us in TIMES.items():
        by = 1.25 if name in MOVED[factor] else 1.0
        assert time_us(*moved) == pytest.approx(by * time_us(*plain)), name
