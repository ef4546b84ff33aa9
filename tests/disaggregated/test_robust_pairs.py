"""Costs of two roles move: a factor of 1 changes nothing, the ends have a new solve's winners."""

from collections.abc import Callable
from typing import Any

import pytest

from autopar import api
from autopar.api import solve
from autopar.disaggregated.task import PairTask, make_pair
from autopar.layouts import layouts_of, pairs_beside
from autopar.problem import DisaggregatedPlan
from autopar.robust import Moves, moved, robustness
from autopar.runner_up import next_best_pair
from autopar.specs import Scenario

Build = Callable[..., Scenario]
SIZES: tuple[dict[str, Any], ...] = (
    {},
    {"num_experts": 2, "num_nodes": 3},
    {"num_layers": 3, "num_nodes": 3, "requirements": {"max_tpot_us": 150.0}},
)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_factor_of_1_changes_nothing(pair_scenario: Build, sizes: dict[str, Any]) -> None:
    scenario = pair_scenario(**sizes)
    plan = solve(scenario, diagnose=False).require_plan()
    moves = Moves(scenario, plan, layouts_of(plan, one_grid_per_layer=False), (), None, 0.0)
    for kind in ("gemm", "all_reduce", "point_to_point"):
        best = moves.under(kind, 1.0)
        assert best.kept is not None
        assert not best.changes


@pytest.mark.parametrize(
    "sizes", [SIZES[2], *(pytest.param(s, marks=pytest.mark.slow) for s in SIZES[:2])]
)
def test_each_end_of_a_band_has_the_winner_of_a_new_solve(
    pair_scenario: Build, sizes: dict[str, Any]
) -> None:
    scenario = pair_scenario(**sizes)
    plan = solve(scenario, diagnose=False).require_plan()
    own = layouts_of(plan, one_grid_per_layer=False)
    for doubt in robustness(scenario, plan).doubts:
        for move in (doubt.faster, doubt.slower):
            again = solve(moved(scenario, doubt.kind, move.factor), diagnose=False)
            if move.verdict == "changes":
                layouts = layouts_of(again.require_plan(), one_grid_per_layer=False)
                assert layouts != own
                assert move.degrees is not None
                assert move.degrees.keys() == {"prefill", "decode"}
            else:
                assert move.verdict == ("stays" if again.plan is not None else "no plan")


def test_what_settles_it_is_said_of_both_roles(pair_scenario: Build) -> None:
    """As far as a role has the operation at all."""
    scenario = pair_scenario(num_layers=3, num_nodes=3)
    plan = solve(scenario, diagnose=False).require_plan()
    assert isinstance(plan, DisaggregatedPlan)
    found = robustness(scenario, plan)
    if found.settles is not None and found.settles.kind == "gemm":
        assert [words.split(":")[0] for words in found.settles.what] == ["prefill", "decode"]


@pytest.mark.parametrize("sizes", SIZES)
def test_the_runner_up_is_the_best_pair_with_another_layout(
    pair_scenario: Build, best_pair: Callable[[PairTask], Any], sizes: dict[str, Any]
) -> None:
    """Against the exhaustive best of the pairs whose prefill, or else decode, is another."""
    scenario = pair_scenario(**sizes)
    solution = solve(scenario, diagnose=False)
    plan, task = solution.require_plan(), make_pair(scenario)
    assert isinstance(plan, DisaggregatedPlan)
    assert solution.metrics is not None
    found = next_best_pair(task, plan, solution.metrics)
    assert found is not None
    own = layouts_of(plan, one_grid_per_layer=False)
    both = pairs_beside(task, own)
    best = min((vector for part in both if (vector := best_pair(part)) is not None), default=None)
    assert (found.value is None) == (best is None)
    if best is not None and found.value is not None:
        first = task.objectives[0]
        assert found.value == pytest.approx(first.value(abs(best[0])))
        assert found.degrees is not None
        assert found.degrees.keys() == {"prefill", "decode"}


def test_the_answer_of_robust_has_the_runner_up_of_a_pair(pair_scenario: Build) -> None:
    solution = solve(pair_scenario(**SIZES[2]), diagnose=False)
    assert solution.runner_up is None
    answer = api.robustness(solution)
    assert answer.robustness is not None
    assert answer.runner_up is not None
