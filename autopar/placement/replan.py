"""Change a live placement with few moves: which replicas to bring to which GPUs.

A move is a replica that comes to a GPU which did not have its expert: the weights of one expert are
loaded there. The moves of all layers come out of one budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autopar.errors import InfeasibleError
from autopar.placement.board import Board
from autopar.placement.machine import BoolArray, FloatArray, IntArray, LayerTask
from autopar.placement.rules import Refusals

_LEVELS = 14  # loads of the fullest GPU that each layer is brought down to, from now to the bound
_SHARES = 3  # of the moves, evenly shared out, that one layer may take at most
_LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class Step:
    """One way to change a layer: the moves it takes, and its fullest GPU's load after them."""

    moves: int
    max_load: float
    slots: IntArray


@dataclass(frozen=True, slots=True)
class Change:
    """A swap of two slots (GPU, place), or a further replica of an expert in a slot.

    worth: load above the level that it takes away, per move.
    """

    worth: float
    slot: tuple[int, int]
    other: tuple[int, int] | None = None
    expert: int = -1


def replanned(tasks: Sequence[LayerTask], goals: Sequence[float], max_moves: int) -> list[IntArray]:
    """Return a placement of each layer, with at most `max_moves` moves over all layers.

    tasks: with the placement now. goals: loads of the fullest GPU that are
    good enough; a layer that has no more stays as it is. The sum of the fullest
    loads, which is what time adds up from, is the least that the steps found allow: a dynamic
    programme over layers shares the moves out.
    """
    # A layer far above its share of the moves seldom earns them; not to try saves most of the time.
    most = min(max_moves, _SHARES * -(-max_moves // len(tasks)))
    steps = [_steps(task, goal, most) for task, goal in zip(tasks, goals, strict=True)]
    needed = sum(layer[0].moves for layer in steps)
    if needed > max_moves:
        raise InfeasibleError(
            f"{max_moves} moves are fewer than the {needed} that it takes to have no expert twice "
            "on a GPU, as it is now",
            ["few_moves", "distinct_gpus"],
        )
    return [layer[i].slots for layer, i in zip(steps, _shared_out(steps, max_moves), strict=True)]


def num_moves(slots: IntArray, current: IntArray, num_gpus: int) -> int:
    """Return how many (expert, GPU) pairs of a layer are new; shapes (slots,)."""
    rows = zip(slots.reshape(num_gpus, -1), current.reshape(num_gpus, -1), strict=True)
    return sum(len(np.setdiff1d(now, before)) for now, before in rows)


def kept_in_place(slots: IntArray, current: IntArray, num_gpus: int) -> IntArray:
    """Return the same placement with every expert that stays on its GPU in the slot that it had."""
    rows = zip(slots.reshape(num_gpus, -1), current.reshape(num_gpus, -1), strict=True)
    placed = []
    for now, before in rows:
        first = np.zeros(len(before), dtype=bool)  # of two replicas of an expert, one stays
        first[np.unique(before, return_index=True)[1]] = True
        stays = np.isin(before, now) & first
        row = before.copy()
        row[~stays] = np.setdiff1d(now, before)
        placed.append(row)
    return np.concatenate(placed)


def _steps(task: LayerTask, goal: float, max_moves: int) -> list[Step]:
    """Return what some moves reach in one layer: from none on, each step better than the last.

    Each level starts from the placement now: a move that was right for a higher level is not always
    right for a lower one (5 % of the gain, measured on 288 slots).
    """
    assert task.current is not None
    start = without_twins(task)
    board = Board(task.load, start, task.machine, task.rules)
    now = float(board.pace.max())
    steps = [Step(num_moves(start, task.current, task.machine.num_gpus), now, start)]
    if steps[0].moves > max_moves or now <= goal:
        return steps
    for part in np.linspace(0, 1, _LEVELS + 1)[1:]:
        level = now + (goal - now) * float(part)
        board = Board(task.load, start, task.machine, task.rules)
        _lower(board, task.current, level, max_moves)
        moves = num_moves(board.slots, task.current, task.machine.num_gpus)
        reached = float(board.pace.max())
        if moves <= max_moves and reached < steps[-1].max_load * (1 - _LEAST):
            steps.append(Step(moves, reached, board.slots))
    return steps


def without_twins(task: LayerTask) -> IntArray:
    """Return the placement now, but that a second replica on a GPU makes room for another expert.

    Each time for the one with most load per replica that the rules let come to the GPU.
    """
    assert task.current is not None
    machine = task.machine
    board = task.current.reshape(machine.num_gpus, -1).copy()
    clash = Refusals(machine, task.rules, len(task.load)).clash
    for gpu, row in enumerate(board):
        kept: set[int] = set()
        for place, expert in enumerate(row.tolist()):
            if expert in kept:
                counts = np.bincount(board.ravel(), minlength=len(task.load))
                share = task.load / np.maximum(counts, 1)
                share[clash[:, np.delete(row, place)].any(axis=1)] = -1.0
                if task.rules.distinct_nodes:
                    share[board[machine.node_of == machine.node_of[gpu]].ravel()] = -1.0
                share[row] = -2.0
                row[place] = int(share.argmax())
            kept.add(int(row[place]))
    return board.ravel()


def _lower(board: Board, current: IntArray, level: float, max_moves: int) -> None:
    """Bring every GPU down to a level with few moves: the change that saves most per move first."""
    had = Board(board.load, current, board.machine).holds
    while True:
        over = np.maximum(board.pace - level, 0.0)
        if not over.any():
            return
        moves = int((board.holds & ~had).sum())
        change = _best_change(board, had, level, max_moves - moves)
        if change is None:
            return
        if change.other is None:
            board.replace(*change.slot, change.expert)
        else:
            board.swap(*change.slot, *change.other)


def _best_change(board: Board, had: BoolArray, level: float, left: int) -> Change | None:
    """Return the change at the fullest GPU that takes most load above the level, per move."""
    gpu = int(board.pace.argmax())
    swaps, copies = _swaps(board, had, level, gpu, left), _copies(board, had, level, gpu, left)
    if swaps is None or copies is None:
        return swaps or copies
    return swaps if swaps.worth >= copies.worth else copies


def _worth(saved: FloatArray, moves: IntArray, left: int) -> FloatArray:
    """Load saved per move; what takes none, or gives some back, is worth most."""
    per_move = saved / np.maximum(moves, 0.25)
    return np.where((saved > 0) & (moves <= left), per_move, -np.inf)


def _swaps(board: Board, had: BoolArray, level: float, gpu: int, left: int) -> Change | None:
    mine = board.experts[gpu]
    gpus = np.arange(len(board.experts))
    moved = board.share[mine][:, None, None] - board.share[board.experts][None]
    here = np.maximum((board.work[gpu] - moved) / board.speed[gpu] - level, 0.0)
    there = np.maximum((board.work[:, None] + moved) / board.speed[:, None] - level, 0.0)
    over = np.maximum(board.pace - level, 0.0)
    saved = over[gpu] + over[:, None] - here - there
    saved[board.refused_there(gpu) | board.refused_here(gpu)] = -np.inf
    comes = (~had[mine]).astype(np.int64)[:, :, None] + (~had[board.experts, gpu])[None]
    goes = (~had[mine, gpu]).astype(np.int64)[:, None, None] + (~had[board.experts, gpus[:, None]])[
        None
    ]
    worth = _worth(saved, comes - goes, left)
    at = int(worth.argmax())
    if not np.isfinite(worth.flat[at]):
        return None
    place, other, spot = (int(i) for i in np.unravel_index(at, worth.shape))
    return Change(float(worth.flat[at]), (gpu, place), other=(other, spot))


def _copies(board: Board, had: BoolArray, level: float, gpu: int, left: int) -> Change | None:
    """A further replica of one of the GPU's experts elsewhere, or of another expert on the GPU."""
    per_gpu = board.experts.shape[1]
    slots = board.experts.ravel()
    many = np.flatnonzero(board.counts[slots] > 1)
    if not len(many):
        return None
    found = []
    here = many[many // per_gpu == gpu]
    other = np.flatnonzero(~board.holds[:, gpu])
    for come, free in ((board.experts[gpu], many), (other, here)):
        if not len(come) or not len(free):
            continue
        saved = _saved_by_copy(board, come, free, level)
        refused = board.refused_copies(come).reshape(len(come), -1)[:, free]
        refused = refused | (board.counts[come] >= board.most_replicas)[:, None]
        saved[refused | (come[:, None] == slots[free])] = -np.inf
        gpus = free // per_gpu
        moves = (~had[come[:, None], gpus[None]]).astype(np.int64) - ~had[slots[free], gpus]
        worth = _worth(saved, moves, left)
        row, column = np.unravel_index(int(worth.argmax()), worth.shape)
        if np.isfinite(worth[row, column]):
            spot = int(free[column])
            where = (spot // per_gpu, spot % per_gpu)
            found.append(Change(float(worth[row, column]), where, expert=int(come[row])))
    return max(found, key=lambda change: change.worth) if found else None


def _saved_by_copy(board: Board, come: IntArray, free: IntArray, level: float) -> FloatArray:
    """Load above the level that further replicas save, shape (come, free)."""
    per_gpu = board.experts.shape[1]
    gone, at = board.experts.ravel()[free], free // per_gpu
    more = board.load[come] / (board.counts[come] + 1)
    fewer = board.load[gone] / (board.counts[gone] - 1)
    drop = (board.share[come] - more)[:, None] * board.holds[come]
    rise = (fewer - board.share[gone])[:, None] * board.holds[gone]
    then = board.work - drop[:, None] + rise[None]
    then[:, np.arange(len(free)), at] += more[:, None] - fewer[None]
    over = np.maximum(then / board.speed - level, 0.0).sum(axis=2)
    return np.asarray(np.maximum(board.pace - level, 0.0).sum() - over)


def _shared_out(steps: Sequence[Sequence[Step]], max_moves: int) -> list[int]:
    """Return each layer's step so that the sum of fullest loads is least.

    A multiple-choice knapsack:
    best[m]: the least sum of the layers so far with at most m moves.
    """
    best = np.zeros(max_moves + 1)
    chosen = []
    for layer in steps:
        options = np.full((len(layer), max_moves + 1), np.inf)
        for index, step in enumerate(layer):
            options[index, step.moves :] = best[: max_moves + 1 - step.moves] + step.max_load
        chosen.append(options.argmin(axis=0))
        best = options.min(axis=0)
    left, picks = max_moves, []
    for layer, choice in zip(reversed(steps), reversed(chosen), strict=True):
        pick = int(choice[left])
        picks.append(pick)
        left -= layer[pick].moves
    return picks[::-1]
