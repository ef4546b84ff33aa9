"""Which flags are younger than the engine that an export is asked for."""

from collections.abc import Mapping, Sequence

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


def notes_of_version(options: Options, launches: Sequence[Launch]) -> list[str]:
    """Return what is not sure of the flags of commands for another version than the one read."""
    read, version = VERSIONS[options.engine], options.version
    asked, known = version_of(version), version_of(read)
    if asked == known:
        return []
    checked = f"flags were checked against {NAMES[options.engine]} {read} alone; {version} is"
    if asked > known:
        return [f"{checked} newer and may have renamed or dropped some"]
    since = FIRST_RELEASES.get(options.engine, {})
    oldest = min(since.values(), key=version_of, default=read)
    beyond = (
        f" (no release before {oldest} was read)" if since and asked < version_of(oldest) else ""
    )
    differs = f"{checked} older{beyond} and may read some otherwise"
    younger = _younger(since, oldest, asked, launches)
    if not younger:
        return [differs]
    listed = ", ".join(f"{flag} (first in {first})" for flag, first in younger.items())
    too_old = f"{NAMES[options.engine]} {version} is too old for flags of these commands"
    return [f"{too_old}, by the releases that were read: {listed}", differs]


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
