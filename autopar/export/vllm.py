"""vLLM: `vllm serve`.

What maps to what, and where it was read: docs/engines/vllm.md.
"""

import json
from dataclasses import replace

from autopar.errors import InexpressibleError, SpecError
from autopar.export.cache_room import hand_over_notes
from autopar.export.capacity import Capacity
from autopar.export.experts import lies_in_runs, map_files, refuse_other_placement
from autopar.export.hosts import all_addresses, is_ipv6
from autopar.export.launch import Launch, Share, Written, devices, shares_of
from autopar.export.layout import Layout
from autopar.export.options import NAMES, Options
from autopar.export.ranks import Rank, vllm_ranks
from autopar.export.vllm_cache import vllm_cache_bytes

_NAME = NAMES["vllm"]
_RPC_PORT = 13345  # for data-parallel ranks to find each other
# NIXL hands caches over at this port plus the data-parallel rank (vLLM 0.33.0, envs.py and
# nixl/base_scheduler.py); servers that share a node have at most 8 ranks.
_SIDE_CHANNEL_PORT = 5600
_PORTS_APART = 32
_MASTER_PORT = 29500
# --max-num-batched-tokens of a server on the smallest GPUs (vLLM 0.33.0, engine/arg_utils.py:
# get_batch_defaults); it is 8,192 on H100 and 16,384 on B200.
_SMALLEST_DEFAULT_TOKENS = 2048


def launches(
    layout: Layout, options: Options, first: int
) -> tuple[list[Launch], list[Written], list[Rank], list[str]]:
    """Return commands, files, ranks and notes of one layout; first: number of its first server."""
    if layout.cp > 1:
        raise InexpressibleError(
            _NAME, [f"cp is {layout.cp}, and no flag cuts prompts and cache over GPUs of their own"]
        )
    commands: list[Launch] = []
    ranks: list[Rank] = []
    for replica in range(layout.replicas):
        mine = vllm_ranks(layout, replica)
        shares, wrong = placed(layout, mine)
        if wrong:
            raise InexpressibleError(_NAME, [wrong])
        server = first + replica
        commands += _of_server(layout, options, server, shares)
        ranks += [replace(rank, server=server) for rank in mine]
    files, notes = _permutation(layout, options)
    return commands, files, ranks, [*notes, *hand_over_notes(layout)]


def placed(layout: Layout, ranks: tuple[Rank, ...]) -> tuple[tuple[Share, ...], str]:
    """Return the nodes of a server, or why vLLM does not start one there."""
    shares, wrong = shares_of(ranks, layout.cluster.gpus_per_node)
    if len(shares) < 2:
        return shares, wrong
    ranks_of_group, on_node = layout.tp * layout.pp, len(shares[0].gpus)
    if ranks_of_group % on_node and on_node % ranks_of_group:
        return (), (
            f"a data-parallel rank has tp * pp = {ranks_of_group} GPUs and a node {on_node}: one "
            "must divide the other"
        )
    return shares, ""


def _of_server(
    layout: Layout, options: Options, server: int, shares: tuple[Share, ...]
) -> list[Launch]:
    http = options.port + options.offset(shares[0].gpus)
    common = [*_common(layout, options), "--port", str(http)]
    leader = options.host(shares[0].node)
    if is_ipv6(leader):  # it listens on IPv4 alone (0.33.0, launchers/launcher.py)
        common += ["--host", all_addresses(leader)]
    found = []
    for node_rank, share in enumerate(shares):
        nodes = _nodes(layout, options, shares, node_rank)
        env, host = devices(share), options.host(share.node)
        if layout.pp > 1:
            env["VLLM_PP_LAYER_PARTITION"] = ",".join(map(str, layout.split))
        if layout.role:  # where the other role asks for caches; "localhost" where it is not said
            env["VLLM_NIXL_SIDE_CHANNEL_HOST"] = host
            port = _SIDE_CHANNEL_PORT + _PORTS_APART * options.offset(share.gpus)
            env["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(port)
        argv = (*common, *nodes)
        found.append(
            Launch(server, layout.role, node_rank, share.node, host, share.gpus, argv, env, http)
        )
    return found


def _common(layout: Layout, options: Options) -> list[str]:
    """Return what the commands of all nodes of a server have in common."""
    capacity = layout.capacity
    argv = ["vllm", "serve", options.model_path]
    argv += ["--tensor-parallel-size", str(layout.tp)]
    argv += ["--pipeline-parallel-size", str(layout.pp)]
    if layout.attn_dp > 1:
        argv += ["--data-parallel-size", str(layout.attn_dp)]
    if layout.is_moe and layout.ep > 1:
        argv += ["--enable-expert-parallel"]
    argv += ["--max-model-len", str(capacity.request_tokens)]
    argv += ["--max-num-seqs", str(max(1, capacity.resident_sequences))]
    budget = _step_tokens(capacity)
    argv += ["--max-num-batched-tokens", str(budget)]
    if capacity.kv_bytes is not None:
        argv += ["--kv-cache-memory-bytes", str(vllm_cache_bytes(layout, budget))]
    if layout.llm.precisions.kv_cache.startswith("fp8"):
        argv += ["--kv-cache-dtype", "fp8"]
    if layout.role:
        role = {"prefill": "kv_producer", "decode": "kv_consumer"}[layout.role]
        transfer = {"kv_connector": "NixlConnector", "kv_role": role}
        argv += ["--kv-transfer-config", json.dumps(transfer)]
    return argv


def _step_tokens(capacity: Capacity) -> int:
    """Return --max-num-batched-tokens: what a step holds, and at least --max-num-seqs.

    Running sequences and their drafts take part of it. A server of decode computes a prompt again
    after a transfer that failed, or one of a sequence that had to make room: with no more than its
    own few tokens, in as many steps as the prompt has tokens. vLLM's smallest default is enough for
    that, and no more than what vLLM itself would have taken for a step's buffers.
    """
    resident = max(1, capacity.resident_sequences)
    if capacity.prompt_tokens:
        return max(capacity.prompt_tokens + capacity.running * capacity.queries, resident)
    longest = resident * capacity.request_tokens  # of which vLLM warns that no step holds more
    own = max(1, capacity.sequences) * capacity.queries
    return max(own, resident, min(_SMALLEST_DEFAULT_TOKENS, longest))


def _nodes(
    layout: Layout, options: Options, shares: tuple[Share, ...], node_rank: int
) -> list[str]:
    """Return what tells the nodes of a server apart; nothing where there is one."""
    if len(shares) == 1:
        return []
    ranks_of_group, on_node = layout.tp * layout.pp, len(shares[0].gpus)
    leader, offset = options.host(shares[0].node), options.offset(shares[0].gpus)
    if layout.attn_dp > 1 and is_ipv6(leader):
        raise SpecError(
            f"--hosts: {leader}: data-parallel ranks of vLLM on several nodes do not meet at an "
            "IPv6 address, to which the first binds a socket of IPv4 (0.33.0, config/parallel.py: "
            "_pick_stateless_dp_port); give names of hosts"
        )
    if (
        on_node % ranks_of_group == 0 and not options.in_pods
    ):  # whole data-parallel ranks on each node
        local = on_node // ranks_of_group
        argv = ["--data-parallel-size-local", str(local)]
        argv += ["--data-parallel-address", leader]
        argv += ["--data-parallel-rpc-port", str(_RPC_PORT + offset)]
        if node_rank:
            argv += ["--data-parallel-start-rank", str(local * node_rank), "--headless"]
        return argv
    argv = ["--nnodes", str(len(shares)), "--node-rank", str(node_rank)]
    argv += ["--master-addr", leader, "--master-port", str(_MASTER_PORT + offset)]
    if layout.attn_dp > 1:
        argv += ["--data-parallel-address", leader]
        argv += ["--data-parallel-rpc-port", str(_RPC_PORT + offset)]
    return [*argv, "--headless"] if node_rank else argv


def _permutation(layout: Layout, options: Options) -> tuple[list[Written], list[str]]:
    """Return the order of experts of the checkpoint that has the effect of a map.

    Raises InexpressibleError where a map is needed and nobody asked for that order.
    """
    num_experts = layout.llm.num_experts
    if layout.ep == 1 or all(lies_in_runs(m, num_experts) for m in layout.experts):
        return [], []
    if options.expert_map != "checkpoint":
        refuse_other_placement(
            layout,
            _NAME,
            "vLLM takes no map of experts, nor keeps one that its load balancer has found "
            "(--expert-map checkpoint writes the order in which a permuted checkpoint has the "
            "same effect)",
        )
    files, names = map_files(layout, "vllm", "json", always=False)
    listed = ", ".join(dict.fromkeys(name for name in names if name))
    return files, [
        (
            "vLLM takes no map of experts: the plan's placement needs a checkpoint whose experts "
            f"are in the order of {listed}; with the original one experts lie in runs, which is "
            "another plan; a router that picks groups of experts first is torn apart by an order "
            "that mixes groups"
        )
    ]
