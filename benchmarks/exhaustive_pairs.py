"""Every pair of layouts, numbers of replicas and batches of a service with two roles.

Nothing is pruned by a bound on the rate: each layout of a role is solved with each number of
replicas and each batch that its growing requirements leave, then every two of them are paired at
the largest load of prefill that TTFT leaves. A layout of one stage has one split. Of a pipeline two
numbers are kept: what its best split reaches, and what none of its splits beats, each value for
itself; where the best pair of both kinds has the same rate, that rate is the optimum.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from autopar.candidates import with_batch
from autopar.constraints import Constraint
from autopar.costs.steps import most_sequences
from autopar.disaggregated.queue import wait
from autopar.disaggregated.task import PairTask
from autopar.disaggregated.values import Values
from autopar.disaggregated.variables import chosen_values
from autopar.pair_rules import SAME_STAGES, PairRule
from autopar.problem import Candidate, Candidates
from autopar.search import Task, accepted
from autopar.segments import SegmentTable, ShapeCache, segment_table
from autopar.specs.roles import ROLES
from autopar.splits import best_split, least_time, least_worst

Kept = Literal["reached", "unbeaten"]  # of each candidate, see `Side`
_AT_ONCE = 500  # rows of prefill that are paired with all of decode at once


@dataclass(slots=True)
class Side:
    """All that one role may be: reached by a split, and beaten by none; row i of each alike."""

    solved: int = 0
    rows: list[Candidate] = field(default_factory=list)
    reached: list[Values] = field(default_factory=list)
    unbeaten: list[Values] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Best:
    """The best rate of a pair, in quanta, and the two rows that have it."""

    rate: int
    prefill: Candidate
    decode: Candidate


def rows_that_fit(task: Task, *, memory_only: bool = False) -> Iterator[Candidates]:
    """Yield every layout with every batch, until a requirement that grows with it surely fails.

    That is told by bounds over all larger batches, as steps may be faster with more in them.
    memory_only: stop at memory alone, not at TTFT and TPOT.
    """
    growing = [
        c
        for c in task.constraints
        if isinstance(c, Constraint) and c.depends_on_batch == "grows"
        if not memory_only or c.name == "memory"
    ]
    layouts = task.problem.candidates
    most = most_sequences(task.problem.scenario.workload, layouts.chunks)
    for index, limit in enumerate(most.tolist()):
        layout = layouts.take(np.array([index]))
        for batch in range(1, limit + 1):
            row = with_batch(layout, batch)
            larger = task.problem.over_batches(np.array([limit / batch]))
            fits = [c.allowed_rows(larger, row) for c in growing]
            if any(passes is not None and not passes.all() for passes in fits):
                break  # and so does no larger one
            yield row


def every_plan(task: Task) -> Side:
    """Solve every layout of a role with every number of replicas and every batch."""
    side, shapes = Side(), ShapeCache()
    for row in rows_that_fit(task):
        for replicas in range(1, int(row.replicas[0]) + 1):
            _solve(task, side, replace(row, replicas=np.array([replicas])), shapes)
    return side


def _solve(task: Task, side: Side, row: Candidates, shapes: ShapeCache) -> None:
    problem = task.problem
    side.solved += 1
    table = segment_table(problem, row, task.constraints, shapes)
    chosen = best_split(row, table, problem.num_layers, task.objectives)
    if chosen is None or not accepted(task, row, table, chosen):
        return
    one = row.row(0)
    values = chosen_values(problem, row, table, chosen)
    side.rows.append(one)
    side.reached.append(values)
    side.unbeaten.append(values if one.pp == 1 else _unbeaten(task, table, one, values))


def _unbeaten(task: Task, table: SegmentTable, one: Candidate, values: Values) -> Values:
    """Return the best that any split has in what decides the rate of a pair."""
    size = task.problem.num_layers, one.pp
    assert table.handover is not None  # tables of a role state it
    assert table.service is not None
    is_prefill = task.problem.scenario.workload.is_prefill
    numbers = {
        "rate": -(least_worst(table, *size, -table.rate) or 0),
        "time": (least_time(table, *size) or 0) if is_prefill else 0,
        "handover": least_worst(table, *size, table.handover) or 0,
        "service": least_worst(table, *size, table.service) or 0,
    }
    return replace(values, **{name: np.array([n]) for name, n in numbers.items()})


def best_pair(task: PairTask, prefill: Side, decode: Side, of: Kept) -> Best | None:
    """Return the best of all pairs by the rate alone; of: what their splits reach, or never do."""
    if not prefill.rows or not decode.rows:
        return None
    mine, theirs = (Values.joined(getattr(side, of)) for side in (prefill, decode))
    best: Best | None = None
    fits: dict[tuple[int, ...], bool] = {}
    asked = [c for c in task.constraints if isinstance(c, PairRule)]
    for start in range(0, len(mine.rate), _AT_ONCE):
        part = mine.take(np.arange(start, min(start + _AT_ONCE, len(mine.rate))))
        rate = _rates(task, part, theirs)
        order = np.argsort(-rate, axis=None, kind="stable")
        for flat in order.tolist():
            i, j = divmod(flat, rate.shape[1])
            if rate[i, j] <= (0 if best is None else best.rate):
                break
            pair = prefill.rows[start + i], decode.rows[j]
            if _may_go_together(task, asked, pair, of) and _lie_side_by_side(task, *pair, fits):
                best = Best(int(rate[i, j]), *pair)
                break
    return best


def _rates(task: PairTask, prefill: Values, decode: Values) -> np.ndarray:
    """Return the rate of every pair, 0 where it breaks a requirement; shape (prefill, decode).

    The load is the largest whole percent that leaves TTFT within its limit: a larger load never
    serves less.
    """
    queue = task.queue
    handover = np.maximum(prefill.handover[:, None], decode.handover[None, :])
    prompt = prefill.time[:, None] + handover
    load = np.zeros(prompt.shape, dtype=np.int64)
    for percent in range(1, queue.top + 1):
        ttft = prompt + wait(np.array(percent), prefill.service)[:, None]
        load[(ttft <= queue.limit) if queue.limit is not None else slice(None)] = percent
    rate = np.minimum(prefill.rate[:, None] * load // 100, decode.rate[None, :])
    gpus = prefill.gpus[:, None] + decode.gpus[None, :]
    allowed = gpus <= task.problem.num_gpus
    if any(c.name == "coverage" for c in task.pair):
        allowed &= gpus == task.problem.num_gpus
    assert not task.problem.scenario.requirements.min_tokens_per_s  # no case has such a limit
    return np.where(allowed, rate, 0)


def _may_go_together(
    task: PairTask, rules: Sequence[PairRule], pair: tuple[Candidate, Candidate], of: Kept
) -> bool:
    """Return whether rules about both roles allow a pair.

    Where both have as many stages, several, nothing is known of their splits but that some are the
    same: a pair is reached if any splits will do, and never if none will.
    """
    if not rules:
        return True
    values = {
        f"{role}.{name}": np.array([[number]])
        for role, one in zip(ROLES, pair, strict=True)
        for name, number in {
            **{key: getattr(one, key) for key in ("pp", "tp", "cp", "ep", "etp", "spread")},
            "attn_dp": one.stage_attn_dp(1),
            "gpus": one.stage_gpus(1),
            "expert_grid_gpus": one.ep * one.etp,
        }.items()
    }
    stages = [one.pp for one in pair]
    same = [1] if stages == [1, 1] else [0] if stages[0] != stages[1] else [0, 1]
    scenario = task.problem.scenario
    said = [
        all(rule.allows(scenario, values | {SAME_STAGES: one}, (1, 1)).all() for rule in rules)
        for one in same
    ]
    return all(said) if of == "reached" else any(said)


def _lie_side_by_side(
    task: PairTask, prefill: Candidate, decode: Candidate, known: dict[tuple[int, ...], bool]
) -> bool:
    """Return whether decode finds its blocks after those of prefill."""
    key = tuple(
        n for c in (prefill, decode) for n in (c.tp, c.cp, c.etp, c.stage_gpus(1), c.replicas, c.pp)
    )
    if key not in known:
        known[key] = _placed(task, prefill, decode)
    return known[key]


def _placed(task: PairTask, *pair: Candidate) -> bool:
    topology, after = task.problem.topology, 0
    for one in pair:
        needs = topology.footprint(one.tp, one.cp, one.etp, one.stage_gpus(1))
        try:
            blocks = topology.stage_gpus(needs, one.replicas * one.pp, after)
        except ValueError:
            return False
        after = max(map(max, blocks)) + 1
    return True
