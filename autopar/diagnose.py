"""Which requirements clash, what repairs them, and which ones bind an optimum.

A requirement is blamed by leaving it out and solving again: a deletion filter finds a set in which
every member is needed for the clash. A repair is the smallest change of one number, or the dropping
of one rule, after which a plan exists.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from autopar.constraints import PlugIn
from autopar.constraints.active import droppable
from autopar.errors import SolveLimitError
from autopar.objectives import OBJECTIVES
from autopar.results import Repair
from autopar.search import Prepared, Task, Vector, make_task, prepare
from autopar.solver import optimise
from autopar.specs import Scenario
from autopar.specs.change import changed
from autopar.units import format_bytes, format_rate, format_us

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """A scenario with its plug-ins, to be asked again with parts left out."""

    scenario: Scenario
    plugins: tuple[PlugIn, ...]
    without: tuple[str, ...] = ()  # constraints left out of every question

    def task(self, disabled: Sequence[str] = ()) -> Task:
        """Return the task without the named constraints."""
        return make_task(self.scenario, plugins=self.plugins, disabled=[*self.without, *disabled])

    def aiming_at(self, objective: str, disabled: Sequence[str] = ()) -> Task:
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
            return _feasible(self.task(disabled))
        except SolveLimitError:
            return None


def conflicts(question: Question) -> list[tuple[str, ...]]:
    """Return minimal sets of clashing requirements, no two of which share a member.

    A plan needs a repair for each of them.
    """
    found: list[tuple[str, ...]] = []
    while question.feasible() is False:
        names = _conflict(question)
        if not names:
            break
        found.append(names)
        question = question.leaving_out(names)
    return found


def _conflict(question: Question) -> tuple[str, ...]:
    """Return a minimal set of requirements that no plan satisfies together.

    Minimal: without any one of them the others can be satisfied, unless the limit left that open.
    Empty where even the bare structure has no plan.
    """
    names = [c.name for c in droppable(question.task().constraints)]
    dropped: list[str] = []
    for name in names:
        if question.feasible([*dropped, name]) is False:
            dropped.append(name)  # still no plan without it: not needed for the clash
    return tuple(name for name in names if name not in dropped)


def binding(question: Question, optimum: Vector, budget: int) -> tuple[tuple[str, ...], list[str]]:
    """Return the requirements without which a strictly better plan exists, and those not decided.

    optimum: the oriented integer vector of the answer. budget: the most candidates to look at per
    question; a requirement whose relaxation has more is reported as not decided.
    """
    bound: list[str] = []
    open_names: list[str] = []
    for constraint in droppable(question.task().constraints):
        try:
            relaxed = _relaxed(question, constraint.name)
        except SolveLimitError:
            open_names.append(constraint.name)
            continue
        if len(relaxed.problem.candidates) > budget:
            open_names.append(constraint.name)
            continue
        better = _has_better(relaxed, prepare(relaxed), optimum)
        if better is None:
            open_names.append(constraint.name)
        elif better:
            bound.append(constraint.name)
    return tuple(bound), open_names


def repairs(question: Question, clashes: Sequence[tuple[str, ...]]) -> tuple[Repair, ...]:
    """Return changes after each of which a plan exists, the smallest relative one first.

    Where there are several independent clashes, each change repairs one of each.
    """
    each: list[list[Repair]] = []
    for number, clash in enumerate(clashes):
        others = [name for k, other in enumerate(clashes) if k != number for name in other]
        alone = question.leaving_out(others)
        found = [repair for name in clash for repair in _repairs_of(alone, name)]
        each.append(sorted(found, key=lambda r: (r.relative is None, r.relative or 0.0)))
    if len(each) == 1:
        return tuple(each[0])
    if not all(each):
        return ()
    first = [found[0] for found in each]
    relative = [r.relative for r in first if r.relative is not None]
    return (
        Repair(
            requirement=" + ".join(r.requirement for r in first),
            change=" ".join(r.change for r in first),
            size=" and ".join(r.size for r in first),
            relative=max(relative) if relative else None,
        ),
    )


def _relaxed(question: Question, name: str) -> Task:
    """Leave a requirement out; a partition is first relaxed to every_gpu, which asks less."""
    if name == "coverage" and question.scenario.requirements.coverage == "partition":
        return question.changed("requirements.coverage", "every_gpu").task()
    return question.task([name])


def _has_better(task: Task, prepared: Prepared, optimum: Vector) -> bool | None:
    if prepared.vector is not None and prepared.vector < optimum:
        return True
    candidates = zip(prepared.optimistic.tolist(), prepared.has_path.tolist(), strict=False)
    if not any(tuple(vector) < optimum and has_path for vector, has_path in candidates):
        return False  # rows are in order, and those beyond the incumbent are no better than it
    outcome = optimise(task, prepared)
    if outcome.vector is not None and task.oriented(outcome.vector) < optimum:
        return True
    return False if outcome.status in ("optimal", "infeasible") else None


def _feasible(task: Task) -> bool | None:
    prepared = prepare(task)
    if prepared.incumbent is not None:
        return True
    status = optimise(task, prepared).status
    return None if status == "unknown" else status != "infeasible"


def _repairs_of(question: Question, name: str) -> Iterator[Repair]:
    scenario = question.scenario
    limits = scenario.requirements
    if name in ("ttft", "tpot", "memory"):
        best = _best_without(question, name)
        if best is None:
            return
        if name == "memory":
            have = scenario.cluster.gpu.memory_bytes
            need = best / limits.max_memory_fraction
            grown = f"{format_bytes(have)} -> {format_bytes(need)}"
            yield Repair(
                name,
                f"cluster.gpu.memory_bytes={need:.0f}",
                f"+{format_bytes(need - have)} per GPU ({grown})",
                (need - have) / have,
            )
            return
        have_us = limits.max_ttft_us if name == "ttft" else limits.max_tpot_us
        assert have_us is not None  # the constraint is active
        yield Repair(
            name,
            f"requirements.max_{name}_us={best:.3f}",
            f"{name.upper()} {format_us(have_us)} -> {format_us(best)}",
            (best - have_us) / have_us,
        )
    elif name == "throughput":
        yield from _throughput_repairs(question)
    elif name in ("all_to_all_within", "tensor_parallel_within"):
        yield from _container_repairs(question, name)
    elif name == "coverage":
        yield from _coverage_repairs(question)
    elif question.feasible([name]):
        yield Repair(name, f"drop {name}", "a plan exists without it", None)


def _best_without(question: Question, name: str) -> float | None:
    """Return the best value of a metric, in its unit, when its own limit is left out."""
    objective = OBJECTIVES[name]
    task = question.aiming_at(name, [name])
    outcome = optimise(task, prepare(task))
    if outcome.vector is None:
        return None
    return objective.value(outcome.vector[0])


def _throughput_repairs(question: Question) -> Iterator[Repair]:
    limits = question.scenario.requirements
    task = question.aiming_at("throughput", ["throughput"])
    outcome = optimise(task, prepare(task))
    if outcome.vector is None or outcome.choice is None:
        return
    total = OBJECTIVES["throughput"].value(outcome.vector[0])
    candidate, split = outcome.choice.candidate, outcome.choice.split
    used = candidate.replicas * sum(candidate.stage_gpus(size) for size in split)
    for field, have, best in (
        ("min_tokens_per_s", limits.min_tokens_per_s, total),
        ("min_tokens_per_s_per_gpu", limits.min_tokens_per_s_per_gpu, total / used),
    ):
        if have is not None and best < have:
            reached = best * (1 - 1e-9)  # rates are rounded down; ask for no more than they give
            yield Repair(
                "throughput",
                f"requirements.{field}={reached:.6g}",
                f"{format_rate(have)} -> {format_rate(reached)}",
                (have - reached) / have,
            )


def _container_repairs(question: Question, name: str) -> Iterator[Repair]:
    """The smallest larger container, in whole multiples of what nests in it, then a wider level."""
    scenario = question.scenario
    cluster = scenario.cluster
    level = getattr(scenario.requirements, name)
    if level == "domain":
        have = cluster.domain_gpus
        step = max(cluster.gpus_per_node, 1)
        sizes = [s for s in range(have + 1, cluster.num_gpus + 1) if s % step == 0]
        for size in sizes:
            if question.changed("cluster.gpus_per_domain", size).feasible():
                text = f"scale-up domains of {have} -> {size} GPUs"
                yield Repair(name, f"cluster.gpus_per_domain={size}", text, (size - have) / have)
                break
    wider = {"node": ("domain", "cluster"), "domain": ("cluster",)}[level]
    for other in wider:
        if question.changed(f"requirements.{name}", other).feasible():
            yield Repair(
                name,
                f"requirements.{name}={other}",
                f"may span a {other} instead of a {level}",
                None,
            )
            break


def _coverage_repairs(question: Question) -> Iterator[Repair]:
    scenario = question.scenario
    have = scenario.requirements.coverage
    for other in {"partition": ("every_gpu", "up_to"), "every_gpu": ("up_to",), "up_to": ()}[have]:
        if question.changed("requirements.coverage", other).feasible():
            yield Repair(
                "coverage", f"requirements.coverage={other}", f"coverage {have} -> {other}", None
            )
            break
    yield from _node_repairs(question)


def _node_repairs(question: Question) -> Iterator[Repair]:
    """The nearest number of nodes, fewer or more, up to twice as many, that admits a plan."""
    cluster = question.scenario.cluster
    have = cluster.num_nodes
    for distance in range(1, have + 1):
        for nodes in (have - distance, have + distance):
            if nodes >= 1 and _nodes_admit(question, nodes):
                gpus = (nodes - have) * cluster.gpus_per_node
                text = f"{have} -> {nodes} nodes ({gpus:+d} GPUs)"
                yield Repair("coverage", f"cluster.num_nodes={nodes}", text, distance / have)
                return


def _nodes_admit(question: Question, num_nodes: int) -> bool:
    other = question.changed("cluster.num_nodes", num_nodes)
    scenario, llm, cluster = other.scenario, other.scenario.llm, other.scenario.cluster
    parts = llm.num_layers * llm.num_experts
    if scenario.requirements.coverage == "partition" and cluster.num_gpus % parts:
        return False  # no shard count fits; not worth a solve
    return other.feasible() is True
