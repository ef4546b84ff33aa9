"""Solve candidates of one role by the dynamic programme, and match them to the best pair."""

from dataclasses import dataclass, field, replace

import numpy as np

from autopar.candidates import with_batch
from autopar.constraints import PlugIn
from autopar.disaggregated.constraints import footprint, taken_gpus
from autopar.disaggregated.narrowing import anything, narrowed
from autopar.disaggregated.queue import served
from autopar.disaggregated.task import PairTask, decides_layouts
from autopar.disaggregated.values import Values
from autopar.disaggregated.variables import chosen_values
from autopar.objectives.worst_stage import Memory
from autopar.problem import Candidate, Candidates, IntArray
from autopar.search import Vector, accepted
from autopar.segments import SegmentTable, ShapeCache, segment_table
from autopar.splits import best_split

_SPLITS = 4  # with each number of stages of a role, that are tried in the other
_Splits = dict[int, set[tuple[int, ...]]]  # by the number of stages


@dataclass(frozen=True, slots=True)
class Solved:
    """One candidate of a role with its segments, a split, and what it brings to a pair.

    row: a table of one. values: of the split, shape (1,). taken: GPUs, from the other role's view.
    kind: of the layout to rules about both roles; 0 where there are none.
    """

    row: Candidates
    table: SegmentTable
    split: tuple[int, ...]
    values: Values
    taken: int
    kind: int = 0

    @property
    def candidate(self) -> Candidate:
        """The candidate."""
        return self.row.row(0)


@dataclass(slots=True)
class Pairing:
    """All candidates solved so far, and the best pair of them.

    vector: the best pair's objectives, turned so that less is better.
    """

    task: PairTask
    best: tuple[Solved, Solved] | None = None
    vector: Vector | None = None
    solved: tuple[list[Solved], list[Solved]] = field(default_factory=lambda: ([], []))
    alone: tuple[list[Solved], list[Solved]] = field(default_factory=lambda: ([], []))
    _splits: tuple[_Splits, _Splits] = field(default_factory=lambda: ({}, {}))
    _shapes: tuple[ShapeCache, ShapeCache] = field(default_factory=lambda: ({}, {}))
    _filters: list[list[PlugIn]] = field(init=False)

    def __post_init__(self) -> None:
        # Candidates come from ranges whose layouts have passed all rules that speak of these alone.
        self._filters = [
            [c for c in role.constraints if not decides_layouts(c, role, self.task.exact_only)]
            for role in self.task.roles
        ]

    def solve(
        self, role: int, row: Candidates, partner: Values | None = None
    ) -> tuple[SegmentTable, Values] | None:
        """Solve one candidate and match it with all of the other role.

        row: a table of one candidate. partner: what the other role does not beat, shape (1,); None
        where nothing is known of it.
        Returns its segments and what no split of it beats, each value for itself; None where no
        split is part of a pair as good as the best known one.
        """
        table = self._table(role, row)
        pp, num_layers = int(row.pp[0]), self.task.problem.num_layers
        objectives = self.task.roles[role].objectives
        chosen = best_split(row, table, num_layers, objectives)
        if chosen is None:
            return None
        self._try(role, row, table, chosen)
        if pp > 1:
            enough = table.rate >= self._needed_rate(role)
            index, fast = np.flatnonzero(enough), table.keep(enough)
            quick = best_split(row, fast, num_layers, objectives[1:])
            if quick is None:
                return None
            self._try(role, row, table, index[quick])
            if self.task.objectives[0].name == "memory":  # of the fast ones, the leanest
                lean = best_split(row, fast, num_layers, [Memory(), *objectives])
                assert lean is not None  # there are fast ones
                self._try(role, row, table, index[lean])
            partner = anything() if partner is None else partner
            left = narrowed(self.task, role, row, fast, partner, self.vector)
            return None if left is None else (table, left[1])
        if int(table.rate[chosen[0]]) < self._needed_rate(role):
            return None
        return table, chosen_values(self.task.roles[role].problem, row, table, chosen)

    def _try(self, role: int, row: Candidates, table: SegmentTable, chosen: IntArray) -> None:
        """Match one split of a candidate, if every constraint of its role accepts it."""
        if accepted(self.task.roles[role], row, table, chosen):
            one = self._of(role, row, table, chosen)
            self.solved[role].append(one)
            self._match(role, one)
            self._cut_alike(role, one)

    def _cut_alike(self, role: int, one: Solved) -> None:
        """Where a rule wants the same stages of both roles, try the splits of one in the other.

        A few of them: pairs are only to be found here, and CP-SAT proves what is best.
        """
        rules, pp = self.task.compatibility, len(one.split)
        if rules is None or pp == 1 or not rules.needs_same.any():
            return
        mine, theirs = (self._splits[r].setdefault(pp, set()) for r in (role, 1 - role))
        for split in theirs - {one.split}:
            self._try_split(role, one, split)
        if one.split in mine or len(mine) == _SPLITS:
            return
        mine.add(one.split)
        others = [o for o in self.solved[1 - role] if len(o.split) == pp and o.split != one.split]
        for other in others:
            self._try_split(1 - role, other, one.split)

    def _try_split(self, role: int, solved: Solved, split: tuple[int, ...]) -> None:
        """Match a candidate with another split, if its segments and constraints allow it."""
        stops = np.cumsum(split)
        table, where = solved.table, np.stack([stops - split, stops], axis=1)
        edges = np.stack([table.first, table.stop], axis=1)
        is_here = (edges[:, None, :] == where[None, :, :]).all(axis=2)
        if not is_here.any(axis=0).all():
            return
        chosen = is_here.argmax(axis=0)
        if accepted(self.task.roles[role], solved.row, table, chosen):
            other = self._of(role, solved.row, table, chosen)
            self.solved[role].append(other)
            self._match(role, other)

    def solve_alone(self, role: int, row: Candidates, batch: int) -> bool:
        """Solve one replica of a layout with a batch; whether it has a plan."""
        one = replace(with_batch(row, batch), replicas=np.ones(1, dtype=np.int64))
        table = self._table(role, one)
        objectives = self.task.roles[role].objectives
        chosen = best_split(one, table, self.task.problem.num_layers, objectives)
        if chosen is None:
            return False
        whole = replace(one, replicas=row.replicas)  # as many as fit; how many is `match_all`'s
        self.alone[role].append(replace(self._of(role, one, table, chosen), row=whole))
        return True

    def match_all(self) -> None:
        """Match every layout solved alone with every one of the other role, in good numbers."""
        best: tuple[Vector, Solved, int, Solved, int] | None = None
        for prefill in self.alone[0]:
            for decode in self.alone[1]:
                found = self._numbers(prefill, decode)
                if found is not None and (best is None or found[0] < best[0]):
                    best = found[0], prefill, found[1], decode, found[2]
        if best is None:
            return
        for role, solved, count in ((0, best[1], best[2]), (1, best[3], best[4])):
            self.solve(role, replace(solved.row, replicas=np.array([count])))

    def _numbers(self, prefill: Solved, decode: Solved) -> tuple[Vector, int, int] | None:
        """Return the best numbers of replicas that are worth a look, with their vector."""
        rules = self.task.compatibility
        if rules is not None and not rules.together[prefill.kind, decode.kind]:
            return None
        count_p, count_d = self._worth_a_look(prefill, decode)
        many_p, taken_p = self._many(0, prefill, count_p)
        many_d, taken_d = self._many(1, decode, count_d)
        fits = taken_p + taken_d <= self.task.problem.num_gpus
        if self._uses_every_gpu:
            fits &= many_p.gpus + many_d.gpus == self.task.problem.num_gpus
        for constraint in self.task.pair:
            fits &= constraint.may_hold(many_p, many_d)
        index = np.flatnonzero(fits)
        if not len(index):
            return None
        pair = many_p.take(index), many_d.take(index)
        load = self.task.load(*pair)
        columns = [o.oriented(*pair, load) for o in self.task.objectives]
        first = int(np.lexsort(np.array(columns)[::-1])[0])
        vector = tuple(int(column[first]) for column in columns)
        return vector, int(count_p[index[first]]), int(count_d[index[first]])

    def _worth_a_look(self, prefill: Solved, decode: Solved) -> tuple[IntArray, IntArray]:
        """Return numbers of replicas: each of one role, with those of the other that match it."""
        most_p, most_d = prefill.candidate.replicas, decode.candidate.replicas
        load = self.task.queue.most(prefill.values, decode.values)
        rates = served(load, prefill.values.rate), decode.values.rate
        rate_p, rate_d = (max(int(rate[0]), 1) for rate in rates)
        every_p, every_d = np.arange(1, most_p + 1), np.arange(1, most_d + 1)
        pairs = []
        for shift in (-1, 0):
            pairs.append((every_p, -(-every_p * rate_p // rate_d) + shift))
            pairs.append((-(-every_d * rate_d // rate_p) + shift, every_d))
        num_gpus = self.task.problem.num_gpus
        gpus_p, gpus_d = int(prefill.values.gpus[0]), int(decode.values.gpus[0])
        pairs.append((every_p, (num_gpus - every_p * gpus_p) // gpus_d))
        least = self._least_rate
        pairs.append((every_p, np.full(most_p, -(-least // rate_d))))
        count_p = np.concatenate([p for p, _ in pairs])
        count_d = np.concatenate([d for _, d in pairs])
        return np.clip(count_p, 1, most_p), np.clip(count_d, 1, most_d)

    def _many(self, role: int, solved: Solved, counts: IntArray) -> tuple[Values, IntArray]:
        """Return the values of so many replicas, and the GPUs that they take away."""
        same = solved.values.take(np.zeros(len(counts), dtype=np.int64))
        first = np.zeros(len(counts), dtype=np.int64)
        rows = replace(solved.row.take(first), replicas=counts)
        problem = self.task.roles[role].problem
        needs = footprint(problem, solved.row).take(first)
        taken = taken_gpus(problem, rows, needs, is_first=role == 0)
        return replace(same, rate=same.rate * counts, gpus=same.gpus * counts), taken

    def _match(self, role: int, one: Solved) -> None:
        """Take the best pair of one candidate with any of the other role, where it is better."""
        others = self.solved[1 - role]
        num_gpus = self.task.problem.num_gpus
        fitting = [o for o in others if one.taken + o.taken <= num_gpus]
        if self.task.compatibility is not None:
            fitting = [o for o in fitting if self._go_together(role, one, o)]
        if not fitting:
            return
        theirs = Values.joined([o.values for o in fitting])
        mine = one.values.take(np.zeros(len(fitting), dtype=np.int64))
        pair = (mine, theirs) if role == 0 else (theirs, mine)
        holds = np.ones(len(fitting), dtype=np.bool_)
        if self._uses_every_gpu:
            holds &= pair[0].gpus + pair[1].gpus == num_gpus
        for constraint in self.task.pair:
            holds &= constraint.may_hold(*pair)
        load = self.task.load(*pair)
        columns = np.array([o.oriented(*pair, load) for o in self.task.objectives])
        for index in np.flatnonzero(holds).tolist():
            vector = tuple(columns[:, index].tolist())
            if self.vector is None or vector < self.vector:
                other = fitting[index]
                self.vector = vector
                self.best = (one, other) if role == 0 else (other, one)

    def _go_together(self, role: int, one: Solved, other: Solved) -> bool:
        rules = self.task.compatibility
        prefill, decode = (one.kind, other.kind) if role == 0 else (other.kind, one.kind)
        return rules is None or rules.allows(prefill, decode, same=one.split == other.split)

    def _table(self, role: int, row: Candidates) -> SegmentTable:
        task = self.task.roles[role]
        return segment_table(task.problem, row, self._filters[role], self._shapes[role])

    def _needed_rate(self, role: int) -> int:
        """Return the rate that a role needs in a pair as good as the best known one.

        Prefill is never busy all of the time, and needs more.
        """
        rate = self.task.least_rate(self.vector)
        return rate if role else -(-100 * rate // self.task.queue.top)

    @property
    def _least_rate(self) -> int:
        return self.task.least_rate(None)

    @property
    def _uses_every_gpu(self) -> bool:
        return any(c.name == "coverage" for c in self.task.pair)

    def _of(self, role: int, row: Candidates, table: SegmentTable, chosen: IntArray) -> Solved:
        problem = self.task.roles[role].problem
        split = tuple((table.stop[chosen] - table.first[chosen]).tolist())
        values = chosen_values(problem, row, table, chosen)
        needs = footprint(problem, row)
        taken = int(taken_gpus(problem, row, needs, is_first=role == 0)[0])
        rules = self.task.compatibility
        kind = 0 if rules is None else int(rules.kinds[role].of_rows(row)[0])
        return Solved(row, table, split, values, taken, kind)
