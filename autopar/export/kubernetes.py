"""Kubernetes manifests: a LeaderWorkerSet per layout, one group of pods per server.

Fields and environment: kubernetes-sigs/lws v0.9.0 (commit 060ab4d), config/crd/bases and
docs/examples: LWS_LEADER_ADDRESS and LWS_WORKER_INDEX are in the environment of every pod, and
Kubernetes replaces $(NAME) in a command, of which $$(NAME) is the literal text.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from autopar.documents import dump_yaml
from autopar.errors import InexpressibleError, SpecError
from autopar.export.launch import Launch, Router, Written
from autopar.export.options import VERSIONS, Options
from autopar.export.router import PACKAGES, router_of

FOLDER = "/etc/autopar"  # where pods find the files of a ConfigMap
LEADER = "$(LWS_LEADER_ADDRESS)"
_INDEX = "$(LWS_WORKER_INDEX)"
# Flags whose values are the two above.
_OF_LWS = ("--node-rank", "--master-addr", "--dist-init-addr", "--data-parallel-address")
_MOST_CONFIG_BYTES = 1_000_000  # of a ConfigMap: 1 MiB, kubernetes.io/docs/concepts/configuration
_IMAGES = {"vllm": "vllm/vllm-openai:v", "sglang": "lmsysorg/sglang:v"}
# Of vllm-project/router, .buildkite/scripts/publish-release-images.sh.
_ROUTER_IMAGES = {"vllm": f"vllm/vllm-router:v{PACKAGES['vllm'].split()[1]}"}
_MOST_NAME = 50  # of the 63 of a label, for what LWS and pods append
_NAME = re.compile(r"[^a-z0-9-]+")


def placed_for_pods(options: Options, num_nodes: int) -> Options:
    """Return options with which commands fit into pods: the leader by its address in LWS."""
    return replace(options, hosts=(LEADER,) * num_nodes, folder=FOLDER, in_pods=True)


def manifests(
    launches: Sequence[Launch],
    files: Sequence[Written],
    options: Options,
    name: str,
    gpus_per_node: int,
) -> tuple[Written, list[str]]:
    """Return the manifests of all layouts as one file, and notes.

    Raises InexpressibleError if the servers of a layout differ in more than where they are.
    """
    documents: list[dict[str, Any]] = []
    notes = ["Kubernetes chooses the nodes; the order of ranks is the plan's, GPU ids are not kept"]
    router, beside, said = router_of(launches, options, partial(_address, launches, options, name))
    files, notes = [*files, *beside], [*notes, *said]
    config = _named(name) if files else ""
    if files:
        documents.append(_config_map(files, options, config))
    for role in dict.fromkeys(launch.role for launch in launches):
        mine = [launch for launch in launches if launch.role == role]
        own_name = _named(name, role)
        found, more = _set_of(mine, options, own_name, config, gpus_per_node)
        documents.append(found)
        notes += more
        if router is None and mine[0].port:
            documents.append(
                _service(_named(name, role, "http"), _leaders(own_name), mine[0].port, options)
            )
    if router is not None:
        documents += _front(router, options, name, config)
        notes.append(_of_router(options, name, router))
    text = "---\n".join(dump_yaml(document) for document in documents)
    return Written("lws.yaml", text), notes


def _named(text: str, *parts: str) -> str:
    """Return a name that Kubernetes takes (RFC 1123), with room for what LWS appends.

    parts: what follows, whole, so that long names still differ.
    """
    ending = "".join(f"-{part}" for part in parts if part)
    kept = _NAME.sub("-", text.lower()).strip("-") or "plan"
    kept = kept if kept[0].isalpha() else f"plan-{kept}"
    return kept[: _MOST_NAME - len(ending)].strip("-") + ending


def _address(launches: Sequence[Launch], options: Options, name: str, launch: Launch) -> str:
    """Return the name under which other pods reach the leader of a server.

    LWS numbers the groups of a set from 0 and gives a leader the name of its group, below the
    headless service of the set's name (pkg/utils/pod/pod_utils.go: AddLWSVariables).
    """
    groups = list(dict.fromkeys(other.server for other in launches if other.role == launch.role))
    own = _named(name, launch.role)
    namespace = f".{options.namespace}" if options.namespace else ""
    return f"{own}-{groups.index(launch.server)}.{own}{namespace}"


def _front(router: Router, options: Options, name: str, config: str) -> list[dict[str, Any]]:
    """Return a Deployment of the router of a pair, and the service that clients use."""
    own = _named(name, "router")
    labels = {"app": own}
    container: dict[str, Any] = {
        "name": "router",
        "image": options.router_image or _router_image(options),
        "command": [_escaped(word) for word in router.argv],
        "ports": [{"containerPort": router.port}],
        "readinessProbe": {"tcpSocket": {"port": router.port}, "periodSeconds": 10},
    }
    spec: dict[str, Any] = {"containers": [container]}
    if config:
        container["volumeMounts"] = [{"name": "files", "mountPath": FOLDER}]
        spec["volumes"] = [{"name": "files", "configMap": {"name": config}}]
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(own, options),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": dict(labels)},
            "template": {"metadata": {"labels": dict(labels)}, "spec": spec},
        },
    }
    return [deployment, _service(_named(name, "http"), labels, router.port, options)]


def _router_image(options: Options) -> str:
    return _ROUTER_IMAGES.get(options.engine) or _image(options)


def _of_router(options: Options, name: str, router: Router) -> str:
    given = options.router_image or _router_image(options)
    return (
        f"requests go to the service {_named(name, 'http')}, port {router.port}; the router runs "
        f"in {given}, which must hold {PACKAGES.get(options.engine, 'TensorRT-LLM')} "
        "(--router-image names another)"
    )


def _set_of(
    launches: list[Launch], options: Options, name: str, config: str, gpus_per_node: int
) -> tuple[dict[str, Any], list[str]]:
    servers: dict[int, list[Launch]] = {}
    for launch in launches:
        servers.setdefault(launch.server, []).append(launch)
    if len({len(server) for server in servers.values()}) > 1:
        raise InexpressibleError("a LeaderWorkerSet", ["servers have different numbers of nodes"])
    first, *others = servers.values()
    pods = [_pod(launch, options, config, gpus_per_node) for launch in first]
    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            if mine.argv != theirs.argv:
                raise InexpressibleError(
                    "a LeaderWorkerSet",
                    ["servers differ in their commands, and the pods of a set are alike"],
                )
    notes = []
    if any(len(launch.gpus) < gpus_per_node for launch in launches):
        notes.append(
            "pods take some of a node's GPUs: the device plugin chooses which, so that a plan "
            "whose servers share a node may be laid otherwise"
        )
    leader, *workers = pods
    if any(worker != workers[0] for worker in workers):
        raise InexpressibleError(
            "a LeaderWorkerSet",
            ["GPUs of its nodes are in different orders, and the pods of a set are alike"],
        )
    template: dict[str, Any] = {"size": len(first), "restartPolicy": "RecreateGroupOnPodRestart"}
    if workers:
        template["leaderTemplate"] = leader
        template["workerTemplate"] = workers[0]
    else:
        template["workerTemplate"] = leader
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": _metadata(name, options),
        "spec": {
            "replicas": len(servers),
            "startupPolicy": "LeaderCreated",
            "leaderWorkerTemplate": template,
        },
    }, notes


def _pod(launch: Launch, options: Options, config: str, gpus_per_node: int) -> dict[str, Any]:
    """Return the template of one pod."""
    env = {**launch.env}
    if launch.gpus == tuple(range(len(launch.gpus))) or len(launch.gpus) < gpus_per_node:
        env.pop("CUDA_VISIBLE_DEVICES", None)
    container: dict[str, Any] = {
        "name": options.engine,
        "image": _image(options),
        "command": _command(launch),
        "resources": {"limits": {"nvidia.com/gpu": str(len(launch.gpus))}},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108  of NCCL
    }
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if launch.node_rank == 0 and launch.port:
        port = launch.port
        container["ports"] = [{"containerPort": port}]
        container["readinessProbe"] = {"tcpSocket": {"port": port}, "periodSeconds": 10}
    if env:
        container["env"] = [_variable(key, text) for key, text in env.items()]
    if config:
        container["volumeMounts"].append({"name": "files", "mountPath": FOLDER})
        volumes.append({"name": "files", "configMap": {"name": config}})
    return {"spec": {"containers": [container], "volumes": volumes}}


def _with_index(launch: Launch) -> list[str]:
    """Return a command in which the number of a worker is that of its pod."""
    words = list(launch.argv)
    if launch.node_rank == 0:
        return words
    for place, word in enumerate(words[:-1]):
        if word == "--node-rank":
            words[place + 1] = _INDEX
    return words


def _variable(name: str, text: str) -> dict[str, Any]:
    """Return a variable of a container; one with the host's name has the pod's own address."""
    if text == LEADER:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    return {"name": name, "value": _escaped(text)}


def _escaped(text: str) -> str:
    """Return a text that Kubernetes hands on as it is."""
    return text.replace("$", "$$")


def _command(launch: Launch) -> list[str]:
    """Return a command in which nothing is replaced but what LWS gives: address and number."""
    words = _with_index(launch)
    return [
        word if before in _OF_LWS else _escaped(word)
        for before, word in zip(["", *words], words, strict=False)
    ]


def _image(options: Options) -> str:
    if options.image:
        return options.image
    if options.engine not in _IMAGES:
        raise SpecError(f"--to lws --with {options.engine}: no image is known; give --image")
    return _IMAGES[options.engine] + (options.version or VERSIONS[options.engine]).removeprefix("v")


def _metadata(name: str, options: Options) -> dict[str, str]:
    return {"name": name, **({"namespace": options.namespace} if options.namespace else {})}


def _leaders(name: str) -> dict[str, str]:
    """Return labels of the leaders of all groups of a set."""
    return {
        "leaderworkerset.sigs.k8s.io/name": name,
        "leaderworkerset.sigs.k8s.io/worker-index": "0",
    }


def _service(name: str, labels: dict[str, str], port: int, options: Options) -> dict[str, Any]:
    """Return a service in front of pods; not of a set's own name, of which LWS makes one."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, options),
        "spec": {
            "selector": labels,
            "ports": [{"name": "http", "port": port, "targetPort": port}],
        },
    }


def _config_map(files: Sequence[Written], options: Options, name: str) -> dict[str, Any]:
    size = sum(len(file.text.encode()) for file in files)
    if size > _MOST_CONFIG_BYTES:
        raise InexpressibleError(
            "a ConfigMap",
            [f"the files beside the commands have {size:,} bytes, and it holds 1 MiB"],
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(name, options),
        "data": {file.name: file.text for file in files},
    }
