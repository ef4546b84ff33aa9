"""`sglang.launch_server`: what its flags say about a plan. Sources: docs/engines/sglang.md."""

from collections.abc import Mapping, Sequence

from autopar.errors import SpecError
from autopar.ingest.plan.beside import Beside, with_config
from autopar.ingest.plan.flags import Given, given_flags, said_of_unknown, said_of_unread
from autopar.ingest.plan.found import (
    ONE_COPY,
    Bearing,
    Found,
    Nodes,
    Place,
    expert_degrees,
    partition,
    shared_out,
)
from autopar.specs import LLM
from autopar.specs.base import MAX_GPUS

ALIASES = {
    "--tensor-parallel-size": "--tp-size",
    "--tp": "--tp-size",
    "--pipeline-parallel-size": "--pp-size",
    "--pp": "--pp-size",
    "--data-parallel-size": "--dp-size",
    "--dp": "--dp-size",
    "--expert-parallel-size": "--ep-size",
    "--ep": "--ep-size",
    "--attention-data-parallel-size": "--attn-dp-size",
    "--attention-context-parallel-size": "--attn-cp-size",
    "--model": "--model-path",
    "--nccl-init-addr": "--dist-init-addr",
}
BEARING = Bearing(
    refused={
        "--dcp-size": "shares the tensor ranks, and a plan's cp has GPUs of its own",
        "--decode-context-parallel-size": "shares the tensor ranks, and a plan's cp has GPUs of "
        "its own",
        "--moe-dp-size": "copies of experts inside of a stage; a plan has one grid of them",
        "--moe-data-parallel-size": "copies of experts inside of a stage; a plan has one grid",
        "--dwdp-size": "experts are fetched, not kept; a plan keeps them",
    },
    counts={"--ep-num-redundant-experts": ONE_COPY},
    told={
        "--enable-eplb": "experts move while the engine runs; a plan places them once",
        "--kv-cache-dtype": "the plan's model says how the cache is stored; see its precisions",
        "--quantization": "the plan's model says how weights are stored; see its precisions",
        "--speculative-algorithm": "the plan's workload says how many tokens are drafted",
        "--mem-fraction-static": "a share of memory, of which a plan knows nothing",
        "--enable-two-batch-overlap": "costs of the plan overlap only with "
        "engine.two_batch_overlap",
        "--enable-mixed-chunk": "prompts ride on running sequences; the engine sglang of the "
        "catalogue computes them first",
        "--cpu-offload-gb": "a plan keeps all weights on GPUs",
    },
)
_FORCE_EP = (  # with these all-to-all backends SGLang takes ep = tp, whatever was asked for
    "deepep", "deepep_v2", "mooncake", "nixl", "flashinfer", "flashinfer_megamoe", "mori", "pplx",
    "megamoe", "ascend_fuseep",
)  # fmt: skip
_GROUPS = "attention groups"
OTHERWISE = "the plan cuts"  # how notes begin on what SGLang does otherwise than every plan of it
# Without bearing on a layout, or how SGLang is told to cut as every plan of it is cut.
_NO_USE = (
    "--context-length", "--port", "--host", "--max-total-tokens", "--served-model-name",
    "--trust-remote-code", "--enable-dp-lm-head", "--moe-dense-tp-size", "--enable-prefill-cp",
    "--cp-strategy", "--enable-kv-cache-sharding", "--disaggregation-bootstrap-port",
    "--disaggregation-transfer-backend", "--disaggregation-ib-device",
)  # fmt: skip


def starts(words: Sequence[str]) -> int | None:
    """Return where the arguments of the server begin; None if it is not among the words."""
    for place, word in enumerate(words):
        if word == "sglang.launch_server":
            return place + 1
        if word.rpartition("/")[2] == "sglang" and "serve" in words[place + 1 : place + 2]:
            return place + 2
    return None


def given(words: Sequence[str], beside: Beside) -> Given:
    """Return the flags of one command, with those of the file of its --config.

    Raises SpecError if that file cannot be read.
    """
    return given_flags("sglang", with_config("sglang", words, beside), ALIASES)


def read(words: Sequence[str], env: Mapping[str, str], llm: LLM | None, beside: Beside) -> Found:
    """Return what one command says.

    Raises SpecError for values that are none, and for what no plan can hold.
    """
    flags = given(words, beside)
    size, pp = flags.number("--tp-size"), flags.number("--pp-size")
    cp = flags.number("--attn-cp-size")
    attn_dp, replicas = _data_parallel(flags)
    if size % (attn_dp * cp):
        raise SpecError(
            f"sglang: --tp-size {size} does not divide by --attn-dp-size {attn_dp} * "
            f"--attn-cp-size {cp}; SGLang refuses it"
        )
    tp = size // (attn_dp * cp)
    ep, forced = _expert_parallel(flags, size)
    if size % ep:
        raise SpecError(
            f"sglang: --tp-size {size} does not divide by --ep-size {ep}; SGLang takes it and then "
            "computes with wrong shards of experts"
        )
    ep, etp = expert_degrees(llm, ep, size // ep, tp)
    is_dense = llm is not None and not llm.is_moe
    if is_dense and attn_dp > 1:
        raise SpecError(
            f"sglang: --attn-dp-size {attn_dp} in a dense model: its feed-forwards are cut over "
            "all of --tp-size, and a plan cuts them as attention"
        )

    def place(rank: int) -> Place:
        copy, rest = divmod(rank, size * pp)
        return (copy, *divmod(rest, size))

    nodes = flags.number("--nnodes")
    running, rounded = _of_group("--max-running-requests", flags, attn_dp)
    chunk, rounded_too = _of_group("--chunked-prefill-size", flags, attn_dp)
    mode = flags.text("--disaggregation-mode")
    if mode == "prefill" and running is not None:  # the others wait until their cache is sent
        running = min(running, pp * (flags.optional("--prefill-max-requests") or running))
    return Found(
        "sglang", flags.text("--model-path"), mode if mode in ("prefill", "decode") else "",
        tp, cp, attn_dp, ep, etp, pp, place,
        replicas=replicas,
        split=_split(env, llm, pp),
        resident=running,
        step_tokens=chunk,
        experts=_map(flags),
        nodes=Nodes(flags.text("--dist-init-addr"), nodes, flags.index("--node-rank", nodes)),
        base=flags.index("--base-gpu-id", MAX_GPUS) or 0,
        step=flags.number("--gpu-id-step"),
        port=flags.port("--port", 30000),
        address=flags.address("--host"),
        notes=(
            *forced, *rounded, *rounded_too, *_told(flags),
            *_counted_otherwise(flags, llm, tp, attn_dp, size), *said_of_unknown(flags),
            *said_of_unread(flags, _NO_USE),
        ),
    )  # fmt: skip


def _split(env: Mapping[str, str], llm: LLM | None, pp: int) -> tuple[int, ...] | None:
    """Return the layers of each stage; None for one stage, or where the model is not known."""
    name = "SGLANG_PP_LAYER_PARTITION"
    split = partition(env.get(name, ""), pp, name)
    if split is None and llm is not None and pp > 1:
        split = default_split(llm.num_layers, pp)
    return split if pp > 1 else None


def default_split(num_layers: int, pp: int) -> tuple[int, ...]:
    """Return the split that SGLang makes by itself: what is left over goes to the last stages.

    Source: SGLang 0.5.23, distributed/utils.py: get_pp_indices.
    """
    base, rest = divmod(num_layers, pp)
    return tuple(base + (stage >= pp - rest) for stage in range(pp))


def _data_parallel(given: Given) -> tuple[int, int]:
    """Return the attention's data parallel size, and copies of the model."""
    new, old = given.number("--attn-dp-size"), given.number("--dp-size")
    if given.has("--enable-dp-attention"):  # --dp-size meant attention, before 0.5.23
        return max(new, old), 1
    if new > 1 and old > 1:
        raise SpecError(f"sglang: --attn-dp-size {new} with --dp-size {old}; SGLang refuses it")
    return new, old


def _expert_parallel(given: Given, size: int) -> tuple[int, list[str]]:
    backend = given.text("--moe-a2a-backend")
    asked = given.number("--ep-size")
    if backend in _FORCE_EP and asked != size:
        return size, [
            f"--moe-a2a-backend {backend}: SGLang takes --ep-size {size}, all of --tp-size; {asked}"
        ]
    return asked, []


def _told(given: Given) -> list[str]:
    """Return what a plan does not hold; a share of memory matters only where no size is given."""
    sized = given.has("--max-total-tokens")
    return [n for n in BEARING.of(given) if not (sized and n.startswith("--mem-fraction-static"))]


def _counted_otherwise(
    given: Given, llm: LLM | None, tp: int, attn_dp: int, size: int
) -> list[str]:
    """Return where SGLang cuts what every plan cuts over the tensor ranks of an attention group.

    tp: of them; size: --tp-size, all ranks of a stage. Sources: docs/model.md, "Memory of a
    stage"; SGLang 0.5.23, server_args.py, help of --moe-dense-tp-size and --enable-dp-lm-head.
    """
    notes = []
    if llm is not None and llm.is_moe and llm.has_dense_layers:
        cut = given.number("--moe-dense-tp-size") if given.has("--moe-dense-tp-size") else size
        if cut != tp:
            notes.append(
                f"{OTHERWISE} dense layers over {tp}, the tensor ranks of an attention group; "
                f"SGLang cuts them over {cut} (--moe-dense-tp-size): memory and time of dense "
                "layers differ"
            )
    if attn_dp > 1 and not given.has("--enable-dp-lm-head"):
        notes.append(
            f"{OTHERWISE} the head over {tp}, the tensor ranks of an attention group; SGLang cuts "
            f"it over all {size} ranks without --enable-dp-lm-head: its memory and time differ"
        )
    return notes


def _of_group(flag: str, given: Given, attn_dp: int) -> tuple[int | None, list[str]]:
    """Return what an attention group gets of a number of all, and a note if that is rounded.

    None where the flag is absent, or says that prompts are not cut.
    """
    if (flag, given.text(flag)) == ("--chunked-prefill-size", "-1"):
        return None, []
    number = given.optional(flag)
    return (None, []) if number is None else shared_out(flag, number, attn_dp, _GROUPS)


def _map(given: Given) -> str:
    text = given.text("--init-expert-location")
    return "" if text == "trivial" else text
