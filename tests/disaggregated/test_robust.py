"""Costs of two roles move: a factor of 1 changes nothing, the ends have a new solve's winners."""

from collections.abc import Callable
from typing import Any

import pytest

from autopar.api import solve
from autopar.layouts import layouts_of
from autopar.problem import DisaggregatedPlan
from autopar.robust import Moves, moved, robustness
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


@pytest.mark.parametrize("sizes", SIZES)
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
