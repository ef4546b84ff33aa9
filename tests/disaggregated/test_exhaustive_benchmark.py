"""benchmarks/exhaustive_pairs.py finds the rate that the search with every split finds."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autopar.disaggregated.task import PairTask, make_pair
from autopar.specs import Scenario

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Any:
    if not BENCHMARKS.is_dir():
        pytest.skip("benchmarks are not part of this tree")
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module("exhaustive_pairs")


@pytest.mark.parametrize("limits", [{}, {"max_ttft_us": 800.0}, {"max_tpot_us": 140.0}], ids=str)
@pytest.mark.parametrize("coverage", ["up_to", "every_gpu"])
@pytest.mark.parametrize("rules", [[], ["prefill.tp > decode.tp", "decode.pp == 1 or same_stages"]])
def test_its_best_rate_is_that_of_all_splits(
    pairs: Any,
    pair_scenario: Callable[..., Scenario],
    best_pair: Callable[[PairTask], tuple[float, ...] | None],
    limits: dict[str, float],
    coverage: str,
    rules: list[str],
) -> None:
    requirements = {"coverage": coverage, **limits}
    task = make_pair(
        pair_scenario(num_layers=3, num_nodes=3, requirements=requirements, rules=rules)
    )
    expected = best_pair(task)
    assert expected is not None
    sides = [pairs.every_plan(role) for role in task.roles]
    reached = pairs.best_pair(task, *sides, "reached")
    unbeaten = pairs.best_pair(task, *sides, "unbeaten")
    assert reached.rate <= -expected[0] <= unbeaten.rate
    assert reached.rate == -expected[0]
