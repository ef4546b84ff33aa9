"""A pair of roles under vLLM: each server says where its caches are asked for."""

import json

from click.testing import CliRunner

from autopar.cli import main


def test_servers_name_their_host_and_a_port_of_their_own(tmp_path):
    """NIXL listens on localhost:5600 plus the data-parallel rank where nothing else is said."""
    plan, runner = tmp_path / "plan.json", CliRunner()
    arguments = ["--model", "llama-3.1-70b", "--cluster", "2xhgx-h200", "--engine", "vllm"]
    workload = ["--workload", "chat-4k-1k-disaggregated", "--ttft", "2s", "--tpot", "40ms"]
    runner.invoke(main, ["solve", *arguments, *workload, "-q", "-o", str(plan)])
    result = runner.invoke(main, ["export", str(plan), "--to", "vllm", "--json"])
    assert result.exit_code == 0, result.stderr
    nodes = [node for s in json.loads(result.stdout)["servers"] for node in s["nodes"]]
    assert len(nodes) > 1
    for node in nodes:
        assert node["env"]["VLLM_NIXL_SIDE_CHANNEL_HOST"] == node["host"]
    ports = [
        (node["host"], int(node["env"]["VLLM_NIXL_SIDE_CHANNEL_PORT"]) // 32) for node in nodes
    ]
    assert len(set(ports)) == len(ports)
