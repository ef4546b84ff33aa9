"""Loads against the model that they are said to be of."""

from dataclasses import replace

import numpy as np

from autopar.costs.operations.parts import ffn_weight_bytes
from autopar.costs.operations.precisions import precision_bytes
from autopar.errors import SpecError
from autopar.placement.files.measured import Measured
from autopar.specs import LLM
from autopar.specs.architecture import ExpertFeedForward
from autopar.units import plural


def of_model(measured: Measured, llm: LLM) -> Measured:
    """Return the loads of the model's expert layers, numbered as in the model.

    A file may have all decoder layers, with nothing in the dense ones, or the expert layers alone.
    Raises SpecError for loads of another model.
    """
    experts, name = llm.expert_layers, llm.name
    if not experts:
        raise SpecError(f"llm {name!r} is dense: it has no experts to place")
    if measured.num_experts != llm.num_experts:
        raise SpecError(
            f"the loads are of {plural(measured.num_experts, 'expert')} per layer, but llm "
            f"{name!r} has {llm.num_experts}"
        )
    count = len(measured.layers)
    is_counted = measured.layers == tuple(range(count))  # the file does not number them otherwise
    if count == llm.num_layers and is_counted:
        dense = [layer for layer in range(count) if layer not in experts]
        busy = [layer for layer in dense if measured.counts[:, layer].any()]
        if busy:
            raise SpecError(f"layer {busy[0]} has loads, but is dense in llm {name!r}")
        return with_layers(measured, experts)
    if count == len(experts) and is_counted:
        return replace(measured, layers=experts)
    strange = sorted(set(measured.layers) - set(experts))
    if is_counted or strange:
        found = plural(count, "layer") if is_counted else f"layer {strange[0]}"
        raise SpecError(
            f"the loads are of {found}, but llm {name!r} has {plural(len(experts), 'layer')} with "
            f"experts ({experts[0]} to {experts[-1]}) of {llm.num_layers}"
        )
    return measured


def with_layers(measured: Measured, layers: tuple[int, ...]) -> Measured:
    """Return the loads of some layers alone, by their number."""
    rows = [measured.layers.index(layer) for layer in layers]
    return replace(
        measured,
        counts=measured.counts[:, rows],
        layers=layers,
        routing=None if measured.routing is None else measured.routing[rows],
        coactivation=None if measured.coactivation is None else measured.coactivation[rows],
    )


def refuse_idle_layers(measured: Measured) -> None:
    """Raise SpecError for a layer that nothing was counted in, and for too few experts."""
    idle = ~measured.counts.any(axis=(0, 2))
    if idle.all():
        raise SpecError("all loads are 0; expected counts of tokens")
    if idle.any():
        layer = measured.layers[int(np.flatnonzero(idle)[0])]
        raise SpecError(
            f"layer {layer}: all loads are 0; expected counts, or a dense layer to be named by "
            f"--dense-layers {layer} or known from --model"
        )


def expert_bytes(llm: LLM) -> float | None:
    """Return the bytes of one routed expert of one layer, None where the spec does not tell."""
    if llm.architecture is None:
        return None
    kinds = (llm.architecture.feed_forward_of(kind) for kind in llm.architecture.layer_kinds)
    part = next((kind for kind in kinds if isinstance(kind, ExpertFeedForward)), None)
    if part is None:
        return None
    width = part.latent_size or llm.architecture.hidden_size
    stored = precision_bytes(llm.precisions.experts)
    return float(ffn_weight_bytes(width, part.expert_size, part.num_matrices, stored))


def router_groups(llm: LLM) -> int:
    """Return among how many groups of consecutive experts the router picks first; 1 is none."""
    if llm.architecture is None:
        return 1
    kinds = (llm.architecture.feed_forward_of(kind) for kind in llm.architecture.layer_kinds)
    return max(
        (kind.router_groups for kind in kinds if isinstance(kind, ExpertFeedForward)), default=1
    )
