"""`autopar ingest plan`."""
# ruff: noqa: PLC0415  --help imports no pydantic

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autopar.cli._io import emit, prepare
from autopar.cli._options import Output, catalog_option, output_options

if TYPE_CHECKING:
    from rich.console import Console

    from autopar.ingest.plan import Question, Reading
    from autopar.specs import LLM


@click.command("plan")
@click.argument("source", metavar="FILE")
@click.option("--model", metavar="NAME|FILE", help="The model. Default: the catalogue's whose name "
              "is that of the path which the command loads.")  # fmt: skip
@click.option("--cluster", metavar="NAME|FILE", help="The cluster: its name for the plan file, and "
              "how many GPUs it and a node have.")  # fmt: skip
@click.option("--workload", metavar="NAME|FILE", help="Tells in how many parts prompts are "
              "computed, and whether the batch is given.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Sequences per attention group "
              "and micro-batch, where the command does not say how many run.")  # fmt: skip
@click.option("--ranks", metavar="FILE", help="Which GPU each rank is: an export.json, or ranks "
              "with server, rank and gpu. Default: those that the commands show, in the engine's "
              "order of ranks.")  # fmt: skip
@click.option("--expert-map", default="", metavar="FILE", help="Map of experts, or the order of "
              "the checkpoint's experts, where the command names none.")  # fmt: skip
@click.option("--name", metavar="NAME", help="Name of the plan. Default: that of the file.")
@click.option("--strict", is_flag=True, help="Exit with 2 for a flag that the engine does not "
              "have.")  # fmt: skip
@catalog_option
@output_options
def command(source: str, output: Output, strict: bool, **given: Any) -> None:
    """Read the commands of an engine as a plan, for verify and compare.

    FILE (or -) holds `vllm serve`, `sglang.launch_server`, `trtllm-serve` or torchrun commands of
    all nodes and servers: a script, with docker run and variables too, a manifest of Kubernetes, a
    compose file, or the YAML of trtllm-serve. Nothing of it is run. Unknown flags, and what a plan
    does not hold, are said and kept as notes.
    """
    from autopar.documents import read_text
    from autopar.errors import SpecError
    from autopar.ingest.plan import read_plan

    prepare(output)
    text = read_text(source)
    reading = read_plan(text, _question(source, text, given))
    unknown = [note for note in reading.notes if note.startswith("unknown flag")]
    if strict and unknown:
        raise SpecError(f"{source}: {'; '.join(unknown)}")
    if not output.quiet:
        for note in reading.notes:
            click.echo(f"note: {note}", err=True)
    emit(output, lambda: reading.document, lambda console: _print(console, reading))


def _question(file: str, text: str, given: dict[str, Any]) -> "Question":
    from autopar.catalog import load_cluster
    from autopar.documents import label_of
    from autopar.ingest.plan import Question

    catalogs: Sequence[Path] = given["catalogs"]
    folder = Path() if file == "-" else Path(file).parent
    llm, told = _llm(given["model"], text, folder, catalogs)
    named = given["cluster"]
    cluster = None if named is None else load_cluster(named, catalogs=catalogs, option="--cluster")
    name = given["name"] or _named("plan" if file == "-" else Path(file).stem)
    return Question(
        label=label_of(file),
        name=name,
        llm_name=llm.name,
        llm=llm,
        cluster="" if cluster is None else cluster.name,
        workload=_workload(given["workload"], catalogs),
        folder=folder,
        ranks=None if given["ranks"] is None else _ranks(given["ranks"]),
        num_gpus=None if cluster is None else cluster.num_gpus,
        node_gpus=None if cluster is None else cluster.gpus_per_node,
        batch=given["batch"],
        expert_map=_here_first(given["expert_map"]),
        told=told,
    )


def _named(text: str) -> str:
    """Return a name that a document may have."""
    kept = "".join(c if c.isalnum() or c in "-._" else "-" for c in text.lower()).strip("-._")
    return kept[:80] or "plan"


def _here_first(file: str) -> str:
    """Return the path of a file of an option, which is meant from here, or from the commands."""
    return str(Path(file).absolute()) if file and Path(file).exists() else file


def _llm(
    named: str | None, text: str, folder: Path, catalogs: Sequence[Path]
) -> tuple["LLM", tuple[str, ...]]:
    """Return the model, by the name that was given or by what the commands load, and notes.

    Raises SpecError if the catalogue has none of that name.
    """
    from autopar.catalog import load_llm, names
    from autopar.errors import SpecError
    from autopar.ingest.plan.model_names import catalogue_name, nearest_names
    from autopar.ingest.plan.reading import models_in

    if named is not None:
        return load_llm(named, catalogs=catalogs, option="--model"), ()
    known = names("llm", catalogs=catalogs)
    loaded = models_in(text, folder)
    for path in loaded:
        name, why = catalogue_name(path, known)
        if name:
            notes = (f"the model {path[:200]} is taken for {name}: {why}",) if why else ()
            return load_llm(name, catalogs=catalogs), notes
    near = [name for path in loaded for name in nearest_names(path, known)][:3]
    hint = f"; the nearest are {', '.join(near)}: is it of the same shapes?" if near else ""
    if not loaded:
        raise SpecError(
            "the commands name no model; give --model (autopar catalog llms lists them)"
        )
    found = ", ".join(map(repr, loaded))
    raise SpecError(
        f"the commands load {found[:200]}, which no model of the catalogue is named after{hint}; "
        "give --model (autopar catalog llms lists them)"
    )


def _workload(named: str | None, catalogs: Sequence[Path]) -> Any:
    from autopar.catalog import read_document
    from autopar.specs import Workload

    if named is None:
        return None
    return Workload.model_validate(read_document("workload", named, catalogs=catalogs))


def _ranks(source: str) -> dict[int, list[int]]:
    """Return the GPUs of each server in the order of ranks.

    Raises SpecError if the file has no such table.
    """
    from autopar.documents import read
    from autopar.errors import SpecError

    try:
        rows = sorted((r["server"], r["rank"], r["gpu"]) for r in read(source)["ranks"])
    except (KeyError, TypeError):
        rows = [(-1, -1, -1)]
    if not all(type(number) is int and number >= 0 for row in rows for number in row):
        raise SpecError(
            f"--ranks {source}: expected an export.json: ranks with server, rank and gpu"
        )
    table: dict[int, list[int]] = {}
    for server, rank, gpu in rows:
        if rank != len(table.setdefault(server, [])):
            raise SpecError(f"--ranks {source}: server {server}: ranks are not 0, 1, 2, ...")
        table[server].append(gpu)
    return table


def _print(console: "Console", reading: "Reading") -> None:
    from autopar.documents import dump_yaml

    console.print(dump_yaml(reading.document).rstrip("\n"), soft_wrap=True, markup=False)
