"""Every split has one of the runs: by brute force over splits, and of layers that differ."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.catalog import load_scenario
from autopar.costs.runs import MOST_ROWS, least_of_a_stage
from autopar.costs.shape import Shape
from autopar.problem import FloatArray


def shape_of(kinds: list[int]) -> Shape:
    """The shape of a model with layers of such kinds, of which only their order matters here."""
    parts = {"llm": "qwen3-32b", "cluster": "1xhgx-h100", "workload": "prefill-8k"}
    scenario = load_scenario(None, parts=parts)
    shape = Shape.of(scenario.llm, scenario.workload)
    number = max(kinds) + 1
    counts = np.zeros((number, len(kinds) + 1), dtype=np.int64)
    for kind in range(number):
        counts[kind, 1:] = np.cumsum(np.array(kinds) == kind)
    return Shape(
        shape.architecture, shape.precisions, shape.workload, shape.law,
        shape.kinds * number, counts,
    )  # fmt: skip


def best_of_all_splits(kinds: list[int], costs: FloatArray, pp: int) -> float:
    of_layer = costs[np.array(kinds)]
    return min(
        max(of_layer[first:stop].sum() for first, stop in pairwise((0, *cuts, len(kinds))))
        for cuts in combinations(range(1, len(kinds)), pp - 1)
    )


@settings(max_examples=150)
@given(st.data())
def test_no_split_has_less_in_its_fullest_stage(data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 6))
    kinds = data.draw(st.lists(st.integers(0, number - 1), min_size=number, max_size=9))
    kinds = [*range(number), *kinds]
    rows = data.draw(st.integers(1, 4))
    costs = np.array(
        [
            data.draw(st.lists(st.integers(0, 50), min_size=rows, max_size=rows))
            for _ in range(number)
        ],
        dtype=np.float64,
    )
    pp = np.array(data.draw(st.lists(st.integers(1, len(kinds)), min_size=rows, max_size=rows)))
    least = least_of_a_stage(shape_of(kinds), pp, costs)
    for row in range(rows):
        best = best_of_all_splits(kinds, costs[:, row], int(pp[row]))
        mean = costs[np.array(kinds), row].sum() / pp[row]
        assert least[row] <= best
        if number == 1:
            assert least[row] == best
        assert least[row] >= 0
        assert best >= mean


@pytest.mark.parametrize(
    ("pp", "cheap", "dear", "least"),
    [
        (16, 1.0, 1.2, 3.0),  # three cheap layers, where the mean is 2.6
        (8, 1.0, 3.0, 9.0),  # two dear layers and the three between them, where the mean is 7.5
        (1, 1.0, 3.0, 60.0),
    ],
)
def test_it_is_what_the_best_split_has_where_every_fourth_layer_is_dear(
    pp: int, cheap: float, dear: float, least: float
) -> None:
    """40 layers, as in Qwen3.5-35B-A3B."""
    kinds = [0, 0, 0, 1] * 10
    found = least_of_a_stage(shape_of(kinds), np.array([pp]), np.array([[cheap], [dear]]))
    assert found == pytest.approx([least])


def test_large_tables_are_left_to_coarser_bounds() -> None:
    many = MOST_ROWS + 1
    shape = shape_of([0, 1])
    assert not least_of_a_stage(shape, np.ones(many, dtype=np.int64), np.ones((2, many))).any()
    assert least_of_a_stage(shape, np.zeros(0, dtype=np.int64), np.ones((2, 0))).shape == (0,)
