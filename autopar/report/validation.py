"""What `autopar validate` found, as a document and as text."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autopar.report.words import percent
from autopar.units import plural
from autopar.validation.outcomes import TRIVIAL
from autopar.validation.report import METRICS, Validation
from autopar.validation.statistics import Ranking, Score

Json = dict[str, Any]
_MOST_REASONS = 12
_QUOTED = re.compile(r"'[^']*'")
# Views with a table of their own in the text; the document has all.
_TABLES = ("gpu", "engine", "model", "load", "source")


def validation_document(found: Validation, *, rows: bool = False) -> Json:
    """Return the scores as one JSON document; rows: with every prediction."""
    document: Json = {
        "schema": 1,
        "kind": "validation",
        "band_share": found.share,
        "groups": [
            {"metric": g.metric, "by": g.by, "name": g.name, **_score(g.score)}
            for g in found.groups
        ],
        "ranking": _ranking_document(found.ranking),
        "equal_gpus_ranking": _ranking_document(found.equal_ranking),
        "training_ranking": _ranking_document(found.training_ranking),
        "left_out": found.left_out,
    }
    if rows:
        document["rows"] = [
            {
                "source": o.source,
                "id": o.row,
                "llm": o.llm,
                "gpu": o.gpu,
                "engine": o.engine,
                "mode": o.mode,
                "metric": o.metric,
                "predicted": o.predicted,
                "measured": o.measured,
            }
            for o in found.outcomes
        ]
    return document


def _ranking_document(ranked: Ranking | None) -> Json | None:
    if ranked is None:
        return None
    return {
        "cases": ranked.cases,
        "pairs": ranked.pairs,
        "kendall_tau": ranked.tau,
        "best_plan_found": ranked.best_found,
        "throughput_lost": ranked.lost,
        "kendall_tau_trivial": dict(ranked.trivial),
    }


def _score(found: Score) -> Json:
    return {
        "rows": found.rows,
        "mape": found.mape,
        "median_ape": found.median,
        "bias": found.bias,
        "inside_band": found.inside,
        **{f"mape_{name}": error for name, error in found.baselines.items()},
    }


def print_validation(console: Console, found: Validation) -> None:
    """Print how far off the predictions are, by metric and group."""
    share = percent(found.share)
    for metric, title in METRICS.items():
        if found.group(metric) is None:
            continue
        table = Table(box=SIMPLE_HEAD, pad_edge=False, title=Text(title), title_justify="left")
        table.add_column("group", overflow="fold")
        for column in ("rows", "MAPE", "median", "bias", f"in {share}", "flops", "bytes"):
            table.add_column(column, justify="right")
        for by in ("all", *_TABLES):
            groups = [g for g in found.groups if (g.metric, g.by) == (metric, by)]
            if by != "all" and len(groups) < 2:
                continue
            for group in groups:
                table.add_row(Text(group.name), *_cells(group.score))
            table.add_section()
        console.print(table)
    _ranking(console, found.ranking, "plans")
    _ranking(console, found.equal_ranking, "plans on equally many GPUs")
    _ranking(console, found.training_ranking, "layouts of training")
    _not_predicted(console, found.left_out)
    console.print(Text(_legend(share)))


def _not_predicted(console: Console, left_out: Mapping[str, int]) -> None:
    """Print why rows are not predicted; reasons that differ in what they quote share a line."""
    alike: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for reason, count in left_out.items():
        alike[_QUOTED.sub("", reason, count=1)].append((count, reason))
    groups = sorted(alike.values(), key=lambda group: -sum(count for count, _ in group))
    for group in groups[:_MOST_REASONS]:
        rows = plural(sum(count for count, _ in group), "row")
        console.print(Text(f"not predicted: {rows}: {_together(group)}"))
    if len(groups) > _MOST_REASONS:
        rest = sum(count for group in groups[_MOST_REASONS:] for count, _ in group)
        console.print(Text(f"not predicted: {plural(rest, 'row')} for other reasons (--json)"))


def _together(group: Sequence[tuple[int, str]]) -> str:
    """Return one reason for all: the first one's, with the number of other things it is for."""
    reason = max(group)[1]
    if len(group) == 1:
        return reason
    return _QUOTED.sub(
        lambda quoted: f"{quoted[0]} and {plural(len(group) - 1, 'other')}", reason, count=1
    )


def _cells(found: Score) -> tuple[str, ...]:
    trivial = (
        f"{found.baselines[name]:.0%}" if name in found.baselines else "" for name in TRIVIAL
    )
    inside = "" if found.inside is None else f"{found.inside:.0%}"
    own = (f"{found.mape:.1%}", f"{found.median:.1%}", f"{found.bias:+.1%}")
    return (f"{found.rows:,}", *own, inside, *trivial)


def _ranking(console: Console, ranked: Ranking | None, what: str) -> None:
    if ranked is None:
        return
    beside = ", ".join(f"{tau:.2f} by {name}" for name, tau in ranked.trivial.items())
    console.print(
        Text(
            f"Order of {what} of one question: Kendall tau {ranked.tau:.2f} ({beside}) over "
            f"{plural(ranked.pairs, 'pair')} of {plural(ranked.cases, 'case')}; the best plan is "
            f"found in {ranked.best_found:.0%}, {ranked.lost:.1%} of throughput is lost on average"
        )
    )


def _legend(share: str) -> str:
    words: Mapping[str, str] = {
        "MAPE, median": "mean and median of |predicted / measured - 1|",
        "bias": "median of predicted / measured - 1; above 0: predicted too long",
        "held back": "rows whose requests waited for longer than the prompts of all clients take: "
        "the engine let fewer run than the source says",
        f"in {share}": f"share of rows in the band that answers carry, which claims {share}",
        "flops, bytes": "MAPE of trivial models with the one constant that makes it least for all "
        "rows of the catalogue, or of the table, whichever sources are named: all work at a share "
        "of the peak rate; bytes at a share of the bandwidth, prompts at the peak",
    }
    return "\n" + "\n".join(f"{name}: {meaning}" for name, meaning in words.items())
