"""Requirements, user rules and stated numbers, held against what was recomputed."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from autopar.errors import SpecError
from autopar.expressions import parse
from autopar.problem import Metrics, Plan
from autopar.results import Violation
from autopar.specs import RuleSpec, Scenario
from autopar.units import BYTES, DURATION_US, TOKENS_PER_S, format_bytes, format_rate, format_us
from autopar.verifier.findings import found
from autopar.verifier.layout import Layout, stage_degrees
from autopar.verifier.metrics import Measured

# The solver counts in whole nanoseconds, bytes and thousandths of a token per second, and rounds
# once per stage; a plan at its limit may be off by that much and no more.
_TIME_US = 1e-3
_RATE_PER_S = 1e-3
_SIZE_BYTES = 1.0
_FLOAT = 1e-9
_STATED = 1e-6  # relative; a stated metric beyond this and the rounding is another number


def limit_violations(scenario: Scenario, plan: Plan, measured: Measured) -> Iterator[Violation]:
    """Yield requirements that the metrics miss."""
    yield from _memory(scenario, measured)
    yield from _latency(scenario, plan, measured.metrics)
    yield from _throughput(scenario, measured.metrics)


def limit_notes(scenario: Scenario, metrics: Metrics) -> Iterator[str]:
    """Yield requirements that cannot be checked because the workload has no such metric."""
    needs, phase = scenario.requirements, scenario.workload.phase
    for name, limit, value in (
        ("max_ttft_us", needs.max_ttft_us, metrics.ttft_us),
        ("max_tpot_us", needs.max_tpot_us, metrics.tpot_us),
    ):
        if limit is not None and value is None:
            yield f"{name} is not checked: a {phase} workload has no such time"


def _memory(scenario: Scenario, measured: Measured) -> Iterator[Violation]:
    if "memory" in scenario.recipe.disable:
        return
    fraction = scenario.requirements.max_memory_fraction
    capacity = fraction * scenario.cluster.gpu.memory_bytes
    over = np.flatnonzero(measured.memory_bytes > capacity * (1 + _FLOAT) + _SIZE_BYTES)
    over = over[np.argsort(-measured.memory_bytes[over], kind="stable")]
    yield from found(
        "memory over capacity",
        [
            f"GPU {gpu} holds {format_bytes(float(measured.memory_bytes[gpu]))} "
            f"({measured.memory_bytes[gpu]:,.0f} bytes), {format_bytes(capacity)} are allowed"
            for gpu in over.tolist()
        ],
    )


def _latency(scenario: Scenario, plan: Plan, metrics: Metrics) -> Iterator[Violation]:
    needs = scenario.requirements
    for name, limit, value in (
        ("TTFT", needs.max_ttft_us, metrics.ttft_us),
        ("TPOT", needs.max_tpot_us, metrics.tpot_us),
    ):
        if limit is None or value is None or name.lower() in scenario.recipe.disable:
            continue
        if value > limit * (1 + _FLOAT) + _TIME_US * plan.pp:
            message = (
                f"{name} is {format_us(value)} ({value:,.3f} us) over {plan.pp} stages, "
                f"at most {format_us(limit)} is allowed"
            )
            yield from found(f"{name} over limit", [message])


def _throughput(scenario: Scenario, metrics: Metrics) -> Iterator[Violation]:
    needs = scenario.requirements
    if "throughput" in scenario.recipe.disable:
        return
    for kind, target, value in (
        ("throughput under target", needs.min_tokens_per_s, metrics.tokens_per_s),
        (
            "throughput per GPU under target",
            needs.min_tokens_per_s_per_gpu,
            metrics.tokens_per_s_per_gpu,
        ),
    ):
        if target is not None and value < target * (1 - _FLOAT) - _RATE_PER_S:
            message = (
                f"{format_rate(value)} ({value:,.3f} tokens/s), "
                f"at least {format_rate(target)} are required"
            )
            yield from found(kind, [message])


def rule_violations(scenario: Scenario, plan: Plan, layout: Layout) -> Iterator[Violation]:
    """Yield rules of the scenario, its rule packs and its recipe that do not hold.

    Raises SpecError naming the rule if its expression cannot be read or evaluated.
    """
    if not layout.stage_gpus.size:
        return
    values = _rule_values(scenario, plan, layout)
    messages: list[str] = []
    for rule in scenario.all_rules:
        if rule.name not in scenario.recipe.disable:
            messages += _broken(rule, values, layout)
    for message in messages:  # one per rule, and every rule is named
        yield from found("rule broken", [message])


def _broken(rule: RuleSpec, values: Mapping[str, Any], layout: Layout) -> Iterator[str]:
    text = rule.require or rule.forbid or rule.sum or ""
    shape = layout.stage_gpus.shape
    try:
        expression = parse(text, values.keys())
        missing = [name for name in sorted(expression.names) if values[name] is None]
        if missing:
            raise ValueError(f"the spec does not state {', '.join(missing)}")  # noqa: TRY301
        result = np.broadcast_to(np.asarray(expression.evaluate(values)), shape)
    except ValueError as error:
        raise SpecError(f"rule {rule.name!r}: {error}") from error
    if rule.sum is not None:
        total = float(result.sum())
        slack = _FLOAT * max(abs(total), 1.0)
        if rule.at_most is not None and total > rule.at_most + slack:
            yield (
                f"{rule.name}: sum of {text} is {total:,g}, at most {rule.at_most:,g}; "
                f"{rule.because}"
            )
        if rule.at_least is not None and total < rule.at_least - slack:
            yield (
                f"{rule.name}: sum of {text} is {total:,g}, at least {rule.at_least:,g}; "
                f"{rule.because}"
            )
        return
    bad = np.argwhere(result.astype(np.bool_) == (rule.forbid is not None)).tolist()
    if bad:
        copy, stage = bad[0]
        said = ", ".join(
            f"{name} = {float(np.broadcast_to(values[name], shape)[copy, stage]):g}"
            for name in sorted(expression.names)
        )
        word = "require" if rule.require is not None else "forbid"
        yield (
            f"{rule.name}: {word} {text} does not hold in replica {copy} stage {stage} ({said})"
            + (f" and {len(bad) - 1:,} more stages" if len(bad) > 1 else "")
            + f"; {rule.because}"
        )


def _rule_values(scenario: Scenario, plan: Plan, layout: Layout) -> dict[str, Any]:
    """Return what rules may speak of; shape (replicas, stages) where stages may differ."""
    cluster, llm = scenario.cluster, scenario.llm
    degrees = {
        key: stage_degrees(plan, key) for key in ("tp", "cp", "attn_dp", "ep", "etp", "spread")
    }
    return {
        **degrees,
        "replicas": len(plan.gpus),
        "pp": len(plan.stages),
        "layers_per_stage": np.array([len(stage.layers) for stage in plan.stages]),
        "gpus": layout.stage_gpus,
        "expert_group_gpus": layout.stage_gpus,  # every GPU of a stage sends tokens to its experts
        "expert_grid_gpus": degrees["ep"] * degrees["etp"],
        "gpus_used": len(layout.used_gpus),
        "num_layers": llm.num_layers,
        "num_experts": llm.num_experts,
        "num_gpus": cluster.num_gpus,
        "gpus_per_node": cluster.gpus_per_node,
        "scale_up_domain_gpus": cluster.domain_gpus,
        "power_w": getattr(cluster.gpu, "power_w", None),
    }


def stated_violations(
    scenario: Scenario,
    plan: Plan,
    layout: Layout,
    metrics: Metrics | None,
    stated: Mapping[str, Any],
) -> Iterator[Violation]:
    """Yield numbers that a plan states about itself and that are not what it gives.

    stated: names, units and nesting of an answer's `metrics`, with `num_gpus`, `idle_gpus` and
    `objective` beside them; names that verify does not recompute are passed over.
    """
    used = len(layout.used_gpus)
    truth: dict[str, tuple[float | None, float]] = {
        "num_gpus": (used, 0.0),
        "idle_gpus": (scenario.cluster.num_gpus - used, 0.0),
    }
    if metrics is not None:
        truth |= _metric_truth(metrics, plan.pp)
    memory = stated.get("memory")
    flat = {k: v for k, v in stated.items() if k in truth}
    if isinstance(memory, Mapping):
        flat |= {f"memory.{k}": v for k, v in memory.items() if f"memory.{k}" in truth}
    messages = []
    for name, value in flat.items():
        real, quantum = truth[name]
        if not _agrees(value, real, quantum):
            messages.append(f"{name} is stated as {_said(value)}, recomputed {_said(real)}")
    objective = stated.get("objective")
    if isinstance(objective, Mapping) and metrics is not None:
        messages += _objective(objective, metrics, plan.pp)
    for message in messages:
        yield from found("falsified metric", [message])


def _metric_truth(metrics: Metrics, pp: int) -> dict[str, tuple[float | None, float]]:
    """Return name -> (recomputed value, rounding of the solver in that unit)."""
    per_ms = 1e-3
    time_ms = _TIME_US * pp * per_ms
    return {
        "tokens_per_s": (metrics.tokens_per_s, _RATE_PER_S),
        "tokens_per_s_per_gpu": (metrics.tokens_per_s_per_gpu, _RATE_PER_S),
        "ttft_ms": (_scaled(metrics.ttft_us, per_ms), time_ms),
        "tpot_ms": (_scaled(metrics.tpot_us, per_ms), time_ms),
        "concurrency": (metrics.concurrency, 0.0),
        "batch_per_gpu": (metrics.batch_per_gpu, 0.0),
        "stage_boundaries": (metrics.stage_boundaries, 0.0),
        "peak_memory_bytes": (metrics.peak_memory_bytes, _SIZE_BYTES),
        "memory.weights": (metrics.weights_bytes, _SIZE_BYTES),
        "memory.kv_cache": (metrics.kv_cache_bytes, _SIZE_BYTES),
        "memory.activations": (metrics.activation_bytes, _SIZE_BYTES),
        "memory.reserved": (metrics.reserved_bytes, _SIZE_BYTES),
    }


def _objective(objective: Mapping[str, Any], metrics: Metrics, pp: int) -> Iterator[str]:
    known: dict[str, tuple[float | None, float, Mapping[str, float]]] = {
        "throughput": (metrics.tokens_per_s, _RATE_PER_S, TOKENS_PER_S),
        "ttft": (metrics.ttft_us, _TIME_US * pp, DURATION_US),
        "tpot": (metrics.tpot_us, _TIME_US * pp, DURATION_US),
        "memory": (metrics.peak_memory_bytes, _SIZE_BYTES, BYTES),
    }
    name, value, unit = (objective.get(key) for key in ("name", "value", "unit"))
    if name not in known:
        return
    real, quantum, units = known[name]
    factor = units.get(str(unit))
    if factor is None:
        yield f"objective {name}: unit {unit!r}, expected one of {', '.join(units)}"
    elif not _agrees(value, _scaled(real, 1 / factor), quantum / factor):
        yield (
            f"objective {name} is stated as {_said(value)} {unit}, "
            f"recomputed {_said(_scaled(real, 1 / factor))}"
        )


def _agrees(value: Any, real: float | None, quantum: float) -> bool:
    if value is None or real is None:
        return value is None and real is None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return abs(value - real) <= _STATED * abs(real) + quantum


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _said(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.10g}"
    return "nothing" if value is None else repr(value)[:60]
