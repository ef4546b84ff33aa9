"""The analytic cost model: rooflines, alpha-beta collectives, and bytes counted from shapes.

`docs/model.md` gives every formula. A stage takes the sum of its layers, of the embedding if it is
the first, of the head if it is the last, else of the hop to the next one. Everything is computed
for all (candidate, segment) pairs at once.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import fields, replace

import numpy as np

from autopar.costs.bounds import bounds
from autopar.costs.operations.arrays import real
from autopar.costs.operations.device import AS_FITTED
from autopar.costs.operations.parts import RUNTIME_RESERVE_BYTES
from autopar.costs.pieces import Physics, Pieces
from autopar.costs.shape import ceil_div
from autopar.problem import (
    BoolArray,
    Candidate,
    Candidates,
    FloatArray,
    IntArray,
    RowBounds,
    StageCosts,
)
from autopar.specs import Engine, ExpertFeedForward, Scenario
from autopar.specs.architecture import FeedForward

_US_PER_S = 1e6
_REMEMBERED = 1024  # candidates whose pieces are kept: some MB


class AnalyticCosts:
    """Costs from the shapes of the model, the rates of the GPU and the links of the cluster."""

    name = "analytic"

    def __init__(self, scenario: Scenario) -> None:
        self._physics = Physics.of(scenario)
        self._workload = scenario.workload
        self._last: tuple[Candidates, RowBounds] | None = None
        self._growth: FloatArray | None = None  # of the batches that bounds are over
        self._known_pieces: dict[Candidate, Pieces] = {}
        shape = self._physics.shape
        parts = [shape.architecture.feed_forward_of(kind) for kind in shape.kinds]
        self._has_experts = np.array([isinstance(part, ExpertFeedForward) for part in parts])
        self._experts_before = shape.counts[self._has_experts].sum(axis=0)  # among the first layers
        holders = np.flatnonzero(np.diff(self._experts_before))
        # How many of the first i layers with experts are of each kind.
        self._kinds_of_experts = shape.counts[:, np.concatenate(([0], holders + 1))]
        self._experts_are_alike = len(_sizes(parts)) <= 1

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return self._physics.shape.num_layers

    @property
    def is_moe(self) -> bool:
        """Whether any layer has experts."""
        return bool(self._has_experts.any())

    @property
    def fewest_chunks(self) -> int:
        """In how many parts a prompt is computed at least."""
        return self._workload.fewest_chunks

    def stage_costs(self, rows: Candidates, first: IntArray, stop: IntArray) -> StageCosts:
        """Cost of segment `[first[i], stop[i])` as a stage of `rows[i]`, shape (pairs,)."""
        shape = self._physics.shape
        counts = shape.kind_counts(first, stop)
        is_first, is_last = first == 0, stop == shape.num_layers
        pieces = self._pieces(rows, stop - first)
        tick_us, passing_us = (
            (counts * getattr(pieces.layer, name)).sum(axis=0)
            + np.where(is_first, getattr(pieces.embedding, name), 0.0)
            + np.where(is_last, getattr(pieces.head, name), getattr(pieces.hop, name))
            for name in ("tick_us", "passing_us")
        )
        tokens_per_s, tpot_us = self._rates(rows, pieces.tokens, tick_us)
        return StageCosts(
            time_us=passing_us,
            tokens_per_s=tokens_per_s,
            tpot_us=tpot_us,
            weights_bytes=self._weights(pieces, counts, is_first, is_last)
            + self._experts(pieces, rows, counts, first, stop),
            kv_cache_bytes=(counts * pieces.kv_cache_bytes).sum(axis=0)
            + np.where(is_last, pieces.last_cache_bytes, 0.0),
            activation_bytes=self._activations(pieces, counts, is_last),
            reserved_bytes=np.full(len(tick_us), RUNTIME_RESERVE_BYTES),
        )

    def bounds(self, rows: Candidates) -> RowBounds:
        """Bounds over all splits of the layers into `pp` stages of at least one layer each."""
        if self._last is not None and self._last[0] is rows:
            return self._last[1]  # objectives and constraints ask for the same rows in turn
        self._last = rows, self._bounds(rows)
        return self._last[1]

    def over_batches(self, growth: FloatArray) -> "AnalyticCosts":
        """Return the model with bounds over batches; itself where times grow with the batch."""
        if self._physics.clock.device.is_smooth:
            return self
        other = copy(self)
        vars(other).update(_last=None, _growth=growth)
        return other

    def _bounds(self, rows: Candidates) -> RowBounds:
        floors = bounds(self._physics, rows, self._has_experts, self._growth)
        tokens_per_s, tpot_us = self._rates(rows, floors.tokens, floors.bottleneck_us)
        return RowBounds(
            tokens_per_s=tokens_per_s,
            ttft_us=None if self._workload.phase == "decode" else floors.passing_us,
            tpot_us=tpot_us,
            memory_bytes=floors.memory_bytes,
        )

    def notes(self) -> tuple[str, ...]:
        """Return what the analytic model leaves out."""
        device = self._physics.clock.device
        notes = [*device.notes(), _what_runs_when(device.engine)]
        if device.factors != AS_FITTED:
            moved = device.factors.model_dump(exclude_defaults=True)
            words = ", ".join(f"{name} {factor:g}" for name, factor in moved.items())
            notes.append(f"times are moved by cost_factors: {words}")
        if self._physics.shape.num_experts and self._workload.expert_load == "even":
            notes.append("experts are taken as evenly loaded (workload.expert_load)")
        if self._workload.expert_load == "measured":
            notes.append(
                "counts of tokens load the experts of all layers alike, with the mean imbalance of "
                "layers; how rows spread over the experts of one rank is taken as random"
            )
        if self._workload.phase == "serving":
            notes.append(
                "TTFT is a mean: requests come at random, one by one, each waits for half a step "
                "and for the prompts before it (M/D/1); workload.prompts_ahead adds bursts"
            )
        if self._workload.phase == "prefill":
            notes.append("a prompt is not split over data-parallel attention groups")
        return tuple(notes)

    def look_ahead(self, rows: Candidates) -> None:
        """Work the pieces of many rows out at once: most of the time goes into short arrays."""
        if len(rows) > _REMEMBERED or not bool((rows.spread > 0).all()):
            return
        if len(self._known_pieces) + len(rows) > _REMEMBERED:
            self._known_pieces.clear()
        together = Pieces.of(self._physics, rows, np.ones_like(rows.pp))
        for index, row in enumerate(rows):
            self._known_pieces[replace(row, replicas=1)] = together.of_row(index)

    def _pieces(self, rows: Candidates, num_layers: IntArray) -> Pieces:
        """Return the pieces, for one pair where all pairs have the same."""
        if len(rows) and _is_one_row(rows) and rows.spread[0] > 0:
            row = replace(rows.row(0), replicas=1)  # of which no piece knows
            if row not in self._known_pieces:  # filters ask in turn, questions again and again
                if len(self._known_pieces) >= _REMEMBERED:
                    self._known_pieces.clear()
                one = rows.take(np.array([0]))
                self._known_pieces[row] = Pieces.of(self._physics, one, num_layers[:1])
            return self._known_pieces[row]
        return Pieces.of(self._physics, rows, num_layers)

    def _rates(
        self, rows: Candidates, tokens: FloatArray, tick_us: FloatArray
    ) -> tuple[FloatArray, FloatArray | None]:
        """Rate of all replicas if every stage took `tick_us`, and the time per output token."""
        tokens_per_s = real(rows.replicas) * tokens / tick_us * _US_PER_S
        if self._workload.is_prefill:
            return tokens_per_s, None
        return tokens_per_s, rows.pp * tick_us / self._physics.shape.tokens_per_sequence

    def _weights(
        self, pieces: Pieces, counts: FloatArray, is_first: BoolArray, is_last: BoolArray
    ) -> FloatArray:
        """Weights that every GPU of the stage holds, shape (pairs,)."""
        shared = (counts * pieces.shared_weights_bytes).sum(axis=0)
        ends = np.where(is_first, pieces.first_bytes, 0.0) + np.where(
            is_last, pieces.last_bytes, 0.0
        )
        return real(shared + np.where(is_first & is_last, pieces.both_bytes, ends))

    def _experts(
        self,
        pieces: Pieces,
        rows: Candidates,
        counts: FloatArray,
        first: IntArray,
        stop: IntArray,
    ) -> FloatArray:
        """Routed experts on a GPU of the fullest grid, shape (pairs,).

        Of the k layers with experts of a stage, the j-th takes grid j * spread // k.
        """
        sizes = pieces.expert_weights_bytes
        layers = (counts * self._has_experts[:, None]).sum(axis=0).astype(np.int64)
        spread = rows.stage_spread(stop - first)
        if self._experts_are_alike:
            return real(ceil_div(layers, spread) * sizes.max(axis=0))
        before = self._experts_before[first]
        fullest = np.zeros(len(spread))
        for grid in range(int(spread.max(initial=1))):
            low, high = (
                np.minimum(before + ceil_div(edge * layers, spread), before + layers)
                for edge in (grid, grid + 1)
            )
            held = self._kinds_of_experts[:, high] - self._kinds_of_experts[:, low]
            own = (held * sizes).sum(axis=0)
            fullest = np.maximum(fullest, np.where(grid < spread, own, 0.0))
        return fullest

    def _activations(self, pieces: Pieces, counts: FloatArray, is_last: BoolArray) -> FloatArray:
        """Buffers that live at once: the residual and its norm, the largest operation's own."""
        largest = np.where(counts > 0, pieces.buffer_bytes, 0.0).max(axis=0)
        logits = np.where(is_last, pieces.logits_bytes, 0.0)
        return real(pieces.residual_bytes + np.maximum(largest, logits))


def _what_runs_when(engine: Engine | None) -> str:
    """Return what overlaps, and whose host is waited for."""
    kernels = "analytic costs: kernels and collectives one after another, nothing overlaps"
    if engine is None:
        return f"{kernels}; host time between steps is not counted"
    if engine.two_batch_overlap:
        kernels = (
            "analytic costs: kernels and collectives one after another, but that one half of a "
            "step is exchanged between expert ranks while the other is computed"
        )
    return f"{kernels}; host time and kernels of engine {engine.name}"


def _sizes(parts: Sequence[FeedForward | None]) -> set[tuple[int | None, ...]]:
    """Return the different sizes of experts."""
    return {
        (p.expert_size, p.latent_size, p.num_matrices, p.other_parameters_per_expert)
        for p in parts
        if isinstance(p, ExpertFeedForward)
    }


def _is_one_row(rows: Candidates) -> bool:
    columns = (getattr(rows, field.name) for field in fields(rows))
    return all(bool((column == column[0]).all()) for column in columns)
