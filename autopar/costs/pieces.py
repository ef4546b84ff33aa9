"""What the layers and the ends of a stage cost under each candidate: the parts of every segment.

A segment is so many layers of each kind, and perhaps an end of the model; its cost is their sum
(buffers: their maximum). So the parts are computed once per candidate, not once per segment.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from autopar.costs.memory import Store
from autopar.costs.operations.arrays import real
from autopar.costs.operations.collectives import Network
from autopar.costs.operations.device import Device
from autopar.costs.shape import Shape
from autopar.costs.steps import Step, Steps
from autopar.costs.timing import Clock
from autopar.problem import Candidates, FloatArray, IntArray
from autopar.specs import Scenario


@dataclass(frozen=True, slots=True)
class Physics:
    """The model, the work and the hardware of one scenario."""

    shape: Shape
    clock: Clock
    store: Store

    @classmethod
    def of(cls, scenario: Scenario) -> Self:
        """Return the physics of a scenario.

        Raises SpecError if the model lacks its shapes, the GPU its bandwidth, the cluster its
        links.
        """
        shape = Shape.of(scenario.llm, scenario.workload)
        factors = scenario.cost_factors
        network = Network.of(scenario.cluster, factors, scenario.engine)
        device = Device.of(scenario.cluster.gpu, factors, scenario.engine)
        return cls(shape, Clock(shape, network, device), Store(shape))


@dataclass(frozen=True, slots=True)
class Span:
    """Two times of one part, shape (rows,) or (kinds, rows), us.

    tick: what it adds to the time between two steps of a stage. passing: what it adds to the time
    from a request's start to its first token (to the time of one step, in decode).
    """

    tick_us: FloatArray
    passing_us: FloatArray


@dataclass(frozen=True, slots=True)
class Pieces:
    """Costs of the parts of a stage; shape (kinds, rows) where layers are meant, else (rows,)."""

    layer: Span
    embedding: Span
    head: Span  # with the layers that draft tokens
    hop: Span
    shared_weights_bytes: FloatArray
    expert_weights_bytes: FloatArray
    kv_cache_bytes: FloatArray
    last_cache_bytes: FloatArray  # of the layers that draft tokens
    buffer_bytes: FloatArray
    residual_bytes: FloatArray
    logits_bytes: FloatArray
    first_bytes: FloatArray  # weights of the embedding,
    last_bytes: FloatArray  # of head, last norm and drafts,
    both_bytes: FloatArray  # and of both
    tokens: FloatArray  # that a step of the stage produces

    @classmethod
    def of(
        cls,
        physics: Physics,
        rows: Candidates,
        num_layers: IntArray,
        growth: FloatArray | None = None,
    ) -> Self:
        """Return the pieces of stages of `num_layers[i]` layers under `rows[i]`.

        The number of layers matters only where it decides the GPUs of a stage (spread 0).
        growth: of what no batch from a row's own to so many times it beats; None for the row's own.
        """
        grown = np.maximum(rows.stage_gpus(num_layers) // (rows.tp * rows.cp), 1)
        rows = replace(rows, attn_dp=np.where(rows.attn_dp == 0, grown, rows.attn_dp))
        steps = Steps.of(physics.shape, rows, rows.attn_dp)
        alike = _Alike.not_looked_for(rows, growth)
        if physics.shape.workload.is_open:
            alike = _Alike.of(rows, growth)
        if alike.growth is not None:
            physics = replace(physics, clock=replace(physics.clock, growth=alike.growth))
        work = _Work(physics, alike.rows, Steps.of(physics.shape, alike.rows, alike.rows.attn_dp))
        first, last, both = physics.store.ends_bytes(alike.rows)
        caches = [physics.store.kv_cache_bytes(kind, rows, steps) for kind in physics.shape.kinds]
        return cls(
            layer=_span(steps, growth, *alike.expand(work.layers_us())),
            embedding=_span(steps, growth, *alike.expand(work.embedding_us())),
            head=_span(steps, growth, *alike.expand(work.head_us())),
            hop=_span(steps, growth, *alike.expand(work.hop_us())),
            kv_cache_bytes=np.stack(caches),
            last_cache_bytes=physics.store.drafts_cache_bytes(rows, steps),
            first_bytes=alike.all_rows(first),
            last_bytes=alike.all_rows(last),
            both_bytes=alike.all_rows(both),
            tokens=steps.tokens,
            **{name: alike.all_rows(value) for name, value in work.bytes().items()},
        )

    def of_row(self, index: int) -> Self:
        """Return the pieces of one row, in arrays of one."""
        at = slice(index, index + 1)

        def of(part: Span | FloatArray) -> Any:
            if isinstance(part, Span):
                return Span(part.tick_us[..., at], part.passing_us[..., at])
            return part[..., at]

        return type(self)(*(of(getattr(self, field.name)) for field in fields(self)))


# What one step of a stage takes, quiet and loaded; None where a workload has no such step.
_Times = tuple[FloatArray | None, FloatArray | None]


@dataclass(frozen=True, slots=True)
class _Work:
    """One step of a stage, quiet and loaded, for candidates that differ in it."""

    physics: Physics
    rows: Candidates
    steps: Steps

    def layers_us(self) -> _Times:
        """Times of a layer of each kind, shape (kinds, rows)."""
        groups, kinds = real(self.rows.attn_dp), self.physics.shape.kinds
        clock = self.physics.clock
        return self._both(
            lambda step: np.stack([clock.layer_us(kind, self.rows, groups, step) for kind in kinds])
        )

    def embedding_us(self) -> _Times:
        """Times of the look-up on the first stage."""
        return self._both(self.physics.clock.embedding_us)

    def head_us(self) -> _Times:
        """Times of head and drafts on the last stage, and of its host."""
        clock, groups = self.physics.clock, real(self.rows.attn_dp)
        return self._both(
            lambda step: (
                clock.head_us(self.rows, step)
                + clock.drafts_us(self.rows, groups, step)
                + clock.host_us(step)
            )
        )

    def hop_us(self) -> _Times:
        """Times to hand on what a stage has computed, and of its host."""
        stage_gpus = real(self.rows.tp * self.rows.cp * self.rows.attn_dp)
        clock = self.physics.clock
        return self._both(lambda step: clock.hop_us(stage_gpus, step) + clock.host_us(step))

    def bytes(self) -> dict[str, FloatArray]:
        """Bytes that do not depend on what is resident."""
        store, kinds, rows = self.physics.store, self.physics.shape.kinds, self.rows
        largest, groups = self.steps.fullest, real(rows.attn_dp)
        buffers = [store.layer_buffer_bytes(kind, rows, groups, largest) for kind in kinds]
        return {
            "shared_weights_bytes": np.stack(
                [store.shared_weights_bytes(kind, rows) for kind in kinds]
            ),
            "expert_weights_bytes": np.stack(
                [store.expert_weights_bytes(kind, rows) for kind in kinds]
            ),
            "buffer_bytes": np.stack(buffers),
            "residual_bytes": store.residual_bytes(largest),
            "logits_bytes": store.logits_bytes(rows, largest),
        }

    def _both(self, time_us: Callable[[Step], FloatArray]) -> _Times:
        quiet, loaded = self.steps.quiet, self.steps.loaded
        return (
            None if quiet is None else time_us(quiet),
            None if loaded is None else time_us(loaded),
        )


@dataclass(frozen=True, slots=True)
class _Alike:
    """Candidates whose steps are the same: where the batch is open, pp and replicas do not matter.

    rows: one of each. growth: of these, for `Pieces.of`. inverse: for every candidate its place
    among them; None for all in order.
    """

    rows: Candidates
    growth: FloatArray | None
    inverse: IntArray | None

    @classmethod
    def not_looked_for(cls, rows: Candidates, growth: FloatArray | None) -> Self:
        """Take every candidate by itself."""
        return cls(rows, growth, None)

    @classmethod
    def of(cls, rows: Candidates, growth: FloatArray | None) -> Self:
        """Group candidates by a hash of what matters, and check that the hash did not collide."""
        if len(rows) < 2:
            return cls.not_looked_for(rows, growth)
        keys = [getattr(rows, f.name) for f in fields(rows) if f.name not in ("pp", "replicas")]
        if growth is not None:
            keys.append(growth.view(np.int64))
        with np.errstate(over="ignore"):
            key = sum(
                column * np.int64(factor) for column, factor in zip(keys, _FACTORS, strict=False)
            )
        order = np.argsort(np.asarray(key), kind="stable")
        new = np.ones(len(order), dtype=np.bool_)
        new[1:] = np.asarray(key)[order][1:] != np.asarray(key)[order][:-1]
        inverse = np.empty_like(order)
        inverse[order] = np.cumsum(new) - 1
        first = order[new]
        if any((column[first][inverse] != column).any() for column in keys):
            return cls.not_looked_for(rows, growth)
        return cls(rows.take(first), None if growth is None else growth[first], inverse)

    def all_rows(self, values: FloatArray) -> FloatArray:
        """Return the value of every candidate; the last axis is that of the candidates."""
        return values if self.inverse is None else values[..., self.inverse]

    def expand(self, times: _Times) -> _Times:
        """Return both times of every candidate."""
        quiet, loaded = times
        return (
            None if quiet is None else self.all_rows(quiet),
            None if loaded is None else self.all_rows(loaded),
        )


# Odd numbers without a pattern: the fractional parts of square roots of primes, in 64 bits.
_FACTORS = tuple(int((prime**0.5 % 1) * 2**62) | 1 for prime in (2, 3, 5, 7, 11, 13, 17, 19, 23))


def _span(
    steps: Steps,
    growth: FloatArray | None,
    quiet_us: FloatArray | None,
    loaded_us: FloatArray | None,
) -> Span:
    """Return the two times of a part from its time in a quiet and in a loaded step.

    growth: where above 1, these are the least of many batches, and so is what is returned. The
    share of loaded steps grows with the batch: where these may be the faster ones, the least is
    that of loaded steps alone.
    """
    if loaded_us is None:
        assert quiet_us is not None  # a workload has steps of one kind at least
        return Span(quiet_us, quiet_us)
    if quiet_us is None:
        return Span(loaded_us, steps.passes * loaded_us)
    if growth is not None:
        quiet_us = np.where(growth > 1, np.minimum(quiet_us, loaded_us), quiet_us)
    tick_us = quiet_us + steps.share * (loaded_us - quiet_us)
    return Span(tick_us, steps.passes * loaded_us + steps.waits * tick_us)
