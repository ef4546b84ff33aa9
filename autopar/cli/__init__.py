"""The command line: arguments, streams and exit codes over the functions of `autopar.api`.

This module imports nothing but click, so that `autopar --help` answers at once: a verb's module is
imported when the verb is used, and the help texts of the list stand here.
"""

import atexit
import gc
import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from autopar import __version__

VERBS = {
    "solve": "Find the best plan of a scenario, with its proof.",
    "verify": "Check a plan against a scenario and audit its claims.",
    "compare": "Put plans and the solver's own side by side.",
    "explain": "Say which requirements clash, or what binds the best plan.",
    "export": "Write what starts a plan on an engine.",
    "place": "Place experts on GPUs under measured load, with a proved bound.",
    "validate": "Predict published measurements, and say how far off that is.",
    "calibrate": "Measure the GPUs at hand and write a GPU spec from it.",
    "ingest": "Read the world's own descriptions into specs, and say what was inferred.",
    "catalog": "List and show what models/ and solvers/ hold.",
}


class _Verbs(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"autopar.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-"):
            from autopar.errors import suggest  # noqa: PLC0415  not needed for --help

            ctx.fail(f"no such command {args[0][:60]!r}{suggest(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        # Imports and specs make many objects and little garbage. Each collection, of which the
        # default of 700 makes hundreds, looks at all of them: 50 ms at 100,000, and again at exit.
        gc.set_threshold(1_000_000, *gc.get_threshold()[1:])
        atexit.register(gc.freeze)
        # No matrix is multiplied here; starting numpy's threads for that takes 10 to 40 ms.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from autopar.cli._errors import run  # noqa: PLC0415  keeps this module to click alone

        return run(
            lambda: super(_Verbs, self).main(args, prog_name, standalone_mode=False, **extra)
        )


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="autopar")
def main() -> None:
    """Plan how to lay a large transformer over a GPU cluster, and prove it.

    SPEC is a catalogue name (autopar catalog scenarios), a path to a YAML or JSON file, or - for
    standard input.

    Exit codes: 0 done; 1 a check failed or an error of ours; 2 usage or bad input; 3 proven
    infeasible; 4 limit reached without a plan; 130 interrupted.
    """
