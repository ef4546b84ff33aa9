"""The answer of `autopar place`, as a document and as text."""

import json
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import autopar
from autopar.placement.machine import Machine
from autopar.placement.results import Answer, LayerAnswer, WindowGain
from autopar.report.remarks import remarks
from autopar.report.words import percent
from autopar.units import format_bytes, plural

Json = dict[str, Any]
# What 1 % less on the fullest GPU is worth in throughput: the share of a step that waits for the
# fullest GPU, measured by the author of sjqsjq/EPLB (RESULTS.md): 0.18 on GB200, 0.39 on H20.
WORTH = (0.18, 0.39)
_SHOWN = 12  # layers in the text, the worst ones where there are more
_INLINE = 3  # depth from which a list stands on one line


def placement_document(found: Answer) -> Json:
    """Return the whole answer; GPU g owns the slots g*slots_per_gpu to (g+1)*slots_per_gpu - 1."""
    request, machine = found.request, found.request.machine
    return {
        "schema": 1,
        "kind": "expert_placement",
        "status": "optimal" if found.is_proved else "feasible",
        "num_gpus": machine.num_gpus,
        "num_nodes": machine.num_nodes,
        "slots_per_gpu": machine.slots_per_gpu,
        "num_slots": machine.num_slots,
        "num_experts": request.measured.num_experts,
        "max_over_mean": found.max_over_mean,
        "bound": found.bound,
        "gap": found.gap,
        "max_over_mean_before": found.before,
        "before": "current"
        if request.current is not None
        else "slot i holds expert i modulo experts",
        "windows": {
            "planned_on": _window_document(found.planned),
            "held_out": None if found.held_out is None else _window_document(found.held_out),
        },
        "moves": None
        if found.moves is None
        else {
            "replicas": found.moves,
            "limit": request.max_moves,
            "weight_bytes": None
            if request.slot_bytes is None
            else found.moves * request.slot_bytes,
        },
        "memory": _memory(found),
        "layers": [_layer_document(layer) for layer in found.layers],
        "physical_to_logical_map": [layer.slots.tolist() for layer in found.layers],
        "notes": list(_notes(found)),
        "solver": {
            "wall_s": round(found.wall_s, 4),
            "version": autopar.__version__,
            "seed": request.options.seed,
            "effort": request.options.effort,
            "tolerance": request.options.tolerance,
        },
    }


def placement_text(found: Answer) -> str:
    """Return the document as JSON with a row per layer, and a line per list of slots."""
    document = placement_document(found)
    lines = []
    for key, value in document.items():
        if key in ("layers", "physical_to_logical_map"):
            rows = ",\n    ".join(json.dumps(row, allow_nan=False) for row in value)
            lines.append(f'  "{key}": [\n    {rows}\n  ]')
        else:
            lines.append(f'  "{key}": {json.dumps(value, allow_nan=False)}')
    return "{\n" + ",\n".join(lines) + "\n}"


def print_placement(console: Console, found: Answer, *, every_layer: bool = False) -> None:
    """Print what the placement reaches, layer by layer the worst, and how that is known."""
    request, machine = found.request, found.request.machine
    said = "proven optimal" if found.is_proved else f"within {percent(found.gap)} of the bound"
    console.print(
        f"{plural(len(found.layers), 'layer')} of {plural(request.measured.num_experts, 'expert')} "
        f"on {plural(machine.num_slots, 'slot')} of {plural(machine.num_gpus, 'GPU')}"
        f"{_on_nodes(machine)}: {said}"
    )
    table = _table("fullest GPU, load over mean", "before", "after", "bound", "gap")
    table.add_row(
        "all layers, as planned",
        f"{found.before:.4f}",
        f"{found.max_over_mean:.4f}",
        f"{found.bound:.4f}",
        percent(found.gap),
    )
    for name, gain in (("windows planned on", found.planned), ("windows held out", found.held_out)):
        if gain is not None and (gain.num_windows > 1 or found.held_out is not None):
            label = f"mean of {plural(gain.num_windows, name.split()[0][:-1])} {name[8:]}"
            table.add_row(label, f"{gain.before:.4f}", f"{gain.after:.4f}", "", "")
    console.print()
    console.print(Padding(table, (0, 0, 0, 2)))
    _print_layers(console, found, every_layer=every_layer)
    remarks(
        console,
        {
            "Moves": _moves(found),
            "Traffic": _traffic(found),
            "Memory": _memory_words(found),
            "Worth": _worth(found),
            "Note": _notes(found),
            "Solver": (
                f"{found.wall_s:.2f} s, seed {request.options.seed}, autopar {autopar.__version__}",
            ),
        },
    )


def _print_layers(console: Console, found: Answer, *, every_layer: bool) -> None:
    layers = sorted(found.layers, key=lambda layer: -layer.gap)
    shown = layers if every_layer else layers[:_SHOWN]
    title = (
        "Layers" if len(shown) == len(layers) else f"The {len(shown)} layers furthest from proof"
    )
    table = _table("layer", "before", "after", "bound", "gap", "bound rests on")
    for layer in sorted(shown, key=lambda layer: layer.layer):
        table.add_row(
            str(layer.layer),
            f"{layer.before:.4f}",
            f"{layer.max_over_mean:.4f}",
            f"{layer.bound:.4f}",
            percent(layer.gap),
            layer.proof,
        )
    console.print(Text.assemble("\n", (title, "bold")))
    console.print(Padding(table, (0, 0, 0, 2)))


def _layer_document(layer: LayerAnswer) -> Json:
    return {
        "layer": layer.layer,
        "max_over_mean": layer.max_over_mean,
        "bound": layer.bound,
        "gap": layer.gap,
        "proof": layer.proof,
        "max_over_mean_before": layer.before,
        "moves": layer.moves,
        "nodes_per_token": layer.nodes_per_token,
        "nodes_per_token_before": layer.nodes_per_token_before,
        "replicas": layer.replicas.tolist(),
    }


def _window_document(gain: WindowGain) -> Json:
    return {
        "num_windows": gain.num_windows,
        "max_over_mean_before": gain.before,
        "max_over_mean": gain.after,
    }


def _memory(found: Answer) -> Json | None:
    size, machine = found.request.slot_bytes, found.request.machine
    if size is None:
        return None
    per_gpu = size * machine.slots_per_gpu * len(found.layers)
    spare = machine.num_slots - found.request.measured.num_experts
    return {
        "slot_bytes": size,
        "expert_weights_bytes_per_gpu": per_gpu,
        "of_replicas_bytes_per_gpu": per_gpu * spare / machine.num_slots,
    }


def _memory_words(found: Answer) -> tuple[str, ...]:
    memory = _memory(found)
    if memory is None:
        return ()
    words = (
        f"{format_bytes(memory['expert_weights_bytes_per_gpu'])} of expert weights per GPU, "
        f"{format_bytes(memory['of_replicas_bytes_per_gpu'])} of it for further replicas"
    )
    return (words,)


def _moves(found: Answer) -> tuple[str, ...]:
    if found.moves is None:
        return ()
    slots = found.request.machine.num_slots * len(found.layers)
    size = found.request.slot_bytes
    loaded = "" if size is None else f", {format_bytes(found.moves * size)} of weights to load"
    return (f"{found.moves:,} of {slots:,} replicas come to another GPU{loaded}",)


def _traffic(found: Answer) -> tuple[str, ...]:
    after = [layer.nodes_per_token for layer in found.layers if layer.nodes_per_token is not None]
    before = [
        layer.nodes_per_token_before
        for layer in found.layers
        if layer.nodes_per_token_before is not None
    ]
    if not after:
        return ()
    means = sum(before) / len(before), sum(after) / len(after)
    return (f"a token goes to {means[1]:.3f} nodes, before to {means[0]:.3f}",)


def _worth(found: Answer) -> tuple[str, ...]:
    """What the gain is worth, of the windows that were not planned on where there are some."""
    gain = found.held_out or found.planned
    saved = 1 - gain.after / gain.before
    if saved <= 0:
        return ("no gain on these windows: keep what runs",) if found.held_out else ()
    low, high = (share * saved for share in WORTH)
    words = (
        f"{percent(saved)} less on the fullest GPU is some {percent(low)} to {percent(high)} of "
        "throughput, where experts take as much of a step as others measured"
    )
    return (words,)


def _notes(found: Answer) -> tuple[str, ...]:
    said = list(found.notes)
    if found.held_out is None:
        said.append(
            "the gain is on the loads planned on: give counts per window to see it on others"
        )
    if found.request.current is None:
        said.append("before: slot i holds expert i modulo the experts; --current says otherwise")
    return tuple(said)


def _on_nodes(machine: Machine) -> str:
    return f" on {plural(machine.num_nodes, 'node')}" if machine.num_nodes > 1 else ""


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
