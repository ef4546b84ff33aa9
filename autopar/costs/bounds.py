"""What no split of a candidate's layers can beat, without looking at the splits.

Also what none can beat with any batch from the candidate's own to `growth` times as many.

For times: the mean over the stages, for the layers of each kind alone the best split of so many
equal layers, and the runs of layers of which every split has one. For memory: the same, and the
least that an end of the model needs. All are lower bounds; the bottleneck and the sum are exact,
but for the embedding, where all layers are alike.
"""

from dataclasses import dataclass

import numpy as np

from autopar.costs.operations.arrays import real
from autopar.costs.operations.parts import RUNTIME_RESERVE_BYTES
from autopar.costs.pieces import Physics, Pieces
from autopar.costs.runs import least_of_a_stage
from autopar.costs.shape import Shape, ceil_div
from autopar.problem import BoolArray, Candidates, FloatArray, IntArray

_PAIRS_AT_ONCE = 200_000  # bounds the memory of the tables where layers add GPUs


@dataclass(frozen=True, slots=True)
class Floors:
    """Least values over all splits, shape (rows,); tokens: most that a step produces."""

    bottleneck_us: FloatArray
    passing_us: FloatArray
    memory_bytes: FloatArray
    tokens: FloatArray


def bounds(
    physics: Physics, rows: Candidates, has_experts: BoolArray, growth: FloatArray | None = None
) -> Floors:
    """Return the floors of every candidate; tokens are those of its own batch."""
    columns = np.empty((4, len(rows)))
    grows = rows.spread == 0
    fixed, growing = np.flatnonzero(~grows), np.flatnonzero(grows)
    if len(fixed):
        grown = None if growth is None else growth[fixed]
        columns[:, fixed] = _fixed(physics, rows.take(fixed), has_experts, grown)
    size = max(_PAIRS_AT_ONCE // max(physics.shape.num_layers, 1), 1)
    for start in range(0, len(growing), size):
        part = growing[start : start + size]
        grown = None if growth is None else growth[part]
        columns[:, part] = _growing(physics, rows.take(part), grown)
    return Floors(*columns)


def _fixed(
    physics: Physics, rows: Candidates, has_experts: BoolArray, growth: FloatArray | None
) -> FloatArray:
    """Floors where the pieces do not depend on the split, shape (4, rows)."""
    pieces = Pieces.of(physics, rows, np.ones_like(rows.pp), growth)
    counts = physics.shape.counts[:, -1]
    early = rows.pp - 1
    total_us = (counts[:, None] * pieces.layer.tick_us).sum(axis=0) + pieces.embedding.tick_us
    total_us = total_us + pieces.head.tick_us + early * pieces.hop.tick_us
    bottleneck_us = _below(total_us / rows.pp)
    for count, layer_us in zip(counts.tolist(), pieces.layer.tick_us, strict=True):
        fewest = 1 if len(counts) == 1 else 0  # layers of the kind in a stage
        alone = _Chain(count, fewest, early, layer_us, pieces.hop.tick_us, pieces.head.tick_us)
        bottleneck_us = np.maximum(bottleneck_us, alone.least_bottleneck_us())
    if len(counts) > 1:
        end_us = np.minimum(pieces.hop.tick_us, pieces.head.tick_us)
        layers_us = least_of_a_stage(physics.shape, rows.pp, pieces.layer.tick_us)
        bottleneck_us = np.maximum(bottleneck_us, _below(layers_us + end_us))
    passing_us = (counts[:, None] * pieces.layer.passing_us).sum(axis=0)
    passing_us = passing_us + pieces.embedding.passing_us + pieces.head.passing_us
    passing_us = passing_us + early * pieces.hop.passing_us
    memory = _fixed_memory(physics.shape, pieces, rows, has_experts)
    return np.stack([bottleneck_us, _below(passing_us), memory, pieces.tokens])


def _fixed_memory(
    shape: Shape, pieces: Pieces, rows: Candidates, has_experts: BoolArray
) -> FloatArray:
    """Least bytes on the fullest GPU, shape (rows,)."""
    counts = shape.counts[:, -1]
    own = pieces.shared_weights_bytes + pieces.kv_cache_bytes
    spread, experts = real(rows.spread), pieces.expert_weights_bytes
    smallest = experts[has_experts].min(axis=0) if has_experts.any() else np.zeros(len(rows))
    always = pieces.residual_bytes + RUNTIME_RESERVE_BYTES
    buffer = pieces.buffer_bytes.min(axis=0)
    layers = (counts[:, None] * own).sum(axis=0)
    # On the fullest grid: as many layers as on any, and no fewer bytes than the mean of the grids.
    all_experts = (counts[:, None] * experts).sum(axis=0) / spread
    fullest = np.ceil(counts[has_experts].sum() / spread) * smallest
    both = layers + np.maximum(all_experts, fullest) + pieces.both_bytes + pieces.last_cache_bytes
    both = both + np.maximum(pieces.buffer_bytes.max(axis=0), pieces.logits_bytes)
    last_bytes = pieces.last_bytes + pieces.last_cache_bytes
    tables = pieces.first_bytes + last_bytes
    mean = (layers + all_experts + tables) / rows.pp + buffer
    least_layer = (own + experts).min(axis=0)
    floors = [
        mean,
        pieces.first_bytes + least_layer + buffer,
        last_bytes + least_layer + np.maximum(buffer, pieces.logits_bytes),
    ]
    for kind, count in enumerate(counts.tolist()):
        longest = ceil_div(count, rows.pp)
        held = np.ceil(longest / spread) * experts[kind]
        floors.append(longest * own[kind] + held + pieces.buffer_bytes[kind])
    if len(counts) > 1:
        floors.append(least_of_a_stage(shape, rows.pp, own + experts / spread) + buffer)
    split = np.maximum.reduce(floors)
    return _below(always + np.where(rows.pp == 1, both, split))


def _growing(physics: Physics, rows: Candidates, growth: FloatArray | None) -> FloatArray:
    """Floors where every layer brings its own GPUs to a stage, shape (4, rows)."""
    num_layers = physics.shape.num_layers
    longest = np.maximum(num_layers - rows.pp + 1, 1)
    starts = np.concatenate(([0], np.cumsum(longest)[:-1]))
    source = np.repeat(np.arange(len(rows)), longest)
    table = rows.take(source)
    length = np.arange(len(table)) - np.repeat(starts, longest) + 1
    pieces = Pieces.of(physics, table, length, None if growth is None else growth[source])

    def least(values: FloatArray, where: BoolArray | None = None) -> FloatArray:
        values = values if where is None else np.where(where, values, np.inf)
        return np.minimum.reduceat(values, starts)

    # Some stage has at least the mean number of layers, one is the last, the others hop.
    is_long = length >= ceil_div(num_layers, table.pp)
    layer_us = pieces.layer.tick_us.min(axis=0)
    hop_us = np.where(table.pp > 1, pieces.hop.tick_us, np.inf)  # pp = 1 has no hop
    early_us, last_us = length * layer_us + hop_us, length * layer_us + pieces.head.tick_us
    bottleneck_us = np.maximum(
        least(np.minimum(early_us, last_us), is_long),
        np.maximum(least(last_us), _finite(least(early_us))),
    )
    hop_us = np.where(table.pp > 1, pieces.hop.passing_us, np.inf)
    passing_us = num_layers * least(pieces.layer.passing_us.min(axis=0))
    passing_us = passing_us + np.where(rows.pp > 1, (rows.pp - 1) * _finite(least(hop_us)), 0.0)
    passing_us = passing_us + least(pieces.head.passing_us) + least(pieces.embedding.passing_us)
    layer = (pieces.shared_weights_bytes + pieces.kv_cache_bytes).min(axis=0)
    experts = pieces.expert_weights_bytes.min(axis=0)
    stage = length * layer + experts + pieces.residual_bytes + RUNTIME_RESERVE_BYTES
    buffer = pieces.buffer_bytes.min(axis=0)
    with_logits = np.maximum(buffer, pieces.logits_bytes)
    only = table.pp == 1
    first = stage + np.where(only, pieces.both_bytes, pieces.first_bytes)
    last = stage + np.where(only, pieces.both_bytes, pieces.last_bytes) + with_logits
    last = last + pieces.last_cache_bytes
    memory = np.maximum.reduce(
        [
            least(stage + buffer, is_long),
            least(first + np.where(only, with_logits, buffer)),
            least(last),
        ]
    )
    tokens = np.maximum.reduceat(pieces.tokens, starts)
    return np.stack([_below(bottleneck_us), _below(passing_us), _below(memory), tokens])


@dataclass(frozen=True, slots=True)
class _Chain:
    """Equal layers in a row of stages; fewest: layers that every stage has at least."""

    num_layers: int
    fewest: int
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
        before = np.maximum(crossing - 1, np.where(self.early > 0, self.fewest, self.num_layers))
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
        low = np.where(self.early > 0, self.fewest, self.num_layers)
        most = self.num_layers - self.fewest * self.early
        high = np.where(self.early > 0, np.maximum(most, low), low)
        while np.any(low < high):
            middle = (low + high) // 2
            early_us, last_us = self._stage_us(middle)
            high, low = (
                np.where(last_us >= early_us, middle, high),
                np.where((last_us >= early_us) | (low >= high), low, middle + 1),
            )
        return low


def _below(values: FloatArray) -> FloatArray:
    """Lower a bound a hair, so that another order of additions does not end under it."""
    return values * (1 - 1e-12)


def _finite(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, 0.0)
