"""Which servers prefill and which decode, where their router says it and they do not.

A server of vLLM whose kv_role is kv_both does either, as vLLM's examples of NixlConnector and the
charts of llm-d write both halves of a pair: only what sends requests to them knows which is which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autopar.errors import SpecError
from autopar.ingest.plan.flags import LOCAL
from autopar.ingest.plan.places import Server
from autopar.ingest.plan.routers import Address
from autopar.ingest.plan.sharing import some_of

Routed = Mapping[str, Sequence[Address]]  # role -> the addresses that routers reach for it
_REMEDY = (
    "add the command of their router, such as `vllm-router --vllm-pd-disaggregation --prefill "
    "http://HOST:PORT --decode http://HOST:PORT`, or write kv_producer and kv_consumer in a copy "
    "of the commands; servers that all do both need no --kv-transfer-config here"
)


def with_roles(
    servers: Sequence[Server], routed: Routed, label: str
) -> tuple[list[Server], list[str]]:
    """Return servers of which those that do either have the role of their address, and notes.

    Raises SpecError where that is not known, unless one command alone is there.
    """
    open_ones = [number for number, server in enumerate(servers) if server.found.connector]
    if not open_ones:
        return list(servers), []
    first = servers[open_ones[0]].found
    where = f"{first.connector} with the kv_role kv_both"
    if not any(routed.values()):
        if all(server.found is first for server in servers):
            note = (
                f"{where}: the server is taken to prefill and to decode, as neither a router nor "
                "another server is in the text"
            )
            return list(servers), [note]
        raise SpecError(
            f"{label}: servers {some_of(open_ones)}: {where} does not say which of them prefill "
            f"and which decode; {_REMEDY}"
        )
    named = list(servers)
    for number in open_ones:
        roles = _roles_at(servers[number], routed)
        if len(roles) != 1:
            reached = "; ".join(
                f"for {role} {some_of(addresses)}" for role, addresses in routed.items()
            )
            fits = "both roles" if roles else "none of them"
            raise SpecError(
                f"{label}: server {number} ({_place(servers[number])}): {where} says no role, and "
                f"its address fits {fits}: the router reaches {reached}. Name hosts and ports in "
                "both, or write kv_producer and kv_consumer in a copy of the commands"
            )
        found = replace(servers[number].found, role=min(roles))
        named[number] = replace(servers[number], found=found)
    note = f"{where} says no role: servers have that for which the router reaches their address"
    return named, [note]


def _roles_at(server: Server, routed: Routed) -> set[str]:
    """Return the roles for which a router reaches a server.

    One of another host counts only where no address names the server's own, which may have names.
    """
    mine = {server.hosts.get(0, ""), server.found.address} - {""}
    fitting = [
        (role, address.host)
        for role, addresses in routed.items()
        for address in addresses
        if address.port == server.found.port
    ]
    exact = {role for role, host in fitting if host in mine}
    near = {role for role, host in fitting if host in LOCAL}
    return exact or near or {role for role, _ in fitting}


def _place(server: Server) -> str:
    host = server.hosts.get(0, "") or server.found.address or "no host"
    port = server.found.port
    return f"{host}, {'a port that is not known' if port is None else f'port {port}'}"
