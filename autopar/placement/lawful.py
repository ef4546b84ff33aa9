"""A placement that keeps the user's rules, for the local search to start from."""

from collections.abc import Mapping, Sequence

import numpy as np

from autopar.errors import InfeasibleError, SolveLimitError
from autopar.placement.machine import FloatArray, IntArray, LayerTask, Machine, Rules
from autopar.placement.packing import packed
from autopar.placement.replicas import water_filled
from autopar.placement.rules import broken
from autopar.placement.starts import starts

_FEASIBILITY_S = 20.0  # deterministic seconds of CP-SAT, where packing ends in a dead end


def lawful_starts(
    loads: FloatArray, machine: Machine, rules: Rules, top: FloatArray | None = None
) -> list[IntArray]:
    """Return placements of all layers that keep every rule but groups, the better one first.

    loads: shape (layers, experts). top: as for `starts`. Each has shape (layers, slots).
    Raises InfeasibleError if there is provably none, SolveLimitError if none was found.
    """
    if rules.are_none:
        return starts(loads, machine, top)
    counts = water_filled(loads, machine.num_slots, rules.most_replicas(machine))
    first = packed(loads, counts, machine)
    tasks = [LayerTask(load, machine, rules) for load in loads]
    return [np.array([_lawful(task, slots) for task, slots in zip(tasks, first, strict=True)])]


def _lawful(task: LayerTask, slots: IntArray) -> IntArray:
    """Return slots that keep the rules: as they are, packed by the rules, or found by CP-SAT."""
    if not broken(task, slots):
        return slots
    counts = np.bincount(slots, minlength=len(task.load))
    found = _Packing(task).filled(counts)
    if found is not None and not broken(task, found):
        return found
    return found_by_cp_sat(task, {e: [int(c)] for e, c in enumerate(counts)})


def found_by_cp_sat(task: LayerTask, counts: Mapping[int, Sequence[int]] | None = None) -> IntArray:
    """Return slots that keep all rules, with the counts that are tried first or with any.

    Raises InfeasibleError if there is provably none, SolveLimitError if none was found in time.
    """
    from autopar.placement.exact import open_counts, solved  # noqa: PLC0415  ortools

    for choices in (counts, open_counts(task, np.inf)):
        if choices is None:
            continue
        answer = solved(task, choices, None, 0.0, _FEASIBILITY_S)
        if answer.slots is not None:
            return answer.slots
    if answer.status == "infeasible":
        raise InfeasibleError("no placement keeps the rules", ["distinct_gpus", *_asked(task)])
    raise SolveLimitError("no placement that keeps the rules was found, and none was ruled out")


def _asked(task: LayerTask) -> list[str]:
    asked = {
        "distinct_nodes": task.rules.distinct_nodes,
        "forbidden_pairs": bool(task.rules.forbidden_pairs),
        "groups_on_nodes": task.rules.num_groups > 1,
    }
    return [name for name, is_asked in asked.items() if is_asked]


class _Packing:
    """Heaviest replica first, one by one, where the rules let it lie."""

    def __init__(self, task: LayerTask) -> None:
        self._task = task
        machine = task.machine
        self._board: list[list[int]] = [[] for _ in range(machine.num_gpus)]
        self._work = np.zeros(machine.num_gpus)
        self._foes: dict[int, set[int]] = {}
        for one, other in task.rules.forbidden_pairs:
            self._foes.setdefault(one, set()).add(other)
            self._foes.setdefault(other, set()).add(one)

    def filled(self, counts: IntArray) -> IntArray | None:
        """Return slots, or None at a dead end."""
        share = self._task.load / counts
        for expert in np.argsort(-share, kind="stable").tolist():
            for _ in range(int(counts[expert])):
                gpu = self._place_for(expert, share)
                if gpu is None:
                    return None
                self._board[gpu].append(expert)
                self._work[gpu] += share[expert]
        return np.array(self._board, dtype=np.int64).ravel()

    def _place_for(self, expert: int, share: FloatArray) -> int | None:
        per_gpu, speed = self._task.machine.slots_per_gpu, self._task.machine.speed
        order: list[int] = np.argsort((self._work + share[expert]) / speed, kind="stable").tolist()
        free = [gpu for gpu in order if len(self._board[gpu]) < per_gpu]
        for gpu in free:
            if self._may_lie(expert, gpu):
                return gpu
        for gpu in order:  # take something out of a full GPU that another one may hold
            for gone in self._board[gpu] if self._full(gpu) else ():
                if gone != expert and self._may_lie(expert, gpu, without=gone):
                    self._board[gpu].remove(gone)
                    for other in free:
                        if self._may_lie(gone, other):
                            self._board[other].append(gone)
                            self._work[other] += share[gone]
                            self._work[gpu] -= share[gone]
                            return gpu
                    self._board[gpu].append(gone)
        return None

    def _full(self, gpu: int) -> bool:
        return len(self._board[gpu]) == self._task.machine.slots_per_gpu

    def _may_lie(self, expert: int, gpu: int, without: int | None = None) -> bool:
        wide = self._task.machine.gpus_per_node
        held = [other for other in self._board[gpu] if other != without]
        if expert in held or self._foes.get(expert, set()).intersection(held):
            return False
        if not self._task.rules.distinct_nodes:
            return True
        first = gpu // wide * wide
        return all(expert not in self._board[g] for g in range(first, first + wide))
