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


FRONT = """hostname: localhost
port: 8000
backend: pytorch
context_servers: {num_instances: 1, urls: ["localhost:8001"]}
generation_servers: {num_instances: 1, tensor_parallel_size: 4, urls: ["localhost:8002"]}
"""


def test_the_file_of_a_pair_of_trtllm_alone_is_refused_with_what_is_needed() -> None:
    with pytest.raises(SpecError, match="file of `trtllm-serve disaggregated`") as error:
        read_plan(FRONT, Question("disaggregated.yaml", "p"))
    assert "--server_role CONTEXT" in str(error.value)
    assert "--server_role GENERATION" in str(error.value)


def test_what_is_needed_instead_is_read() -> None:
    text = (
        f"cat > disaggregated.yaml <<EOF\n{FRONT}EOF\n"
        "trtllm-serve m --tp_size 2 --max_batch_size 8 --server_role CONTEXT\n"
        "trtllm-serve m --tp_size 4 --max_batch_size 8 --server_role GENERATION\n"
        "trtllm-serve disaggregated -c disaggregated.yaml\n"
    )
    roles = read_plan(text, Question("run.sh", "p", llm_name="m")).document["roles"]
    assert [roles[role]["degrees"]["tp"] for role in ("prefill", "decode")] == [2, 4]
