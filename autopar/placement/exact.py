"""CP-SAT on one layer: the best placement under all rules, or a bound on it.

Two uses of one model. Small layers leave the replica counts open. Large ones take the counts of a
placement that the local search found, which is a complete hint, and what is proved then holds for
those counts alone: no bound for the layer follows from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autopar.costs.scaling import error_bound, loads_to_int
from autopar.cpsat import Session, status_of
from autopar.ortools_loader import load_cp_model
from autopar.placement.machine import IntArray, LayerTask
from autopar.placement.rules import RULES, Posting
from autopar.results import Status
from autopar.specs import CpSatParameters

MOST_OPEN_PLACES = 1500  # (expert, count, GPU) of a layer whose counts are left open
# Facts of OR-Tools 9.15 on layers of 256 experts: symmetry detection, probing and the relaxation
# take all of the limit before the hint is looked at; without them the hint is a solution at once.
_LARGE = {"symmetry_level": 0, "linearization_level": 0}


@dataclass(frozen=True, slots=True)
class Exact:
    """What CP-SAT found. slots: None without a placement. bound: over speed, in units of load."""

    status: Status
    slots: IntArray | None
    bound: float
    deterministic_time: float


def open_counts(task: LayerTask, most_load: float) -> dict[int, list[int]]:
    """Return the counts that each expert may have if no GPU may exceed a load."""
    machine = task.machine
    most = min(task.rules.most_replicas(machine), machine.num_slots - len(task.load) + 1)
    fastest = machine.speed.max()
    return {
        expert: [k for k in range(1, most + 1) if load / k <= most_load * fastest * (1 + 1e-9)]
        or [most]
        for expert, load in enumerate(task.load.tolist())
    }


def is_small(task: LayerTask) -> bool:
    """Whether counts can be left open."""
    counts = open_counts(task, np.inf)
    return sum(map(len, counts.values())) * task.machine.num_gpus <= MOST_OPEN_PLACES


def solved(
    task: LayerTask,
    counts: Mapping[int, Sequence[int]],
    hint: IntArray | None,
    bound: float,
    deterministic_s: float,
    seed: int = 0,
) -> Exact:
    """Solve one layer.

    counts: that each expert may have. hint: a placement that keeps the rules. bound: that is known.
    Loads are rounded up to whole numbers of 1/2,000,000 of a GPU's mean: a placement's own load is
    to be computed from its slots, and the bound has the rounding taken off.
    """
    cp = load_cp_model()
    model = cp.CpModel()
    machine, num_gpus = task.machine, task.machine.num_gpus
    quantum = max(float(task.load.sum()) / num_gpus, 1e-300) / 2_000_000
    counted = {(e, k): model.new_bool_var(f"counted[{e},{k}]") for e in counts for k in counts[e]}
    lies = {
        (e, k, g): model.new_bool_var(f"lies[{e},{k},{g}]")
        for e, k in counted
        for g in range(num_gpus)
    }
    posting = Posting(model, task, lies, counted)
    for rule in RULES:
        rule.post(posting)
    lowest = max(0, int(bound / quantum) - 1)
    most = int(loads_to_int(np.array([task.load.sum() / machine.speed.min()]), quantum)[0])
    fullest = model.new_int_var(lowest, most + machine.num_slots, "fullest")
    for gpu in range(num_gpus):
        sizes = np.array([task.load[e] / k / machine.speed[gpu] for e, k in counted])
        weights = loads_to_int(sizes, quantum).tolist()
        here = [lies[e, k, gpu] for e, k in counted]
        model.add(sum(w * v for w, v in zip(weights, here, strict=True)) <= fullest)
    model.minimize(fullest)
    if hint is not None:
        _hint(model, posting, hint)
    is_large = len(lies) > MOST_OPEN_PLACES
    parameters = CpSatParameters(deterministic_time_limit=deterministic_s, seed=seed)
    session = Session(model, parameters, tuning=_LARGE if is_large else {})
    solver = session.solve()
    status = status_of(solver)
    slots = _read(solver, posting) if status in ("optimal", "feasible") else None
    rounding = error_bound(quantum, machine.slots_per_gpu, 0.0)
    proved = max(bound, solver.best_objective_bound * quantum - rounding)
    return Exact(status, slots, float(proved), session.deterministic_time)


def _hint(model: Any, posting: Posting, slots: IntArray) -> None:
    board = slots.reshape(posting.task.machine.num_gpus, -1)
    counts = np.bincount(slots, minlength=len(posting.task.load))
    held = [set(row) for row in board.tolist()]
    for (expert, count), variable in posting.counted.items():
        model.add_hint(variable, int(counts[expert] == count))
    for (expert, count, gpu), variable in posting.lies.items():
        model.add_hint(variable, int(counts[expert] == count and expert in held[gpu]))


def _read(solver: Any, posting: Posting) -> IntArray:
    """Return the slots, each GPU's experts in order."""
    held: list[list[int]] = [[] for _ in range(posting.task.machine.num_gpus)]
    for (expert, _, gpu), variable in posting.lies.items():
        if solver.boolean_value(variable):
            held[gpu].append(expert)
    return np.array([sorted(row) for row in held], dtype=np.int64).ravel()
