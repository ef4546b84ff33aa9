"""What repairs a clash: the least change of a number, or the dropping of a rule, with a plan.

Every repair has been tried: a plan exists after it.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from autopar.diagnose import Question, conflicts
from autopar.lexicographic import Outcome
from autopar.objectives import OBJECTIVES
from autopar.planning import answered, prepare
from autopar.results import Repair
from autopar.specs import Cluster
from autopar.units import format_bytes, format_rate, format_us
from autopar.variables import PairChoice

MOST_FIXES = 6  # changes in one repair
MOST_TRIES = 64  # sizes of a domain, or numbers of nodes, to try one after another
# More nodes than are there: each number is a whole question about a larger cluster.
MOST_TIMES_NODES = 16
MOST_MORE_GPUS = 4096
_OF_CLUSTER = re.compile(r"\b(?:num_gpus|num_nodes)\b")  # names of rules, see `autopar.rules`
MOST_MORE_TRIES = 8  # one after another, where more nodes are not always better


@dataclass(frozen=True, slots=True)
class _Fix:
    """A repair before it is told: fields to set, or constraints to drop."""

    requirement: str
    changes: tuple[tuple[str, object], ...]
    text: str
    relative: float | None = None
    dropped: tuple[str, ...] = ()

    def apply(self, question: Question) -> Question:
        """Return the question after the repair."""
        for path, value in self.changes:
            question = question.changed(path, value)
        return question.leaving_out(self.dropped)

    def told(self, question: Question) -> Repair:
        """Return the repair as users type it behind `--set`: `a=1`, or `a=1 --set b=2`."""
        words = [f"{path}={_written(value)}" for path, value in self.changes]
        if self.dropped:
            names = ",".join((*question.scenario.recipe.disable, *self.dropped))
            words.append(f"recipe.disable=[{names}]")
        return Repair(self.requirement, " --set ".join(words), self.text, self.relative)


def repairs(question: Question, clashes: Sequence[tuple[str, ...]]) -> tuple[Repair, ...]:
    """Return changes after each of which a plan exists, the smallest relative one first.

    With one clash, each change repairs it. With several, one change of several fields: the clashes
    are repaired one after another, and asked for anew after each, since one repair may cause
    another clash or spare one.
    """
    if not clashes:  # none that can be left out: not even the structure of a plan fits
        return ()
    if len(clashes) == 1:
        found = _working(question, clashes[0])
    else:
        found = _one_after_another(question, clashes)
    if not any(path == "cluster.num_nodes" for fix in found for path, _ in fix.changes):
        clashing = dict.fromkeys(name for clash in clashes for name in clash)
        found = sorted((*found, *_more_nodes(question, tuple(clashing))), key=_size)
    return tuple(fix.told(question) for fix in found)


def in_vain(
    question: Question, clashes: Sequence[tuple[str, ...]], found: Sequence[Repair]
) -> tuple[str, ...]:
    """Say how many more nodes `repairs` has tried without a plan, where it offers none."""
    tried = _larger(question)
    if not clashes or not tried or any("cluster.num_nodes=" in one.change for one in found):
        return ()
    numbers = ", ".join(f"{nodes:,}" for nodes in tried)
    if _stays_a_plan(question):
        numbers = f"up to {tried[-1]:,}"
    return (f"no plan was found on more nodes either ({numbers})",)


def _one_after_another(question: Question, clashes: Sequence[tuple[str, ...]]) -> list[_Fix]:
    """Return one change of several fields, or none where a clash has no repair."""
    fixes: list[_Fix] = []
    repaired, left = question, list(clashes)
    while left and len(fixes) < MOST_FIXES:
        others = [
            name
            for clash in left[1:]
            for name in clash
            if name not in left[0] and (name != "coverage" or len(clash) == 1)
        ]
        found = _working(repaired.leaving_out(others), left[0])
        if not found:
            return []
        fixes.append(found[0])
        repaired = found[0].apply(repaired)
        left, _ = conflicts(repaired)
    if not fixes or repaired.feasible() is not True:
        return []
    return [_together(fixes)]


def _working(question: Question, clash: Sequence[str]) -> list[_Fix]:
    """Return the fixes of one clash after which a plan exists, smallest relative change first.

    Where no number can be changed, one member is dropped, which always ends a minimal clash.
    """
    found = [fix for name in clash for fix in _fixes(question, name)]
    works = [fix for fix in found if fix.apply(question).feasible()]
    if not works:
        drops = [_Fix(n, (), f"a plan exists without {n}", dropped=(n,)) for n in clash]
        works = [fix for fix in drops if fix.apply(question).feasible()]
    return sorted(works, key=_size)


def _size(fix: _Fix) -> tuple[bool, float]:
    """Return what fixes are sorted by: the relative change, those of no number last."""
    return fix.relative is None, fix.relative or 0.0


def _together(fixes: Sequence[_Fix]) -> _Fix:
    relative = [fix.relative for fix in fixes if fix.relative is not None]
    return _Fix(
        requirement=" + ".join(fix.requirement for fix in fixes),
        changes=tuple(change for fix in fixes for change in fix.changes),
        text=" and ".join(fix.text for fix in fixes),
        relative=max(relative) if relative else None,
        dropped=tuple(name for fix in fixes for name in fix.dropped),
    )


def _written(value: object) -> str:
    """Return a number as `--set` reads it back exactly."""
    return repr(value) if isinstance(value, float) else str(value)


def _fixes(question: Question, name: str) -> Iterator[_Fix]:
    match name:
        case "ttft" | "tpot":
            yield from _latency(question, name)
        case "memory":
            yield from _memory(question)
        case "throughput":
            yield from _throughput(question)
        case "all_to_all_within" | "tensor_parallel_within":
            yield from _containers(question, name)
        case "max_spread":
            yield from _spread(question)
        case "coverage":
            yield from _coverage(question)
            yield from _nodes(question)
        case _:
            yield _Fix(name, (), f"a plan exists without {name}", dropped=(name,))


def _best(question: Question, name: str) -> tuple[float, Outcome] | None:
    """Return the best value of a metric, in its unit, when its own limit is left out."""
    task = question.aiming_at(name, [name])
    outcome = answered(task, prepare(task, ties=False))
    if outcome.vector is None:
        return None
    return OBJECTIVES[name].value(outcome.vector[0]), outcome


def _latency(question: Question, name: str) -> Iterator[_Fix]:
    limits = question.scenario.requirements
    have_us = limits.max_ttft_us if name == "ttft" else limits.max_tpot_us
    best = _best(question, name)
    if best is None or have_us is None:
        return
    need_us = math.ceil(best[0] * 1e3) / 1e3  # times are counted in nanoseconds
    text = f"{name.upper()} {format_us(have_us)} -> {format_us(need_us)}"
    relative = (need_us - have_us) / have_us
    yield _Fix(name, ((f"requirements.max_{name}_us", need_us),), text, relative)


def _memory(question: Question) -> Iterator[_Fix]:
    best = _best(question, "memory")
    if best is None:
        return
    have = question.scenario.cluster.gpu.memory_bytes
    share = question.scenario.requirements.max_memory_fraction
    need = math.ceil(best[0] / share)
    while need * share < best[0]:  # the product may round down
        need += 1
    text = f"+{format_bytes(need - have)} per GPU ({format_bytes(have)} -> {format_bytes(need)})"
    yield _Fix("memory", (("cluster.gpu.memory_bytes", need),), text, (need - have) / have)


def _throughput(question: Question) -> Iterator[_Fix]:
    """Lower every rate that the plan with the most throughput misses."""
    best = _best(question, "throughput")
    if best is None or best[1].choice is None:
        return
    total, choice = best[0], best[1].choice
    parts = (choice.prefill, choice.decode) if isinstance(choice, PairChoice) else (choice,)
    used = sum(
        one.candidate.replicas * sum(one.candidate.stage_gpus(size) for size in one.split)
        for one in parts
    )
    limits = question.scenario.requirements
    fixes = []
    for field, have, reached in (
        ("min_tokens_per_s", limits.min_tokens_per_s, total),
        ("min_tokens_per_s_per_gpu", limits.min_tokens_per_s_per_gpu, total / used),
    ):
        if have is not None and reached < have:
            rate = math.floor(reached * 1e3 * (1 - 1e-9)) / 1e3  # never more than is reached
            text = f"{format_rate(have, beside=rate)} -> {format_rate(rate, beside=have)}"
            change = (f"requirements.{field}", rate)
            fixes.append(_Fix("throughput", (change,), text, (have - rate) / have))
    if fixes:
        both = _together(fixes)
        yield _Fix("throughput", both.changes, both.text, both.relative)


def _containers(question: Question, name: str) -> Iterator[_Fix]:
    """The smallest larger domain, in whole nodes, that admits a plan; then a wider level."""
    cluster = question.scenario.cluster
    level = getattr(question.scenario.requirements, name)
    have = cluster.domain_gpus
    if level == "domain" and have % cluster.gpus_per_node == 0:
        sizes = range(have + cluster.gpus_per_node, cluster.num_gpus + 1, cluster.gpus_per_node)
        for size in _spaced(sizes):
            if question.changed("cluster.gpus_per_domain", size).feasible():
                text = f"scale-up domains of {have} -> {size} GPUs"
                change = ("cluster.gpus_per_domain", size)
                yield _Fix(name, (change,), text, (size - have) / have)
                break
    for other in {"node": ("domain", "cluster"), "domain": ("cluster",)}[level]:
        if question.changed(f"requirements.{name}", other).feasible():
            text = f"may span a {other} instead of a {level}"
            yield _Fix(name, ((f"requirements.{name}", other),), text)
            break


def _spread(question: Question) -> Iterator[_Fix]:
    """The fewest more expert grids of a stage that admit a plan."""
    have = question.scenario.requirements.max_spread or 1
    for most in range(have + 1, min(question.scenario.llm.num_layers, have + MOST_TRIES) + 1):
        if question.changed("requirements.max_spread", most).feasible():
            text = f"{have} -> {most} expert grids per stage"
            change = ("requirements.max_spread", most)
            yield _Fix("max_spread", (change,), text, (most - have) / have)
            break


def _spaced(sizes: range) -> Iterator[int]:
    """Yield all sizes where they are few, else the first ones and then doublings."""
    if len(sizes) <= MOST_TRIES:
        yield from sizes
        return
    yield from sizes[: MOST_TRIES // 2]
    index = MOST_TRIES // 2
    while index < len(sizes):
        yield sizes[index]
        index *= 2
    yield sizes[-1]


def _coverage(question: Question) -> Iterator[_Fix]:
    have = question.scenario.requirements.coverage
    for other in {"partition": ("every_gpu", "up_to"), "every_gpu": ("up_to",), "up_to": ()}[have]:
        if question.changed("requirements.coverage", other).feasible():
            change = ("requirements.coverage", other)
            yield _Fix("coverage", (change,), f"coverage {have} -> {other}")
            break


def _nodes(question: Question) -> Iterator[_Fix]:
    """The nearest number of nodes, fewer or more, up to twice as many, that admits a plan."""
    cluster = question.scenario.cluster
    have = cluster.num_nodes
    tried = 0
    for distance in range(1, have + 1):
        for nodes in (have - distance, have + distance):
            if nodes < 1 or not _may_tile(question, nodes):
                continue
            tried += 1
            if question.changed("cluster.num_nodes", nodes).feasible():
                gpus = (nodes - have) * cluster.gpus_per_node
                text = f"{have} -> {nodes} nodes ({gpus:+d} GPU{'' if gpus == 1 else 's'})"
                yield _Fix("coverage", (("cluster.num_nodes", nodes),), text, distance / have)
                return
            if tried >= MOST_TRIES:
                return


def _more_nodes(question: Question, clashing: tuple[str, ...]) -> Iterator[_Fix]:
    """The fewest more nodes, in whole scale-up domains, with which all requirements can hold.

    Where a plan is one on more nodes as well, their number is doubled until a plan exists, then
    halved towards what has none. Else one number is tried after another.
    """
    cluster = question.scenario.cluster
    have, unit, sizes = cluster.num_nodes, _unit_of_nodes(cluster), _larger(question)

    def has_plan(nodes: int) -> bool:
        return bool(question.changed("cluster.num_nodes", nodes).feasible())

    def search() -> int | None:
        if not _stays_a_plan(question):
            return next((nodes for nodes in sizes if has_plan(nodes)), None)
        most = sizes[-1] if sizes else have
        below, tried = have, min(2 * have, most)
        while tried > below and not has_plan(tried):
            below, tried = tried, min(2 * tried, most)
        if tried <= below:
            return None
        between = range(below + unit, tried, unit)
        place = bisect_left(between, 1, key=has_plan)
        return between[place] if place < len(between) else tried

    nodes = search()
    if nodes is not None:
        gpus = (nodes - have) * cluster.gpus_per_node
        text = f"{have} -> {nodes} nodes (+{gpus:,} GPU{'' if gpus == 1 else 's'})"
        if cluster.links is not None and have <= unit:  # what was idle before
            text += f", over a fabric of {cluster.links.fabric.bandwidth_bytes_per_s / 1e9:g} GB/s"
        change = ("cluster.num_nodes", nodes)
        yield _Fix(" + ".join(clashing), (change,), text, (nodes - have) / have)


def _unit_of_nodes(cluster: Cluster) -> int:
    """Return the nodes of a scale-up domain; 1 where the last domain is a smaller one already."""
    unit = max(1, cluster.domain_gpus // cluster.gpus_per_node)
    return 1 if cluster.num_nodes % unit else unit


def _larger(question: Question) -> Sequence[int]:
    """Return the numbers of nodes among which `_more_nodes` looks, ascending."""
    cluster = question.scenario.cluster
    have, unit = cluster.num_nodes, _unit_of_nodes(cluster)
    most = min(MOST_MORE_GPUS // cluster.gpus_per_node, have * MOST_TIMES_NODES)
    sizes = range(have + unit, most + 1, unit)
    if _stays_a_plan(question):
        return sizes
    return tuple(islice((n for n in sizes if _may_tile(question, n)), MOST_MORE_TRIES))


def _stays_a_plan(question: Question) -> bool:
    """Whether a plan remains one where more nodes are idle beside it.

    Not where none may idle, nor where a rule asks how large the cluster is, or a plug-in may.
    """
    asked = {
        name for rule in question.scenario.all_rules for name in _OF_CLUSTER.findall(rule.text)
    }
    is_up_to = question.scenario.requirements.coverage == "up_to"
    return is_up_to and not asked and not question.plugins


def _may_tile(question: Question, num_nodes: int) -> bool:
    """Whether a partition could cover so many nodes: each expert has a whole number of GPUs."""
    if question.scenario.requirements.coverage != "partition":
        return True
    llm = question.scenario.llm
    num_gpus = num_nodes * question.scenario.cluster.gpus_per_node
    return num_gpus % (llm.num_layers * llm.num_experts) == 0
