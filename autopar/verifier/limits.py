"""Requirements and user rules, held against what was recomputed."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from autopar.errors import SpecError
from autopar.expressions import parse
from autopar.problem import Metrics, Plan
from autopar.results import Violation
from autopar.specs import RuleSpec, Scenario
from autopar.units import format_bytes, format_rate, format_us
from autopar.verifier.findings import found
from autopar.verifier.layout import Layout, stage_degrees
from autopar.verifier.metrics import Measured

# The solver counts in whole nanoseconds, bytes and thousandths of a token per second, and rounds
# once per stage; a plan at its limit may be off by that much and no more.
TIME_US = 1e-3
RATE_PER_S = 1e-3
SIZE_BYTES = 1.0
_FLOAT = 1e-9


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
    over = np.flatnonzero(measured.memory_bytes > capacity * (1 + _FLOAT) + SIZE_BYTES)
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
        if value > limit * (1 + _FLOAT) + TIME_US * plan.pp:
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
        if target is not None and value < target * (1 - _FLOAT) - RATE_PER_S:
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
