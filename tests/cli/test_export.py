"""`autopar export` and `autopar ingest plan` as a user runs them."""

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autopar.cli import main
from autopar.documents import parse

ASKED = ("--model", "qwen3-30b-a3b", "--cluster", "1xhgx-h100", "--workload", "chat-1k-256",
         "--tpot", "30ms")  # fmt: skip
DOCUMENT, PLAN = "moe-16x16-512gpu", "ep16-tp2-pp8"


def run(*args: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args], input=stdin)


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("answers") / "plan.json"
    assert run("solve", *ASKED, "--engine", "sglang", "--json", "-o", file).exit_code == 0
    return file


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "megatron"])
def test_an_answer_goes_there_and_back(answer: Path, engine: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("export", answer, "--to", engine, "--out", out, "--nearest")
    assert result.exit_code == 0, result.stderr
    scripts = sorted(out.glob("*.sh"))
    assert scripts
    for script in scripts:
        assert subprocess.run(["sh", "-n", script], check=True).returncode == 0
        assert script.stat().st_mode & 0o111
    (out / "all.txt").write_text("".join(script.read_text() for script in scripts))
    back = tmp_path / "back.yaml"
    read = run("ingest", "plan", out / "all.txt", "--workload", "chat-1k-256", "--cluster",
               "1xhgx-h100", "--model", "qwen3-30b-a3b", "--ranks", out / "export.json",
               "-o", back)  # fmt: skip
    assert read.exit_code == 0, read.stderr
    assert parse(read.stdout, "plan") == parse(back.read_text(), "plan")
    judged = run("verify", answer, back)
    assert judged.exit_code == 0, judged.stdout
    plan, found = json.loads(answer.read_text()), parse(back.read_text(), "plan")
    if "another plan than asked for" not in result.stdout:
        assert found["degrees"] == plan["degrees"]


def test_the_document_has_commands_ranks_and_files(answer: Path) -> None:
    document = json.loads(run("export", answer, "--to", "sglang", "--json").stdout)
    assert (document["schema"], document["kind"], document["engine"]) == (1, "export", "sglang")
    plan = json.loads(answer.read_text())
    used = plan["num_gpus"]
    assert len(document["ranks"]) == used
    assert {rank["gpu"] for rank in document["ranks"]} == set(range(used))
    node = document["servers"][0]["nodes"][0]
    assert node["argv"][:3] == ["python", "-m", "sglang.launch_server"]
    assert node["env"]["CUDA_VISIBLE_DEVICES"]
    assert "--max-total-tokens" in node["argv"]


def test_standard_input_is_an_answer(answer: Path) -> None:
    piped = run("export", "-", "--to", "sglang", stdin=answer.read_text())
    assert piped.exit_code == 0, piped.stderr
    assert piped.stdout == run("export", answer, "--to", "sglang").stdout


def test_what_the_engine_cannot_start_is_an_error_with_an_offer() -> None:
    refused = run("export", DOCUMENT, PLAN, "--to", "vllm")
    assert refused.exit_code == 2
    assert refused.stdout == ""
    for words in ("vLLM cannot start", "spread is 2", "the best that vLLM can start", "gives up",
                  "--nearest"):  # fmt: skip
        assert words in refused.stderr
    taken = run("export", DOCUMENT, PLAN, "--to", "vllm", "--nearest")
    assert taken.exit_code == 0
    assert "another plan than asked for" in taken.stdout


def test_a_host_has_no_blank_in_its_name(answer: Path) -> None:
    refused = run("export", answer, "--to", "sglang", "--hosts", "a,b c")
    assert refused.exit_code == 2
    assert "--hosts: found 'b c', expected names of hosts" in refused.stderr


def test_a_map_of_experts_is_looked_for_here_and_beside_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()
    (there / "run.sh").write_text("vllm serve m -tp 8 --enable-expert-parallel --max-num-seqs 8\n")
    order = {"physical_to_logical_map": [[7, 6, 5, 4, 3, 2, 1, 0]] * 32}
    (there / "map.json").write_text(json.dumps(order))
    monkeypatch.chdir(here)
    arguments = ("ingest", "plan", there / "run.sh", "--model", "mixtral-8x7b", "--json")
    found = run(*arguments, "--expert-map", "map.json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["placement"][0] == {
        "layer": 0, "expert": 0, "copy": 0, "shard": 0, "gpu": 7,
    }  # fmt: skip
    order["physical_to_logical_map"] = [list(range(8))] * 32
    (here / "map.json").write_text(json.dumps(order))
    found = run(*arguments, "--expert-map", "map.json")
    assert json.loads(found.stdout)["placement"][0]["gpu"] == 0


def test_hosts_ports_and_versions(answer: Path, tmp_path: Path) -> None:
    text = run("export", answer, "--to", "sglang", "--hosts", "gpu-a", "--port", 9000).stdout
    assert "on gpu-a" in text
    assert "--port 9000" in text
    (tmp_path / "hosts").write_text("# ours\nfirst slots=8\nsecond\n")
    assert (
        "on first" in run("export", answer, "--to", "sglang", "--hosts", tmp_path / "hosts").stdout
    )
    old = run("export", answer, "--to", "sglang", "--engine-version", "0.5.10").stdout
    assert "--attn-dp-size" not in old
    assert "checked against SGLang 0.5.23 alone; 0.5.10 is older and may read some" in old
    later = run("export", answer, "--to", "sglang", "--engine-version", "v0.6.0rc1").stdout
    assert "v0.6.0rc1 is newer and may have renamed" in later
    for wrong in ("new", "banana", "1banana", "0.5.", "0.5.23 --x", "latest"):
        refused = run("export", answer, "--to", "sglang", "--engine-version", wrong)
        assert refused.exit_code == 2, wrong
        assert "checked against those of vLLM 0.33.0, SGLang 0.5.23" in refused.stderr


def test_manifests_take_the_engine_of_the_answer(answer: Path) -> None:
    assert "sglang.launch_server" in run("export", answer, "--to", "lws").stdout
    assert run("export", answer, "--to", "vllm", "--with", "sglang").exit_code == 2


def test_unknown_flags_are_said_and_strict_refuses() -> None:
    line = "vllm serve org/Mixtral-8x7B -tp 8 --enable-expert-paralel"
    said = run("ingest", "plan", "-", "--model", "mixtral-8x7b", stdin=line)
    assert said.exit_code == 0
    assert "did you mean '--enable-expert-parallel'" in said.stderr
    strict = run("ingest", "plan", "-", "--model", "mixtral-8x7b", "--strict", stdin=line)
    assert strict.exit_code == 2
    assert strict.stdout == ""


@pytest.mark.parametrize(
    "flag",
    ["--num-moe-experts 8", "--virtual-pipeline-model-parallel-size 2", "--params-dtype bf16"],
)
def test_fields_of_megatron_that_are_no_flags_are_unknown(flag: str) -> None:
    line = f"torchrun --nproc-per-node 8 x.py --tensor-model-parallel-size 8 {flag}"
    said = run("ingest", "plan", "-", "--model", "llama-3.1-8b", "--strict", stdin=line)
    assert said.exit_code == 2
    assert f"unknown flag '{flag.split(maxsplit=1)[0]}'" in said.stderr


def test_the_model_is_found_by_the_name_that_is_loaded() -> None:
    known = run(
        "ingest", "plan", "-", stdin="vllm serve mistralai/Mixtral-8x7B -tp 8 --max-num-seqs 8"
    )
    assert known.exit_code == 0, known.stderr
    assert "llm: mixtral-8x7b" in known.stdout
    unknown = run("ingest", "plan", "-", stdin="vllm serve org/nothing -tp 8")
    assert unknown.exit_code == 2
    assert "give --model" in unknown.stderr


def test_a_command_by_hand_is_judged(tmp_path: Path) -> None:
    file = tmp_path / "mine.sh"
    file.write_text("vllm serve mistralai/Mixtral-8x7B -tp 8 --max-num-seqs 64\n")
    plan = tmp_path / "mine.yaml"
    assert run("ingest", "plan", file, "--cluster", "1xhgx-h100", "-o", plan).exit_code == 0
    judged = run("verify", "--model", "mixtral-8x7b", "--cluster", "1xhgx-h100", "--workload",
                 "chat-1k-256", plan)  # fmt: skip
    assert judged.exit_code == 0, judged.stderr
    assert "mine" in judged.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--hosts", "a,a"), "--hosts: found 'a' twice"),
        (("--hosts", "gpu[01-04]"), "scontrol show hostnames"),
        (("--namespace", "Bad NS"), "--namespace: found 'Bad NS', expected at most 63"),
        (("--namespace", "a: b}"), "--namespace: found"),
        (("--model-path", ""), "--model-path: found '', expected a name or a path"),
        (("--model-path", " "), "--model-path: found ' ', expected a name or a path"),
        (("--hosts", ""), "--hosts: found ''"),
        (("--engine-version", ""), "--engine-version: found ''"),
        (("--namespace", ""), "--namespace: found ''"),
        (("--image", "bad image"), "--image: found 'bad image', expected an image such as"),
        (("--router-image", "a\nb"), "--router-image: found"),
    ],
    ids=str,
)
def test_names_that_are_none_are_refused(
    answer: Path, words: tuple[str, str], expected: str
) -> None:
    result = run("export", answer, "--to", "lws", "--with", "sglang", *words)
    assert result.exit_code == 2
    assert expected in " ".join(result.stderr.split())
