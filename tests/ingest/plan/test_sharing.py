"""Two commands that want one GPU or one port, and GPUs that the cluster has not."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from autopar.catalog import load_llm
from autopar.cli import main
from autopar.errors import SpecError
from autopar.ingest.plan import Question, Reading, read_plan
from autopar.ingest.plan.commands.hosts import host_in

LINE = "{env}vllm serve m -tp 2 --max-num-seqs 8 --port {port}\n"
POD = (
    "apiVersion: apps/v1\nkind: Deployment\nspec:\n  replicas: 2\n  template: {spec: {containers: "
    "[{image: vllm-openai, args: [m, -tp, '2', --max-num-seqs, '8']}]}}\n"
)


def read(text: str, **more: Any) -> Reading:
    llm = load_llm("llama-3.1-8b")
    return read_plan(text, Question("text", "p", llm_name=llm.name, llm=llm, **more))


def line(gpus: str = "", port: int = 8000, host: str = "") -> str:
    env = f"CUDA_VISIBLE_DEVICES={gpus} " if gpus else ""
    text = LINE.format(env=env, port=port)
    return f"ssh {host} '{text.strip()}' &\n" if host else text


def said(reading: Reading) -> list[str]:
    return [note for note in reading.notes if not note.startswith("of no use")]


def gpus(reading: Reading) -> list[list[int]]:
    return [replica["stages"][0] for replica in reading.document.get("replicas", [])]


def test_two_commands_with_one_gpu_are_laid_on_two_nodes_and_that_is_said() -> None:
    reading = read(line("0,1") + line("1,2", 8001), node_gpus=8)
    assert gpus(reading) == [[0, 1], [9, 10]]
    (note,) = said(reading)
    assert note.startswith("server 1 takes GPU 1, which a server before it takes: each is laid on ")
    assert note.endswith("as no command names its host; on one host they would not start")


def test_many_such_commands_are_one_note() -> None:
    reading = read(line("0,1") * 4, node_gpus=8)
    (note,) = said(reading)
    assert "server 1 takes GPU 0, 1, which a server before it takes, and 2 more servers" in note


def test_commands_that_pick_no_gpus_are_laid_side_by_side_and_that_is_said() -> None:
    reading = read(line() + line(port=8001))
    (note,) = said(reading)
    assert note.startswith("2 servers, and no command picks GPUs or names its host")
    assert not said(read(line()))


def test_pods_are_given_gpus_of_their_own() -> None:
    assert not said(read(POD))
    assert read(POD).document["degrees"]["replicas"] == 2


def test_a_gpu_that_is_wanted_twice_on_a_host_is_refused() -> None:
    with pytest.raises(SpecError, match="two commands take GPU 0, 1 of the host a"):
        read(line("0,1", 1, "a") + line("2,3", 2, "a") + line("0,1", 3, "a"))
    with pytest.raises(SpecError, match="two commands take GPU 0, 1 of the host a"):
        read(line("", 1, "a") + line("", 2, "a"))


def test_hosts_that_are_named_are_nodes() -> None:
    """Commands on host a are on its node, though others stand between them."""
    text = line("0,1", 1, "a") + line("2,3", 1, "me@b") + line("2,3", 2, "a")
    reading = read(text, node_gpus=8)
    assert gpus(reading) == [[0, 1], [10, 11], [2, 3]]
    assert not said(reading)


def test_a_port_that_is_wanted_twice_is_said_or_refused_on_a_named_host() -> None:
    (note,) = said(read(line("0,1") + line("2,3")))
    assert note == "servers 0, 1 of one node listen on port 8000: the later ones would not start"
    assert not said(read(line("0,1") + line("2,3", 8001)))
    with pytest.raises(SpecError, match="both listen on port 8000 of the host a"):
        read(line("0,1", host="a") + line("2,3", host="a"))


@pytest.mark.parametrize("network", ["", "--network bridge "])
def test_containers_have_ports_of_their_own_unless_they_share_those_of_the_host(
    network: str,
) -> None:
    text = "docker run {}--gpus device={} vllm-openai m -tp 2 --max-num-seqs 8\n"
    both = text.format(network, "0,1") + text.format(network, "2,3")
    assert not said(read(both))
    shared = text.format("--network=host ", "0,1") + text.format("--net host ", "2,3")
    assert [note for note in said(read(shared)) if "listen on port 8000" in note]


@pytest.mark.parametrize(
    ("words", "host"),
    [
        ("ssh a x y", "a"),
        ("ssh -p 22 -n me@a.b.c x", "a.b.c"),
        ("ssh $HOST x", ""),
        ("ssh", ""),
        ("srun", ""),
        ("", ""),
        ("srun -N 1 -w n1 x", "n1"),
        ("srun --nodelist=n1 x", "n1"),
        ("srun --nodelist=n[1-2] x", ""),
        ("srun -w n1,n2 x", ""),
        ("vllm serve m", ""),
    ],
)
def test_hosts_that_commands_name(words: str, host: str) -> None:
    assert host_in(words.split()) == host


def test_all_gpus_beyond_a_node_are_named() -> None:
    with pytest.raises(SpecError, match=r"found GPU 8, 9, expected some of the 8 of a node"):
        read(line("8,9"), node_gpus=8)


def test_gpus_beyond_the_cluster_are_refused() -> None:
    text = "vllm serve m -tp 8 -dp 2 --max-num-seqs 8"
    with pytest.raises(SpecError, match=r"GPU 8, .*, 15 of 16 ranks: not in the cluster, which"):
        read(text, num_gpus=8, node_gpus=8)
    assert read(text, num_gpus=16, node_gpus=8).document["degrees"]["replicas"] == 2
    with pytest.raises(SpecError, match="GPU 8 of 2 ranks: not in the cluster, which has 8 GPUs"):
        read(line(), num_gpus=8, node_gpus=8, ranks={0: [7, 8]})


def test_the_cluster_of_the_command_line_is_the_one_that_counts(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text("vllm serve m -tp 8 -pp 2 --max-num-seqs 8\n", encoding="utf-8")
    arguments = ["ingest", "plan", str(script), "--model", "llama-3.1-8b", "--cluster"]
    result = CliRunner().invoke(main, [*arguments, "1xhgx-h100"])
    assert result.exit_code == 2
    assert "GPU 8, 9, 10, 11, 12, 13, 14, 15 of 16 ranks" in result.stderr
    assert CliRunner().invoke(main, [*arguments, "2xhgx-h100"]).exit_code == 0


def test_a_comment_of_an_export_names_the_host_of_the_commands_after_it() -> None:
    scripts = [f"#!/bin/sh\n# autopar: host {host}\n" for host in ("b", "a", "b")]
    text = scripts[0] + line("0,1", 1) + scripts[1] + line("0,1", 1) + scripts[2] + line("2,3", 2)
    reading = read(text, node_gpus=8)
    assert gpus(reading) == [[0, 1], [8, 9], [2, 3]]
    assert not said(reading)
    with pytest.raises(SpecError, match="two commands take GPU 0, 1 of the host b"):
        read(scripts[0] + line("0,1", 1) + scripts[2] + line("0,1", 2))


def test_the_next_script_is_on_no_host_that_the_one_before_named() -> None:
    scripts = ("#!/bin/sh\n# autopar: host b\n", "#!/bin/sh\n")
    reading = read("".join(script + line("0,1") for script in scripts), node_gpus=8)
    assert gpus(reading) == [[0, 1], [8, 9]]


@pytest.mark.parametrize("comment", ["# autopar: host $H", "# host: b", "# autopar: host a b", "#"])
def test_other_comments_name_no_host(comment: str) -> None:
    reading = read(f"{comment}\n{line('0,1')}{comment}\n{line('0,1', 8001)}", node_gpus=8)
    (note,) = said(reading)
    assert "each is laid on another node, as no command names its host" in note


def test_the_address_that_a_server_listens_at_names_its_host() -> None:
    text = "".join(line(port=port).strip() + f" --host 10.0.0.{port}\n" for port in (1, 4, 1))
    with pytest.raises(SpecError, match=r"two commands take GPU 0, 1 of the host 10\.0\.0\.1"):
        read(text)
    reading = read("".join(text.splitlines(keepends=True)[:2]), node_gpus=8)
    assert gpus(reading) == [[0, 1], [8, 9]]
    assert not any("names its host" in note for note in said(reading))


@pytest.mark.parametrize("address", ["0.0.0.0", "localhost", "$HOST", "::"])
def test_an_address_of_any_machine_names_no_host(address: str) -> None:
    (note,) = said(read((line().strip() + f" --host {address}\n") * 2))
    assert "no command picks GPUs or names its host" in note


def test_a_server_that_spans_nodes_of_the_cluster_is_on_no_single_host() -> None:
    """Ray starts the 16 ranks of one command on two nodes."""
    text = "vllm serve m -tp 8 -pp 2 --max-num-seqs 8 --host a\n"
    assert not said(read(text, node_gpus=8))


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ("", "2 GPUs, the most that one takes"),
        ("4,5", "6 GPUs, the most that CUDA_VISIBLE_DEVICES"),
    ],
)
def test_where_the_gpus_of_nodes_come_from_is_said(env: str, why: str) -> None:
    notes = said(read(line(env, host="a") + line(env, host="b")))
    assert any(note.startswith(f"nodes are taken to have {why}") for note in notes)
