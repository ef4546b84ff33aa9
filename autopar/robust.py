"""Whether the best layout stays the best where the costs are off as far as they may be.

Each kind of cost is moved alone to both ends of its band, and the scenario is solved again with the
same proof: first with the plan's layout alone, whose batch is free, then with all others, of which
only those can be of interest that are better. Where another wins, the factor from which on it does
is bisected. The runner-up, which is named with the plan, is followed beside: where it overtakes,
and what is left of the lead where it does not.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal

from autopar import search, solver
from autopar.bands import cost_bands
from autopar.constraints import PlugIn
from autopar.errors import SolveLimitError, SpecError
from autopar.layouts import Layout, all_degrees, layouts_of, layouts_of_degrees, only
from autopar.lexicographic import Outcome
from autopar.measurable import operations
from autopar.planning import AnyTask, answered, make_task, optimise, prepare
from autopar.problem import AnyPlan
from autopar.results import Degrees, Doubt, Measurement, Move, Progress, Robustness, RunnerUp
from autopar.runner_up import lead
from autopar.search import Task, Vector
from autopar.specs import CostFactors, Scenario
from autopar.trust import second_opinion
from autopar.variables import Choice, PairChoice

logger = logging.getLogger(__name__)

_STEPS = 6  # of a bisection: to a 64th of the band

Report = Callable[[Progress], None]


def refuse_without_costs(scenario: Scenario) -> None:
    """Raise SpecError for a cost model that has no costs to move."""
    if scenario.cost_model != "analytic":
        raise SpecError(
            f"--robust: cost model {scenario.cost_model!r} has no costs of operations to move; "
            "expected 'analytic' (--set cost_model=analytic)"
        )


def robustness(
    scenario: Scenario,
    plan: AnyPlan,
    *,
    second: RunnerUp | None = None,
    plugins: Sequence[PlugIn] = (),
    progress: Report | None = None,
) -> Robustness:
    """Return whether the layout of an optimal plan stays the best as its costs move.

    second: its runner-up. plugins: all constraints to hold beside those of the scenario. progress:
    called before each solve.
    Raises SpecError if the cost model has no costs to move.
    """
    refuse_without_costs(scenario)
    partition = scenario.requirements.coverage == "partition"
    layouts = layouts_of(plan, one_grid_per_layer=partition)
    named = None if second is None else second.degrees
    rival = None if named is None else layouts_of_degrees(named, one_grid_per_layer=partition)
    started = time.perf_counter()
    moves = Moves(scenario, plan, layouts, tuple(plugins), progress, started, named, rival)
    skipped = dict(_skipped(scenario))
    bands = cost_bands(scenario).model_dump()
    found = [moves.doubt(kind, bands[kind]) for kind in bands if kind not in skipped]
    doubts = [doubt for doubt, _ in found]
    rivals = {kind: choice for _, chosen in found for kind, choice in chosen.items()}
    return Robustness(tuple(doubts), skipped, _settles(scenario, plan, doubts, rivals))


def _skipped(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Yield the kinds of cost that do not matter to a scenario, and why."""
    bands = cost_bands(scenario)
    for kind in CostFactors.model_fields:
        if kind in ("experts", "all_to_all") and not scenario.llm.is_moe:
            yield kind, "the model has no experts"
        elif kind == "host" and scenario.engine is None:
            yield kind, "no engine is named, whose host is charged"
        elif kind in _BETWEEN_GPUS and scenario.cluster.num_gpus == 1:
            yield kind, "there is one GPU"
        elif kind == "fabric_collectives" and _in_one_domain(scenario):
            yield kind, "all GPUs are in one node or scale-up domain"
        elif getattr(bands, kind) == 1:
            yield kind, "its band has no width"


_BETWEEN_GPUS = ("all_reduce", "gather", "fabric_collectives", "all_to_all", "point_to_point")


def _in_one_domain(scenario: Scenario) -> bool:
    cluster = scenario.cluster
    return cluster.num_gpus <= max(cluster.gpus_per_node, cluster.domain_gpus)


def moved(scenario: Scenario, kind: str, factor: float) -> Scenario:
    """Return the scenario with the times of one kind of operation multiplied."""
    own = scenario.cost_factors
    factors = own.model_copy(update={kind: getattr(own, kind) * factor})
    return scenario.model_copy(update={"cost_factors": factors})


@dataclass(frozen=True, slots=True)
class Best:
    """What is best under one move: of the plan's layout, and of all others that are better.

    Vectors are turned so that less is better; None where there is no plan, or none that is better.
    """

    kept: Vector | None
    better: Vector | None
    choice: Choice | PairChoice | None
    is_decided: bool = True

    @property
    def changes(self) -> bool:
        """Whether another layout wins."""
        return self.better is not None


@dataclass(frozen=True, slots=True)
class Moves:
    """A plan whose costs are moved."""

    scenario: Scenario
    plan: AnyPlan
    layouts: tuple[Layout, ...]
    plugins: tuple[PlugIn, ...]
    progress: Report | None
    started: float
    named: Degrees | dict[str, Degrees] | None = None  # of the runner-up
    rival: tuple[Layout, ...] | None = None  # the same, as layouts

    def doubt(self, kind: str, band: float) -> tuple[Doubt, dict[str, Choice | PairChoice]]:
        """Move one kind to both ends of its band; also return who wins where it changes."""
        faster, one = self._move(kind, 1 / band)
        slower, other = self._move(kind, band)
        winner = other if one is None else one
        unsure = [move for move in (faster, slower) if move.verdict != "stays"]
        overtakes = next((at for move in unsure if (at := self._overtaken(kind, move))), None)
        doubt = Doubt(kind, band, faster, slower, overtakes)
        return doubt, {} if winner is None else {kind: winner}

    def _move(self, kind: str, end: float) -> tuple[Move, Choice | PairChoice | None]:
        best = self.under(kind, end)
        breaks = self._breaks(kind, end) if end > 1 else ()  # what is faster breaks no limit
        lead = _lead(best.kept, self._rival_under(kind, end))
        if not best.is_decided:
            return Move(end, "not decided", breaks=breaks, lead=lead), None
        if not best.changes:
            verdict: Literal["no plan", "stays"] = "no plan" if best.kept is None else "stays"
            regret = None if best.kept is None else 0.0
            return Move(end, verdict, regret, breaks=breaks, lead=lead), None
        regret = None if best.kept is None else _lost(best)
        flip, first = self._flip(kind, end, best)
        assert first.choice is not None  # another layout wins
        degrees = all_degrees(first.choice)
        return Move(end, "changes", regret, flip, degrees, breaks, lead), first.choice

    def _rival_under(self, kind: str, factor: float) -> Vector | None:
        """Return what the runner-up's layout reaches under a move, turned; None without a plan."""
        if self.rival is None:
            return None
        return _best_of(
            make_task(moved(self.scenario, kind, factor), plugins=self.plugins), self.rival
        )

    def _overtaken(self, kind: str, move: Move) -> float | None:
        """Return the factor from which on the runner-up is ahead, None where it never is."""
        if move.flip is not None and move.degrees == self.named:
            return move.flip  # it is the one that wins

        def is_ahead(factor: float) -> bool:
            task = make_task(moved(self.scenario, kind, factor), plugins=self.plugins)
            theirs = None if self.rival is None else _best_of(task, self.rival)
            ours = _best_of(task, self.layouts)
            return theirs is not None and (ours is None or theirs < ours)

        return _bisected(move.factor, is_ahead) if is_ahead(move.factor) else None

    def _flip(self, kind: str, end: float, best: Best) -> tuple[float, Best]:
        """Return the factor from which on another layout wins, and what is best there.

        Between 1, where the plan is optimal, and the end of the band, in logarithms.
        """
        found = {end: best}

        def changes(factor: float) -> bool:
            found[factor] = self.under(kind, factor)
            return found[factor].changes

        flip = _bisected(end, changes)
        return flip, found[flip]

    def under(self, kind: str, factor: float) -> Best:
        """Return what is best under one move."""
        if self.progress is not None:
            elapsed = time.perf_counter() - self.started
            self.progress(Progress(elapsed, f"robust: {kind} x {factor:.3g}", None, None, None))
        task = make_task(moved(self.scenario, kind, factor), plugins=self.plugins)
        try:
            own = only(task, self.layouts)
            kept = optimise(own, prepare(own, ties=False))
            ours = None if kept.vector is None else task.oriented(kept.vector)
            outcome = _best(task, ours)
        except SolveLimitError:
            return Best(None, None, None, is_decided=False)
        if kept.interrupted or outcome.interrupted:  # CP-SAT has taken the signal
            raise KeyboardInterrupt
        theirs = None if outcome.vector is None else task.oriented(outcome.vector)
        logger.debug("%s x %.4g: kept %s, best %s", kind, factor, ours, theirs)
        decided = all(o.status in ("optimal", "infeasible") for o in (kept, outcome))
        if theirs is None or (ours is not None and theirs >= ours):
            return Best(ours, None, None, decided)
        return Best(ours, theirs, outcome.choice, decided)

    def _breaks(self, kind: str, factor: float) -> tuple[str, ...]:
        """Return what the plan, with its own batch, violates under a move."""
        report = second_opinion(moved(self.scenario, kind, factor), self.plan)
        disabled = self.scenario.recipe.disable
        return tuple(dict.fromkeys(v.kind for v in report.violations if v.kind not in disabled))


def _bisected(end: float, holds: Callable[[float], bool]) -> float:
    """Return the least move towards an end, where something holds, for which it is seen to hold."""
    low, high, found = 0.0, log(end), end
    for _ in range(_STEPS):
        middle = exp((low + high) / 2)
        if holds(middle):
            high, found = log(middle), middle
        else:
            low = log(middle)
    return found


def _best_of(task: AnyTask, layouts: tuple[Layout, ...]) -> Vector | None:
    """Return what some layouts alone reach, turned so that less is better; None without a plan."""
    own = only(task, layouts)
    try:
        found = answered(own, prepare(own, ties=False))
    except SolveLimitError:
        return None
    return None if found.vector is None else task.oriented(found.vector)


def _lead(kept: Vector | None, theirs: Vector | None) -> float | None:
    """Return how much better the first is, as better / worse - 1; below 0 where it is worse."""
    if kept is None or theirs is None:
        return None
    size = lead(kept[0], theirs[0])
    return size if size is None or kept[0] <= theirs[0] else -size


def _best(task: AnyTask, vector: Vector | None) -> Outcome:
    """Return the best plan of a task that is better than a vector, if there is one.

    Where there is none, the outcome has no plan, or one that is not better.
    """
    if isinstance(task, Task):
        return solver.optimise(task, search.prepare(task, vector))
    return optimise(task, prepare(task, ties=False))


def _lost(best: Best) -> float | None:
    """Return the share of the first objective that keeping the layout gives away."""
    assert best.kept is not None and best.better is not None  # noqa: PT018  asked only then
    kept, better = best.kept[0], best.better[0]
    return None if better == 0 else abs(kept - better) / abs(better)


def _settles(
    scenario: Scenario,
    plan: AnyPlan,
    doubts: Sequence[Doubt],
    rivals: dict[str, Choice | PairChoice],
) -> Measurement | None:
    """Return the measurement of the cost that needs the least part of its band to decide.

    Where none decides alone, of the one that takes most of the lead over the runner-up.
    """
    found = [
        (abs(log(move.flip) / log(doubt.band)), -(move.regret or 0.0), doubt.kind, move.flip)
        for doubt in doubts
        for move in doubt.moves
        if move.flip is not None
    ]
    if found:
        part, _, kind, flip = min(found)
        return Measurement(kind, flip, part, operations(scenario, plan, rivals[kind], kind))
    left = [
        (move.lead, doubt.kind, move.factor)
        for doubt in doubts
        for move in doubt.moves
        if move.lead is not None
    ]
    if not left:
        return None
    least, kind, end = min(left)
    what = operations(scenario, plan, None, kind)
    return Measurement(kind, None, None, what, end, least)
