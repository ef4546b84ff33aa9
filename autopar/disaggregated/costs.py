"""What a role costs: the analytic model of its phase, with rates that the two roles can compare.

A role's rate is told in output tokens per second of the requests that it serves, so that the rate
of a pair is the smaller of the two. A GPU of prefill sends the part of a prompt's cache that it
holds, a GPU of decode receives what it will hold, all at once; the slowest one sets the time of
this handover.
"""

from copy import copy
from dataclasses import replace
from operator import is_

import numpy as np

from autopar.costs.analytic import AnalyticCosts
from autopar.costs.memory import Store
from autopar.costs.operations.arrays import real
from autopar.costs.operations.collectives import Network
from autopar.costs.shape import Shape, ceil_div
from autopar.costs.steps import Steps
from autopar.errors import SpecError
from autopar.problem import Candidates, FloatArray, IntArray, RowBounds, StageCosts
from autopar.specs import Scenario
from autopar.specs.roles import Role, requests_per_token, role_scenario

_US_PER_S = 1e6


class RoleCosts:
    """The costs of one role of a disaggregated service."""

    name = "analytic"

    def __init__(self, scenario: Scenario, role: Role) -> None:
        if scenario.cost_model != "analytic":
            raise SpecError(
                f"cost_model: {scenario.cost_model!r} does not tell prefill from decode; expected "
                "analytic for workload phase 'disaggregated'"
            )
        self._model = AnalyticCosts(role_scenario(scenario, role))
        self._handover = Handover(scenario)
        work = scenario.workload
        self._is_prefill = role == "prefill"
        self._output_tokens = work.output_tokens or 1
        self._outputs_per_token = requests_per_token(work, role) * self._output_tokens
        self._last: tuple[tuple[IntArray, ...], RowBounds] | None = None

    def stage_costs(self, rows: Candidates, first: IntArray, stop: IntArray) -> StageCosts:
        """Cost of segment `[first[i], stop[i])` as a stage of `rows[i]`, shape (pairs,)."""
        costs = self._model.stage_costs(rows, first, stop)
        rate = costs.tokens_per_s * self._outputs_per_token
        return StageCosts(
            time_us=costs.time_us,
            tokens_per_s=rate,
            tpot_us=costs.tpot_us,
            weights_bytes=costs.weights_bytes,
            kv_cache_bytes=costs.kv_cache_bytes,
            activation_bytes=costs.activation_bytes,
            reserved_bytes=costs.reserved_bytes,
            handover_us=self._handover.of_segments_us(rows, first, stop),
            service_us=self.service_us(rows, rate),
        )

    def look_ahead(self, rows: Candidates) -> None:
        """Let the model of the role prepare."""
        self._model.look_ahead(rows)

    def bounds(self, rows: Candidates) -> RowBounds:
        """Bounds over all splits of the layers of each row, shape (rows,)."""
        key = (rows.pp, rows.tp, rows.cp, rows.attn_dp, rows.ep, rows.batch, rows.chunks)
        if self._last is None or not all(map(is_, self._last[0], key)):
            one = replace(rows, replicas=np.ones_like(rows.replicas))
            self._last = key, self._model.bounds(one)
        bounds = self._last[1]  # asked again and again, with other replicas
        return RowBounds(
            bounds.tokens_per_s * rows.replicas * self._outputs_per_token,
            bounds.ttft_us,
            bounds.tpot_us,
            bounds.memory_bytes,
        )

    def over_batches(self, growth: FloatArray) -> "RoleCosts":
        """Return the costs with bounds over batches; itself where times grow with the batch."""
        model = self._model.over_batches(growth)
        if model is self._model:
            return self
        other = copy(self)
        vars(other).update(_last=None, _model=model)
        return other

    def service_us(self, rows: Candidates, rate: FloatArray) -> FloatArray:
        """Time in which an attention group computes one prompt, at a rate of all replicas.

        The groups of all replicas share the rate. 0 in decode. Shape (rows,).
        """
        if not self._is_prefill:
            return np.zeros(len(rows))
        groups = real(rows.replicas * rows.attn_dp)
        return groups * self._output_tokens / rate * _US_PER_S

    def handover_bounds_us(self, rows: Candidates) -> FloatArray:
        """Time of the handover that no split of a row's layers beats, shape (rows,)."""
        return self._handover.least_us(rows)

    def notes(self) -> tuple[str, ...]:
        """Return what the model of this role leaves out."""
        return self._model.notes()


class Handover:
    """How long the cache of one prompt takes from the GPUs of prefill to those of decode."""

    def __init__(self, scenario: Scenario) -> None:
        self._shape = Shape.of(scenario.llm, role_scenario(scenario, "prefill").workload)
        self._store = Store(self._shape)
        self._network = Network.of(scenario.cluster, scenario.cost_factors, scenario.engine)
        self._span = scenario.cluster.num_gpus
        self._known: dict[tuple[int, int], FloatArray] = {}

    def of_segments_us(self, rows: Candidates, first: IntArray, stop: IntArray) -> FloatArray:
        """Time of segment `[first[i], stop[i])` of `rows[i]`, shape (pairs,)."""
        counts = self._shape.kind_counts(first, stop)
        return self._us((counts * self._layer_bytes(rows)).sum(axis=0))

    def least_us(self, rows: Candidates) -> FloatArray:
        """Time that the slowest stage does not beat, shape (rows,).

        It holds no less than the mean, nor than its share of the layers of any one kind.
        """
        counts = self._shape.counts[:, -1][:, None]
        layer_bytes = self._layer_bytes(rows)
        mean = (counts * layer_bytes).sum(axis=0) / rows.pp
        fullest = (ceil_div(counts, rows.pp[None, :]) * layer_bytes).max(axis=0)
        return self._us(np.maximum(mean, fullest)) * (1 - 1e-12)  # a hair: sums differ by order

    def _us(self, size_bytes: FloatArray) -> FloatArray:
        return self._network.point_to_point_us(size_bytes, np.full(len(size_bytes), self._span))

    def _layer_bytes(self, rows: Candidates) -> FloatArray:
        """Bytes of one prompt on one GPU, per layer of each kind, shape (kinds, rows or 1)."""
        if not len(rows) or (rows.tp != rows.tp[0]).any() or (rows.cp != rows.cp[0]).any():
            return self._computed(rows)
        key = int(rows.tp[0]), int(rows.cp[0])
        if key not in self._known:
            self._known[key] = self._computed(rows.take(np.array([0])))
        return self._known[key]

    def _computed(self, rows: Candidates) -> FloatArray:
        one = np.ones(len(rows), dtype=np.int64)
        alone = Candidates(one, one, rows.tp, rows.cp, one, one, one, one, one, one)
        steps = Steps.of(self._shape, alone, one)
        kinds = self._shape.kinds
        return np.stack([self._store.kv_cache_bytes(kind, alone, steps) for kind in kinds])
