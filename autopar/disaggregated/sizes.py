"""What no pair of a box beats, asked of every size of the other role by itself.

The best partner that `search` takes for a box has the rate of the largest layout that fits and the
GPUs of the smallest one, and no layout has both. An objective that adds up the GPUs of both roles
or divides by them is then far from what any pair reaches: on 96 GPUs 19 % where a proof needs none.
GPUs are few whole numbers, so layouts of the other role that take equally many are a partner of
their own, with the rate that one of that size can have.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autopar.batches import not_after
from autopar.disaggregated.boxes import Bounded
from autopar.disaggregated.narrowing import in_order
from autopar.disaggregated.task import PairTask
from autopar.disaggregated.values import Values
from autopar.problem import BoolArray, IntArray
from autopar.search import Vector

_MOST_PAIRS = 400_000  # of a box and a size that are looked at together: a tenth of a second


@dataclass(frozen=True, slots=True)
class Sizes:
    """The layouts of a role by the GPUs that they use and take, every array of shape (sizes,).

    values: what none of a size beats. taken: GPUs that they take from the other role at least.
    most_gpus: that they use. kind: to rules about both roles; 0 where there are none.
    """

    values: Values
    taken: IntArray
    most_gpus: IntArray
    kind: IntArray

    @classmethod
    def of(cls, boxes: Bounded, kind: IntArray, most: int) -> "Sizes":
        """Return the sizes of some boxes, neighbours together where they are more than `most`.

        kind: of each box.
        """
        order = np.lexsort([boxes.taken, boxes.values.gpus, kind])
        kind, values, taken = kind[order], boxes.values.take(order), boxes.taken[order]
        most_gpus = boxes.most_gpus[order]
        number = np.cumsum(_changes(kind) | _changes(values.gpus) | _changes(taken)) - 1
        step = -(-int(number[-1] + 1) // max(most, 1))
        start = np.flatnonzero(_changes(kind) | _changes(number // step))
        return cls(
            values.best_of_runs(start),
            np.minimum.reduceat(taken, start),
            np.maximum.reduceat(most_gpus, start),
            kind[start],
        )


@dataclass(frozen=True, slots=True)
class Reach:
    """What is left of boxes beside a known pair, every array of shape (boxes left, ...).

    place: of the boxes. vectors: the best that a partner of some size leaves each of them, by the
    order of the objectives. columns: the least value in each objective of all sizes that are left.
    """

    place: IntArray
    vectors: IntArray
    columns: IntArray


def reach(
    task: PairTask,
    role: int,
    both: Sequence[Bounded],
    kinds: Sequence[IntArray] | None,
    vector: Vector,
) -> Reach:
    """Return which boxes of a role may hold a pair that is as good as `vector`, and how good.

    both: the boxes of both roles, neither empty. kinds: of all boxes, to rules about both roles;
    None where there are none.
    """
    mine, others = both[role], both[1 - role]
    of_others = np.zeros(len(others), dtype=np.int64) if kinds is None else kinds[1 - role]
    sizes = Sizes.of(others, of_others, _MOST_PAIRS // len(mine))
    fits = sizes.taken[None, :] <= (task.problem.num_gpus - mine.taken)[:, None]
    fits &= mine.most_gpus[:, None] + sizes.most_gpus[None, :] >= task.fewest_gpus
    if kinds is not None and task.compatibility is not None:
        fits &= task.compatibility.of_role(role)[kinds[role]][:, sizes.kind]
    box, size = np.nonzero(fits)
    pair = in_order(role, mine.values.take(box), sizes.values.take(size))
    good = task.unbeaten(vector, *pair, levels=1)[0] <= vector[0]
    box, pair = box[good], (pair[0].take(good), pair[1].take(good))
    good = np.ones(len(box), dtype=np.bool_)
    for constraint in task.pair:
        good &= constraint.may_hold(*pair)
    vectors = np.stack(task.unbeaten(vector, *pair), axis=1)
    good &= not_after(vectors, vector)
    return _of_boxes(box[good], vectors[good])


def _of_boxes(box: IntArray, vectors: IntArray) -> Reach:
    """Return the best of the vectors of each box, which come in the order of their boxes.

    Shapes (pairs,) and (pairs, objectives).
    """
    start = np.flatnonzero(_changes(box))
    if not len(start):
        return Reach(box, vectors, vectors)
    place, columns = box[start], np.minimum.reduceat(vectors, start, axis=0)
    for level in range(vectors.shape[1]):  # by each objective in turn, those that lead in it
        start = np.flatnonzero(_changes(box))
        leads = np.minimum.reduceat(vectors[:, level], start)
        good = vectors[:, level] == np.repeat(leads, np.diff(start, append=len(box)))
        box, vectors = box[good], vectors[good]
    return Reach(place, vectors[_changes(box)], columns)


def _changes(column: IntArray) -> BoolArray:
    """Return where a sorted column has another value than before, which its first place has."""
    result: BoolArray = np.diff(column, prepend=column[:1] - 1) != 0
    return result
