"""YAML rules -> constraints: posted, checked, explained and blamed like any built-in one.

`require` and `forbid` are predicates over every stage of a layout; `sum` adds an expression up over
all stages of all replicas and bounds the total. The names they may use are in `NAMES`.

Layers of one model may differ, and every one of them must run. So a rule with a name of
`LAYER_NAMES` is asked of every kind of layer of the model that has all that the rule names, and
must hold for each: one that speaks of expert_size is not asked of dense layers, and holds where no
layer has experts. These names need `llm.architecture`, under every cost model.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from autopar.constraints.base import Constraint
from autopar.errors import SpecError
from autopar.expressions import Expression, parse, parse_condition
from autopar.problem import BoolArray, Candidates, FloatArray, IntArray, Plan, Problem
from autopar.segments import SegmentTable
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

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from autopar.variables import PlanVariables

STAGE_NAMES: Mapping[str, str] = {
    "attn_dp": "data-parallel attention groups of the stage",
    "spread": "disjoint expert grids of the stage",
    "layers_per_stage": "layers of the stage",
    "gpus": "GPUs of the stage",
    "expert_group_gpus": "GPUs that exchange tokens for one expert layer: those of the stage",
}
PLAN_NAMES: Mapping[str, str] = {
    "replicas": "copies of the whole model",
    "pp": "pipeline-parallel size",
    "tp": "tensor-parallel size",
    "cp": "context-parallel size",
    "ep": "expert-parallel size",
    "etp": "expert-tensor-parallel size",
    "expert_grid_gpus": "GPUs of one expert grid, ep * etp",
    "gpus_used": "GPUs of the whole plan",
    "batch": "sequences per attention group and micro-batch; 0 where the workload gives the batch",
}
SPEC_NAMES: Mapping[str, str] = {
    "num_layers": "layers of the model",
    "num_experts": "experts per layer",
    "is_moe": "1 if the model has layers with experts, else 0",
    "attention_block": "columns that share a scale in attention: 128 in fp8_block, else 1",
    "feed_forward_block": "the same, in dense feed-forwards and shared experts",
    "expert_block": "the same, in routed experts",
    "is_prefill": "1 if the work is prompts alone, else 0",
    "is_decode": "1 if the work is running sequences alone, else 0",
    "is_role": "1 if the work is that of one role of a disaggregated service, else 0",
    "num_gpus": "GPUs of the cluster",
    "num_nodes": "nodes of the cluster",
    "gpus_per_node": "GPUs of a node",
    "scale_up_domain_gpus": "GPUs of a scale-up domain",
    "power_w": "power of one GPU in W, where its spec states it",
}
# Of the architecture: of the whole model, and of one kind of layer.
MODEL_NAMES: Mapping[str, str] = {
    "hidden_size": "width of the residual stream",
    "vocab_size": "tokens of the vocabulary",
    "keeps_states": "1 if a layer has linear attention, which keeps a state and no keys, else 0",
}
LAYER_NAMES: Mapping[str, str] = {
    "num_heads": "query heads; heads of the state in linear attention",
    "kv_heads": "heads of keys in softmax attention; 1 in MLA, whose latent every GPU of tp holds",
    "head_dim": "width of a head of softmax attention with its own keys (so not in MLA)",
    "attention_columns": "the largest number that divides the width of every projection of the "
    "attention that tp cuts, those of keys and values apart",
    "uses_mla": "1 if attention is multi-head latent attention, else 0",
    "keeps_every_token": "1 if attention keeps the keys of all tokens, not of a window or "
    "in a state, else 0",
    "ffn_size": "width of a dense feed-forward",
    "expert_size": "width of one routed expert",
    "shared_size": "width of all shared experts together; 0 in a layer with experts but no such",
}
NAMES: Mapping[str, str] = {
    **STAGE_NAMES,
    **PLAN_NAMES,
    **SPEC_NAMES,
    **MODEL_NAMES,
    **LAYER_NAMES,
}

# quantization_config.weight_block_size of deepseek-ai/DeepSeek-V3 and Qwen/Qwen3-235B-A22B-FP8,
# config.json; the format fp8_block of `specs.architecture` is this one.
FP8_BLOCK = 128


def rule_constraint(rule: RuleSpec) -> "Rule":
    """Return the constraint that a rule states.

    Raises SpecError naming the rule if its expression is not in the grammar.
    """
    text = rule.text
    field = "require" if rule.require else "forbid" if rule.forbid else "sum"
    try:
        is_sum = field == "sum"
        expression = parse(text, NAMES) if is_sum else parse_condition(text, NAMES)
    except ValueError as error:
        raise SpecError(f"rule {rule.name!r}: {field}: {error}") from error
    if not is_sum:
        return PredicateRule(rule, expression)
    of_layers = sorted(expression.names & LAYER_NAMES.keys())
    if of_layers:
        raise SpecError(
            f"rule {rule.name!r}: sum: {', '.join(of_layers)} may differ from layer to layer; "
            "expected require or forbid, which must hold for every kind of layer"
        )
    return SumRule(rule, expression)


class Rule(Constraint):
    """What the two kinds of rule share: the values of names."""

    def __init__(self, rule: RuleSpec, expression: Expression) -> None:
        self.name = rule.name
        self.because = rule.because
        self.rule = rule
        self.expression = expression
        self.depends_on_batch = "any" if "batch" in expression.names else "not"
        self.filters_shapes = not expression.names & {"pp", "replicas", "gpus_used"}

    def states(self, scenario: Scenario) -> str:
        """Quote the rule and its reason."""
        rule = self.rule
        limits = ((rule.at_most, "at most"), (rule.at_least, "at least"))
        bounds = [f"{word} {bound:g}" for bound, word in limits if bound is not None]
        kind = "require" if rule.require else "forbid" if rule.forbid else "sum"
        text = " ".join([f"{kind} {rule.require or rule.forbid or rule.sum}", *bounds])
        return f"{text}, because {self.because}"

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """Evaluate the rule's expression; an error of arithmetic is the rule's."""
        try:
            return self.expression.evaluate(values)
        except ValueError as error:
            raise SpecError(f"rule {self.name!r}: {error}") from error

    def holds(
        self, scenario: Scenario, values: Mapping[str, Any], shape: tuple[int, ...]
    ) -> BoolArray:
        """Return where a predicate holds for all kinds of layers that it speaks of.

        values: of its other names; they broadcast to `shape`.
        """
        allowed = np.ones(shape, dtype=np.bool_)
        for layer in self.layer_values(scenario):
            result = np.asarray(self.evaluate({**values, **layer}), dtype=np.bool_)
            allowed &= result != (self.rule.forbid is not None)
        return allowed

    def complaint(
        self, place: Mapping[str, Any], layers: Sequence[Mapping[str, float]]
    ) -> str | None:
        """Return what a predicate says of one place of a plan; None where it holds.

        place: the values of its names there. layers: those of layers, once per combination.
        """
        for layer in layers:
            values = {**place, **layer}
            if bool(self.evaluate(values)) == (self.rule.forbid is not None):
                used = {n: v for n, v in values.items() if n in self.expression.names}
                said = ", ".join(f"{name} = {value:g}" for name, value in used.items())
                kind = "forbid" if self.rule.forbid else "require"
                return f"{kind} {self.rule.text!r} is broken ({said}); {self.because}"
        return None

    def table_values(
        self, problem: Problem, rows: Candidates, num_layers: IntArray
    ) -> dict[str, Any]:
        """Return the value of every name for pairs of (candidate, layers of a stage)."""
        stage_gpus = rows.stage_gpus(num_layers)
        return {
            **self.spec_values(problem.scenario),
            "replicas": rows.replicas,
            "pp": rows.pp,
            "tp": rows.tp,
            "cp": rows.cp,
            "ep": rows.ep,
            "etp": rows.etp,
            "expert_grid_gpus": rows.ep * rows.etp,
            "gpus_used": rows.gpus_used(problem.num_layers),
            "batch": rows.batch,
            "attn_dp": np.where(rows.attn_dp == 0, stage_gpus // (rows.tp * rows.cp), rows.attn_dp),
            "spread": rows.stage_spread(num_layers),
            "layers_per_stage": num_layers,
            "gpus": stage_gpus,
            "expert_group_gpus": stage_gpus,
        }

    def plan_values(
        self, plan: Plan, problem: Problem
    ) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Yield for each kind of stage the first place, how many there are, and every name's value.

        A plan may have thousands of replicas, whose stages are alike in all that a rule may name.
        """
        spec = self.spec_values(problem.scenario)
        gpus_used = plan.num_gpus if "gpus_used" in self.expression.names else 0
        sizes = [tuple(map(len, stage_gpus)) for stage_gpus in plan.gpus]
        kinds = [
            (f"replica {sizes.index(size)} stage {stage.index}", count, stage, num_gpus)
            for size, count in Counter(sizes).items()
            for stage, num_gpus in zip(plan.stages, size, strict=True)
        ]
        for where, count, stage, num_gpus in kinds:
            values = {
                **spec,
                "replicas": plan.replicas,
                "pp": plan.pp,
                "tp": stage.tp,
                "cp": stage.cp,
                "ep": stage.ep,
                "etp": stage.etp,
                "expert_grid_gpus": stage.ep * stage.etp,
                "gpus_used": gpus_used,
                "batch": plan.batch,
                "attn_dp": stage.attn_dp,
                "spread": stage.spread,
                "layers_per_stage": len(stage.layers),
                "gpus": num_gpus,
                "expert_group_gpus": num_gpus,
            }
            yield where, count, values

    def spec_values(self, scenario: Scenario) -> dict[str, float]:
        """Return the value of every name that the spec alone decides, those of layers apart.

        Raises SpecError if the rule uses one that the spec does not state.
        """
        cluster, llm, workload = scenario.cluster, scenario.llm, scenario.workload
        precisions, architecture = llm.precisions, llm.architecture
        values: dict[str, float] = {
            "num_layers": llm.num_layers,
            "num_experts": llm.num_experts,
            "is_moe": int(llm.is_moe),
            "attention_block": _block(precisions.attention),
            "feed_forward_block": _block(precisions.feed_forward),
            "expert_block": _block(precisions.experts),
            "is_prefill": int(workload.phase == "prefill"),
            "is_decode": int(workload.phase == "decode"),
            "is_role": int(workload.is_role),
            "num_gpus": cluster.num_gpus,
            "num_nodes": cluster.num_nodes,
            "gpus_per_node": cluster.gpus_per_node,
            "scale_up_domain_gpus": cluster.domain_gpus,
        }
        if architecture is not None:
            values["hidden_size"] = architecture.hidden_size
            values["vocab_size"] = architecture.vocab_size
            values["keeps_states"] = int(
                any(
                    isinstance(architecture.attention_of(kind), LinearAttention)
                    for kind in architecture.layer_kinds
                )
            )
        else:
            self._refuse_names_of_an_architecture(scenario)
        if cluster.gpu.power_w is not None:
            values["power_w"] = cluster.gpu.power_w
        elif "power_w" in self.expression.names:
            raise SpecError(
                f"rule {self.name!r} uses power_w, but GPU {cluster.gpu.name!r} states no power; "
                "set cluster.gpu.power_w"
            )
        return values

    def layer_values(self, scenario: Scenario) -> list[dict[str, float]]:
        """Return the values of the names of layers that the rule uses, once per combination.

        [{}] where it uses none, an empty list where no layer has all of them.
        Raises SpecError if it uses any and the spec states no architecture.
        """
        names = sorted(self.expression.names & LAYER_NAMES.keys())
        if not names:
            return [{}]
        architecture = scenario.llm.architecture
        if architecture is None:
            self._refuse_names_of_an_architecture(scenario)
            return []
        kinds = [_sizes(architecture, kind) for kind in architecture.layer_kinds]
        rows = [tuple(k[name] for name in names) for k in kinds if k.keys() >= set(names)]
        return [dict(zip(names, row, strict=True)) for row in dict.fromkeys(rows)]

    def _refuse_names_of_an_architecture(self, scenario: Scenario) -> None:
        lacking = sorted(self.expression.names & (MODEL_NAMES.keys() | LAYER_NAMES.keys()))
        if lacking:
            raise SpecError(
                f"rule {self.name!r} uses {', '.join(lacking)}, but model {scenario.llm.name!r} "
                "states no architecture; set llm.architecture"
            )


def _is_one_row(rows: Candidates) -> bool:
    """Whether all rows are the same, and their stages have a number of GPUs of their own."""
    if not len(rows) or rows.spread[0] == 0:
        return False
    columns = (getattr(rows, field.name) for field in fields(rows))
    return all(bool((column == column[0]).all()) for column in columns)


def _block(precision: str) -> int:
    return FP8_BLOCK if precision == "fp8_block" else 1


def _sizes(architecture: Architecture, kind: Layer) -> dict[str, int]:
    """Return what one kind of layer has of `LAYER_NAMES`."""
    sizes: dict[str, int] = {}
    attention = architecture.attention_of(kind)
    if attention is not None:
        windowed = getattr(attention, "window_tokens", None) is not None
        is_state = isinstance(attention, LinearAttention)
        sizes["keeps_every_token"] = int(not windowed and not is_state)
    match attention:
        case GroupedQueryAttention(num_heads=heads, num_kv_heads=kv_heads, head_dim=width):
            sizes |= {"num_heads": heads, "kv_heads": kv_heads, "head_dim": width}
            sizes |= {"uses_mla": 0, "attention_columns": heads * width}
        case LatentAttention() as mla:  # per head: the query, keys with values, and the result
            key, value = mla.qk_nope_head_dim, mla.v_head_dim
            per_head = gcd(key + mla.qk_rope_head_dim, key + value, value)
            sizes |= {"num_heads": mla.num_heads, "kv_heads": 1, "uses_mla": 1}
            sizes["attention_columns"] = mla.num_heads * per_head
        case LinearAttention() as linear:
            sizes |= {"num_heads": linear.num_heads, "uses_mla": 0}
            sizes["attention_columns"] = gcd(linear.input_columns, linear.output_rows)
    match architecture.feed_forward_of(kind):
        case DenseFeedForward(ffn_size=width):
            sizes["ffn_size"] = width
        case ExpertFeedForward(expert_size=expert_size, shared_size=shared_size):
            sizes |= {"expert_size": expert_size, "shared_size": shared_size}
    return sizes


class PredicateRule(Rule):
    """`require` or `forbid`: holds, or does not hold, for every stage."""

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray | None:
        """Candidates that satisfy a rule which does not speak of stages that may differ."""
        return self._holds(problem, rows, np.ones_like(rows.pp)) if self.rows_decide(rows) else None

    def rows_decide(self, rows: Candidates) -> bool:
        """Where the rule does not speak of stages, or all stages of a candidate are alike to it."""
        names = self.expression.names
        if "layers_per_stage" in names:
            return False
        return not names & STAGE_NAMES.keys() or not bool((rows.spread == 0).any())

    def allowed_segments(
        self, problem: Problem, rows: Candidates, first: IntArray, stop: IntArray
    ) -> BoolArray:
        """Segments whose stage satisfies the rule."""
        if "layers_per_stage" not in self.expression.names and _is_one_row(rows):
            one = np.zeros(1, dtype=np.int64)  # all segments alike: asked once
            return self._holds(problem, rows.take(one), one + 1).repeat(len(first))
        return self._holds(problem, rows, stop - first)

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """Evaluate the rule for every stage, and for every kind of layer if it speaks of layers."""
        layers = self.layer_values(problem.scenario)
        for where, _, stage in self.plan_values(plan, problem):
            said = self.complaint(stage, layers)
            if said is not None:
                yield f"{where}: {said}"
                return

    def _holds(self, problem: Problem, rows: Candidates, num_layers: IntArray) -> BoolArray:
        """Return which pairs of (candidate, layers of a stage) satisfy the rule, shape (pairs,)."""
        values = self.table_values(problem, rows, num_layers)
        return self.holds(problem.scenario, values, (len(rows),))


class SumRule(Rule):
    """`sum`: a total over all stages of all replicas within bounds."""

    filters_completely = False

    def post(self, model: "CpModel", variables: "PlanVariables", problem: Problem) -> None:
        """Bound the total of the chosen candidate's segments."""
        for group in variables.groups:
            for member in group.members:
                row = variables.rows.take(np.array([member]))
                pairs = row.take(np.zeros(len(group.first), dtype=np.int64))
                values = self._terms(problem, pairs, group.stop - group.first)
                for bound, sign in ((self.rule.at_most, 1.0), (self.rule.at_least, -1.0)):
                    if bound is not None:
                        terms, limit = _integers(sign * values, sign * bound, problem.num_layers)
                        total = sum(t * s for t, s in zip(terms, group.segments, strict=True) if t)
                        model.add(total <= limit).only_enforce_if(variables.pick[member])

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """Add up and compare."""
        total = sum(
            count * float(self.evaluate(v)) for _, count, v in self.plan_values(plan, problem)
        )
        tolerance = 1e-9 * abs(total)
        for bound, what, over in (
            (self.rule.at_most, "at most", 1.0),
            (self.rule.at_least, "at least", -1.0),
        ):
            if bound is not None and over * (total - bound) > tolerance:
                yield f"sum {self.rule.sum!r} is {total:g}, {what} {bound:g}; {self.because}"

    def allowed_split(
        self, problem: Problem, row: Candidates, table: SegmentTable, chosen: IntArray
    ) -> bool:
        """Add up one split and compare."""
        pairs = row.take(np.zeros(len(chosen), dtype=np.int64))
        layers = table.stop[chosen] - table.first[chosen]
        total = float(self._terms(problem, pairs, layers).sum())
        tolerance = 1e-9 * abs(total)
        too_much = self.rule.at_most is not None and total > self.rule.at_most + tolerance
        too_little = self.rule.at_least is not None and total < self.rule.at_least - tolerance
        return not (too_much or too_little)

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray | None:
        """Decided here where every stage adds the same, whatever its layers."""
        if not self.rows_decide(rows):
            return None
        total = self._terms(problem, rows, np.ones_like(rows.pp)) * rows.pp
        tolerance = 1e-9 * np.abs(total)
        allowed = np.ones(len(rows), dtype=np.bool_)
        if self.rule.at_most is not None:
            allowed &= total <= self.rule.at_most + tolerance
        if self.rule.at_least is not None:
            allowed &= total >= self.rule.at_least - tolerance
        return allowed

    def rows_decide(self, rows: Candidates) -> bool:
        """Where every stage adds the same, whatever its layers."""
        return "layers_per_stage" not in self.expression.names and not bool(
            (rows.spread == 0).any()
        )

    def _terms(self, problem: Problem, rows: Candidates, num_layers: IntArray) -> FloatArray:
        """What one stage adds, over all replicas, shape (pairs,)."""
        value = self.evaluate(self.table_values(problem, rows, num_layers))
        return np.broadcast_to(np.asarray(value, dtype=np.float64), (len(rows),)) * rows.replicas


def _integers(values: FloatArray, bound: float, terms: int) -> tuple[list[int], int]:
    """Scale a linear bound to integers; the slack covers the rounding of every term.

    Exact where values and bound are whole numbers of a sensible size, as counts and watts are.
    """
    largest = max(float(np.max(np.abs(values), initial=0.0)) * terms, abs(bound), 1.0)
    whole = bool((values == np.round(values)).all()) and bound == round(bound)
    scale = 1.0 if whole and largest < 2.0**52 else 2.0**40 / largest
    slack = 0 if scale == 1.0 else terms
    return np.round(values * scale).astype(np.int64).tolist(), int(np.floor(bound * scale)) + slack
