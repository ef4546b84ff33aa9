"""Kernels that move data and linear mixers, by hand, on a GPU of 1e15 FLOP/s and 1e12 bytes/s."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.costs.operations import kernels
from autopar.costs.operations.device import Device
from autopar.specs import Gpu
from autopar.specs.kernels import ElementwiseFit, Kernels, LinearFit

DEVICE = Device.of(
    Gpu(
        name="g",
        peak_flops_per_s=1e15,
        memory_bytes=1e9,
        memory_bandwidth_bytes_per_s=1e12,
        kernels=Kernels(
            elementwise=ElementwiseFit(start_us=2.0, memory_fraction=0.5),
            linear_attention={
                "fp32": LinearFit(start_us=4.0, compute_fraction=0.1, memory_fraction=0.5)
            },
        ),
    )
)


def linear_us(tokens, sequences, state_elements):
    return kernels.linear_attention_us(
        tokens, sequences, state_elements=state_elements, device=DEVICE
    )


def test_moving_data_takes_a_start_and_its_bytes():
    """5e6 bytes over 0.5e12: 10 us, and 2 of start."""
    assert kernels.elementwise_us(5e6, DEVICE) == pytest.approx(12)


def test_a_gpu_without_measurements_takes_3_us_and_0_8_of_its_bandwidth():
    """8e6 bytes over 0.8e12: 10 us, and 3 of start."""
    bare = Gpu(name="g", peak_flops_per_s=1e15, memory_bytes=1e9, memory_bandwidth_bytes_per_s=1e12)
    assert kernels.elementwise_us(8e6, Device.of(bare)) == pytest.approx(13)


def test_a_decode_step_reads_and_writes_the_states():
    """100 sequences of 10,000 fp32 elements, read and written: 8e6 bytes over 0.5e12: 16 us."""
    assert linear_us(100, 100, 10_000) == pytest.approx(20)


def test_a_prompt_works_on_its_state_once_per_token():
    """1e5 tokens x 10,000 elements x 6 FLOPs = 6e9 over 0.1e15: 60 us."""
    assert linear_us(100_000, 1, 10_000) == pytest.approx(64)


def test_nothing_takes_no_time():
    assert kernels.elementwise_us(0, DEVICE) == 0
    assert linear_us(0, 0, 10) == 0


@given(tokens=st.floats(0, 1e6), sequences=st.floats(0, 1e4), state=st.floats(0, 1e6))
def test_more_is_never_faster(tokens, sequences, state):
    least = linear_us(tokens, sequences, state)
    assert linear_us(tokens + 1, sequences, state) >= least
    assert linear_us(tokens, sequences + 1, state) >= least
    assert linear_us(tokens, sequences, state + 1) >= least
    assert kernels.elementwise_us(tokens + 1, DEVICE) >= kernels.elementwise_us(tokens, DEVICE)
