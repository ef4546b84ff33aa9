"""TensorRT-LLM: `trtllm-serve` with a YAML file of options.

What maps to what, and where it was read: docs/engines/tensorrt-llm.md. Nothing of it was run: the
package has no part that runs without a GPU.
"""

from dataclasses import replace
from typing import Any

from autopar.documents import dump_yaml
from autopar.errors import InexpressibleError
from autopar.export.cache_room import cache_tokens, hand_over_notes, refuse_tokens_without_room
from autopar.export.experts import lies_in_runs, map_files
from autopar.export.hosts import all_addresses
from autopar.export.launch import Launch, Share, Written, devices, shares_of
from autopar.export.layout import Layout
from autopar.export.options import NAMES, Options
from autopar.export.ranks import Rank, trtllm_ranks

_NAME = NAMES["trtllm"]
# pull request 9003 of November 2025 in NVIDIA/TensorRT-LLM, after 1.1 had been branched off
PARTITION = (1, 2)
_CONFIG = (1, 2)  # pull request 9104 of the same month: another name of --extra_llm_api_options
_BLOCK_TOKENS = 64  # tokens_per_block is 32 by default, 64 for FlashMLA (llm_args.py)
# mapping.py: node_rank; llmapi/llm_args.py: world_size_per_node, which rounds the nodes up;
# executor/base_worker.py: a worker takes GPU rank % (GPUs that it is shown), on every node alike.
_NODES = (
    "TensorRT-LLM takes rank r to be on node r // gpus_per_node: all nodes have as many but the "
    "last, which may have fewer"
)
_NO_MPI_IN_PODS = (
    "a server of several nodes is started by mpirun, which has no way from pod to pod: write its "
    "commands and host file with --to trtllm, and run them as an MPIJob of kubeflow's mpi-operator"
)


def launches(
    layout: Layout, options: Options, first: int
) -> tuple[list[Launch], list[Written], list[Rank], list[str]]:
    """Return commands, files, ranks and notes of one layout; first: number of its first server."""
    reasons = [*_reasons(layout), *_of_version(layout, options)]
    if reasons:
        raise InexpressibleError(_NAME, reasons)
    refuse_tokens_without_room(
        layout, _least_tokens(layout), _NAME, "TensorRT-LLM would take no request of full length"
    )
    commands: list[Launch] = []
    ranks: list[Rank] = []
    always = options.expert_map == "always" and layout.attn_dp > 1
    files, names = map_files(layout, "tensorrt-llm", "yaml", always=always)
    configs: dict[str, str] = {}  # text -> name
    notes: list[str] = []
    for replica, map_name in enumerate(names):
        mine = trtllm_ranks(layout, replica)
        shares, wrong = placed(layout, mine)
        if wrong:
            raise InexpressibleError(_NAME, [wrong])
        text = dump_yaml(_config(layout, options, len(shares[0].gpus), map_name))
        number = "" if not configs else f"-{len(configs)}"
        role = f"{layout.role}-" if layout.role else ""
        config = configs.setdefault(text, f"{role}trtllm{number}.yaml")
        server = first + replica
        found, hosts, more = _of_server(layout, options, server, shares, config)
        commands.append(found)
        files += hosts
        notes += more
        ranks += [replace(rank, server=server) for rank in mine]
    files += [Written(name, text) for text, name in configs.items()]
    return commands, files, ranks, [*notes, *_notes(layout)]


def placed(layout: Layout, ranks: tuple[Rank, ...]) -> tuple[tuple[Share, ...], str]:
    """Return the nodes of a server, or why mpirun does not start one there."""
    shares, wrong = shares_of(ranks, layout.cluster.gpus_per_node, last_has_rest=_NODES)
    if any(share.gpus != shares[0].gpus[: len(share.gpus)] for share in shares):
        return (), "its nodes have GPUs in different orders, and mpirun gives one order to all"
    return shares, wrong


def _reasons(layout: Layout) -> list[str]:
    """Say what TensorRT-LLM has no words for, or what nobody has checked of it."""
    reasons = []
    if layout.cp > 1 and layout.ep > 1:
        reasons.append(
            f"cp is {layout.cp} and ep {layout.ep}: which rank holds which experts with HELIX was "
            "not found in its sources"
        )
    if layout.is_moe and layout.attn_dp > 1 and layout.tp * layout.cp > 1:
        reasons.append(
            f"tp is {layout.tp} and attn_dp {layout.attn_dp}: enable_attention_dp makes every GPU "
            "an attention group of its own"
        )
    in_runs = all(lies_in_runs(m, layout.llm.num_experts) for m in layout.experts)
    if not in_runs and layout.ep > 1 and layout.attn_dp == 1:
        reasons.append(
            "experts do not lie in runs, and without attention DP TensorRT-LLM passes over a map "
            "of experts without a word"
        )
    return reasons


def _of_version(layout: Layout, options: Options) -> list[str]:
    """Say that an older version has no word for a split of its own."""
    own = own_split(layout.llm.num_layers, layout.pp)
    if layout.split == own or options.at_least(*PARTITION):
        return []
    has, does = (", ".join(map(str, split)) for split in (layout.split, own))
    why = f"before 1.2 no option says so: {options.version} splits them {does}"
    return [f"layers are split {has}, and {why}"]


def own_split(num_layers: int, pp: int) -> tuple[int, ...]:
    """Return the split that TensorRT-LLM makes by itself: the first stages have one layer more.

    Source: TensorRT-LLM 1.2 to 1.4, tensorrt_llm/mapping.py: pp_layers.
    """
    return tuple(-(-(num_layers - stage) // pp) for stage in range(pp))


def _config(layout: Layout, options: Options, on_node: int, map_name: str) -> dict[str, Any]:
    """Return the options of one server; keys of TorchLlmArgs, which refuses unknown ones."""
    capacity = layout.capacity
    config: dict[str, Any] = {
        "tensor_parallel_size": layout.stage_gpus // layout.cp,
        "pipeline_parallel_size": layout.pp,
    }
    if layout.pp > 1 and options.at_least(*PARTITION):
        config["pp_partition"] = list(layout.split)
    if layout.cp > 1:
        config |= {"context_parallel_size": layout.cp, "cp_config": {"cp_type": "HELIX"}}
    if layout.is_moe:
        config["moe_expert_parallel_size"] = layout.ep
        config["moe_tensor_parallel_size"] = layout.etp
        config["enable_attention_dp"] = layout.attn_dp > 1
    config["gpus_per_node"] = on_node
    config["max_batch_size"] = max(1, capacity.sequences)
    if capacity.prompt_tokens:
        config["max_num_tokens"] = capacity.prompt_tokens + capacity.running * capacity.queries
        config["enable_chunked_prefill"] = layout.chunks > 1
    config["max_seq_len"] = capacity.context_tokens
    cache: dict[str, Any] = {}
    if capacity.kv_bytes is not None:
        cache["max_tokens"] = -(-cache_tokens(layout, _least_tokens(layout)) // layout.cp)
    if layout.llm.precisions.kv_cache.startswith("fp8"):
        cache["dtype"] = "fp8"
    if cache:
        config["kv_cache_config"] = cache
    if map_name:
        config["moe_config"] = {"load_balancer": options.file(map_name)}
    if layout.role:
        config["cache_transceiver_config"] = {"backend": "DEFAULT"}
    if layout.role == "prefill":
        # "Context only requests are not supported in pytorch backend when overlap is enabled": so
        # base_worker.py before pull request 12816 of April 2026, which is in no release that was
        # read; from then on the key takes overlap away, as it still does in NVIDIA's own examples.
        config["disable_overlap_scheduler"] = True
    return config


def _least_tokens(layout: Layout) -> int:
    """Return the tokens of the smallest cache that has a request of full length, and a block."""
    return (-(-layout.capacity.request_tokens // _BLOCK_TOKENS) + 1) * _BLOCK_TOKENS


def _of_server(
    layout: Layout, options: Options, server: int, shares: tuple[Share, ...], config: str
) -> tuple[Launch, list[Written], list[str]]:
    """Return the one command of a server, which mpirun brings to its other nodes, and its hosts."""
    flag = "--config" if options.at_least(*_CONFIG) else "--extra_llm_api_options"
    argv = ["trtllm-serve", "serve", options.model_path, flag, options.file(config)]
    first = shares[0]
    port = options.port + options.offset(first.gpus)
    argv += ["--host", all_addresses(options.host(first.node)), "--port", str(port)]
    if layout.role:
        argv += ["--server_role", {"prefill": "CONTEXT", "decode": "GENERATION"}[layout.role]]
    env = devices(first)
    hosts: list[Written] = []
    notes: list[str] = []
    if len(shares) > 1 and options.in_pods:
        raise InexpressibleError(
            _NAME,
            [_NO_MPI_IN_PODS],
        )
    if len(shares) > 1:
        count = sum(len(share.gpus) for share in shares)
        name = f"{layout.role}-" if layout.role else ""
        listed = "".join(f"{options.host(s.node)} slots={len(s.gpus)}\n" for s in shares)
        hosts = [Written(f"{name}hostfile-{server}.txt", listed)]
        run = ["mpirun", "-n", str(count), "--hostfile", options.file(hosts[0].name)]
        run += ["--map-by", "slot", "-x", "CUDA_VISIBLE_DEVICES", "trtllm-llmapi-launch"]
        argv = [*run, *argv]
        if len(shares[-1].gpus) < len(first.gpus):
            last = len(shares[-1].gpus)
            notes.append(
                f"the last node of server {server} has {last} ranks, which run on the first {last} "
                "of the GPUs that CUDA_VISIBLE_DEVICES shows: it must show as many on every node, "
                "as a worker takes GPU rank % (GPUs that it is shown)"
            )
    everything = tuple(gpu for share in shares for gpu in share.gpus)
    host = options.host(first.node)
    others = tuple(options.host(share.node) for share in shares[1:])
    launch = Launch(
        server, layout.role, 0, first.node, host, everything, tuple(argv), env, port, others
    )
    return launch, hosts, notes


def _notes(layout: Layout) -> list[str]:
    notes = []
    if layout.etp > 1 and layout.ep > 1:
        notes.append(
            "TensorRT-LLM counts expert ranks inside of the shards of an expert, the plan outside: "
            "its ranks are put on other GPUs of the stage, so that every GPU holds the experts of "
            "the plan"
        )
    return [*notes, *hand_over_notes(layout)]
