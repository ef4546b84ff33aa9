"""Rules that relate the two roles of a disaggregated service: `prefill.tp <= decode.tp`.

A cache that one role wrote must be one that the other can read, which no look at a single role can
tell. Such a rule is a predicate like those of `autopar.rules`, over the degrees of both roles; it
holds for every stage of prefill beside every stage of decode, and says nothing of a plan without
roles. `same_stages` is the one name that speaks of how the layers are cut.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from autopar.errors import SpecError
from autopar.expressions import parse_condition
from autopar.problem import BoolArray, DisaggregatedPlan, Plan, Problem
from autopar.rules import (
    LAYER_NAMES,
    MODEL_NAMES,
    PLAN_NAMES,
    SPEC_NAMES,
    STAGE_NAMES,
    Rule,
    rule_constraint,
)
from autopar.specs import RuleSpec, Scenario
from autopar.specs.roles import ROLES

SAME_STAGES = "same_stages"
# Of one role: what a layout fixes, whatever its batch, its number of replicas and its split.
ROLE_NAMES: Mapping[str, str] = {
    name: {**STAGE_NAMES, **PLAN_NAMES}[name]
    for name in ("pp", "tp", "cp", "attn_dp", "ep", "etp", "spread", "gpus", "expert_grid_gpus")
}
PAIR_NAMES: Mapping[str, str] = {
    **{
        f"{role}.{name}": f"{text} of {role}" for role in ROLES for name, text in ROLE_NAMES.items()
    },
    SAME_STAGES: "1 if both roles cut the layers into the same stages, else 0",
    **{
        name: text
        for name, text in SPEC_NAMES.items()
        if not name.startswith("is_") or name == "is_moe"
    },
    **MODEL_NAMES,
    **LAYER_NAMES,
}


class PairRule(Rule):
    """`require` or `forbid` over both roles."""

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """Nothing: one role alone cannot break it."""
        return iter(())

    def allows(
        self, scenario: Scenario, values: Mapping[str, Any], shape: tuple[int, int]
    ) -> BoolArray:
        """Return which layouts of prefill and of decode may go together.

        values: of the names of both roles, which broadcast to `shape`, (prefill, decode).
        """
        return self.holds(scenario, {**self.spec_values(scenario), **values}, shape)

    def check_pair(self, plan: DisaggregatedPlan, problems: Mapping[str, Problem]) -> Iterator[str]:
        """Evaluate the rule for every two kinds of stages, one of each role.

        problems: of each role.
        """
        scenario = problems[ROLES[0]].scenario
        spec, layers = self.spec_values(scenario), self.layer_values(scenario)
        stages = [plan.roles[role].stages for role in ROLES]
        cuts = [[stage.layers for stage in of_role] for of_role in stages]
        together = {**spec, SAME_STAGES: int(cuts[0] == cuts[1])}
        prefill, decode = (self._kinds(role, plan.roles[role], problems[role]) for role in ROLES)
        for mine, of_prefill in prefill.items():
            for theirs, of_decode in decode.items():
                said = self.complaint({**together, **dict(mine), **dict(theirs)}, layers)
                if said is not None:
                    yield f"prefill {of_prefill}, decode {of_decode}: {said}"
                    return

    def _kinds(
        self, role: str, plan: Plan, problem: Problem
    ) -> dict[tuple[tuple[str, float], ...], str]:
        """Return the stages of a role that differ to the rule, each with its first place."""
        names = {f"{role}.{name}": name for name in ROLE_NAMES}
        used = {full: name for full, name in names.items() if full in self.expression.names}
        kinds: dict[tuple[tuple[str, float], ...], str] = {}
        for where, _, stage in self.plan_values(plan, problem):
            kinds.setdefault(tuple((full, stage[name]) for full, name in used.items()), where)
        return kinds


def constraint_of(rule: RuleSpec) -> Rule:
    """Return the constraint that a rule states, on a layout or on both roles.

    Raises SpecError naming the rule if its expression is not in the grammar, or sums over roles.
    """
    if not rule.is_of_pair:
        return rule_constraint(rule)
    if rule.sum is not None:
        raise SpecError(
            f"rule {rule.name!r}: sum: a total over stages cannot speak of both roles; expected "
            "require or forbid"
        )
    try:
        return PairRule(rule, parse_condition(rule.text, PAIR_NAMES))
    except ValueError as error:
        field = "require" if rule.require else "forbid"
        raise SpecError(
            f"rule {rule.name!r} speaks of both roles (prefill., decode., {SAME_STAGES}): "
            f"{field}: {error}"
        ) from error
