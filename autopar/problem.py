"""The solver-free statement of a problem: what may be chosen, what it costs, what a plan is.

Two words carry the whole model. A *candidate* fixes every degree of one layout (a row of the
table); a *segment* is a run of consecutive layers `[first, stop)` that forms one pipeline stage. A
plan is a candidate and a path of segments from layer 0 to the last one, laid over GPUs in rank
order.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from autopar.specs import Scenario
from autopar.topology import Topology

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Every degree of one layout.

    One stage is tiled twice by the same GPUs: tp * cp * attn_dp = ep * etp * spread.
    `spread == 0` stands for one expert grid per layer, so that a stage of k layers has spread k and
    attn_dp (then 0 too) grows with k: the layout of coverage `partition`.
    """

    replicas: int
    pp: int
    tp: int
    cp: int
    attn_dp: int
    ep: int
    etp: int
    spread: int
    batch: int = 0  # sequences per attention group and micro-batch; 0 where the workload gives it
    chunks: int = 1  # parts in which a prompt is computed, one after another

    @property
    def grid_gpus(self) -> int:
        """GPUs of one expert grid; of one tensor-parallel group in a dense model (etp = tp)."""
        return self.ep * self.etp

    def stage_spread(self, num_layers: int) -> int:
        """Return the expert grids of a stage of `num_layers` layers."""
        return self.spread or num_layers

    def stage_gpus(self, num_layers: int) -> int:
        """Return the GPUs of a stage of `num_layers` layers."""
        return self.grid_gpus * self.stage_spread(num_layers)

    def stage_attn_dp(self, num_layers: int) -> int:
        """Return the data-parallel attention groups of a stage of `num_layers` layers."""
        return self.attn_dp or self.stage_gpus(num_layers) // (self.tp * self.cp)


@dataclass(frozen=True, slots=True)
class Candidates:
    """A table of candidates, one array per degree, all of shape (rows,)."""

    replicas: IntArray
    pp: IntArray
    tp: IntArray
    cp: IntArray
    attn_dp: IntArray
    ep: IntArray
    etp: IntArray
    spread: IntArray
    batch: IntArray
    chunks: IntArray

    @classmethod
    def of(cls, rows: "list[Candidate]") -> Self:
        """Return the table of the given rows."""
        columns = (
            np.array([getattr(row, f.name) for row in rows], dtype=np.int64) for f in fields(cls)
        )
        return cls(*columns)

    def __len__(self) -> int:
        return len(self.pp)

    def __iter__(self) -> Iterator[Candidate]:
        return (self.row(i) for i in range(len(self)))

    def row(self, index: int) -> Candidate:
        """Return one row."""
        return Candidate(*(int(column[index]) for column in self._columns))

    def take(self, index: IntArray | BoolArray) -> "Candidates":
        """Return the rows that `index` selects, in its order; repeats are allowed."""
        return Candidates(*(column[index] for column in self._columns))

    @property
    def _columns(self) -> tuple[IntArray, ...]:
        # Spelled out: `fields` takes ten times as long, and this is asked ten thousand times.
        return (
            self.replicas, self.pp, self.tp, self.cp, self.attn_dp,
            self.ep, self.etp, self.spread, self.batch, self.chunks,
        )  # fmt: skip

    def stage_spread(self, num_layers: IntArray) -> IntArray:
        """Expert grids of a stage with `num_layers[i]` layers, for row i."""
        return np.where(self.spread == 0, num_layers, self.spread)

    def stage_gpus(self, num_layers: IntArray) -> IntArray:
        """GPUs of a stage with `num_layers[i]` layers, for row i."""
        return self.ep * self.etp * self.stage_spread(num_layers)

    def gpus_used(self, num_layers: int) -> IntArray:
        """GPUs of all replicas of a model of `num_layers` layers, shape (rows,)."""
        grids = np.where(self.spread == 0, num_layers, self.spread * self.pp)
        return self.replicas * grids * self.ep * self.etp


@dataclass(frozen=True, slots=True)
class StageCosts:
    """What pairs of (candidate, segment) cost; every array has shape (pairs,).

    The solver needs no more than this, because every metric of a plan is a minimum, a sum or a
    maximum over its stages: throughput is the minimum of `tokens_per_s` (the rate of the whole
    plan, all replicas, if this stage were its bottleneck), TTFT the sum of `time_us`, TPOT the
    maximum of `tpot_us`, memory the maximum of `memory_bytes`. None means: the cost model does not
    state it. handover_us: in a disaggregated service, the time in which the cache of one prompt
    leaves the stage (prefill) or enters it (decode). service_us: there, the time in which
    an attention group computes one prompt, if the stage were the bottleneck (0 in decode).
    """

    time_us: FloatArray
    tokens_per_s: FloatArray
    tpot_us: FloatArray | None
    weights_bytes: FloatArray
    kv_cache_bytes: FloatArray | None
    activation_bytes: FloatArray | None
    reserved_bytes: FloatArray | None
    handover_us: FloatArray | None = None
    service_us: FloatArray | None = None

    @property
    def memory_bytes(self) -> FloatArray:
        """Bytes on the fullest GPU of the stage, of the parts that are stated."""
        parts = (self.kv_cache_bytes, self.activation_bytes, self.reserved_bytes)
        return self.weights_bytes + sum((p for p in parts if p is not None), 0.0)


@dataclass(frozen=True, slots=True)
class RowBounds:
    """What no split of a candidate's layers can beat; every array has shape (rows,)."""

    tokens_per_s: FloatArray  # at most
    ttft_us: FloatArray | None  # at least
    tpot_us: FloatArray | None  # at least
    memory_bytes: FloatArray  # at least, on the fullest GPU


class CostModel(Protocol):
    """Physics behind one interface: numbers for (candidate, segment) pairs, and bounds per row."""

    @property
    def name(self) -> str:
        """The name by which a scenario chooses the model."""
        ...

    def stage_costs(self, rows: Candidates, first: IntArray, stop: IntArray) -> StageCosts:
        """Cost of segment `[first[i], stop[i])` as a stage of `rows[i]`, shape (pairs,)."""
        ...

    def look_ahead(self, rows: Candidates) -> None:
        """Prepare for calls of `stage_costs` with each of these rows by itself, if that helps."""
        ...

    def bounds(self, rows: Candidates) -> RowBounds:
        """Bounds over all splits of the layers of each row, shape (rows,)."""
        ...

    def over_batches(self, growth: FloatArray) -> "CostModel":
        """Return the model for the rows of one table whose batch may grow, shape (rows,).

        Its bounds hold for every batch from a row's own to `growth` times as many, but for the
        rate: that is at most its bound times what the batch has grown.
        """
        ...

    def notes(self) -> tuple[str, ...]:
        """What a reader of the answer must know about the model: what it leaves out."""
        ...


Interval = tuple[float, float]  # low, high


def is_outside(value: float, interval: Interval) -> bool:
    """Whether a predicted value lies beside where measured ones do: the prediction is biased."""
    return not interval[0] <= value <= interval[1]


@dataclass(frozen=True, slots=True)
class Expected:
    """Where measured values of metrics are expected; None where nothing like it was measured.

    share: of measured values that lie inside.
    """

    share: float
    tokens_per_s: Interval | None = None
    ttft_us: Interval | None = None
    tpot_us: Interval | None = None

    def per_gpu(self, num_gpus: float) -> Interval | None:
        """Return where the rate of one GPU is expected."""
        if self.tokens_per_s is None:
            return None
        low, high = self.tokens_per_s
        return (low / num_gpus, high / num_gpus)


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a plan delivers, in floats; None where the cost model does not say.

    `concurrency` is the closed-loop number of batches in flight over all replicas: one per stage.
    expected: where measured values lie; None where the cost model has no error bands.
    """

    tokens_per_s: float
    tokens_per_s_per_gpu: float
    ttft_us: float | None
    tpot_us: float | None
    concurrency: int
    batch_per_gpu: float
    stage_boundaries: int
    peak_memory_bytes: float
    weights_bytes: float
    kv_cache_bytes: float | None
    activation_bytes: float | None
    reserved_bytes: float | None
    expected: Expected | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One pipeline stage: its layers, its degrees; its GPUs stand in `Plan.gpus`."""

    index: int
    layers: tuple[int, ...]
    tp: int
    cp: int
    attn_dp: int
    ep: int
    etp: int
    spread: int

    @property
    def num_gpus(self) -> int:
        """GPUs of the stage by its attention grid."""
        return self.tp * self.cp * self.attn_dp


PLACEMENT_COLUMNS = ("layer", "expert", "copy", "shard", "gpu")


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """An explicit layout: nothing about it needs to be derived to be checked.

    gpus: `gpus[replica][stage]` lists GPU ids in rank order. Rank r of a stage is attention rank
    `(attn_dp_i * cp + cp_i) * tp + tp_i = r` and expert rank
    `(grid * ep + ep_i) * etp + etp_i = r`.
    placement: shape (expert shards, 5), columns PLACEMENT_COLUMNS; empty for a dense model. A
    replica (copy) without any row there has its experts on the same ranks as replica 0.
    batch: sequences per attention group and micro-batch; 0 where the workload gives the batch.
    chunks: parts in which a prompt is computed, one after another.
    """

    name: str
    llm: str
    cluster: str
    replicas: int
    pp: int
    stages: tuple[Stage, ...]
    gpus: tuple[tuple[tuple[int, ...], ...], ...]
    placement: IntArray
    batch: int = 0
    chunks: int = 1

    @property
    def num_gpus(self) -> int:
        """Distinct GPUs that the plan uses."""
        return len({g for replica in self.gpus for stage in replica for g in stage})

    def degree(self, key: str) -> int | None:
        """Return a degree by its short key; None where the stages differ."""
        if key in ("replicas", "pp"):
            return int(getattr(self, key))
        values = {getattr(stage, key) for stage in self.stages}
        return int(values.pop()) if len(values) == 1 else None


@dataclass(frozen=True, slots=True, eq=False)
class DisaggregatedPlan:
    """Two explicit layouts on GPUs of their own: prompts are computed by one, answers by the other.

    The GPU ids of both are those of the cluster.
    load: share of the time in which prefill works, in percent; None where a plan leaves it open.
    """

    name: str
    prefill: Plan
    decode: Plan
    load: int | None = None

    @property
    def llm(self) -> str:
        """The model that both hold."""
        return self.prefill.llm

    @property
    def cluster(self) -> str:
        """The cluster that both lie in."""
        return self.prefill.cluster

    @property
    def roles(self) -> dict[str, Plan]:
        """Both layouts by their role, in the order in which a request meets them."""
        return {"prefill": self.prefill, "decode": self.decode}

    @property
    def num_gpus(self) -> int:
        """Distinct GPUs that the plan uses."""
        plans = (self.prefill, self.decode)
        return len({g for plan in plans for replica in plan.gpus for s in replica for g in s})


AnyPlan = Plan | DisaggregatedPlan


@dataclass(frozen=True, slots=True)
class Problem:
    """A scenario made ready to solve: its legal candidates, its costs and its topology."""

    scenario: Scenario
    topology: Topology
    candidates: Candidates
    cost_model: CostModel

    def over_batches(self, growth: FloatArray) -> "Problem":
        """Return the problem with bounds that hold for ranges of batches; see `CostModel`."""
        model = self.cost_model.over_batches(growth)
        return self if model is self.cost_model else replace(self, cost_model=model)

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return self.scenario.llm.num_layers

    @property
    def num_experts(self) -> int:
        """Experts per layer that has any; 0 for a dense model."""
        return self.scenario.llm.num_experts

    @property
    def expert_layers_before(self) -> IntArray:
        """How many of the first i layers have experts, shape (layers + 1,)."""
        upto = np.zeros(self.num_layers + 1, dtype=np.int64)
        upto[[layer + 1 for layer in self.scenario.llm.expert_layers]] = 1
        return upto.cumsum()

    @property
    def num_gpus(self) -> int:
        """GPUs of the cluster."""
        return self.scenario.cluster.num_gpus
