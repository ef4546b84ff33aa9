"""The dynamic programmes over segments, against all paths of random segment tables."""

from collections.abc import Iterator
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.objectives import OBJECTIVES
from autopar.objectives.per_gpu import Cost
from autopar.problem import Candidate, Candidates
from autopar.segments import SegmentTable
from autopar.splits import best_split, not_worse, on_a_path


@st.composite
def tables(draw: st.DrawFn) -> tuple[SegmentTable, int, int]:
    """Some of the segments of a few layers, with few distinct costs so that ties abound."""
    layers = draw(st.integers(1, 6))
    pairs = [(i, j) for i in range(layers) for j in range(i + 1, layers + 1)]
    chosen = draw(st.permutations([p for p in pairs if draw(st.integers(0, 4))]))
    count = len(chosen)
    costs = [draw(st.lists(st.integers(1, 6), min_size=count, max_size=count)) for _ in range(4)]
    first, stop = (np.array([p[k] for p in chosen], dtype=np.int64) for k in (0, 1))
    time, rate, tpot, memory = (np.array(c, dtype=np.int64) for c in costs)
    table = SegmentTable((0,), first, stop, time, rate, tpot, memory, draw(st.integers(1, 3)))
    return table, layers, draw(st.integers(1, layers))


def paths(table: SegmentTable, layers: int, pp: int) -> Iterator[list[int]]:
    """Every path of exactly pp segments from layer 0 to the end, as indices."""
    pieces = list(zip(table.first.tolist(), table.stop.tolist(), strict=True))

    def extend(path: list[int], layer: int) -> Iterator[list[int]]:
        if len(path) == pp:
            if layer == layers:
                yield path
            return
        for index, (first, stop) in enumerate(pieces):
            if first == layer:
                yield from extend([*path, index], stop)

    return extend([], 0)


def value(name: str, table: SegmentTable, path: list[int]) -> int:
    """Less is better, by the definitions: slowest rate, summed time, worst TPOT and memory."""
    rate = min(int(table.rate[i]) for i in path)
    if name == "throughput":
        return -rate
    if name == "throughput_per_gpu":
        return -(rate * 1000 // table.gpus)
    if name == "cost":
        return ceil(12 * table.gpus / rate - 1e-6)
    if name == "ttft":
        return sum(int(table.time[i]) for i in path)
    if name == "traffic":
        return len(path) - 1
    column = table.tpot if name == "tpot" else table.memory
    assert column is not None
    return max(int(column[i]) for i in path)


# At this price, one GPU costs 12 quanta for a million tokens at a rate of one quantum.
AIMS = {**OBJECTIVES, "cost": Cost(usd_per_gpu_hour=3600 * 12e-15)}


def row(pp: int) -> Candidates:
    return Candidates.of([Candidate(1, pp, 1, 1, 1, 1, 1, 1)])


EXACT = [
    ("throughput",),
    ("ttft",),
    ("traffic", "ttft"),
    ("throughput", "ttft"),
    ("memory", "throughput", "tpot"),
    ("tpot", "traffic", "memory", "ttft"),
    ("throughput", "memory", "tpot", "ttft"),
    ("throughput_per_gpu", "ttft"),
    ("tpot", "throughput_per_gpu", "memory"),
    ("cost",),
    ("ttft", "throughput", "memory"),
    ("throughput", "ttft", "tpot", "traffic", "memory"),
    ("tpot", "ttft", "throughput_per_gpu"),
]


@pytest.mark.parametrize("order", EXACT, ids="-".join)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=tables())
def test_the_best_split_is_the_best_of_all_paths(
    order: tuple[str, ...], case: tuple[SegmentTable, int, int]
) -> None:
    table, layers, pp = case
    every = list(paths(table, layers, pp))
    aims = [AIMS[name] for name in order]
    chosen = best_split(row(pp), table, layers, aims, to_the_end=True)
    if not every:
        assert chosen is None
        return
    assert chosen is not None
    assert chosen.tolist() in every
    expected = min(tuple(value(name, table, path) for name in order) for path in every)
    assert tuple(value(name, table, chosen.tolist()) for name in order) == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=tables())
def test_with_objectives_after_a_sum_the_split_is_a_path_with_the_best_sum(
    case: tuple[SegmentTable, int, int],
) -> None:
    table, layers, pp = case
    every = list(paths(table, layers, pp))
    order = ("throughput", "ttft", "memory")
    chosen = best_split(row(pp), table, layers, [AIMS[name] for name in order])
    assert (chosen is None) == (not every)
    if chosen is not None:
        assert chosen.tolist() in every
        expected = min(tuple(value(name, table, p) for name in order[:2]) for p in every)
        assert tuple(value(name, table, chosen.tolist()) for name in order[:2]) == expected


@settings(max_examples=120, deadline=None, derandomize=True)
@given(case=tables())
def test_on_a_path_marks_the_segments_of_all_paths(case: tuple[SegmentTable, int, int]) -> None:
    table, layers, pp = case
    used = {index for path in paths(table, layers, pp) for index in path}
    marked = on_a_path(table, layers, pp)
    assert marked.shape == table.first.shape
    assert set(np.flatnonzero(marked).tolist()) == used


@pytest.mark.parametrize("name", ["throughput", "throughput_per_gpu", "cost", "memory", "tpot"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=tables(), limit=st.one_of(st.integers(-7, 40), st.integers(-7000, 7)))
def test_not_worse_keeps_exactly_the_segments_of_plans_within_the_limit(
    name: str, case: tuple[SegmentTable, int, int], limit: int
) -> None:
    """A bottleneck within the limit is every stage within the limit."""
    table, layers, pp = case
    kept = not_worse(AIMS[name], table, layers, pp, limit)
    for path in paths(table, layers, pp):
        assert (value(name, table, path) <= limit) == bool(kept[path].all())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=tables(), limit=st.integers(0, 40))
def test_not_worse_keeps_the_segments_of_all_plans_whose_sum_is_within_the_limit(
    case: tuple[SegmentTable, int, int], limit: int
) -> None:
    table, layers, pp = case
    good = [p for p in paths(table, layers, pp) if value("ttft", table, p) <= limit]
    kept = not_worse(AIMS["ttft"], table, layers, pp, limit)
    assert set(np.flatnonzero(kept).tolist()) == {index for path in good for index in path}


@pytest.mark.parametrize("name", ["traffic", "gpus"])
def test_not_worse_keeps_all_segments_for_counts(name: str) -> None:
    one = np.array([1, 1], dtype=np.int64)
    table = SegmentTable((0,), np.array([0, 1]), np.array([1, 2]), one, one, one, one, 1)
    assert not_worse(OBJECTIVES[name], table, 2, 2, -(10**9)).all()


def test_equal_splits_come_out_balanced() -> None:
    """Nothing tells the splits of 6 layers in 3 stages apart; the plan people expect is 2+2+2."""
    first, stop = (a.astype(np.int64) for a in np.triu_indices(6))
    stop = stop + 1
    same = np.ones(len(first), dtype=np.int64)
    table = SegmentTable((0,), first, stop, same, same, same, same, 1)
    chosen = best_split(row(3), table, 6, [OBJECTIVES["throughput"]])
    assert chosen is not None
    assert (table.stop[chosen] - table.first[chosen]).tolist() == [2, 2, 2]
