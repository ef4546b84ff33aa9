"""Plan files with roles, and explicit plans of a disaggregated service: one made from the other."""

from typing import Any

from autopar.errors import SpecError
from autopar.plans import plan_from_spec, plan_parts
from autopar.problem import AnyPlan, DisaggregatedPlan, Plan
from autopar.specs import SCHEMA_VERSION, PlanSpec, Scenario
from autopar.specs.roles import role_scenario

_ROLE_PARTS = (
    "degrees", "batch", "chunks", "num_gpus", "stages", "replicas", "placement",
)  # fmt: skip


def explicit_plan(spec: PlanSpec, scenario: Scenario) -> AnyPlan:
    """Return the explicit plan of a plan file, with roles or without, as the workload asks.

    Raises SpecError if the file has roles and the workload none, or the other way round, or if a
    layout cannot be derived.
    """
    is_pair = scenario.workload.phase == "disaggregated"
    if is_pair and spec.roles is None:
        raise SpecError(
            f"plan {spec.name!r}: roles: missing; expected the layouts of prefill and decode, as "
            f"workload {scenario.workload.name!r} asks for both"
        )
    if not is_pair:
        if spec.roles is not None:
            raise SpecError(
                f"plan {spec.name!r}: roles: found prefill and decode, expected degrees, as "
                f"workload {scenario.workload.name!r} is {scenario.workload.phase}"
            )
        return plan_from_spec(spec, scenario)
    prefill = plan_from_spec(spec.role("prefill"), role_scenario(scenario, "prefill"))
    after = max((gpu + 1 for replica in prefill.gpus for s in replica for gpu in s), default=0)
    decode = plan_from_spec(spec.role("decode"), role_scenario(scenario, "decode"), after=after)
    return DisaggregatedPlan(spec.name, prefill, decode, spec.prefill_load_percent)


def explicit_parts(plan: AnyPlan) -> dict[str, Any]:
    """Return the plan part of an answer, ready for JSON: a plan file that gives the plan back.

    A plan with roles has `degrees` None and no stages of its own.
    """
    if isinstance(plan, Plan):
        return plan_parts(plan)
    layouts = {role: plan_parts(layout) for role, layout in plan.roles.items()}
    return {
        "schema": SCHEMA_VERSION,
        "kind": "plan",
        "name": plan.name,
        "llm": plan.llm,
        "cluster": plan.cluster,
        "degrees": None,
        "prefill_load_percent": plan.load,
        "roles": {
            role: {key: parts[key] for key in _ROLE_PARTS if key in parts}
            for role, parts in layouts.items()
        },
        "num_gpus": plan.num_gpus or None,
        "stages": [],
        "replicas": [],
        "placement": [],
    }
