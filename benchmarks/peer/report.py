"""Write results/side-by-side.md and .json from the rows of a comparison."""

import datetime as dt
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from run_peer import PEER_PACKAGE, PEER_VERSION

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import describe_machine, machine

if TYPE_CHECKING:
    from side_by_side import Row

NONE = "-"
# Short names of degrees, ours; the peer's are translated before.
SHORT = {"tp": "tp", "pp": "pp", "attention_dp": "dp", "moe_tp": "etp", "moe_ep": "ep"}


def machine_line() -> str:
    """Return what the times depend on, and the commit, without the machine's name or its paths."""
    return f"{describe_machine(machine())} {PEER_PACKAGE} {PEER_VERSION}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table; the first column is text, the others align right."""
    rule = "|---|" + "---:|" * (len(header) - 1)
    return [f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(row)} |" for row in rows), ""]


def number(value: Any, form: str = ".1f") -> str:
    """Return a number in a form, or a dash where there is none."""
    return NONE if value is None else format(float(value), form)


def say_degrees(part: Mapping[str, Any]) -> str:
    """Return degrees and batch of one role in a few letters: `dp4 ep4, b24`."""
    shown = " ".join(f"{SHORT[k]}{part[k]}" for k in SHORT if int(part.get(k) or 1) != 1)
    batch = part.get("batch", part.get("bs"))
    if batch is None and part.get("concurrency"):
        return f"{shown or 'tp1'}, {part['concurrency']:g} in flight"
    return f"{shown or 'tp1'}, b{batch}"


def say_plan(plan: Mapping[str, Any] | None) -> str:
    """Return a plan of peer_score.py in a few letters."""
    if not plan:
        return NONE
    if plan.get("mode") == "disagg":
        parts = (f"{plan[r]['workers']}x({say_degrees(plan[r])})" for r in ("prefill", "decode"))
        return f"{plan['replicas']}x[{' + '.join(parts)}]"
    return f"{plan['replicas']}x({say_degrees(plan)})"


def say_score(score: Mapping[str, Any] | None) -> list[str]:
    """Return throughput, TTFT, TPOT and whether the limits hold, of one score."""
    if not score:
        return [NONE] * 4
    if score["status"] != "scored":
        return [f"cannot: {score.get('error', '')[:60]}", NONE, NONE, NONE]
    verdict = "yes" if score["meets_limits"] else "no" if score["fits"] else "no: memory"
    return [
        number(score["tokens_per_s_per_gpu"]),
        number(score["ttft_ms"], ".0f"),
        number(score["tpot_ms"]),
        verdict if score["by_its_rules"] else f"{verdict}, outside its rules",
    ]


def share(part: float | None, whole: float | None) -> str:
    """Return part of whole in per cent."""
    return NONE if not part or not whole else f"{part / whole:.1%}"


def _value(score: Mapping[str, Any] | None) -> float | None:
    """Throughput of a plan that the peer lets pass, else nothing."""
    return score["tokens_per_s_per_gpu"] if score and score.get("meets_limits") else None


def times(rows: Sequence["Row"], peer_start_s: float | None) -> list[str]:
    """Return the table of wall and CPU times.

    The peer searches both ways of serving in one run; its time stands with each. peer_start_s: what
    its command takes before it searches.
    """
    lines = []
    for row in rows:
        answer, run = row.answer, row.peer_run
        whole = alone = NONE
        if answer and run:
            whole = f"{run['wall_s'] / answer.wall_s:.0f}"
            if answer.solve_s and peer_start_s is not None:
                alone = f"{(run['wall_s'] - peer_start_s) / answer.solve_s:.0f}"
        lines.append(
            [
                f"{row.case.name} {row.mode}",
                number(answer.wall_s if answer else None, ".2f"),
                number(answer.cpu_s if answer else None, ".2f"),
                number(answer.solve_s if answer else None, ".2f"),
                str(answer.document.get("status")) if answer else row.failed[:50],
                number(run["wall_s"] if run else None),
                number(run["user_s"] + run["system_s"] if run else None),
                whole,
                alone,
            ]
        )
    header = ["case", "autopar wall s", "CPU s", "solve s", "status", "peer wall s", "CPU s"]
    header += ["ratio of walls", "of searches"]
    note = (
        "Wall: the whole command from the shell. Solve: candidates, search, proof, unfolding, the "
        "second opinion and what binds, without starting Python, reading specs and printing. "
    )
    if peer_start_s is not None:
        note += (
            f"Of the peer's searches {peer_start_s:.1f} s are taken off, what `aiconfigurator cli "
            "--help` takes here."
        )
    return ["## Time", "", *table(header, lines), note, ""]


# The targets of the comparison: times as fast as the peer, seconds from the shell (more on a whole
# data centre), and how much of the peer's best plan by its own evaluator.
FASTER = 50
AT_MOST_S, AT_MOST_LARGE_S, LARGE_GPUS = 2.0, 5.0, 131_072
OF_ITS_BEST = 0.95


def targets(rows: Sequence["Row"], peer_start_s: float | None) -> list[str]:
    """Return the table of targets, met or missed case by case, and how often each is met."""
    judged = [_judged(row, peer_start_s) for row in rows]
    lines = [
        [f"{row.case.name} {row.mode}", *map(_verdict, of_row)]
        for row, of_row in zip(rows, judged, strict=True)
    ]
    counts = [_met(column) for column in zip(*judged, strict=True)]
    header = ["case", f"{FASTER}x by walls", f"{FASTER}x by searches"]
    header += [f"at most {AT_MOST_S:g} s", f"within {1 - OF_ITS_BEST:.0%} of its best"]
    note = (
        f"{AT_MOST_LARGE_S:g} s for {LARGE_GPUS:,} GPUs. Its best: the best plan that keeps the "
        "limits, of its winner and its oracle; late: by how much our plan misses a limit by the "
        f"peer's evaluator. A dash: there is nothing to compare with. Met: {counts[0]} by walls, "
        f"{counts[1]} by searches, {counts[2]} in time, {counts[3]} within {1 - OF_ITS_BEST:.0%}."
    )
    return ["## Targets", "", *table(header, lines), note, ""]


_Judged = tuple[
    bool | None, str
]  # whether a target is met, None where nothing tells; and the value


def _judged(row: "Row", peer_start_s: float | None) -> tuple[_Judged, ...]:
    answer, run = row.answer, row.peer_run
    walls: _Judged = (None, "")
    searches = seconds = walls
    if answer is not None:
        most = AT_MOST_LARGE_S if row.case.gpus >= LARGE_GPUS else AT_MOST_S
        seconds = answer.wall_s <= most, f"{answer.wall_s:.2f} s"
        if run:
            walls = _at_least(run["wall_s"] / answer.wall_s)
            if answer.solve_s and peer_start_s is not None:
                searches = _at_least((run["wall_s"] - peer_start_s) / answer.solve_s)
    return walls, searches, seconds, _near_its_best(row)


def _at_least(ratio: float) -> _Judged:
    return ratio >= FASTER, f"{ratio:.0f}"


def _near_its_best(row: "Row") -> _Judged:
    """Judge our plan by the peer's evaluator, against its winner and all that it could choose."""
    score = row.scores.get("autopar") or {}
    oracle = ((row.oracle or {}).get(row.mode) or {}).get("best") or {}
    known = (_value(row.scores.get("peer")), oracle.get("tokens_per_s_per_gpu"))
    best = max((value for value in known if value), default=None)
    if score.get("status") != "scored" or best is None:
        return None, ""
    if score.get("meets_limits"):
        part = score["tokens_per_s_per_gpu"] / best
        return part >= OF_ITS_BEST, f"{part:.1%}"
    if not score["fits"]:
        return False, "no memory"
    late = (
        ("TPOT", score["tpot_ms"], row.case.tpot_ms),
        ("TTFT", score["ttft_ms"], row.case.ttft_ms),
    )
    said = [f"{name} {ms:.1f} of {limit:g} ms" for name, ms, limit in late if ms > limit]
    return False, ", ".join(said)


def _met(judged: Iterable[_Judged]) -> str:
    """Return in how many of those that can be told a target is met."""
    told = [met for met, _ in judged if met is not None]
    return f"{sum(told)} of {len(told)}"


def _verdict(judged: _Judged) -> str:
    met, value = judged
    return NONE if met is None else f"{'met' if met else 'missed'}: {value}"


def by_the_peer(rows: Sequence["Row"]) -> list[str]:
    """Return the table of both plans by the peer's evaluator."""
    lines = []
    for row in rows:
        oracle = ((row.oracle or {}).get(row.mode) or {}).get("best") or {}
        mine, theirs = _value(row.scores.get("autopar")), _value(row.scores.get("peer"))
        cannot = row.case.peer.cannot
        found = say_plan(row.plans.get("peer")) if not cannot else f"cannot: {cannot}"
        lines.append(
            [
                f"{row.case.name} {row.mode}",
                say_plan(row.plans.get("autopar")),
                *say_score(row.scores.get("autopar")),
                found,
                *say_score(row.scores.get("peer")),
                number(oracle.get("tokens_per_s_per_gpu")),
                share(mine, theirs),
                share(mine, oracle.get("tokens_per_s_per_gpu")),
            ]
        )
    score = ["tok/s/GPU", "TTFT ms", "TPOT ms", "limits"]
    header = ["case", "autopar's plan", *score, "peer's plan", *score]
    header += ["peer's oracle", "of its winner", "of its oracle"]
    off = [row.disagreement for row in rows if row.disagreement is not None]
    note = f"Its evaluator and its command line differ by at most {max(off, default=0.0):.2%} on "
    note += f"throughput, TTFT and TPOT of its {len(off)} winners."
    return ["## Both plans by the peer's evaluator", "", *table(header, lines), note, ""]


def every_step(rows: Sequence["Row"]) -> list[str]:
    """Return the table of both by the peer's step times, with every step counted in TPOT."""
    lines = []
    for row in rows:
        best = ((row.oracle or {}).get(row.mode) or {}).get("best_every_step") or {}
        score = row.scores.get("autopar") or {}
        if row.mode != "agg" or score.get("status") != "scored" or not best:
            continue
        mean_ms = score["mean_step_ms"]
        limits = row.case.tpot_ms, row.case.ttft_ms
        good = score["fits"] and mean_ms <= limits[0] and score["ttft_ms"] <= limits[1]
        mine = score["tokens_per_s_per_gpu"] if good else None
        lines.append(
            [
                f"{row.case.name} {row.mode}",
                number(score["tokens_per_s_per_gpu"]),
                number(mean_ms),
                "yes" if good else "no",
                say_plan({**best, "mode": "agg", "replicas": NONE}).removeprefix(f"{NONE}x"),
                number(best["tokens_per_s_per_gpu"]),
                number(best["mean_step_ms"]),
                share(mine, best["tokens_per_s_per_gpu"]),
            ]
        )
    header = ["case", "autopar's tok/s/GPU", "mean step ms", "limits"]
    header += ["best of its oracle", "tok/s/GPU", "mean step ms", "ours of that"]
    text = (
        "Its TPOT leaves out three of the steps in which prompts are computed (TensorRT-LLM, "
        "SGLang), its throughput none. Here its step times with all of them, for our plan and for "
        "the best of all plans that it can choose."
    )
    return ["## By the peer's step times, every step counted", "", text, "", *table(header, lines)]


def by_autopar(rows: Sequence["Row"]) -> list[str]:
    """Return the table of both plans by our evaluator."""
    lines = []
    for row in rows:
        cells = [f"{row.case.name} {row.mode}"]
        for whose in ("autopar", "peer"):
            found = row.by_autopar.get(whose) or {}
            metrics = found.get("metrics") or {}
            cells += [
                number(metrics.get("tokens_per_s_per_gpu")),
                number(metrics.get("ttft_ms"), ".0f"),
                number(metrics.get("tpot_ms")),
            ]
        note = (row.by_autopar.get("peer") or {}).get("error", "")
        lines.append([*cells, note[:80]])
    score = ["tok/s/GPU", "TTFT ms", "TPOT ms"]
    header = ["case", *(f"ours: {s}" for s in score), *(f"peer's: {s}" for s in score), "note"]
    return ["## Both plans by autopar's evaluator", "", *table(header, lines)]


def reasons(rows: Sequence["Row"]) -> list[str]:
    """Return why the winners differ, case by case."""
    told = {row.case.name: row.case.why for row in rows if row.case.why}
    if not told:
        return []
    return ["## Why they differ", "", *(f"- {name}: {why}" for name, why in told.items()), ""]


def write_report(rows: Sequence["Row"], folder: Path, peer_start_s: float | None = None) -> None:
    """Write both results files; peer_start_s: what the peer takes before it searches."""
    date = dt.datetime.now(dt.UTC).date().isoformat()
    head = (
        f"{date}. {machine_line()}. Input 4000 tokens, output 1000; limits per case in "
        "`benchmarks/peer/cases.yaml`. What the peer's numbers mean, and the command that wrote "
        "this: `benchmarks/peer/README.md`."
    )
    lines = [
        "# autopar and aiconfigurator side by side",
        "",
        head,
        "",
        *targets(rows, peer_start_s),
        *times(rows, peer_start_s),
        *by_the_peer(rows),
        *every_step(rows),
        *by_autopar(rows),
        *reasons(rows),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "side-by-side.md").write_text("\n".join(lines), encoding="utf-8")
    record = {
        "date": date,
        "machine": machine_line(),
        "peer_start_s": peer_start_s,
        "rows": [row.record() for row in rows],
    }
    text = json.dumps(record, indent=1, default=str) + "\n"
    (folder / "side-by-side.json").write_text(text, encoding="utf-8")
    print(f"wrote side-by-side.md and .json in {folder.name}", file=sys.stderr)
