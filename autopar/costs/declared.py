"""The declared cost model: the numbers that a document states about its own plan, and no others.

Throughput is a rate per GPU times the GPUs used, whatever the layout; every layer takes the same
stated time; memory is the weights of the expert parts that a GPU holds, plus what is stated.
"""

from dataclasses import replace
from typing import Self

import numpy as np

from autopar.costs.operations import arrays, parts
from autopar.errors import SpecError
from autopar.problem import Candidates, FloatArray, IntArray, RowBounds, StageCosts
from autopar.specs import Scenario


class DeclaredCosts:
    """Costs as the scenario's section `declared` states them."""

    name = "declared"

    def __init__(self, scenario: Scenario) -> None:
        if scenario.declared is None:
            raise SpecError("cost_model 'declared' needs the section 'declared'")
        if scenario.workload.is_open:
            raise SpecError(
                "cost_model 'declared' states times for one batch, but workload "
                f"{scenario.workload.name!r} leaves the batch open; expected batch_tokens or "
                "batch_sequences with sequence_tokens, or cost_model 'analytic'"
            )
        self._llm = scenario.llm
        holds = np.zeros(self._llm.num_layers + 1, dtype=np.int64)
        holds[[layer + 1 for layer in self._llm.expert_layers]] = 1
        self._expert_layers = holds.cumsum()  # with experts among the first i layers
        self._declared = scenario.declared
        self._is_prefill = scenario.workload.phase == "prefill"
        self._rate_per_gpu = parts.declared_tokens_per_s_per_gpu(
            scenario.cluster.gpu.peak_flops_per_s,
            scenario.declared.compute_efficiency,
            scenario.declared.utilisation,
            scenario.declared.flops_per_token,
        )

    def stage_costs(self, rows: Candidates, first: IntArray, stop: IntArray) -> StageCosts:
        """Cost of segment `[first[i], stop[i])` as a stage of `rows[i]`, shape (pairs,)."""
        num_layers = stop - first
        time_us = arrays.real(num_layers) * self._declared.layer_time_us
        return StageCosts(
            time_us=time_us,
            tokens_per_s=self._rate(rows),
            tpot_us=None if self._is_prefill else rows.pp * time_us,
            weights_bytes=self._weights(rows, first, stop),
            kv_cache_bytes=_stated(self._declared.kv_cache_bytes_per_gpu, time_us),
            activation_bytes=_stated(self._declared.activation_bytes_per_gpu, time_us),
            reserved_bytes=_stated(self._declared.reserved_bytes_per_gpu, time_us),
        )

    def look_ahead(self, rows: Candidates) -> None:
        """Nothing: no cost takes long."""

    def bounds(self, rows: Candidates) -> RowBounds:
        """Bounds over all splits: the fullest stage has at least ceil(layers / pp) layers."""
        num_layers = self._llm.num_layers
        fullest = -(-num_layers // rows.pp)
        best = self.stage_costs(rows, np.zeros_like(fullest), fullest)
        ttft_us = np.full(len(rows), num_layers * self._declared.layer_time_us)
        return RowBounds(
            tokens_per_s=best.tokens_per_s,
            ttft_us=ttft_us if self._is_prefill else None,
            tpot_us=best.tpot_us,
            memory_bytes=replace(best, weights_bytes=self._least_weights(rows)).memory_bytes,
        )

    def over_batches(self, growth: FloatArray) -> Self:
        """The batch is given: a range has no other."""
        return self

    def notes(self) -> tuple[str, ...]:
        """What the declared numbers leave out."""
        missing = [
            name.removesuffix("_bytes_per_gpu").replace("_", " ")
            for name in (
                "kv_cache_bytes_per_gpu", "activation_bytes_per_gpu", "reserved_bytes_per_gpu",
            )
            if getattr(self._declared, name) is None
        ]  # fmt: skip
        notes = ["declared costs: time per layer and rate per GPU are the same for every layout"]
        if missing:
            notes.append(f"memory counts weights only: {', '.join(missing)} not stated")
        return tuple(notes)

    def _rate(self, rows: Candidates) -> FloatArray:
        return arrays.real(rows.gpus_used(self._llm.num_layers)) * self._rate_per_gpu

    def _weights(self, rows: Candidates, first: IntArray, stop: IntArray) -> FloatArray:
        """Every layer has its share of the parameters: its experts do, where it has any."""
        with_experts = self._expert_layers[stop] - self._expert_layers[first]
        num_layers = stop - first
        per_grid = -(-with_experts // rows.stage_spread(num_layers))
        of_experts, of_dense = self._layer_bytes(rows)
        total: FloatArray = of_experts * per_grid + of_dense * (num_layers - with_experts)
        return total

    def _layer_bytes(self, rows: Candidates) -> tuple[FloatArray, FloatArray]:
        """Bytes of one layer on a GPU of its grid, with experts and without, shape (rows,)."""
        layer_bytes = self._llm.weight_bytes / self._llm.num_layers
        return (
            parts.shard_bytes(layer_bytes, rows.ep * rows.etp),
            parts.shard_bytes(layer_bytes, rows.tp),
        )

    def _least_weights(self, rows: Candidates) -> FloatArray:
        """Weights on the fullest GPU in the best split: of either sort of layer, or the mean."""
        with_experts = int(self._expert_layers[-1])
        dense = self._llm.num_layers - with_experts
        of_experts, of_dense = self._layer_bytes(rows)
        fullest = -(-with_experts // rows.pp)
        spread = np.maximum(np.where(rows.spread == 0, fullest, rows.spread), 1)
        whole: FloatArray = of_experts * -(-with_experts // spread) + of_dense * dense
        split = np.maximum.reduce(
            [
                of_experts * -(-fullest // spread),
                of_dense * -(-dense // rows.pp),
                (of_experts * with_experts / spread + of_dense * dense) / rows.pp * (1 - 1e-12),
            ]
        )
        return arrays.real(np.where(rows.pp == 1, whole, split))


def _stated(value: float | None, like: FloatArray) -> FloatArray | None:
    return None if value is None else np.full(len(like), value)
