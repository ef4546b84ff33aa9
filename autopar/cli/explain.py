"""`autopar explain`."""
# ruff: noqa: PLC0415  --help imports no numpy, no solver

from typing import TYPE_CHECKING

import click

from autopar.cli._io import emit, prepare
from autopar.cli._options import Output, Query, output_options, scenario_options

if TYPE_CHECKING:
    from rich.console import Console

    from autopar.results import Explanation
    from autopar.specs import Scenario


@click.command("explain")
@scenario_options
@output_options
@click.pass_context
def command(ctx: click.Context, query: Query, output: Output) -> None:
    """Say which requirements clash, or what binds the best plan.

    Exits with 3 if the scenario has no plan, as solve does, and with 4 if that is not known.
    """
    from autopar import api
    from autopar.cli.solve import EXIT_CODES
    from autopar.report.json import explanation_document

    prepare(output)
    scenario = query.scenario()
    constraints = query.constraints(scenario)
    with query.named():
        explanation = api.explain(scenario, plugins=constraints)
    emit(
        output,
        lambda: explanation_document(explanation),
        lambda console: _print(console, explanation, scenario),
    )
    ctx.exit(EXIT_CODES[explanation.status])


def _print(console: "Console", explanation: "Explanation", scenario: "Scenario") -> None:
    from autopar.report.text import print_explanation

    print_explanation(console, explanation, scenario)
