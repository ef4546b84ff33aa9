"""Manifests of Kubernetes and files of docker compose -> the commands of their containers.

Sources: kubernetes.io/docs, "Define a Command and Arguments for a Container" and "Dependent
Environment Variables" ($(NAME) is replaced, $$(NAME) is the literal text); kubernetes-sigs/lws
v0.9.0 for LeaderWorkerSet; the Compose specification, "Services", "Interpolation".
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from autopar.documents import parse
from autopar.errors import SpecError, shorten
from autopar.ingest.plan.commands.containers import enclosure_of, of_image, seen_through
from autopar.ingest.plan.commands.expansion import Variables
from autopar.ingest.plan.commands.lexer import Lexer
from autopar.ingest.plan.commands.shell import Command, commands_of

_KUBERNETES = re.compile(r"(?:^|[{,])\s*\"?apiVersion\"?\s*:", re.MULTILINE)
_COMPOSE = re.compile(r"^services\s*:", re.MULTILINE)
_FIRST = re.compile(
    r"(?:\s*(?:#.*|---.*)?\n)*\s*(?:[\"\w.-]+\s*:|\{|-\s)"
)  # of YAML, not of a script
_MOST_PODS = 65_536
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][\w.-]*)\)", re.ASCII)

_Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Pods:
    """Pods that are alike but for what is set in each of them; configs: ConfigMaps by name."""

    spec: _Data
    label: str
    configs: Mapping[str, Mapping[str, str]]
    env: Mapping[str, str] = field(default_factory=dict)
    copies: int = 1

    def commands(self) -> Iterator[Command]:
        """Yield what their containers start."""
        for container in _listed(self.spec, "containers"):
            env: dict[str, str] = {}
            for row in _listed(container, "env"):
                value = row.get("value")
                if value is not None:
                    known = {**self.env, **env}
                    env[str(row.get("name"))] = _referred(str(value), known)
            env = {**self.env, **env}
            words = [
                _referred(str(word), env)
                for key in ("command", "args")
                for word in _words(container.get(key), self.label)
            ]
            if not container.get("command"):
                words = list(of_image(str(container.get("image", "")), words))
            if words:
                started = Command(
                    (), env, self._files(container), copies=self.copies, enclosure="pod"
                )
                yield from commands_of(words, started, self.label)

    def _files(self, container: _Data) -> dict[str, str]:
        """Return the files of ConfigMaps that a container sees, by their paths."""
        volumes = {
            volume.get("name"): self.configs.get(_at(volume, "configMap").get("name", ""), {})
            for volume in _listed(self.spec, "volumes")
        }
        return {
            f"{str(mount.get('mountPath', '')).rstrip('/')}/{name}": text
            for mount in _listed(container, "volumeMounts")
            for name, text in volumes.get(mount.get("name"), {}).items()
        }


def commands_of_manifests(text: str, label: str) -> list[Command] | None:
    """Return the commands of containers; None where a text is no manifest.

    Raises SpecError for YAML that cannot be read, and for more pods than any cluster has.
    """
    if _FIRST.match(text) is None:
        return None
    if _COMPOSE.search(text):
        return list(_of_compose(parse(text, f"{label}"), label))
    if not _KUBERNETES.search(text):
        return None
    documents = [
        parse(part, label)
        for part in re.split(r"^---.*$", text, flags=re.MULTILINE)
        if any(line.strip() and not line.lstrip().startswith("#") for line in part.splitlines())
    ]
    listed = [item for each in documents for item in (_listed(each, "items") or [each])]
    configs = {
        str(_at(each, "metadata").get("name")): {
            name: str(value) for name, value in _at(each, "data").items()
        }
        for each in listed
        if each.get("kind") == "ConfigMap"
    }
    pods = [pod for each in listed for pod in _pods(each, label, configs)]
    return [command for pod in pods for command in pod.commands()]


def _pods(document: _Data, label: str, configs: Mapping[str, Mapping[str, str]]) -> Iterator[_Pods]:
    """Yield the pods of one document."""
    spec = _at(document, "spec")
    if document.get("kind") == "LeaderWorkerSet":
        yield from _of_leaders(document, label, configs)
    elif document.get("kind") == "Pod":
        yield _Pods(spec, label, configs)
    else:
        while "jobTemplate" in spec:
            spec = _at(spec, "jobTemplate", "spec")
        copies = _count(spec, "replicas", label)
        if "template" in spec and copies:
            yield _Pods(_at(spec, "template", "spec"), label, configs, copies=copies)


def _of_leaders(
    document: _Data, label: str, configs: Mapping[str, Mapping[str, str]]
) -> Iterator[_Pods]:
    """Yield the pods of a LeaderWorkerSet: a group of a leader and its workers per replica."""
    spec = _at(document, "spec")
    template = _at(spec, "leaderWorkerTemplate")
    size, replicas = _count(template, "size", label), _count(spec, "replicas", label)
    if size * replicas > _MOST_PODS:
        raise SpecError(f"{label}: {size * replicas:,} pods, expected at most {_MOST_PODS:,}")
    worker = _at(template, "workerTemplate", "spec")
    leader = _at(template, "leaderTemplate", "spec") or worker
    name = _at(document, "metadata").get("name", "server")
    for group in range(replicas):
        for index in range(size):
            env = {
                "LWS_LEADER_ADDRESS": f"{name}-{group}",
                "LWS_GROUP_SIZE": str(size),
                "LWS_WORKER_INDEX": str(index),
            }
            yield _Pods(worker if index else leader, label, configs, env)


def _of_compose(document: _Data, label: str) -> Iterator[Command]:
    """Yield the commands of the services of a compose file."""
    for service in _at(document, "services").values():
        if not isinstance(service, dict):
            continue
        image = _interpolated(str(service.get("image", "")))
        entry = [_interpolated(w) for w in _words(service.get("entrypoint"), label)]
        words = [_interpolated(w) for w in _words(service.get("command"), label)]
        words = [*entry, *words] if entry else list(of_image(image, words))
        if not words:
            continue
        env = _environment(service.get("environment"))
        deploy = _at(service, "deploy")
        devices = _listed(_at(deploy, "resources", "reservations"), "devices")
        ids = [str(number) for row in devices for number in row.get("device_ids") or ()]
        copies = _count(deploy if "replicas" in deploy else service, "replicas", label)
        shown = ",".join(ids) if all(number.isdecimal() for number in ids) else ""
        enclosure = enclosure_of(str(service.get("network_mode", "")))
        started = Command((), seen_through(shown, env), copies=copies, enclosure=enclosure)
        yield from commands_of(words, started, label)


def _environment(given: Any) -> dict[str, str]:
    rows = given if isinstance(given, list) else []
    pairs = [str(row).partition("=")[::2] for row in rows if "=" in str(row)]
    if isinstance(given, dict):
        pairs = [(str(name), str(value)) for name, value in given.items() if value is not None]
    return {name: _interpolated(value) for name, value in pairs}


def _words(given: Any, label: str) -> list[str]:
    """Return the words of a command, which compose also takes as one text."""
    if isinstance(given, str):
        plain = given.replace("$$", "$").replace("\n", " ")
        return [word for each in Lexer(plain, label, Variables()).commands() for word in each.words]
    if given is None or isinstance(given, list):
        return ["" if word is None else str(word) for word in given or ()]
    raise SpecError(f"{label}: found the command {shorten(given)}, expected a list of words")


def _referred(text: str, env: Mapping[str, str]) -> str:
    """Return a text of Kubernetes with $(NAME) replaced where the name is known."""

    def value_of(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else env.get(match[1], match[0])

    return _REFERENCE.sub(value_of, text)


def _interpolated(text: str) -> str:
    """Return a text of compose with its defaults, ${NAME:-default}, in their places."""
    return Variables().filled(text, escape="$$")


def _at(data: Any, *keys: str) -> dict[str, Any]:
    """Return the mapping at a path; an empty one where there is none."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}


def _listed(data: _Data, key: str) -> list[dict[str, Any]]:
    found = data.get(key)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _count(data: _Data, key: str, label: str) -> int:
    found = data.get(key, 1)
    if type(found) is not int or not 0 <= found <= _MOST_PODS:
        raise SpecError(f"{label}: {key}: found {shorten(found)}, expected a whole number")
    return found
