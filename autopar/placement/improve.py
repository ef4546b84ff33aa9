"""Local search on one layer: take load off the fullest GPU until nothing does, kick, repeat."""

from functools import lru_cache

import numpy as np

from autopar.placement.board import Board
from autopar.placement.machine import BoolArray, FloatArray, IntArray, LayerTask

_LEAST = 1e-9  # of the fullest GPU's load: less is no gain
_MOST_PAIRS = 500_000  # pairs against pairs of slots that are compared at once
_KICKS = (2, 5)  # changes at random in one kick, in turns


def search(task: LayerTask, start: IntArray, goal: float, rounds: int, seed: int) -> IntArray:
    """Return the best placement found from a start that keeps the rules; shape (slots,).

    goal: load of the fullest GPU that is good enough. rounds: kicks in a row without a gain.
    Iterated local search: from the best so far, some changes at random, then down again.
    """
    board = Board(task.load, start, task.machine, task.rules)
    descend(board, goal)
    best, least = board.slots, float(board.pace.max())
    rng = np.random.RandomState(seed)
    idle = 0
    while idle < rounds and least > goal:
        board = Board(task.load, best, task.machine, task.rules)
        _kick(board, rng, _KICKS[idle % len(_KICKS)])
        descend(board, goal)
        now = float(board.pace.max())
        idle = 0 if now < least * (1 - _LEAST) else idle + 1
        if now <= least:
            best, least = board.slots, now
    return best


def descend(board: Board, goal: float, *, copies: bool = True) -> int:
    """Improve a placement until its fullest GPU has at most `goal`, or nothing helps.

    copies: whether replica counts may change. Returns the number of changes.
    """
    changes = (_swap_one, _swap_two, _add, _drop) if copies else (_swap_one, _swap_two)
    steps = 0
    while True:
        pace = board.pace
        gpu = int(pace.argmax())
        if pace[gpu] <= goal:
            return steps
        if not any(change(board, gpu, pace) for change in changes):
            return steps
        steps += 1


def _swap_one(board: Board, gpu: int, pace: FloatArray) -> bool:
    """Make the best exchange of one replica of the GPU for one of another; whether there is one."""
    given, taken = board.share[board.experts[gpu]], board.share[board.experts]
    moved = given[:, None, None] - taken[None]  # (slots, GPUs, slots)
    here = (board.work[gpu] - moved) / board.speed[gpu]
    there = (board.work[:, None] + moved) / board.speed[:, None]
    worst = np.maximum(here, there)
    worst[board.refused_there(gpu) | board.refused_here(gpu)] = np.inf
    at = int(worst.argmin())
    if worst.flat[at] >= pace[gpu] * (1 - _LEAST):
        return False
    place, other, spot = np.unravel_index(at, worst.shape)
    board.swap(gpu, int(place), int(other), int(spot))
    return True


@lru_cache(maxsize=64)
def _pairs(per_gpu: int) -> tuple[IntArray, IntArray]:
    first, second = np.triu_indices(per_gpu, 1)
    return first, second


def _swap_two(board: Board, gpu: int, pace: FloatArray) -> bool:
    """Make the best exchange of two replicas for two of one other GPU; whether there is one.

    Not under rules of the user's, which may allow the two together and neither alone.
    """
    first, second = _pairs(board.experts.shape[1])
    too_many = len(first) ** 2 * len(pace) > _MOST_PAIRS
    if not len(first) or too_many or board.refusals is not None:
        return False
    mine = board.experts[gpu]
    given = board.share[mine]
    taken = board.share[board.experts]
    moved = (given[first] + given[second])[:, None, None] - (taken[:, first] + taken[:, second])
    here = (board.work[gpu] - moved) / board.speed[gpu]
    there = (board.work[:, None] + moved) / board.speed[:, None]
    worst = np.maximum(here, there)
    stays = board.holds[mine]  # (slots, GPUs): the other GPU has it
    worst[stays[first] | stays[second]] = np.inf
    kept = board.holds[board.experts, gpu]
    worst[:, kept[:, first] | kept[:, second]] = np.inf
    at = int(worst.argmin())
    if worst.flat[at] >= pace[gpu] * (1 - _LEAST):
        return False
    pair, other, against = np.unravel_index(at, worst.shape)
    board.swap(gpu, int(first[pair]), int(other), int(first[against]))
    board.swap(gpu, int(second[pair]), int(other), int(second[against]))
    return True


def _add(board: Board, gpu: int, pace: FloatArray) -> bool:
    """Give an expert of the GPU one replica more, in a slot of an expert that loses one."""
    per_gpu = board.experts.shape[1]
    mine = board.experts[gpu]
    slots = board.experts.ravel()
    free = np.flatnonzero(board.counts[slots] > 1)
    if not len(free):
        return False
    refused = board.refused_copies(mine).reshape(per_gpu, -1)[:, free]
    refused = refused | (board.counts[mine] >= board.most_replicas)[:, None]
    at = _best_copy(board, mine, free, refused, pace[gpu])
    if at is None:
        return False
    spot = int(free[at[1]])
    board.replace(spot // per_gpu, spot % per_gpu, int(mine[at[0]]))
    return True


def _drop(board: Board, gpu: int, pace: FloatArray) -> bool:
    """Take from the GPU one of several replicas of an expert, for one more of any other."""
    per_gpu = board.experts.shape[1]
    places = np.flatnonzero(board.counts[board.experts[gpu]] > 1)
    come = np.flatnonzero(~board.holds[:, gpu] & (board.counts < board.most_replicas))
    if not len(places) or not len(come):
        return False
    refused = board.refused_copies(come)[:, gpu, places]
    at = _best_copy(board, come, gpu * per_gpu + places, refused, pace[gpu])
    if at is None:
        return False
    board.replace(gpu, int(places[at[1]]), int(come[at[0]]))
    return True


def _best_copy(
    board: Board, come: IntArray, slots: IntArray, refused: BoolArray, limit: float
) -> tuple[int, int] | None:
    """Return which further replica in which slot is best, by index; None if none helps.

    come: experts, shape (n,). slots: whose experts have several replicas, shape (m,). refused:
    shape (n, m). Every GPU whose load changes must stay below `limit`.
    """
    per_gpu = board.experts.shape[1]
    gone, at = board.experts.ravel()[slots], slots // per_gpu
    more = board.load[come] / (board.counts[come] + 1)
    fewer = board.load[gone] / (board.counts[gone] - 1)
    drop = (board.share[come] - more)[:, None] * board.holds[come]
    rise = (fewer - board.share[gone])[:, None] * board.holds[gone]
    then = board.work - drop[:, None] + rise[None]  # (n, m, GPUs)
    then[:, np.arange(len(slots)), at] += more[:, None] - fewer[None]
    then /= board.speed
    then[~(board.holds[come][:, None] | board.holds[gone][None])] = -np.inf
    worst = then.max(axis=2)
    worst[refused | (come[:, None] == gone)] = np.inf
    best = int(worst.argmin())
    if worst.flat[best] >= limit * (1 - _LEAST):
        return None
    row, column = np.unravel_index(best, worst.shape)
    return int(row), int(column)


def _kick(board: Board, rng: np.random.RandomState, changes: int) -> None:
    """Make some changes at random, half of them at the fullest GPU, as far as the rules allow."""
    num_gpus, per_gpu = board.experts.shape
    for _ in range(changes):
        gpu, other = rng.randint(num_gpus, size=2)
        place, spot = rng.randint(per_gpu, size=2)
        if rng.random_sample() < 0.5:
            gpu = int(board.pace.argmax())
        copies = rng.random_sample() < 0.5
        if gpu == other:
            continue
        x, y = board.experts[gpu, place], board.experts[other, spot]
        if copies:
            allowed = board.counts[y] > 1 and board.counts[x] < board.most_replicas
            if allowed and not board.refused_copies(board.experts[gpu])[place, other, spot]:
                board.replace(int(other), int(spot), int(x))
        elif not (
            board.refused_there(gpu)[place, other, spot]
            or board.refused_here(gpu)[place, other, spot]
        ):
            board.swap(int(gpu), int(place), int(other), int(spot))
