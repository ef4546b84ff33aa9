"""An export as text and as a JSON document."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from autopar.export.closeness import differences, gpu_differences
from autopar.export.launch import Export, Launch, Router, command_text, host_line
from autopar.export.options import NAMES, Engine
from autopar.report import words
from autopar.report.words import quantity
from autopar.specs import SCHEMA_VERSION

if TYPE_CHECKING:
    from autopar.export.nearest import Figure, Nearest, Search, Unfound

_DECIMALS = 4  # of the price of a million tokens; other figures have units that are larger than it


def export_document(export: Export, plan: str) -> dict[str, Any]:
    """Return the export: servers with a command for each node, ranks, files, notes."""
    return {
        "schema": SCHEMA_VERSION,
        "kind": "export",
        "plan": plan,
        "to": export.target,
        "engine": export.engine,
        "engine_version": export.version,
        "servers": [
            {
                "server": server,
                "role": role or None,
                "nodes": [_node(launch) for launch in export.launches if launch.server == server],
            }
            for server, role in enumerate(export.roles)
        ],
        "router": None if export.router is None else _command(export.router),
        "ranks": [asdict(rank) for rank in export.ranks],
        "files": [asdict(file) for file in export.files],
        "lacks": export.lacks or None,
        "notes": list(export.notes),
    }


def _node(launch: Launch) -> dict[str, Any]:
    return {"node_rank": launch.node_rank, "gpus": list(launch.gpus), **_command(launch)}


def _command(launch: Launch | Router) -> dict[str, Any]:
    return {
        "node": launch.node,
        "host": launch.host,
        "port": launch.port or None,
        "env": dict(launch.env),
        "argv": list(launch.argv),
        "command": command_text(launch),
    }


def print_export(console: Console, export: Export, folder: str) -> None:
    """Print the commands as a reader copies them, then where each rank runs."""
    name = NAMES[export.engine]  # type: ignore[index]
    _plain(console, f"# {name} {export.version}")
    if export.lacks:
        _plain(console, f"# {export.lacks}")
    for launch in export.launches:
        role = f"{launch.role} " if launch.role else ""
        _plain(console, f"\n# {role}server {launch.server} on {launch.host}")
        _plain(console, host_line(launch))
        _plain(console, command_text(launch))
    if export.router is not None:
        _plain(console, f"\n# router on {export.router.host}: takes requests for both roles")
        _plain(console, command_text(export.router))
    for file in export.files:
        place = f"{folder}/{file.name}" if folder else file.name
        _plain(console, f"\n# file {place}")
        if file.name.endswith((".yaml", ".txt")) and len(file.text) < 20_000:
            _plain(console, file.text.rstrip("\n"))
        else:
            _plain(console, f"# {len(file.text):,} bytes; --out DIR writes it")
    _plain(console, "")
    for line in _ranks(export):
        _plain(console, f"# {line}")
    for note in export.notes:
        _plain(console, f"# note: {note}")


def _ranks(export: Export) -> Iterator[str]:
    """Say which ranks run where, a line for each node of each server."""
    places = {(rank.server, rank.rank): rank.gpu for rank in export.ranks}
    done: dict[int, int] = {}
    for launch in export.launches:
        first = done.get(launch.server, 0)
        last = first + len(launch.gpus) - 1
        done[launch.server] = last + 1
        where, gpus = f"{launch.host} GPUs", list(launch.gpus)
        if len(set(gpus)) < len(gpus):  # one command for several nodes, as by mpirun
            where = "GPUs of the cluster"
            gpus = [places[launch.server, rank] for rank in range(first, last + 1)]
        yield f"server {launch.server} ranks {first}-{last}: {where} {','.join(map(str, gpus))}"


def nearest_words(found: "Nearest | Unfound", engine: Engine, reasons: Sequence[str] = ()) -> str:
    """Return the nearest plan of an engine and its cost, or what was searched, to end an error.

    reasons: that the error has given before.
    """
    name = NAMES[engine]
    searches = getattr(found, "searches", None)
    if searches is not None:
        searched = "; ".join(_searched(search, name, reasons) for search in searches)
        return f"no plan of the scenario that {name} can start was found: {searched}"
    return _offer(found, name)  # type: ignore[arg-type]


def _searched(search: "Search", name: str, reasons: Sequence[str]) -> str:
    """Say what one search for a plan of an engine has shown, and what it has not."""
    asked = f"with {name}'s rules"
    if search.given_up:
        asked += f", giving up {' and '.join(search.given_up)}"
    if search.status == "infeasible":
        return f"{asked}: there is none, which is proved"
    if search.plan is None:
        return f"{asked}: none was found within the solver's limit, which proves nothing"
    best = words.layout(search.plan)
    why = "for the same reason" if search.why in reasons else f"({search.why})"
    return f"{asked}: the best is {best}, which it refuses {why}; others were not tried"


def _offer(nearest: "Nearest", name: str) -> str:
    which = "the nearest" if nearest.changes or nearest.kept else "no near plan but the best"
    said = f"{which} that {name} can start is {words.layout(nearest.plan)}"
    if nearest.changes:
        changed = " and ".join(nearest.changes)
        said = f"{which} that {name} can start is the same with {changed}"
        said += _in_brackets(gpu_differences(nearest.asked, nearest.plan))
    else:
        if nearest.kept:
            said += f", the best that keeps {nearest.kept}"
        if not nearest.proved:
            said += " (as far as the solver's limit went)"
        said += _in_brackets(differences(nearest.asked, nearest.plan))
    parts = [said, *_costs(nearest)]
    if nearest.given_up:
        parts.append(f"it gives up {' and '.join(nearest.given_up)}")
    return f"{'; '.join(parts)}; --nearest exports it"


def _in_brackets(changes: Sequence[str]) -> str:
    return f" ({', '.join(changes)})" if changes else ""


def _costs(nearest: "Nearest") -> Iterator[str]:
    """Say every figure in which the nearest plan is worse, and whether throughput is not."""
    figures = nearest.figures
    if not figures:
        yield "what it costs is not known, as the plan asked for cannot be measured"
        return
    throughput, worse = figures[0], [figure for figure in figures if figure.is_worse]
    if throughput.is_same:
        yield "its throughput is the same"
    elif not throughput.is_worse:
        yield f"better is {_change(throughput)}"
    yield f"worse: {', '.join(map(_change, worse))}" if worse else "no figure is worse"


def _change(figure: "Figure") -> str:
    old, new = (
        quantity(round(value, _DECIMALS), figure.unit) for value in (figure.before, figure.after)
    )
    return f"{figure.name} {old} -> {new} ({words.difference(figure.after, figure.before)})"


def _plain(console: Console, text: str) -> None:
    """Print text that is to be copied: not wrapped, not styled."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)
