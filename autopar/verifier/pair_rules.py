"""Rules about both roles of a disaggregated plan, held against the explicit layouts of both."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from autopar.problem import DisaggregatedPlan, Plan
from autopar.results import Violation
from autopar.specs import RuleSpec, Scenario
from autopar.specs.roles import ROLES, role_scenario
from autopar.verifier.findings import found
from autopar.verifier.layout import IntArray, layout_of
from autopar.verifier.limits import evaluated, rule_values

# What a layout of one role is called behind `prefill.` or `decode.`.
_OF_ROLES = ("pp", "tp", "cp", "attn_dp", "ep", "etp", "spread", "gpus", "expert_grid_gpus")
# What one role has, and a rule about both can only say of each by its name or not at all.
_NOT_OF_BOTH = (
    *_OF_ROLES, "expert_group_gpus", "layers_per_stage", "replicas", "batch", "gpus_used",
    "is_prefill", "is_decode", "is_role",
)  # fmt: skip


def pair_rule_violations(scenario: Scenario, plan: DisaggregatedPlan) -> Iterator[Violation]:
    """Yield rules about both roles that do not hold for some stage of each.

    Raises SpecError naming the rule if its expression cannot be read or evaluated.
    """
    asked = [
        rule
        for rule in scenario.all_rules
        if rule.is_of_pair and rule.name not in scenario.recipe.disable
    ]
    if not asked:
        return
    prefill, decode = (_values(scenario, plan, role) for role in ROLES)
    if not prefill["gpus"].size or not decode["gpus"].size:
        return
    cuts = [[list(stage.layers) for stage in layout.stages] for layout in plan.roles.values()]
    both = {k: v for k, v in prefill.items() if k not in _NOT_OF_BOTH}
    both |= {"same_stages": int(cuts[0] == cuts[1])}
    for rule in asked:
        for message in _broken(rule, both, (prefill, decode), scenario):
            yield from found("rule broken", [message])


def _broken(
    rule: RuleSpec,
    both: Mapping[str, Any],
    roles: tuple[Mapping[str, Any], Mapping[str, Any]],
    scenario: Scenario,
) -> Iterator[str]:
    """Yield what a rule says of two roles; only their stages that differ to it are looked at."""
    values, stages = dict(both), []
    for axis, (role, own) in enumerate(zip(ROLES, roles, strict=True)):
        place = _differing([own[name] for name in _OF_ROLES])
        shape = (-1, 1) if axis == 0 else (1, -1)
        values |= {f"{role}.{n}": own[n].ravel()[place].reshape(shape) for n in _OF_ROLES}
        stages.append([np.unravel_index(at, own["gpus"].shape) for at in place.tolist()])
    asked = evaluated(rule, values, (len(stages[0]), len(stages[1])), scenario)
    places = asked.wrong_places()
    if places:
        said = ", ".join(
            f"{role} replica {where[at][0]} stage {where[at][1]}"
            for role, where, at in zip(ROLES, stages, places[0], strict=True)
        )
        yield f"{asked.said} for {said} ({asked.values_at(places[0])}); {rule.because}"


def _values(scenario: Scenario, plan: DisaggregatedPlan, role: str) -> dict[str, Any]:
    """Return what rules may say of one role; its own names of shape (replicas, stages)."""
    layout: Plan = plan.roles[role]
    arrays = layout_of(layout, scenario.llm.num_layers)
    values = rule_values(role_scenario(scenario, role), layout, arrays)  # type: ignore[arg-type]
    shape = arrays.stage_gpus.shape
    return values | {name: np.broadcast_to(values[name], shape) for name in _OF_ROLES}


def _differing(columns: list[IntArray]) -> IntArray:
    """Return the first place of every tuple of values, in the flat arrays."""
    table = np.stack([column.ravel() for column in columns])
    place: IntArray = np.sort(np.unique(table, axis=1, return_index=True)[1])
    return place
