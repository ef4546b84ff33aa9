"""Servers that do either, kv_both of vLLM, have the role for which their router reaches them."""

from typing import Any

import pytest

from autopar.catalog import load_llm
from autopar.errors import SpecError
from autopar.ingest.plan import Question, Reading, read_plan

NIXL = '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'
ROUTER = "vllm-router --vllm-pd-disaggregation "
SGLANG = "python -m sglang_router.launch_router --pd-disaggregation "
LOCAL = "--prefill http://localhost:8100 --decode http://localhost:8200"


def read(text: str, **more: Any) -> Reading:
    llm = load_llm("llama-3.1-8b")
    return read_plan(text, Question("text", "p", llm_name=llm.name, llm=llm, **more))


def server(tp: int, port: int, more: str = "", config: str = NIXL) -> str:
    flags = f"-tp {tp} --port {port} --max-num-seqs 8 --kv-transfer-config '{config}'"
    return f"vllm serve m {flags} {more} &\n"


def sizes(reading: Reading) -> dict[str, tuple[int, int]]:
    """Return the tensor parallel size and the replicas of each role."""
    degrees = {role: fields["degrees"] for role, fields in reading.document["roles"].items()}
    return {role: (each["tp"], each["replicas"]) for role, each in degrees.items()}


@pytest.mark.parametrize(
    "router",
    [
        ROUTER + LOCAL,
        ROUTER + "--decode=http://127.0.0.1:8200/ --prefill=http://127.0.0.1:8100/",
        SGLANG + "--prefill http://a:8100 8998 --decode http://b:8200",
        ROUTER + "--prefill http://a:8100:zmq://a:1 --decode http://b:8200:zmq://b:8100",
        "python x/toy.py --port 1 --prefiller-port 8100 --decoder-hosts a --decoder-ports 8200",
        "python proxy.py --prefill a:8100 --decode b:8200 --port 8100",
    ],
)
@pytest.mark.parametrize("tp", [2, 4])
def test_the_addresses_of_a_router_say_who_prefills(router: str, tp: int) -> None:
    reading = read(server(2, 8100) + server(tp, 8200) + router)
    assert sizes(reading) == {"prefill": (2, 1), "decode": (tp, 1)}
    assert any("kv_both says no role: servers have that" in note for note in reading.notes)


def test_the_order_of_commands_says_nothing() -> None:
    text = server(4, 8200) + server(4, 8201) + ROUTER + LOCAL + " http://localhost:8201\n"
    assert sizes(read(text + server(2, 8100))) == {"prefill": (2, 1), "decode": (4, 2)}


@pytest.mark.parametrize(
    ("first", "second"),
    [("ssh a '{}'\n", "ssh b '{}'\n"), ("{} --host a\n", "{} --host b\n")],
)
def test_one_port_on_two_hosts_is_told_apart_by_the_host(first: str, second: str) -> None:
    config = "--kv-transfer-config.kv_connector NixlConnector --kv-transfer-config.kv_role kv_both"
    lines = [f"vllm serve m --max-num-seqs 8 --port 1 -tp {tp} {config}" for tp in (4, 2)]
    text = first.format(lines[0]) + second.format(lines[1])
    reading = read(text + ROUTER + "--prefill http://b:1 --decode http://a:1")
    assert sizes(reading) == {"prefill": (2, 1), "decode": (4, 1)}


def test_without_a_router_roles_are_asked_for() -> None:
    with pytest.raises(SpecError, match=r"servers 0, 1: NixlConnector .*kv_both") as error:
        read(server(4, 8100) + server(4, 8200))
    assert "--prefill http://HOST:PORT" in str(error.value)
    assert "kv_producer and kv_consumer" in str(error.value)


@pytest.mark.parametrize(
    ("port", "fits"), [(8300, "none of them: the router reaches for prefill localhost:8100; for")]
)
def test_a_server_that_no_router_reaches_has_no_role(port: int, fits: str) -> None:
    with pytest.raises(SpecError, match=rf"server 1 \(no host, port {port}\).*fits {fits}"):
        read(server(4, 8100) + server(4, port) + ROUTER + LOCAL)


def test_an_address_that_fits_both_roles_is_refused() -> None:
    router = ROUTER + "--prefill http://a:8000 --decode http://b:8000"
    with pytest.raises(SpecError, match=r"server 0 .*its address fits both roles"):
        read(server(4, 8000) * 2 + router)


def test_one_server_alone_is_taken_to_do_both_and_that_is_said() -> None:
    reading = read(server(4, 8100))
    assert reading.document["degrees"]["tp"] == 4
    assert any("taken to prefill and to decode" in note for note in reading.notes)


MULTI = (
    '{"kv_connector":"MultiConnector","kv_role":"kv_both","kv_connector_extra_config":'
    '{"connectors":[{"kv_connector":"NixlConnector","kv_role":"kv_both"},'
    '{"kv_connector":"OffloadingConnector","kv_role":"kv_both"}]}}'
)


@pytest.mark.parametrize("name", ["LMCacheConnectorV1", "OffloadingConnector", "MyConnector"])
def test_a_connector_that_keeps_caches_is_said_and_makes_no_pair(name: str) -> None:
    config = NIXL.replace("NixlConnector", name)
    reading = read(server(4, 8100, config=config) + server(4, 8200, config=config))
    assert reading.document["degrees"]["replicas"] == 2
    (note,) = [note for note in reading.notes if "--kv-transfer-config" in note]
    assert name in note
    assert "a plan holds nothing of it" in note


def test_connectors_below_another_are_read() -> None:
    text = server(2, 8100, config=MULTI) + server(4, 8200, config=MULTI) + ROUTER + LOCAL
    reading = read(text)
    assert sizes(reading) == {"prefill": (2, 1), "decode": (4, 1)}
    assert any("OffloadingConnector" in note for note in reading.notes)


def test_a_role_that_vllm_does_not_have_is_refused() -> None:
    with pytest.raises(SpecError, match="kv_role: found 'kv_bth', expected one of kv_producer"):
        read(server(4, 8100, config=NIXL.replace("kv_both", "kv_bth")))
