"""The nearest plan that an engine can start, and what it costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autopar.api import solve
from autopar.constraints import PlugIn
from autopar.errors import InexpressibleError
from autopar.export.closeness import kept_of
from autopar.export.exporting import export
from autopar.export.judging import broken_rules, pack_of
from autopar.export.options import Options, Target
from autopar.export.relaying import batch_of, variants, with_batch, with_fewer_replicas
from autopar.export.stage_room import TooFullError
from autopar.problem import AnyPlan, DisaggregatedPlan, Metrics, Plan
from autopar.results import Status
from autopar.specs import RuleSpec, Scenario
from autopar.trust import second_opinion

# What is given up, one after another, where the engine has no plan that keeps it.
_COVERAGES = ("every_gpu", "up_to")
_SECONDS_PER_HOUR = 3600
_MILLION = 1e6
_PODS_OF_MPI = RuleSpec(
    name="trtllm_servers_of_one_pod",
    require="gpus * pp <= gpus_per_node",
    because="mpirun, which starts a server of several nodes, has no way from pod to pod",
)
_WORLD = RuleSpec(
    name="megatron_world_on_nodes",
    require="replicas * pp * gpus % gpus_per_node == 0 or replicas * pp * gpus < gpus_per_node",
    because="torchrun starts as many ranks on each node",
)

_MOST_CUTS = 3  # further searches for a plan that has room for the engine's smallest cache
# Less than this part of a figure is not called a change: costs are rounded for the solver.
_SAME = 5e-4


@dataclass(frozen=True, slots=True)
class Figure:
    """What an objective or a requirement counts, of the plan asked for and of the nearest one.

    gain: 1 where more of it is better, -1 where less is.
    """

    name: str
    unit: str
    before: float
    after: float
    gain: int

    @property
    def is_same(self) -> bool:
        """Whether both plans have it, but for rounding."""
        return abs(self.after - self.before) <= _SAME * abs(self.before)

    @property
    def is_worse(self) -> bool:
        """Whether the nearest plan has less of what should be high, or more of the rest."""
        return not self.is_same and (self.after - self.before) * self.gain < 0


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest plan to the one that was asked for, by the costs of the same scenario.

    changes: in what it differs, where it is the same layout. kept: what both have, where it is
    another one; empty for nothing. given_up: requirements that no plan of the engine meets. before:
    metrics of the plan that was asked for; None where it is too broken to be measured. proved:
    whether no other plan within the engine's rules is better, of those that keep as much.
    """

    scenario: Scenario
    asked: AnyPlan
    plan: AnyPlan
    changes: tuple[str, ...]
    given_up: tuple[str, ...]
    before: Metrics | None
    after: Metrics
    proved: bool = True
    kept: str = ""

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What objectives and requirements count, throughput first; what both plans state.

        Empty where the plan that was asked for cannot be measured.
        """
        if self.before is None:
            return ()
        before, after = self.before, self.after
        gpus = (self.asked.num_gpus, self.plan.num_gpus)
        per_gpu = (before.tokens_per_s_per_gpu, after.tokens_per_s_per_gpu)
        rows: list[tuple[str, str, float | None, float | None, int]] = [
            ("throughput", "tokens/s", before.tokens_per_s, after.tokens_per_s, 1),
            ("throughput per GPU", "tokens/s", *per_gpu, 1),
            ("TTFT", "us", before.ttft_us, after.ttft_us, -1),
            ("TPOT", "us", before.tpot_us, after.tpot_us, -1),
            ("memory per GPU", "bytes", before.peak_memory_bytes, after.peak_memory_bytes, -1),
            ("GPUs used", "", *gpus, -1),
            ("stage boundaries", "", before.stage_boundaries, after.stage_boundaries, -1),
        ]
        usd = self.scenario.cluster.gpu.usd_per_hour
        if usd is not None and all(per_gpu):
            costs = [usd / _SECONDS_PER_HOUR / rate * _MILLION for rate in per_gpu]
            rows.append(("cost", "USD per million tokens", costs[0], costs[1], -1))
        return tuple(
            Figure(name, unit, old, new, gain)
            for name, unit, old, new, gain in rows
            if old is not None and new is not None
        )


@dataclass(frozen=True, slots=True)
class Search:
    """One search that led to no plan which the engine can start.

    status: of the solver; plan: its best one, if any, which the engine refuses because of why.
    """

    given_up: tuple[str, ...]
    status: Status
    plan: AnyPlan | None
    why: str


@dataclass(frozen=True, slots=True)
class Unfound:
    """No plan that an engine can start was found, and what was searched."""

    searches: tuple[Search, ...]


def nearest(
    scenario: Scenario,
    plan: AnyPlan,
    options: Options,
    plugins: Sequence[PlugIn] = (),
    target: Target | None = None,
) -> Nearest | Unfound:
    """Return the nearest plan that an engine can start, or what was searched in vain.

    First the same layout on other GPUs, idle ones too, or with experts where the engine deals them:
    of those the first that costs nothing, else the one with most throughput. Else the scenario is
    solved again with the engine's rule pack, at the same costs, so that the two plans can be
    compared: first for plans that keep most of this one (`closeness`). Where no plan meets all of
    the scenario, its coverage is weakened, then its own rules are left out.
    target: what is to be written; the engine's commands by default.
    """
    aim = target or options.engine
    before = second_opinion(scenario, plan).metrics
    for others, changes in _of_layout(scenario, plan, options):
        best: Nearest | None = None
        for other in others:
            after, _ = _started(scenario, other, options, aim)
            if after is None:
                continue
            found = Nearest(scenario, plan, other, changes, (), before, after)
            if before is not None and not any(figure.is_worse for figure in found.figures):
                return found
            if best is None or after.tokens_per_s > best.after.tokens_per_s * (1 + _SAME):
                best = found
        if best is not None:
            return best
    searches = []
    for asked, given_up in _questions(scenario, plan, options, aim):
        searched: list[Search] = []
        for kept in kept_of(asked, plan):
            if kept.is_fewer and not given_up and isinstance(plan, Plan):
                fewer = _with_fewer_replicas(scenario, plan, options, aim)
                if fewer is not None:
                    return fewer
            refused: list[Search] = []
            cuts: tuple[RuleSpec, ...] = ()
            while len(refused) <= _MOST_CUTS:
                near = asked.model_copy(update={"rules": (*asked.rules, *kept.rules, *cuts)})
                solution = solve(near, plugins=plugins, diagnose=False)
                candidate, after, why = _first_started(asked, solution.plan, options, aim)
                if candidate is not None and after is not None:
                    proved = solution.status == "optimal" and not cuts
                    figures = (before, after, proved, kept.words)
                    return Nearest(asked, plan, candidate, (), given_up, *figures)
                refused.append(Search(given_up, solution.status, solution.plan, why))
                cut = _more_room(asked, solution.plan, options, aim)
                if cut is None:
                    break
                cuts = (*cuts, cut.model_copy(update={"name": f"{cut.name}_{len(refused)}"}))
            searched += refused[:1]  # cuts leave out more than what was tried: they prove nothing
        searches += searched[-1:]  # the last one keeps nothing, and so speaks for the others
    return Unfound(tuple(searches))


def _with_fewer_replicas(
    scenario: Scenario, plan: Plan, options: Options, target: Target
) -> Nearest | None:
    """Return the same layout with as many replicas as the engine can start, on GPUs it can use."""
    for fewer in with_fewer_replicas(plan):
        candidate, after, _ = _first_started(scenario, fewer, options, target)
        if candidate is not None and after is not None:
            said = (f"{fewer.replicas} replicas instead of {plan.replicas}",)
            before = second_opinion(scenario, plan).metrics
            return Nearest(scenario, plan, candidate, said, (), before, after)
    return None


def _candidates(scenario: Scenario, plan: AnyPlan | None, options: Options) -> Iterator[AnyPlan]:
    if plan is not None:
        yield plan
        for others, _ in _of_layout(scenario, plan, options):
            yield from others


def _first_started(
    scenario: Scenario, plan: AnyPlan | None, options: Options, target: Target
) -> tuple[AnyPlan | None, Metrics | None, str]:
    """Return the first candidate that can be started and its metrics, else why the plan cannot."""
    why = ""
    for candidate in _candidates(scenario, plan, options):
        after, refused = _started(scenario, candidate, options, target)
        if after is not None:
            return candidate, after, ""
        why = why or refused
    return None, None, why


def _more_room(
    scenario: Scenario, plan: AnyPlan | None, options: Options, target: Target
) -> RuleSpec | None:
    """Return a rule for plans with more room than one whose engine has none for its smallest cache.

    The solver knows of no such cache. It shrinks with tp and stages, and weights with GPUs, so that
    plans with no more of any of these have no more room. None for other plans.
    """
    if plan is None:
        return None
    try:
        export(scenario, plan, target, _nameless(options))
    except TooFullError as error:
        own = plan.roles[error.role] if isinstance(plan, DisaggregatedPlan) else plan
        tp = max(stage.tp for stage in own.stages)
        gpus = max(stage.num_gpus for stage in own.stages)
        require = f"tp > {tp} or pp > {own.pp} or gpus > {gpus}"
        if error.role:  # rules of layouts are asked of both roles
            require = f"is_prefill == {int(error.role != 'prefill')} or ({require})"
        return RuleSpec(name="more_room", require=require, because="; ".join(error.reasons))
    except InexpressibleError:
        return None
    return None


def _of_layout(
    scenario: Scenario, plan: AnyPlan | None, options: Options
) -> Iterator[tuple[Iterator[AnyPlan], tuple[str, ...]]]:
    """Yield plans with small changes; with fewer sequences where they do not hold with all.

    Experts in runs may be loaded less evenly, so that steps take longer and buffers are larger.
    """
    for others, changes in variants(scenario, plan, options):
        tried: list[AnyPlan] = []
        yield _noted(others, tried), changes
        for other in tried:
            fewer = _with_fewer_sequences(scenario, other)
            if fewer is not None:
                said = f"{batch_of(fewer)} sequences in a batch instead of {batch_of(other)}"
                yield iter((fewer,)), (*changes, said)


def _noted(plans: Iterator[AnyPlan], tried: list[AnyPlan]) -> Iterator[AnyPlan]:
    """Yield plans and keep them."""
    for plan in plans:
        tried.append(plan)
        yield plan


def _with_fewer_sequences(scenario: Scenario, plan: AnyPlan) -> AnyPlan | None:
    """Return the plan with the largest batch that holds; None if it holds, or none does."""
    most = batch_of(plan)
    if most <= 1 or not scenario.workload.is_open or second_opinion(scenario, plan).ok:
        return None
    holds, fails = 0, most
    while fails - holds > 1:
        middle = (holds + fails) // 2
        if second_opinion(scenario, with_batch(plan, middle)).ok:
            holds = middle
        else:
            fails = middle
    return with_batch(plan, holds) if holds else None


def _started(
    scenario: Scenario, plan: AnyPlan, options: Options, target: Target
) -> tuple[Metrics | None, str]:
    """Return the metrics of a plan if it holds in its scenario and can be started, else why not."""
    report = second_opinion(scenario, plan)
    if not report.ok or report.metrics is None:
        return None, "; ".join(v.message for v in report.violations[:1])
    try:
        export(scenario, plan, target, _nameless(options))
    except InexpressibleError as error:
        return None, "; ".join(error.reasons)
    return report.metrics, ""


def _nameless(options: Options) -> Options:
    """Return options without what is no property of a plan: an image, names of hosts."""
    return replace(options, image=options.image or "any", hosts=())


def _questions(
    scenario: Scenario, plan: AnyPlan, options: Options, target: Target
) -> Iterator[tuple[Scenario, tuple[str, ...]]]:
    """Yield the scenario with the engine's rules, weaker each time, and what each gives up."""
    _, unsure = broken_rules(scenario, plan, options.engine)
    pack = pack_of(scenario, options.engine)
    rules = tuple(rule for rule in pack.rules if rule.name not in unsure)
    if target == "lws" and options.engine == "trtllm":
        rules = (*rules, _PODS_OF_MPI)
    if options.engine == "megatron":  # of one world, rank after rank
        rules = (*rules, _WORLD)
    others = tuple(other for other in scenario.rule_packs if other.name != pack.name)
    packs = (*others, pack.model_copy(update={"rules": rules}))
    changed: dict[str, Any] = {"rule_packs": packs}
    if options.engine == "megatron":  # it computes prompts whole
        changed["workload"] = scenario.workload.model_copy(update={"chunked_prefill": False})
    for coverage, keeps_rules, given_up in _relaxations(scenario):
        needs = scenario.requirements.model_copy(update={"coverage": coverage})
        own = scenario.rules if keeps_rules else ()
        yield (
            scenario.model_copy(update={**changed, "requirements": needs, "rules": own}),
            given_up,
        )


def _relaxations(scenario: Scenario) -> Iterator[tuple[str, bool, tuple[str, ...]]]:
    """Yield coverages, whether the scenario's own rules are kept, and what each gives up."""
    coverage = scenario.requirements.coverage
    weaker = {"partition": _COVERAGES, "every_gpu": _COVERAGES[1:]}.get(coverage, ())
    names = ", ".join(rule.name for rule in scenario.rules)
    for keeps_rules in (True, False) if scenario.rules else (True,):
        without = () if keeps_rules else (f"the rules of the scenario ({names})",)
        yield coverage, keeps_rules, without
        for other in weaker:
            yield other, keeps_rules, (f"coverage {coverage} for {other}", *without)
