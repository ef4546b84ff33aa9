"""What is learnt about an answer after it stands: what binds, what clashes, what ties.

None of it changes the answer; Ctrl-C keeps what is known by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autopar.diagnose import Question, binding, conflicts
from autopar.lexicographic import Outcome
from autopar.planning import AnyPrepared, AnyTask
from autopar.problem import Metrics
from autopar.repairs import in_vain, repairs
from autopar.results import Repair, RunnerUp
from autopar.runner_up import next_best
from autopar.search import Prepared, Splits, Task
from autopar.specs import Scenario

# The most candidates to look at when asking which requirements bind: a second or two of work.
BINDING_BUDGET = 200_000
PAIR_BINDING_BUDGET = 40_000  # of both roles, whose replicas are to be found too
TIES_LOOKED_AT = 300


def _binding_budget(question: Question) -> int:
    is_pair = question.scenario.workload.phase == "disaggregated"
    return PAIR_BINDING_BUDGET if is_pair else BINDING_BUDGET


@dataclass(slots=True)
class Learnt:
    """What was learnt about an answer after it stood, as far as it went."""

    binding: tuple[str, ...] | None = None  # not determined
    undecided: tuple[str, ...] = ()
    clashes: list[tuple[str, ...]] = field(default_factory=list)
    repairs: tuple[Repair, ...] = ()
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    runner_up: RunnerUp | None = None


def diagnosed(
    task: AnyTask,
    prepared: AnyPrepared,
    outcome: Outcome,
    question: Question | None,
    metrics: Metrics | None,
) -> Learnt:
    """Find what binds the optimum and what comes next to it, or what clashes.

    question: the scenario as it was asked; None where nothing is to be found. Ctrl-C keeps what is
    known by then.
    """
    found = Learnt()
    if question is None:
        return found
    try:
        if outcome.status == "infeasible":
            found.binding = ()
            found.clashes, unsure = conflicts(question)
            found.notes += [f"not decided whether {what}" for what in unsure]
            found.notes += [
                f"another clash needs a repair too: {', '.join(clash)}"
                for clash in found.clashes[1:]
            ]
            found.repairs = repairs(question, found.clashes)
            found.notes += in_vain(question, found.clashes, found.repairs)
        elif outcome.status == "optimal" and outcome.vector is not None:
            assert metrics is not None  # there is a plan
            found.runner_up = next_best(task, prepared, outcome, metrics)
            oriented = task.oriented(outcome.vector)
            budget = _binding_budget(question)
            found.binding, undecided = binding(question, oriented, budget, task=task)
            found.undecided = tuple(undecided)
    except KeyboardInterrupt:
        found.interrupted = True
        found.notes.append("interrupted while asking what binds or clashes; the answer stands")
    return found


def statements(task: AnyTask, scenario: Scenario, found: Learnt) -> dict[str, str]:
    """Return what each constraint that binds or clashes demands, in its own words."""
    names = (*(found.binding or ()), *(name for clash in found.clashes for name in clash))
    said = {}
    for constraint in task.constraints:
        if constraint.name in names:
            states = getattr(constraint, "states", None)
            said[constraint.name] = (
                states(scenario) if states is not None else getattr(constraint, "because", "")
            )
    return said


def tied_levels(task: AnyTask, prepared: AnyPrepared, outcome: Outcome) -> list[str | None]:
    """For each objective, over how many candidates it ties ("all 9"), None where it decides.

    Candidates count that have a plan and tie in all objectives before, by their optimistic values.
    At most `TIES_LOOKED_AT` are looked at, so that a count may be a least one.
    """
    if outcome.vector is None:
        return []
    if task.problem.scenario.workload.is_open:  # candidates that are no better are not listed
        return [None] * len(outcome.vector)
    assert isinstance(task, Task)  # two roles leave the batch open
    assert isinstance(prepared, Prepared)
    known: dict[int, bool] = {}
    splits = Splits(task)

    def has_one(index: int) -> bool:
        if index not in known:
            known[index] = splits.values(prepared.allowed.take(np.array([index]))) is not None
        return known[index]

    left = list(range(len(prepared.allowed)))
    tied: list[str | None] = []
    for level, best in enumerate(task.oriented(outcome.vector)):
        column = prepared.optimistic[:, level].tolist()
        worse = [index for index in left if column[index] > best]
        left = [index for index in left if column[index] <= best]
        looked_at = worse[:TIES_LOOKED_AT]
        if any(has_one(index) for index in looked_at) or len(looked_at) < len(worse):
            tied.append(None)
            continue
        count = sum(has_one(index) for index in left[:TIES_LOOKED_AT])
        tied.append(f"{'all' if len(left) <= TIES_LOOKED_AT else 'at least'} {count}")
    return tied


def ties(task: AnyTask, outcome: Outcome, tied: Sequence[str | None]) -> tuple[str, ...]:
    """Say which objective decided, where earlier ones left a choice."""
    if outcome.status != "optimal" or not tied:
        return ()
    first = next((i for i, count in enumerate(tied) if count is None), None)
    if first == 0:
        return ()
    if first is None:
        if tied[0] == "all 1":
            return ("only one choice of degrees has a plan; no objective had to decide",)
        return (f"every objective ties over {tied[0]} choices of degrees that have a plan",)
    earlier = " and ".join(o.name for o in task.objectives[:first])
    verb = "tie" if first > 1 else "ties"
    tie = f"{earlier} {verb} over {tied[first - 1]} choices of degrees that have a plan"
    decided = task.objectives[first]
    return (f"{tie}; {decided.name} decides: {decided.says}",)
