"""Place the experts of every layer, and prove how good that is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autopar.errors import VerificationError
from autopar.placement.bounds import quick_bounds
from autopar.placement.every import best_of_all, can_try_all
from autopar.placement.fold import can_fold, folded
from autopar.placement.goals import good_enough
from autopar.placement.grouped import grouped
from autopar.placement.improve import search
from autopar.placement.lawful import lawful_starts
from autopar.placement.machine import (
    NO_RULES,
    FloatArray,
    IntArray,
    LayerTask,
    Machine,
    Rules,
    gpu_loads,
)
from autopar.placement.options import DEFAULT, Options
from autopar.placement.rules import broken


@dataclass(frozen=True, slots=True)
class PlacedLayer:
    """One layer's placement. max_load and bound are of the fullest GPU, over its speed.

    slots: the expert in each slot. proof: what the bound rests on.
    """

    slots: IntArray
    max_load: float
    bound: float
    proof: str

    @property
    def gap(self) -> float:
        """How far the fullest GPU is above the bound, relative to the bound."""
        return 0.0 if self.bound <= 0 else max(0.0, self.max_load / self.bound - 1)


def placed(
    loads: FloatArray, machine: Machine, rules: Rules = NO_RULES, options: Options = DEFAULT
) -> list[PlacedLayer]:
    """Return a placement of each layer.

    loads: of each expert in each layer, shape (layers, experts).
    Raises InfeasibleError if no placement keeps the rules, SolveLimitError if none was found.
    """
    bounds = quick_bounds(loads, machine, rules)
    tasks = [LayerTask(load, machine, rules) for load in loads]
    goals = good_enough(loads, bounds, machine, rules, options.tolerance)
    if rules.num_groups > 1:
        found = [grouped(task, options.tolerance, options.rounds, options.seed) for task in tasks]
    else:
        found = _searched(
            tasks,
            lawful_starts(loads, machine, rules, bounds * (1 + options.tolerance)),
            goals,
            options,
        )
    layers = [
        _layer(task, slots, bound, "mean or largest share")
        for task, slots, bound in zip(tasks, found, bounds.tolist(), strict=True)
    ]
    if options.effort != "quick":
        layers = [_proved(task, layer, options) for task, layer in zip(tasks, layers, strict=True)]
    for number, (task, layer) in enumerate(zip(tasks, layers, strict=True)):
        for said in broken(task, layer.slots):
            raise VerificationError(f"layer {number} of the placement breaks {said}")
    return layers


def _searched(
    tasks: Sequence[LayerTask],
    begins: Sequence[IntArray],
    goals: FloatArray,
    options: Options,
) -> list[IntArray]:
    """Go down from each start until one reaches its goal, else kick them, the best one first."""
    found = []
    for number, (task, goal) in enumerate(zip(tasks, goals.tolist(), strict=True)):
        ways = [begin[number] for begin in begins]
        for rounds in (0, options.rounds):
            for index, way in enumerate(ways):
                ways[index] = search(task, way, goal, rounds, options.seed)
                if fullest(task, ways[index]) <= goal:
                    break
            ways.sort(key=lambda slots: fullest(task, slots))
            if fullest(task, ways[0]) <= goal:
                break
        found.append(ways[0])
    return found


def fullest(task: LayerTask, slots: IntArray) -> float:
    """Return the load of the fullest GPU, over its speed."""
    return float(gpu_loads(task.load[None], slots[None], task.machine).max())


def _layer(task: LayerTask, slots: IntArray, bound: float, proof: str) -> PlacedLayer:
    load = fullest(task, slots)
    return PlacedLayer(slots, load, min(bound, load), proof)


def _proved(task: LayerTask, layer: PlacedLayer, options: Options) -> PlacedLayer:
    """Close a layer's gap as far as a proof for its kind is at hand."""
    if layer.gap <= options.tolerance:
        return layer
    if can_try_all(task):
        slots = best_of_all(task)
        return _better(task, layer, slots, fullest(task, slots), "every placement")
    if can_fold(task):
        pairs, bound = folded(task)
        layer = _better(task, layer, pairs, bound, "all counts")
    elif task.machine.slots_per_gpu == 2 and task.machine.speeds is None:
        from autopar.placement.pairing import pairing_bound  # noqa: PLC0415  ortools

        bound = pairing_bound(task, layer.bound, layer.max_load)
        layer = _better(task, layer, None, bound, "pairing")
    if layer.gap <= options.tolerance:
        return layer
    return with_cp_sat(task, layer, options)


def with_cp_sat(task: LayerTask, layer: PlacedLayer, options: Options) -> PlacedLayer:
    """Give a layer to CP-SAT, if it is small or that was asked for."""
    from autopar.placement.exact import is_small, open_counts, solved  # noqa: PLC0415  ortools

    small = is_small(task)
    if not small and options.effort != "exact":
        return layer
    counts = np.bincount(layer.slots, minlength=len(task.load))
    choices = (
        open_counts(task, layer.max_load) if small else {e: [int(c)] for e, c in enumerate(counts)}
    )
    bound = layer.bound
    answer = solved(task, choices, layer.slots, bound, options.exact_s, options.seed)
    if small:
        bound = layer.max_load if answer.status == "infeasible" else answer.bound
    return _better(task, layer, answer.slots, bound, "cp-sat")


def _better(
    task: LayerTask, layer: PlacedLayer, slots: IntArray | None, bound: float, proof: str
) -> PlacedLayer:
    """Return the layer with a better placement or a better bound, where they are."""
    if slots is not None and fullest(task, slots) <= layer.max_load:
        layer = replace(layer, slots=slots, max_load=fullest(task, slots))
    if bound > layer.bound:
        layer = replace(layer, bound=min(bound, layer.max_load), proof=proof)
    return layer
