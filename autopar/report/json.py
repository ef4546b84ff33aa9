"""Results as JSON documents: the contract that other programs rely on.

Fields keep their name, unit and meaning; others may join. Times are in ms here, as the contract
says, and in us inside the code. An answer that holds a plan is a plan file, and the scenario that
it embeds as `spec` makes it a scenario too, to replay.
"""

import json
import math
from dataclasses import asdict, replace
from typing import Any

from autopar.pairs import explicit_parts
from autopar.problem import PLACEMENT_COLUMNS, AnyPlan, Metrics, Plan, is_outside
from autopar.results import (
    ComparedPlan,
    Comparison,
    Explanation,
    ObjectiveValue,
    Robustness,
    RunnerUp,
    Solution,
    SolverInfo,
    VerifyReport,
)
from autopar.specs import SCHEMA_VERSION

Json = dict[str, Any]

_US_PER_MS = 1e3
_NO_PLACEMENT = "[]\n}"  # how a document without one ends
_ENCODER = json.JSONEncoder(allow_nan=False)
_DEPTH = {
    "roles": 3,
    "robustness": 2,
}  # levels of a field that have lines of their own, where not one
_PLAN_FIELDS = (
    "llm", "cluster", "degrees", "batch", "chunks", "roles", "prefill_load_percent",
    "num_gpus", "stages", "replicas",
)  # fmt: skip


def solution_document(solution: Solution) -> Json:
    """Return the answer of `solve`: `kind` plan where there is one, else answer.

    Without a plan its fields are None and its lists empty.
    """
    scenario = solution.scenario
    plan = solution.plan
    parts = _no_plan(solution) if plan is None else explicit_parts(plan)
    for role, layout in parts.get("roles", {}).items():
        layout["metrics"] = metrics_document(solution.roles.get(role))
    idle = None if plan is None else scenario.cluster.num_gpus - plan.num_gpus
    return {
        "schema": SCHEMA_VERSION,
        "kind": parts["kind"],
        "name": parts["name"],
        "status": solution.status,
        "objective": _objective(solution.objectives[0]) if solution.objectives else None,
        "objectives": [_objective(o) for o in solution.objectives],
        **{key: parts[key] for key in _PLAN_FIELDS if key in parts},
        "idle_gpus": idle,
        "metrics": metrics_document(solution.metrics),
        "binding": None if solution.binding is None else list(solution.binding),
        "undecided": list(solution.undecided),
        "conflict": list(solution.conflict),
        "repairs": [asdict(r) for r in solution.repairs],
        "runner_up": _runner_up(solution.runner_up),
        "robustness": _robustness(solution.robustness),
        "uniqueness": None if solution.uniqueness is None else asdict(solution.uniqueness),
        "notes": list(solution.notes),
        "solver": solver_document(solution.solver, interrupted=solution.interrupted),
        "spec": scenario.document(),
        "placement": parts.get("placement", []),  # last, because it is by far the longest
    }


def solution_text(solution: Solution) -> str:
    """Return the answer of `solve` as `dump` writes it.

    The placement, half a million rows on 512 GPUs, is written from its table: that is four times as
    fast as from a document.
    """
    plan = solution.plan
    if not isinstance(plan, Plan) or not len(plan.placement):
        return dump(solution_document(solution))
    short = replace(plan, placement=plan.placement[:0])
    text = dump(solution_document(replace(solution, plan=short)))
    row = ", ".join(f"{_text(column)}: %d" for column in PLACEMENT_COLUMNS)
    rows = ",\n    ".join([f"{{{row}}}"] * len(plan.placement)) % tuple(
        plan.placement.ravel().tolist()
    )
    return f"{text.removesuffix(_NO_PLACEMENT)}[\n    {rows}\n  ]\n}}"


def _no_plan(solution: Solution) -> Json:
    return {
        "kind": "answer",
        "name": solution.scenario.name,
        "llm": solution.scenario.llm.name,
        "cluster": solution.scenario.cluster.name,
        "degrees": None,
        "num_gpus": None,
        "stages": [],
        "replicas": [],
    }


def metrics_document(metrics: Metrics | None) -> Json | None:
    """Return the metrics in the contract's names and units; None where they are not stated."""
    if metrics is None:
        return None
    return {
        "tokens_per_s": metrics.tokens_per_s,
        "tokens_per_s_per_gpu": metrics.tokens_per_s_per_gpu,
        "ttft_ms": _ms(metrics.ttft_us),
        "tpot_ms": _ms(metrics.tpot_us),
        "concurrency": metrics.concurrency,
        "batch_per_gpu": metrics.batch_per_gpu,
        "stage_boundaries": metrics.stage_boundaries,
        "peak_memory_bytes": metrics.peak_memory_bytes,
        "memory": {
            "weights": metrics.weights_bytes,
            "kv_cache": metrics.kv_cache_bytes,
            "activations": metrics.activation_bytes,
            "reserved": metrics.reserved_bytes,
        },
        "bands": _bands(metrics),
    }


def _bands(metrics: Metrics) -> Json | None:
    """Return where measured values lie, low and high; None where nothing like it was measured.

    biased: the metrics whose value lies outside, since all published runs missed it one way.
    """
    expected = metrics.expected
    if expected is None:
        return None
    per_gpu = metrics.tokens_per_s_per_gpu
    found = {
        "tokens_per_s": (metrics.tokens_per_s, expected.tokens_per_s, 1.0),
        "tokens_per_s_per_gpu": (per_gpu, expected.per_gpu(metrics.tokens_per_s / per_gpu), 1.0),
        "ttft_ms": (metrics.ttft_us, expected.ttft_us, _US_PER_MS),
        "tpot_ms": (metrics.tpot_us, expected.tpot_us, _US_PER_MS),
    }
    return {
        "share": expected.share,
        **{
            name: None if interval is None else [end / unit for end in interval]
            for name, (_, interval, unit) in found.items()
        },
        "biased": [
            name
            for name, (value, interval, _) in found.items()
            if value is not None and interval is not None and is_outside(value, interval)
        ],
    }


def solver_document(solver: SolverInfo, *, interrupted: bool) -> Json:
    """Return how the answer was found."""
    return {**asdict(solver), "interrupted": interrupted}


def verification_document(report: VerifyReport) -> Json:
    """Return the verdict on one plan and on each of its claims."""
    return {
        "schema": SCHEMA_VERSION,
        "kind": "verification",
        "plan": report.plan,
        "ok": report.ok,
        "violations": [asdict(v) for v in report.violations],
        "metrics": metrics_document(report.metrics),
        **_role_metrics(report),
        "claims": [asdict(v) for v in report.verdicts],
        "notes": list(report.notes),
    }


def _role_metrics(report: VerifyReport) -> Json:
    if not report.roles:
        return {}
    return {"roles": {role: {"metrics": metrics_document(m)} for role, m in report.roles.items()}}


def comparison_document(comparison: Comparison) -> Json:
    """Return all plans side by side, with their gaps to the proven bounds."""
    solution, relaxed = comparison.solution, comparison.relaxed
    return {
        "schema": SCHEMA_VERSION,
        "kind": "comparison",
        "scenario": solution.scenario.name,
        "status": solution.status,
        "objectives": [_objective(o) for o in solution.objectives],
        "plans": [_compared(p) for p in comparison.plans],
        "best": {name: list(plans) for name, plans in comparison.best.items()},
        "bounds": comparison.bounds,
        "conflict": list(solution.conflict),
        "relaxed": None if relaxed is None else _relaxed(relaxed),
        "notes": [*comparison.notes, *solution.notes],
        "solver": solver_document(solution.solver, interrupted=solution.interrupted),
    }


def explanation_document(explanation: Explanation) -> Json:
    """Return why a spec has no plan, or what binds the one it has."""
    return {
        "schema": SCHEMA_VERSION,
        "kind": "explanation",
        **_listed(asdict(explanation)),
        "runner_up": _runner_up(explanation.runner_up),
    }


def catalog_document(entries: dict[str, list[dict[str, str]]]) -> Json:
    """Return the catalogue: for every kind, the name and the description of its documents."""
    return {"schema": SCHEMA_VERSION, "kind": "catalog", **entries}


def dump(document: Json) -> str:
    """Return a document as ASCII JSON: one field per line, long lists with one element per line.

    Numbers that are not finite become null, because JSON has no word for them.
    """
    fields = [
        f"  {_text(key)}: {_field(value, _DEPTH.get(key, 1))}" for key, value in document.items()
    ]
    return "{\n" + ",\n".join(fields) + "\n}"


def _field(value: Any, depth: int, indent: str = "  ") -> str:
    """Return a value; depth: levels of it that are written one field or element per line."""
    inside = indent + "  "
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return f"[\n{inside}{_lines(value, inside)}\n{indent}]"
    if isinstance(value, dict) and any(isinstance(v, dict | list) and v for v in value.values()):
        lines = [
            f"{_text(k)}: {_field(v, depth - 1, inside) if depth > 1 else _text(v)}"
            for k, v in value.items()
        ]
        return f"{{\n{inside}" + f",\n{inside}".join(lines) + f"\n{indent}}}"
    return _text(value)


def _lines(items: list[Any], indent: str) -> str:
    """Return the elements of a list, each on a line of its own.

    A placement has hundreds of thousands of them: they are written at once, and cut where one
    element ends and the next one begins, if that is where alone these characters stand.
    """
    text = _text(items)[1:-1]
    if text.count("}, {") == len(items) - 1 and all(isinstance(item, dict) for item in items):
        return text.replace("}, {", f"}},\n{indent}{{")
    return f",\n{indent}".join([_text(item) for item in items])


def _text(value: Any) -> str:
    try:
        return _ENCODER.encode(value)
    except ValueError:
        return _ENCODER.encode(_finite(value))


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value


def _runner_up(found: RunnerUp | None) -> Json | None:
    return None if found is None else {**asdict(found), "within_band": found.within_band}


def _robustness(found: Robustness | None) -> Json | None:
    """Return what each cost does to the plan within its band; None where that was not asked."""
    if found is None:
        return None
    return {
        "holds": found.holds,
        "settles": None if found.settles is None else _listed(asdict(found.settles)),
        "skipped": found.skipped,
        "costs": [
            {
                "kind": doubt.kind,
                "band": doubt.band,
                "faster": _listed(asdict(doubt.faster)),
                "slower": _listed(asdict(doubt.slower)),
                "overtakes": doubt.overtakes,
            }
            for doubt in found.doubts
        ],
    }


def _listed(document: Json) -> Json:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in document.items()}


def _objective(objective: ObjectiveValue) -> Json:
    return asdict(objective)


def _compared(compared: ComparedPlan) -> Json:
    return {
        **_summary(compared.name, compared.plan),
        "gaps": compared.gaps,
        **{
            key: value
            for key, value in verification_document(compared.report).items()
            if key in ("ok", "violations", "metrics", "claims", "notes")
        },
    }


def _relaxed(solution: Solution) -> Json:
    summary = {} if solution.plan is None else _summary(solution.plan.name, solution.plan)
    return {
        "coverage": solution.scenario.requirements.coverage,
        "status": solution.status,
        "objectives": [_objective(o) for o in solution.objectives],
        "metrics": metrics_document(solution.metrics),
        **summary,
    }


def _summary(name: str, plan: AnyPlan) -> Json:
    if isinstance(plan, Plan):
        return {"name": name, "degrees": _degrees(plan), "num_gpus": plan.num_gpus}
    roles = {
        role: {"degrees": _degrees(layout), "batch": layout.batch, "num_gpus": layout.num_gpus}
        for role, layout in plan.roles.items()
    }
    return {"name": name, "degrees": None, "roles": roles, "num_gpus": plan.num_gpus}


def _degrees(plan: Plan) -> Json:
    parts = ("replicas", "pp", "tp", "cp", "attn_dp", "ep", "etp", "spread")
    return {key: plan.degree(key) for key in parts}


def _ms(value_us: float | None) -> float | None:
    return None if value_us is None else value_us / _US_PER_MS
