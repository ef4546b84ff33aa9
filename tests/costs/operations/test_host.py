import pytest

from autopar.costs.operations import kernels
from autopar.costs.operations.collectives import Network
from autopar.costs.operations.device import Device
from autopar.costs.operations.host import layer_host_us, step_host_us
from autopar.specs import CostFactors, Engine


def engine(**fields):
    return Engine.model_validate({"name": "engine", **fields})


@pytest.fixture
def device(two_nodes):
    return lambda **fields: Device.of(two_nodes.gpu, engine=engine(**fields))


def test_without_an_engine_no_host_is_waited_for(two_nodes):
    assert step_host_us([0, 64], Device.of(two_nodes.gpu)).tolist() == [0, 0]
    assert layer_host_us(Device.of(two_nodes.gpu)) == 0


def test_a_step_waits_for_its_host_and_for_each_running_sequence(device):
    """100 us, and 64 sequences of 2.5 us: 260 us."""
    found = step_host_us([0, 64], device(step_us=100, sequence_us=2.5, layer_us=9))
    assert found.tolist() == [100, 260]


def test_a_layer_waits_between_its_kernels(device):
    assert layer_host_us(device(layer_us=11.5)) == 11.5


def test_the_factor_of_the_host_moves_both(two_nodes):
    factors = CostFactors(host=2)
    slow = Device.of(two_nodes.gpu, factors, engine(step_us=100, sequence_us=1, layer_us=10))
    assert step_host_us(50, slow) == 300
    assert layer_host_us(slow) == 20


def test_an_all_reduce_of_the_engine_takes_longer_and_nothing_else_does(two_nodes):
    plain, slow = Network.of(two_nodes), Network.of(two_nodes, engine=engine(all_reduce_us=20))
    assert slow.all_reduce_us(1e6, 4) == pytest.approx(plain.all_reduce_us(1e6, 4) + 20)
    assert slow.all_reduce_us([0, 1e6], [4, 1]).tolist() == [0, 0]
    assert slow.all_gather_us(1e6, 4) == plain.all_gather_us(1e6, 4)


@pytest.mark.parametrize(
    ("reads", "heads", "expected"),
    [(1, 8, 1), (4, 8, 4), (4, 2, 2), (100, 8, 8), (4, 0.5, 1)],
)
def test_decode_reads_a_key_at_most_once_for_each_head_that_shares_it(
    device, reads, heads, expected
):
    assert device(key_reads=reads).key_reads(heads) == expected


def test_reading_keys_again_takes_decode_as_long_as_a_longer_context_in_bytes(device, two_nodes):
    """4 reads of 8 query heads over 2 key heads are 4 times the bytes, as of 8 key heads."""
    shape = {"qk_head_dim": 128, "v_head_dim": 128, "kv_precision": "bf16"}
    again = kernels.decode_attention_us(
        32, 4096, heads=8, kv_heads=2, device=device(key_reads=4), **shape
    )
    once = kernels.decode_attention_us(
        32, 4096, heads=8, kv_heads=8, device=Device.of(two_nodes.gpu), **shape
    )
    assert again == pytest.approx(once)
