"""What takes requests for a pair of roles and sends each through a prefill and a decode server.

A server of one role answers nobody by itself. Each engine has a program that knows the servers of
both: `vllm-router` (package vllm-router), `sglang_router.launch_router` (package sglang-router),
`trtllm-serve disaggregated` (in TensorRT-LLM itself).
"""

from collections.abc import Callable, Sequence
from typing import Any

from autopar.documents import dump_yaml
from autopar.errors import SpecError
from autopar.export.hosts import all_addresses, in_url, place
from autopar.export.launch import Launch, Router, Written
from autopar.export.options import Engine, Options

# The packages whose arguments were read, and fed to their own parsers by `make check-engines`.
PACKAGES: dict[Engine, str] = {"vllm": "vllm-router 0.1.17", "sglang": "sglang-router 0.3.2"}
BOOTSTRAP_FLAG = "--disaggregation-bootstrap-port"
_FRONT = "disaggregated.yaml"
_ROLES = ("prefill", "decode")
_MOST_URLS = 4  # in a note; the commands have them all


def router_of(
    launches: Sequence[Launch], options: Options, address: Callable[[Launch], str] | None = None
) -> tuple[Router | None, list[Written], list[str]]:
    """Return the router in front of servers with roles, its files and notes; none without roles.

    address: the name under which a server is reached, by the command of its first node; default
    its host.
    """
    leaders = [launch for launch in launches if launch.node_rank == 0 and launch.role]
    if not leaders:
        return None, [], []
    places = {
        role: [
            (place(launch.host if address is None else address(launch), launch.port), launch)
            for launch in leaders
            if launch.role == role
        ]
        for role in _ROLES
    }
    first = leaders[0]
    argv, files = _COMMANDS[options.engine](places, options, first.host)
    router = Router(first.node, first.host, options.router_port, tuple(argv))
    return router, files, _notes(options)


_Places = dict[str, list[tuple[str, Launch]]]  # role -> host:port and command of each server


def _vllm(places: _Places, options: Options, own: str) -> tuple[list[str], list[Written]]:
    argv = ["vllm-router", "--vllm-pd-disaggregation"]
    for role in _ROLES:
        for where, _ in places[role]:
            argv += [f"--{role}", f"http://{where}"]
    return [*argv, *_listening(options, own)], []


def _sglang(places: _Places, options: Options, own: str) -> tuple[list[str], list[Written]]:
    """Return the command, in which a prefill server has its bootstrap port beside its address."""
    argv = ["python", "-m", "sglang_router.launch_router", "--pd-disaggregation"]
    for where, launch in places["prefill"]:
        port = launch.argv[launch.argv.index(BOOTSTRAP_FLAG) + 1]
        argv += ["--prefill", f"http://{where}", port]
    for where, _ in places["decode"]:
        argv += ["--decode", f"http://{where}"]
    return [*argv, *_listening(options, own)], []


def _trtllm(places: _Places, options: Options, own: str) -> tuple[list[str], list[Written]]:
    """Return `trtllm-serve disaggregated` and its configuration, which names the servers.

    Raises SpecError for an IPv6 address, which it cannot read.
    """
    document: dict[str, Any] = {"hostname": all_addresses(own), "port": options.router_port}
    for key, role in (("context_servers", "prefill"), ("generation_servers", "decode")):
        urls = [where for where, _ in places[role]]
        six = next((url for url in urls if url.startswith("[")), "")
        if six:
            raise SpecError(
                f"--hosts: {six}: the router of TensorRT-LLM cannot read an IPv6 address, with "
                "brackets or without: it cuts urls at every colon (llmapi/disagg_utils.py: "
                "extract_ctx_gen_cfgs); give names of hosts"
            )
        document[key] = {"num_instances": len(urls), "urls": urls}
    argv = ["trtllm-serve", "disaggregated", "-c", options.file(_FRONT)]
    return argv, [Written(_FRONT, dump_yaml(document))]


_Command = Callable[[_Places, Options, str], tuple[list[str], list[Written]]]
_COMMANDS: dict[Engine, _Command] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
}


def _listening(options: Options, own: str) -> list[str]:
    """Servers in turn, as a plan deals requests, and an address that other machines reach.

    Both routers put host and port together as they are: sglang-router 0.3.2 does not start with
    `--host ::`, vllm-router 0.1.17 takes that and `[::]`.
    """
    host, port = in_url(all_addresses(own)), str(options.router_port)
    return ["--policy", "round_robin", "--host", host, "--port", port]


def reached(launches: Sequence[Launch], router: Router | None) -> list[str]:
    """Say in which order to start commands, and where requests go."""
    leaders = [launch for launch in launches if launch.node_rank == 0 and launch.port]
    if not leaders:
        return []
    notes = []
    if len({launch.node for launch in launches}) > 1 and len(leaders) < len(launches):
        notes.append(
            "start the commands of all nodes of a server within minutes: they wait for each other; "
            "where nodes have several networks, set NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME to "
            "the one of their names here"
        )
    if router is not None:
        return [
            *notes,
            f"start the router last; requests go to http://{place(router.host, router.port)}/v1",
        ]
    urls = [f"http://{place(launch.host, launch.port)}/v1" for launch in leaders]
    listed = ", ".join(urls[:_MOST_URLS]) + (", ..." if len(urls) > _MOST_URLS else "")
    spread = (
        f"; its {len(urls)} servers share nothing: spread requests evenly over them"
        if len(urls) > 1
        else ""
    )
    return [*notes, f"requests go to {listed}{spread}"]


def _notes(options: Options) -> list[str]:
    notes = []
    if options.engine in PACKAGES:
        package = PACKAGES[options.engine]
        name = package.split()[0]
        notes.append(
            f"the router is a package of its own: pip install {name} (read: {package}); it waits "
            "for servers that are not up yet"
        )
    if options.engine == "sglang":
        notes.append(
            "caches travel by Mooncake (pip install mooncake-transfer-engine), SGLang's default; "
            "--disaggregation-transfer-backend nixl on all servers chooses NIXL"
        )
    if options.engine == "vllm":
        notes.append("caches travel by NIXL: pip install nixl beside vLLM on every node")
    return notes
