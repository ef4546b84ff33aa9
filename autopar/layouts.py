"""The layout of a plan, its batch and the parts of its prompts aside, and a task with it alone."""

from dataclasses import dataclass, fields, replace
from typing import cast

import numpy as np

from autopar.disaggregated.task import PairTask
from autopar.planning import AnyTask
from autopar.problem import AnyPlan, BoolArray, Candidate, Candidates, Plan
from autopar.results import Degrees
from autopar.search import Task
from autopar.variables import Choice, PairChoice

DEGREES = ("replicas", "pp", "tp", "cp", "attn_dp", "ep", "etp", "spread")
_FREE = {"batch", "chunks"}  # what does not make another layout
_FIXED = tuple(field.name for field in fields(Candidate) if field.name not in _FREE)


@dataclass(frozen=True, slots=True)
class Layout:
    """The degrees of a candidate."""

    values: tuple[int, ...]

    @classmethod
    def of(cls, candidate: Candidate) -> "Layout":
        """Return the layout of a candidate."""
        return cls(tuple(getattr(candidate, key) for key in _FIXED))

    def matches(self, rows: Candidates, *, any_replicas: bool = False) -> BoolArray:
        """Return which candidates have it; any_replicas: whatever their number of replicas."""
        same = np.ones(len(rows), dtype=np.bool_)
        for key, value in zip(_FIXED, self.values, strict=True):
            if key != "replicas" or not any_replicas:
                same &= getattr(rows, key) == value
        return same

    @property
    def replicas(self) -> int:
        """Its number of replicas."""
        return self.values[_FIXED.index("replicas")]


def candidate_of(plan: Plan, *, one_grid_per_layer: bool) -> Candidate:
    """Return the candidate of an explicit plan whose stages have the same degrees.

    one_grid_per_layer: whether stages of other sizes have other degrees, as in a partition.
    """
    stage = plan.stages[0]
    attn_dp, spread = (0, 0) if one_grid_per_layer else (stage.attn_dp, stage.spread)
    sizes = (plan.replicas, plan.pp, stage.tp, stage.cp, attn_dp, stage.ep, stage.etp, spread)
    return Candidate(*sizes, batch=plan.batch, chunks=plan.chunks)


def layouts_of(plan: AnyPlan, *, one_grid_per_layer: bool) -> tuple[Layout, ...]:
    """Return the layout of a plan of ours, or of both roles."""
    parts = [plan] if isinstance(plan, Plan) else list(plan.roles.values())
    return tuple(
        Layout.of(candidate_of(part, one_grid_per_layer=one_grid_per_layer)) for part in parts
    )


def layouts_of_degrees(
    degrees: Degrees | dict[str, Degrees], *, one_grid_per_layer: bool
) -> tuple[Layout, ...]:
    """Return the layout with these degrees, or that of each role."""
    roles = [own for own in degrees.values() if isinstance(own, dict)] or [cast("Degrees", degrees)]
    # Stages of one grid per layer have what their layers bring; candidates say 0.
    open_keys = ("attn_dp", "spread") if one_grid_per_layer else ()
    return tuple(
        Layout(tuple(0 if key in open_keys else own[key] or 0 for key in _FIXED)) for own in roles
    )


def degrees_of(choice: Choice) -> Degrees:
    """Return the degrees of a choice; None where the stages differ."""
    candidate = choice.candidate
    found: Degrees = {key: getattr(candidate, key) for key in DEGREES}
    for key, of_size in (
        ("attn_dp", candidate.stage_attn_dp), ("spread", candidate.stage_spread),
    ):  # fmt: skip
        values = {of_size(size) for size in choice.split}
        found[key] = values.pop() if len(values) == 1 else None
    return found


def all_degrees(choice: Choice | PairChoice) -> Degrees | dict[str, Degrees]:
    """Return the degrees of a choice, by role where there are two."""
    if isinstance(choice, Choice):
        return degrees_of(choice)
    return {"prefill": degrees_of(choice.prefill), "decode": degrees_of(choice.decode)}


def only(task: AnyTask, layouts: tuple[Layout, ...]) -> AnyTask:
    """Return the task with the candidates of one layout; of two roles, at most its replicas."""
    if isinstance(task, Task):
        rows = task.problem.candidates
        return _with_rows(task, rows.take(layouts[0].matches(rows)))
    prefill, decode = (
        _with_rows(role, _of_role(role.problem.candidates, layout))
        for role, layout in zip(task.roles, layouts, strict=True)
    )
    return replace(task, prefill=prefill, decode=decode)


def pairs_beside(task: PairTask, layouts: tuple[Layout, ...]) -> tuple[PairTask, PairTask]:
    """Return two tasks that share all pairs in which a role has another layout.

    Whatever the numbers of replicas: of the first, prefill has another layout; of the second,
    prefill has the given one, and decode another.
    """
    rows = [role.problem.candidates for role in task.roles]
    same = [layout.matches(r, any_replicas=True) for r, layout in zip(rows, layouts, strict=True)]
    prefill, decode = task.roles
    return (
        replace(task, prefill=_with_rows(prefill, rows[0].take(~same[0]))),
        replace(
            task,
            prefill=_with_rows(prefill, rows[0].take(same[0])),
            decode=_with_rows(decode, rows[1].take(~same[1])),
        ),
    )


def _of_role(rows: Candidates, layout: Layout) -> Candidates:
    """Return the candidates of a role with a layout; theirs is the most replicas that it takes."""
    found = rows.take(layout.matches(rows, any_replicas=True))
    return replace(found, replicas=np.minimum(found.replicas, layout.replicas))


def _with_rows(task: Task, rows: Candidates) -> Task:
    return replace(task, problem=replace(task.problem, candidates=rows))
