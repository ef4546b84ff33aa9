"""Names and addresses of nodes: an IPv6 address has brackets before a port, and nowhere else."""

import json
from collections.abc import Sequence
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from click.testing import CliRunner, Result

from autopar.catalog import load_plan, load_scenario
from autopar.cli import main
from autopar.errors import SpecError
from autopar.export.exporting import completed, export
from autopar.export.hosts import all_addresses, checked_host, place
from autopar.export.launch import Export, script_text
from autopar.export.options import Options
from autopar.ingest.plan import Question, read_plan
from autopar.ingest.plan.routers import addresses_in
from autopar.pairs import explicit_plan
from autopar.plans import plan_from_spec
from autopar.problem import Plan
from autopar.specs import PlanSpec

HOSTS = ("2001:db8::1", "2001:db8::2")
PACKS = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt-llm"}
ASKED = ("--model", "qwen3-30b-a3b", "--cluster", "2xhgx-h200", "--workload",
         "chat-4k-1k-disaggregated", "--ttft", "2s", "--tpot", "40ms")  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in arguments])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    files = {engine: folder / f"{engine}.json" for engine in PACKS}
    for engine, file in files.items():
        assert run("solve", *ASKED, "--engine", PACKS[engine], "-q", "-o", file).exit_code == 0
    return files


def flag(words: Sequence[str], name: str) -> str:
    return words[words.index(name) + 1]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_pair_on_ipv6_hosts_comes_back_with_its_router(
    pairs: dict[str, Path], engine: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made = run("export", pairs[engine], "--to", engine, "--hosts", ",".join(HOSTS), "--out", out)
    assert made.exit_code == 0, made.stderr
    document = json.loads((out / "export.json").read_text())
    router = document["router"]["argv"]
    for name in ("--prefill", "--decode"):
        role = name[2:]
        servers = [s["nodes"][0] for s in document["servers"] if s["role"] == role]
        urls = [router[i + 1] for i, word in enumerate(router) if word == name]
        assert urls == [f"http://[{node['host']}]:{node['port']}" for node in servers]
        assert {urlsplit(url).hostname for url in urls} <= {*HOSTS}
        found = [(a.host, a.port) for a in addresses_in(router)[role]]
        assert found == [(node["host"], node["port"]) for node in servers]
    assert flag(router, "--host") == "[::]"
    for server in document["servers"]:
        for node in server["nodes"]:
            assert flag(node["argv"], "--host") == "::"
            assert node["env"].get("VLLM_NIXL_SIDE_CHANNEL_HOST", node["host"]) == node["host"]
    assert f"http://[{HOSTS[0]}]:7999/v1" in document["notes"][-1]
    scripts = "".join(script.read_text() for script in sorted(out.glob("*.sh")))
    assert f"# autopar: host {HOSTS[1]}" in scripts
    commands = tmp_path / "commands.sh"
    read = ["ingest", "plan", commands, "--model", "qwen3-30b-a3b", "--cluster", "2xhgx-h200"]
    commands.write_text(scripts)
    back = run(*read)
    assert back.exit_code == 0, back.stderr
    roles = yaml.safe_load(back.stdout)["roles"]
    for role in ("prefill", "decode"):
        asked = json.loads(pairs[engine].read_text())["roles"][role]["degrees"]
        assert roles[role]["degrees"]["replicas"] == asked["replicas"]
        assert roles[role]["degrees"]["tp"] == asked["tp"]
    if engine == "vllm":  # whose roles then follow from the addresses of the router alone
        commands.write_text(
            scripts.replace("kv_producer", "kv_both").replace("kv_consumer", "kv_both")
        )
        again = run(*read)
        assert again.exit_code == 0, again.stderr
        assert yaml.safe_load(again.stdout)["roles"] == roles


def test_the_router_of_tensorrt_llm_reads_no_ipv6_address(pairs: dict[str, Path]) -> None:
    """llmapi/disagg_utils.py: hostname, port_str = url.split(':')."""
    refused = run("export", pairs["trtllm"], "--to", "trtllm", "--hosts", ",".join(HOSTS))
    assert refused.exit_code == 2
    assert "--hosts: [2001:db8::1]:8000: the router of TensorRT-LLM cannot read" in refused.stderr
    assert run("export", pairs["trtllm"], "--to", "trtllm", "--hosts", "a,b").exit_code == 0


def exported(engine: str, hosts: tuple[str, ...], **degrees: int) -> tuple[Export, Any, Plan]:
    """A server of 16 GPUs on two nodes."""
    parts = {"llm": "qwen3-30b-a3b", "cluster": "2xhgx-h100", "workload": "chat-1k-256"}
    scenario = load_scenario(parts=parts)
    document = {
        "schema": 1, "kind": "plan", "name": "two", "llm": "qwen3-30b-a3b", "batch": 8,
        "degrees": {"replicas": 1, "cp": 1, "etp": 1, **degrees},
    }  # fmt: skip
    plan = explicit_plan(load_plan(document), scenario)
    assert isinstance(plan, Plan)
    options = completed(Options(engine=engine, hosts=hosts), scenario)
    return export(scenario, plan, engine, options), scenario, plan


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "megatron"])
def test_a_server_of_two_ipv6_nodes_comes_back(engine: str, tmp_path: Path) -> None:
    made, scenario, plan = exported(engine, HOSTS, pp=4, tp=4, attn_dp=1, ep=4)
    leader = made.launches[0].argv
    if engine == "sglang":
        assert flag(leader, "--dist-init-addr") == f"[{HOSTS[0]}]:20000"
    elif engine == "trtllm":
        (hostfile,) = [file for file in made.files if file.name.startswith("hostfile")]
        assert hostfile.text == "".join(f"{host} slots=8\n" for host in HOSTS)
    else:  # a host without a port has no brackets
        assert flag(leader, "--master-addr") == HOSTS[0]
    for file in made.files:
        (tmp_path / file.name).write_text(file.text)
    text = "".join(script_text(launch, "a title") for launch in made.launches)
    question = Question(
        "export", "two", "qwen3-30b-a3b", scenario.llm, scenario.cluster.name, scenario.workload,
        folder=tmp_path, num_gpus=16, node_gpus=8,
    )  # fmt: skip
    back = plan_from_spec(PlanSpec.model_validate(read_plan(text, question).document), scenario)
    assert (back.gpus, back.stages) == (plan.gpus, plan.stages)


def test_data_parallel_ranks_of_vllm_do_not_meet_at_an_ipv6_address() -> None:
    degrees = {"pp": 1, "tp": 1, "attn_dp": 16, "ep": 16}
    with pytest.raises(SpecError, match="_pick_stateless_dp_port"):
        exported("vllm", HOSTS, **degrees)
    exported("vllm", ("first", "second"), **degrees)
    exported("sglang", HOSTS, **degrees)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu-1", "gpu-1"), ("a_b.example.com", "a_b.example.com"), ("1node", "1node"),
        ("10.0.0.7", "10.0.0.7"), ("2001:DB8:0::1", "2001:db8::1"), ("a" * 63, "a" * 63),
    ],
)  # fmt: skip
def test_names_and_addresses_are_hosts(text: str, expected: str) -> None:
    assert checked_host(text, "--hosts") == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "a;rm", "$(x)", "a b", "a/b", "a@b", "a:b", "-a", "a-", ".a", "a..b", "a" * 64,
        ".".join(["a" * 60] * 5), "10.0.0.300", "10.0.0", "7", "[2001:db8::1]", "fe80::1%eth0",
        "2001:db8::1:", "gpu[01-04]", "n\u00f6de", "a\n",
    ],
)  # fmt: skip
def test_what_is_no_host_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(SpecError, match=r"--hosts: found .*, expected names of hosts.*IPv6"):
        checked_host(text, "--hosts")


def test_the_command_line_refuses_what_is_no_host(pairs: dict[str, Path]) -> None:
    refused = run("export", pairs["sglang"], "--to", "sglang", "--hosts", "a;rm,b")
    assert refused.exit_code == 2
    assert "--hosts: found 'a;rm', expected names of hosts" in refused.stderr
    twice = run("export", pairs["sglang"], "--to", "sglang", "--hosts", "2001:db8::1,2001:DB8:0::1")
    assert "--hosts: found '2001:db8::1' twice" in twice.stderr


def test_a_port_stands_behind_brackets() -> None:
    for host in (*HOSTS, "::1"):
        assert urlsplit(f"http://{place(host, 8000)}").port == 8000
        assert IPv6Address(urlsplit(f"http://{place(host, 8000)}").hostname or "")
    assert place("node-0", 8000) == "node-0:8000"
    assert (all_addresses("node-0"), all_addresses("2001:db8::1")) == ("0.0.0.0", "::")
