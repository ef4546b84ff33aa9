"""`vllm serve`: what its flags say about a plan. Sources: docs/engines/vllm.md."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from autopar.errors import SpecError, shorten
from autopar.ingest.plan.beside import Beside, count_of, with_config, without_dots
from autopar.ingest.plan.flags import Given, given_flags, said_of_unknown, said_of_unread, unset_in
from autopar.ingest.plan.found import (
    ONE_COPY,
    Bearing,
    Found,
    Nodes,
    Place,
    expert_degrees,
    partition,
)
from autopar.specs import LLM

ALIASES = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-dpl": "--data-parallel-size-local",
    "-dpa": "--data-parallel-address",
    "-dpp": "--data-parallel-rpc-port",
    "-dpr": "--data-parallel-start-rank",
    "-dpn": "--data-parallel-rank",
    "-ep": "--enable-expert-parallel",
    "-dcp": "--decode-context-parallel-size",
    "-pcp": "--prefill-context-parallel-size",
    "-q": "--quantization",
    "-n": "--nnodes",
    "-r": "--node-rank",
}
BEARING = Bearing(
    refused={
        "--prefill-context-parallel-size": "the cache stays whole on every rank, and a plan's cp "
        "cuts it",
        "--decode-context-parallel-size": "shares the tensor ranks, and a plan's cp has GPUs of "
        "its own",
    },
    told={
        "--eplb-config": "how experts move while the engine runs; a plan places them once",
        "--enable-eplb": "experts move while the engine runs; a plan places them once",
        "--expert-placement-strategy": "a plan's default is linear; round_robin deals experts in "
        "turn",
        "--kv-cache-dtype": "the plan's model says how the cache is stored; see its precisions",
        "--quantization": "the plan's model says how weights are stored; see its precisions",
        "--speculative-config": "the plan's workload says how many tokens are drafted",
        "--gpu-memory-utilization": "a share of memory, of which a plan knows nothing",
        "--all2all-backend": "costs of the plan are those of its cost model",
        "--enable-dbo": "costs of the plan are those of its cost model",
        "--cpu-offload-gb": "a plan keeps all weights on GPUs",
        "--device-ids": "picks GPUs and is not read; --ranks says which GPU each rank is",
    },
)  # fmt: skip
# kv_role -> the role in a plan: config/kv_transfer.py, KVRole.
_KV_ROLES = {"kv_producer": "prefill", "kv_consumer": "decode", "kv_both": ""}
# Connectors that bring a cache from one server to another, of those in
# distributed/kv_transfer/kv_connector/factory.py; P2pNcclConnector is one of older versions.
_HANDS_OVER = (
    "NixlConnector", "NixlPullConnector", "NixlPushConnector", "MooncakeConnector",
    "MoRIIOConnector", "P2pNcclConnector",
)  # fmt: skip
_LEVELS = ("0", "1", "2", "3")  # of -O
# Without bearing on a layout, or read for nodes where there are several.
_NO_USE = (
    "--max-model-len", "--port", "--host", "--kv-cache-memory-bytes", "--master-addr",
    "--master-port", "--data-parallel-rpc-port", "--served-model-name", "--trust-remote-code",
    "--headless", "--distributed-executor-backend", "--data-parallel-backend",
    "--data-parallel-hybrid-lb",
)  # fmt: skip


def starts(words: Sequence[str]) -> int | None:
    """Return where the arguments of `vllm serve` begin; None if it is not among the words."""
    for place, word in enumerate(words[:-1]):
        if word.rpartition("/")[2] == "vllm" and words[place + 1] == "serve":
            return place + 2
        if word == "vllm.entrypoints.openai.api_server":
            return place + 1
    return None


def given(words: Sequence[str], beside: Beside) -> Given:
    """Return the flags of one command, with those of the file of its --config.

    Raises SpecError if that file cannot be read.
    """
    words = without_dots(_levels(with_config("vllm", words, beside)))
    found = given_flags("vllm", words, ALIASES)
    budget = "--max-num-batched-tokens"
    if budget in found.values:
        found.values[budget] = count_of(found.values[budget])
    return found


def read(words: Sequence[str], env: Mapping[str, str], llm: LLM | None, beside: Beside) -> Found:
    """Return what one command says.

    Raises SpecError for values that are none, and for what no plan can hold.
    """
    flags = given(words, beside)
    _refuse_redundant(flags)
    tp, pp = flags.number("--tensor-parallel-size"), flags.number("--pipeline-parallel-size")
    dp = flags.number("--data-parallel-size")
    is_parallel = flags.has("--enable-expert-parallel")
    is_dense = llm is not None and not llm.is_moe
    attn_dp, replicas = (1, dp) if is_dense else (dp, 1)
    ep, etp = (tp * attn_dp, 1) if is_parallel else (1, tp * attn_dp)
    ep, etp = expert_degrees(llm, ep, etp, tp)

    def place(rank: int) -> Place:
        rest, t = divmod(rank, tp)
        group, stage = divmod(rest, pp)
        return (group, stage, t) if is_dense else (0, stage, group * tp + t)

    named = flags.text("--model") or next(iter(flags.positional), "")
    model = words[0] if words and not words[0].startswith("-") else named
    split = partition(env.get("VLLM_PP_LAYER_PARTITION", ""), pp, "VLLM_PP_LAYER_PARTITION")
    if split is None and llm is not None and pp > 1:
        split = default_split(llm.num_layers, pp)
    role, connector, handed = _transfer(flags)
    return Found(
        "vllm", model, role, tp, 1, attn_dp, ep, etp, pp, place,
        replicas=replicas,
        split=split,
        resident=flags.optional("--max-num-seqs"),
        step_tokens=flags.optional("--max-num-batched-tokens"),
        shares_step=True,
        nodes=_nodes(flags, dp, tp * pp),
        port=flags.port("--port", 8000),
        address=flags.address("--host"),
        connector=connector,
        notes=(
            *BEARING.of(flags), *handed, *said_of_unknown(flags), *said_of_unread(flags, _NO_USE),
        ),
    )  # fmt: skip


def default_split(num_layers: int, pp: int) -> tuple[int, ...]:
    """Return the split that vLLM makes by itself: what is left over goes before the last stage.

    Source: vLLM 0.33.0, distributed/utils.py: get_pp_indices.
    """
    split = [num_layers // pp] * pp
    for stage in range(2, num_layers % pp + 2):
        split[-stage] += 1
    return tuple(split)


def _nodes(given: Given, dp: int, group: int) -> Nodes:
    """Return the nodes of a server, and which of them this command starts.

    group: GPUs of a data-parallel rank. With ray one command starts all nodes.
    """
    local = given.optional("--data-parallel-size-local")
    address, port = given.text("--data-parallel-address"), given.text("--data-parallel-rpc-port")
    start = given.text("--data-parallel-start-rank", "0")
    if given.optional("--nnodes") not in (None, 1):
        count = given.number("--nnodes")
        server = f"{given.text('--master-addr')}:{given.text('--master-port')}"
        return Nodes(server, count, given.index("--node-rank", count))
    if given.text("--data-parallel-rank") and dp > 1:  # a command for every data-parallel rank
        rank = given.index("--data-parallel-rank", dp)
        return Nodes(f"{address}:{port}", dp, rank, ranks=group, are_machines=False)
    if local is not None and local < dp:
        if not unset_in(start) and (not start.isdecimal() or int(start[:10]) % local):
            raise SpecError(
                f"vllm: --data-parallel-start-rank: found {shorten(start)}, expected a multiple of "
                f"--data-parallel-size-local {local}"
            )
        has_start = "--data-parallel-start-rank" in given.values
        is_all = given.text("--data-parallel-backend") == "ray" and not has_start
        given_rank = None if unset_in(start) or is_all else int(start) // local
        return Nodes(f"{address}:{port}", -(-dp // local), given_rank, ranks=local * group)
    if "ray" in (
        given.text("--distributed-executor-backend"),
        given.text("--data-parallel-backend"),
    ):
        return Nodes(rank=None)
    return Nodes()


def _transfer(given: Given) -> tuple[str, str, list[str]]:
    """Return the role of a server, or the connector of one that has either, and notes.

    Raises SpecError for a role that vLLM does not have.
    """
    config = _json(given, "--kv-transfer-config")
    asked = config.get("kv_role", "")
    if asked not in ("", *_KV_ROLES):
        raise SpecError(
            f"vllm: --kv-transfer-config: kv_role: found {shorten(asked)}, expected one of "
            f"{', '.join(_KV_ROLES)}"
        )
    names = _connectors(config)
    hands_over = next((name for name in names if name in _HANDS_OVER), "")
    role = _KV_ROLES.get(asked, "")
    beside = [name for name in names if name not in _HANDS_OVER and not role]
    notes = [
        f"--kv-transfer-config {shorten(name)}: keeps or fetches caches beside the GPUs, and a "
        "plan holds nothing of it"
        for name in beside
    ]
    return role, hands_over if asked == "kv_both" else "", notes


def _connectors(config: Mapping[str, Any]) -> list[str]:
    """Return the names of connectors; those of a MultiConnector are below it."""
    extra = config.get("kv_connector_extra_config")
    inner = extra.get("connectors") if isinstance(extra, dict) else None
    name = str(config.get("kv_connector") or "")
    if name != "MultiConnector" or not isinstance(inner, list):
        return [name] * bool(name)
    return [str(each.get("kv_connector")) for each in inner if isinstance(each, dict)]


def _refuse_redundant(given: Given) -> None:
    """Raise SpecError for further copies of experts, which take memory."""
    number = _json(given, "--eplb-config").get("num_redundant_experts", 0)
    if number != 0:
        raise SpecError(f"vllm: --eplb-config: num_redundant_experts {shorten(number)}: {ONE_COPY}")


def _json(given: Given, flag: str) -> dict[str, Any]:
    """Return the object that is the value of a flag; an empty one where it is absent.

    Raises SpecError if it is none.
    """
    text = given.text(flag)
    try:
        data = json.loads(text or "{}")
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise SpecError(f"vllm: {flag}: found {shorten(text)}, expected a JSON object")
    return data


def _levels(words: Sequence[str]) -> list[str]:
    """Return words in which -O3, -O=3 and -O 3 are --optimization-level 3.

    Source: vLLM 0.33.0, utils/argparse_utils.py, parse_args. It refuses -O.level and -O '{...}' of
    older versions.
    """
    found: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == "-O" and following in _LEVELS:
            found.append("--optimization-level")
        elif word.startswith("-O") and word[2:].removeprefix("=") in _LEVELS:
            found += ["--optimization-level", word[2:].removeprefix("=")]
        else:
            found.append(word)
    return found
