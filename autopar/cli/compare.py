"""`autopar compare`."""
# ruff: noqa: PLC0415  --help imports no numpy, no solver

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from autopar.cli._errors import INTERRUPTED
from autopar.cli._io import emit, prepare
from autopar.cli._options import Output, Query, output_options, scenario_options

if TYPE_CHECKING:
    from rich.console import Console

    from autopar.results import Comparison


@click.command("compare")
@scenario_options
@click.argument("plans", nargs=-1)
@output_options
@click.pass_context
def command(ctx: click.Context, query: Query, plans: tuple[str, ...], output: Output) -> None:
    """Put plans and the solver's own side by side.

    Every PLAN is a catalogue name, a path, or -. All are measured by the same verifier; the gaps
    are to the solver's proven bounds. With --model, --cluster and --workload a lone argument is a
    PLAN; before several plans, SPEC stands first as ever.

    Exits with 3 if the scenario provably has no plan, with 4 if the limit was reached without one;
    a PLAN that violates the scenario is reported and leaves the exit code at 0.
    """
    from autopar import api
    from autopar.cli.solve import EXIT_CODES
    from autopar.report.json import comparison_document

    prepare(output)
    lone = query.spec
    if not plans and isinstance(lone, str) and query.is_complete_without_spec:
        query, plans = replace(query, spec=None), (lone,)
    if not plans:
        raise click.UsageError("missing argument PLAN; expected at least one plan to compare")
    if plans.count("-") > 1:
        raise click.UsageError("two plans are -; standard input can be read only once")
    scenario = query.scenario()
    constraints = query.constraints(scenario)
    specs = [query.plan(plan) for plan in plans]
    with query.named(plans if len(plans) == 1 else ()):
        comparison = api.compare(scenario, specs, plugins=constraints)
    emit(
        output,
        lambda: comparison_document(comparison),
        lambda console: _print(console, comparison),
    )
    solution = comparison.solution
    ctx.exit(INTERRUPTED if solution.interrupted else EXIT_CODES[solution.status])


def _print(console: "Console", comparison: "Comparison") -> None:
    from autopar.report.text import print_comparison

    print_comparison(console, comparison)
