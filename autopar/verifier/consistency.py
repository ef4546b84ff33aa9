"""Whether the numbers that a document declares can hold together, found by computing with them."""

from collections.abc import Iterator

from autopar.problem import Plan
from autopar.specs import Scenario
from autopar.units import format_us
from autopar.verifier.metrics import Measured
from autopar.verifier.work import work_of

_FLOAT = 1e-9


def consistency_notes(scenario: Scenario, plan: Plan, measured: Measured) -> Iterator[str]:
    """Yield contradictions between declared inputs, and what the walk itself remarks.

    A pipeline hands on one batch per time of its slowest stage, so tokens per batch over that time
    bounds its rate, whatever rate is declared.
    """
    yield from measured.loads.notes
    if scenario.cost_model != "declared":
        return
    slowest_us = measured.loads.tick_us.max(axis=1)
    # A decode step gives every running sequence one token and passes all stages.
    steps = 1 if scenario.workload.phase == "prefill" else plan.pp
    batch = steps * min(work_of(scenario.workload, plan, s).tokens for s in plan.stages)
    bound_per_s = float((batch / (slowest_us * steps) * 1e6).sum())
    declared_per_s, used = measured.metrics.tokens_per_s, plan.num_gpus
    if declared_per_s <= bound_per_s * (1 + _FLOAT):
        return
    stage = f"{format_us(float(slowest_us.max()) * steps)}"
    yield (
        f"declared rate and declared times cannot both hold: {batch:,.0f} tokens per {stage} are "
        f"{bound_per_s:,.6g} tokens/s"
        + (f" over {plan.replicas} replicas" if plan.replicas > 1 else " for the pipeline")
        + f" = {bound_per_s / used / 1e3:.3g} tokens/ms per GPU, but "
        f"{declared_per_s / used / 1e3:.4g} tokens/ms per GPU are declared: "
        f"{declared_per_s / bound_per_s:,.4g} times as many"
    )
