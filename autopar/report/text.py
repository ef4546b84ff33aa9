"""Results as text for people, 80 columns wide, through rich; numbers wrap but are never cut."""

from collections.abc import Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autopar.problem import AnyPlan, Metrics, Plan
from autopar.report import certainty, words
from autopar.report.remarks import remarks
from autopar.report.words import percent, quantity
from autopar.results import (
    Comparison,
    Explanation,
    ObjectiveValue,
    Repair,
    RunnerUp,
    Solution,
    Verdict,
    VerifyReport,
)
from autopar.specs import Scenario
from autopar.units import plural

_STYLES = {"reproduced": "green", "wrong": "bold red", "not derivable": "yellow"}
_STATUS = {
    "optimal": ("proven optimal", "bold green"),
    "feasible": ("feasible, optimality not proven", "bold yellow"),
    "infeasible": ("infeasible, proven: no layout searched satisfies the spec", "bold red"),
    "unknown": ("not decided: the limit was reached without a plan or a proof", "bold yellow"),
}


def print_solution(console: Console, solution: Solution, *, changed: bool = False) -> None:
    """Print the answer of `solve`: plan, metrics, objectives, what binds, and how it was proven.

    changed: whether the scenario is another than the one whose author wrote the assumptions.
    """
    scenario = solution.scenario
    _headline(console, scenario.name, solution)
    if solution.plan is None:
        print_conflict(console, solution.conflict, solution.because, solution.repairs)
    else:
        _plan(console, solution.plan, scenario)
        if solution.metrics is not None:
            _print_metrics(console, "Metrics", solution.metrics, scenario, solution.roles)
        _section(console, "Objectives, in order", _objectives(solution.objectives))
        _binding(console, solution)
        _robustness(console, solution)
    remarks(
        console,
        {
            "Runner-up": _runner_up(solution.runner_up, scenario) or _not_sought(solution),
            "Unique": _uniqueness(solution),
            "Note": solution.notes,
            "Assumed": () if changed else scenario.assumptions,
            "Solver": _solver(solution),
        },
    )
    if changed and scenario.assumptions:
        assumed = Table.grid()
        for said in scenario.assumptions:
            assumed.add_row(Text(said))
        _section(console, "Assumed, as the scenario was written", assumed)


def print_verification(console: Console, report: VerifyReport, scenario: Scenario) -> None:
    """Print the verdict on a plan, and the audit of its claims, one line each."""
    verdict = "satisfies the spec" if report.ok else plural(len(report.violations), "violation")
    line = Text.assemble(
        report.plan,
        " on ",
        scenario.name,
        ": ",
        (verdict, "bold green" if report.ok else "bold red"),
    )
    console.print(line)
    _pairs(console, "Violations", ((v.kind, v.message) for v in report.violations), "red")
    if report.metrics is not None:
        _print_metrics(console, "Metrics, recomputed", report.metrics, scenario, report.roles)
    if report.verdicts:
        _section(console, "Claims", _claims(report.verdicts))
    remarks(console, {"Audit": _audit(report.verdicts), "Note": report.notes})


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print all plans side by side, every difference relative to the solver's own plan."""
    solution = comparison.solution
    _headline(console, solution.scenario.name, solution)
    if solution.plan is None:
        print_conflict(console, solution.conflict, solution.because, solution.repairs)
    _section(console, "Plans", _comparison(comparison))
    for compared in comparison.plans:
        problems = ((v.kind, v.message) for v in compared.report.violations)
        _pairs(console, f"Violations of {compared.name}", problems, "red")
    best = ((name, ", ".join(plans)) for name, plans in comparison.best.items())
    _pairs(console, "Best, by objective", best)
    if comparison.relaxed is not None:
        _relaxed(console, solution, comparison.relaxed)
    gap = "gap: to what no plan of the spec beats in that objective alone, as proven"
    notes = (gap, *comparison.notes, *solution.notes)
    remarks(console, {"Note": notes, "Solver": _solver(solution)})


def print_explanation(console: Console, explanation: Explanation, scenario: Scenario) -> None:
    """Print which requirements clash and what repairs them, or what binds the optimum."""
    said, style = _STATUS[explanation.status]
    console.print(Text.assemble(scenario.name, ": ", (said, style)))
    if explanation.status == "infeasible":
        print_conflict(console, explanation.conflict, explanation.because, explanation.repairs)
    else:
        _binding(console, explanation)
    second = _runner_up(explanation.runner_up, scenario)
    remarks(console, {"Runner-up": second, "Note": explanation.notes})


def print_conflict(
    console: Console,
    conflict: Sequence[str],
    because: Mapping[str, str],
    repairs: Sequence[Repair],
) -> None:
    """Print a minimal set of clashing requirements, and what would make the spec feasible."""
    clash = ((name, because.get(name, "")) for name in conflict)
    _pairs(console, "These clash; without any one of them the others can hold", clash, "red")
    if not repairs:
        if conflict:
            console.print("\n  no repair found by changing one requirement")
        return
    title = "Any one of these makes it feasible: add to the command"
    console.print(Text.assemble("\n", (title, "bold")))
    for repair in repairs:
        command = Text(f"  {words.set_options(repair.change)}", "cyan")
        console.print(command, soft_wrap=True)  # to be copied, so never broken
        relative = "" if repair.relative is None else f", a change of {percent(repair.relative)}"
        console.print(Padding(Text(f"{repair.size}{relative}"), (0, 0, 0, 6)))


def print_catalog(console: Console, entries: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Print the names and descriptions of documents, kind by kind."""
    for kind, documents in entries.items():
        _pairs(console, kind, ((d["name"], d["description"]) for d in documents))
        if not documents:
            console.print(Text.assemble("\n", (kind, "bold"), "\n  none"))


def _headline(console: Console, name: str, solution: Solution) -> None:
    said, style = _STATUS[solution.status]
    interrupted = ", interrupted" if solution.interrupted else ""
    line = Text.assemble(
        name, ": ", (said, style), f" under cost model {solution.solver.cost_model}"
    )
    console.print(line.append(interrupted, "bold yellow"))


def _plan(console: Console, plan: AnyPlan, scenario: Scenario) -> None:
    used, total = plan.num_gpus, scenario.cluster.num_gpus
    idle = "none idle" if used == total else f"{total - used:,} idle"
    gpus = f"  {plural(used, 'GPU')} of {total:,} used, {idle}"
    if isinstance(plan, Plan):
        console.print(Text.assemble("\n", (words.layout(plan), "bold cyan")))
        console.print(gpus)
        _layout(console, plan)
        return
    for role, part in plan.roles.items():
        console.print(Text.assemble("\n", (f"{role}: {words.layout(part)}", "bold cyan")))
        count = f"{plural(part.num_gpus, 'GPU')} for {plural(part.replicas, 'replica')}"
        busy = f", {plan.load} % busy" if role == "prefill" and plan.load is not None else ""
        console.print(f"  {count}{busy}")
        _layout(console, part)
    console.print(f"\n{gpus}")


def _layout(console: Console, plan: Plan) -> None:
    """Print how one model lies over its GPUs."""
    for line in (words.degrees(plan), words.grid_identity(plan), words.batch(plan)):
        if line:
            console.print(f"  {line}")
    rows = list(words.stage_rows(plan))
    differ = len({row[3] for row in rows}) > 1
    table = _table("stage", "layers", "GPUs", *(["degrees"] if differ else []))
    for row in rows:
        table.add_row(*(row if differ else row[:3]))
    title = "Stages" if plan.replicas == 1 else f"Stages of replica 0 of {plan.replicas}"
    _section(console, title, table)


def _print_metrics(
    console: Console,
    title: str,
    metrics: Metrics,
    scenario: Scenario,
    roles: Mapping[str, Metrics],
) -> None:
    """Print all metrics, and where measured values of them lie: in a column, if there is room."""
    share = 0.0 if metrics.expected is None else metrics.expected.share
    said = f"here {percent(share)} of the runs in the notes lie"
    if share and not roles:
        title = f"{title}, and w{said}"
    ranges = {} if roles else range_rows(metrics)
    _section(console, title, _metrics(metrics, scenario, roles, ranges))
    if share and roles:
        _section(console, f"W{said}", _role_ranges({"both": metrics, **roles}))


def _metrics(
    metrics: Metrics,
    scenario: Scenario,
    roles: Mapping[str, Metrics],
    ranges: Mapping[str, str],
) -> Table:
    """Return a table of all metrics; with roles, a column for each of them."""
    phase = scenario.workload.phase
    columns = {"both": metrics, **roles} if roles else {phase: metrics}
    table = _table("", *columns) if roles else Table.grid(padding=(0, 2))
    rows = {key: dict(metric_rows(column)) for key, column in columns.items()}
    for name in rows[next(iter(columns))]:
        said = name
        if name == "throughput" and not roles:
            said = f"{'input' if phase == 'prefill' else 'output'} throughput"
        measured = [ranges.get(name, "")] if ranges else []
        table.add_row(said, *(row[name] for row in rows.values()), *measured)
    memory = scenario.cluster.gpu.memory_bytes
    shares = [percent(column.peak_memory_bytes / memory) for column in columns.values()]
    whole = f" of {quantity(memory, 'bytes')}"
    table.add_row("share of its memory", shares[0] + whole, *shares[1:])
    return table


def _role_ranges(columns: Mapping[str, Metrics]) -> Table:
    """Return where measured values of each role lie, those of both together first."""
    table = _table("", *columns)
    rows = {key: range_rows(column) for key, column in columns.items()}
    for name in dict.fromkeys(name for row in rows.values() for name in row):
        table.add_row(name, *(row.get(name, "") for row in rows.values()))
    return table


def range_rows(metrics: Metrics) -> dict[str, str]:
    """Return where measured values lie, by the name of the metric in text; those it has.

    Of a value that lies outside, how many times as much was measured.
    """
    expected = metrics.expected
    if expected is None:
        return {}
    per_gpu = metrics.tokens_per_s_per_gpu
    found = {
        "throughput": (metrics.tokens_per_s, expected.tokens_per_s, "tokens/s"),
        "per GPU": (per_gpu, expected.per_gpu(metrics.tokens_per_s / per_gpu), "tokens/s"),
        "TTFT": (metrics.ttft_us, expected.ttft_us, "us"),
        "TPOT": (metrics.tpot_us, expected.tpot_us, "us"),
    }
    return {
        name: words.around(value, interval, unit)
        for name, (value, interval, unit) in found.items()
        if value is not None
    }


def metric_rows(metrics: Metrics) -> list[tuple[str, str]]:
    """Return every metric by its name in text."""
    parts = {
        "weights": metrics.weights_bytes,
        "KV cache": metrics.kv_cache_bytes,
        "activations": metrics.activation_bytes,
        "reserved": metrics.reserved_bytes,
    }
    return [
        ("throughput", quantity(metrics.tokens_per_s, "tokens/s")),
        ("per GPU", quantity(metrics.tokens_per_s_per_gpu, "tokens/s")),
        ("TTFT", quantity(metrics.ttft_us, "us")),
        ("TPOT", quantity(metrics.tpot_us, "us")),
        ("concurrency", f"{plural(metrics.concurrency, 'request')} in flight"),
        ("batch per GPU", f"{metrics.batch_per_gpu:,.6g}"),
        ("stage boundaries", f"{metrics.stage_boundaries:,}"),
        ("fullest GPU", quantity(metrics.peak_memory_bytes, "bytes")),
        *((f"  {name}", quantity(value, "bytes")) for name, value in parts.items()),
    ]


def _objectives(objectives: Sequence[ObjectiveValue]) -> Table:
    table = _table("objective", "value", "bound", "gap", "")
    table.columns[3].justify = "right"
    decided = False
    for objective in objectives:
        role = "tied" if objective.tied else "" if decided else "decides"
        decided |= not objective.tied
        value, bound = (quantity(v, objective.unit) for v in (objective.value, objective.bound))
        table.add_row(
            f"{objective.name} ({objective.sense})", value, bound, percent(objective.gap), role
        )
    return table


def _claims(verdicts: Sequence[Verdict]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for verdict in verdicts:
        table.add_row(Text(verdict.verdict, _STYLES[verdict.verdict]), _claim(verdict))
    return table


def _claim(verdict: Verdict) -> Text:
    """Return one claim on one line: name, stated, recomputed, by what factor, why."""
    line = Text.assemble((verdict.name, "bold"), f": {verdict.stated}")
    if verdict.verdict != "reproduced" and verdict.says:
        line.append(f' ("{verdict.says}")')
    if verdict.recomputed and verdict.recomputed != verdict.stated:
        line.append(f", recomputed {verdict.recomputed}")
    if verdict.verdict == "wrong" and verdict.factor is not None:
        line.append(f", {verdict.factor:,.4g} times")
    return line.append(f"; {verdict.why}" if verdict.why else "")


def _comparison(comparison: Comparison) -> Table:
    table = _table("", *(plan.name for plan in comparison.plans))
    rows: dict[str, list[str]] = {"satisfies spec": [], "layout": [], "GPUs": []}
    own = comparison.solution.metrics
    for compared in comparison.plans:
        count = len(compared.report.violations)
        rows["satisfies spec"].append("yes" if not count else f"no: {plural(count, 'violation')}")
        rows["layout"].append(words.layout(compared.plan))
        rows["GPUs"].append(f"{compared.plan.num_gpus:,}")
        cells = _metric_cells(compared.report.metrics, own)
        for name, cell in cells.items():
            rows.setdefault(name, []).append(cell)
    for objective in comparison.solution.objectives:
        gaps = (plan.gaps.get(objective.name) for plan in comparison.plans)
        bound = comparison.bounds.get(objective.name)
        none = "-" if bound != 0 else "above 0"
        rows[f"gap, {objective.name}"] = [none if g is None else percent(g) for g in gaps]
    for name, row in rows.items():
        table.add_row(name, *row)
    return table


def _metric_cells(metrics: Metrics | None, own: Metrics | None) -> dict[str, str]:
    """Return a plan's metrics, each with its distance to the solver's own plan."""
    fields = {
        "throughput": ("tokens_per_s", "tokens/s"),
        "per GPU": ("tokens_per_s_per_gpu", "tokens/s"),
        "TTFT": ("ttft_us", "us"),
        "TPOT": ("tpot_us", "us"),
        "concurrency": ("concurrency", ""),
        "batch per GPU": ("batch_per_gpu", ""),
        "boundaries": ("stage_boundaries", ""),
        "fullest GPU": ("peak_memory_bytes", "bytes"),
        "  weights": ("weights_bytes", "bytes"),
        "  KV cache": ("kv_cache_bytes", "bytes"),
        "  activations": ("activation_bytes", "bytes"),
        "  reserved": ("reserved_bytes", "bytes"),
    }
    cells = {}
    ranges = {} if metrics is None else range_rows(metrics)
    for name, (key, unit) in fields.items():
        value = getattr(metrics, key) if metrics is not None else None
        text = "not measured" if metrics is None else quantity(value, unit)
        reference = getattr(own, key) if own is not None else None
        if value is not None and reference is not None:
            apart = words.difference(value, reference)
            text += f" ({apart})" if apart else ""
        cells[name] = text
        if name in ranges:
            cells[f"  {name} measured"] = ranges[name]
    return cells


def _relaxed(console: Console, solution: Solution, relaxed: Solution) -> None:
    """Print what the coverage costs: the optimum without it, where it differs."""
    asked, weaker = (s.scenario.requirements.coverage for s in (solution, relaxed))
    ours = {objective.name: objective for objective in solution.objectives}
    table = _table("objective", f"coverage {asked}", f"coverage {weaker}", "difference")
    for objective in relaxed.objectives:
        before = ours.get(objective.name)
        old = "no plan" if before is None else quantity(before.value, objective.unit)
        apart = "-" if before is None else words.difference(objective.value, before.value)
        table.add_row(
            objective.name, old, quantity(objective.value, objective.unit), apart or "same"
        )
    _section(console, f"What coverage {asked} costs against {weaker}", table)
    if relaxed.plan is not None:
        console.print(f"  {weaker}: {words.degrees(relaxed.plan)}")


def _binding(console: Console, found: Solution | Explanation) -> None:
    """Print which requirements bind, and of which it was not decided; both may be none."""
    if found.binding is None:
        remarks(console, {"Binding": ("not determined",)})
        return
    if found.binding:
        rows = ((name, found.because.get(name, "")) for name in found.binding)
        _pairs(console, "Binding: without it the plan could be better", rows)
    alone = "single requirement stands in the way of a better plan"
    if found.undecided:
        names = " or ".join(found.undecided)
        said = f"not decided within the limits: whether {names} binds; no other {alone}"
        remarks(console, {"Binding": (said,)})
    elif not found.binding:
        remarks(console, {"Binding": (f"no {alone}",)})


def _robustness(console: Console, solution: Solution) -> None:
    found = solution.robustness
    if found is None:
        return
    table = _table("cost", "times", "layout of the plan, with the best batch", "runner-up ahead")
    for row in certainty.robust_rows(found, is_moe=solution.scenario.llm.is_moe):
        table.add_row(*row)
    _section(console, "Robust: each cost alone, at both ends of its error band", table)
    remarks(console, {"Verdict": certainty.robust_notes(found, solution.runner_up)})


def _runner_up(found: RunnerUp | None, scenario: Scenario) -> tuple[str, ...]:
    if found is None:
        return ()
    return (certainty.runner_up(found, is_moe=scenario.llm.is_moe),)


def _not_sought(solution: Solution) -> tuple[str, ...]:
    """Say why an answer about two roles names no runner-up."""
    if solution.status != "optimal" or isinstance(solution.plan, Plan | None):
        return ()
    if solution.robustness is not None:
        return ("not decided within the limits",)
    return ("of two roles it takes as long as two solves: --robust looks for it",)


def _uniqueness(solution: Solution) -> tuple[str, ...]:
    unique = solution.uniqueness
    if unique is None:
        return ()
    answer = {True: "yes", False: "no", None: "not established"}[unique.unique]
    other = f"; another: {unique.other}" if unique.other else ""
    return (f"{answer}{other}; {unique.method}",)


def _audit(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    if not verdicts:
        return ()
    found = [str(v.verdict) for v in verdicts]
    counts = [f"{found.count(word)} {word}" for word in _STYLES]
    return (f"{plural(len(found), 'claim')}: {', '.join(counts)}",)


def _solver(solution: Solution) -> tuple[str, ...]:
    info = solution.solver
    found = (
        f"{info.wall_s:.2f} s, CP-SAT {info.ortools_version}, seed {info.seed}, "
        f"{plural(info.candidates, 'candidate')} ({info.candidates_in_model:,} in the model), "
        f"fingerprint {info.fingerprint}, autopar {info.version}"
    )
    return (found,)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _section(console: Console, title: str, body: Table) -> None:
    console.print(Text.assemble("\n", (title, "bold")))
    console.print(Padding(body, (0, 0, 0, 2)))


def _pairs(
    console: Console, title: str, rows: Iterable[tuple[str, str]], style: str = "cyan"
) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(name, style), Text(text))
    if table.row_count:
        _section(console, title, table)
