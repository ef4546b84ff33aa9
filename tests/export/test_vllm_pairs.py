"""A pair of roles under vLLM: each server says where its caches are asked for."""

import json

import pytest
from click.testing import CliRunner

from autopar.api import solve
from autopar.catalog import load_scenario
from autopar.cli import main
from autopar.errors import InexpressibleError
from autopar.export.exporting import completed, export
from autopar.export.nearest import Nearest, nearest
from autopar.export.options import Options
from autopar.problem import DisaggregatedPlan


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


def test_a_pair_that_fails_at_the_handshake_is_refused_with_the_nearest_one():
    """Of 4 key-value heads, prefill has copies, and fewer decode ranks would read from them."""
    parts = {
        "llm": "qwen3-235b-a22b", "cluster": "2xhgx-h100", "workload": "chat-4k-1k-disaggregated",
    }  # fmt: skip
    degrees = "prefill.tp == 8 and decode.tp == 4 and prefill.pp * decode.pp == 1"
    alone = "spread == 1 and (is_decode or ep == 1) and (is_prefill or etp == 1)"
    rules = ", ".join(
        f"{{name: {name}, require: {text}, because: a test}}"
        for name, text in (("pair", degrees), ("grid", alone))
    )
    asked = load_scenario(parts=parts, overrides=[f"rules=[{rules}]"])
    plan = solve(asked, diagnose=False).require_plan()
    assert isinstance(plan, DisaggregatedPlan)
    scenario = asked.model_copy(update={"rules": ()})
    options = completed(Options(engine="vllm"), scenario)
    with pytest.raises(InexpressibleError, match="vllm_kv_heads_of_a_pair") as refused:
        export(scenario, plan, "vllm", options)
    assert [reason.split(":")[0] for reason in refused.value.reasons] == ["the pair"]
    found = nearest(scenario, plan, options)
    assert isinstance(found, Nearest)
    assert isinstance(found.plan, DisaggregatedPlan)
    tensor = [layout.stages[0].tp for layout in found.plan.roles.values()]
    assert tensor[0] <= max(tensor[1], 4)
    export(found.scenario, found.plan, "vllm", options)
