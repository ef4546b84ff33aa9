"""One layout or a pair of them: the workload decides, and callers need not ask which."""

from collections.abc import Sequence

from autopar import search, solver
from autopar.constraints import PlugIn
from autopar.cpsat import Report
from autopar.disaggregated.objectives import PairObjective
from autopar.disaggregated.program import interrupted_pair, optimise_pair
from autopar.disaggregated.search import PreparedPair, prepare_pair
from autopar.disaggregated.task import PairTask, make_pair
from autopar.lexicographic import Outcome
from autopar.objectives import Objective
from autopar.search import Prepared, Task
from autopar.specs import Scenario

AnyTask = Task | PairTask
AnyObjective = Objective | PairObjective
AnyPrepared = Prepared | PreparedPair


def objectives_of(task: AnyTask) -> tuple[AnyObjective, ...]:
    """Return the objectives of a task in their order."""
    return tuple(task.objectives)


def make_task(
    scenario: Scenario, *, plugins: Sequence[PlugIn] = (), disabled: Sequence[str] = ()
) -> AnyTask:
    """Return the task of a scenario, with the named constraints left out.

    Raises SpecError for a scenario that cannot be stated.
    """
    make = make_pair if scenario.workload.phase == "disaggregated" else search.make_task
    return make(scenario, plugins=plugins, disabled=disabled)


def prepare(task: AnyTask, *, ties: bool = True) -> AnyPrepared:
    """Filter the candidates, find an incumbent, and keep what may be as good.

    ties: whether it matters what is as good, but not better.
    """
    if isinstance(task, PairTask):
        return prepare_pair(task, ties=ties)
    return search.prepare(task, ties=ties)


def optimise(
    task: AnyTask,
    prepared: AnyPrepared,
    *,
    report: Report | None = None,
    uniqueness: bool = False,
) -> Outcome:
    """Return the lexicographic optimum over the prepared candidates, with its proof."""
    if isinstance(task, PairTask):
        assert isinstance(prepared, PreparedPair)
        return optimise_pair(task, prepared, report=report, uniqueness=uniqueness)
    assert isinstance(prepared, Prepared)
    return solver.optimise(task, prepared, report=report, uniqueness=uniqueness)


def answered(task: AnyTask, prepared: AnyPrepared) -> Outcome:
    """Return the optimum where it answers one of many questions: Ctrl-C ends all of them.

    CP-SAT takes the signal and keeps its plan, so that the next question would go on.
    Raises KeyboardInterrupt for it.
    """
    outcome = optimise(task, prepared)
    if outcome.interrupted:
        raise KeyboardInterrupt
    return outcome


def interrupted(task: AnyTask, prepared: AnyPrepared) -> Outcome:
    """Return the outcome of a solve that ended before CP-SAT began: incumbent and bounds."""
    if isinstance(task, PairTask):
        assert isinstance(prepared, PreparedPair)
        return interrupted_pair(task, prepared)
    assert isinstance(prepared, Prepared)
    return solver.interrupted(task, prepared)
