"""What starts an engine's command from outside: docker run, mpirun and env with their variables.

Entrypoints: docker/Dockerfile of vLLM 0.33.0 has ["vllm", "serve"], before 0.11
["python3", "-m", "vllm.entrypoints.openai.api_server"], which take the same flags; the images of
SGLang and TensorRT-LLM have none that starts a server.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from autopar.ingest.plan.commands.shell import Command, commands_of

_RUNNERS = ("docker", "podman", "nerdctl")
# Flags of `docker run` without a value: docs.docker.com/reference/cli/docker/container/run.
_SWITCHES = ("--detach", "--disable-content-trust", "--init", "--interactive", "--no-healthcheck",
             "--oom-kill-disable", "--privileged", "--publish-all", "--quiet", "--read-only",
             "--rm", "--sig-proxy", "--tty", "--use-api-socket", "--replace")  # fmt: skip
_LETTERS = re.compile(r"-[ditPq]+")
_VARIABLE = re.compile(
    r"(?:-e|--env=|--export=(?:ALL,)?)?([A-Z_][A-Z0-9_]*)=(.*)", re.ASCII | re.DOTALL
)
_DEVICES = re.compile(r"(?:\"|')?device=([\d,]+)(?:\"|')?")
_VLLM_IMAGE = re.compile(r"(?:.*/)?vllm-openai[\w.-]*(?:[:@].*)?")
SHOWN = "CUDA_VISIBLE_DEVICES"


def started(command: Command, label: str) -> list[Command]:
    """Return the commands that one of docker starts; any other as it is."""
    words = command.words
    for place, word in enumerate(words[:-1]):
        if word.rpartition("/")[2] in _RUNNERS and words[place + 1] in ("run", "container"):
            first = place + 2 + (words[place + 1] == "container")
            inner = _of_docker(command, first)
            return commands_of((*words[:place], *inner.words), inner, label)
    return [command]


def of_image(image: str, words: Sequence[str]) -> tuple[str, ...]:
    """Return the whole command of a container, of which `words` are what its image is given.

    An image of vLLM starts the server by itself; flags alone, or a model, are for it.
    """
    is_server = _VLLM_IMAGE.fullmatch(image) is not None
    starts = {word.rpartition("/")[2] for word in words[:4]} & {
        "vllm",
        "python",
        "python3",
        "sh",
        "bash",
    }
    return ("vllm", "serve", *words) if is_server and not starts else tuple(words)


def enclosure_of(network: str) -> Literal["", "container"]:
    """Return what a container is alone in, by its network: that of its host has no own ports."""
    return "" if network == "host" else "container"


def env_among(words: Sequence[str]) -> dict[str, str]:
    """Return the variables that words before a command set: -e A=B, -x A=B, env A=B."""
    found = {}
    for word in words:
        match = _VARIABLE.fullmatch(word)
        if match is not None:
            found[match[1]] = match[2]
    return found


def seen_through(devices: str, env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which GPUs are those of the node, not of the container.

    devices: numbers of the GPUs that the container is given, which it counts from 0.
    """
    given = devices.split(",") if devices else []
    inside = [word.strip() for word in env.get(SHOWN, "").split(",")]
    if not given:
        return dict(env)
    if all(word.isdecimal() and int(word[:9]) < len(given) for word in inside):
        given = [given[int(word)] for word in inside]
    return {**env, SHOWN: ",".join(given)}


def _of_docker(command: Command, place: int) -> Command:
    """Return what `docker run` starts; place: of the first word after `run`."""
    words = command.words
    devices = entrypoint = network = ""
    first = place
    while place < len(words) and words[place].startswith("-"):
        name, equals, value = words[place].partition("=")
        if not equals and name not in _SWITCHES and not _LETTERS.fullmatch(name):
            place += 1
            value = words[place] if place < len(words) else ""
        match = _DEVICES.fullmatch(value)
        devices = match[1] if name == "--gpus" and match is not None else devices
        entrypoint = value if name == "--entrypoint" else entrypoint
        network = value if name in ("--network", "--net") else network
        place += 1
    env = {**command.env, **env_among(words[first:place])}
    shown = env.pop("NVIDIA_VISIBLE_DEVICES", "")
    devices = devices or (shown if re.fullmatch(r"[\d,]+", shown) else "")
    image, rest = "".join(words[place : place + 1]), words[place + 1 :]
    inner = (entrypoint, *rest) if entrypoint else of_image(image, rest)
    enclosure = enclosure_of(network)
    return replace(command, words=inner, env=seen_through(devices, env), enclosure=enclosure)
