"""Runs of layers of which every split has one in some stage, whatever else it has.

Of n layers of some kinds, a stage of `pp` holds at least ceil(n / pp), and with the first and the
last of them all layers between. So the slowest stage is no faster than the fastest such run. Where
layers differ, the mean over the stages is far below: of 40 layers every fourth of which is dear, 16
stages have 2.5 on average, and one of them has 3; 8 stages have 1.25 dear ones, and one has 2.
"""

from functools import lru_cache
from itertools import chain, combinations, pairwise

import numpy as np

from autopar.costs.operations.arrays import real
from autopar.costs.shape import Shape
from autopar.problem import FloatArray, IntArray

# Rows that are looked at: what is left of larger tables is soon a smaller one.
MOST_ROWS = 5_000
# Kinds up to which every set of them is asked; beyond, each alone, all but one, and all.
_MOST_KINDS = 4


def least_of_a_stage(shape: Shape, pp: IntArray, layer: FloatArray) -> FloatArray:
    """Return what the layers of the stage that has most of it have at least, shape (rows,).

    Zero for tables of more than `MOST_ROWS` rows.

    pp: stages of each row. layer: what a layer of each kind adds, shape (kinds, rows).
    """
    if not 0 < len(pp) <= MOST_ROWS:
        return np.zeros(len(pp))
    order = np.argsort(pp, kind="stable")
    stages, layer = pp[order], layer[:, order]
    edges = [0, *(np.flatnonzero(np.diff(stages)) + 1).tolist(), len(pp)]
    key = np.ascontiguousarray(shape.counts).tobytes()
    found = np.zeros(len(pp))
    for start, stop in pairwise(edges):
        for runs in _runs(key, len(shape.kinds), int(stages[start])):
            fastest = (runs @ layer[:, start:stop]).min(axis=0)
            np.maximum(found[start:stop], fastest, out=found[start:stop])
    least = np.empty(len(pp))
    least[order] = found
    return least


@lru_cache(maxsize=4096)
def _runs(counts: bytes, num_kinds: int, pp: int) -> tuple[FloatArray, ...]:
    """Return for each set of kinds the runs that hold its share, as layers of each kind.

    counts: as in `Shape`. Every array has the shape (runs, kinds), each run once.
    """
    before = np.frombuffer(counts, dtype=np.int64).reshape(num_kinds, -1)
    of_layer = np.diff(before, axis=1).argmax(axis=0)
    found = []
    for kinds in _sets(num_kinds):
        place = np.flatnonzero(np.isin(of_layer, kinds))
        share = -(-len(place) // pp)
        first, stop = place[: len(place) - share + 1], place[share - 1 :] + 1
        runs = {tuple(run) for run in (before[:, stop] - before[:, first]).T.tolist()}
        found.append(real(np.array(sorted(runs), dtype=np.int64)))
    return tuple(found)


def _sets(num_kinds: int) -> list[tuple[int, ...]]:
    every = range(num_kinds)
    small = num_kinds <= _MOST_KINDS
    sizes = range(1, num_kinds + 1) if small else (1, num_kinds - 1, num_kinds)
    return list(chain.from_iterable(combinations(every, size) for size in sizes))
