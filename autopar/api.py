"""The Python interface: the verbs of the command line as functions with typed results.

import autopar
scenario = autopar.load_scenario("moe-16x16-512gpu")
solution = autopar.solve(scenario)
report = autopar.verify(scenario, autopar.load_plan("ep16-tp2-pp8"))
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version

import autopar
from autopar import loaded, robust
from autopar import plugins as plugin_files
from autopar.comparing import (
    beyond_notes,
    gaps,
    hold_bounds,
    leaders,
    load_note,
    lone_bounds,
)
from autopar.constraints import PlugIn
from autopar.cpsat import relative_gap
from autopar.diagnose import Question
from autopar.disaggregated.layout import unfold_pair
from autopar.disaggregated.task import PairTask
from autopar.errors import SpecError
from autopar.learnt import diagnosed, statements, tied_levels, ties
from autopar.lexicographic import Outcome
from autopar.pairs import explicit_plan
from autopar.planning import (
    AnyPrepared,
    AnyTask,
    interrupted,
    make_task,
    objectives_of,
    optimise,
    prepare,
)
from autopar.problem import AnyPlan, DisaggregatedPlan
from autopar.results import (
    ComparedPlan,
    Comparison,
    Explanation,
    ObjectiveValue,
    Progress,
    Solution,
    SolverInfo,
    VerifyReport,
)
from autopar.runner_up import next_best_pair
from autopar.space import outside, searched
from autopar.specs import PlanSpec, Scenario
from autopar.specs.change import changed
from autopar.trust import audited, refusals, second_opinion, trusted
from autopar.unfold import unfold
from autopar.variables import Choice, PairChoice


def solve(
    scenario: Scenario,
    *,
    plugins: Sequence[PlugIn] = (),
    progress: Callable[[Progress], None] | None = None,
    diagnose: bool = True,
) -> Solution:
    """Return the best plan of a scenario with its proof, or the proof that there is none.

    plugins: constraints to hold beside those of the scenario and of installed packages.
    progress: called with incumbent, bound and gap as they move.
    diagnose: whether to find what binds the optimum, whether it is unique, and, where there is no
    plan, what clashes and what repairs it.
    Raises SpecError for a scenario that cannot be stated, VerificationError if a plan of ours fails
    its own check. An infeasible scenario is an answer, not an error.
    """
    _refuse_idle_limit(scenario)
    clock = _Clock()
    every_plugin = (*plugin_files.load_installed(), *plugins)
    task = make_task(scenario, plugins=every_plugin)
    clock.lap("candidates")
    prepared = prepare(task)
    clock.lap("bounds_and_warm_start")
    try:
        outcome = optimise(task, prepared, report=progress, uniqueness=diagnose)
    except KeyboardInterrupt:  # while the model was being built
        outcome = interrupted(task, prepared)
    clock.lap("cp_sat")
    plan, report, metrics = None, None, None
    if outcome.choice is not None:
        plan = _unfold(task, outcome)
        clock.lap("unfold")
        report = trusted(task, outcome, plan)
        metrics = report.metrics
        clock.lap("verify")
    asked = Question(scenario, every_plugin) if diagnose and not outcome.interrupted else None
    found = diagnosed(task, prepared, outcome, asked, metrics)
    tied = tied_levels(task, prepared, outcome)
    values = _objective_values(task, outcome, tied)
    if not found.interrupted:
        values = loaded.widened(scenario, outcome, values, every_plugin)
    clock.lap("diagnose")
    return Solution(
        scenario=scenario,
        status=loaded.status_of(outcome, values),
        plan=plan,
        metrics=metrics,
        roles={} if report is None else report.roles,
        objectives=values,
        binding=found.binding,
        undecided=found.undecided,
        conflict=found.clashes[0] if found.clashes else (),
        repairs=found.repairs,
        uniqueness=outcome.uniqueness,
        notes=(*_notes(task, plan, report), *found.notes, *ties(task, outcome, tied)),
        solver=_solver_info(task, prepared, outcome, every_plugin, clock),
        interrupted=outcome.interrupted or found.interrupted,
        runner_up=found.runner_up,
        because=statements(task, scenario, found),
    )


def _notes(task: AnyTask, plan: AnyPlan | None, report: VerifyReport | None) -> tuple[str, ...]:
    """Say what was searched, under which costs, and what the second opinion says of the plan."""
    scenario = task.problem.scenario
    own = (
        searched(scenario),
        *task.notes,
        *scenario.remarks,
        *loaded.placement_notes(scenario, plan),
    )
    return own if report is None else (*own, *report.notes)


def robustness(
    solution: Solution,
    *,
    plugins: Sequence[PlugIn] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Solution:
    """Return the answer with what becomes of its plan where each cost moves within its band.

    The runner-up of a plan with two roles, which takes longer than that of one, is found here too.
    plugins: as `solve` was given them. An answer that is not proven optimal stays as it is.
    Raises SpecError if the cost model has no costs to move.
    """
    robust.refuse_without_costs(solution.scenario)
    # Under measured loads the degrees are proved for the placements found: that is enough here.
    is_proved = solution.status == "optimal" or loaded.is_measured(solution.scenario)
    if not is_proved or solution.plan is None or solution.interrupted:
        return solution
    scenario, plan, second = solution.scenario, solution.plan, solution.runner_up
    every_plugin = (*plugin_files.load_installed(), *plugins)
    try:
        task = make_task(scenario, plugins=every_plugin)
        if isinstance(task, PairTask) and isinstance(plan, DisaggregatedPlan):
            assert solution.metrics is not None  # there is a plan
            second = next_best_pair(task, plan, solution.metrics)
        found = robust.robustness(
            scenario, plan, second=second, plugins=every_plugin, progress=progress
        )
    except KeyboardInterrupt:
        note = "interrupted while costs were moved; the answer stands"
        return replace(solution, notes=(*solution.notes, note), interrupted=True)
    return replace(solution, robustness=found, runner_up=second)


def verify(
    scenario: Scenario, plan: PlanSpec | AnyPlan, *, plugins: Sequence[PlugIn] = ()
) -> VerifyReport:
    """Check a plan against a scenario and audit its claims, without the solver.

    plugins: constraints whose `check` must accept the plan too.
    Raises SpecError if the plan is for another model, or cannot be read as a plan at all.
    """
    if isinstance(plan, PlanSpec):
        explicit = explicit_plan(plan, scenario)
        report = audited(scenario, explicit, plan)
    else:
        explicit, report = plan, second_opinion(scenario, plan)
    report = replace(report, notes=(*report.notes, *scenario.remarks))
    every_plugin = (*plugin_files.load_installed(), *plugins)
    if not every_plugin:
        return report
    broken = refusals(every_plugin, explicit, make_task(scenario, plugins=every_plugin))
    return replace(report, violations=(*report.violations, *broken))


def compare(
    scenario: Scenario, plans: Sequence[PlanSpec], *, plugins: Sequence[PlugIn] = ()
) -> Comparison:
    """Put hand-written plans and the solver's own side by side, all measured by the verifier.

    The optimum under the next weaker coverage is added where it is better: the price of the
    coverage.
    """
    solution = solve(scenario, plugins=plugins)
    task = make_task(scenario, plugins=plugins)
    columns = [(spec.name, explicit_plan(spec, scenario), spec) for spec in plans]
    names = [name for name, _, _ in columns]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise SpecError(f"two plans have the name {repeated[0]!r}; rename one of them")
    compared = [
        ComparedPlan(name, plan, verify(scenario, spec, plugins=plugins), {})
        for name, plan, spec in columns
    ]
    if solution.plan is not None:
        own = second_opinion(scenario, solution.plan)
        compared.append(ComparedPlan("autopar", solution.plan, own, {}))
    every = (*plugin_files.load_installed(), *plugins)
    bounds, relaxed = dict[str, float](), None
    if not solution.interrupted:
        try:
            bounds = lone_bounds(Question(loaded.bounding(scenario), every))
            relaxed = _weaker(scenario, solution, plugins)
        except KeyboardInterrupt:
            solution = replace(solution, interrupted=True)
    beyond = {p.name: outside(p.plan, scenario) for p in compared}
    compared = [
        p if beyond[p.name] else replace(p, gaps=gaps(task, p.report.metrics, bounds))
        for p in compared
    ]
    hold_bounds(compared)
    return Comparison(
        solution=solution,
        plans=tuple(compared),
        best=leaders(task, compared),
        bounds=bounds,
        notes=(*beyond_notes(beyond), *load_note(compared)),
        relaxed=relaxed,
    )


def explain(scenario: Scenario, *, plugins: Sequence[PlugIn] = ()) -> Explanation:
    """Say which requirements clash and what repairs them, or what binds the optimum."""
    solution = solve(scenario, plugins=plugins)
    return Explanation(
        status=solution.status,
        conflict=solution.conflict,
        because=solution.because,
        repairs=solution.repairs,
        binding=solution.binding,
        undecided=solution.undecided,
        notes=solution.notes,
        runner_up=solution.runner_up,
    )


def _refuse_idle_limit(scenario: Scenario) -> None:
    """Raise SpecError for a limit on a time that the workload does not have."""
    key, words = scenario.absent_time or ("", "")
    field = f"max_{key}_us"
    if getattr(scenario.requirements, field, None) is not None and (
        key not in scenario.recipe.disable
    ):
        raise SpecError(
            f"requirements.{field} (--{key}): a {scenario.workload.phase} workload has no {words}; "
            f"leave the limit out, or unset it: --set requirements.{field}=null"
        )


class _Clock:
    """Seconds per phase."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.phases: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """End a phase."""
        now = time.perf_counter()
        self.phases[name] = round(now - self.last, 4)
        self.last = now


def _unfold(task: AnyTask, outcome: Outcome) -> AnyPlan:
    choice, name = outcome.choice, f"{task.problem.scenario.name}-plan"
    if isinstance(task, PairTask):
        assert isinstance(choice, PairChoice)
        return unfold_pair(task, choice, name=name)
    assert isinstance(choice, Choice)
    return unfold(
        task.problem,
        choice.candidate,
        choice.split,
        name=name,
        layer_blocks=choice.layer_blocks,
        expert_ranks=choice.expert_ranks,
    )


def _objective_values(
    task: AnyTask, outcome: Outcome, tied: Sequence[str | None]
) -> tuple[ObjectiveValue, ...]:
    if outcome.vector is None or outcome.bounds is None:
        return ()
    values = []
    for level, objective in enumerate(objectives_of(task)):
        value = objective.value(outcome.vector[level])
        bound = objective.value(outcome.bounds[level])
        values.append(
            ObjectiveValue(
                name=objective.name,
                value=value,
                bound=bound,
                gap=relative_gap(value, bound),
                unit=objective.unit,
                sense=objective.sense,
                tied=tied[level] is not None,
                rounding_error=objective.rounding_error(task.problem, value),
            )
        )
    return tuple(values)


def _solver_info(
    task: AnyTask, prepared: AnyPrepared, outcome: Outcome, plugins: Sequence[PlugIn], clock: _Clock
) -> SolverInfo:
    scenario = task.problem.scenario
    parameters = scenario.recipe.cp_sat
    return SolverInfo(
        wall_s=round(clock.last - clock.start, 4),
        cost_model=task.problem.cost_model.name,
        version=autopar.__version__,
        seed=parameters.seed,
        fingerprint=fingerprint(scenario, plugins),
        ortools_version=version("ortools"),
        parameters=parameters.model_dump(),
        candidates=prepared.num_candidates,
        candidates_in_model=prepared.num_in_model,
        deterministic_time=round(outcome.deterministic_time, 6),
        phases_s=clock.phases,
    )


def fingerprint(scenario: Scenario, plugins: Sequence[PlugIn] = ()) -> str:
    """Return a digest of everything that decides the answer: spec, recipe, plug-ins, version."""
    spec = scenario.document()
    spec["recipe"].pop("plugins", None)  # paths of one machine; the plug-ins themselves follow
    content = {
        "spec": spec,
        "plugins": sorted(p.name for p in plugins),
        "autopar": autopar.__version__,
        "ortools": version("ortools"),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:16]


def _weaker(scenario: Scenario, solution: Solution, plugins: Sequence[PlugIn]) -> Solution | None:
    weaker = {"partition": "every_gpu", "every_gpu": "up_to"}.get(scenario.requirements.coverage)
    if weaker is None:
        return None
    relaxed = solve(
        changed(scenario, "requirements.coverage", weaker), plugins=plugins, diagnose=False
    )
    if relaxed.status != "optimal" or not solution.objectives:
        return relaxed if relaxed.plan is not None else None
    for new, old in zip(relaxed.objectives, solution.objectives, strict=True):
        if new.value != old.value:
            return relaxed
    return None
