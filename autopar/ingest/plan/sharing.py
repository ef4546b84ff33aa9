"""Which node each part of a server is on, and which parts want the same GPU or port of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from autopar.errors import SpecError
from autopar.ingest.plan.found import Found

_NAMED = 8  # GPUs, servers or addresses in a message


@dataclass(frozen=True, slots=True)
class Share:
    """The ranks of one server on one node; local: numbers of their GPUs in the node.

    is_alone: whether no other part of its server is on the same node. host, enclosure: of the
    command. port: that it listens on, None where it does not, or which is not known.
    """

    server: int
    local: tuple[int, ...]
    is_alone: bool
    host: str = ""
    enclosure: str = ""
    port: int | None = None


@dataclass(slots=True)
class _Node:
    """What is on a node so far: GPUs and ports, each with the server that has it."""

    gpus: dict[int, int] = field(default_factory=dict)
    ports: dict[int, int] = field(default_factory=dict)

    def has(self, share: Share) -> bool:
        """Whether another part of the same server is here."""
        return share.server in self.gpus.values()


def nodes_of(shares: Sequence[Share], node_gpus: int) -> tuple[list[int], list[str]]:
    """Return the node of each share, and notes on what is wanted twice.

    A host that is named is one node. Shares without a host go to the last node of such as long as
    their GPUs are free there, else to the next one. Raises SpecError for a GPU or a port of a named
    host that two servers want.
    """
    nodes: list[_Node] = []
    by_host: dict[str, int] = {}
    places, crowded, ports = [], dict[int, set[int]](), dict[int, set[int]]()
    for share in shares:
        number = by_host.get(share.host)
        if number is not None and not share.host:
            here = nodes[number]
            taken = {gpu for gpu in share.local if gpu in here.gpus}
            if taken and not here.has(share) and share.enclosure != "pod":
                crowded.setdefault(share.server, set()).update(taken)
            if taken or (share.is_alone and here.has(share)) or max(share.local) >= node_gpus:
                number = None
        if number is None:
            number = by_host[share.host] = len(nodes)
            nodes.append(_Node())
        _put(nodes[number], share, ports)
        places.append(number)
    return places, [*_said_of_gpus(crowded), *_said_of_ports(ports)]


def side_by_side(servers: Sequence[Found]) -> list[str]:
    """Return a note on servers of which nothing says where they run; pods are given GPUs.

    Those that listen at addresses of their own are on machines of their own.
    """
    count = sum(server.enclosure != "pod" for server in servers)
    addresses = {server.address for server in servers} - {""}
    if count < 2 or len(addresses) == len(servers):
        return []
    note = (
        f"{count} servers, and no command picks GPUs or names its host: each is taken to have GPUs "
        "of its own, one after another; on one host all of them would take GPU 0"
    )
    return [note]


def some_of(things: Iterable[object]) -> str:
    """Return things as messages list them: the first ones, and how many more there are."""
    names = list(map(str, things))
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more if names else "none"


def listed(gpus: Iterable[int]) -> str:
    """Return GPUs as messages name them."""
    return f"GPU {some_of(sorted(gpus))}"


def _put(node: _Node, share: Share, ports: dict[int, set[int]]) -> None:
    """Lay a share on a node; ports: to which servers are added that want one that is taken."""
    taken = [gpu for gpu in share.local if gpu in node.gpus]
    if taken:
        raise SpecError(
            f"two commands take {listed(taken)} of the host {share.host}, of servers "
            f"{node.gpus[taken[0]]} and {share.server}"
        )
    node.gpus.update(dict.fromkeys(share.local, share.server))
    if share.port is None or share.enclosure:
        return
    other = node.ports.setdefault(share.port, share.server)
    if other != share.server and share.host:
        raise SpecError(
            f"servers {other} and {share.server} both listen on port {share.port} of the host "
            f"{share.host}; the later one would not start"
        )
    if other != share.server:
        ports.setdefault(share.port, {other}).add(share.server)


def _said_of_gpus(crowded: dict[int, set[int]]) -> list[str]:
    if not crowded:
        return []
    first, gpus = next(iter(crowded.items()))
    more = f", and {len(crowded) - 1:,} more servers alike" if len(crowded) > 1 else ""
    note = (
        f"server {first} takes {listed(gpus)}, which a server before it takes{more}: each is laid "
        "on another node, as no command names its host; on one host they would not start"
    )
    return [note]


def _said_of_ports(ports: dict[int, set[int]]) -> list[str]:
    return [
        f"servers {', '.join(map(str, sorted(servers)[:_NAMED]))} of one node listen on port "
        f"{port}: the later ones would not start"
        for port, servers in ports.items()
    ]
