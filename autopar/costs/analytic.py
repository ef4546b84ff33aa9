"""The analytic cost model: rooflines, alpha-beta collectives, and bytes counted from shapes.

`docs/model.md` gives every formula. A stage takes the sum of its layers, of the head if it is the
last, else of the hop to the next one. Everything is computed for all (candidate, segment) pairs at
once.
"""

from dataclasses import dataclass

import numpy as np

from autopar.costs import memory
from autopar.costs.operations import collectives
from autopar.costs.operations.arrays import real
from autopar.costs.operations.kernels import Device
from autopar.costs.operations.parts import RUNTIME_RESERVE_BYTES
from autopar.costs.shares import Shape, Shares, ceil_div
from autopar.costs.timing import Clock
from autopar.problem import BoolArray, Candidates, FloatArray, IntArray, RowBounds, StageCosts
from autopar.specs import Scenario

_US_PER_S = 1e6
_PAIRS_AT_ONCE = (
    200_000  # bounds the memory of the tables of rows whose layers' cost depends on the split
)


class AnalyticCosts:
    """Costs from the shapes of the model, the rates of the GPU and the links of the cluster."""

    name = "analytic"

    def __init__(self, scenario: Scenario) -> None:
        self._shape = Shape.of(scenario.llm, scenario.workload)
        self._clock = Clock(self._shape, scenario.cluster, Device.of(scenario.cluster.gpu))
        collectives.link_of(
            scenario.cluster, 1
        )  # raises now, not at the first table, if there is none

    def stage_costs(self, rows: Candidates, first: IntArray, stop: IntArray) -> StageCosts:
        """Cost of segment `[first[i], stop[i])` as a stage of `rows[i]`, shape (pairs,)."""
        share = Shares.of(self._shape, rows, stop - first)
        is_first, is_last = first == 0, stop == self._shape.num_layers
        end_us = np.where(is_last, self._clock.head_us(share), self._clock.hop_us(share))
        time_us = share.num_layers * self._clock.layer_us(share) + end_us
        tokens_per_s, tpot_us = self._rates(rows, time_us)
        return StageCosts(
            time_us=time_us,
            tokens_per_s=tokens_per_s,
            tpot_us=tpot_us,
            weights_bytes=memory.weights_bytes(self._shape, share, is_first, is_last),
            kv_cache_bytes=memory.kv_cache_bytes(self._shape, share),
            activation_bytes=memory.activation_bytes(self._shape, share, is_last),
            reserved_bytes=np.full(len(time_us), RUNTIME_RESERVE_BYTES),
        )

    def bounds(self, rows: Candidates) -> RowBounds:
        """Bounds over all splits of the layers into `pp` stages of at least one layer each.

        Times are exact minima where the cost of a layer does not depend on the split (spread above
        0); elsewhere, and for memory, they are bounds.
        """
        floors = np.empty((3, len(rows)))
        grows = rows.spread == 0
        fixed = np.flatnonzero(~grows)
        floors[:, fixed] = self._fixed_floors(rows.take(fixed))
        lengths = max(self._shape.num_layers, 1)
        for part in _chunks(np.flatnonzero(grows), _PAIRS_AT_ONCE // lengths):
            floors[:, part] = self._growing_floors(rows.take(part))
        bottleneck_us, ttft_us, memory_bytes = floors
        tokens_per_s, tpot_us = self._rates(rows, bottleneck_us)
        return RowBounds(
            tokens_per_s=tokens_per_s,
            ttft_us=ttft_us if self._shape.is_prefill else None,
            tpot_us=tpot_us,
            memory_bytes=memory_bytes,
        )

    def notes(self) -> tuple[str, ...]:
        """Return what the analytic model leaves out."""
        notes = [
            "analytic costs: fixed fractions of peak, measured on H100 with bf16; nothing overlaps",
            "experts and sequences are taken as evenly loaded; queueing is not modelled",
            "layers run one after another: with spread > 1 only one expert grid works at a time",
        ]
        if self._shape.is_prefill:
            notes.append("a prompt is not split over data-parallel attention groups")
        return tuple(notes)

    def _rates(self, rows: Candidates, time_us: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        """Rate of all replicas if every stage took `time_us`, and the time per output token."""
        batch = rows.replicas * self._shape.step_tokens
        if self._shape.is_prefill:
            return batch / time_us * _US_PER_S, None
        tpot_us = rows.pp * time_us
        return batch / tpot_us * _US_PER_S, tpot_us

    def _fixed_floors(self, rows: Candidates) -> FloatArray:
        """Least bottleneck and total time, floor of memory, shape (3, rows), for spread > 0."""
        num_layers = self._shape.num_layers
        share = Shares.of(self._shape, rows, np.ones_like(rows.pp))
        layer_us = self._clock.layer_us(share)
        hop_us, head_us = self._clock.hop_us(share), self._clock.head_us(share)
        times = _Times(num_layers, rows.pp - 1, layer_us, hop_us, head_us)
        total_us = num_layers * layer_us + real(rows.pp - 1) * hop_us + head_us
        pairs = _Pairs.of(rows, ceil_div(num_layers, rows.pp), num_layers)
        one = _Pairs.of(rows, np.ones_like(rows.pp), num_layers)
        memory_floor = np.maximum.reduce(
            [
                self._least_memory(pairs),
                self._memory(one, is_first=True),
                self._memory(one, is_last=True),
            ]
        )
        return np.stack([times.least_bottleneck_us(), _below(total_us), memory_floor])

    def _growing_floors(self, rows: Candidates) -> FloatArray:
        """Floors of bottleneck, total time and memory, shape (3, rows), where layers add GPUs."""
        num_layers = self._shape.num_layers
        longest = np.maximum(num_layers - rows.pp + 1, 1)
        starts = np.concatenate(([0], np.cumsum(longest)[:-1]))
        table = rows.take(np.repeat(np.arange(len(rows)), longest))
        length = np.arange(len(table)) - np.repeat(starts, longest) + 1
        share = Shares.of(self._shape, table, length)
        layer_us = self._clock.layer_us(share)
        hop_us = np.where(table.pp > 1, self._clock.hop_us(share), np.inf)  # pp = 1 has no hop
        head_us = self._clock.head_us(share)

        def least(values: FloatArray, where: BoolArray | None = None) -> FloatArray:
            values = values if where is None else np.where(where, values, np.inf)
            return np.minimum.reduceat(values, starts)

        # Some stage has at least the mean number of layers, one is the last, the others hop.
        is_long = length >= ceil_div(num_layers, table.pp)
        stage_us = length * layer_us
        early_us, last_us = stage_us + hop_us, stage_us + head_us
        bottleneck_us = np.maximum(
            least(np.minimum(early_us, last_us), is_long),
            np.maximum(least(last_us), _finite(least(early_us))),
        )
        hops_us = np.where(rows.pp > 1, (rows.pp - 1) * _finite(least(hop_us)), 0.0)
        total_us = num_layers * least(layer_us) + hops_us + least(head_us)
        pairs = _Pairs.of(table, length, num_layers)
        memory_floor = np.maximum.reduce(
            [
                least(self._least_memory(pairs), is_long),
                least(self._memory(pairs, is_first=True)),
                least(self._memory(pairs, is_last=True)),
            ]
        )
        return np.stack([bottleneck_us, _below(total_us), memory_floor])

    def _least_memory(self, pairs: "_Pairs") -> FloatArray:
        """Bytes of the cheapest kind of stage that a pipeline of `pp` stages has."""
        ends = np.minimum(self._memory(pairs, is_first=True), self._memory(pairs, is_last=True))
        middle = np.where(pairs.rows.pp > 2, self._memory(pairs), np.inf)
        return np.minimum(ends, middle)

    def _memory(
        self, pairs: "_Pairs", *, is_first: bool = False, is_last: bool = False
    ) -> FloatArray:
        """Bytes of a stage of the given kind; the only stage of a pipeline is both ends."""
        only = (pairs.rows.pp == 1) & (is_first or is_last)
        first, last = only | is_first, only | is_last
        share = Shares.of(self._shape, pairs.rows, pairs.length)
        return (
            memory.weights_bytes(self._shape, share, first, last)
            + memory.kv_cache_bytes(self._shape, share)
            + memory.activation_bytes(self._shape, share, last)
            + RUNTIME_RESERVE_BYTES
        )


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Stages by their length alone, wherever they lie."""

    rows: Candidates
    length: IntArray

    @classmethod
    def of(cls, rows: Candidates, length: IntArray, num_layers: int) -> "_Pairs":
        """Return the stages; the only stage of a pipeline has all layers."""
        return cls(rows, np.where(rows.pp == 1, num_layers, length))


@dataclass(frozen=True, slots=True)
class _Times:
    """What a layer, a hop and the head take, whatever the split; shape (rows,)."""

    num_layers: int
    early: IntArray  # stages before the last
    layer_us: FloatArray
    hop_us: FloatArray
    head_us: FloatArray

    def least_bottleneck_us(self) -> FloatArray:
        """Time of the slowest stage in the best split.

        The last stage's time grows with its layers, that of the others falls: the best is where
        they cross, or one layer before.
        """
        crossing = self._crossing()
        before = np.maximum(crossing - 1, np.where(self.early > 0, 1, self.num_layers))
        slowest_us = [np.maximum(*self._stage_us(last)) for last in (crossing, before)]
        return np.minimum(*slowest_us)

    def _stage_us(self, last: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return the times of the slowest early stage and of a last one of `last` layers."""
        fullest = ceil_div(self.num_layers - last, np.maximum(self.early, 1))
        early_us = real(fullest) * self.layer_us + self.hop_us
        last_us = real(last) * self.layer_us + self.head_us
        return real(np.where(self.early > 0, early_us, 0.0)), last_us

    def _crossing(self) -> IntArray:
        """Fewest layers of the last stage with which it is the slowest, by bisection."""
        low = np.where(self.early > 0, 1, self.num_layers)
        high = np.maximum(self.num_layers - self.early, low)
        while np.any(low < high):
            middle = (low + high) // 2
            early_us, last_us = self._stage_us(middle)
            high, low = (
                np.where(last_us >= early_us, middle, high),
                np.where((last_us >= early_us) | (low >= high), low, middle + 1),
            )
        return low


def _below(total_us: FloatArray) -> FloatArray:
    """Lower a total a hair, so that another order of additions does not end under the bound."""
    return total_us * (1 - 1e-12)


def _finite(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, 0.0)


def _chunks(index: IntArray, size: int) -> list[IntArray]:
    size = max(size, 1)
    return [index[i : i + size] for i in range(0, len(index), size)]
