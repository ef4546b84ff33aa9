"""Pairs of prefill and decode servers: somebody takes requests, and knows every server of both."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from autopar.cli import main

PACKS = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt-llm"}
ROUTERS = {
    "vllm": "vllm-router",
    "sglang": "sglang_router.launch_router",
    "trtllm": "trtllm-serve disaggregated",
}
ASKED = ("--model", "qwen3-30b-a3b", "--cluster", "2xhgx-h200", "--workload",
         "chat-4k-1k-disaggregated", "--ttft", "2s", "--tpot", "40ms")  # fmt: skip


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(main, [str(word) for word in arguments])
    assert result.exit_code == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    for engine, pack in PACKS.items():
        run("solve", *ASKED, "--engine", pack, "-q", "-o", folder / f"{engine}.json")
    return {engine: folder / f"{engine}.json" for engine in PACKS}


def places(document: dict[str, Any], role: str) -> list[tuple[str, int]]:
    leaders = [s["nodes"][0] for s in document["servers"] if s["role"] == role]
    return [(node["host"], node["port"]) for node in leaders]


@pytest.mark.parametrize("engine", PACKS)
def test_the_router_knows_every_server_of_both_roles(
    answers: dict[str, Path], engine: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run("export", answers[engine], "--to", engine, "--hosts", "first,second", "--out", out)
    document = json.loads((out / "export.json").read_text())
    prefill, decode = places(document, "prefill"), places(document, "decode")
    assert len({*prefill, *decode}) == len(prefill) + len(decode) > 2
    router, words = document["router"], document["router"]["argv"]
    assert (router["host"], router["port"]) == ("first", 7999)
    assert (out / "router.sh").stat().st_mode & 0o111
    if engine == "trtllm":
        front = yaml.safe_load((out / "disaggregated.yaml").read_text())
        assert words[:3] == ["trtllm-serve", "disaggregated", "-c"]
        assert words[3] == str(out / "disaggregated.yaml")
        assert front["context_servers"]["urls"] == [f"{h}:{p}" for h, p in prefill]
        assert front["generation_servers"]["urls"] == [f"{h}:{p}" for h, p in decode]
        assert front["port"] == 7999
        return
    urls = {
        role: [words[i + 1] for i, word in enumerate(words) if word == f"--{role}"]
        for role in ("prefill", "decode")
    }
    assert urls["prefill"] == [f"http://{h}:{p}" for h, p in prefill]
    assert urls["decode"] == [f"http://{h}:{p}" for h, p in decode]
    assert words[words.index("--port") + 1] == "7999"
    assert f"http://first:{7999}/v1" in document["notes"][-1]


def test_the_router_of_sglang_has_the_bootstrap_port_beside_each_prefill_server(
    answers: dict[str, Path],
) -> None:
    document = json.loads(run("export", answers["sglang"], "--to", "sglang", "--json").stdout)
    words = document["router"]["argv"]
    ports = [words[i + 2] for i, word in enumerate(words) if word == "--prefill"]
    commands = [s["nodes"][0]["argv"] for s in document["servers"] if s["role"] == "prefill"]
    flag = "--disaggregation-bootstrap-port"
    assert ports == [argv[argv.index(flag) + 1] for argv in commands]
    places = [(s["nodes"][0]["host"], s["nodes"][0]["port"]) for s in document["servers"]]
    taken = {*places, *((h, int(p)) for (h, _), p in zip(places, ports, strict=False))}
    assert len(taken) == len(places) + len(ports)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_pods_of_a_pair_have_a_router_that_reaches_the_leader_of_every_group(
    answers: dict[str, Path], engine: str
) -> None:
    text = run("export", answers[engine], "--to", "lws", "--with", engine, "--image", "i",
               "--namespace", "ours", "--json").stdout  # fmt: skip
    (file,) = json.loads(text)["files"]
    documents = list(yaml.safe_load_all(file["text"]))
    sets = {d["metadata"]["name"]: d for d in documents if d["kind"] == "LeaderWorkerSet"}
    assert len(sets) == 2
    (deployment,) = [d for d in documents if d["kind"] == "Deployment"]
    (service,) = [d for d in documents if d["kind"] == "Service"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels == deployment["spec"]["selector"]["matchLabels"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    said = " ".join(container["command"])
    if engine == "trtllm":
        (config,) = [d for d in documents if d["kind"] == "ConfigMap"]
        said = config["data"]["disaggregated.yaml"]
        assert container["volumeMounts"][0]["mountPath"] == "/etc/autopar"
    for name, one in sets.items():
        for group in range(one["spec"]["replicas"]):
            assert f"{name}-{group}.{name}.ours:8000" in said
        assert f"{name}-{one['spec']['replicas']}." not in said
    assert "LWS_LEADER_ADDRESS" not in file["text"]


@pytest.mark.parametrize("engine", PACKS)
@pytest.mark.parametrize("target", ["scripts", "lws"])
def test_what_starts_a_pair_is_read_back_with_its_router_known_as_one(
    answers: dict[str, Path], engine: str, target: str, tmp_path: Path
) -> None:
    if target == "lws":
        asked = ("--to", "lws", "--with", engine, "--image", "i")
    else:
        asked = ("--to", engine)
    out, commands = tmp_path / "out", tmp_path / "commands"
    run("export", answers[engine], *asked, "--out", out)
    files = sorted(out.glob("*.sh")) or [out / "lws.yaml"]
    commands.write_text("".join(file.read_text() for file in files))
    read = run("ingest", "plan", commands, "--model", "qwen3-30b-a3b")
    assert set(yaml.safe_load(read.stdout)["roles"]) == {"prefill", "decode"}
    said = [line for line in read.stderr.splitlines() if "not read" in line]
    assert [line.partition(": the router ")[2] for line in said] == [ROUTERS[engine]]


def test_servers_of_vllm_in_pods_are_asked_for_caches_at_their_own_address(
    answers: dict[str, Path],
) -> None:
    text = run("export", answers["vllm"], "--to", "lws", "--with", "vllm").stdout
    manifest = text[text.index("apiVersion") : text.index("# note")]
    for document in yaml.safe_load_all(manifest.rpartition("\n#")[0]):
        if document["kind"] == "LeaderWorkerSet":
            template = document["spec"]["leaderWorkerTemplate"]["workerTemplate"]
            (container,) = template["spec"]["containers"]
            env = {item["name"]: item for item in container["env"]}
            where = env["VLLM_NIXL_SIDE_CHANNEL_HOST"]["valueFrom"]["fieldRef"]["fieldPath"]
            assert where == "status.podIP"


@pytest.mark.parametrize("pack", PACKS.values())
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-120b"])
def test_the_best_pair_by_the_rules_of_an_engine_is_one_that_it_starts(
    pack: str, model: str, tmp_path: Path
) -> None:
    """Replicas of sizes such as 6 of 8 GPUs straddled nodes, and decode began where they ended."""
    plan = tmp_path / "plan.json"
    asked = ["--model", model, *ASKED[2:]]
    run("solve", *asked, "--engine", pack, "-q", "-o", plan)
    target = {v: k for k, v in PACKS.items()}[pack]
    assert "router" in run("export", plan, "--to", target).stdout
