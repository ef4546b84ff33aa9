"""One point of the peer's own sweep, evaluated as its command line evaluates it.

Runs inside the peer's environment only; the repository's environment lacks what it imports. It
takes the same road as `aiconfigurator cli default`: a Task builds the model for one set of degrees,
and predict_agg_worker or predict_disagg_worker gives its numbers. Not `cli estimate`, which builds
large expert groups differently.
"""

import importlib
import logging
import math
import os
import re
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("AICONFIGURATOR_LOG_LEVEL", "ERROR")
logging.disable(logging.WARNING)

_task = importlib.import_module("aiconfigurator.sdk.task_v2")
_sweep = importlib.import_module("aiconfigurator.sdk.sweep")
_predict = importlib.import_module("aiconfigurator.sdk.predict")
_models = importlib.import_module("aiconfigurator.sdk.models")
_factory = importlib.import_module("aiconfigurator.sdk.backends.factory")
_memory = importlib.import_module("aiconfigurator_core.sdk.memory")
_utils = importlib.import_module("aiconfigurator_core.sdk.utils")
_common = importlib.import_module("aiconfigurator_core.sdk.common")

GIB = 1 << 30
# Order of a parallel choice in the peer; cp (context parallel) is always 1 here.
DEGREES = ("tp", "pp", "attention_dp", "moe_tp", "moe_ep")
# Operations whose time the peer always computes from bytes and bandwidth, in every mode.
ANALYTIC = ("embedding", "add_norm", "act_gate", "p2p", "embedding_ar")


def parallel_of(plan: dict[str, Any]) -> tuple[int, ...]:
    """Return the peer's parallel choice (tp, pp, dp, moe_tp, moe_ep, cp) of one role's degrees."""
    return (*(int(plan.get(name, 1)) for name in DEGREES), 1)


def gpus_of(parallel: tuple[int, ...]) -> int:
    """GPUs of one replica or worker."""
    return parallel[0] * parallel[1] * parallel[2]


@dataclass(slots=True)
class Point:
    """What the peer says of one replica (aggregated) or one worker (one role of two).

    Times in ms, memory in GiB per GPU, tokens_per_s of output tokens and requests_per_s of the
    whole replica or worker. operations: per step, operation -> us.
    """

    ttft_ms: float
    tpot_ms: float
    tokens_per_s: float
    requests_per_s: float
    concurrency: float
    gpus: int
    memory: dict[str, float]
    capacity_gib: float
    kv_budget_gib: float | None
    does_not_fit: bool
    kv_does_not_fit: bool
    ctx_tokens: int = 0
    steps: dict[str, float] = field(default_factory=dict)
    operations: dict[str, dict[str, float]] = field(default_factory=dict)
    not_measured: list[str] = field(default_factory=list)
    moe_comm: dict[str, str] | None = None
    substitutes: list[str] = field(default_factory=list)

    @property
    def mean_step_ms(self) -> float:
        """Mean of all steps of a cycle, aggregated: TPOT without the mixed steps it leaves out."""
        mixed, alone = self.steps["num_mix_steps"], self.steps["num_genonly_steps"]
        total_ms = mixed * self.steps["mix_step_latency_ms"]
        total_ms += alone * self.steps["genonly_step_latency_ms"]
        return total_ms / (mixed + alone)

    @property
    def fits(self) -> bool:
        """Whether both of the peer's memory checks pass."""
        return not (self.does_not_fit or self.kv_does_not_fit)


class Peer:
    """The peer's evaluator for one model on one system with one backend and one workload."""

    def __init__(
        self, model: str, system: str, backend: str, isl: int, osl: int, **more: Any
    ) -> None:
        """Load the peer's database; `more` goes to its Task (ttft, tpot, total_gpus, ...)."""
        common = {"isl": isl, "osl": osl, **more}
        self.isl, self.osl = isl, osl
        self.model, self.backend_name = model, backend
        self.agg = _task.Task(
            serving_mode="agg",
            model_path=model,
            system_name=system,
            backend_name=backend,
            **common,
        )
        self.disagg = _task.Task(
            serving_mode="disagg",
            prefill_model_path=model,
            decode_model_path=model,
            prefill_system_name=system,
            decode_system_name=system,
            prefill_backend_name=backend,
            decode_backend_name=backend,
            **common,
        )
        self.database = self.agg._load_database(system, backend, self.agg.backend_version)  # noqa: SLF001
        self.capacity_gib = self.database.system_spec["gpu"]["mem_capacity"] / GIB
        self.gpus_per_node = int(self.database.system_spec["node"]["num_gpus_per_node"])
        self._built: dict[tuple[str, tuple[int, ...]], tuple[Any, Any]] = {}

    @property
    def is_moe(self) -> bool:
        """Whether the peer sees experts in this model."""
        return bool(self.agg.is_moe)

    @property
    def version(self) -> str:
        """Version of the measured engine whose kernels are used."""
        return str(self.agg.backend_version)

    def _model(self, role: str, parallel: tuple[int, ...]) -> tuple[Any, Any]:
        key = (role, parallel)
        if key not in self._built:
            task = self.agg if role == "agg" else self.disagg
            config = task.build_model_config(role=role, parallel=parallel)
            model = _models.get_model(
                model_path=self.model, model_config=config, backend_name=self.backend_name
            )
            self._built[key] = (model, _factory.get_backend(self.backend_name))
        return self._built[key]

    def allows(self, parallel: tuple[int, ...]) -> bool:
        """Whether its own enumeration admits these degrees for this backend.

        Its evaluator prices more than that, attention groups of several GPUs on TensorRT-LLM say.
        """
        tp, pp, dp, moe_tp, moe_ep, _ = parallel
        allowed = _utils.enumerate_parallel_config(
            num_gpu_list=[gpus_of(parallel)],
            tp_list=[tp],
            pp_list=[pp],
            dp_list=[dp],
            moe_tp_list=[moe_tp],
            moe_ep_list=[moe_ep],
            is_moe=self.is_moe,
            backend=_common.BackendName[self.backend_name],
        )
        return bool(allowed) and (self.is_moe or dp * moe_tp * moe_ep == 1)

    def ctx_choices(self) -> list[int]:
        """Prompt tokens per mixed step that its sweep tries."""
        chosen: list[int] = _sweep._agg_ctx_tokens_list(  # noqa: SLF001
            self.isl, 512, self.agg.enable_chunked_prefill
        )
        return chosen

    def is_tried(self, batch: int, ctx_tokens: int) -> bool:
        """Whether its sweep evaluates this batch with this many prompt tokens per step."""
        rest = batch - math.ceil(ctx_tokens / self.isl)
        return rest >= 0 and (batch == 1 or rest >= 1)

    def aggregated(self, parallel: tuple[int, ...], batch: int, ctx_tokens: int) -> Point:
        """Evaluate one replica with `batch` sequences per attention rank and pipeline slot."""
        model, backend = self._model("agg", parallel)
        summary = _predict.predict_agg_worker(
            model=model,
            backend=backend,
            database=self.database,
            runtime_config=self.agg.build_runtime_config(batch),
            ctx_tokens=ctx_tokens,
        )
        row = summary.get_result_dict()
        point = self._point(summary, row, model)
        point.ctx_tokens = ctx_tokens
        data = dict(summary.get_per_ops_data())
        scheduling = data.pop("scheduling", {})
        point.steps = {name: float(value) for name, value in scheduling.items()}
        point.operations = {
            step: {name: ms * 1000 for name, ms in sorted(times.items())}
            for step, times in data.items()
        }
        point.not_measured = _not_measured(summary.get_per_ops_source())
        return point

    def worker(self, role: str, parallel: tuple[int, ...], batch: int) -> Point:
        """Evaluate one worker of one role: a prefill of `batch` prompts, or a whole decode."""
        model, backend = self._model(role, parallel)
        task = self.disagg
        correction = (
            task.prefill_latency_correction if role == "prefill" else task.decode_latency_correction
        )
        summary = _predict.predict_disagg_worker(
            model=model,
            backend=backend,
            database=self.database,
            runtime_config=task.build_runtime_config(batch),
            role=role,
            latency_correction=correction,
        )
        row = summary.get_summary_df().iloc[0].to_dict()
        point = self._point(summary, row, model)
        phase = "context" if role == "prefill" else "generation"
        steps = 1 if role == "prefill" else max(self.osl - 1, 1)
        times = getattr(summary, f"get_{phase}_latency_dict")()
        point.operations = {phase: {name: ms * 1000 / steps for name, ms in sorted(times.items())}}
        point.not_measured = _not_measured(
            {phase: getattr(summary, f"get_{phase}_source_dict")() or {}}
        )
        return point

    def _point(self, summary: Any, row: dict[str, Any], model: Any) -> Point:
        memory = {name: float(value) for name, value in summary._memory.items()}  # noqa: SLF001
        return Point(
            ttft_ms=float(row["ttft"]),
            tpot_ms=float(row["tpot"]),
            tokens_per_s=float(row["tokens/s"]),
            requests_per_s=float(row["seq/s"]),
            concurrency=float(row["concurrency"]),
            gpus=int(row["num_total_gpus"]),
            memory=memory,
            capacity_gib=self.capacity_gib,
            kv_budget_gib=self._kv_budget_gib(summary, memory),
            does_not_fit=bool(summary.check_oom()),
            kv_does_not_fit=bool(summary.check_kv_cache_oom()),
            moe_comm=model.config.moe_comm_backend,
            substitutes=[str(item) for item in summary.get_moe_comm_fallbacks() or ()],
        )

    def _kv_budget_gib(self, summary: Any, memory: dict[str, float]) -> float | None:
        fraction = summary._free_gpu_memory_fraction  # noqa: SLF001
        if fraction is None:
            return None
        budget: float = _memory.kv_cache_budget_bytes(
            capacity=self.capacity_gib,
            non_kv=memory["total"] - memory["kvcache"],
            fraction=fraction,
            of_free=summary._fraction_of_free,  # noqa: SLF001
            reserved=summary._kv_cache_reserved_fraction,  # noqa: SLF001
            tolerance=summary._kv_cache_tolerance,  # noqa: SLF001
        )
        return budget


def _not_measured(sources: dict[str, dict[str, str]] | None) -> list[str]:
    """Operations that do not come from the tables alone, the always analytic ones left out."""
    return sorted(
        f"{step}/{name}: {source}"
        for step, tags in (sources or {}).items()
        for name, source in tags.items()
        if source != "silicon" and not any(word in name for word in ANALYTIC)
    )


def said(error: Exception) -> str:
    """Return what went wrong, without the folders of the machine."""
    return re.sub(r"/[^\s'\"]*/", "", f"{type(error).__name__}: {error}")[:500]
