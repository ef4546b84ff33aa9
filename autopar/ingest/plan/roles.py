"""Which servers prefill and which decode, where their router says it and they do not.

A server of vLLM whose kv_role is kv_both does either, as vLLM's examples of NixlConnector and the
charts of llm-d write both halves of a pair; so does one of TensorRT-LLM without a server_role, as
in NVIDIA's examples. Only what sends requests to them knows which is which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autopar.errors import SpecError
from autopar.ingest.plan.flags import LOCAL
from autopar.ingest.plan.found import Found
from autopar.ingest.plan.places import Server
from autopar.ingest.plan.routers import Address, Routed
from autopar.ingest.plan.sharing import some_of

# By engine: what such servers have, where {} is what hands caches over; what says roles in
# commands; the router that says them.
_WITHOUT = {
    "vllm": "{} with the kv_role kv_both",
    "trtllm": "{} without a server_role",
}
_STATED = {
    "vllm": "write kv_producer and kv_consumer in a copy of the commands",
    "trtllm": "add --server_role CONTEXT and --server_role GENERATION in a copy of the commands",
}
_ROUTER = {
    "vllm": "such as `vllm-router --vllm-pd-disaggregation --prefill http://HOST:PORT --decode "
    "http://HOST:PORT`",
    "trtllm": "`trtllm-serve disaggregated -c FILE`, with FILE beside the commands, whose "
    "context_servers and generation_servers have urls",
}
_NO_PAIR = {"vllm": "--kv-transfer-config", "trtllm": "cache_transceiver_config"}


def with_roles(
    servers: Sequence[Server], routed: Routed, label: str
) -> tuple[list[Server], list[str]]:
    """Return servers of which those that do either have the role of their address, and notes.

    Raises SpecError where that is not known, unless one command alone is there.
    """
    reaches = any(routed.addresses.values())
    open_ones = [n for n, server in enumerate(servers) if _is_open(server.found, reaches=reaches)]
    if not open_ones:
        return list(servers), []
    first = servers[open_ones[0]].found
    where = _without(first)
    if not reaches:
        if all(server.found is first for server in servers) and not routed.unread:
            note = (
                f"{where}: the server is taken to prefill and to decode, as neither a router nor "
                "another server is in the text"
            )
            return list(servers), [note]
        raise SpecError(
            f"{label}: servers {some_of(open_ones)}: {where} does not say which of them prefill "
            f"and which decode{f' ({routed.unread})' * bool(routed.unread)}; add the command of "
            f"their router, {_ROUTER[first.engine]}, or {_STATED[first.engine]}; servers that all "
            f"do both need no {_NO_PAIR[first.engine]} here"
        )
    named = list(servers)
    for number in open_ones:
        named[number] = _with_role(servers[number], routed, f"{label}: server {number}")
    note = f"{where} says no role: servers have that for which the router reaches their address"
    return named, [note]


def _with_role(server: Server, routed: Routed, label: str) -> Server:
    """Return a server with the role of its address; raise SpecError for none, or for both."""
    roles = _roles_at(server, routed.addresses)
    one = server.found
    if len(roles) != 1:
        reached = "; ".join(
            f"for {role} {some_of(addresses)}" for role, addresses in routed.addresses.items()
        )
        fits = "both roles" if roles else "none of them"
        raise SpecError(
            f"{label} ({_place(server)}): {_without(one)} says no role, and its address fits "
            f"{fits}: the router reaches {reached}. Name hosts and ports in both, or "
            f"{_STATED[one.engine]}"
        )
    return replace(server, found=replace(one, role=min(roles)))


def _is_open(one: Found, *, reaches: bool) -> bool:
    """Whether a server may have either role; reaches: whether a router names addresses of roles.

    TensorRT-LLM's servers need no word on pairs for that.
    """
    return bool(one.connector) or (reaches and one.engine == "trtllm" and not one.role)


def _without(one: Found) -> str:
    return _WITHOUT[one.engine].format(one.connector or "a server")


def _roles_at(server: Server, routed: Mapping[str, Sequence[Address]]) -> set[str]:
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
