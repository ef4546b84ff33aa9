"""`trtllm-serve` and its YAML: what they say about a plan: docs/engines/tensorrt-llm.md."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from autopar.documents import parse
from autopar.errors import SpecError, shorten
from autopar.ingest.plan.beside import Beside
from autopar.ingest.plan.flags import (
    NO_USE,
    NOT_HELD,
    Given,
    Known,
    counted,
    given_flags,
    known_flags,
    said_of,
    said_of_unknown,
    suggest_flag,
)
from autopar.ingest.plan.found import Found, Nodes, Place, expert_degrees
from autopar.ingest.plan.routers import FRONT
from autopar.specs import LLM

# Names of the command line -> those of the YAML, which have the last word.
ALIASES = {
    "--tp_size": "--tensor_parallel_size",
    "--pp_size": "--pipeline_parallel_size",
    "--cp_size": "--context_parallel_size",
    "--ep_size": "--moe_expert_parallel_size",
    "--cluster_size": "--moe_cluster_parallel_size",
    "--extra_llm_api_options": "--config",
}
_NUMBERS = (
    "tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size",
    "moe_expert_parallel_size", "moe_cluster_parallel_size", "max_batch_size", "max_num_tokens",
    "gpus_per_node",
)  # fmt: skip
_NO_USE = (
    "host", "port", "max_seq_len", "trust_remote_code", "cuda_graph_config",
    "enable_chunked_prefill", "backend", "log_level", "tokenizer", "print_iter_log",
    "served_model_name", "kv_cache_config.max_tokens", "cache_transceiver_config.backend",
    "disable_overlap_scheduler",
)  # fmt: skip
_TOLD = {
    "free_gpu_memory_fraction": "a share of memory, of which a plan knows nothing",
    "speculative_config": "the plan's workload says how many tokens are drafted",
    "kv_cache_dtype": "the plan's model says how the cache is stored; see its precisions",
    "enable_lm_head_tp_in_adp": "a plan cuts the head as attention",
    "quant_config": "the plan's model says how weights are stored; see its precisions",
    "kv_cache_config.dtype": "the plan's model says how the cache is stored; see its precisions",
    "kv_cache_config.free_gpu_memory_fraction": "a share of memory, of which a plan knows nothing",
    "kv_cache_config.host_cache_size": "a plan keeps the cache on GPUs",
    "kv_cache_config.max_attention_window": "the plan's model says how far attention reaches",
    "sparse_attention_config": "the plan's model says what attention reads",
    "scheduler_config.capacity_scheduler_policy": "how requests are let in; a plan counts those "
    "that run",
}
_REFUSED = {
    "dwdp_config": "experts are fetched, not kept; a plan keeps them",
}
_READ = (
    *_NUMBERS, "moe_tensor_parallel_size", "pp_partition", "enable_attention_dp", "server_role",
    "moe_config.load_balancer", "cp_config.cp_type",
)  # fmt: skip
# Subcommands whose words are no model: commands/serve.py.
_NO_SERVERS = ("disaggregated", "disaggregated_mpi_worker", "mm_embedding_serve")
_OF_OTHERS = {"backend", "dtype", "load_format", "revision", "tokenizer"}  # keys of other programs


def starts(words: Sequence[str]) -> int | None:
    """Return where the arguments of trtllm-serve begin; None if it is not among the words."""
    for place, word in enumerate(words):
        if word.rpartition("/")[2] == "trtllm-serve":
            following = "".join(words[place + 1 : place + 2])
            if following in _NO_SERVERS:
                return None
            return place + 1 + (following == "serve")
    return None


def given(words: Sequence[str], beside: Beside) -> Given:  # noqa: ARG001  as for every engine
    """Return the flags of one command; those of its YAML have other names."""
    return given_flags("trtllm", words, ALIASES)


def read(
    words: Sequence[str],
    env: Mapping[str, str],  # noqa: ARG001  as for every engine
    llm: LLM | None,
    beside: Beside,
) -> Found:
    """Return what one command and the file that it names say.

    Raises SpecError for values that are none, and for what no plan can hold.
    """
    flags = given(words, beside)
    options: dict[str, Any] = {
        flag[2:]: _value(flag, value) for flag, value in flags.values.items()
        if flag not in flags.unknown and flag != "--config"
    }  # fmt: skip
    address = flags.address("--host")
    if address:
        options.pop("host")
    named = flags.text("--config")
    notes: list[str] = []
    if named:
        data = beside.options(named)
        notes = _unknown_keys(data, named)
        options |= data
    found = of_options(options, llm, next(iter(flags.positional), ""))
    return replace(
        found,
        port=flags.port("--port", 8000),
        address=address,
        notes=(*found.notes, *said_of_unknown(flags), *notes),
    )


def config_in(text: str, label: str) -> dict[str, Any] | None:
    """Return the options in a text that is a YAML file of trtllm-serve; None if it is none.

    Raises SpecError for the file of its front, which names servers alone.
    """
    try:
        data = parse(text, label)
    except SpecError:
        return None
    _refuse_front(data, label)
    keys = known_flags("trtllm").keys - _OF_OTHERS
    return data if any(key in keys for key in data) else None


def _refuse_front(data: Mapping[str, Any], label: str) -> None:
    """Raise SpecError for the file of `trtllm-serve disaggregated`, which is no server's.

    Source: TensorRT-LLM 1.4, llmapi/disagg_utils.py.
    """
    if any(key in data for key in FRONT.values()):
        raise SpecError(
            f"{label}: the file of `trtllm-serve disaggregated`, which names servers and not how "
            "they are laid out; give a script with the commands of all of them, such as "
            "`trtllm-serve MODEL --server_role CONTEXT --config prefill.yaml` and `trtllm-serve "
            "MODEL --server_role GENERATION --config decode.yaml`, and the files of --config "
            "beside it (it may hold this file's command too)"
        )


def of_config(data: dict[str, Any], llm: LLM | None, label: str) -> Found:
    """Return what a YAML file alone says."""
    found = of_options(data, llm, "")
    return replace(found, notes=(*found.notes, *_unknown_keys(data, label)))


def of_options(options: Mapping[str, Any], llm: LLM | None, model: str) -> Found:
    """Return what options of one server say, in the names of the YAML.

    Raises SpecError for values that are none, and for what no plan can hold.
    """
    numbers = {key: _number(options, key) for key in _NUMBERS}
    size, pp = numbers["tensor_parallel_size"] or 1, numbers["pipeline_parallel_size"] or 1
    cp = numbers["context_parallel_size"] or 1
    if (numbers["moe_cluster_parallel_size"] or 1) > 1:
        raise SpecError("trtllm: moe_cluster_parallel_size: a plan has no clusters of experts")
    for key, why in _REFUSED.items():
        if options.get(key):
            raise SpecError(f"trtllm: {key}: {why}")
    grid = size * cp
    ep, etp = _experts(options, grid, numbers["moe_expert_parallel_size"])
    attention_dp = options.get("enable_attention_dp") is True and size > 1
    is_dense = llm is not None and not llm.is_moe
    if attention_dp and is_dense:
        raise SpecError(
            "trtllm: enable_attention_dp in a dense model: its feed-forwards are cut over all of "
            "tensor_parallel_size, and a plan cuts them as attention"
        )
    tp, attn_dp = (1, size) if attention_dp else (size, 1)
    own_ep, own_etp = expert_degrees(llm, ep, etp, tp)

    def place(rank: int) -> Place:
        stage, t = divmod(rank, grid)
        if cp > 1:
            return 0, stage, t % cp * tp + t // cp
        return 0, stage, (t if is_dense else t % ep * etp + t // ep)

    batch = numbers["max_batch_size"]
    return Found(
        "trtllm", model, _role(options), tp, cp, attn_dp, own_ep, own_etp, pp, place,
        split=_split(options, llm, pp),
        resident=None if batch is None else batch * pp,
        step_tokens=numbers["max_num_tokens"],
        shares_step=True,
        nodes=Nodes(rank=None, ranks=numbers["gpus_per_node"]),  # mpirun brings it to all nodes
        experts=_map(options),
        connector=_connector(options),
        notes=tuple(_told(options)),
    )  # fmt: skip


def default_split(num_layers: int, pp: int) -> tuple[int, ...]:
    """Return the split that TensorRT-LLM makes by itself: what is left over goes to the first.

    Source: TensorRT-LLM 1.2 to 1.4, tensorrt_llm/mapping.py: pp_layers.
    """
    base, rest = divmod(num_layers, pp)
    return tuple(base + (stage < rest) for stage in range(pp))


def _experts(options: Mapping[str, Any], grid: int, ep: int | None) -> tuple[int, int]:
    """Return ep and etp; the one that is not given follows, and without both there is no ep."""
    etp = _number(options, "moe_tensor_parallel_size")
    if ep is None and etp is None:
        return 1, grid
    given = {"moe_expert_parallel_size": ep, "moe_tensor_parallel_size": etp}
    for key, value in given.items():
        if value is not None and grid % value:
            raise SpecError(
                f"trtllm: {key} {value} does not divide {grid}, the GPUs of a stage; TensorRT-LLM "
                "refuses it"
            )
    ep = ep if ep is not None else grid // (etp or 1)
    etp = etp if etp is not None else grid // ep
    if ep * etp != grid:
        raise SpecError(
            f"trtllm: moe_expert_parallel_size {ep} * moe_tensor_parallel_size {etp} is not "
            f"{grid}, the GPUs of a stage; TensorRT-LLM refuses it"
        )
    return ep, etp


def _split(options: Mapping[str, Any], llm: LLM | None, pp: int) -> tuple[int, ...] | None:
    listed = options.get("pp_partition")
    if listed is None:
        return default_split(llm.num_layers, pp) if llm is not None and pp > 1 else None
    if (
        not isinstance(listed, list)
        or len(listed) != pp
        or not all(type(n) is int and n > 0 for n in listed)
    ):
        raise SpecError(f"trtllm: pp_partition: expected {pp} numbers of layers, one a stage")
    return tuple(listed) if pp > 1 else None


def _map(options: Mapping[str, Any]) -> str:
    moe = options.get("moe_config")
    found = moe.get("load_balancer") if isinstance(moe, dict) else None
    return json.dumps(found) if isinstance(found, dict) else str(found or "")


def _role(options: Mapping[str, Any]) -> str:
    role = str(options.get("server_role") or "").lower()
    return {"context": "prefill", "generation": "decode"}.get(role, "")


def _connector(options: Mapping[str, Any]) -> str:
    """Return the key with which a server is one of a pair and does not say which; else nothing."""
    key = "cache_transceiver_config"
    return key if options.get(key) is not None and not options.get("server_role") else ""


def _number(options: Mapping[str, Any], key: str) -> int | None:
    value = options.get(key)
    if value is None or (type(value) is int and value > 0):
        return value
    return counted(f"trtllm: {key}", value if isinstance(value, str) else repr(value))


def _value(flag: str, text: str) -> Any:
    """Return the value of a flag as YAML has it."""
    if known_flags("trtllm").flags.get(flag) == 0:
        return True
    return int(text) if text.isdigit() else text


def _told(options: Mapping[str, Any]) -> list[str]:
    """Return what keys beyond the degrees mean for a plan, those below others by their path."""
    known = known_flags("trtllm")
    values = dict(_paths(options, known.nested))
    rest = [
        path
        for path in values
        if path not in {*_READ, *_TOLD}
        and path.partition(".")[0] not in _TOLD
        and (_is_known(path, known) or f"--{path}" in known.flags)
        and path not in known.nested
    ]
    notes = [f"{key}: {what}" for key, what in _TOLD.items() if values.get(key, "auto") != "auto"]
    kind = str(values.get("cp_config.cp_type", "HELIX"))
    if kind.upper() != "HELIX" and values.get("context_parallel_size", 1) != 1:
        notes.append(
            f"cp_config.cp_type {kind[:60]}: a plan's cp cuts the cache too, as HELIX does"
        )
    return [
        *notes,
        *said_of(NOT_HELD, [path for path in rest if path not in _NO_USE]),
        *said_of(NO_USE, [path for path in rest if path in _NO_USE]),
    ]


def _paths(
    data: Mapping[str, Any], nested: Mapping[str, frozenset[str]], above: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield keys by their paths, with those below a key whose own keys are known."""
    for key, value in data.items():
        path = f"{above}{key}"
        yield path, value
        if path in nested and isinstance(value, dict):
            yield from _paths(value, nested, f"{path}.")


def _is_known(path: str, known: Known) -> bool:
    above, _, key = path.rpartition(".")
    return key in (known.nested.get(above, frozenset()) if above else known.keys)


def _unknown_keys(data: Mapping[str, Any], label: str) -> list[str]:
    known = known_flags("trtllm")
    return [
        f"unknown flag {shorten(path)} in {label}: no option of TensorRT-LLM that we know"
        f"{_near(path, known)}; it refuses unknown ones"
        for path, _ in _paths(data, known.nested)
        if not _is_known(path, known)
    ]


def _near(path: str, known: Known) -> str:
    above, _, key = path.rpartition(".")
    return suggest_flag(key, known.nested.get(above, frozenset()) if above else known.keys)
