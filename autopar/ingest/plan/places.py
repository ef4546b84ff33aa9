"""Which GPU of the cluster each rank of each server runs on, as far as commands tell.

GPUs are numbered node by node. Rank r of a node runs on the r-th GPU that its command is shown:
CUDA_VISIBLE_DEVICES, CUDA C++ Programming Guide, "CUDA Environment Variables"; HIP_VISIBLE_DEVICES
is the same for AMD.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autopar.errors import SpecError, shorten
from autopar.ingest.plan.found import Found
from autopar.ingest.plan.sharing import Share, listed, nodes_of, side_by_side, some_of
from autopar.specs.base import MAX_GPUS

SHOWN_BY = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_MOST_PER_NODE = 1_024  # a higher number is no GPU of one node


@dataclass(frozen=True, slots=True)
class Server:
    """One server: one of its commands, and by node what its commands are shown, and their host."""

    found: Found
    shown: dict[int, tuple[int, ...] | None]
    hosts: dict[int, str]


def shown_gpus(env: Mapping[str, str]) -> tuple[tuple[int, ...] | None, list[str]]:
    """Return the numbers of the GPUs that an environment shows, and notes.

    None where it shows all, or does not say which. Raises SpecError for a number twice.
    """
    name = next((name for name in SHOWN_BY if name in env), "")
    text = env.get(name, "")
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    if not name:
        return None, []
    if not all(word.isdecimal() and int(word[:10]) < _MOST_PER_NODE for word in words):
        note = (
            f"{name}={text[:60]}: which GPUs these are is not known; rank r is taken to run on "
            "GPU r of its server, and --ranks says otherwise"
        )
        return None, [note]
    numbers = tuple(map(int, words))
    if len(set(numbers)) < len(numbers):
        raise SpecError(f"{name}: found {shorten(text)}, expected each GPU once")
    return numbers, []


def gpus_of_ranks(
    servers: Sequence[Server], node_gpus: int | None
) -> tuple[dict[int, tuple[int, ...]], list[str]]:
    """Return the GPU of each rank of each server, by the server's number, and notes.

    node_gpus: GPUs of a node, None where no cluster is given. Where no command picks GPUs or names
    its host, servers take them one after another. Else commands lie on the nodes of their hosts;
    those without one share a node while they stand side by side and pick different GPUs. Raises
    SpecError if a command is shown fewer GPUs than it has ranks, and for two commands that take
    one GPU or one port of a host that they name.
    """
    servers = [_at_address(server, node_gpus) for server in servers]
    if not any(_picks(server) or any(server.hosts.values()) for server in servers):
        table, first = {}, 0
        for number, server in enumerate(servers):
            table[number] = tuple(range(first, first + server.found.num_ranks))
            first += server.found.num_ranks
        return table, side_by_side([server.found for server in servers])
    shares = [s for number, server in enumerate(servers) for s in _shares(number, server)]
    _refuse_beyond_node(shares, node_gpus)
    places, notes = nodes_of(shares, node_gpus or _MOST_PER_NODE)
    size = node_gpus or max(gpu for share in shares for gpu in share.local) + 1
    found: dict[int, tuple[int, ...]] = {}
    for share, node in zip(shares, places, strict=True):
        mine = tuple(node * size + gpu for gpu in share.local)
        found[share.server] = found.get(share.server, ()) + mine
    if max(places) and node_gpus is None:
        is_shown = any(shown is not None for server in servers for shown in server.shown.values())
        why = "the most that CUDA_VISIBLE_DEVICES shows" if is_shown else "the most that one takes"
        notes.append(
            f"nodes are taken to have {size} GPUs, {why}; --cluster says how many they have"
        )
    return found, notes


def refuse_beyond(table: Mapping[int, Sequence[int]], num_gpus: int | None) -> None:
    """Raise SpecError for GPUs that a cluster has not.

    table: the GPUs of each server; num_gpus: of the cluster, None where none is given.
    """
    beyond = sorted(
        {gpu for gpus in table.values() for gpu in gpus if gpu >= (num_gpus or gpu + 1)}
    )
    if beyond:
        ranks = sum(map(len, table.values()))
        raise SpecError(
            f"{listed(beyond)} of {ranks:,} ranks: not in the cluster, which has {num_gpus:,} "
            "GPUs, counted from 0"
        )


def _refuse_beyond_node(shares: Sequence[Share], node_gpus: int | None) -> None:
    beyond = {gpu for share in shares for gpu in share.local if gpu >= (node_gpus or gpu + 1)}
    if beyond:
        raise SpecError(
            f"CUDA_VISIBLE_DEVICES: found {listed(beyond)}, expected some of the {node_gpus} of a "
            "node of the cluster, which are counted from 0"
        )


def _at_address(server: Server, node_gpus: int | None) -> Server:
    """Return a server on the host whose address it listens at, where nothing else names one.

    In a container that is no address of the host; one with more ranks than a node runs on several.
    """
    one = server.found
    ranks = one.nodes.ranks or -(-one.num_ranks // one.nodes.count)
    is_there = one.nodes.rank == 0 and not one.enclosure and ranks <= (node_gpus or ranks)
    if not one.address or not is_there or server.hosts.get(0):
        return server
    return replace(server, hosts={**server.hosts, 0: one.address})


def _picks(server: Server) -> bool:
    """Whether anything says which GPUs of a node a server takes."""
    moved = (server.found.base, server.found.step) != (0, 1)
    return moved or any(shown is not None for shown in server.shown.values())


def _shares(number: int, server: Server) -> list[Share]:
    """Return the parts of a server on its nodes, in the order of ranks."""
    one = server.found
    known = [shown for shown in server.shown.values() if shown is not None]
    like = known[0] if known else None  # nodes whose commands are not there are as the first
    per_node = one.nodes.ranks or -(-one.num_ranks // one.nodes.count)
    if one.nodes.rank is None and one.nodes.count == 1 and one.nodes.ranks is None and like:
        per_node = min(per_node, len(like))  # one command for all nodes, however many they are
    shares = []
    for node, first in enumerate(range(0, one.num_ranks, per_node)):
        ranks = min(per_node, one.num_ranks - first)
        shown = server.shown.get(node, like)
        need = one.base + (ranks - 1) * one.step + 1
        if shown is not None and len(shown) < need:
            raise SpecError(
                f"{one.engine}: CUDA_VISIBLE_DEVICES shows {len(shown)} GPUs, and {ranks} ranks "
                f"of the command run on the node{' from --base-gpu-id on' * (need > ranks)}: it "
                "would not start"
            )
        seen = range(need) if shown is None else shown[:need]
        local = tuple(seen[one.base :: one.step])
        port = one.port if node == 0 and one.nodes.rank in (0, None) else None
        shares.append(
            Share(
                server=number,
                local=local,
                is_alone=one.nodes.are_machines,
                host=server.hosts.get(node, ""),
                enclosure=one.enclosure,
                port=port,
            )
        )
    return shares


def said_of_missing(servers: Sequence[Server]) -> list[str]:
    """Return notes on servers of which the commands of some nodes are not in the text."""
    notes = []
    for server in servers:
        nodes, here = server.found.nodes, sorted(server.shown)
        if len(here) == nodes.count:
            continue
        kind = "node" if nodes.are_machines else "data-parallel rank"
        place = nodes.server.strip(":")  # HOST:PORT, of which either may not be stated
        where = f" of the server at {place}" if place else ""
        only = f"command of {kind} {here[0]} is"
        if len(here) > 1:
            only = f"commands of {kind}s {some_of(here)} are"
        notes.append(
            f"of {nodes.count:,} {kind}s{where} only the {only} here; the others are taken to be "
            "alike"
        )
    return notes


def refuse_too_many(found: Found) -> None:
    """Raise SpecError for more ranks than any cluster of ours may have."""
    if found.num_ranks > MAX_GPUS:
        raise SpecError(f"{found.engine}: {found.num_ranks:,} ranks, expected at most {MAX_GPUS:,}")
