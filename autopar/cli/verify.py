"""`autopar verify`."""
# ruff: noqa: PLC0415  --help imports no numpy, no solver

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from autopar.cli._io import emit, prepare
from autopar.cli._options import Output, Query, output_options, scenario_options

if TYPE_CHECKING:
    from rich.console import Console

    from autopar.results import VerifyReport
    from autopar.specs import Scenario


@click.command("verify")
@scenario_options
@click.argument("plan", required=False)
@click.option("--check-claims", is_flag=True, help="Exit 1 also if a claim of the plan is wrong.")
@output_options
@click.pass_context
def command(
    ctx: click.Context, query: Query, plan: str | None, check_claims: bool, output: Output
) -> None:
    """Check a plan against a scenario and audit its claims.

    PLAN is a catalogue name (autopar catalog plans), a path, or -. Alone, an answer of solve, on
    standard input too, is checked against the scenario that it embeds, and any plan against the
    one that --model, --cluster and --workload make. Exits with 1 if the plan violates the scenario.
    """
    from autopar import api
    from autopar.report.json import verification_document

    prepare(output)
    query, source = _answer_alone(query) if plan is None else (query, plan)
    scenario = query.scenario()
    constraints = query.constraints(scenario)
    spec = query.plan(source)
    with query.named([source] if isinstance(source, str) else ["-"]):
        report = api.verify(scenario, spec, plugins=constraints)
    emit(
        output,
        lambda: verification_document(report),
        lambda console: _print(console, report, scenario),
    )
    wrong = any(verdict.verdict == "wrong" for verdict in report.verdicts)
    ctx.exit(0 if report.ok and not (check_claims and wrong) else 1)


def _answer_alone(query: Query) -> "tuple[Query, str | Mapping[str, Any]]":
    """Return the query and the plan where one argument is given: both are in it."""
    if not isinstance(query.spec, str):
        raise click.UsageError("missing arguments SPEC and PLAN")
    if query.is_complete_without_spec:
        return replace(query, spec=None), query.spec
    if query.spec != "-":
        return query, query.spec
    from autopar import documents

    answer = documents.read("-")  # which can be read only once
    if not isinstance(answer.get("spec"), dict):
        raise click.UsageError(
            "standard input: found no answer of solve --json, which holds its scenario; expected "
            "one, or SPEC before the -"
        )
    return replace(query, spec=answer["spec"]), answer


def _print(console: "Console", report: "VerifyReport", scenario: "Scenario") -> None:
    from autopar.report.text import print_verification

    print_verification(console, report, scenario)
