"""`autopar export`."""
# ruff: noqa: PLC0415  --help imports no numpy, no solver

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autopar.cli._io import emit, prepare, write_text
from autopar.cli._options import Output, Query, output_options, scenario_options

if TYPE_CHECKING:
    from autopar.constraints import PlugIn
    from autopar.documents import Data
    from autopar.export.launch import Export
    from autopar.export.options import Options
    from autopar.problem import AnyPlan
    from autopar.specs import Scenario

_TARGETS = ("vllm", "sglang", "trtllm", "megatron", "lws", "hostfile")


def _matching(pattern: str, expected: str) -> Callable[[Any, click.Parameter, str | None], str]:
    """Return a callback that raises SpecError for what a pattern does not match, if it is given.

    An empty value is given: most often a variable of the shell that is not set.
    """

    def checked(_: click.Context, option: click.Parameter, value: str | None) -> str:
        if value is None:
            return ""
        if not re.fullmatch(pattern, value):
            from autopar.errors import SpecError, shorten

            raise SpecError(f"{option.opts[0]}: found {shorten(value)}, expected {expected}")
        return value

    return checked


# RFC 1123, labels; distribution/reference, reference.go.
_NAMESPACE = _matching(
    r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
    "at most 63 lower-case letters, digits and dashes between them",
)
_GIVEN = r"(?s).*\S.*"
_VERSION = _matching(_GIVEN, "a version such as 0.5.23 or 1.2.0rc3")
_MODEL_PATH = _matching(_GIVEN, "a name or a path")
_HOSTS = _matching(_GIVEN, "names of hosts or a file of them")
_IMAGE = _matching(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", "an image such as registry/name:tag")


@click.command("export")
@scenario_options
@click.argument("plan", required=False)
@click.option("--to", "target", required=True, type=click.Choice(_TARGETS),
              help="Whose commands; lws: Kubernetes LeaderWorkerSet manifests, hostfile: nodes in "
              "the order of ranks, both for the engine of --with.")  # fmt: skip
@click.option("--with", "engine", type=click.Choice(_TARGETS[:4]),
              help="The engine inside of manifests and host files. Default: that of the scenario, "
              "else vllm.")  # fmt: skip
@click.option("--engine-version", "version", default=None, metavar="V", callback=_VERSION,
              help="Flags of this version. Default: the newest that was read.")  # fmt: skip
@click.option("--model-path", default=None, metavar="PATH", callback=_MODEL_PATH,
              help="What the engine loads: a folder or a name of Hugging Face. Default: the "
              "model's name here.")  # fmt: skip
@click.option("--hosts", default=None, metavar="LIST|FILE", callback=_HOSTS,
              help="Names or addresses of the cluster's nodes in order, with commas, or a file "
              "with one a line. Default: node-0, node-1, ...")  # fmt: skip
@click.option("--port", type=click.IntRange(2, 60_000), default=8000, show_default=True,
              help="Port of a server on the first GPU of a node; others there count on. The router "
              "of a disaggregated pair has the one below.")  # fmt: skip
@click.option("--expert-map", type=click.Choice(("auto", "always", "checkpoint")), default="auto",
              show_default=True, help="Write a map of experts where the plan needs one (auto), or "
              "wherever the engine takes one (always). checkpoint: for vLLM, which takes none, the "
              "order that the experts of its checkpoint must have.")  # fmt: skip
@click.option(
    "--image", default=None, metavar="IMAGE", callback=_IMAGE, help="Container image, for lws."
)
@click.option("--router-image", default=None, metavar="IMAGE", callback=_IMAGE,
              help="Container image of the router of a disaggregated pair, for lws.")  # fmt: skip
@click.option(
    "--namespace",
    default=None,
    metavar="NAME",
    callback=_NAMESPACE,
    help="Kubernetes namespace, for lws.",
)
@click.option("--nearest", "take_nearest", is_flag=True,
              help="Where the engine cannot start the plan, export the nearest one that it can "
              "start.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write a script for each node, the files beside them and export.json "
              "there.")  # fmt: skip
@output_options
def command(
    query: Query, plan: str | None, target: str, out: Path | None, output: Output, **given: Any
) -> None:
    """Write what starts a plan on an engine.

    PLAN is an answer of solve (autopar solve --json -o plan.json), a plan file, a catalogue name,
    or -. Alone, an answer is exported with the scenario that it embeds. The layer split, the size
    of the cache and the GPU of every rank are written out. What the engine cannot start is an
    error that names the nearest plan which it can.
    """
    from autopar.report.export import export_document, print_export

    prepare(output)
    query, source, read = _sources(query, plan)
    scenario = query.scenario()
    plugins = query.constraints(scenario)
    options = _options(given, target, scenario, out)
    with query.named([source]):
        explicit = _explicit(query, source, scenario, read)
        found = _exported(scenario, explicit, target, options, plugins, take=given["take_nearest"])
    document = export_document(found, explicit.name)
    if out is not None:
        _write(out, found, document)
    folder = "" if out is None else str(out)
    emit(output, lambda: document, lambda console: print_export(console, found, folder))


def _sources(query: Query, plan: str | None) -> tuple[Query, str, "Data | None"]:
    """Return the query, the name of the plan, and the plan itself if standard input has both."""
    if plan is not None:
        return query, plan, None
    if not isinstance(query.spec, str):
        raise click.UsageError("missing argument PLAN")
    if query.is_complete_without_spec:
        return replace(query, spec=None), query.spec, None
    if query.spec == "-":
        answer = _of_stdin()
        return replace(query, spec=answer["spec"]), "-", answer
    return query, query.spec, None


def _explicit(query: Query, source: str, scenario: "Scenario", read: "Data | None") -> "AnyPlan":
    from autopar.catalog import load_plan
    from autopar.pairs import explicit_plan

    spec = query.plan(source) if read is None else load_plan(read, catalogs=query.catalogs)
    return explicit_plan(spec, scenario)


def _of_stdin() -> "Data":
    """Standard input is read once: an answer, which embeds its scenario.

    Raises SpecError if it does not.
    """
    from autopar.documents import read
    from autopar.errors import SpecError

    answer = read("-")
    if not isinstance(answer.get("spec"), dict):
        raise SpecError("standard input: expected an answer of solve, which embeds its scenario")
    return answer


def _options(
    given: dict[str, Any], target: str, scenario: "Scenario", out: Path | None
) -> "Options":
    from autopar.export.options import Options

    return Options(
        engine=_engine(given["engine"], target, scenario),  # type: ignore[arg-type]
        version=given["version"],
        model_path=given["model_path"],
        hosts=_hosts(given["hosts"]),
        port=given["port"],
        expert_map=given["expert_map"],
        folder="" if out is None else str(out.absolute()),
        image=given["image"],
        router_image=given["router_image"],
        namespace=given["namespace"],
    )


def _engine(named: str | None, target: str, scenario: "Scenario") -> str:
    from autopar.export.options import ENGINES, PACKS

    if target in ENGINES:
        if named not in (None, target):
            raise click.UsageError(f"--with {named} beside --to {target}; give one of them")
        return target
    packs = {pack.name for pack in scenario.rule_packs}
    of_scenario = [engine for engine in ENGINES if PACKS[engine] in packs]
    return named or next(iter(of_scenario), "vllm")


def _hosts(text: str) -> tuple[str, ...]:
    from autopar.documents import read_text
    from autopar.errors import SpecError, shorten
    from autopar.export.hosts import checked_host

    if not text:
        return ()
    if "," not in text and Path(text).is_file():
        lines = read_text(text).splitlines()
        names = [name for line in lines for name in line.split("#")[0].split()[:1]]
    else:
        names = [name.strip() for name in text.split(",")]
    listed = [checked_host(name, "--hosts") for name in names]
    for index, name in enumerate(listed):
        if name in listed[:index]:
            raise SpecError(
                f"--hosts: found {shorten(name)} twice; each node of the cluster is a host of its "
                "own"
            )
    return tuple(listed)


def _exported(
    scenario: "Scenario",
    plan: "AnyPlan",
    target: str,
    options: "Options",
    plugins: "list[PlugIn]",
    *,
    take: bool,
) -> "Export":
    """Return the export, or that of the nearest plan where it is wanted.

    Raises InexpressibleError, which names the nearest plan, where it is not.
    """
    from autopar.errors import InexpressibleError
    from autopar.export.exporting import export
    from autopar.export.nearest import Unfound, nearest
    from autopar.report.export import nearest_words

    try:
        return export(scenario, plan, target, options)  # type: ignore[arg-type]
    except InexpressibleError as error:
        found = nearest(scenario, plan, options, plugins, target)  # type: ignore[arg-type]
        said = nearest_words(found, options.engine, error.reasons)
        if isinstance(found, Unfound) or not take:
            raise InexpressibleError(error.engine, [*error.reasons, said]) from None
        other = export(found.scenario, found.plan, target, options)  # type: ignore[arg-type]
        note = f"another plan than asked for, which {error.engine} cannot start: {said}"
        return replace(other, notes=(note.removesuffix("; --nearest exports it"), *other.notes))


def _write(folder: Path, export: "Export", document: dict[str, Any]) -> None:
    from autopar.errors import SpecError
    from autopar.export.launch import script_text
    from autopar.report.json import dump

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"--out {str(folder)!r}: {error.strerror or error}") from None
    for launch in export.launches:
        title = f"server {launch.server}, node rank {launch.node_rank}, on {launch.host}"
        path = folder / f"{launch.name}.sh"
        write_text(path, script_text(launch, title, export.lacks), "--out")
        path.chmod(0o755)
    if export.router is not None:
        path = folder / "router.sh"
        title = f"router of both roles, on {export.router.host}; start it after the servers"
        write_text(path, script_text(export.router, title), "--out")
        path.chmod(0o755)
    for file in export.files:
        write_text(folder / file.name, file.text, "--out")
    write_text(folder / "export.json", dump(document) + "\n", "--out")
