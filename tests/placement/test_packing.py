"""A first placement: complete, no twins, also where the greedy order runs into a dead end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.placement import packing
from autopar.placement.machine import LayerTask, Machine
from autopar.placement.replicas import water_filled
from autopar.placement.rules import broken


@st.composite
def layers_to_pack(draw):
    num_gpus, per_gpu = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    num_slots = num_gpus * per_gpu
    num_experts = draw(st.integers(per_gpu, num_slots))
    numbers = st.lists(st.integers(0, 100), min_size=num_experts, max_size=num_experts)
    loads = np.array(draw(st.lists(numbers, min_size=1, max_size=3)), dtype=float)
    alike = st.none()
    unlike = st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=num_gpus, max_size=num_gpus)
    speeds = draw(alike | unlike.map(tuple))
    return loads, Machine(num_gpus, per_gpu, speeds=speeds)


@given(layers_to_pack())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_every_replica_has_a_slot_and_no_gpu_has_twins(case):
    loads, machine = case
    counts = water_filled(loads, machine.num_slots, machine.num_gpus)
    slots = packing.packed(loads, counts, machine)
    for load, row, count in zip(loads, slots, counts, strict=True):
        assert broken(LayerTask(load, machine), row) == []
        assert np.bincount(row, minlength=len(load)).tolist() == count.tolist()


@pytest.mark.parametrize(
    ("load", "counts", "num_gpus", "per_gpu"),
    [
        ([100.0, 5.0, 4.0, 3.0, 2.0], [1, 1, 1, 1, 2], 2, 3),
        ([100.0, 5.0, 4.0, 3.0, 2.9, 2.8, 2.0], [1, 1, 1, 1, 1, 1, 3], 3, 3),
        ([100.0, 90.0, 5.0, 4.0, 3.0, 2.0], [2, 1, 1, 1, 1, 3], 3, 3),
    ],
)
def test_a_dead_end_is_left_by_moving_a_replica(monkeypatch, load, counts, num_gpus, per_gpu):
    """First case, by hand: 100 on GPU 0; 5, 4, 3 fill GPU 1; of two replicas of 1, GPU 0 takes one.

    The other has no GPU left, until one of GPU 1's three has gone to GPU 0.
    """
    met, inner = [], packing._make_room
    monkeypatch.setattr(packing, "_make_room", lambda *given: met.append(1) or inner(*given))
    machine = Machine(num_gpus, per_gpu)
    slots = packing.packed(np.array([load]), np.array([counts]), machine)[0]
    assert met
    assert broken(LayerTask(np.array(load), machine), slots) == []
    assert np.bincount(slots).tolist() == counts


def test_a_slower_gpu_gets_the_lighter_experts():
    """Slow by ten, GPU 2 gets a replica only when the others are full, and then the lightest."""
    machine = Machine(3, 1, speeds=(1.0, 1.0, 0.1))
    assert packing.packed(
        np.array([[1.0, 6.0, 5.0]]), np.ones((1, 3), dtype=int), machine
    ).tolist() == [[1, 2, 0]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(load=st.lists(st.integers(0, 30), min_size=2, max_size=4), data=st.data())
def test_pairs_of_given_counts_have_the_least_fullest_one(load, data):
    counts = [data.draw(st.integers(1, 2)) for _ in load]
    counts[0] += sum(counts) % 2
    share = [w / c for w, c in zip(load, counts, strict=True) for _ in range(c)]
    slots = packing.paired(np.array([load], dtype=float), np.array([counts]))[0]
    top = max(np.array(load)[pair] @ (1 / np.array(counts)[pair]) for pair in slots.reshape(-1, 2))

    def least(left):
        if not left:
            return 0.0
        rest = left[1:]
        return min(
            max(left[0] + rest[i], least(rest[:i] + rest[i + 1 :])) for i in range(len(rest))
        )

    assert np.isclose(top, least(share))
