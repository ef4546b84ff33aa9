"""`autopar ingest cluster`."""
# ruff: noqa: PLC0415  --help imports no pydantic

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autopar.cli._io import (
    is_yaml,
    prepare,
    put,
    refuse_unwritable,
    write_document,
    write_text,
)
from autopar.cli._options import Output, catalog_option, folder_output_options, rate

if TYPE_CHECKING:
    from autopar.ingest.cluster.draft import Draft, Given
    from autopar.ingest.cluster.findings import Findings, LeftOut, Level
    from autopar.ingest.cluster.names import Catalogue, Names
    from autopar.ingest.cluster.select import Selection
    from autopar.specs import Cluster


@click.command("cluster")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--kind", metavar="NAME", help="Where there are several kinds of GPU: the one whose "
              "nodes make the cluster, by its name in the catalogue.")  # fmt: skip
@click.option("--gpu", "gpus", multiple=True, metavar="[FOUND=]NAME", help="What a GPU is in the "
              "catalogue, where its name does not tell; may be given several times.")  # fmt: skip
@click.option("--nodes", metavar="LIST", help="Count these nodes alone: node[001-004,007].")
@click.option("--without", metavar="LIST", help="Leave these nodes out.")
@click.option("--all-nodes", is_flag=True, help="Count nodes that are down, drained, cordoned or "
              "not ready too.")  # fmt: skip
@click.option("--num-nodes", type=click.IntRange(1), metavar="N", help="So many nodes like the one "
              "on which nvidia-smi ran.")  # fmt: skip
@click.option("--domain-gpus", type=click.IntRange(1), metavar="N", help="GPUs of a scale-up "
              "(NVLink) domain.")  # fmt: skip
@click.option("--node-bandwidth", metavar="RATE", callback=rate, help="Link inside a node, per "
              "GPU and direction, with its unit: '450 GB/s'.")  # fmt: skip
@click.option("--domain-bandwidth", metavar="RATE", callback=rate, help="Link inside a domain of "
              "several nodes.")  # fmt: skip
@click.option("--fabric-bandwidth", metavar="RATE", callback=rate, help="Link between domains, "
              "such as '400 Gbit/s' for one such NIC per GPU.")  # fmt: skip
@click.option("--bandwidth", "tests", multiple=True, metavar="[LEVEL=]FILE", help="Measured: the "
              "output of nccl-tests. LEVEL (node, domain, fabric) is what its hosts span, "
              "unless they are not listed.")  # fmt: skip
@click.option("--name", help="Name of the cluster. Default: nodes x GPUs of a node - GPU.")
@catalog_option
@folder_output_options
def command(files: tuple[str, ...], output: Output, **given: Any) -> None:
    """Read a machine's own description into a cluster spec.

    FILE...: what these commands print, saved (- is standard input): nvidia-smi topo -m and
    nvidia-smi --query-gpu=index,name,memory.total --format=csv, for each node a folder, or files
    of one name (n1.topo.txt, n1.csv); kubectl get nodes -o json; scontrol show node, with
    topology.conf. What nvidia-smi said on nodes may stand beside the list of a scheduler.

    The spec says of every field how it came about: read, inferred, measured, given or assumed.
    Write it with -o FILE, or one file per kind of GPU with -o DIR, an existing folder.
    """
    from autopar.ingest.cluster.gather import gather
    from autopar.ingest.cluster.select import Wanted, refuse_several, select

    folder = output.file if output.file is not None and output.file.is_dir() else None
    prepare(output if folder is None else _to_console(output))
    _refuse_two_inputs(files, given["tests"])
    catalogue = _catalogue(given["catalogs"])
    names = _names(catalogue, given["gpus"])
    findings = gather(files)
    wanted = Wanted(given["nodes"], given["without"], given["all_nodes"], given["kind"])
    selection = select(findings, names, wanted)
    if folder is None and not (output.as_json and output.file is None):
        refuse_several(selection.kinds)
    drafts = list(_drafts(findings, selection, catalogue, _given(given)))
    drafts = _measured(drafts, names, given["tests"], given["catalogs"])
    for draft in drafts:
        _cluster(draft, given["catalogs"])  # what is written must be legal
    written = list(_write(drafts, selection.left_out, output, folder))
    if output.as_json:
        from autopar.report.json import dump

        put(dump(_document(drafts, selection.left_out)) + "\n")
    elif written:
        put("".join(_summary(d, f) for d, f in zip(drafts, written, strict=True)))
    else:
        put("".join(_text(draft, selection.left_out) for draft in drafts))
    if not output.quiet:
        _warn(drafts, selection.left_out)


def _to_console(output: Output) -> Output:
    return Output(output.as_json, None, output.color, output.verbose, output.quiet)


def _refuse_two_inputs(files: Sequence[str], tests: Sequence[str]) -> None:
    from autopar.errors import SpecError

    given = [*files, *(text.rpartition("=")[2] for text in tests)]
    if given.count("-") > 1:
        raise SpecError("- is given twice; standard input can be read only once")


def _catalogue(catalogs: tuple[Path, ...]) -> "Catalogue":
    """Return the GPUs and clusters of the catalogues; what is not whole is left out."""
    from pydantic import ValidationError

    from autopar.calibration.matching import DEVICE_NAMES
    from autopar.catalog import names
    from autopar.ingest.cluster.names import Catalogue, KnownCluster
    from autopar.specs.cluster import Links
    from autopar.units import BYTES, parse

    gpus = {}
    for name in names("gpu", catalogs=catalogs):
        with suppress(ValueError):
            data = _resolved("gpu", name, catalogs)
            gpus[name] = parse(data.get("memory_bytes"), BYTES, "a size")
    clusters = []
    for name in names("cluster", catalogs=catalogs):
        data = _resolved("cluster", name, catalogs)
        with suppress(KeyError, ValidationError):
            links = Links.model_validate(data["links"])
            gpu, nodes, size = data["gpu"], data["num_nodes"], data["gpus_per_node"]
            domain = data.get("gpus_per_domain") or size
            if isinstance(gpu, str) and all(isinstance(n, int) for n in (nodes, size, domain)):
                clusters.append(KnownCluster(name, gpu, nodes, size, domain, links))
    return Catalogue(gpus, DEVICE_NAMES, clusters)


def _resolved(kind: str, name: str, catalogs: tuple[Path, ...]) -> dict[str, Any]:
    """Return a document of the catalogue with the fields of its base below its own."""
    from autopar.catalog import read_document

    data = read_document(kind, name, catalogs=catalogs)
    seen = {name}
    while isinstance(base := data.get("base"), str) and base not in seen:
        seen.add(base)
        rest = {key: value for key, value in data.items() if key != "base"}
        data = _merged(read_document(kind, base, catalogs=catalogs), rest)
    return data


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with the fields of another over it, mappings merged."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        is_mapping = isinstance(value, dict) and isinstance(below, dict)
        result[key] = _merged(below, value) if is_mapping and isinstance(below, dict) else value
    return result


def _names(catalogue: "Catalogue", options: Sequence[str]) -> "Names":
    """Return what finds GPUs by name, with those of --gpu."""
    from autopar.errors import SpecError, shorten
    from autopar.ingest.cluster.names import Names, did_you_mean

    given = {}
    for text in options:
        found, _, name = text.rpartition("=")
        if name not in catalogue.gpus:
            raise SpecError(
                f"--gpu: unknown GPU {shorten(name)}{did_you_mean(name, catalogue.gpus)} "
                "(autopar catalog gpus lists them)"
            )
        given[found] = name
    return Names(catalogue, given)


def _given(given: Mapping[str, Any]) -> "Given":
    from autopar.ingest.cluster.draft import Given
    from autopar.ingest.cluster.findings import LEVELS

    rates: dict[Level, float] = {}
    for level in LEVELS:
        rate = given[f"{level}_bandwidth"]
        if rate is not None:
            rates[level] = rate
    return Given(given["name"], given["num_nodes"], given["domain_gpus"], rates)


def _drafts(
    findings: "Findings", selection: "Selection", catalogue: "Catalogue", given: "Given"
) -> Iterator["Draft"]:
    from autopar.errors import SpecError
    from autopar.ingest.cluster import draft_of

    if len(selection.kinds) > 1 and given.name is not None:
        raise SpecError("--name: one name for several kinds of GPU; choose one of them by --kind")
    for kind in selection.kinds:
        yield draft_of(kind, findings, selection, catalogue, given)


def _measured(
    drafts: Sequence["Draft"], names: "Names", tests: Sequence[str], catalogs: tuple[Path, ...]
) -> list["Draft"]:
    """Return the drafts with the links that runs of nccl-tests measured."""
    from autopar.calibration.bus_bandwidth import link_bandwidth
    from autopar.errors import SpecError
    from autopar.ingest.cluster.measured import level_of, overridden
    from autopar.ingest.cluster.nccl import read_test
    from autopar.ingest.cluster.text import Output as Saved

    found = {draft.gpu: draft for draft in drafts}
    taken: dict[tuple[str, str], str] = {}
    for text in tests:
        stated, file = _level_and_file(text)
        test = read_test(Saved.read(file))
        gpu = next(iter(found)) if len(found) == 1 else None
        if test.gpu is not None:
            gpu = names.match(test.gpu, None, test.where).gpu
        if gpu not in found:
            raise SpecError(
                f"{test.where}: a run on {gpu or 'GPUs that it does not name'}, expected one on "
                f"{' or '.join(found)}"
            )
        level = level_of(test, found[gpu], stated)
        if taken.setdefault((gpu, level), test.where) != test.where:
            raise SpecError(
                f"{test.where}: the {level} is measured by {taken[gpu, level]} already, expected "
                "one run per level"
            )
        bandwidth = link_bandwidth(
            _cluster(found[gpu], catalogs),
            level,
            test.collective,
            test.size_bytes,
            test.num_gpus,
            test.time_us,
        )
        found[gpu] = overridden(found[gpu], test, level, bandwidth)
    return list(found.values())


def _level_and_file(text: str) -> tuple["Level | None", str]:
    from autopar.ingest.cluster.findings import LEVELS

    word, mark, file = text.partition("=")
    for level in LEVELS:
        if mark and word == level:
            return level, file
    return None, text


def _cluster(draft: "Draft", catalogs: tuple[Path, ...]) -> "Cluster":
    """Return the spec, checked.

    Raises SpecError for what no cluster may be, such as domains that do not nest.
    """
    from pydantic import ValidationError

    from autopar.catalog import load_gpu
    from autopar.errors import SpecError
    from autopar.specs import Cluster

    gpu = load_gpu(draft.gpu, catalogs=catalogs, option="--gpu")
    try:
        return Cluster.model_validate(draft.document() | {"gpu": gpu})
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = ".".join(map(str, detail["loc"])) or "cluster"
        options = {"name": "--name", "cluster": "--domain-gpus, --num-nodes"}
        raise SpecError(f"{options.get(field, field)}: {detail['msg']}") from None


def _write(
    drafts: Sequence["Draft"], left: Sequence["LeftOut"], output: Output, folder: Path | None
) -> Iterator[Path]:
    """Write the spec to the file of -o, or one per kind into its folder; yield the files."""
    if output.file is None:
        return
    for draft in drafts:
        file = output.file if folder is None else folder / f"{draft.name}.yaml"
        refuse_unwritable(file, "-o")
        if is_yaml(file):
            write_text(file, _text(draft, left))
        else:
            write_document(file, draft.document())
        yield file


def _text(draft: "Draft", left_out: Sequence["LeftOut"]) -> str:
    from autopar.ingest.cluster.spec_text import spec_text

    return spec_text(draft, left_out)


def _summary(draft: "Draft", file: Path) -> str:
    """Return a line on what was written, and which fields no input states."""
    from autopar.units import plural

    nodes = plural(draft.num_nodes, "node")
    assumed = [s.field for s in draft.said if s.how == "assumed" and "latency" not in s.field]
    return (
        f"{file}: {nodes} of {draft.gpus_per_node} {draft.gpu}\n"
        f"  assumed, check them: {', '.join((*assumed, 'latencies'))}\n"
    )


def _document(drafts: Sequence["Draft"], left_out: Sequence["LeftOut"]) -> dict[str, Any]:
    def rows(*hows: str) -> list[dict[str, Any]]:
        return [
            {"cluster": d.name, "field": s.field, "value": s.value, "how": s.how, "why": s.why}
            for d in drafts
            for s in d.said
            if s.how in hows
        ]

    return {
        "schema": 1,
        "kind": "ingested_clusters",
        "clusters": [draft.document() for draft in drafts],
        "nodes": [{"cluster": draft.name, "nodes": list(draft.nodes)} for draft in drafts],
        "read": rows("read", "measured"),
        "given": rows("given"),
        "inferred": rows("inferred"),
        "assumed": rows("assumed"),
        "left_out": [{"node": each.node, "why": each.why} for each in left_out],
        "warnings": [text for draft in drafts for text in draft.warnings],
    }


def _warn(drafts: Sequence["Draft"], left_out: Sequence["LeftOut"]) -> None:
    """Say on standard error what a person has to look at."""
    from autopar.cli._errors import one_line
    from autopar.ingest.cluster.hostlist import compress

    reasons: dict[str, list[str]] = {}
    for each in left_out:
        reasons.setdefault(each.why, []).append(each.node)
    for why, nodes in reasons.items():
        click.echo(one_line(f"left out: {compress(nodes)}: {why}"), err=True)
    for text in dict.fromkeys(text for draft in drafts for text in draft.warnings):
        click.echo(one_line(f"warning: {text}"), err=True)
