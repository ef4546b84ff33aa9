"""Which requirements clash, and which ones bind an optimum.

A requirement is blamed by leaving it out and solving again: a deletion filter finds a set in which
every member is needed for the clash.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autopar.constraints import PlugIn
from autopar.constraints.active import droppable
from autopar.disaggregated.relaxed import LeftPair, PairAnswer, better_pair, better_pairs_without
from autopar.disaggregated.search import prepare_pair
from autopar.errors import SolveLimitError
from autopar.lexicographic import Vector
from autopar.planning import AnyPrepared, AnyTask, answered, make_task
from autopar.relaxed import Answer, Left, better_plan, better_without
from autopar.search import SHAPES_TABLE, Task
from autopar.specs import Scenario
from autopar.specs.change import changed

_WORSE = 2**62  # than any value of an objective


# Deterministic seconds of CP-SAT for whether one requirement binds: some seconds of a clock.
MOST_TIME_FOR_BINDING = 1.0


@dataclass(frozen=True, slots=True)
class Question:
    """A scenario with its plug-ins, to be asked again with parts left out."""

    scenario: Scenario
    plugins: tuple[PlugIn, ...]
    without: tuple[str, ...] = ()  # constraints left out of every question

    def task(self, disabled: Sequence[str] = ()) -> AnyTask:
        """Return the task without the named constraints."""
        return make_task(self.scenario, plugins=self.plugins, disabled=[*self.without, *disabled])

    def aiming_at(self, objective: str, disabled: Sequence[str] = ()) -> AnyTask:
        """Return the task with one objective alone, without the named constraints."""
        recipe = self.scenario.recipe.model_copy(update={"objectives": (objective,)})
        scenario = self.scenario.model_copy(update={"recipe": recipe})
        return replace(self, scenario=scenario).task(disabled)

    def leaving_out(self, names: Sequence[str]) -> "Question":
        """Return the question with more constraints left out."""
        return replace(self, without=(*self.without, *names))

    def changed(self, path: str, value: object) -> "Question":
        """Return the question about a scenario with one field changed."""
        return replace(self, scenario=changed(self.scenario, path, value))

    @property
    def _easiest(self) -> str:
        """The objective by which a plan is found soonest, if there is any.

        A limit on TTFT is on a sum, which no look at single stages keeps: the split of the least
        TTFT keeps it if one does. With two roles, what promises the best rate over GPUs may have no
        room: thousands of pairs are tried before one has.
        """
        is_pair = self.scenario.workload.phase == "disaggregated"
        has_limit = self.scenario.requirements.max_ttft_us is not None
        return "ttft" if has_limit and not is_pair else "throughput"

    def feasible(self, disabled: Sequence[str] = ()) -> bool | None:
        """Whether a plan exists without the named constraints; None if not decided."""
        left_out = [*self.without, *disabled]
        if "coverage" in left_out and self.scenario.requirements.coverage == "partition":
            # A plan on every GPU is a plan without coverage too, and far fewer layouts to look at.
            others = [name for name in left_out if name != "coverage"]
            weaker = replace(self.changed("requirements.coverage", "every_gpu"), without=())
            if weaker.feasible(others):
                return True
        try:
            return _feasible(self.aiming_at(self._easiest, disabled))
        except SolveLimitError:
            return None


def conflicts(question: Question) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return sets of clashing requirements, and which members were not shown to be needed.

    No plan satisfies all members of a set, and without any one of them the others can be satisfied,
    unless that was not decided within the limits. A plan needs a repair for each set; sets share no
    member but coverage, which keeps the questions small and is therefore left out last.
    """
    found: list[tuple[str, ...]] = []
    undecided: list[str] = []
    while question.feasible() is False:
        names, unsure = _conflict(question)
        if not names:
            break
        found.append(names)
        undecided += [f"{name} is needed for the clash of {', '.join(names)}" for name in unsure]
        question = question.leaving_out([n for n in names if n != "coverage"] or names)
    return found, undecided


def _conflict(question: Question) -> tuple[tuple[str, ...], list[str]]:
    """Return one set; empty where even the bare structure has no plan."""
    names = [c.name for c in droppable(question.task().constraints)]
    dropped: list[str] = []
    unsure: list[str] = []
    queue = [[name for name in names if name != "coverage"], ["coverage"] * ("coverage" in names)]
    while queue:
        group = queue.pop(0)
        feasible = question.feasible([*dropped, *group]) if group else True
        if feasible is False:
            dropped += group  # still no plan without all of them: none is needed for the clash
        elif len(group) > 1:
            middle = len(group) // 2
            queue[:0] = [group[:middle], group[middle:]]
        elif feasible is None:
            unsure += group
    return tuple(name for name in names if name not in dropped), unsure


def binding(
    question: Question, optimum: Vector, budget: int, *, task: AnyTask | None = None
) -> tuple[tuple[str, ...], list[str]]:
    """Return the requirements without which a strictly better plan exists, and those not decided.

    optimum: the oriented integer vector of the answer. budget: the most candidates to look at; a
    requirement whose relaxation needs more is reported as not decided. task: of the question, if it
    is at hand.
    """
    task = task or question.task()
    names = [c.name for c in droppable(task.constraints)]
    if "coverage" in names and question.scenario.requirements.coverage == "up_to":
        names.remove("coverage")  # says no more than that there are so many GPUs
    alike = [name for name in names if name not in SHAPES_TABLE]
    found = {
        name: _decided(answer, optimum)
        for name, answer in _without_each(task, alike, optimum, budget).items()
    }
    for name in names:
        if name not in found:
            found[name] = _better_without(question, name, optimum, budget)
    return (
        tuple(name for name in names if found[name]),
        [name for name in names if found[name] is None],
    )


def _without_each(
    task: AnyTask, names: Sequence[str], optimum: Vector, budget: int
) -> Mapping[str, Answer | PairAnswer]:
    """Ask about all requirements that do not shape the table of candidates at once."""
    if isinstance(task, Task):
        return better_without(task, names, optimum, budget)
    return better_pairs_without(task, names, optimum, budget)


def _better_without(question: Question, name: str, optimum: Vector, budget: int) -> bool | None:
    """Whether a plan is better without the requirement; None where it is not decided."""
    is_better: bool | None = False
    try:
        for relaxed in _relaxed(question, name):
            if isinstance(relaxed, Task):
                is_better = _decided(better_plan(relaxed, optimum, budget), optimum)
            else:
                is_better = _decided(better_pair(relaxed, optimum, budget), optimum)
            if is_better:
                return True
    except SolveLimitError:
        return None
    return is_better


def _relaxed(question: Question, name: str) -> Iterator[AnyTask]:
    """Leave a requirement out; a partition is first relaxed to every_gpu, which asks less."""
    if name == "coverage" and question.scenario.requirements.coverage == "partition":
        yield question.changed("requirements.coverage", "every_gpu").task()
    yield question.task([name])


def _decided(answer: Answer | PairAnswer, optimum: Vector) -> bool | None:
    """Ask CP-SAT where bounds left something open."""
    if isinstance(answer, Left | LeftPair):
        return _solved(answer.task, answer.prepared, optimum)
    return answer


def _solved(task: AnyTask, prepared: AnyPrepared, optimum: Vector) -> bool | None:
    outcome = answered(_hurried(task), prepared)
    if outcome.vector is not None and task.oriented(outcome.vector) < optimum:
        return True
    return False if outcome.status in ("optimal", "infeasible") else None


def _hurried(task: AnyTask) -> AnyTask:
    """Return the task with little time for CP-SAT: the answer stands without this one."""
    problem = task.problem
    limit = min(problem.scenario.recipe.cp_sat.deterministic_time_limit, MOST_TIME_FOR_BINDING)
    scenario = changed(problem.scenario, "recipe.cp_sat.deterministic_time_limit", limit)
    return replace(task, problem=replace(problem, scenario=scenario))


def _feasible(task: AnyTask) -> bool | None:
    """Whether a task has a plan; None if CP-SAT did not decide it."""
    if isinstance(task, Task):
        anything = (_WORSE,) * len(task.objectives)
        answer = better_plan(task, anything, len(task.problem.candidates))
        return _has_plan(answer.task, answer.prepared) if isinstance(answer, Left) else answer
    prepared = prepare_pair(task, first=True, ties=False)
    return True if prepared.incumbent is not None else _has_plan(task, prepared)


def _has_plan(task: AnyTask, prepared: AnyPrepared) -> bool | None:
    status = answered(task, prepared).status
    return None if status == "unknown" else status != "infeasible"
