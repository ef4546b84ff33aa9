"""What an export consists of: one command per server and node, files beside them, ranks."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from autopar.export.ranks import Rank


@dataclass(frozen=True, slots=True)
class Launch:
    """One command on one node.

    server: which engine process group it belongs to, all of which are named alike in `role`.
    node: of the cluster, counted from 0. gpus: local numbers of the GPUs that it runs on, in the
    order of its ranks. port: where its first node takes requests; 0 where it takes none.
    other_hosts: those that the command itself reaches, in the order of its ranks, as by mpirun.
    """

    server: int
    role: str
    node_rank: int
    node: int
    host: str
    gpus: tuple[int, ...]
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    other_hosts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A name for the file that holds it."""
        role = f"{self.role}-" if self.role else ""
        return f"{role}server-{self.server}-node-{self.node_rank}"


@dataclass(frozen=True, slots=True)
class Router:
    """The one command that takes requests for a pair of roles; node: where it may run."""

    node: int
    host: str
    port: int
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """A file beside the commands."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Export:
    """A plan as an engine takes it.

    roles: of each server, empty outside of a disaggregated service, which has a router too. lacks:
    what a user has to add before the commands start; empty where they start as they are.
    """

    target: str
    engine: str
    version: str
    launches: tuple[Launch, ...]
    files: tuple[Written, ...]
    ranks: tuple[Rank, ...]
    roles: tuple[str, ...]
    notes: tuple[str, ...] = ()
    router: Router | None = None
    lacks: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a server on one node: its GPUs there, in the order of ranks."""

    node: int
    gpus: tuple[int, ...]


def command_text(launch: Launch | Router) -> str:
    """Return a command for a POSIX shell: environment first, then one option per line."""
    words = [f"{name}={shlex.quote(value)}" for name, value in launch.env.items()]
    lines = [" ".join(words)] if words else []
    line: list[str] = []
    for word in launch.argv:
        if word.startswith("--") and line:
            lines.append(" ".join(line))
            line = []
        line.append(shlex.quote(word))
    lines.append(" ".join(line))
    return " \\\n  ".join(lines)


def host_line(launch: Launch) -> str:
    """Return the comment by which `ingest plan` knows the hosts of the command after it."""
    return f"# autopar: host {_comment(','.join((launch.host, *launch.other_hosts)))}"


def script_text(launch: Launch | Router, title: str, lacks: str = "") -> str:
    """Return a shell script with one command."""
    told = [f"# {_comment(text)}" for text in (title, lacks) if text]
    if isinstance(launch, Launch):
        told.append(host_line(launch))
    return "\n".join(("#!/bin/sh", *told, f"exec env {command_text(launch)}", ""))


def shares_of(
    ranks: tuple[Rank, ...], gpus_per_node: int, *, last_has_rest: str = ""
) -> tuple[tuple[Share, ...], str]:
    """Return the nodes of a server in the order of its ranks, or why it has no such order.

    Engines give consecutive ranks to a node, and as many to each. last_has_rest: the rule of one
    whose last node may have fewer; empty for the others.
    """
    shares: list[list[int]] = []
    for rank in ranks:
        if shares and shares[-1][0] // gpus_per_node == rank.gpu // gpus_per_node:
            shares[-1].append(rank.gpu)
        else:
            shares.append([rank.gpu])
    nodes = [share[0] // gpus_per_node for share in shares]
    if len(set(nodes)) < len(nodes):
        twice = next(node for node in nodes if nodes.count(node) > 1)
        return (), (
            f"ranks of node {twice} are not consecutive: the engine counts ranks in an order that "
            "leaves the node and comes back, and gives consecutive ranks to a node"
        )
    sizes = [len(share) for share in shares]
    are_full = len({*(sizes[:-1] if last_has_rest else sizes)}) == 1
    if len(sizes) > 1 and (not are_full or sizes[-1] > sizes[0]):
        wants = last_has_rest or "the engine wants as many on each"
        return (), f"its nodes have {', '.join(map(str, sizes))} ranks, and {wants}"
    return tuple(
        Share(node, tuple(gpu % gpus_per_node for gpu in share))
        for node, share in zip(nodes, shares, strict=True)
    ), ""


def devices(share: Share) -> dict[str, str]:
    """Return the environment that shows a process its GPUs, in the order of ranks."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, share.gpus))}


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
