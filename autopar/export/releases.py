"""Commands for the release that an export is asked for, whose flags may be fewer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autopar.errors import SpecError
from autopar.export.launch import Launch
from autopar.export.options import NAMES, VERSIONS, Engine, Options, version_of

# The first release that was read and has a flag; the one before it that was read has not. Read:
# engine/arg_utils.py and entrypoints/ in the wheels of vLLM 0.7.0, 0.7.3, 0.8.0, 0.8.2 to 0.8.5,
# 0.9.0, 0.10.0 to 0.10.2, 0.11.0 to 0.11.2, 0.12.0 and 0.33.0; srt/server_args.py and
# srt/arg_groups/ in those of SGLang 0.4.1 to 0.4.10 (no posts), 0.5.1 to 0.5.10, 0.5.12, 0.5.14,
# 0.5.16, 0.5.18 and 0.5.20 to 0.5.23.
FIRST_RELEASES: dict[Engine, dict[str, str]] = {
    "vllm": {
        "--data-parallel-address": "0.9.0",
        "--data-parallel-rpc-port": "0.9.0",
        "--data-parallel-size": "0.8.3",
        "--data-parallel-size-local": "0.9.0",
        "--data-parallel-start-rank": "0.9.0",
        "--enable-expert-parallel": "0.8.0",
        "--headless": "0.9.0",
        "--kv-cache-dtype": "0.7.0",
        "--kv-cache-memory-bytes": "0.10.2",
        "--kv-transfer-config": "0.7.0",
        "--master-addr": "0.11.1",
        "--master-port": "0.11.1",
        "--max-model-len": "0.7.0",
        "--max-num-batched-tokens": "0.7.0",
        "--max-num-seqs": "0.7.0",
        "--nnodes": "0.11.1",
        "--node-rank": "0.11.1",
        "--pipeline-parallel-size": "0.7.0",
        "--port": "0.7.0",
        "--tensor-parallel-size": "0.7.0",
    },
    "sglang": {
        "--attn-cp-size": "0.5.9",
        "--attn-dp-size": "0.5.22",
        "--chunked-prefill-size": "0.4.1",
        "--context-length": "0.4.1",
        "--cp-strategy": "0.5.14",
        "--disaggregation-bootstrap-port": "0.4.5",
        "--disaggregation-mode": "0.4.5",
        "--dist-init-addr": "0.4.1",
        "--dp-size": "0.4.1",
        "--enable-dp-attention": "0.4.1",
        "--enable-dp-lm-head": "0.4.7",
        "--enable-kv-cache-sharding": "0.5.22",
        "--enable-prefill-cp": "0.5.14",
        "--ep-size": "0.4.1",
        "--host": "0.4.1",
        "--init-expert-location": "0.4.7",
        "--kv-cache-dtype": "0.4.1",
        "--max-running-requests": "0.4.1",
        "--max-total-tokens": "0.4.1",
        "--mem-fraction-static": "0.4.1",
        "--model-path": "0.4.1",
        "--moe-dense-tp-size": "0.4.6",
        "--nnodes": "0.4.1",
        "--node-rank": "0.4.1",
        "--port": "0.4.1",
        "--pp-size": "0.4.7",
        "--prefill-max-requests": "0.5.7",
        "--tp-size": "0.4.1",
    },
}


# Flags that younger releases alone have and commands can do without, and what is other then.
_LEFT_OUT = {
    "--kv-cache-memory-bytes": "vLLM then sizes the cache by --gpu-memory-utilization: see in its "
    "log that it holds what the plan keeps",
    "--enable-dp-lm-head": "the head is then cut over all ranks of attention",
}
_AS_WITHOUT = {"--pp-size": "1"}  # values with which a flag says what holds without it
# vLLM: "NixlConnector got released in 0.9.0" (ai-dynamo/dynamo, pull request 1345).
_PAIRS_OF_VLLM = (0, 9)
# trtllm-serve started TensorRT engines by default until then, which read other options (pull
# requests 5312 and 5717 of NVIDIA/TensorRT-LLM, after 0.21 was branched off; issue 8223).
_PYTORCH_OF_TRTLLM = (1, 0)


def of_release(options: Options, launches: Sequence[Launch]) -> tuple[list[Launch], list[str]]:
    """Return commands for the version that is asked for, and what is not sure of them.

    Raises SpecError where it lacks what the commands cannot do without.
    """
    read, version = VERSIONS[options.engine], options.version
    asked, known = version_of(version), version_of(read)
    if asked == known:
        return list(launches), []
    name = NAMES[options.engine]
    checked = f"flags were checked against {name} {read} alone; {version} is"
    if asked > known:
        return list(launches), [f"{checked} newer and may have renamed or dropped some"]
    since = FIRST_RELEASES.get(options.engine, {})
    oldest = min(since.values(), key=version_of, default=read)
    younger = _younger(since, oldest, asked, launches)
    kept = [_without(launch, younger) for launch in launches]
    lacking = _younger(since, oldest, asked, kept)
    reasons = [f"{flag} (first in {first})" for flag, first in lacking.items()]
    reasons += _of_engine(options, asked, launches)
    if reasons:
        raise SpecError(
            f"--engine-version {version}: {name} {version} lacks what these commands need, by "
            f"the releases that were read: {', '.join(reasons)}; expected a later version, or "
            "another plan"
        )
    beyond = (
        f" (no release before {oldest} was read)" if since and asked < version_of(oldest) else ""
    )
    notes = [
        f"{name} {version} has no {flag} (first in {younger[flag]}), which is left out; {what}"
        for flag, what in _LEFT_OUT.items()
        if flag in younger
    ]
    return kept, [*notes, f"{checked} older{beyond} and may read some otherwise"]


def _of_engine(options: Options, asked: tuple[int, ...], launches: Sequence[Launch]) -> list[str]:
    """Return what a version lacks that no flag says."""
    if options.engine == "trtllm" and asked < _PYTORCH_OF_TRTLLM:
        return ["options of PyTorch, with which trtllm-serve starts by default (first in 1.0)"]
    if options.engine == "vllm" and asked < _PAIRS_OF_VLLM and any(x.role for x in launches):
        return ["NixlConnector, by which roles of a pair hand caches over (first in 0.9.0)"]
    return []


def _without(launch: Launch, younger: Mapping[str, str]) -> Launch:
    """Return a command without those flags that it can do without, and their values."""
    kept: list[str] = []
    words = list(launch.argv)
    while words:
        word = words.pop(0)
        value = words[0] if words and not words[0].startswith("--") else None
        if word in younger and (word in _LEFT_OUT or value == _AS_WITHOUT.get(word, "")):
            del words[: value is not None]
        else:
            kept.append(word)
    return replace(launch, argv=tuple(kept))


def _younger(
    since: Mapping[str, str], oldest: str, asked: tuple[int, ...], launches: Sequence[Launch]
) -> dict[str, str]:
    """Return flags of the commands that the version asked for lacks, and the first with them.

    Of those that the oldest release has it is not known since when.
    """
    words = dict.fromkeys(word for launch in launches for word in launch.argv)
    return {
        word: since[word]
        for word in words
        if word in since and since[word] != oldest and version_of(since[word]) > asked
    }
