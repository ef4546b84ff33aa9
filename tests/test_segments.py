"""Segments of layers: the ones that a pipeline may use, and no others."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autopar import oracle
from autopar.search import make_task
from autopar.segments import segment_table

Build = Callable[..., Any]


@pytest.mark.parametrize("cached", [False, True])
def test_a_table_holds_the_stages_of_every_split_and_nothing_else(
    analytic_scenario: Build, cached: bool
) -> None:
    """Also where deeper pipelines of the same shape have filled the cache before."""
    task = make_task(analytic_scenario(num_layers=6, num_nodes=2))
    cache: dict[Any, Any] = {}
    rows = task.problem.candidates
    for index in np.argsort(-rows.pp, kind="stable").tolist():
        row = rows.take(np.array([index]))
        table = segment_table(task.problem, row, (), cache if cached else None)
        found = list(zip(table.first.tolist(), table.stop.tolist(), strict=True))
        used = {
            (sum(split[:stage]), sum(split[: stage + 1]))
            for split in oracle.splits(6, row.row(0).pp)
            for stage in range(len(split))
        }
        assert found == sorted(used)
