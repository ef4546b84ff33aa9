"""A second opinion on an explicit plan: every GPU, layer, expert and shard is walked and added up.

Nothing here is shared with the search but the physics of one operation (`autopar.costs.operations`)
and the grammar of rules. `findings.KINDS` lists every kind of violation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from autopar.problem import Plan
from autopar.results import VerifyReport
from autopar.specs import Claim, PlanSpec, Scenario
from autopar.verifier.claims import audit
from autopar.verifier.consistency import consistency_notes
from autopar.verifier.experts import expert_violations
from autopar.verifier.findings import KINDS
from autopar.verifier.layout import layout_of
from autopar.verifier.limits import (
    limit_notes,
    limit_violations,
    rule_violations,
)
from autopar.verifier.metrics import measure
from autopar.verifier.stated import header_violations, stated_violations
from autopar.verifier.structure import structure_violations

__all__ = ["KINDS", "verify_plan"]


def verify_plan(
    scenario: Scenario,
    plan: Plan,
    claims: Sequence[Claim] = (),
    stated_metrics: Mapping[str, Any] | None = None,
    document: PlanSpec | None = None,
) -> VerifyReport:
    """Return every way in which a plan breaks its scenario, its metrics, and a verdict per claim.

    stated_metrics: numbers that the plan states about itself, named and in units as in an answer's
    `metrics` (`ttft_ms`, ...), with `num_gpus`, `idle_gpus`, `objective`, `objectives` and
    `status` beside them.
    document: the file that the plan was read from, whose header must agree with its stages.
    Raises SpecError if a rule or a claim cannot be read, or if the cost model cannot be recomputed.
    """
    layout = layout_of(plan, scenario.llm.num_layers)
    violations = [
        *structure_violations(scenario, plan, layout),
        *expert_violations(scenario, plan, layout),
        *rule_violations(scenario, plan, layout),
    ]
    measured = measure(scenario, plan, layout)
    metrics = measured.metrics if measured is not None else None
    notes: list[str] = []
    if measured is not None:
        violations += limit_violations(scenario, plan, measured)
        notes += limit_notes(scenario, measured.metrics)
        notes += consistency_notes(scenario, plan, measured)
    if document is not None:
        violations += header_violations(document, scenario, plan)
    if stated_metrics:
        violations += stated_violations(scenario, plan, layout, metrics, stated_metrics)
    return VerifyReport(
        plan=plan.name,
        violations=tuple(violations),
        metrics=metrics,
        verdicts=audit(scenario, plan, layout, measured, claims),
        notes=tuple(notes),
    )
