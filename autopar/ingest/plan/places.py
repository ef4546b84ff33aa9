"""Which GPU of the cluster each rank of each server runs on, as far as commands tell.

GPUs are numbered node by node. Rank r of a node runs on the r-th GPU that its command is shown:
CUDA_VISIBLE_DEVICES, CUDA C++ Programming Guide, "CUDA Environment Variables"; HIP_VISIBLE_DEVICES
is the same for AMD.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autopar.errors import SpecError, shorten
from autopar.ingest.plan.found import Found
from autopar.specs.base import MAX_GPUS

_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_MOST_PER_NODE = 1_024  # a higher number is no GPU of one node


@dataclass(frozen=True, slots=True)
class Server:
    """One server: one of its commands, and what those of its nodes are shown, by node."""

    found: Found
    shown: Mapping[int, tuple[int, ...] | None]


@dataclass(frozen=True, slots=True)
class _Share:
    """The ranks of one server on one node; local: numbers of their GPUs in the node."""

    server: int
    local: tuple[int, ...]
    is_alone: bool  # whether no other part of its server is on the same node


def shown_gpus(env: Mapping[str, str]) -> tuple[tuple[int, ...] | None, list[str]]:
    """Return the numbers of the GPUs that an environment shows, and notes.

    None where it shows all, or does not say which. Raises SpecError for a number twice.
    """
    name = next((name for name in _VARIABLES if name in env), "")
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

    node_gpus: GPUs of a node, None where no cluster is given. Where no command picks GPUs, servers
    take them one after another. Else commands that pick different GPUs share a node, as long as
    they stand side by side. Raises SpecError if a command is shown fewer GPUs than it has ranks.
    """
    if not any(_picks(server) for server in servers):
        table, first = {}, 0
        for number, server in enumerate(servers):
            table[number] = tuple(range(first, first + server.found.num_ranks))
            first += server.found.num_ranks
        return table, []
    shares = [s for number, server in enumerate(servers) for s in _shares(number, server)]
    places = _nodes(shares, node_gpus or _MOST_PER_NODE)
    highest = max(gpu for share in shares for gpu in share.local)
    if node_gpus is not None and highest >= node_gpus:
        raise SpecError(
            f"CUDA_VISIBLE_DEVICES: found GPU {highest}, expected one of the {node_gpus} of a node "
            "of the cluster, which are counted from 0"
        )
    size = node_gpus or highest + 1
    found: dict[int, tuple[int, ...]] = {}
    for share, node in zip(shares, places, strict=True):
        mine = tuple(node * size + gpu for gpu in share.local)
        found[share.server] = found.get(share.server, ()) + mine
    notes = []
    if places[-1] and node_gpus is None:
        notes.append(
            f"nodes are taken to have {size} GPUs, the most that CUDA_VISIBLE_DEVICES shows; "
            "--cluster says how many they have"
        )
    return found, notes


def _picks(server: Server) -> bool:
    """Whether anything says which GPUs of a node a server takes."""
    moved = (server.found.base, server.found.step) != (0, 1)
    return moved or any(shown is not None for shown in server.shown.values())


def _shares(number: int, server: Server) -> list[_Share]:
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
        shares.append(_Share(number, local, one.nodes.are_machines))
    return shares


def _nodes(shares: Sequence[_Share], node_gpus: int) -> list[int]:
    """Return the node of each share: the last one as long as its GPUs are free, else the next."""
    places: list[int] = []
    node, used, here = 0, set[int](), set[int]()
    for share in shares:
        is_free = not used & set(share.local) and (not share.is_alone or share.server not in here)
        if places and not (is_free and max(share.local) < node_gpus):
            node, used, here = node + 1, set(), set()
        used |= set(share.local)
        here.add(share.server)
        places.append(node)
    return places


def refuse_too_many(found: Found) -> None:
    """Raise SpecError for more ranks than any cluster of ours may have."""
    if found.num_ranks > MAX_GPUS:
        raise SpecError(f"{found.engine}: {found.num_ranks:,} ranks, expected at most {MAX_GPUS:,}")
