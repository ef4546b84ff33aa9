"""Blocks of GPUs in nested containers, against a packing that goes GPU by GPU."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.containers import Containers, usable_gpus


@st.composite
def nests(draw: st.DrawFn) -> Containers:
    """Nested containers; the last outer container, and the last inner container, may be partial."""
    group = draw(st.integers(1, 7))
    if draw(st.booleans()):
        stage = group * draw(st.integers(1, 4))
    else:  # inner containers that do not fill the outer one
        stage = draw(st.integers(group, 4 * group))
    return Containers(draw(st.integers(stage, 4 * stage)), group, stage)


def units_of(containers: Containers, unit: int) -> list[list[tuple[int, ...]]]:
    """Units per outer container: take GPUs one by one, start afresh at every container's edge."""
    result: list[list[tuple[int, ...]]] = []
    hand: list[int] = []
    for gpu in range(containers.num_gpus):
        inside = gpu % containers.outer
        if inside == 0:
            result.append([])
        if inside % containers.inner == 0:
            hand = []
        hand.append(gpu)
        if len(hand) == unit:
            result[-1].append(tuple(hand))
            hand = []
    return result


def pack(
    containers: Containers, units_per_block: int, unit: int, after: int = 0
) -> list[tuple[int, ...]]:
    """Blocks of consecutive units, none across two outer containers, none before GPU `after`."""
    blocks = []
    for every in units_of(containers, unit):
        units = [one for one in every if one[0] >= after]
        for start in range(0, len(units) - units_per_block + 1, units_per_block):
            chosen = units[start : start + units_per_block]
            blocks.append(tuple(gpu for one in chosen for gpu in one))
    return blocks


@settings(max_examples=150, deadline=None, derandomize=True)
@given(nests(), st.integers(1, 6), st.integers(1, 9))
def test_blocks_are_those_of_a_packing_gpu_by_gpu(
    containers: Containers, units_per_block: int, unit: int
) -> None:
    expected = pack(containers, units_per_block, unit)
    size = units_per_block * unit
    assert containers.num_blocks(np.array([size]), np.array([unit])).tolist() == [len(expected)]
    for count in range(len(expected) + 1):
        assert containers.block_gpus(size, unit, count) == expected[:count]
    with pytest.raises(ValueError, match=f"{len(expected)} do$"):
        containers.block_gpus(size, unit, len(expected) + 1)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(nests(), st.integers(1, 4), st.integers(1, 6), st.data())
def test_blocks_after_a_gpu_are_those_of_a_packing_that_begins_there(
    containers: Containers, units_per_block: int, unit: int, data: st.DataObject
) -> None:
    after = data.draw(st.integers(0, containers.num_gpus))
    expected = pack(containers, units_per_block, unit, after)
    size = units_per_block * unit
    for count in range(len(expected) + 1):
        assert containers.block_gpus(size, unit, count, after) == expected[:count]
    with pytest.raises(ValueError, match=f"{len(expected)} do$"):
        containers.block_gpus(size, unit, len(expected) + 1, after)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(nests(), st.integers(1, 4), st.integers(1, 6))
def test_what_blocks_take_from_either_end_is_that_of_a_packing(
    containers: Containers, units_per_block: int, unit: int
) -> None:
    """From the first GPU to the last of them; from the last GPU back as far as they must begin."""
    size = np.array([units_per_block * unit])
    blocks = pack(containers, units_per_block, unit)
    for count in range(1, len(blocks) + 1):
        first = containers.taken_from_the_first(size, np.array([unit]), np.array([count]))
        assert first.tolist() == [blocks[count - 1][-1] + 1]
        begin = max(
            after
            for after in range(containers.num_gpus)
            if len(pack(containers, units_per_block, unit, after)) >= count
        )
        last = containers.taken_from_the_last(size, np.array([unit]), np.array([count]))
        assert last.tolist() == [containers.num_gpus - begin]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(nests(), st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=2))
def test_counting_blocks_of_many_shapes_is_counting_each_alone(
    containers: Containers, shapes: list[tuple[int, int]]
) -> None:
    units_per_block, unit = (np.array(column) for column in zip(*shapes, strict=True))
    together = containers.num_blocks(units_per_block * unit, unit).tolist()
    assert together == [len(pack(containers, blocks, one)) for blocks, one in shapes]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(nests(), st.integers(1, 4), st.integers(1, 9))
def test_blocks_tile_where_the_packing_leaves_no_gpu_over(
    containers: Containers, units_per_block: int, unit: int
) -> None:
    size = units_per_block * unit
    used = len(pack(containers, units_per_block, unit)) * size
    tiles = containers.tiles(np.array([size]), np.array([unit]))
    assert tiles.tolist() == [used == containers.num_gpus]


def test_units_leave_gpus_over_in_every_container_and_a_partial_domain_holds_less() -> None:
    """Nodes of 5, domains of 10, 24 GPUs: units of 2 skip the last GPU of a node.

    A domain gives 2 + 2 units, the partial one of 4 GPUs gives 2. Blocks of 6 GPUs (3 units) fit
    once in each full domain; blocks of 4 fit 2 + 2 + 1 times.
    """
    containers = Containers(num_gpus=24, inner=5, outer=10)
    assert containers.num_blocks(np.array([6, 4]), np.array([2, 2])).tolist() == [2, 5]
    assert containers.block_gpus(6, 2, 2) == [(0, 1, 2, 3, 5, 6), (10, 11, 12, 13, 15, 16)]
    assert containers.block_gpus(4, 2, 5)[-1] == (20, 21, 22, 23)
    assert not containers.tiles(np.array([2]), np.array([2]))[0]
    assert usable_gpus(10, 20, 5, 3) == [10, 11, 12, 15, 16, 17]
