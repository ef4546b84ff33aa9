"""Before CP-SAT: which candidates of the two roles can be part of an optimum.

A box of one role (`boxes`) is bounded together with the best that the other role can do on the GPUs
that it leaves: one optimistic vector of the pair's objectives. Boxes whose vector is
lexicographically worse than a known pair cannot hold the optimum, nor another one as good. The
others are cut until every box is a single candidate. Then candidates are solved one by one, the
most promising first, each result ruling out more of them. What is left enters the model. This is
exact, not a heuristic.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Self

import numpy as np

from autopar.batches import not_after
from autopar.disaggregated.boxes import Bounded, Boxes, Side
from autopar.disaggregated.compatible import Compatibility
from autopar.disaggregated.pairing import Pairing
from autopar.disaggregated.sizes import reach
from autopar.disaggregated.task import PairTask
from autopar.disaggregated.values import Values
from autopar.errors import SolveLimitError
from autopar.problem import BoolArray, Candidates, IntArray
from autopar.search import Vector
from autopar.segments import SegmentTable
from autopar.variables import Choice, PairChoice

logger = logging.getLogger(__name__)

_FIRST = 4  # layouts of each role that are solved for a first pair
_MORE = 64  # where these make no pair
_NUMBERS = 32  # of replicas that a layout is looked at with for it
_TO_END = 4096  # boxes of a role whose layouts are looked at with it
_MOST_TIES = 12  # boxes that may be exactly as good as the best pair, to ask whether it is unique
_FAR_FEWER = 8  # times as many candidates has the other role
MOST_SOLVED = 20_000  # candidates that are solved one by one: half a minute


@dataclass(frozen=True, slots=True)
class PreparedPair:
    """What enters the CP-SAT model, and what is known before it starts.

    rows and tables: of prefill and of decode. incumbent and its vector: None where none was found.
    optimistic: shape (candidates in the model, objectives), turned so that less is better, each
    objective for itself; all of them have a path. best: what no pair beats by the order of the
    objectives; None where the model is empty. has_ties: whether candidates that may be as good as
    the incumbent, but not better, are in the model too.
    """

    num_candidates: int
    rows: tuple[Candidates, Candidates]
    tables: tuple[tuple[SegmentTable, ...], tuple[SegmentTable, ...]]
    incumbent: PairChoice | None
    vector: Vector | None
    optimistic: IntArray
    best: Vector | None
    has_path: BoolArray
    has_ties: bool

    @property
    def num_in_model(self) -> int:
        """Candidates of both roles that bounds could not rule out."""
        return len(self.rows[0]) + len(self.rows[1])

    def is_proven(self, levels: int) -> bool:
        """Whether no pair is better than the incumbent by so many of the first objectives."""
        if self.vector is None or self.best is None:
            return False
        return self.vector[:levels] <= self.best[:levels]


@dataclass  # without slots, for what is worked out when it is first asked for
class State:
    """The boxes of both roles that may be part of an optimum, and the best pair so far.

    vectors: of each role's boxes, shape (boxes, objectives): the best by their order. columns: what
    no pair of a box beats in each objective for itself. places: of the boxes that are left, in what
    was found.
    first: whether the first pair, better than the known one if there is one, ends the search.
    ties: whether boxes stay that may be as good as the best pair, but not better.
    """

    task: PairTask
    sides: tuple[Side, Side]
    pairing: Pairing
    found: list[Bounded]
    first: bool = False
    ties: bool = True
    vectors: list[IntArray] = field(default_factory=list)
    columns: list[IntArray] = field(default_factory=list)
    places: list[IntArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._number()
        self.prune()

    def _number(self) -> None:
        self.places = [np.arange(len(found)) for found in self.found]

    @property
    def is_answered(self) -> bool:
        """Whether a pair was all that was asked for, and is found."""
        return self.first and self.pairing.best is not None

    def prune(self) -> None:
        """Drop boxes that no partner completes, or not to a pair as good as the best known."""
        self.vectors = [
            np.zeros((len(found), len(self.task.objectives)), np.int64) for found in self.found
        ]
        self.columns = list(self.vectors)
        while True:
            before = sum(map(len, self.found))
            for role in (0, 1):
                possible, self.vectors[role] = self._vectors_of(role)
                self.columns[role] = self.vectors[role]
                self.keep(role, possible)
            if sum(map(len, self.found)) == before:
                break
        counts = self.task.objectives[0].counts_gpus or self.task.fewest_gpus
        if counts and self.pairing.vector is not None:
            for role in (0, 1):
                self._weigh_sizes(role, self.pairing.vector)
            if not all(map(len, self.found)):  # what is left of the other role has no partner
                for role, found in enumerate(self.found):
                    self.keep(role, np.zeros(len(found), dtype=np.bool_))

    def _weigh_sizes(self, role: int, known: Vector) -> None:
        """Drop boxes that no size of partner completes to a pair as good as the best known.

        Only those that have one size themselves: of others it tells little.
        """
        one_size = np.flatnonzero(self.found[role].boxes.has_one_size)
        if not len(one_size) or not len(self.found[1 - role]):
            return
        both = [found.take(one_size) if r == role else found for r, found in enumerate(self.found)]
        kinds = None
        if self.task.compatibility is not None:
            kinds = [of[f.boxes.layout] for of, f in zip(self._kinds, both, strict=True)]
        left = reach(self.task, role, both, kinds, known)
        possible = np.ones(len(self.found[role]), dtype=np.bool_)
        possible[one_size] = False
        possible[one_size[left.place]] = True
        self.columns[role] = self.columns[role].copy()  # until here they are the same
        self.columns[role][one_size[left.place]] = left.columns
        self.vectors[role][one_size[left.place]] = left.vectors
        self.keep(role, self._not_after(self.vectors[role], possible, known))

    def _vectors_of(self, role: int) -> tuple[BoolArray, IntArray]:
        """Return which boxes of a role may stay, and the vectors of all of them."""
        place, partner = self.partners(role)
        possible = place >= 0
        if not len(partner.gpus):
            return possible, np.zeros((len(place), len(self.task.objectives)), dtype=np.int64)
        mine = self.found[role].values
        pair = (mine, partner) if role == 0 else (partner, mine)
        for constraint in self.task.pair:
            possible &= constraint.may_hold(*pair)
        known = self.pairing.vector
        vectors = np.stack(self.task.unbeaten(known, *pair), axis=1)
        if known is not None:
            possible = self._not_after(vectors, possible, known)
        return possible, vectors

    def _not_after(self, vectors: IntArray, possible: BoolArray, known: Vector) -> BoolArray:
        """Return which boxes may hold a better pair, or one as good where these are few."""
        equal = (vectors == np.array(known)).all(axis=1)
        self.ties &= int((equal & possible).sum()) <= _MOST_TIES
        good = possible & not_after(vectors, known)
        return good if self.ties else good & ~equal

    def partners(self, role: int) -> tuple[IntArray, Values]:
        """Return, for each box, the best of the other role on the GPUs that it leaves.

        The first array is negative where there is none.
        """
        others = self.found[1 - role]
        order = np.argsort(others.taken, kind="stable")
        left = self.task.problem.num_gpus - self.found[role].taken
        if self.task.compatibility is not None and len(order):
            return self._compatible(role, order, left, self.task.compatibility)
        return _partners(others, order, left)

    def _compatible(
        self, role: int, order: IntArray, left: IntArray, rules: Compatibility
    ) -> tuple[IntArray, Values]:
        """Return the partners of boxes, of those alone whose layouts may go with a box's.

        order: of the other role's boxes, by the GPUs that they take. left: GPUs for them.
        """
        mine, theirs = (self._kinds[r][self.found[r].boxes.layout] for r in (role, 1 - role))
        others, together = self.found[1 - role], rules.of_role(role)
        there, asking = (
            np.bincount(k, minlength=n) > 0
            for k, n in zip((theirs, mine), together.T.shape, strict=True)
        )
        if together[asking][:, there].all():
            return _partners(others, order, left)
        place = np.full(len(mine), -1)
        partner = others.values.take(np.zeros(len(mine), dtype=np.int64))
        # Kinds with the same partners, of those that are there, are looked at together.
        alike: dict[bytes, list[int]] = {}
        for kind in np.flatnonzero(asking).tolist():
            alike.setdefault((together[kind] & there).tobytes(), []).append(kind)
        for kinds in alike.values():
            good = order[together[kinds[0]][theirs[order]]]
            if len(good):
                some = np.flatnonzero(np.isin(mine, kinds))
                place[some], best = _partners(others, good, left[some])
                partner.put(some, best)
        return place, partner

    @cached_property
    def _kinds(self) -> list[IntArray]:
        """Return the kind of every layout of each role, to rules about both."""
        rules = self.task.compatibility
        assert rules is not None
        return [
            of_role.of_rows(side.rows)
            for of_role, side in zip(rules.kinds, self.sides, strict=True)
        ]

    def keep(self, role: int, index: IntArray | BoolArray) -> None:
        """Keep the boxes of a role that `index` selects."""
        self.found[role] = self.found[role].take(index)
        self.vectors[role] = self.vectors[role][index]
        self.columns[role] = self.columns[role][index]
        self.places[role] = self.places[role][index]

    @property
    def is_single(self) -> bool:
        """Whether every box holds one candidate."""
        return all(bool(found.boxes.single.all()) for found in self.found)

    def cut(self) -> bool:
        """Cut every box that holds several candidates; False where there was none."""
        if self.is_single:
            return False
        self.found = [
            side.bounded(found.boxes.cut())
            for side, found in zip(self.sides, self.found, strict=True)
        ]
        self._number()
        self.prune()
        return True


def _partners(others: Bounded, order: IntArray, left: IntArray) -> tuple[IntArray, Values]:
    """Return the best of the other role's boxes on so many GPUs, for each number of `left`.

    order: of the boxes that count, by the GPUs that they take. The first array is negative where
    none fits.
    """
    place = np.searchsorted(others.taken[order], left, side="right") - 1
    best = others.values.take(order).best_so_far()
    return place, best.take(np.maximum(place, 0)) if len(order) else best


def prepare_pair(task: PairTask, *, first: bool = False, ties: bool = True) -> PreparedPair:
    """Filter the candidates of both roles, find a first pair, and keep what may be as good.

    first: whether any pair will do.
    ties: whether candidates are kept that may be as good as the best pair, but not better; where
    they are many, they are not.
    Raises SolveLimitError where too many candidates may be optimal to look at all of them.
    """
    sides = sides_of(task)
    found = [side.start() for side in sides]
    logger.info(
        "%d candidates, %d ranges allowed", len(task.problem.candidates), sum(map(len, found))
    )
    state = State(task, sides, Pairing(task), found, first=first, ties=ties)
    look_for_pair(state)
    state.prune()
    while not state.is_answered and state.cut():
        pass
    return prepared(state)


def sides_of(task: PairTask, names: tuple[str, ...] = ()) -> tuple[Side, Side]:
    """Return both roles for a search; names: of constraints of which a plan may break one."""
    prefill, decode = (
        Side(role, role.problem.candidates, task.exact_only, names) for role in task.roles
    )
    return prefill, decode


def look_for_pair(state: State) -> None:
    """Solve the layouts of each role that promise most, with many replicas or few.

    Each is looked at with its smallest batch and with the largest one that passes the filters.
    Where any pair will do, the first one ends it.
    """
    ends = [
        _ends(side, _best_boxes(f.boxes, vectors))
        for side, f, vectors in zip(state.sides, state.found, state.vectors, strict=True)
    ]
    trial = State(state.task, state.sides, state.pairing, ends)  # with ties: they may match
    for turn in zip_longest(*(_most_promising(trial, role) for role in (0, 1))):
        for role, chosen in enumerate(turn):
            if chosen is not None:
                layout, batch = chosen
                _largest(state, role, state.sides[role].rows.take(np.array([layout])), batch)
        if state.first:
            state.pairing.match_all()
            if state.is_answered:
                return
    if state.first:
        return
    state.pairing.match_all()
    if state.pairing.best is None:  # those that promise most may be too large to go together
        for role in (0, 1):
            for layout, batch in _most_promising(trial, role, _MORE)[_FIRST:]:
                _largest(state, role, state.sides[role].rows.take(np.array([layout])), batch)
        state.pairing.match_all()


def _most_promising(trial: State, role: int, most: int = _FIRST) -> list[tuple[int, int]]:
    """Return layout and batch of the boxes that promise most, the best first."""
    boxes, first = trial.found[role].boxes, dict[tuple[int, int], None]()
    for index in np.lexsort(trial.vectors[role].T[::-1]).tolist():
        first[int(boxes.layout[index]), int(boxes.low[index])] = None
        if len(first) >= most:
            break
    return list(first)


def _best_boxes(boxes: Boxes, vectors: IntArray) -> Boxes:
    """Return the boxes that promise most, where there are too many to look at both ends of all."""
    if len(boxes) <= _TO_END:
        return boxes
    return boxes.take(np.sort(np.lexsort(vectors.T[::-1])[:_TO_END]))


def _ends(side: Side, boxes: Boxes) -> Bounded:
    """Return the smallest and the largest batch of every layout, for many numbers of replicas."""
    layouts = np.array(sorted(set(boxes.layout.tolist())), dtype=np.int64)
    low, high = np.ones((2, len(side.rows)), dtype=np.int64)
    np.maximum.at(low, boxes.layout, boxes.low)
    np.maximum.at(high, boxes.layout, boxes.high)
    one, replicas = np.ones_like(layouts), side.rows.replicas[layouts]
    top = side.largest(Boxes(layouts, low[layouts], high[layouts], one, replicas))
    ends = [Boxes(layouts, one, one, one, replicas), Boxes(layouts, top, top, one, replicas)]
    return side.bounded(Boxes.joined([ends[0], ends[1].take(top > 1)]).each_number(_NUMBERS))


def _largest(state: State, role: int, row: Candidates, high: int) -> None:
    """Solve one layout with its largest batch up to `high` that has a plan.

    Filters see almost all, so that it is near: steps down that double, then bisection.
    """
    if state.pairing.solve_alone(role, row, high):
        return
    low, step = high - 1, 1
    while low > 0 and not state.pairing.solve_alone(role, row, low):
        high, low, step = low, max(low - 2 * step, 0), 2 * step
    while low and high - low > 1:
        middle = (low + high) // 2
        works = state.pairing.solve_alone(role, row, middle)
        low, high = (middle, high) if works else (low, middle)


@dataclass(slots=True)
class _Solved:
    """What is known of the single candidates of a role, by their places.

    is_known, works: shape (candidates,). tables: of those that work.
    """

    is_known: BoolArray
    works: BoolArray
    tables: dict[int, SegmentTable]

    @classmethod
    def none_of(cls, places: IntArray) -> Self:
        """Return that nothing is known; places: of the candidates."""
        size = int(places.max(initial=-1)) + 1
        return cls(np.zeros(size, dtype=np.bool_), np.zeros(size, dtype=np.bool_), {})

    def note(self, place: int, table: SegmentTable | None) -> None:
        """Remember the segments of a candidate; None where it has no plan of interest."""
        self.is_known[place] = True
        if table is not None:
            self.works[place] = True
            self.tables[place] = table


def _solve_each(state: State) -> tuple[list[SegmentTable], list[SegmentTable]]:
    """Solve single candidates, the most promising first, and drop those that become worse.

    Returns the tables of those that are left, in their order.
    """
    known = [_Solved.none_of(places) for places in state.places]
    num_known = 0
    # The results of the first ones rule out the most; later ones are weighed in longer turns.
    while not state.is_answered and (queue := _unsolved(state, known, max(1, num_known))):
        before = state.pairing.vector
        partners = [state.partners(role)[1] for role in (0, 1)]
        for role, index in queue:
            if num_known >= MOST_SOLVED:
                raise SolveLimitError(
                    f"more than {MOST_SOLVED:,} layouts may be part of the optimum; put throughput "
                    "first, require a rate, or confine groups and stages"
                )
            place = np.array([index])
            one, partner = state.found[role].boxes.take(place), partners[role].take(place)
            row = state.sides[role].candidates(one, one.fewest)
            solved = state.pairing.solve(role, row, partner)
            table = None if solved is None else solved[0]
            known[role].note(int(state.places[role][index]), table)
            num_known += 1
            if solved is not None:
                state.found[role].values.put(place, solved[1])
            if state.pairing.vector != before:
                break
        for role, places in enumerate(state.places):
            state.keep(role, known[role].works[places] | ~known[role].is_known[places])
        state.prune()
    if state.is_answered:
        for role, found in enumerate(state.found):
            state.keep(role, np.zeros(len(found), dtype=np.bool_))
    tables = [
        [solved.tables[place] for place in places.tolist()]
        for solved, places in zip(known, state.places, strict=True)
    ]
    return tables[0], tables[1]


def _unsolved(state: State, known: Sequence[_Solved], most: int) -> list[tuple[int, int]]:
    """Return role and index of the candidates that are not solved yet, best first; so many.

    Where one role has far fewer left, they come first: what they can do is soon known, and tells
    of every candidate of the other role whether it is worth a look.
    """
    indices = [
        np.flatnonzero(~solved.is_known[places])
        for solved, places in zip(known, state.places, strict=True)
    ]
    for few, many in ((0, 1), (1, 0)):
        if 0 < len(indices[few]) * _FAR_FEWER <= len(indices[many]):
            indices[many] = indices[many][:0]
    index = np.concatenate(indices)
    role = np.repeat([0, 1], [len(i) for i in indices])
    vectors = np.concatenate([v[i] for v, i in zip(state.vectors, indices, strict=True)])
    first = np.lexsort([index, role, *vectors.T[::-1]])[:most]
    return list(zip(role[first].tolist(), index[first].tolist(), strict=True))


def prepared(state: State) -> PreparedPair:
    """Solve what is left of a search, all of it single candidates, and keep what may be as good.

    Raises SolveLimitError where there are too many.
    """
    tables = _solve_each(state)
    rows = [
        list(side.candidates(found.boxes, found.boxes.fewest))
        for side, found in zip(state.sides, state.found, strict=True)
    ]
    columns = [list(map(tuple, columns.tolist())) for columns in state.columns]
    vectors = [tuple(vector) for vectors in state.vectors for vector in vectors.tolist()]
    for role, solved in enumerate(state.pairing.best or ()):
        if solved.candidate not in rows[role]:
            rows[role].append(solved.candidate)
            tables[role].append(solved.table)
            columns[role].append(state.pairing.vector or ())
            vectors.append(state.pairing.vector or ())
    incumbent = None
    if state.pairing.best is not None:
        prefill, decode = (
            Choice(candidates.index(solved.candidate), solved.candidate, solved.split)
            for candidates, solved in zip(rows, state.pairing.best, strict=True)
        )
        load = state.task.load(*(solved.values for solved in state.pairing.best))
        incumbent = PairChoice(prefill, decode, int(load[0]))
    logger.info("%d candidates in the model", sum(map(len, rows)))
    matrix = np.array([*columns[0], *columns[1]], dtype=np.int64).reshape(
        -1, len(state.task.objectives)
    )
    return PreparedPair(
        num_candidates=len(state.task.problem.candidates),
        rows=(Candidates.of(rows[0]), Candidates.of(rows[1])),
        tables=(tuple(tables[0]), tuple(tables[1])),
        incumbent=incumbent,
        vector=state.pairing.vector,
        optimistic=matrix,
        best=min(vectors, default=None),
        has_path=np.ones(len(matrix), dtype=np.bool_),
        has_ties=state.ties,
    )
