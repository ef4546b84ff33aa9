"""What an export is asked for beside the plan: the engine, its version, names and places."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from autopar.errors import SpecError, shorten, suggest

Engine = Literal["vllm", "sglang", "trtllm", "megatron"]
Target = Literal["vllm", "sglang", "trtllm", "megatron", "lws", "hostfile"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
TARGETS: tuple[Target, ...] = get_args(Target)

# The rule pack of an engine, where it has another name.
PACKS: dict[Engine, str] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "trtllm": "tensorrt-llm",
    "megatron": "megatron",
}
# The versions whose flags were read (docs/engines.md); asked for unless another one is.
VERSIONS: dict[Engine, str] = {
    "vllm": "0.33.0",
    "sglang": "0.5.23",
    "trtllm": "1.4",
    "megatron": "0.19.2",
}
NAMES: dict[Engine, str] = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "trtllm": "TensorRT-LLM",
    "megatron": "Megatron-Core",
}
# PEP 440, as the packages of all four engines are numbered: 0.5.23, v1.2.0rc3, 0.4.9.post1.
_VERSION = re.compile(
    r"v?(\d+(?:\.\d+)*)(?:(?:a|b|rc)\d+)?(?:\.post\d+)?(?:\.dev\d+)?(?:\+[a-z0-9.]+)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Options:
    """How a plan is to be written.

    engine: whose commands, also inside of manifests and for host files. model_path: what the engine
    loads; hosts: names of the cluster's nodes, `node-0`, `node-1`, ... where there are none. port:
    of a server on the first GPU of its node. expert_map: `always` writes a file also where the
    engine would put experts as planned by itself; `checkpoint` takes an order of the checkpoint's
    experts for a map where the engine takes none. folder: where files will lie, as commands name
    it. image, router_image: of containers. in_pods: whether every node of every server is a pod of
    its own.
    """

    engine: Engine = "vllm"
    version: str = ""
    model_path: str = ""
    hosts: tuple[str, ...] = ()
    port: int = 8000
    expert_map: Literal["auto", "always", "checkpoint"] = "auto"
    folder: str = ""
    image: str = ""
    router_image: str = ""
    namespace: str = ""
    in_pods: bool = False

    def host(self, node: int) -> str:
        """Return the name of a node.

        Raises SpecError if names were given, but none for it.
        """
        if not self.hosts:
            return f"node-{node}"
        if node >= len(self.hosts):
            raise SpecError(
                f"--hosts: {len(self.hosts)} names; the plan uses node {node}, counted from 0"
            )
        return self.hosts[node]

    def offset(self, gpus: Sequence[int]) -> int:
        """Return what is added to ports, so that servers on one node do not meet.

        gpus: local numbers of those of the server on its first node; no other server has them.
        """
        return 0 if self.in_pods else min(gpus)

    @property
    def router_port(self) -> int:
        """Where the router of a pair of roles takes requests: below the ports of all servers."""
        return self.port - 1

    def file(self, name: str) -> str:
        """Return how a command names one of the files that are written beside it."""
        return f"{self.folder}/{name}" if self.folder else name

    def at_least(self, *version: int) -> bool:
        """Whether the engine's version is this one or a later one."""
        return version_of(self.version or VERSIONS[self.engine]) >= version


def version_of(text: str) -> tuple[int, ...]:
    """Return the numbers of a version: `v0.5.23rc1` -> (0, 5, 23).

    Raises SpecError if it starts with none.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        known = ", ".join(f"{NAMES[engine]} {VERSIONS[engine]}" for engine in ENGINES)
        raise SpecError(
            f"--engine-version {shorten(text)}: expected a version such as 0.5.23 or 1.2.0rc3; "
            f"flags were checked against those of {known}"
        )
    return tuple(int(number) for number in match[1].split("."))


def engine_of(name: str, option: str) -> Engine:
    """Return the engine of a name or of its rule pack.

    Raises SpecError, which names the option, for any other.
    """
    for engine in ENGINES:
        if name in (engine, PACKS[engine]):
            return engine
    raise SpecError(
        f"{option}: unknown engine {shorten(name)}{suggest(name, ENGINES)}; expected one of "
        + ", ".join(ENGINES)
    )


def checked_word(text: str, option: str) -> str:
    """Return a word that a command line can carry as an argument of its own.

    Raises SpecError for an empty one, for NUL, and for a leading dash, which engines take for a
    flag.
    """
    if not text or "\0" in text:
        raise SpecError(f"{option}: found {shorten(text)}, expected a name or a path")
    if text.startswith("-"):
        raise SpecError(
            f"{option}: {shorten(text)} starts with a dash, which engines take for a flag; write "
            "a path as ./-name"
        )
    return text
