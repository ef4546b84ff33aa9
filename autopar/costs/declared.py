"""The declared cost model: the numbers that a document states about its own plan, and no others.

Throughput is a rate per GPU times the GPUs used, whatever the layout; every layer takes the same
stated time; memory is the weights of the expert parts that a GPU holds, plus what is stated.
"""

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
        self._llm = scenario.llm
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
            weights_bytes=self._weights(rows, num_layers),
            kv_cache_bytes=_stated(self._declared.kv_cache_bytes_per_gpu, time_us),
            activation_bytes=_stated(self._declared.activation_bytes_per_gpu, time_us),
            reserved_bytes=_stated(self._declared.reserved_bytes_per_gpu, time_us),
        )

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
            memory_bytes=best.memory_bytes,
        )

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

    def _weights(self, rows: Candidates, num_layers: IntArray) -> FloatArray:
        layer_bytes = self._llm.weight_bytes / self._llm.num_layers
        if not self._llm.is_moe:
            return parts.shard_bytes(layer_bytes, rows.tp) * num_layers
        layers_per_grid = -(-num_layers // rows.stage_spread(num_layers))
        return parts.shard_bytes(layer_bytes, rows.ep * rows.etp) * layers_per_grid


def _stated(value: float | None, like: FloatArray) -> FloatArray | None:
    return None if value is None else np.full(len(like), value)
