"""Commands that send requests on to servers: a plan holds of them only who prefills and decodes.

Sources: console scripts and modules of vllm-router 0.1.17 and sglang-router 0.3.2, whose
`launch_server` and `smg server` start servers too and are no routers alone; TensorRT-LLM 1.4,
commands/serve.py, and llmapi/disagg_utils.py for the file of its router. Addresses: vllm-router
0.1.17 and sglang-router 0.3.2, --prefill and --decode; vLLM,
tests/v1/kv_connector/nixl_integration/toy_proxy_server.py, --prefiller-hosts and its like.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from autopar.errors import SpecError
from autopar.ingest.plan.beside import Beside
from autopar.ingest.plan.commands.hosts import plain_host

# A program, and the word behind it that makes it a router; - is any flag. A name alone may be that
# of a package, a host or a container, as in `pip install vllm-router`.
_STARTS = {
    "vllm-router": "-",
    "vllm_router.launch_router": "-",
    "sglang_router.launch_router": "-",
    "sglang_router": "launch",
    "sglang-router": "launch",
    "smg": "launch",
    "amg": "launch",
    "trtllm-serve": "disaggregated",
}
_URL = re.compile(
    r"(?:(\w+)://)?(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9][\w.-]*)(?::(\d{1,5}))?(?:[:/].*)?", re.ASCII
)
_HTTP_PORT = 80  # RFC 9110, 4.2.1
_PROXIES = {"prefill": "prefiller", "decode": "decoder"}
# Keys of the file of `trtllm-serve disaggregated`, by role, and the flags that name it.
FRONT = {"prefill": "context_servers", "decode": "generation_servers"}
_FRONT_FILE = ("-c", "--config_file", "--config")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a router reaches a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(slots=True)
class Routed:
    """What the routers of a text say: by role the addresses that they reach.

    unread: why the file of one of them is not known, the last one if there are several.
    """

    addresses: dict[str, list[Address]] = field(default_factory=lambda: {r: [] for r in _PROXIES})
    unread: str = ""

    def add(self, words: Sequence[str], beside: Beside) -> None:
        """Add what a command says that is none of an engine; beside: where its file is."""
        found = [addresses_in(words)]
        try:
            found.append(_in_file(words, beside))
        except SpecError as error:
            self.unread = f"the file of trtllm-serve disaggregated: {error}"
        for each in found:
            for role, addresses in each.items():
                self.addresses[role] += addresses


def router_in(words: Sequence[str]) -> str:
    """Return the name of the router that words start; empty where they start none."""
    for word, behind in pairwise(words):
        name = word.rpartition("/")[2]
        expected = _STARTS.get(name, "")
        if expected == "-" and behind.startswith("-"):
            return name
        if expected and behind == expected:
            return f"{name} {behind}"
    if all(addresses_in(words).values()):
        return next((word for word in words if word.endswith(".py")), words[0])
    return ""


def addresses_in(words: Sequence[str]) -> Mapping[str, Sequence[Address]]:
    """Return the addresses that a command sends prompts and their continuations to, by role."""
    found: dict[str, list[Address]] = {}
    for role, name in _PROXIES.items():
        urls = [_address(value) for value in _values(words, (f"--{role}",))]
        hosts = _values(words, (f"--{name}-hosts", f"--{name}-host"))
        ports = _values(words, (f"--{name}-ports", f"--{name}-port"))
        pairs = zip(hosts or ["localhost"] * len(ports), ports, strict=False)
        listed = [Address(host, int(port)) for host, port in pairs if port.isdecimal()]
        found[role] = [url for url in urls if url is not None] + listed
    return found


def _in_file(words: Sequence[str], beside: Beside) -> Mapping[str, Sequence[Address]]:
    """Return the addresses in the file of `trtllm-serve disaggregated`; nothing for other words.

    Raises SpecError if the file cannot be read.
    """
    program = next((word for word in words if word.rpartition("/")[2] == "trtllm-serve"), "")
    behind = words[words.index(program) + 1 :] if program else []
    is_router = "disaggregated" in behind[:1]
    names = _values(behind, _FRONT_FILE) if is_router else []
    found: dict[str, list[Address]] = {}
    for name in names[-1:]:
        data = beside.options(name)
        for role, key in FRONT.items():
            servers = data.get(key)
            urls = servers.get("urls") if isinstance(servers, dict) else None
            listed = [_address(str(url)) for url in urls] if isinstance(urls, list) else []
            found[role] = [url for url in listed if url is not None]
    return found


def _values(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return all values of a flag, which may be given several times and take several."""
    return [value for flag, value in _flag_values(words) if flag in flags]


def _flag_values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    flag = ""
    for word in words:
        if word.startswith("-"):
            flag, equals, value = word.partition("=")
            if equals:
                yield flag, value
        elif flag:
            yield flag, word


def _address(text: str) -> Address | None:
    """Return the address in a URL or in HOST:PORT; None for another word, as a bootstrap port."""
    match = _URL.fullmatch(text)
    if match is None or (match[1] is None and match[3] is None):
        return None
    host = match[2].strip("[]")
    return Address(plain_host(host) or host, int(match[3] or _HTTP_PORT))
