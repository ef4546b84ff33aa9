"""Where measured values of a plan's metrics are expected, and what an answer must say about it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import sqrt

from autopar.bands import Metric, Range, assumed, metric_range, ranges, values_us
from autopar.problem import AnyPlan, DisaggregatedPlan, Expected, Interval, Metrics
from autopar.results import VerifyReport
from autopar.specs import Scenario
from autopar.specs.bands import TimeBand
from autopar.specs.roles import ROLES, Role, requests_per_token, role_scenario
from autopar.units import format_rate, format_us, plural
from autopar.unmeasured import Uses

# How notes call the runs of each band; more clients wait in a queue that sources do not describe.
_RUNS: Mapping[TimeBand, str] = {
    "ttft": "TTFT (two to four clients)",
    "prompt": "prompts alone",
    "tpot": "TPOT",
    "static": "static batches",
}
# Of the memory of a GPU: by so much predicted states of training runs were off, the only memory
# that was published (results/training-fits.md: state, mean error).
_MEMORY_ERROR = 0.025


def with_ranges(scenario: Scenario, report: VerifyReport, plan: AnyPlan) -> VerifyReport:
    """Return a report whose metrics carry their ranges, with the notes that these need."""
    if report.metrics is None or scenario.cost_model != "analytic":
        return report
    roles: dict[str, Metrics] = {
        role: _with(report.roles[role], ranges(role_scenario(scenario, role), _uses(plan, role)))
        for role in ROLES
        if role in report.roles
    }
    metrics = _with(report.metrics, ranges(scenario, _uses(plan)))
    if roles:
        expected = replace(_of(metrics), tokens_per_s=_rate_of_both(scenario, roles))
        metrics = replace(metrics, expected=expected)
    notes = (*report.notes, *_notes(scenario, metrics, plan))
    return replace(report, metrics=metrics, roles=roles, notes=notes)


def _uses(plan: AnyPlan, role: Role | None = None) -> Uses:
    """Return which GPUs of a plan, or of one of its roles, talk to each other."""
    if isinstance(plan, DisaggregatedPlan):
        layouts = [plan.roles[one] for one in ROLES if role in (None, one)]
    else:
        layouts = [plan]
    stages = [stage for layout in layouts for stage in layout.stages]
    is_moe = any(len(layout.placement) > 0 for layout in layouts)
    return Uses.of(stages, is_moe=is_moe)


def _with(metrics: Metrics, known: Mapping[Metric, Range]) -> Metrics:
    found: dict[Metric, Interval | None] = {
        name: None if value is None or name not in known else _scaled(known[name], value)
        for name, value in values_us(metrics).items()
    }
    share = next((known_range.share for known_range in known.values()), 0.0)
    expected = Expected(share, found["tokens_per_s"], found["ttft"], found["tpot"])
    return replace(metrics, expected=expected)


# The range that the values of an objective have.
_RANGE_OF = {
    "throughput": "tokens_per_s",
    "throughput_per_gpu": "tokens_per_s",
    "cost": "tokens_per_s",
    "ttft": "ttft_us",
    "tpot": "tpot_us",
}


def band_of(objective: str, metrics: Metrics) -> float | None:
    """Return by how much one plan must be better than another, as a ratio less 1, to be so surely.

    Half of the range, about its middle: what predictions of both miss alike, as a bias does, leaves
    their order. None where the objective has no range.
    """
    interval = getattr(metrics.expected, _RANGE_OF.get(objective, ""), None)
    return None if interval is None else sqrt(interval[1] / interval[0]) - 1


def _scaled(known: Range, value: float) -> Interval:
    return (value * known.low, value * known.high)


def _of(metrics: Metrics) -> Expected:
    assert metrics.expected is not None  # `_with` has set it
    return metrics.expected


def _rate_of_both(scenario: Scenario, roles: Mapping[str, Metrics]) -> Interval | None:
    """Return the range of the output rate of two roles: the slower one sets it at either end."""
    work = scenario.workload
    ends: list[Interval] = []
    for role in ROLES:
        own = _of(roles[role]).tokens_per_s
        if own is None:
            return None
        factor = requests_per_token(work, role) * (work.output_tokens or 1)
        ends.append((own[0] * factor, own[1] * factor))
    return (min(low for low, _ in ends), min(high for _, high in ends))


def _notes(scenario: Scenario, metrics: Metrics, plan: AnyPlan) -> Iterator[str]:
    """Yield what a reader must know about the ranges of a plan's metrics."""
    known = _known(scenario, plan)
    yield from _basis(scenario, known)
    yield from _biases(known.values())
    yield from _assumptions(scenario, plan, known)
    yield from _limits(scenario, metrics)
    yield from _fullness(scenario, metrics)
    if _has_replica_over_fabric(scenario, plan):
        yield (
            "a replica spans several nodes that no scale-up domain joins: of groups over the "
            "fabric only wide expert parallelism was measured, so that the ranges may be too "
            "narrow for others"
        )


def _basis(scenario: Scenario, known: Mapping[TimeBand, Range]) -> Iterator[str]:
    """Say which runs the ranges are from, and of which none is on the GPU of the scenario."""
    if not known:
        return
    share = next(iter(known.values())).share
    said = [
        f"{_RUNS[band]} from {plural(one.basis.rows, 'run')} of {plural(one.basis.cells, 'cell')} "
        f"({', '.join(one.basis.gpus)})"
        for band, one in known.items()
    ]
    yield (
        f"{share:.0%} of the measured runs behind the ranges lay in them: {'; '.join(said)}; a "
        "cell is one model on one GPU of one source (autopar validate)"
    ).replace("%", " %")
    gpu = scenario.cluster.gpu.name
    without = [_RUNS[band] for band, one in known.items() if gpu not in one.basis.gpus]
    if without:
        yield (
            f"none of the runs of {' and '.join(without)} is on {gpu}: how many of its own would "
            "lie in such ranges is not known"
        )


def _assumptions(
    scenario: Scenario, plan: AnyPlan, known: Mapping[TimeBand, Range]
) -> Iterator[str]:
    """Say which operations of the plan are assumed, and what that does to which range."""
    found = list(dict.fromkeys(one.words for one in assumed(scenario, _uses(plan))))
    if not known or not found:
        return
    gpu = scenario.cluster.gpu
    borrows = gpu.kernels is None or gpu.kernels.of is not None
    what = (
        f"no kernels of {gpu.name} were measured"
        if borrows
        else (f"not measured on {gpu.name}, but assumed: {', '.join(found)}")
    )
    wider = [_RUNS[band] for band, one in known.items() if _is_wider(one, scenario)]
    alike = [_RUNS[band] for band, one in known.items() if not _is_wider(one, scenario)]
    said = [
        f"that of {' and '.join(names)} is {how}"
        for names, how in (
            (wider, "wider than with measured kernels"),
            (alike, "as wide as with measured kernels"),
        )
        if names
    ]
    yield (
        f"{what}: of the ranges, {', '.join(said)}, from runs predicted as if no kernels were "
        "known; no GPU of another maker was tried"
    )


def _is_wider(one: Range, scenario: Scenario) -> bool:
    """Whether a range is wider than that of plans whose kernels were all measured."""
    is_moe = scenario.llm.is_moe
    known = metric_range(one.basis.metric, is_moe=is_moe, has_kernels=True)
    return known is not None and (one.low < known.low or one.high > known.high)


def _known(scenario: Scenario, plan: AnyPlan) -> dict[TimeBand, Range]:
    """Return the bands that an answer draws on, of both roles where there are two."""
    asked: list[tuple[Scenario, Uses]] = [(scenario, _uses(plan))]
    if scenario.workload.phase == "disaggregated":
        asked += [(role_scenario(scenario, role), _uses(plan, role)) for role in ROLES]
    found = [
        one
        for part, uses in asked
        for key, one in ranges(part, uses).items()
        if key != "tokens_per_s"
    ]
    bands = {one.basis.metric: one for one in found}
    return {band: bands[band] for band in _RUNS if band in bands}


def _biases(known: Iterable[Range]) -> Iterator[str]:
    """Say of which times measured values lie on one side of the predicted one."""
    for one in known:
        if one.is_biased:
            yield (
                f"{_RUNS[one.basis.metric]} is biased: published runs waited {one.low:.3g} to "
                f"{one.high:.3g} times as long as predicted, in a queue of their benchmark that "
                "no source describes; the value is that of requests which come one by one"
            )


def _fullness(scenario: Scenario, metrics: Metrics) -> Iterator[str]:
    """Say so where the fullest GPU has less room left than memory may be off by."""
    share = metrics.peak_memory_bytes / scenario.cluster.gpu.memory_bytes
    if share > 1 - _MEMORY_ERROR:
        yield (
            f"the fullest GPU is at {share:.1%} of its memory, which has no range: no published "
            f"run of an engine states it; that of training was {_MEMORY_ERROR:.1%} off, so that an "
            "engine may have to take fewer sequences"
        ).replace("%", " %")


@dataclass(frozen=True, slots=True)
class _Limit:
    """A requirement on a metric: the value that is allowed, predicted, and worst in the range."""

    name: str
    allowed: str
    reached: str
    is_met: bool
    is_sure: bool


def _limits(scenario: Scenario, metrics: Metrics) -> Iterator[str]:
    """Say which limits the prediction meets, but not the whole of its range."""
    for limit in _limits_of(scenario, metrics):
        if limit.is_met and not limit.is_sure:
            yield (
                f"{limit.name} meets {limit.allowed} in the prediction; its range reaches "
                f"{limit.reached}"
            )


def _limits_of(scenario: Scenario, metrics: Metrics) -> Iterator[_Limit]:
    needs, expected = scenario.requirements, _of(metrics)
    for name, limit_us, value_us, interval in (
        ("TTFT", needs.max_ttft_us, metrics.ttft_us, expected.ttft_us),
        ("TPOT", needs.max_tpot_us, metrics.tpot_us, expected.tpot_us),
    ):
        if limit_us is not None and value_us is not None and interval is not None:
            high = interval[1]
            yield _Limit(
                name, format_us(limit_us), format_us(high), value_us <= limit_us, high <= limit_us
            )
    rate = expected.tokens_per_s
    if rate is None:
        return
    per_gpu = metrics.tokens_per_s_per_gpu
    for name, least, value, low in (
        ("throughput", needs.min_tokens_per_s, metrics.tokens_per_s, rate[0]),
        (
            "throughput per GPU",
            needs.min_tokens_per_s_per_gpu,
            per_gpu,
            rate[0] * per_gpu / metrics.tokens_per_s,
        ),
    ):
        if least is not None:
            yield _Limit(name, format_rate(least), format_rate(low), value >= least, low >= least)


def _has_replica_over_fabric(scenario: Scenario, plan: AnyPlan) -> bool:
    """Whether GPUs of one replica, of either role, talk over the fabric.

    Within a node, or a scale-up domain of several nodes, they do not.
    """
    layouts = list(plan.roles.values()) if isinstance(plan, DisaggregatedPlan) else [plan]
    together = max(scenario.cluster.gpus_per_node, scenario.cluster.domain_gpus)
    return any(
        len({gpu // together for stage in replica for gpu in stage}) > 1
        for layout in layouts
        for replica in layout.gpus
    )
