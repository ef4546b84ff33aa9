"""Options that are no plain flags of a command: in files, behind dots, in YAML."""

import re
from pathlib import Path
from typing import Any

import pytest

from autopar.catalog import load_llm
from autopar.errors import SpecError
from autopar.ingest.plan import Question, Reading, read_plan
from autopar.ingest.plan.beside import count_of
from autopar.ingest.plan.reading import models_in


def read(text: str, model: str = "llama-3.1-8b", **more: Any) -> Reading:
    llm = load_llm(model)
    return read_plan(text, Question("text", "p", llm_name=llm.name, llm=llm, **more))


def test_options_in_a_file_come_before_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "model: m\ntensor-parallel-size: 8\nmax-num-seqs: 64\nenable-expert-parallel: true\n"
        "trust-remote-code: false\nserved-model-name: [a, b]\ncompilation-config: {level: 3}\n"
        "no-such-flag: 3\n"
    )
    text = "vllm serve --config c.yaml -tp 4"
    reading = read(text, "mixtral-8x7b", folder=tmp_path)
    found = reading.document["degrees"]
    assert (found["tp"], found["ep"], reading.document["batch"]) == (4, 4, 64)
    assert any("unknown flag '--no-such-flag'" in note for note in reading.notes)
    assert any("--compilation-config" in note for note in reading.notes)
    assert not any("--config" in note.split() for note in reading.notes)
    assert models_in(text, tmp_path) == ["m"]
    assert models_in("vllm serve other --config c.yaml", tmp_path) == ["other"]


def test_options_of_sglang_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "model-path: m\ntp-size: 8\nmax_running_requests: 64\nenable-dp-attention: true\n"
        "dp-size: 2\n"
    )
    text = "python -m sglang.launch_server --config=c.yaml --ep-size 4"
    reading = read(text, "mixtral-8x7b", folder=tmp_path)
    found = reading.document["degrees"]
    assert (found["tp"], found["attn_dp"], found["ep"]) == (4, 2, 4)
    assert models_in(text, tmp_path) == ["m"]


def test_a_file_here_is_found_where_there_is_none_beside_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "c.yaml").write_text("tensor-parallel-size: 8\n")
    monkeypatch.chdir(tmp_path / "here")
    reading = read("vllm serve m --config c.yaml", folder=tmp_path)
    assert reading.document["degrees"]["tp"] == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vllm serve m --config none.yaml", r"vllm: --config: .*none.yaml: no such file"),
        ("vllm serve m --config $FILE", r"nothing that was read sets \$FILE"),
        ("vllm serve m --config a.yaml --config b.yaml", "one file"),
        ("vllm serve m --config", "one file"),
        ("python -m sglang.launch_server --config none.yaml", "sglang: --config"),
        ("vllm serve m --kv-transfer-config.kv_role --port 1", "no value behind it"),
    ],
)
def test_files_of_options_that_cannot_be_read_are_refused(
    text: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=words):
        read(text, folder=tmp_path)


def test_dotted_flags_are_json_of_that_path() -> None:
    line = (
        "vllm serve m -tp 4 --max-num-seqs 8 --kv-transfer-config.kv_connector NixlConnector "
        "--kv_transfer_config.kv_role={}\n"
    )
    roles = read(line.format("kv_producer") + line.format("kv_consumer")).document["roles"]
    assert set(roles) == {"prefill", "decode"}
    reading = read("vllm serve m -tp 4 --parallel-config.x 3 --eplb-config.window 1k")
    assert [note for note in reading.notes if note.startswith("unknown flag")] == [
        "unknown flag '--parallel-config': vllm 0.33.0 has none of this name"
    ]


def test_vllm_takes_counts_in_thousands() -> None:
    """8k is 8,000 and 8K 8,192 (vLLM, human_readable_int); 4096 of a prompt are then 1 part."""
    assert [count_of(text) for text in ("8k", "8K", "1.5k", "1.5K", "8192", "x")] == [
        "8000", "8192", "1500", "1.5K", "8192", "x",
    ]  # fmt: skip
    reading = read("vllm serve m -tp 4 --max-num-batched-tokens 8k")
    assert reading.document["degrees"]["tp"] == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kv_cache_config: {free_gpu_memory_fracton: 0.8}",
         "'kv_cache_config.free_gpu_memory_fracton'.*did you mean 'free_gpu_memory_fraction'"),
        ("moe_config: {load_balancer: {nm_slots: 8}}", "'moe_config.load_balancer.nm_slots'"),
        ("speculative_config: {foo: 1}", "'speculative_config.foo'"),
    ],
)  # fmt: skip
def test_unknown_keys_below_known_ones_are_said(text: str, words: str) -> None:
    if "load_balancer" in text:  # an inline map is read, and this one is none
        with pytest.raises(SpecError, match="initial_global_assignments"):
            read(f"tensor_parallel_size: 8\n{text}\n", "mixtral-8x7b")
        return
    notes = read(f"tensor_parallel_size: 8\n{text}\n").notes
    assert [note for note in notes if re.search(f"unknown flag {words}", note)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kv_cache_config: {free_gpu_memory_fraction: 0.8}", "a share of memory"),
        ("kv_cache_config: {dtype: fp8}", "how the cache is stored"),
        ("kv_cache_config: {enable_block_reuse: false}", "kv_cache_config.enable_block_reuse"),
        ("moe_config: {backend: CUTLASS}", "not read.*moe_config.backend"),
        ("context_parallel_size: 2\ncp_config: {cp_type: ULYSSES}", "HELIX"),
    ],
)
def test_known_keys_below_others_that_a_plan_does_not_hold_are_said(text: str, words: str) -> None:
    notes = read(f"tensor_parallel_size: 4\n{text}\n").notes
    assert any(re.search(words, note) for note in notes)
    assert not any(note.startswith("unknown flag") for note in notes)


@pytest.mark.parametrize(
    "flag", ["--mamba-thing", "--no-such-thing", "--tensor", "--attention", "--max-thing"]
)
def test_only_a_slip_away_is_a_suggestion(flag: str) -> None:
    (note,) = [n for n in read(f"vllm serve m {flag} 3").notes if n.startswith("unknown flag")]
    assert "did you mean" not in note
