"""What a plan document states about itself, held against the plan that it writes out."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from autopar.problem import Metrics, Plan
from autopar.results import Violation
from autopar.specs import PlanSpec, Scenario
from autopar.units import BYTES, DURATION_US, TOKENS_PER_S
from autopar.verifier.findings import found
from autopar.verifier.layout import Layout, listed
from autopar.verifier.limits import RATE_PER_S, SIZE_BYTES, TIME_US

_STATED = 1e-6  # relative; a stated number beyond this and the rounding is another number
_FLOAT = 1e-9
_DEGREES = ("tp", "cp", "attn_dp", "ep", "etp", "spread")
_SENSES = {
    "throughput": "max", "ttft": "min", "tpot": "min", "memory": "min", "traffic": "min",
    "gpus": "min",
}  # fmt: skip
_SAME = ("name", "value", "bound", "gap", "unit", "sense", "tied", "rounding_error")

Truth = tuple[float | None, float]  # the recomputed value, and the rounding of the solver in it


def header_violations(document: PlanSpec, scenario: Scenario, plan: Plan) -> Iterator[Violation]:
    """Yield what the header of a document says otherwise than the stages that it writes out.

    A degree that the header leaves out or gives as null says nothing.
    """
    yield from _stated_batch(document, scenario)
    if document.stages is None:
        return
    messages = []
    for key in _DEGREES:
        value = getattr(document.degrees, key)
        if key not in document.degrees.model_fields_set or value is None:
            continue
        other = [s.index for s in plan.stages if getattr(s, key) != value]
        if other:
            real = sorted({getattr(s, key) for s in plan.stages})
            messages.append(
                f"degrees.{key} is stated as {value}, but {key} = {listed(real)} in the stages "
                f"(stages {listed(other)})"
            )
    messages += _layers_per_stage(document, plan)
    for message in messages:  # one per degree, and every degree is named
        yield from found("falsified degrees", [message])
    yield from found(
        "falsified pool",
        [
            f"stages[{position}].pool is stated as {stage.pool!r}, but the pool of the cluster is "
            f"{scenario.cluster.name!r}"
            for position, stage in enumerate(document.stages)
            if stage.pool is not None and stage.pool != scenario.cluster.name
        ],
    )


def _stated_batch(document: PlanSpec, scenario: Scenario) -> Iterator[Violation]:
    """Yield a batch that a document states where the workload gives it, so that none is read."""
    if document.batch is not None and not scenario.workload.is_open:
        text = (
            f"batch is stated as {document.batch}, but workload {scenario.workload.name!r} gives "
            "the batch of every replica"
        )
        yield from found("batch out of range", [text])


def _layers_per_stage(document: PlanSpec, plan: Plan) -> Iterator[str]:
    stated = document.layers_per_stage
    if stated is None:
        return
    real = [len(stage.layers) for stage in plan.stages]
    sizes = [stated] * len(real) if isinstance(stated, int) else list(stated)
    if sizes != real:
        said = stated if isinstance(stated, int) else listed(stated)
        yield f"layers_per_stage is stated as {said}, but the stages hold {listed(real)} layers"


def stated_violations(
    scenario: Scenario,
    plan: Plan,
    layout: Layout,
    metrics: Metrics | None,
    stated: Mapping[str, Any],
) -> Iterator[Violation]:
    """Yield numbers that a plan states about itself and that are not what it gives.

    stated: names, units and nesting of an answer's `metrics`, with `num_gpus`, `idle_gpus`,
    `objective`, `objectives` and `status` beside them; names that verify does not recompute are
    passed over.
    """
    used = len(layout.used_gpus)
    truth: dict[str, Truth] = {
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
    objectives = dict(_objectives(stated))
    if metrics is not None:
        for where, objective in objectives.items():
            messages += _value(where, objective, metrics, used, plan.pp)
    for message in messages:
        yield from found("falsified metric", [message])
    for message in _proof(stated.get("status"), objectives):
        yield from found("falsified proof", [message])


def _objectives(stated: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every objective that a document states, with where it stands."""
    first, every = stated.get("objective"), stated.get("objectives")
    if isinstance(first, Mapping):
        yield "objective", first
    for index, objective in enumerate(every if isinstance(every, list) else []):
        if isinstance(objective, Mapping):
            yield f"objectives[{index}]", objective


def _metric_truth(metrics: Metrics, pp: int) -> dict[str, Truth]:
    per_ms = 1e-3
    time_ms = TIME_US * pp * per_ms
    return {
        "tokens_per_s": (metrics.tokens_per_s, RATE_PER_S),
        "tokens_per_s_per_gpu": (metrics.tokens_per_s_per_gpu, RATE_PER_S),
        "ttft_ms": (_scaled(metrics.ttft_us, per_ms), time_ms),
        "tpot_ms": (_scaled(metrics.tpot_us, per_ms), time_ms),
        "concurrency": (metrics.concurrency, 0.0),
        "batch_per_gpu": (metrics.batch_per_gpu, 0.0),
        "stage_boundaries": (metrics.stage_boundaries, 0.0),
        "peak_memory_bytes": (metrics.peak_memory_bytes, SIZE_BYTES),
        "memory.weights": (metrics.weights_bytes, SIZE_BYTES),
        "memory.kv_cache": (metrics.kv_cache_bytes, SIZE_BYTES),
        "memory.activations": (metrics.activation_bytes, SIZE_BYTES),
        "memory.reserved": (metrics.reserved_bytes, SIZE_BYTES),
    }


def _value(
    where: str, objective: Mapping[str, Any], metrics: Metrics, used: int, pp: int
) -> Iterator[str]:
    """Yield what is wrong with the value of one objective and its unit."""
    known: dict[str, tuple[float | None, float, Mapping[str, float]]] = {
        "throughput": (metrics.tokens_per_s, RATE_PER_S, TOKENS_PER_S),
        "ttft": (metrics.ttft_us, TIME_US * pp, DURATION_US),
        "tpot": (metrics.tpot_us, TIME_US * pp, DURATION_US),
        "memory": (metrics.peak_memory_bytes, SIZE_BYTES, BYTES),
        "traffic": (metrics.stage_boundaries, 0.0, {"stage boundaries": 1.0}),
        "gpus": (used, 0.0, {"GPUs": 1.0}),
    }
    name, value, unit = (objective.get(key) for key in ("name", "value", "unit"))
    if not isinstance(name, str) or name not in known:
        return
    real, quantum, units = known[name]
    factor = units.get(str(unit))
    if factor is None:
        yield f"{where} {name}: unit {unit!r}, expected one of {', '.join(units)}"
    elif not _agrees(value, _scaled(real, 1 / factor), quantum / factor):
        yield (
            f"{where} {name} is stated as {_said(value)} {unit}, "
            f"recomputed {_said(_scaled(real, 1 / factor))}"
        )


def _proof(status: Any, objectives: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield how status, values, bounds and gaps contradict each other, whatever the plan gives."""
    if status in ("infeasible", "unknown"):
        yield f"status is stated as {status!r}, but the document holds a plan"
    for where, objective in objectives.items():
        said = f"{where} {objective.get('name', '')}".rstrip()
        yield from (f"{said}: {text}" for text in _bound(objective))
        gap, real = _number(objective.get("gap")), _gap(objective)
        if status == "optimal" and ((gap or 0.0) > 0 or (real or 0.0) > _FLOAT):
            yield (
                f"{said}: status is stated as 'optimal', but a gap of {_said(gap or real)} is left"
            )
    first, listed_first = objectives.get("objective"), objectives.get("objectives[0]")
    if first is not None and listed_first is not None:
        keys = [k for k in _SAME if k in first and k in listed_first]
        other = [k for k in keys if first[k] != listed_first[k]]
        if other:
            yield f"objective and objectives[0] differ in {', '.join(other)}"


def _bound(objective: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the sense, the bound and the gap of one objective."""
    true_sense = _SENSES.get(str(objective.get("name")))
    sense = objective.get("sense", true_sense)
    if sense not in ("max", "min") and "sense" in objective:
        yield f"sense is stated as {_said(sense)}, expected 'max' or 'min'"
        sense = true_sense
    elif true_sense is not None and sense != true_sense:
        yield f"sense is stated as {sense!r}, expected {true_sense!r}"
        sense = true_sense
    for key in ("value", "bound", "gap"):
        if objective.get(key) is not None and _number(objective[key]) is None:
            yield f"{key} is stated as {_said(objective[key])}, expected a number"
    value, bound, gap = (_number(objective.get(key)) for key in ("value", "bound", "gap"))
    if value is None or bound is None:
        if gap is not None and not gap >= 0:
            yield f"gap is stated as {_said(gap)}, expected at least 0"
        return
    slack = _FLOAT * max(abs(value), abs(bound))
    if sense == "max" and bound < value - slack:
        yield f"bound {_said(bound)} is below the value {_said(value)}, which is to be large"
    if sense == "min" and bound > value + slack:
        yield f"bound {_said(bound)} is above the value {_said(value)}, which is to be small"
    real = _gap(objective)
    if gap is not None and real is not None and abs(gap - real) > _STATED:
        yield f"gap is stated as {_said(gap)}; value and bound give {_said(real)}"


def _gap(objective: Mapping[str, Any]) -> float | None:
    """Return |value - bound| relative to the larger of the two, if both are stated."""
    value, bound = (_number(objective.get(key)) for key in ("value", "bound"))
    if value is None or bound is None:
        return None
    return 0.0 if value == bound else abs(value - bound) / max(abs(value), abs(bound))


def _agrees(value: Any, real: float | None, quantum: float) -> bool:
    if value is None or real is None:
        return value is None and real is None
    number = _number(value)
    return number is not None and abs(number - real) <= _STATED * abs(real) + quantum


def _number(value: Any) -> float | None:
    """Return a finite number as a float, None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # whole numbers of a document may have any length
        return None
    return number if math.isfinite(number) else None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _said(value: Any) -> str:
    number = _number(value)
    if number is not None:
        return f"{number:,.10g}"
    return "nothing" if value is None else repr(value)[:60]
