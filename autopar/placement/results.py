"""A request for a placement, and its answer: before and after, proof, moves, traffic, windows."""

from dataclasses import dataclass, field

import numpy as np

from autopar.placement.files.maps import ExpertMap
from autopar.placement.files.measured import Measured
from autopar.placement.machine import NO_RULES, IntArray, Machine, Rules
from autopar.placement.options import DEFAULT, Options


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be placed, on what, and how.

    current: the placement now. max_moves: replicas that may come to a GPU without their expert, of
    all layers together. hold_out: windows at the end that are not planned on. balance_tolerance:
    how much more than needed the fullest GPU may have, if that sends tokens to fewer nodes.
    slot_bytes: weights of one expert of one layer.
    """

    measured: Measured
    machine: Machine
    rules: Rules = NO_RULES
    options: Options = DEFAULT
    current: ExpertMap | None = None
    max_moves: int | None = None
    hold_out: int = 0
    balance_tolerance: float = 0.0
    slot_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class LayerAnswer:
    """One layer. Loads are of the fullest GPU over the mean of GPUs, over its speed.

    before: of the current placement, or of slot i with expert i modulo experts. moves: against the
    current placement, None without one. nodes_per_token: None without routing.
    """

    layer: int
    slots: IntArray
    replicas: IntArray
    max_over_mean: float
    bound: float
    gap: float
    proof: str
    before: float
    moves: int | None = None
    nodes_per_token: float | None = None
    nodes_per_token_before: float | None = None


@dataclass(frozen=True, slots=True)
class WindowGain:
    """Fullest over mean load, over layers, as the mean of windows; before and after."""

    num_windows: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A placement with its proof.

    max_over_mean, bound, before: of the sums over layers, which is what time adds up from. gap:
    how far the sum of the fullest loads is above that of the bounds.
    """

    request: Request
    layers: tuple[LayerAnswer, ...]
    max_over_mean: float
    bound: float
    gap: float
    before: float
    planned: WindowGain
    held_out: WindowGain | None
    notes: tuple[str, ...]
    wall_s: float = 0.0
    moves: int | None = field(default=None)

    @property
    def is_proved(self) -> bool:
        """Whether no placement beats this one."""
        return self.gap <= 1e-9

    @property
    def expert_map(self) -> ExpertMap:
        """The placement alone, by the layers' numbers."""
        layers = sorted(self.layers, key=lambda layer: layer.layer)
        slots = np.array([layer.slots for layer in layers])
        return ExpertMap(slots, tuple(layer.layer for layer in layers))
