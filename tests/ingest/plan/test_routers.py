"""Routers are told from servers, and from commands that only name one."""

import pytest

from autopar.errors import SpecError
from autopar.ingest.plan import Question, read_plan

SERVER = "vllm serve m -tp 2 --max-num-seqs 8\n"


def notes(text: str) -> tuple[str, ...]:
    return read_plan(SERVER + text, Question("text", "p", llm_name="m")).notes


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vllm-router --vllm-pd-disaggregation --prefill http://a:1", "vllm-router"),
        ("exec env A=b /opt/bin/vllm-router --port 1 &", "vllm-router"),
        ("python -m vllm_router.launch_router --port 1", "vllm_router.launch_router"),
        ("python3 -u -m sglang_router.launch_router --port 1", "sglang_router.launch_router"),
        ("sglang-router launch --port 1", "sglang-router launch"),
        ("python -m sglang_router launch --port 1", "sglang_router launch"),
        ("smg launch --worker-urls http://a:1", "smg launch"),
        ("trtllm-serve disaggregated -c x.yaml", "trtllm-serve disaggregated"),
        ("docker run --net host i vllm-router --port 1", "vllm-router"),
        ("ssh a 'nohup vllm-router --port 1'", "vllm-router"),
        ("for i in 1 2; do vllm-router --port $i & done", "vllm-router"),
    ],
)
def test_a_router_is_known_and_passed_over(text: str, name: str) -> None:
    assert notes(text) == (f"not read, as a plan holds nothing of it: the router {name}",)


@pytest.mark.parametrize(
    "text",
    [
        "pip install vllm-router",
        "docker stop vllm-router",
        "python -m sglang_router.launch_server --model-path m --dp-size 2",  # and two servers
        "smg server --model-path m",
        "trtllm-serve disaggregated_mpi_worker -c x.yaml",
        "trtllm-serve mm_embedding_serve m",
    ],
)
def test_what_starts_servers_too_or_only_names_a_router_is_none(text: str) -> None:
    assert notes(text) == (f"not read: the command {text!r}",)


def test_a_router_without_servers_is_no_plan() -> None:
    with pytest.raises(SpecError, match=r"no command of an engine.*the router vllm-router"):
        read_plan("vllm-router --port 1", Question("text", "p"))
