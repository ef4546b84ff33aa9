"""Whether an engine's rule pack allows an explicit plan, in the words of a reader."""

from collections.abc import Callable
from functools import partial

from autopar.catalog import read_document
from autopar.errors import SpecError
from autopar.export.options import PACKS, Engine
from autopar.problem import AnyPlan, DisaggregatedPlan, Plan
from autopar.specs import RulePack, Scenario
from autopar.specs.roles import role_scenario
from autopar.verifier.layout import Layout, layout_of
from autopar.verifier.limits import rule_violations
from autopar.verifier.pair_rules import pair_rule_violations

_Judge = Callable[[Scenario], bool]  # whether a plan breaks the one rule of a scenario

# What a rule can only tell from sizes, `shares_of` sees on the GPUs of an explicit plan.
_BY_DEGREES = "_servers_on_nodes"


def broken_rules(scenario: Scenario, plan: AnyPlan, engine: Engine) -> tuple[list[str], list[str]]:
    """Return which rules of an engine a plan breaks and why they stand, and which are not judged.

    A rule on sizes of layers cannot be judged where the model does not state its architecture.
    """
    pack = pack_of(scenario, engine)
    parts: list[tuple[str, Plan, Scenario]]
    if isinstance(plan, DisaggregatedPlan):
        parts = [
            ("prefill: ", plan.prefill, role_scenario(scenario, "prefill")),
            ("decode: ", plan.decode, role_scenario(scenario, "decode")),
        ]
    else:
        parts = [("", plan, scenario)]
    judges: list[tuple[str, Scenario, _Judge]] = [
        (where, asked, partial(_broken_by_one, layout, layout_of(layout, asked.llm.num_layers)))
        for where, layout, asked in parts
    ]
    if isinstance(plan, DisaggregatedPlan):
        judges.append(("the pair: ", scenario, partial(_broken_by_both, plan)))
    broken: list[str] = []
    unsure: list[str] = []
    for where, asked, judge in judges:
        recipe = asked.recipe.model_copy(update={"rules": (), "disable": ()})
        for rule in pack.rules:
            if rule.name.endswith(_BY_DEGREES):
                continue
            alone = asked.model_copy(update={"rules": (rule,), "rule_packs": (), "recipe": recipe})
            try:
                found = judge(alone)
            except SpecError:
                unsure.append(rule.name)
                continue
            if found:
                broken.append(f"{where}{rule.because} [rule {rule.name}]")
    return broken, list(dict.fromkeys(unsure))


def _broken_by_one(plan: Plan, layout: Layout, alone: Scenario) -> bool:
    return any(True for _ in rule_violations(alone, plan, layout))


def _broken_by_both(plan: DisaggregatedPlan, alone: Scenario) -> bool:
    return any(True for _ in pair_rule_violations(alone, plan))


def pack_of(scenario: Scenario, engine: Engine) -> RulePack:
    """Return the rule pack of an engine: the scenario's own where it names it."""
    own = [pack for pack in scenario.rule_packs if pack.name == PACKS[engine]]
    return own[0] if own else RulePack.model_validate(read_document("rules", PACKS[engine]))
