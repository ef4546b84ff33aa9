"""Costs move within their bands: what wins then, from which factor on, and what would settle it."""

from collections.abc import Callable
from dataclasses import replace
from math import exp, log, sqrt
from typing import Any

import pytest

import autopar
from autopar.api import solve
from autopar.bands import cost_bands
from autopar.catalog import load_scenario
from autopar.errors import SpecError
from autopar.layouts import layouts_of
from autopar.objectives.registry import OBJECTIVES
from autopar.robust import Moves, moved, robustness
from autopar.specs import CostFactors, Scenario
from autopar.specs.change import changed

Build = Callable[..., Scenario]
RULE = {"name": "two", "require": "tp == 2 or replicas == 2", "because": "the test asks for it"}


def two_layouts(build: Build, *, all_reduce: float = 1.0) -> Scenario:
    """One of two GPUs for each half of the batch, or both for all of it: TP1 twice, or TP2."""
    scenario = build(num_experts=0, num_nodes=1, batch=8, num_layers=2)
    for path, value in (
        ("cluster.gpus_per_node", 2),
        ("cluster.gpus_per_domain", 2),
        ("requirements.coverage", "every_gpu"),
        ("recipe.objectives", ["tpot", "memory"]),
        ("cost_factors.all_reduce", all_reduce),
        ("rules", [RULE]),
    ):
        scenario = changed(scenario, path, value)
    return scenario


def tpot_us(scenario: Scenario, tp: int) -> float:
    """The TPOT of one of the two layouts, by the verifier."""
    shape = {1: "replicas == 2", 2: "tp == 2"}[tp]
    alone = changed(scenario, "rules", [{**RULE, "require": shape}])
    metrics = solve(alone, diagnose=False).metrics
    assert metrics is not None and metrics.tpot_us is not None  # noqa: PT018
    return metrics.tpot_us


def flip_of(build: Build) -> float:
    """The factor of all-reduce at which the two layouts are equal, from three times.

    Only TP2 sums over GPUs. Its TPOT is rest + factor * sums, so that sums is what it gains from
    factor 1 to 2. TP1, which has none, is as fast where factor * sums = TPOT(TP1) - rest.
    """
    one = tpot_us(two_layouts(build), 1)
    assert tpot_us(two_layouts(build, all_reduce=2.0), 1) == one
    two, doubled = (tpot_us(two_layouts(build, all_reduce=f), 2) for f in (1.0, 2.0))
    sums = doubled - two
    return (one - (two - sums)) / sums


def planted(build: Build) -> tuple[Scenario, float]:
    """TP2 wins, but not where sums take a root of their band longer."""
    flip = sqrt(cost_bands(two_layouts(build)).all_reduce)
    scenario = two_layouts(build, all_reduce=flip_of(build) / flip)
    return scenario, flip


def doubts_of(scenario: Scenario) -> dict[str, Any]:
    solution = solve(scenario, diagnose=False)
    found = robustness(scenario, solution.require_plan())
    return {doubt.kind: doubt for doubt in found.doubts}


def test_the_winner_flips_where_hand_and_bisection_say(analytic_scenario: Build) -> None:
    scenario, flip = planted(analytic_scenario)
    solution = solve(scenario, diagnose=False)
    assert solution.require_plan().degree("tp") == 2
    found = robustness(scenario, solution.require_plan())
    doubt = next(d for d in found.doubts if d.kind == "all_reduce")
    assert doubt.faster.verdict == "stays"
    assert doubt.slower.verdict == "changes"
    assert doubt.slower.degrees is not None
    assert doubt.slower.degrees["tp"] == 1
    assert doubt.slower.flip is not None
    step = doubt.band ** (1 / 64)
    assert flip / 1.001 <= doubt.slower.flip <= flip * step * 1.001
    assert not found.holds


def test_the_named_runner_up_overtakes_where_the_winner_flips(analytic_scenario: Build) -> None:
    scenario, flip = planted(analytic_scenario)
    solution = solve(scenario)
    assert solution.runner_up is not None
    assert solution.runner_up.degrees is not None
    found = robustness(scenario, solution.require_plan(), second=solution.runner_up)
    doubt = next(d for d in found.doubts if d.kind == "all_reduce")
    step = doubt.band ** (1 / 64)
    assert doubt.overtakes is not None
    assert flip / 1.001 <= doubt.overtakes <= flip * step * 1.001
    assert doubt.faster.lead is not None
    assert doubt.slower.lead is not None
    assert doubt.slower.lead < 0 < doubt.faster.lead


def test_the_leads_are_what_the_verifier_says_of_both_layouts(analytic_scenario: Build) -> None:
    """TP1 has no all-reduce and leads at any price of it; a lower one takes most of the lead."""
    scenario = two_layouts(analytic_scenario, all_reduce=50.0)
    solution = solve(scenario)
    assert solution.require_plan().degree("tp") == 1
    found = robustness(scenario, solution.require_plan(), second=solution.runner_up)
    assert found.holds
    assert all(doubt.overtakes is None for doubt in found.doubts)
    doubt = next(d for d in found.doubts if d.kind == "all_reduce")
    for move in (doubt.faster, doubt.slower):
        one, two = (
            tpot_us(two_layouts(analytic_scenario, all_reduce=50.0 * move.factor), tp)
            for tp in (1, 2)
        )
        assert move.lead == pytest.approx(two / one - 1, rel=1e-3)
    assert found.settles is not None
    leads = [m.lead for d in found.doubts for m in (d.faster, d.slower) if m.lead is not None]
    assert found.settles.lead == min(leads)
    assert found.settles.flip is None
    assert found.settles.what


def test_another_winner_than_the_runner_up_does_not_hide_where_that_overtakes(
    analytic_scenario: Build,
) -> None:
    """A layout is named that wins nowhere: it is ahead of the plan only where a solve says so."""
    scenario, _ = planted(analytic_scenario)
    solution = solve(scenario)
    assert solution.runner_up is not None
    alone = replace(solution.runner_up, degrees={**solution.runner_up.degrees, "replicas": 7})  # type: ignore[dict-item, union-attr]
    found = robustness(scenario, solution.require_plan(), second=alone)
    assert all(doubt.overtakes is None for doubt in found.doubts)
    assert all(m.lead is None for d in found.doubts for m in (d.faster, d.slower))


def test_the_regret_is_what_the_verifier_says_of_both_layouts(analytic_scenario: Build) -> None:
    scenario, _ = planted(analytic_scenario)
    doubt = doubts_of(scenario)["all_reduce"]
    at_end = moved(scenario, "all_reduce", doubt.band)
    one, two = (tpot_us(Scenario.model_validate(at_end.document()), tp) for tp in (1, 2))
    assert doubt.slower.regret == pytest.approx(two / one - 1, rel=1e-3)


def test_the_flip_is_that_of_a_scan(analytic_scenario: Build) -> None:
    """Solved anew at 24 factors of the band, the layout changes once, where it was bisected."""
    scenario, _ = planted(analytic_scenario)
    doubt = doubts_of(scenario)["all_reduce"]
    factors = [exp(log(doubt.band) * step / 24) for step in range(25)]
    layouts = []
    for factor in factors:
        again = moved(scenario, "all_reduce", factor)
        layouts.append(solve(again, diagnose=False).require_plan().degree("tp"))
    assert layouts == sorted(layouts, reverse=True)
    place = layouts.index(1)
    assert factors[place - 1] <= doubt.slower.flip <= factors[place] * doubt.band ** (1 / 64)


def test_the_measurement_that_settles_it_is_of_the_planted_cost(analytic_scenario: Build) -> None:
    scenario, _ = planted(analytic_scenario)
    found = robustness(scenario, solve(scenario, diagnose=False).require_plan())
    assert found.settles is not None
    parts = {
        doubt.kind: log(move.flip) / log(doubt.band if move is doubt.slower else 1 / doubt.band)
        for doubt in found.doubts
        for move in (doubt.faster, doubt.slower)
        if move.flip is not None
    }
    assert found.settles.part == pytest.approx(min(parts.values()))
    assert parts[found.settles.kind] == pytest.approx(found.settles.part)
    assert parts["all_reduce"] == pytest.approx(0.5, abs=1 / 32)


@pytest.mark.parametrize(
    "sizes",
    [
        {"input_tokens": 100, "phase": "serving"},
        {"input_tokens": 100, "phase": "prefill", "num_experts": 0},
        {"phase": "decode"},
        {"phase": "decode", "requirements": {"coverage": "partition"}, "num_layers": 2},
    ],
)
def test_a_factor_of_1_changes_nothing(analytic_scenario: Build, sizes: dict[str, Any]) -> None:
    partition = "requirements" in sizes
    scenario = analytic_scenario(num_nodes=3 if partition else 1, **sizes)
    if partition:  # whose stages lie in a row, not in domains
        scenario = changed(scenario, "cluster.gpus_per_domain", scenario.cluster.num_gpus)
    solution = solve(scenario, diagnose=False)
    plan = solution.require_plan()
    layouts = layouts_of(plan, one_grid_per_layer=partition)
    moves = Moves(scenario, plan, layouts, (), None, 0.0)
    for kind in CostFactors.model_fields:
        best = moves.under(kind, 1.0)
        assert best.kept is not None
        assert not best.changes
        first = solution.objectives[0]
        assert abs(best.kept[0]) == pytest.approx(first.value / _quantum(first.name))


def _quantum(name: str) -> float:
    return OBJECTIVES[name].quantum


def test_what_the_scenario_does_not_have_is_not_moved(analytic_scenario: Build) -> None:
    dense = analytic_scenario(num_experts=0, num_nodes=1)
    found = robustness(dense, solve(dense, diagnose=False).require_plan())
    assert found.skipped.keys() == {"experts", "all_to_all", "host", "fabric_collectives"}
    assert {d.kind for d in found.doubts} == CostFactors.model_fields.keys() - found.skipped.keys()
    one = changed(changed(dense, "cluster.gpus_per_node", 1), "cluster.gpus_per_domain", 1)
    found = robustness(one, solve(one, diagnose=False).require_plan())
    assert {"all_reduce", "gather", "point_to_point"} <= found.skipped.keys()
    assert found.holds
    assert found.settles is None


def test_a_limit_that_the_plan_misses_is_named_and_the_batch_is_free(
    analytic_scenario: Build,
) -> None:
    """The batch fills TPOT, so that slower products break it; a smaller batch keeps the layout."""
    scenario = analytic_scenario(input_tokens=64, max_batch_sequences=64, num_nodes=1)
    free = solve(scenario, diagnose=False)
    limit_us = free.metrics.tpot_us * 0.8  # type: ignore[union-attr, operator]
    tight = changed(scenario, "requirements.max_tpot_us", f"{limit_us} us")
    slower = doubts_of(tight)
    broken = {kind for kind, doubt in slower.items() if "TPOT over limit" in doubt.slower.breaks}
    assert broken
    assert all(doubt.faster.breaks == () for doubt in slower.values())
    assert any(slower[kind].slower.verdict == "stays" for kind in broken)


def test_a_limit_that_nothing_meets_any_more_is_no_change_of_layout(
    analytic_scenario: Build,
) -> None:
    scenario = analytic_scenario(num_nodes=1, num_experts=0, batch=8)
    alone = changed(scenario, "rules", [{**RULE, "require": "tp == 4"}])
    tpot = solve(alone, diagnose=False).metrics.tpot_us  # type: ignore[union-attr]
    tight = changed(alone, "requirements.max_tpot_us", f"{tpot * 1.0001} us")  # type: ignore[operator]
    doubt = doubts_of(tight)["gemm"]
    assert doubt.slower.verdict == "no plan"
    assert doubt.slower.breaks == ("TPOT over limit",)
    assert doubt.faster.verdict == "stays"


def test_a_document_has_no_costs_to_move() -> None:
    scenario = autopar.load_scenario("moe-16x16-512gpu")
    with pytest.raises(SpecError, match="'declared' has no costs"):
        autopar.robustness(solve(scenario, diagnose=False))


def test_the_answer_without_a_proof_stays_as_it_is(analytic_scenario: Build) -> None:
    scenario = analytic_scenario(num_nodes=1)
    solution = replace(solve(scenario, diagnose=False), status="feasible")
    assert autopar.robustness(solution).robustness is None


def test_an_interrupt_leaves_the_answer(
    analytic_scenario: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    solution = solve(analytic_scenario(num_nodes=1), diagnose=False)

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autopar.robust.Moves.under", interrupt)
    answer = autopar.robustness(solution)
    assert answer.plan is solution.plan
    assert answer.interrupted
    assert answer.robustness is None
    assert answer.notes[-1] == "interrupted while costs were moved; the answer stands"


def test_an_all_reduce_over_the_fabric_has_a_wide_band_of_its_own_and_is_named() -> None:
    """Over two nodes nobody measured it: the winner of two nodes hangs on a guess."""
    parts = {"llm": "llama-3.1-405b", "cluster": "2xhgx-h100", "workload": "chat-4k-1k"}
    limits = ["requirements.max_ttft_us=5s", "requirements.max_tpot_us=50ms"]
    scenario = load_scenario(None, parts=parts, overrides=limits)
    solution = solve(scenario)
    assert solution.require_plan().degree("tp") == 16
    assert solution.runner_up is not None
    assert solution.runner_up.over_fabric
    assert solution.runner_up.within_band is None
    bands = cost_bands(scenario)
    assert bands.fabric_collectives > 3 * bands.all_reduce
    found = robustness(scenario, solution.require_plan())
    assert {d.kind for d in found.doubts if d.slower.verdict != "stays"} == {"fabric_collectives"}
    assert found.settles is not None
    assert found.settles.kind == "fabric_collectives"
    assert found.settles.what == ("all-reduce of 819 kB over 16 GPUs in 2 domains",)
    dear = changed(scenario, "cost_factors.fabric_collectives", 2.0)
    cheaper = solve(dear)
    assert cheaper.require_plan().degree("tp") == 8
    confined = changed(dear, "requirements.tensor_parallel_within", "domain")
    second = solve(confined).runner_up
    assert second is not None
    assert not second.over_fabric  # no layout sums over the fabric any more
