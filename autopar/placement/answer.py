"""From a request for a placement to its answer."""

import time
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from autopar.errors import SpecError, VerificationError
from autopar.placement.files.maps import ExpertMap
from autopar.placement.files.measured import Measured, counted
from autopar.placement.machine import (
    NO_RULES,
    FloatArray,
    IntArray,
    LayerTask,
    Machine,
    Rules,
    gpu_loads,
    replica_counts,
)
from autopar.placement.model import refuse_idle_layers
from autopar.placement.options import DEFAULT, Options
from autopar.placement.placing import PlacedLayer, fullest, placed, with_cp_sat
from autopar.placement.renamed import renamed
from autopar.placement.replan import kept_in_place, num_moves, replanned, without_twins
from autopar.placement.results import Answer, LayerAnswer, Request, WindowGain
from autopar.placement.rules import broken
from autopar.placement.starts import has_twins
from autopar.placement.traffic import coactivation, gathered, nodes_per_token
from autopar.units import plural


def place(
    loads: ArrayLike,
    *,
    num_gpus: int,
    num_slots: int | None = None,
    num_nodes: int = 1,
    rules: Rules = NO_RULES,
    options: Options = DEFAULT,
    current: ArrayLike | None = None,
    max_moves: int | None = None,
) -> Answer:
    """Place the experts of each layer on GPUs, with a proved bound.

    loads: tokens of each expert, shape (layers, experts) or (windows, layers, experts). num_slots:
    of all GPUs together; the fewest that hold all experts where it is None. current: the expert in
    each slot now, shape (layers, slots).
    Raises as `answer` does.
    """
    counts = counted("loads", loads if isinstance(loads, np.ndarray) else _listed(loads))
    measured = Measured(counts, tuple(range(counts.shape[1])))
    refuse_idle_layers(measured)
    most = max(num_gpus, 1)  # Machine refuses less
    total = -(-measured.num_experts // most) * most if num_slots is None else num_slots
    if total % most:
        raise SpecError(f"{total} slots on {num_gpus} GPUs: expected as many on each")
    now = None if current is None else np.asarray(current)
    if now is not None and (now.dtype.kind not in "iu" or now.shape != (len(counts[0]), total)):
        raise SpecError(
            f"the current placement is an array of {now.dtype} of shape {now.shape}; expected "
            f"numbers of experts, {plural(len(counts[0]), 'layer')} by {plural(total, 'slot')}"
        )
    return answer(
        Request(
            measured=measured,
            machine=Machine(num_gpus, total // most, num_nodes),
            rules=rules,
            options=options,
            current=None if now is None else ExpertMap(now.astype(np.int64), measured.layers),
            max_moves=max_moves,
        )
    )


def _listed(values: ArrayLike) -> object:
    """Return what is no array as nested lists, so that a ragged one is refused by its place."""
    return values if isinstance(values, list) else np.asarray(values)


def answer(request: Request) -> Answer:
    """Return the placement that was asked for.

    Raises SpecError for a request that cannot be stated, InfeasibleError if the rules leave no
    placement, VerificationError if ours breaks one.
    """
    started = time.perf_counter()
    refuse(request)
    measured, machine = request.measured, request.machine
    planned_on = measured.counts[: measured.num_windows - request.hold_out]
    loads = planned_on.sum(axis=0)
    _refuse_empty(request, loads)
    before = _before(request)
    notes: list[str] = []
    if request.max_moves is None:
        layers = placed(loads, machine, request.rules, request.options)
        layers = _gathered(request, loads, layers, notes)
        layers = _unmoved(request, loads, layers, before)
    else:
        layers = _replanned(request, loads, before, notes)
    slots = np.array([layer.slots for layer in layers])
    _note_twins(request, before, notes)
    if request.current is not None:
        pairs = zip(slots, before, strict=True)
        slots = np.array([kept_in_place(now, old, machine.num_gpus) for now, old in pairs])
    _verify(request, loads, slots)
    answers = tuple(_layer_answers(request, loads, layers, slots, before))
    scale = loads.sum(axis=1) / machine.num_gpus
    tops = [np.array([getattr(a, key) for a in answers]) @ scale for key in _SUMMED]
    total = float(scale.sum())
    moves = [a.moves for a in answers if a.moves is not None]
    return Answer(
        request=request,
        layers=answers,
        max_over_mean=float(tops[0]) / total,
        bound=float(tops[1]) / total,
        gap=max(0.0, float(tops[0] / tops[1]) - 1),
        before=float(tops[2]) / total,
        planned=_gain(planned_on, slots, before, machine),
        held_out=_gain(measured.counts[len(planned_on) :], slots, before, machine)
        if request.hold_out
        else None,
        notes=tuple(notes),
        wall_s=time.perf_counter() - started,
        moves=sum(moves) if moves else (0 if request.current is not None else None),
    )


_AS_GOOD = 1e-9
_SUMMED = ("max_over_mean", "bound", "before")


def refuse(request: Request) -> None:
    """Raise SpecError for a request that has no answer by its form."""
    machine, rules, experts = request.machine, request.rules, request.measured.num_experts
    if machine.num_slots < experts:
        raise SpecError(
            f"{plural(machine.num_slots, 'slot')} for {plural(experts, 'expert')}; expected at "
            f"least {-(-experts // machine.num_gpus) * machine.num_gpus} on "
            f"{plural(machine.num_gpus, 'GPU')}"
        )
    if machine.slots_per_gpu > experts:
        raise SpecError(
            f"{machine.slots_per_gpu} slots per GPU for {plural(experts, 'expert')}: a GPU would "
            f"hold one twice; expected at most {experts * machine.num_gpus} slots"
        )
    most = rules.most_replicas(machine) * experts
    if machine.num_slots > most:
        raise SpecError(
            f"{plural(machine.num_slots, 'slot')}: the rules allow at most {most}, "
            f"{rules.most_replicas(machine)} per expert"
        )
    groups, nodes = rules.num_groups, machine.num_nodes
    if groups > 1 and (experts % groups or groups % nodes):
        raise SpecError(
            f"{groups} groups: expected as many experts in each ({experts} experts) and as many "
            f"groups on each of {plural(nodes, 'node')}"
        )
    for pair in rules.forbidden_pairs:
        if pair[0] == pair[1] or not all(0 <= expert < experts for expert in pair):
            raise SpecError(
                f"forbidden pair {pair[0]},{pair[1]}: expected two experts of 0 to {experts - 1}"
            )
    _refuse_current(request)
    if request.hold_out and request.hold_out >= request.measured.num_windows:
        raise SpecError(
            f"{request.hold_out} of {plural(request.measured.num_windows, 'window')} held out; "
            "expected at least one to plan on"
        )


def _refuse_empty(request: Request, loads: FloatArray) -> None:
    """Raise SpecError where nothing was counted in what is planned on, or in what is held out."""
    for layer, load in zip(request.measured.layers, loads, strict=True):
        if not load.any():
            raise SpecError(f"layer {layer}: all loads of the windows that are planned on are 0")
    held_out = request.measured.counts[request.measured.num_windows - request.hold_out :]
    if request.hold_out and not held_out.any():
        raise SpecError(
            f"all loads of the {plural(request.hold_out, 'window')} held out are 0; expected "
            "counts, or another number of windows to hold out"
        )


def _refuse_current(request: Request) -> None:
    current, experts = request.current, request.measured.num_experts
    if current is None:
        if request.max_moves is not None:
            raise SpecError("a limit on moves needs the current placement")
        return
    if request.max_moves is not None and request.max_moves < 0:
        raise SpecError(f"a limit of {request.max_moves} moves; expected at least 0")
    if request.max_moves is not None and request.balance_tolerance > 0:
        raise SpecError("a limit on moves and a balance tolerance do not go together yet")
    if request.max_moves is not None and request.rules.num_groups > 1:
        raise SpecError("a limit on moves and groups of experts on nodes do not go together yet")
    missing = sorted(set(request.measured.layers) - set(current.layers))
    if missing:
        raise SpecError(f"the current placement has no layer {missing[0]}, which has loads")
    if current.slots.shape[1] != request.machine.num_slots:
        raise SpecError(
            f"the current placement has {current.slots.shape[1]} slots, but "
            f"{request.machine.num_slots} are asked for"
        )
    is_strange = ((current.slots < 0) | (current.slots >= experts)).any()
    if is_strange or (replica_counts(current.slots, experts) == 0).any():
        what = "an expert that there is not" if is_strange else "not every expert"
        raise SpecError(f"the current placement has {what}; the loads are of {experts} experts")


def _before(request: Request) -> IntArray:
    """Return the placement now, or the one that engines begin with; shape (layers, slots)."""
    measured, num_slots = request.measured, request.machine.num_slots
    if request.current is None:
        trivial = np.arange(num_slots) % measured.num_experts
        return np.broadcast_to(trivial, (len(measured.layers), num_slots))
    rows = [request.current.layers.index(layer) for layer in measured.layers]
    return request.current.slots[rows]


def _gathered(
    request: Request, loads: FloatArray, layers: list[PlacedLayer], notes: list[str]
) -> list[PlacedLayer]:
    """Trade balance, as much as was allowed, for fewer nodes per token."""
    measured, tolerance = request.measured, request.balance_tolerance
    if tolerance <= 0:
        return layers
    if measured.routing is None and measured.coactivation is None:
        raise SpecError("a balance tolerance needs routing or coactivation in the loads")
    if request.machine.num_nodes == 1:
        raise SpecError("a balance tolerance needs several nodes: on one, no token leaves it")
    moved = []
    for number, layer in enumerate(layers):
        task = LayerTask(loads[number], request.machine, request.rules)
        if measured.coactivation is not None:
            together = measured.coactivation[number]
        else:
            assert measured.routing is not None
            together = coactivation(measured.routing[number], measured.num_experts)
        slots = gathered(task, layer.slots, together, layer.max_load * (1 + tolerance))
        if broken(task, slots):
            slots = layer.slots
        moved.append(replace(layer, slots=slots, max_load=fullest(task, slots)))
    pairs = zip(layers, moved, strict=True)
    changed = sum(bool((old.slots != new.slots).any()) for old, new in pairs)
    notes.append(
        f"up to {tolerance:.2%} of balance was given for fewer nodes per token in {changed} of "
        f"{plural(len(layers), 'layer')}; the gap counts it"
    )
    if changed < len(layers):
        notes.append(
            "in the others no placement with fewer nodes was found within the tolerance (with "
            "GPUs of unequal speed none is looked for)"
        )
    return moved


def _unmoved(
    request: Request, loads: FloatArray, layers: list[PlacedLayer], before: IntArray
) -> list[PlacedLayer]:
    """Keep a layer whose placement now is as good, and name GPUs so that fewest replicas move."""
    machine = request.machine
    if request.current is None:
        return layers
    kept = []
    for load, layer, now in zip(loads, layers, before, strict=True):
        task = LayerTask(load, machine, request.rules)
        is_as_good = fullest(task, now) <= layer.max_load * (1 + _AS_GOOD)
        if is_as_good and request.balance_tolerance == 0 and not broken(task, now):
            kept.append(replace(layer, slots=now, max_load=fullest(task, now)))
        else:
            kept.append(replace(layer, slots=renamed(layer.slots, now, machine)))
    return kept


def _note_twins(request: Request, before: IntArray, notes: list[str]) -> None:
    """Say what a placement now with twins means for the figures beside it."""
    count = int(has_twins(before, request.machine).sum())
    if count and request.current is not None:
        notes.append(
            f"in {count} of {plural(len(before), 'layer')} a GPU now has an expert twice, which no "
            "placement here may: its load can be below the bound"
        )


def _replanned(
    request: Request, loads: FloatArray, before: IntArray, notes: list[str]
) -> list[PlacedLayer]:
    """Change the current placement with few moves; bounds are those of any number of moves."""
    machine, rules, most = request.machine, request.rules, request.max_moves
    assert most is not None
    free = placed(loads, machine, rules, replace(request.options, effort="quick"))
    tasks = [LayerTask(load, machine, rules, now) for load, now in zip(loads, before, strict=True)]
    for number, task in zip(request.measured.layers, tasks, strict=True):
        for said in broken(task, without_twins(task)):
            raise SpecError(
                f"layer {number}: the current placement breaks {said}; expected one that keeps "
                "the rules, or no limit on moves"
            )
    enough = 1 + request.options.tolerance
    found = replanned(tasks, [layer.bound * enough for layer in free], most)
    pairs = zip(found, before, strict=True)
    left = most - sum(num_moves(slots, now, machine.num_gpus) for slots, now in pairs)
    layers: list[PlacedLayer] = []
    for task, slots, now, layer in zip(tasks, found, before, free, strict=True):
        own = PlacedLayer(slots, fullest(task, slots), layer.bound, layer.proof)
        if request.options.effort != "quick" and own.gap > request.options.tolerance:
            limit = num_moves(slots, now, machine.num_gpus) + left
            own = with_cp_sat(replace(task, max_moves=limit), own, request.options)
            if limit < most:  # with moves of other layers this one may have less than was proved
                own = replace(own, bound=layer.bound, proof=layer.proof)
            left = limit - num_moves(own.slots, now, machine.num_gpus)
        layers.append(own)
    unlimited = sum(layer.max_load for layer in free) / float(loads.sum()) * machine.num_gpus
    notes.append(f"without a limit on moves the load of the fullest GPU would be {unlimited:.4f}")
    notes.append(
        "bounds are of placements with any number of moves"
        + (", but for what CP-SAT proved" if len(layers) == 1 else "")
    )
    if has_twins(before, machine).any():
        notes.append("to take the second of two replicas off a GPU counts as a move")
    return layers


def _verify(request: Request, loads: FloatArray, slots: IntArray) -> None:
    """Check every rule once more, on what is handed out."""
    for number, row in enumerate(slots):
        task = LayerTask(loads[number], request.machine, request.rules)
        for said in broken(task, row):
            raise VerificationError(f"layer {request.measured.layers[number]} breaks {said}")


def _layer_answers(
    request: Request,
    loads: FloatArray,
    layers: list[PlacedLayer],
    slots: IntArray,
    before: IntArray,
) -> list[LayerAnswer]:
    machine, measured = request.machine, request.measured
    mean = loads.sum(axis=1) / machine.num_gpus
    now = gpu_loads(loads, slots, machine).max(axis=1)
    then = gpu_loads(loads, before, machine).max(axis=1)
    counts = replica_counts(slots, measured.num_experts)
    answers = []
    for i, (number, layer) in enumerate(zip(measured.layers, layers, strict=True)):
        bound = min(layer.bound, float(now[i]))
        answers.append(
            LayerAnswer(
                layer=number,
                slots=slots[i],
                replicas=counts[i],
                max_over_mean=float(now[i] / mean[i]),
                bound=float(bound / mean[i]),
                gap=max(0.0, float(now[i] / bound) - 1),
                proof=layer.proof,
                before=float(then[i] / mean[i]),
                moves=None
                if request.current is None
                else num_moves(slots[i], before[i], machine.num_gpus),
                **_nodes(request, i, slots[i], before[i]),
            )
        )
    return answers


def _nodes(request: Request, row: int, slots: IntArray, before: IntArray) -> dict[str, float]:
    routing, machine = request.measured.routing, request.machine
    if routing is None or machine.num_nodes == 1:
        return {}
    return {
        "nodes_per_token": nodes_per_token(slots, routing[row], machine),
        "nodes_per_token_before": nodes_per_token(before, routing[row], machine),
    }


def _gain(counts: FloatArray, slots: IntArray, before: IntArray, machine: Machine) -> WindowGain:
    """Return the mean over windows of fullest over mean load; empty windows do not count."""
    busy = [window for window in counts if window.any()]
    means = np.array([window.sum() / machine.num_gpus for window in busy])
    tops = [
        np.array([gpu_loads(window, place, machine).max(axis=1).sum() for window in busy])
        for place in (before, slots)
    ]
    return WindowGain(len(busy), *(float((top / means).mean()) for top in tops))
