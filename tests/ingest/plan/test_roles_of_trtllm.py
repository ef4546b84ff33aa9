"""Servers of TensorRT-LLM without a server_role have that for which their router names them."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from autopar.catalog import load_llm
from autopar.cli import main
from autopar.errors import SpecError
from autopar.ingest.plan import Question, Reading, read_plan

CONTEXT = "disable_overlap_scheduler: true\ncache_transceiver_config: {backend: UCX}\n"
GENERATION = "cache_transceiver_config: {backend: UCX}\n"
FRONT = """hostname: localhost
port: 8000
context_servers: {{num_instances: 1, urls: ["{}"]}}
generation_servers: {{num_instances: 1, urls: ["{}"]}}
"""
ROUTER = "trtllm-serve disaggregated -c disagg.yaml\n"


def server(port: int, tp: int, more: str) -> str:
    return f"trtllm-serve m --port {port} --tp_size {tp} --max_batch_size 8 {more} &\n"


def pair(context: str = "", generation: str = "") -> str:
    """Return the commands of NVIDIA's example; more flags of each half."""
    return server(8001, 2, f"--extra_llm_api_options ctx.yaml {context}") + server(
        8003, 4, f"--extra_llm_api_options gen.yaml {generation}"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ctx.yaml").write_text(CONTEXT)
    (tmp_path / "gen.yaml").write_text(GENERATION)
    (tmp_path / "disagg.yaml").write_text(FRONT.format("localhost:8001", "localhost:8003"))
    return tmp_path


def read(text: str, folder: Path) -> Reading:
    llm = load_llm("llama-3.1-8b")
    return read_plan(text, Question("text", "p", llm_name=llm.name, llm=llm, folder=folder))


def sizes(reading: Reading) -> dict[str, int]:
    return {role: fields["degrees"]["tp"] for role, fields in reading.document["roles"].items()}


@pytest.mark.parametrize("flag", ["-c ", "--config_file ", "--config_file=", "--config "])
def test_the_file_of_the_router_says_who_prefills(folder: Path, flag: str) -> None:
    reading = read(pair() + ROUTER.replace("-c ", flag), folder)
    assert sizes(reading) == {"prefill": 2, "decode": 4}
    said = "cache_transceiver_config without a server_role says no role: servers have that"
    assert any(said in note for note in reading.notes)


def test_the_file_decides_and_not_the_order_of_commands(folder: Path) -> None:
    front = FRONT.format("http://localhost:8003", "127.0.0.1:8001")
    text = f"cat > disagg.yaml <<EOF\n{front}EOF\n{ROUTER}"  # goes before the file in the folder
    assert sizes(read(text + pair(), folder)) == {"prefill": 4, "decode": 2}


def test_the_file_beside_a_script_is_found(folder: Path) -> None:
    script = folder / "run.sh"
    script.write_text(pair() + ROUTER)
    result = CliRunner().invoke(main, ["ingest", "plan", str(script), "--model", "llama-3.1-8b"])
    assert result.exit_code == 0
    assert "  prefill:\n    degrees: {replicas: 1, pp: 1, tp: 2" in result.stdout


def test_one_port_on_two_hosts_is_told_apart_by_the_host(folder: Path) -> None:
    (folder / "disagg.yaml").write_text(FRONT.format("b:8001", "a:8001"))
    text = pair("--host a", "--host b").replace("8003", "8001")
    reading = read(text + ROUTER, folder)
    assert sizes(reading) == {"prefill": 4, "decode": 2}
    assert not any(re.search(r"\bhost\b", note) for note in reading.notes)


def test_a_role_that_is_stated_needs_no_router(folder: Path) -> None:
    text = pair("--server_role CONTEXT", "--server_role GENERATION")
    lost = "trtllm-serve disaggregated -c lost.yaml\n"
    assert sizes(read(text + lost, folder)) == {"prefill": 2, "decode": 4}


def test_servers_that_say_nothing_of_pairs_have_the_roles_of_the_file_too(folder: Path) -> None:
    text = server(8001, 2, "") + server(8003, 4, "")
    assert sizes(read(text + ROUTER, folder)) == {"prefill": 2, "decode": 4}
    with pytest.raises(SpecError, match="servers differ: tp"):  # replicas, without the router
        read(text, folder)


@pytest.mark.parametrize(
    ("router", "why"),
    [
        ("", "prefill and which decode; add the command of their router"),
        (
            "trtllm-serve disaggregated -c lost.yaml\n",
            r"decode \(the file of .*lost\.yaml: no such",
        ),
        ("trtllm-serve disaggregated -c ctx.yaml\n", "prefill and which decode; add the command"),
    ],
)
def test_without_addresses_roles_are_asked_for(folder: Path, router: str, why: str) -> None:
    with pytest.raises(SpecError, match=f"servers 0, 1: cache_transceiver_config .*{why}") as error:
        read(pair() + router, folder)
    assert "--server_role CONTEXT and --server_role GENERATION" in str(error.value)
    assert "kv_" not in str(error.value)


def test_a_server_that_the_file_does_not_name_is_refused(folder: Path) -> None:
    (folder / "disagg.yaml").write_text(FRONT.format("localhost:8001", "localhost:8002"))
    with pytest.raises(SpecError, match=r"server 1 \(no host, port 8003\).*fits none of them"):
        read(pair() + ROUTER, folder)


@pytest.mark.parametrize("urls", ["8001", "[8001, null]", "{a: 1}", "['']"])
def test_urls_that_are_none_are_no_addresses(folder: Path, urls: str) -> None:
    (folder / "disagg.yaml").write_text(f"context_servers: {{urls: {urls}}}\ngeneration_servers: 1")
    with pytest.raises(SpecError, match="does not say which of them prefill"):
        read(pair() + ROUTER, folder)


def test_one_server_alone_is_taken_to_do_both_and_that_is_said(folder: Path) -> None:
    reading = read(pair().splitlines()[0], folder)
    assert reading.document["degrees"]["tp"] == 2
    assert any("taken to prefill and to decode" in note for note in reading.notes)
