"""Blocks of GPUs in nested containers, against a packing that goes GPU by GPU."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.specs import Cluster, Gpu
from autopar.topology import Topology, usable_gpus


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Nested containers; the last stage container, and the last group container, may be partial."""
    group = draw(st.integers(1, 7))
    if draw(st.booleans()):
        stage = group * draw(st.integers(1, 4))
    else:  # group containers that do not fill the stage container
        stage = draw(st.integers(group, 4 * group))
    return Topology(draw(st.integers(stage, 4 * stage)), group, stage)


def units_of(topology: Topology, unit: int) -> list[list[tuple[int, ...]]]:
    """Units per stage container: take GPUs one by one, start afresh at every container's edge."""
    result: list[list[tuple[int, ...]]] = []
    hand: list[int] = []
    for gpu in range(topology.num_gpus):
        inside = gpu % topology.stage_container
        if inside == 0:
            result.append([])
        if inside % topology.group_container == 0:
            hand = []
        hand.append(gpu)
        if len(hand) == unit:
            result[-1].append(tuple(hand))
            hand = []
    return result


def pack(
    topology: Topology, units_per_block: int, unit: int, after: int = 0
) -> list[tuple[int, ...]]:
    """Blocks of consecutive units, none across two stage containers, none before GPU `after`."""
    blocks = []
    for every in units_of(topology, unit):
        units = [one for one in every if one[0] >= after]
        for start in range(0, len(units) - units_per_block + 1, units_per_block):
            chosen = units[start : start + units_per_block]
            blocks.append(tuple(gpu for one in chosen for gpu in one))
    return blocks


@settings(max_examples=150, deadline=None, derandomize=True)
@given(topologies(), st.integers(1, 6), st.integers(1, 9))
def test_blocks_are_those_of_a_packing_gpu_by_gpu(
    topology: Topology, units_per_block: int, unit: int
) -> None:
    expected = pack(topology, units_per_block, unit)
    size = units_per_block * unit
    assert topology.num_blocks(np.array([size]), np.array([unit])).tolist() == [len(expected)]
    for count in range(len(expected) + 1):
        assert topology.block_gpus(size, unit, count) == expected[:count]
    with pytest.raises(ValueError, match=f"{len(expected)} do$"):
        topology.block_gpus(size, unit, len(expected) + 1)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(topologies(), st.integers(1, 4), st.integers(1, 6), st.data())
def test_blocks_after_a_gpu_are_those_of_a_packing_that_begins_there(
    topology: Topology, units_per_block: int, unit: int, data: st.DataObject
) -> None:
    after = data.draw(st.integers(0, topology.num_gpus))
    expected = pack(topology, units_per_block, unit, after)
    size = units_per_block * unit
    for count in range(len(expected) + 1):
        assert topology.block_gpus(size, unit, count, after) == expected[:count]
    with pytest.raises(ValueError, match=f"{len(expected)} do$"):
        topology.block_gpus(size, unit, len(expected) + 1, after)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(topologies(), st.integers(1, 4), st.integers(1, 6))
def test_what_blocks_take_from_either_end_is_that_of_a_packing(
    topology: Topology, units_per_block: int, unit: int
) -> None:
    """From the first GPU to the last of them; from the last GPU back as far as they must begin."""
    size = np.array([units_per_block * unit])
    blocks = pack(topology, units_per_block, unit)
    for count in range(1, len(blocks) + 1):
        first = topology.taken_from_the_first(size, np.array([unit]), np.array([count]))
        assert first.tolist() == [blocks[count - 1][-1] + 1]
        begin = max(
            after
            for after in range(topology.num_gpus)
            if len(pack(topology, units_per_block, unit, after)) >= count
        )
        last = topology.taken_from_the_last(size, np.array([unit]), np.array([count]))
        assert last.tolist() == [topology.num_gpus - begin]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(topologies(), st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=2))
def test_counting_blocks_of_many_shapes_is_counting_each_alone(
    topology: Topology, shapes: list[tuple[int, int]]
) -> None:
    units_per_block, unit = (np.array(column) for column in zip(*shapes, strict=True))
    together = topology.num_blocks(units_per_block * unit, unit).tolist()
    assert together == [len(pack(topology, blocks, one)) for blocks, one in shapes]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(topologies(), st.integers(1, 9))
def test_units_tile_where_the_packing_leaves_no_gpu_over(topology: Topology, unit: int) -> None:
    used = sum(len(units) for units in units_of(topology, unit)) * unit
    assert topology.tiles(np.array([unit])).tolist() == [used == topology.num_gpus]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(topologies(), st.data())
def test_two_gpus_share_a_stage_container_where_no_edge_lies_between(
    topology: Topology, data: st.DataObject
) -> None:
    gpus = st.integers(0, topology.num_gpus - 1)
    low, high = sorted((data.draw(gpus), data.draw(gpus)))
    edges = [g for g in range(low + 1, high + 1) if g % topology.stage_container == 0]
    same = topology.same_stage_container(np.array([low, high]), np.array([high, low]))
    assert same.tolist() == [not edges, not edges]


def test_units_leave_gpus_over_in_every_container_and_a_partial_domain_holds_less() -> None:
    """Nodes of 5, domains of 10, 24 GPUs: units of 2 skip the last GPU of a node.

    A domain gives 2 + 2 units, the partial one of 4 GPUs gives 2. Blocks of 6 GPUs (3 units) fit
    once in each full domain; blocks of 4 fit 2 + 2 + 1 times.
    """
    topology = Topology(num_gpus=24, group_container=5, stage_container=10)
    assert topology.num_blocks(np.array([6, 4]), np.array([2, 2])).tolist() == [2, 5]
    assert topology.block_gpus(6, 2, 2) == [(0, 1, 2, 3, 5, 6), (10, 11, 12, 13, 15, 16)]
    assert topology.block_gpus(4, 2, 5)[-1] == (20, 21, 22, 23)
    assert not topology.tiles(np.array([2]))[0]
    assert usable_gpus(10, 20, 5, 3) == [10, 11, 12, 15, 16, 17]


def cluster(num_nodes: int, per_node: int, per_domain: int | None) -> Cluster:
    return Cluster(
        name="c",
        gpu=Gpu(name="g", peak_flops_per_s=1e12, memory_bytes=1e9),
        num_nodes=num_nodes,
        gpus_per_node=per_node,
        gpus_per_domain=per_domain,
    )


@pytest.mark.parametrize(
    ("tensor", "stage", "expected"),
    [
        ("node", "domain", (4, 12)),
        ("node", "cluster", (4, 40)),
        ("domain", "node", (4, 4)),  # a group lies in its stage's container too
        ("cluster", "domain", (12, 12)),
        ("cluster", "cluster", (40, 40)),
    ],
)
def test_confinements_give_the_containers(
    tensor: str, stage: str, expected: tuple[int, int]
) -> None:
    topology = Topology.of(cluster(10, 4, 12), tensor, stage)
    assert (topology.group_container, topology.stage_container) == expected


def test_a_domain_larger_than_the_cluster_is_the_cluster() -> None:
    assert Topology.of(cluster(2, 4, 64), "domain", "domain") == Topology(8, 8, 8)


def test_a_cluster_without_domains_confines_to_nodes() -> None:
    assert Topology.of(cluster(3, 4, None), "domain", "domain") == Topology(12, 4, 4)


def test_a_unit_holds_whole_groups_of_both_kinds_unless_groups_are_free() -> None:
    tp, etp = np.array([2, 4, 1]), np.array([3, 2, 1])
    assert Topology(24, 8, 8).unit(tp, etp).tolist() == [6, 4, 1]
    assert Topology(24, 24, 24).unit(tp, etp).tolist() == [1, 1, 1]
