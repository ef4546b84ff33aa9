"""SGLang: `python -m sglang.launch_server`.

What maps to what, and where it was read: docs/engines/sglang.md.
"""

from dataclasses import replace

from autopar.errors import InexpressibleError
from autopar.export.cache_room import (
    cache_tokens,
    hand_over_factor,
    hand_over_notes,
    refuse_tokens_without_room,
)
from autopar.export.experts import map_files
from autopar.export.hosts import all_addresses, place
from autopar.export.launch import Launch, Share, Written, devices, shares_of
from autopar.export.layout import Layout
from autopar.export.options import NAMES, Options
from autopar.export.ranks import Rank, sglang_ranks
from autopar.export.router import BOOTSTRAP_FLAG
from autopar.export.static_memory import has_own_ratios, static_fraction

_NAME = NAMES["sglang"]
_DIST_PORT = 20000
# A server takes ports beside its own: +13, and +233 to +238 with attention DP (SGLang 0.5.23,
# server_args.py, PortArgs.init_new), so that neighbours of one node must be further apart.
# No multiple of 40 is one of these, or the difference of two.
_PORTS_APART = 40
_BOOTSTRAP_APART = 20  # from a prefill server's port to where decode servers ask it for caches
# A prompt must be 7 tokens shorter than context and cache, of which output has all but 2 (SGLang
# 0.5.23, managers/tp_worker.py: get_worker_info; managers/utils.py: validate_input_length).
_KEPT_FREE_TOKENS = 7
# The largest page of a backend on NVIDIA's GPUs (0.5.23, arg_groups/overrides.py: 1 by default, 64
# for MLA and TensorRT-LLM's kernels on Blackwell, 128 for FlashAttention 4).
_PAGE_TOKENS = 128
# The first version whose sources were read that has --attn-dp-size; it still takes the old pair.
_ATTN_DP = (0, 5, 22)
_PREFILL_MAX = (0, 5, 7)  # the same of --prefill-max-requests


def launches(
    layout: Layout, options: Options, first: int
) -> tuple[list[Launch], list[Written], list[Rank], list[str]]:
    """Return commands, files, ranks and notes of one layout; first: number of its first server."""
    commands: list[Launch] = []
    ranks: list[Rank] = []
    refuse_tokens_without_room(
        layout, _least_tokens(layout), _NAME, "SGLang would take no request of full length"
    )
    files, names = map_files(layout, "sglang", "json", always=options.expert_map == "always")
    for replica in range(layout.replicas):
        mine = sglang_ranks(layout, replica)
        shares, wrong = placed(layout, mine)
        if wrong:
            raise InexpressibleError(_NAME, [wrong])
        server = first + replica
        commands += _of_server(layout, options, server, shares, names[replica])
        ranks += [replace(rank, server=server) for rank in mine]
    return commands, files, ranks, _notes(layout, files)


def placed(layout: Layout, ranks: tuple[Rank, ...]) -> tuple[tuple[Share, ...], str]:
    """Return the nodes of a server, or why SGLang does not start one there."""
    shares, wrong = shares_of(ranks, layout.cluster.gpus_per_node)
    if shares and layout.pp % len(shares) and len(shares) % layout.pp:
        return (), (
            f"{layout.pp} stages on {len(shares)} nodes: one must divide the other, or SGLang "
            "leaves stages out without a word"
        )
    return shares, wrong


def _of_server(
    layout: Layout, options: Options, server: int, shares: tuple[Share, ...], map_name: str
) -> list[Launch]:
    offset = options.offset(shares[0].gpus)
    leader = options.host(shares[0].node)
    port = options.port + _PORTS_APART * offset
    # It would listen on 127.0.0.1, where no client is (SGLang 0.5.23, fields/serving.py).
    common = [*_common(layout, options), "--host", all_addresses(leader), "--port", str(port)]
    if layout.role == "prefill":
        common += [BOOTSTRAP_FLAG, str(port + _BOOTSTRAP_APART)]
    if map_name:
        common += ["--init-expert-location", options.file(map_name)]
    found = []
    for node_rank, share in enumerate(shares):
        argv = list(common)
        if len(shares) > 1:
            argv += ["--nnodes", str(len(shares)), "--node-rank", str(node_rank)]
            argv += ["--dist-init-addr", place(leader, _DIST_PORT + offset)]
        env = devices(share)
        if layout.pp > 1:
            env["SGLANG_PP_LAYER_PARTITION"] = ",".join(map(str, layout.split))
        host, words = options.host(share.node), tuple(argv)
        found.append(
            Launch(server, layout.role, node_rank, share.node, host, share.gpus, words, env, port)
        )
    return found


def _common(layout: Layout, options: Options) -> list[str]:
    """Return what the commands of all nodes of a server have in common."""
    capacity, tokens = layout.capacity, cache_tokens(layout, _least_tokens(layout))
    argv = ["python", "-m", "sglang.launch_server", "--model-path", options.model_path]
    argv += ["--tp-size", str(layout.stage_gpus), "--pp-size", str(layout.pp)]
    argv += _attention(layout, options)
    if layout.is_moe:
        argv += ["--ep-size", str(layout.ep)]
        if layout.stage_gpus > 1 and layout.tp * layout.cp == 1 and layout.llm.has_dense_layers:
            argv += ["--moe-dense-tp-size", "1"]
    argv += ["--context-length", str(_context_tokens(layout))]
    argv += _sequences(layout, options)
    if capacity.prompt_tokens:  # which SGLang divides by the attention's data parallel size
        argv += ["--chunked-prefill-size", str(capacity.prompt_tokens * layout.attn_dp)]
    if capacity.kv_bytes is not None:
        argv += ["--max-total-tokens", str(-(-tokens // layout.cp))]
    share = static_fraction(layout, tokens)
    if share is not None:
        argv += ["--mem-fraction-static", str(share)]
    if layout.llm.precisions.kv_cache.startswith("fp8"):
        argv += ["--kv-cache-dtype", "fp8_e4m3"]
    if layout.role:
        argv += ["--disaggregation-mode", layout.role]
    return argv


def _context_tokens(layout: Layout) -> int:
    """Return the tokens of a request, with those that SGLang keeps free, as far as the model goes.

    A prefill server too is sent the request with all of its output.
    """
    tokens, most = layout.capacity.context_tokens, layout.llm.max_context_tokens
    wished = tokens + _KEPT_FREE_TOKENS
    return wished if most is None else max(tokens, min(wished, most))


def _least_tokens(layout: Layout) -> int:
    """Return the tokens of the smallest cache with which a server takes a request of full length.

    What is kept free, one page, and what is lost to whole pages of prompt and cache; cut caches
    lose one page on each of their ranks (scheduler.py: init_req_max_new_tokens; allocator/base.py:
    max_new_tokens_for_memory; disaggregation/prefill.py: max_bootstrap_input_len).
    """
    pages = -(-layout.capacity.request_tokens // _PAGE_TOKENS) + 1 + layout.cp
    return pages * _PAGE_TOKENS


def _sequences(layout: Layout, options: Options) -> list[str]:
    """Return the most sequences at once, which SGLang divides among attention groups.

    A prompt keeps its place until its cache is sent (disaggregation/prefill.py: release_kv_cache);
    with room for others meanwhile, a step must be told to take no more of them than the plan does.
    """
    most = max(1, layout.capacity.resident_sequences) * layout.attn_dp
    if layout.role != "prefill" or not options.at_least(*_PREFILL_MAX):
        return ["--max-running-requests", str(most)]
    in_step = str(max(1, layout.capacity.sequences))
    held = str(hand_over_factor(layout) * most)
    return ["--max-running-requests", held, "--prefill-max-requests", in_step]


def _attention(layout: Layout, options: Options) -> list[str]:
    argv = []
    if layout.attn_dp > 1:
        size = str(layout.attn_dp)
        if options.at_least(*_ATTN_DP):
            argv += ["--attn-dp-size", size, "--enable-dp-lm-head"]
        else:
            argv += ["--dp-size", size, "--enable-dp-attention", "--enable-dp-lm-head"]
    if layout.cp > 1:
        argv += ["--attn-cp-size", str(layout.cp), "--enable-prefill-cp"]
        argv += ["--cp-strategy", "interleave"]
        if layout.role == "prefill":
            argv += ["--enable-kv-cache-sharding"]
    return argv


def _notes(layout: Layout, files: list[Written]) -> list[str]:
    notes = []
    if files:
        notes.append(
            "SGLang reads the map for models that say where their experts are; for Mixtral and "
            "Llama 4 it passes over the map without a word"
        )
    if layout.cp > 1 and layout.role != "prefill":
        notes.append(
            "outside of a prefill worker SGLang keeps the whole cache on every context rank; the "
            "plan counts a part"
        )
    if layout.attn_dp > 1 and static_fraction(layout, layout.capacity.kv_tokens) is None:
        notes.append(
            "no --mem-fraction-static is written, as the plan states no cache that fits; SGLang "
            "0.5.23 sets memory aside for --chunked-prefill-size before it divides it by attention "
            "data parallelism (memory_hook.py: handle_gpu_memory_settings), so that its own choice "
            "may leave no cache: add the share of weights and cache in a GPU's memory"
        )
    if layout.capacity.kv_bytes is not None and has_own_ratios(layout):
        notes.append(
            "SGLang divides memory between tokens and states or windows by ratios of its own "
            "(--mamba-full-memory-ratio, --swa-full-tokens-ratio), which no plan states: see in "
            "its log that max_total_tokens was not cut"
        )
    return [*notes, *hand_over_notes(layout)]
