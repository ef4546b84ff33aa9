"""A disaggregated scenario with everything that solving it needs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from autopar.candidates import generate, loosened
from autopar.constraints import PlugIn
from autopar.constraints.active import active
from autopar.disaggregated.compatible import Compatibility
from autopar.disaggregated.constraints import PairConstraint, Problems, pair_constraints
from autopar.disaggregated.costs import RoleCosts
from autopar.disaggregated.objectives import PairObjective, pair_objectives
from autopar.disaggregated.queue import Queue
from autopar.disaggregated.values import Values
from autopar.errors import SpecError
from autopar.objectives import objectives_for
from autopar.pair_rules import PairRule
from autopar.problem import BoolArray, Candidates, IntArray, Problem
from autopar.rules import Rule, SumRule
from autopar.search import Task, Vector, topology_of
from autopar.specs import Scenario
from autopar.specs.roles import Role, role_scenario

_COUNTING = {"replicas", "gpus_used"}  # names of rules that speak of the number of replicas

_TTFT_NOTE = (
    "TTFT of a disaggregated service is a mean: requests come at random, one by one; each waits "
    "for its attention group of prefill (M/D/1 at the stated load) and goes through it, then its "
    "cache goes to decode over the slowest GPU's link; the first token counts when decode has the "
    "cache, and decode is taken to have room for it"
)
_ROLES_NOTE = (
    "the two roles work at the rate of the slower one; rules and plug-ins hold for each role, "
    "rules that name both (prefill.tp) for the pair"
)


@dataclass(frozen=True, slots=True)
class PairTask:
    """Two tasks that share the GPUs of one cluster.

    problem: the whole scenario, with the candidates of both roles in one table. constraints: of the
    scenario, by the names that are blamed. pair: those that look at both roles.
    exact_only: names of constraints that look at the number of replicas, or that may.
    compatibility: which layouts may go together by rules about both roles; None where any two may.
    silent: names of rules about both roles that forbid no two of the layouts.
    """

    problem: Problem
    prefill: Task
    decode: Task
    constraints: tuple[PlugIn, ...]
    pair: tuple[PairConstraint, ...]
    objectives: tuple[PairObjective, ...]
    exact_only: frozenset[str]
    queue: Queue
    compatibility: Compatibility | None
    silent: frozenset[str]

    def allows_gpus(self, counts: IntArray) -> BoolArray:
        """Return whether a pair may have so many GPUs, shape (counts,)."""
        allowed = np.ones(len(counts), dtype=np.bool_)
        for constraint in self.pair:
            allowed &= constraint.allows_gpus(counts)
        return allowed

    @property
    def fewest_gpus(self) -> int:
        """The fewest GPUs that a pair may have, 0 where no requirement says."""
        allowed = np.flatnonzero(self.allows_gpus(np.arange(self.problem.num_gpus + 1)))
        return int(allowed[0]) if len(allowed) else self.problem.num_gpus + 1

    @property
    def roles(self) -> tuple[Task, Task]:
        """The tasks of prefill and of decode."""
        return self.prefill, self.decode

    @property
    def problems(self) -> Problems:
        """The problems of both roles."""
        return Problems(self.prefill.problem, self.decode.problem)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the answer must know about the model."""
        models = [note for task in self.roles for note in task.problem.cost_model.notes()]
        if self.problem.num_gpus < len(self.roles):
            models.append("each of the two roles needs a GPU of its own")
        return (_TTFT_NOTE, _ROLES_NOTE, *dict.fromkeys(models))

    def without(self, name: str) -> "PairTask":
        """Return the task without a requirement that does not shape the table of candidates."""
        prefill, decode = (
            replace(t, constraints=_without(t.constraints, name)) for t in self.roles
        )
        queue, kept = self.queue.without(name), _without(self.constraints, name)
        rules, scenario = _about_both(kept), self.problem.scenario
        names = {c.name for c in self.pair} - {name}
        compatibility = self.compatibility
        if len(rules) < len(_about_both(self.constraints)) and name not in self.silent:
            compatibility = _compatibility(rules, scenario, prefill, decode)
        return replace(
            self,
            prefill=prefill,
            decode=decode,
            constraints=kept,
            pair=pair_constraints(scenario, names, queue, rules),
            queue=queue,
            compatibility=compatibility,
        )

    def least_rate(self, vector: Vector | None) -> int:
        """Return the rate that a pair needs to be as good as one of a known vector, if it is."""
        if vector is not None and self.objectives[0].name == "throughput":
            return -vector[0]
        return max((c.least_rate() for c in self.pair), default=0)

    def unbeaten(
        self, vector: Vector | None, prefill: Values, decode: Values, levels: int | None = None
    ) -> list[IntArray]:
        """Return what no pair beats in each objective that is as good as one of a known vector.

        prefill, decode: values that no role beats. levels: of the objectives, all if None.
        Where all objectives before are no better than the known ones, a rate among them is one that
        a pair must have, which tells how busy prefill is.
        """
        queue, gpus = self.queue, prefill.gpus + decode.gpus
        if vector is not None and self.objectives[0].name == "ttft":
            queue = queue.within(vector[0])
        least = np.full(len(gpus), self.least_rate(None))
        equal, columns = np.ones(len(gpus), dtype=np.bool_), []
        for level, objective in enumerate(self.objectives[:levels]):
            if vector is not None and objective.needed is not None:
                needed = objective.needed(abs(vector[level]), gpus)
                least = np.where(equal, np.maximum(least, needed), least)
            columns.append(objective.unbeaten(prefill, decode, queue, least))
            if vector is not None:
                equal &= columns[-1] == vector[level]
        return columns

    def load(self, prefill: Values, decode: Values) -> IntArray:
        """Return the loads of prefill that are best for pairs of exact values."""
        needed = np.zeros(len(prefill.rate), dtype=np.int64)
        for constraint in self.pair:
            needed = np.maximum(needed, constraint.needed_rate(prefill, decode))
        return self.queue.chosen(prefill, decode, needed)

    def oriented(self, values: Sequence[int]) -> Vector:
        """Return objective values turned so that less is better."""
        signs = (1 if o.sense == "min" else -1 for o in self.objectives)
        return tuple(int(v) * sign for v, sign in zip(values, signs, strict=True))


def decides_layouts(constraint: PlugIn, role: Task, exact_only: Collection[str]) -> bool:
    """Whether a constraint is a filter of layouts, whatever their split, batch and replicas.

    exact_only: names of constraints that look at the number of replicas, or that may.
    """
    return (
        isinstance(constraint, Rule)
        and constraint.depends_on_batch == "not"
        and constraint.name not in exact_only
        and constraint.rows_decide(role.problem.candidates)
    )


def make_pair(
    scenario: Scenario, *, plugins: Sequence[PlugIn] = (), disabled: Sequence[str] = ()
) -> PairTask:
    """Return the task of a disaggregated scenario, with the named constraints left out.

    Raises SpecError for what makes no sense for two roles: coverage partition, rules on totals.
    """
    constraints = active(scenario, plugins=plugins, disabled=disabled)
    names = {c.name for c in constraints}
    _refuse(scenario, constraints)
    prefill, decode = (
        _role_task(scenario, role, plugins, disabled, names) for role in ("prefill", "decode")
    )
    problem = Problem(
        scenario=scenario,
        topology=prefill.problem.topology,
        candidates=_joined(prefill.problem.candidates, decode.problem.candidates),
        cost_model=decode.problem.cost_model,
    )
    counting = {
        c.name for c in constraints if isinstance(c, Rule) and c.expression.names & _COUNTING
    }
    queue, rules = Queue.of(scenario, names), _about_both(constraints)
    return PairTask(
        problem=problem,
        prefill=prefill,
        decode=decode,
        constraints=constraints,
        pair=pair_constraints(scenario, names, queue, rules),
        objectives=pair_objectives(problem),
        exact_only=frozenset(counting | {p.name for p in plugins}),
        queue=queue,
        compatibility=_compatibility(rules, scenario, prefill, decode),
        silent=frozenset(
            rule.name for rule in rules if _compatibility([rule], scenario, prefill, decode) is None
        ),
    )


def _about_both(constraints: Sequence[PlugIn]) -> tuple[PairRule, ...]:
    return tuple(c for c in constraints if isinstance(c, PairRule))


def _compatibility(
    rules: Sequence[PairRule], scenario: Scenario, prefill: Task, decode: Task
) -> Compatibility | None:
    """Return what rules say of two roles; None where they forbid nothing."""
    if not rules:
        return None
    layouts = (prefill.problem.candidates, decode.problem.candidates)
    said = Compatibility.of(rules, scenario, layouts)
    return None if said.says_nothing else said


def _role_task(
    scenario: Scenario,
    role: Role,
    plugins: Sequence[PlugIn],
    disabled: Sequence[str],
    names: set[str],
) -> Task:
    part = role_scenario(scenario, role)
    topology = topology_of(scenario, names)
    problem = Problem(
        scenario=part,
        topology=topology,
        candidates=generate(loosened(part, names), "up_to", topology, fewer_replicas=False),
        cost_model=RoleCosts(scenario, role),
    )
    held = active(part, plugins=plugins, disabled=disabled)
    return Task(problem, held, objectives_for(problem))


def _refuse(scenario: Scenario, constraints: Sequence[PlugIn]) -> None:
    if scenario.requirements.coverage == "partition":
        raise SpecError(
            "requirements.coverage: 'partition' is one copy of the model on all GPUs, but a "
            "disaggregated service has a copy for each role; expected 'every_gpu' or 'up_to'"
        )
    for rule in constraints:
        if isinstance(rule, SumRule):
            raise SpecError(
                f"rule {rule.name!r}: a sum over the stages of both roles is not supported for "
                "workload phase 'disaggregated'; expected require or forbid"
            )


def _without(constraints: Sequence[PlugIn], name: str) -> tuple[PlugIn, ...]:
    return tuple(constraint for constraint in constraints if constraint.name != name)


def _joined(one: Candidates, other: Candidates) -> Candidates:
    return Candidates(
        *(np.concatenate([getattr(one, f.name), getattr(other, f.name)]) for f in fields(one))
    )
