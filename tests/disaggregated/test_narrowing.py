"""Segments that are left out are of no pair as good as the known one; bounds are true of others."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from autopar.disaggregated.narrowing import anything, narrowed, unbeaten
from autopar.disaggregated.task import PairTask, make_pair
from autopar.disaggregated.values import Values
from autopar.disaggregated.variables import chosen_values
from autopar.problem import Candidates, IntArray
from autopar.search import Vector
from autopar.segments import SegmentTable, segment_table
from autopar.specs import Scenario

Build = Callable[..., Scenario]
LAYERS = 5
ORDERS = [
    ("throughput", "ttft", "tpot", "traffic", "memory"),
    ("ttft", "throughput", "memory"),
    ("memory", "ttft"),
    ("cost", "ttft"),
]


def candidates_of(task: PairTask, role: int) -> Iterator[tuple[Candidates, SegmentTable]]:
    """Candidates of two stages or more, with all their segments at costs of their own.

    Drawn at random, so that a split may be good in one value and poor in another.
    """
    part = task.roles[role]
    rows, chance = part.problem.candidates, np.random.RandomState(role)
    for index in np.flatnonzero(rows.pp > 1).tolist():
        row = rows.take(np.array([index]))
        table = segment_table(part.problem, row, part.constraints)

        def drawn(column: IntArray | None) -> IntArray:
            assert column is not None
            factor = chance.randint(1, 4, size=len(column)) if column.any() else 1
            return np.asarray(column * factor, dtype=np.int64)

        if len(table.first):
            yield (
                row,
                replace(
                    table,
                    rate=drawn(table.rate),
                    time=drawn(table.time),
                    memory=drawn(table.memory),
                    handover=drawn(table.handover),
                    service=drawn(table.service),
                    tpot=None if table.tpot is None else drawn(table.tpot),
                ),
            )


def paths_of(table: SegmentTable, pp: int) -> Iterator[IntArray]:
    """Every split, by its segments."""
    place = {
        ends: i
        for i, ends in enumerate(zip(table.first.tolist(), table.stop.tolist(), strict=True))
    }
    for cuts in combinations(range(1, LAYERS), pp - 1):
        ends = list(zip([0, *cuts], [*cuts, LAYERS], strict=True))
        if all(pair in place for pair in ends):
            yield np.array([place[pair] for pair in ends])


def vector_of(task: PairTask, role: int, mine: Values, partner: Values) -> Vector:
    pair = (mine, partner) if role == 0 else (partner, mine)
    load = task.load(*pair)
    return tuple(int(o.oriented(*pair, load)[0]) for o in task.objectives)


def holds(task: PairTask, role: int, mine: Values, partner: Values) -> bool:
    pair = (mine, partner) if role == 0 else (partner, mine)
    return all(bool(c.may_hold(*pair)[0]) for c in task.pair)


@pytest.mark.parametrize("objectives", ORDERS)
@pytest.mark.parametrize("role", [0, 1])
def test_no_split_as_good_as_the_known_pair_loses_a_segment(
    pair_scenario: Build, role: int, objectives: tuple[str, ...]
) -> None:
    """With every split of some candidates as the known one in turn, beside the same partner."""
    scenario = pair_scenario(num_layers=LAYERS, num_nodes=4, objectives=objectives)
    task = make_pair(scenario)
    problem = task.roles[role].problem
    other_row, other_table = next(candidates_of(task, 1 - role))
    other = next(paths_of(other_table, int(other_row.pp[0])))
    partner = chosen_values(task.roles[1 - role].problem, other_row, other_table, other)
    left_out, looked_at = 0, 0
    for row, table in candidates_of(task, role):
        paths = list(paths_of(table, int(row.pp[0])))
        values = [chosen_values(problem, row, table, path) for path in paths]
        vectors = [vector_of(task, role, value, partner) for value in values]
        for known in sorted(set(vectors)):
            found = narrowed(task, role, row, table, partner, known)
            assert found is not None
            left, best = found
            kept = set(zip(left.first.tolist(), left.stop.tolist(), strict=True))
            left_out += len(table.first) - len(kept)
            for path, value, vector in zip(paths, values, vectors, strict=True):
                if vector <= known and holds(task, role, value, partner):
                    ends = zip(table.first[path].tolist(), table.stop[path].tolist(), strict=True)
                    assert set(ends) <= kept
                    assert int(best.rate[0]) >= int(value.rate[0])
                    for name in ("time", "handover", "tpot", "boundaries", "memory", "service"):
                        assert int(getattr(best, name)[0]) <= int(getattr(value, name)[0]), name
                    looked_at += 1
    assert left_out
    assert looked_at


def test_bounds_are_true_of_one_split_where_another_known_pair_is_better(
    pair_scenario: Build,
) -> None:
    """Each value for itself promises too much; what is left beside the best split does not."""
    task = make_pair(pair_scenario(num_layers=LAYERS, num_nodes=4, objectives=("ttft", "memory")))
    problem = task.prefill.problem
    for row, table in candidates_of(task, 0):
        paths = list(paths_of(table, int(row.pp[0])))
        values = [chosen_values(problem, row, table, path) for path in paths]
        best = min(vector_of(task, 0, value, anything()) for value in values)
        found = narrowed(task, 0, row, table, anything(), best)
        assert found is not None
        assert vector_of(task, 0, found[1], anything())[0] == best[0]
        worse = tuple(value - 1 for value in best)
        better = narrowed(task, 0, row, table, anything(), (worse[0], *best[1:]))
        assert better is None


def test_nothing_is_left_out_without_a_known_pair(pair_scenario: Build) -> None:
    task = make_pair(pair_scenario(num_layers=LAYERS, num_nodes=4))
    row, table = next(candidates_of(task, 0))
    found = narrowed(task, 0, row, table, anything(), None)
    assert found is not None
    assert found[0] is table
    assert found[1] == unbeaten(task, 0, row, table)
    none = table.keep(np.zeros(len(table.first), dtype=np.bool_))
    assert narrowed(task, 0, row, none, anything(), None) is None
