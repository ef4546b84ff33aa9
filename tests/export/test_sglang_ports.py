"""Servers of SGLang on one node do not take each other's ports."""

import json

from click.testing import CliRunner

from autopar.cli import main


def test_servers_of_one_node_are_further_apart_than_the_ports_they_derive(tmp_path):
    """With attention DP a server at p takes p + 233 to p + 238 too (SGLang 0.5.23)."""
    plan = tmp_path / "plan.json"
    runner = CliRunner()
    arguments = ["--model", "qwen3-30b-a3b", "--cluster", "1xhgx-h100", "--workload", "chat-4k-1k"]
    runner.invoke(main, ["solve", *arguments, "--engine", "sglang", "-q", "-o", str(plan)])
    result = runner.invoke(main, ["export", str(plan), "--to", "sglang", "--json"])
    assert result.exit_code == 0, result.stderr
    commands = [s["nodes"][0]["argv"] for s in json.loads(result.stdout)["servers"]]
    ports = sorted(int(argv[argv.index("--port") + 1]) for argv in commands)
    assert len(ports) > 1
    taken = [{p, p + 13, *range(p + 233, p + 239)} for p in ports]
    for index, mine in enumerate(taken):
        assert not mine & set().union(*taken[:index])
