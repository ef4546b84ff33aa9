"""A second opinion on a plan with two roles: each by itself, then what both answer for together."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autopar.problem import DisaggregatedPlan, Metrics, Plan
from autopar.results import Verdict, VerifyReport, Violation
from autopar.specs import Claim, PlanSpec, Scenario
from autopar.specs.roles import ROLES, Role, requests_per_token, role_scenario
from autopar.units import format_us, plural
from autopar.verifier.findings import found
from autopar.verifier.layout import IntArray, layout_of, listed
from autopar.verifier.limits import TIME_US, throughput_violations
from autopar.verifier.pair_rules import pair_rule_violations
from autopar.verifier.question import question
from autopar.verifier.stated import stated_violations
from autopar.verifier.storage import experts_held, stored
from autopar.verifier.work import work_of

_FLOAT = 1e-9


def verify_pair(
    scenario: Scenario,
    plan: DisaggregatedPlan,
    claims: Sequence[Claim] = (),
    stated_metrics: Mapping[str, Any] | None = None,
    document: PlanSpec | None = None,
) -> VerifyReport:
    """Return every way in which a plan with two roles breaks its scenario, and its metrics.

    stated_metrics, document: as for `verify_plan`; numbers that the document states of one role are
    held against that role. Claims are not derived for two roles: each is answered with that.
    Raises SpecError if a rule cannot be read, or if the cost model cannot be recomputed.
    """
    reports: dict[Role, VerifyReport] = {
        role: _role_report(scenario, plan, role, document) for role in ROLES
    }
    violations = [
        Violation(v.kind, f"{role}: {v.message}")
        for role, report in reports.items()
        for v in report.violations
    ]
    violations += _shared(plan)
    violations += _idle(scenario, plan)
    violations += pair_rule_violations(scenario, plan)
    together = _together(scenario, plan, reports)
    metrics = None if together is None else together.metrics
    if metrics is not None:
        violations += _limits(scenario, plan, metrics)
    if stated_metrics:
        violations += _stated(scenario, plan, metrics, stated_metrics)
    return VerifyReport(
        plan=plan.name,
        violations=tuple(violations),
        metrics=metrics,
        verdicts=tuple(_not_derived(claim) for claim in claims),
        notes=(
            *(() if together is None else (together.note,)),
            *dict.fromkeys(note for r in reports.values() for note in r.notes),
        ),
        roles={role: r.metrics for role, r in reports.items() if r.metrics is not None},
    )


def handover_us(scenario: Scenario, plan: DisaggregatedPlan) -> float:
    """Return the time in which the cache of one prompt gets from prefill to decode.

    Every GPU of prefill sends what it holds of the prompt, every GPU of decode receives what it
    will hold, all at once over the links that span the cluster; the slowest one counts.
    """
    ask = question(role_scenario(scenario, "prefill"))
    largest = 0.0
    for layout in (plan.prefill, plan.decode):
        alone = replace(layout, batch=1, chunks=1)
        works = [work_of(ask.workload, alone, stage) for stage in alone.stages]
        places = layout_of(alone, scenario.llm.num_layers)
        held = experts_held(ask, alone)
        _, caches, _ = stored(ask, alone, places, works, held, scenario.cluster.num_gpus)
        # One prompt per stage is in flight there, so every GPU holds its part of pp of them.
        largest = max(largest, float(caches.max()) / layout.pp)
    return float(ask.network.point_to_point_us(largest, scenario.cluster.num_gpus))


@dataclass(frozen=True, slots=True)
class Queued:
    """How busy prefill is, as a share of the time, and how long a prompt waits on average."""

    load: float
    wait_us: float


def queue(
    scenario: Scenario,
    plan: DisaggregatedPlan,
    requests_per_s: tuple[float, float],
    prompt_us: float,
) -> Queued:
    """Return the queue before prefill at the load of a plan.

    Every attention group of every replica is a server of its own to which prompts come at random,
    and which computes them in equal times (M/D/1; Kleinrock 1975, "Queueing Systems", vol. 1,
    section 5.5). A plan that states no load works as much as decode takes, if TTFT allows it.
    requests_per_s: that prefill and decode can serve. prompt_us: TTFT without a wait.
    """
    layout, needs = plan.prefill, scenario.requirements
    groups = sum(stage.attn_dp for stage in layout.stages) / layout.pp * layout.replicas
    service_us = groups / requests_per_s[0] * 1e6
    if plan.load is not None:
        percent = plan.load
    else:
        taken = math.ceil(100 * requests_per_s[1] / requests_per_s[0] - _FLOAT)
        percent = min(taken, needs.most_prefill_percent)
        if needs.max_ttft_us is not None and "ttft" not in scenario.recipe.disable:
            left_us = max(needs.max_ttft_us - prompt_us, 0.0)
            percent = min(percent, int(200 * left_us / (service_us + 2 * left_us)))
        percent = max(percent, 1)
    return Queued(percent / 100, service_us * percent / (2 * (100 - percent)))


def _role_report(
    scenario: Scenario, plan: DisaggregatedPlan, role: Role, document: PlanSpec | None
) -> VerifyReport:
    from autopar.verifier import verify_plan  # noqa: PLC0415  the package names this module too

    part = role_scenario(scenario, role)
    if document is None or document.roles is None:
        return verify_plan(part, plan.roles[role])
    own = document.role(role)
    numbers = {**(own.metrics or {}), **({"num_gpus": own.num_gpus} if own.num_gpus else {})}
    return verify_plan(part, plan.roles[role], (), numbers, own)


@dataclass(frozen=True, slots=True)
class _Together:
    """What both roles deliver together, and how busy they are then."""

    metrics: Metrics
    note: str


def _together(
    scenario: Scenario, plan: DisaggregatedPlan, reports: Mapping[Role, VerifyReport]
) -> _Together | None:
    """Return what both roles deliver together; None where one cannot be measured."""
    work = scenario.workload
    prefill, decode = (reports[role].metrics for role in ROLES)
    if prefill is None or decode is None or prefill.ttft_us is None or decode.tpot_us is None:
        return None
    output, moved_us = work.output_tokens or 1, handover_us(scenario, plan)
    most_per_s = (
        prefill.tokens_per_s * requests_per_token(work, "prefill"),
        decode.tokens_per_s * requests_per_token(work, "decode"),
    )
    busy = queue(scenario, plan, most_per_s, prefill.ttft_us + moved_us)
    requests_per_s = min(most_per_s[0] * busy.load, most_per_s[1])
    ttft_us = busy.wait_us + prefill.ttft_us + moved_us
    stay_us = ttft_us + (output - 1) * decode.tpot_us
    in_flight = round(requests_per_s * stay_us * 1e-6)  # Little's law
    fullest = max((prefill, decode), key=lambda metrics: metrics.peak_memory_bytes)
    rate, used = requests_per_s * output, plan.num_gpus
    metrics = Metrics(
        tokens_per_s=rate,
        tokens_per_s_per_gpu=rate / used,
        ttft_us=ttft_us,
        tpot_us=decode.tpot_us,
        concurrency=in_flight,
        batch_per_gpu=in_flight / used,
        stage_boundaries=prefill.stage_boundaries + decode.stage_boundaries,
        peak_memory_bytes=fullest.peak_memory_bytes,
        weights_bytes=fullest.weights_bytes,
        kv_cache_bytes=fullest.kv_cache_bytes,
        activation_bytes=fullest.activation_bytes,
        reserved_bytes=fullest.reserved_bytes,
    )
    shares = [100 * requests_per_s / most for most in most_per_s]
    note = (
        f"prefill is {shares[0]:.3g} % busy and decode {shares[1]:.3g} %: of TTFT, "
        f"{format_us(busy.wait_us)} are the wait for prefill at {100 * busy.load:.0f} %, "
        f"{format_us(prefill.ttft_us)} the prompt, {format_us(moved_us)} the handover"
    )
    return _Together(metrics, note)


def _shared(plan: DisaggregatedPlan) -> Iterator[Violation]:
    both = sorted(_ids(plan.prefill) & _ids(plan.decode))
    if both:
        text = f"{len(both):,} GPUs work for prefill and for decode: GPU {listed(both)}"
        yield from found("GPU in two roles", [text])


def _idle(scenario: Scenario, plan: DisaggregatedPlan) -> Iterator[Violation]:
    if scenario.requirements.coverage == "up_to" or "coverage" in scenario.recipe.disable:
        return
    num_gpus = scenario.cluster.num_gpus
    idle = sorted(set(range(num_gpus)) - _ids(plan.prefill) - _ids(plan.decode))
    if idle:
        verb = "is" if len(idle) == 1 else "are"
        text = f"{len(idle):,} of {plural(num_gpus, 'GPU')} {verb} in no role: GPU {listed(idle)}"
        yield from found("idle GPU", [text])


def _limits(scenario: Scenario, plan: DisaggregatedPlan, metrics: Metrics) -> Iterator[Violation]:
    """Yield what both roles answer for together: load, wait and handover, and the rates."""
    needs, disabled = scenario.requirements, scenario.recipe.disable
    if plan.load is not None and plan.load > needs.most_prefill_percent:
        text = (
            f"prefill works {plan.load} % of the time, at most {needs.most_prefill_percent} % is "
            "allowed (requirements.max_prefill_load), as its queue grows without end towards 100 %"
        )
        yield from found("prefill too busy", [text])
    limit_us, ttft_us = needs.max_ttft_us, metrics.ttft_us
    if limit_us is not None and ttft_us is not None and "ttft" not in disabled:
        most = needs.most_prefill_percent
        # the time of service is rounded, too, and the wait is a multiple of it
        slack_us = TIME_US * (plan.prefill.pp + 3 + most // (2 * (100 - most)))
        if ttft_us > limit_us * (1 + _FLOAT) + slack_us:
            text = (
                f"TTFT is {format_us(ttft_us)} ({ttft_us:,.3f} us) with the wait for prefill and "
                f"the handover to decode, at most {format_us(limit_us)} is allowed"
            )
            yield from found("TTFT over limit", [text])
    yield from throughput_violations(scenario, metrics, by=" by the slower role")


@dataclass(frozen=True, slots=True)
class _Used:
    """What `stated_violations` looks at in a layout."""

    used_gpus: IntArray


@dataclass(frozen=True, slots=True)
class _Depth:
    """What it looks at in a plan: the times that are added up."""

    pp: int


def _stated(
    scenario: Scenario,
    plan: DisaggregatedPlan,
    metrics: Metrics | None,
    stated: Mapping[str, Any],
) -> Iterator[Violation]:
    used: Any = _Used(np.array(sorted(_ids(plan.prefill) | _ids(plan.decode)), dtype=np.int64))
    depth: Any = _Depth(max(plan.prefill.pp + 1, plan.decode.pp))
    yield from stated_violations(scenario, depth, used, metrics, stated)


def _not_derived(claim: Claim) -> Verdict:
    stated = f"{claim.value:,.10g} {claim.unit}".strip()
    why = "claims about a plan with two roles are not derived"
    return Verdict(claim.name, "not derivable", stated, "", None, why, claim.says)


def _ids(plan: Plan) -> set[int]:
    return {gpu for replica in plan.gpus for stage in replica for gpu in stage}
