"""Requirements and user rules, held against what was recomputed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopar.errors import SpecError
from autopar.expressions import parse, parse_condition
from autopar.problem import Metrics, Plan
from autopar.results import Violation
from autopar.specs import (
    Architecture,
    DenseFeedForward,
    ExpertFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
    RuleSpec,
    Scenario,
)
from autopar.units import format_bytes, format_rate, format_us
from autopar.verifier.findings import found
from autopar.verifier.layout import Layout, stage_degrees
from autopar.verifier.metrics import Measured
from autopar.verifier.question import SCALE_BLOCK

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
    yield from throughput_violations(scenario, measured.metrics)


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


def throughput_violations(
    scenario: Scenario, metrics: Metrics, *, by: str = ""
) -> Iterator[Violation]:
    """Yield rates under their targets; by: what sets the rate, if that is to be said."""
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
                f"{format_rate(value, beside=target)} ({value:,.3f} tokens/s){by}, "
                f"at least {format_rate(target, beside=value)} are required"
            )
            yield from found(kind, [message])


# What a rule may say of a layer; not every layer has all of it.
_OF_LAYERS = (
    "num_heads", "kv_heads", "head_dim", "attention_columns", "uses_mla", "keeps_every_token",
    "ffn_size", "expert_size", "shared_size",
)  # fmt: skip
_OF_ARCHITECTURE = ("hidden_size", "vocab_size", "keeps_states", *_OF_LAYERS)


def rule_violations(scenario: Scenario, plan: Plan, layout: Layout) -> Iterator[Violation]:
    """Yield rules of the scenario, its rule packs and its recipe that do not hold.

    Those about both roles are left to `pair_rules`.
    Raises SpecError naming the rule if its expression cannot be read or evaluated.
    """
    if not layout.stage_gpus.size:
        return
    values = rule_values(scenario, plan, layout)
    messages: list[str] = []
    for rule in scenario.all_rules:
        if rule.name not in scenario.recipe.disable and not rule.is_of_pair:
            messages += _broken(rule, values, layout, scenario)
    for message in messages:  # one per rule, and every rule is named
        yield from found("rule broken", [message])


def _broken(
    rule: RuleSpec, values: Mapping[str, Any], layout: Layout, scenario: Scenario
) -> Iterator[str]:
    asked = evaluated(rule, values, layout.stage_gpus.shape, scenario)
    if rule.sum is not None:
        yield from _sum_out_of_bounds(rule, float(asked.result.sum()))
        return
    stages = asked.wrong_places()
    if stages:
        copy, stage = stages[0]
        yield (
            f"{asked.said} in replica {copy} stage {stage} ({asked.values_at((copy, stage))})"
            + (f" and {len(stages) - 1:,} more stages" if len(stages) > 1 else "")
            + f"; {rule.because}"
        )


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A rule at every place of a plan, for every kind of layer that it speaks of.

    values: of its names, which broadcast to the shape of the result, (kinds of layers, *places).
    """

    rule: RuleSpec
    values: Mapping[str, Any]
    result: NDArray[Any]

    @property
    def _wrong(self) -> NDArray[np.bool_]:
        wrong: NDArray[np.bool_] = self.result.astype(np.bool_) == (self.rule.forbid is not None)
        return wrong

    @property
    def said(self) -> str:
        """The rule, and that it does not hold."""
        word = "require" if self.rule.require is not None else "forbid"
        return f"{self.rule.name}: {word} {self.rule.text} does not hold"

    def wrong_places(self) -> list[tuple[int, ...]]:
        """Return where a predicate does not hold, in order."""
        return [tuple(place) for place in np.argwhere(self._wrong.any(axis=0)).tolist()]

    def values_at(self, place: tuple[int, ...]) -> str:
        """Return the values of its names at a wrong place, of the first layer that is wrong."""
        where = (int(np.moveaxis(self._wrong, 0, -1)[place].argmax()), *place)
        return ", ".join(
            f"{name} = {float(np.broadcast_to(value, self.result.shape)[where]):g}"
            for name, value in self.values.items()
        )


def evaluated(
    rule: RuleSpec, values: Mapping[str, Any], shape: tuple[int, ...], scenario: Scenario
) -> Evaluated:
    """Evaluate a rule; values: of all names that it may use, which broadcast to `shape`.

    Raises SpecError naming the rule if its expression cannot be read or evaluated.
    """
    try:
        read = parse if rule.sum is not None else parse_condition
        expression = read(rule.text, (*values, *_OF_LAYERS))
        _refuse_what_has_no_value(rule, expression.names, values, scenario)
        asked = sorted(expression.names & set(_OF_LAYERS))
        every = {**values, **_layer_axis(scenario.llm.architecture, asked)}
        kinds = len(every[asked[0]]) if asked else 1
        result = np.broadcast_to(np.asarray(expression.evaluate(every)), (kinds, *shape))
    except ValueError as error:
        raise SpecError(f"rule {rule.name!r}: {error}") from error
    return Evaluated(rule, {name: every[name] for name in sorted(expression.names)}, result)


def _refuse_what_has_no_value(
    rule: RuleSpec, names: frozenset[str], values: Mapping[str, Any], scenario: Scenario
) -> None:
    """Raise ValueError where a rule asks for what the spec leaves out, or for no single number."""
    of_layers = sorted(names & set(_OF_LAYERS))
    if rule.sum is not None and of_layers:
        raise ValueError(
            f"{', '.join(of_layers)} may differ from layer to layer and cannot be summed; "
            "expected require or forbid"
        )
    lacking = sorted(names & set(_OF_ARCHITECTURE))
    if lacking and scenario.llm.architecture is None:
        raise ValueError(
            f"the spec does not state {', '.join(lacking)}: llm.architecture is missing"
        )
    missing = sorted(name for name in names if name in values and values[name] is None)
    if missing:
        raise ValueError(f"the spec does not state {', '.join(missing)}")


def _sum_out_of_bounds(rule: RuleSpec, total: float) -> Iterator[str]:
    slack = _FLOAT * max(abs(total), 1.0)
    said = f"{rule.name}: sum of {rule.sum} is {total:,g}"
    if rule.at_most is not None and total > rule.at_most + slack:
        yield f"{said}, at most {rule.at_most:,g}; {rule.because}"
    if rule.at_least is not None and total < rule.at_least - slack:
        yield f"{said}, at least {rule.at_least:,g}; {rule.because}"


def rule_values(scenario: Scenario, plan: Plan, layout: Layout) -> dict[str, Any]:
    """Return what rules may speak of; shape (replicas, stages) where stages may differ.

    Sizes of layers apart: these have an axis of their own, before the others.
    """
    cluster, llm, phase = scenario.cluster, scenario.llm, scenario.workload.phase
    shapes, stored = llm.architecture, llm.precisions
    degrees = {
        key: stage_degrees(plan, key) for key in ("tp", "cp", "attn_dp", "ep", "etp", "spread")
    }
    return {
        **degrees,
        "replicas": len(plan.gpus),
        "pp": len(plan.stages),
        "batch": plan.batch,
        "layers_per_stage": np.array([len(stage.layers) for stage in plan.stages]),
        "gpus": layout.stage_gpus,
        "expert_group_gpus": layout.stage_gpus,  # every GPU of a stage sends tokens to its experts
        "expert_grid_gpus": degrees["ep"] * degrees["etp"],
        "gpus_used": len(layout.used_gpus),
        "num_layers": llm.num_layers,
        "num_experts": llm.num_experts,
        "is_moe": float(llm.num_experts > 0),
        "hidden_size": None if shapes is None else shapes.hidden_size,
        "vocab_size": None if shapes is None else shapes.vocab_size,
        "keeps_states": None if shapes is None else _keeps_states(shapes),
        "attention_block": SCALE_BLOCK.get(stored.attention, 1),
        "feed_forward_block": SCALE_BLOCK.get(stored.feed_forward, 1),
        "expert_block": SCALE_BLOCK.get(stored.experts, 1),
        "is_prefill": float(phase == "prefill"),
        "is_decode": float(phase == "decode"),
        "is_role": float(scenario.workload.is_role),
        "num_gpus": cluster.num_gpus,
        "num_nodes": cluster.num_nodes,
        "gpus_per_node": cluster.gpus_per_node,
        "scale_up_domain_gpus": cluster.domain_gpus,
        "power_w": getattr(cluster.gpu, "power_w", None),
    }


def _keeps_states(shapes: Architecture) -> int:
    return int(any(isinstance(shapes.attention_of(x), LinearAttention) for x in shapes.layer_kinds))


def _layer_axis(architecture: Architecture | None, names: list[str]) -> dict[str, Any]:
    """Return sizes of layers, each of shape (layers, 1, 1): of the layers that have all of them."""
    if architecture is None or not names:
        return {}
    different = set(architecture.layer_sequence)
    columns = [_layer_sizes(architecture, layer) for layer in different]
    having = [c for c in columns if all(name in c for name in names)]
    table = np.array([[c[name] for name in names] for c in having], dtype=np.int64)
    table = np.unique(table.reshape(-1, len(names)), axis=0)
    return {name: table[:, index, None, None] for index, name in enumerate(names)}


def _layer_sizes(architecture: Architecture, layer: Layer) -> dict[str, int]:
    """Return what rules may say of one layer; attention_columns divides all that tp cuts in it."""
    sizes: dict[str, int] = {}
    attention = architecture.attention_of(layer)
    if attention is not None:
        sizes["num_heads"] = heads = attention.num_heads
        sizes["uses_mla"] = int(isinstance(attention, LatentAttention))
        if isinstance(attention, GroupedQueryAttention):
            sizes["kv_heads"], sizes["head_dim"] = attention.num_kv_heads, attention.head_dim
            sizes["keeps_every_token"] = int(attention.window_tokens is None)
            widths = [heads * attention.head_dim]  # queries, result, gate
        elif isinstance(attention, LatentAttention):
            sizes["kv_heads"] = sizes["keeps_every_token"] = 1
            queries = attention.qk_nope_head_dim + attention.qk_rope_head_dim
            keys_values = attention.qk_nope_head_dim + attention.v_head_dim
            widths = [heads * queries, heads * keys_values, heads * attention.v_head_dim]
        else:
            sizes["keeps_every_token"] = 0
            widths = [attention.input_columns, attention.output_rows]
        sizes["attention_columns"] = gcd(*widths)
    feed_forward = architecture.feed_forward_of(layer)
    if isinstance(feed_forward, ExpertFeedForward):
        sizes["expert_size"] = feed_forward.expert_size
        sizes["shared_size"] = feed_forward.shared_size
    elif isinstance(feed_forward, DenseFeedForward):
        sizes["ffn_size"] = feed_forward.ffn_size
    return sizes
