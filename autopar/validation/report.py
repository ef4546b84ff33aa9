"""Scores of all groups of outcomes: what `autopar validate` answers."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from autopar.bands import default_bands, metric_range
from autopar.errors import SpecError, shorten, suggest
from autopar.units import plural
from autopar.validation.bulk import read_bulk
from autopar.validation.outcomes import BYTES, TRIVIAL, AnyCase, Evaluation, Outcome, evaluate
from autopar.validation.shelf import shipped_cases
from autopar.validation.statistics import Ranking, Score, ranking, scaled_to_fit, score

# What a figure is called, in the order in which figures are reported.
METRICS: Mapping[str, str] = {
    "tpot_ms": "TPOT at a concurrency",
    "e2e_s": "static batch, end to end",
    "ttft_ms": "TTFT of a lone request",
    "ttft_few_ms": "TTFT of two to four clients",
    "us_per_token": "time per token of one phase",
    "step_s": "training step",
    "state_gib": "training: parameters, gradients, optimizer",
    "activation_gib": "training: activations",
}
_MOST_REASONS = 3  # that an error names
# Views of the rows: how a group is named, in the order of the report.
_BY: Mapping[str, Callable[[Outcome], str]] = {
    "all": lambda _: "all",
    "gpu": lambda outcome: outcome.gpu,
    "engine": lambda outcome: outcome.engine,
    "model": lambda outcome: "experts" if outcome.is_moe else "dense",
    "load": lambda outcome: "held back" if outcome.is_held_back else "admitted",
    "source": lambda outcome: outcome.source,
}


@dataclass(frozen=True, slots=True)
class Group:
    """The score of one metric in one group of a view."""

    metric: str
    by: str
    name: str
    score: Score


@dataclass(frozen=True, slots=True)
class Validation:
    """Scores by metric and view, the order of competing plans, and what could not be predicted."""

    groups: tuple[Group, ...]
    ranking: Ranking | None
    equal_ranking: Ranking | None  # of plans on as many GPUs as each other
    training_ranking: Ranking | None
    outcomes: tuple[Outcome, ...]
    left_out: dict[str, int]
    share: float  # of measured values that the bands claim to hold

    def group(self, metric: str, by: str = "all", name: str = "all") -> Score | None:
        """Return the score of a group; None where it has no rows."""
        found = (g.score for g in self.groups if (g.metric, g.by, g.name) == (metric, by, name))
        return next(found, None)


def validate(
    *,
    data: Path | None = None,
    tiers: Sequence[str] = ("A",),
    catalogs: Sequence[Path] = (),
    only: Sequence[str] = (),
) -> Validation:
    """Predict the measurements of the catalogue, or of a table, and score the predictions.

    data: a table of measured runs (CSV) instead of the catalogue's; tiers: of its rows. only: names
    of sources; all where empty.
    Trivial models have the constants of all rows, also where some sources are chosen.
    Raises SpecError for a table that cannot be read, and if no row is left.
    """
    left_out: dict[str, int] = {}
    cases: Iterable[tuple[str, AnyCase]] = shipped_cases(catalogs)
    if data is not None:
        bulk = read_bulk(data, tuple(tiers))
        cases, left_out = bulk.cases, bulk.left_out
    every = list(cases)
    chosen = list(_chosen(every, only, left_out))
    found = evaluate(chosen)
    left_out = {**left_out, **found.left_out}
    if not found.outcomes:
        raise SpecError(f"validate: no row is scored{_because(left_out)}")
    others = evaluate(pair for pair in every if only and pair[0] not in only)
    return scored(Evaluation(found.outcomes, left_out), beside=others.outcomes)


def _because(left_out: Mapping[str, int]) -> str:
    """Return why rows were left out, the most frequent reasons first."""
    reasons = sorted(left_out.items(), key=lambda pair: -pair[1])
    said = [f"{plural(count, 'row')}: {reason}" for reason, count in reasons[:_MOST_REASONS]]
    if len(reasons) > _MOST_REASONS:
        said.append(f"and {plural(len(reasons) - _MOST_REASONS, 'reason')} more")
    return f": {'; '.join(said)}" if said else "; expected measured runs"


def _chosen(
    cases: Sequence[tuple[str, AnyCase]], only: Sequence[str], left_out: Mapping[str, int]
) -> Iterator[tuple[str, AnyCase]]:
    """Yield the cases of the named sources; of all where none is named."""
    if not cases:
        raise SpecError(f"validate: no row can be predicted{_because(left_out)}")
    known = sorted({source for source, _ in cases})
    for name in only:
        if name not in known:
            raise SpecError(
                f"validate: unknown source {shorten(name)}{suggest(name, known)}; expected one of "
                f"{', '.join(known)}"
            )
    yield from (pair for pair in cases if not only or pair[0] in only)


def scored(found: Evaluation, *, beside: Sequence[Outcome] = ()) -> Validation:
    """Return the scores of outcomes; beside: others, whose rows count for trivial constants too."""
    groups = []
    for metric in METRICS:
        own = [outcome for outcome in found.outcomes if outcome.metric == metric]
        every = [*own, *(outcome for outcome in beside if outcome.metric == metric)]
        for by, name_of in _BY.items():
            named: dict[str, list[Outcome]] = defaultdict(list)
            for outcome in own:
                named[name_of(outcome)].append(outcome)
            groups += [
                Group(metric, by, name, _score(rows, every)) for name, rows in sorted(named.items())
            ]
    return Validation(
        tuple(groups),
        _ranked(found.outcomes, "tpot_ms"),
        _ranked(found.outcomes, "tpot_ms", on_equal_gpus=True),
        _ranked(found.outcomes, "step_s"),
        found.outcomes,
        found.left_out,
        default_bands().share,
    )


def _score(rows: Sequence[Outcome], own: Sequence[Outcome]) -> Score:
    """Score a group; a trivial model has one constant, fitted to `own`, all rows of the metric.

    It has none to show where a constant is all that there is to say: of a single row.
    """
    where = {id(outcome): place for place, outcome in enumerate(own)}
    measured = [outcome.measured for outcome in own]
    trivial = {
        name: scaled_to_fit([outcome.trivial[name] for outcome in own], measured)
        for name in TRIVIAL
        if len(own) > 1 and all(name in outcome.trivial for outcome in own)
    }
    places = [where[id(outcome)] for outcome in rows]
    return score(
        [outcome.predicted for outcome in rows],
        [outcome.measured for outcome in rows],
        inside=None if own[0].band is None else [_is_inside(o) for o in rows],
        baselines={name: [values[p] for p in places] for name, values in trivial.items()},
    )


def _is_inside(outcome: Outcome) -> bool:
    """Whether a measured value lies in the band that answers carry; without one it does not."""
    if outcome.band is None:
        return False
    band = metric_range(outcome.band, is_moe=outcome.is_moe, has_kernels=outcome.has_kernels)
    return band is not None and band.low <= outcome.ratio <= band.high


def _ranked(
    outcomes: Sequence[Outcome], metric: str, *, on_equal_gpus: bool = False
) -> Ranking | None:
    """Return the order of plans that answer the same question on the same number of GPUs or not.

    Beside that of the prediction, two that need none: fewer GPUs first, and the bytes that the
    plan's GPUs read in a step.
    """
    orders: dict[str, list[tuple[list[float], list[float]]]] = defaultdict(list)
    for plans in plans_of(outcomes, metric, on_equal_gpus=on_equal_gpus):
        truth = [plan.measured for plan in plans]
        orders["ours"].append(([plan.predicted for plan in plans], truth))
        orders["1 / GPUs"].append(([1 / plan.num_gpus for plan in plans], truth))
        reads = [plan.bytes_rate for plan in plans]
        if all(reads):
            orders[BYTES].append((reads, truth))
    found = ranking(orders.pop("ours", []))
    if found is None:
        return None
    ranked = {name: ranking(cases) for name, cases in orders.items()}
    return replace(found, trivial={name: one.tau for name, one in ranked.items() if one})


@dataclass(frozen=True, slots=True)
class RankedPlan:
    """A plan that competes: its rates per GPU, and what a trivial model knows of it.

    bytes_rate: without its constant; 0 where nothing was said of bytes.
    """

    layout: str
    measured: float
    predicted: float
    num_gpus: int
    bytes_rate: float
    case: str


def plans_of(
    outcomes: Sequence[Outcome], metric: str, *, on_equal_gpus: bool = False
) -> list[list[RankedPlan]]:
    """Return the plans of each question that has several; runs of one layout are one plan."""
    cases: dict[str, dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        if outcome.rate is not None and outcome.metric == metric:
            gpus = f" on {outcome.num_gpus}" if on_equal_gpus else ""
            cases[outcome.case + gpus][outcome.layout].append(outcome)
    found = [[_plan(runs) for runs in layouts.values()] for layouts in cases.values()]
    return [plans for plans in found if len(plans) > 1]


def _plan(runs: Sequence[Outcome]) -> RankedPlan:
    first = runs[0]
    rates = [run.rate for run in runs if run.rate is not None]
    read = first.trivial.get(BYTES, 0.0) * first.num_gpus
    return RankedPlan(
        first.layout,
        fmean(rate[0] for rate in rates),
        fmean(rate[1] for rate in rates),
        first.num_gpus,
        1 / read if read else 0.0,
        first.case,
    )
