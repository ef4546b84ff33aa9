"""`autopar solve`."""
# ruff: noqa: PLC0415  --help imports no numpy, no solver

from typing import TYPE_CHECKING

import click

from autopar.cli._errors import INTERRUPTED
from autopar.cli._io import emit, prepare
from autopar.cli._options import Output, Query, output_options, scenario_options

if TYPE_CHECKING:
    from rich.console import Console

    from autopar.results import Solution

EXIT_CODES = {"optimal": 0, "feasible": 0, "infeasible": 3, "unknown": 4}


@click.command("solve")
@scenario_options
@click.option(
    "--replay",
    metavar="PLAN",
    help="Solve the scenario that PLAN embeds again; exit 1 if the answer differs.",
)
@click.option(
    "--robust",
    is_flag=True,
    help="Move each cost within its error band: say whether the layout stays the best, and which "
    "measurement would settle it. Solves the scenario some twenty times more.",
)
@output_options
@click.pass_context
def command(
    ctx: click.Context, query: Query, replay: str | None, robust: bool, output: Output
) -> None:
    """Find the best plan of a scenario, with its proof.

    Exits with 3 if there provably is no plan, with 4 if the limit was reached without one.
    """
    from autopar.cli import _replay
    from autopar.report.json import solution_document, solution_text

    prepare(output)
    if replay is None:
        solution = _solve(query, output, robust=robust)
        recorded = None
    else:
        recorded = _replay.recorded_answer(replay, query)
        solution = _solve(_replay.embedded_query(recorded, query), output, robust=robust)
    emit(
        output,
        lambda: solution_document(solution),
        lambda console: _print(console, solution, changed=query.changes_spec),
        lambda: solution_text(solution),
    )
    if solution.interrupted:
        ctx.exit(INTERRUPTED)
    if recorded is not None:
        _report_replay(ctx, _replay.differences(recorded, solution_document(solution)), output)
    ctx.exit(EXIT_CODES[solution.status])


def _solve(query: Query, output: Output, *, robust: bool) -> "Solution":
    from autopar import api
    from autopar.cli._progress import ProgressLine
    from autopar.robust import refuse_without_costs

    scenario = query.scenario()
    plugins = query.constraints(scenario)
    if robust:
        refuse_without_costs(scenario)
    with query.named(), ProgressLine(output) as line:
        progress = line if line.active else None
        solution = api.solve(scenario, plugins=plugins, progress=progress)
        if robust:
            solution = api.robustness(solution, plugins=plugins, progress=progress)
        return solution


def _report_replay(ctx: click.Context, differences: list[str], output: Output) -> None:
    for difference in differences:
        click.echo(f"replay: {difference}", err=True)
    if differences:
        ctx.exit(1)
    if not output.quiet:
        click.echo("replay: the answer is the same", err=True)


def _print(console: "Console", solution: "Solution", *, changed: bool) -> None:
    from autopar.report.text import print_solution

    print_solution(console, solution, changed=changed)
