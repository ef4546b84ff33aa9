"""What the side-by-side benchmark does without the peer: reading its files, mapping its words."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

PEER = Path(__file__).parents[2] / "benchmarks" / "peer"
MODULES = ("cases", "timed", "run_peer", "autopar_side", "run_oracle", "report", "side_by_side")

AGG_ROW = {
    "tokens/s/gpu_cluster": "858.346",
    "tokens/s/user": "36.244",
    "ttft": "566.238",
    "tpot": "27.591",
    "num_total_gpus": "3",
    "concurrency": "96",
    "tp": "3",
    "pp": "1",
    "dp": "1",
    "moe_tp": "1",
    "moe_ep": "1",
    "bs": "96",
    "memory": "49.06",
    "ctx_tokens": "4000",
}
DISAGG_ROW = {
    "tokens/s/gpu_cluster": "786.888",
    "tokens/s/user": "26.7",
    "ttft": "815.393",
    "tpot": "37.45",
    "num_total_gpus": "16",
    "concurrency": "512",
    "(p)tp": "1",
    "(p)pp": "1",
    "(p)dp": "2",
    "(p)moe_tp": "1",
    "(p)moe_ep": "2",
    "(p)bs": "1",
    "(d)tp": "1",
    "(d)pp": "1",
    "(d)dp": "8",
    "(d)moe_tp": "1",
    "(d)moe_ep": "8",
    "(d)bs": "64",
    "(p)memory": "118.1",
    "(d)memory": "66.0",
    "(p)workers": "4",
    "(d)workers": "1",
}
OUR_DEGREES = {
    "replicas": 4,
    "pp": 2,
    "tp": 2,
    "cp": 1,
    "attn_dp": 4,
    "ep": 4,
    "etp": 2,
    "spread": 1,
}


@pytest.fixture(scope="module")
def peer() -> Iterator[SimpleNamespace]:
    """Import the benchmark's modules as its commands do: from their own folder."""
    if not PEER.is_dir():
        pytest.skip("benchmarks are not part of this tree")
    before = list(sys.path)
    sys.path.insert(0, str(PEER))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path[:] = before
    for name in MODULES:
        sys.modules.pop(name, None)


def case(peer: SimpleNamespace, name: str = "qwen3-235b-a22b-fp8-16xh200") -> Any:
    return peer.cases.select(peer.cases.load_cases(), [name])[0]


def document(**more: Any) -> dict[str, Any]:
    return {"status": "optimal", "degrees": OUR_DEGREES, "metrics": {}, **more}


def test_every_case_of_the_benchmark_names_a_plan_for_both_programs_or_says_why_not(peer):
    cases = peer.cases.load_cases()

    assert len(cases) == 14
    assert all(c.peer.cannot or (c.peer.model and c.peer.system and c.peer.backend) for c in cases)
    assert all({"model", "cluster"} <= set(c.autopar) for c in cases)


def test_both_commands_ask_for_the_same_limits_and_lengths(peer):
    found = case(peer)

    assert found.autopar_command() == (
        "autopar solve --model qwen3-235b-a22b-fp8 --cluster 2xhgx-h200 --workload chat-4k-1k"
        " --ttft 2000ms --tpot 40ms --engine tensorrt-llm --set workload.expert_load=power_law_1.2"
        " --set llm.precisions.kv_cache=fp8 --set workload.prompts_ahead=3"
        " --set workload.chunked_prefill=false --json"
    )
    words = found.peer_arguments("MODEL", "saved")
    said = dict(zip(words[2::2], words[3::2], strict=False)) | dict(
        zip(words[3::2], words[4::2], strict=False)
    )
    assert said["--total-gpus"] == "16"
    assert (said["--isl"], said["--osl"]) == ("4000", "1000")
    assert (said["--ttft"], said["--tpot"]) == ("2000", "40")


def test_an_unknown_case_is_refused_by_name(peer):
    with pytest.raises(peer.cases.CasesError, match="no case 'qwen'"):
        peer.cases.select(peer.cases.load_cases(), ["qwen"])


def test_a_case_with_a_field_that_nobody_reads_is_refused(peer, tmp_path):
    text = (PEER / "cases.yaml").read_text(encoding="utf-8").replace("tpot_ms", "tpot", 1)
    broken = tmp_path / "cases.yaml"
    broken.write_text(text, encoding="utf-8")

    with pytest.raises(peer.cases.CasesError, match="qwen3-32b-8xh200"):
        peer.cases.load_cases(broken)


def test_throughput_and_concurrency_of_an_aggregated_winner_are_of_the_whole_cluster(peer):
    """Two replicas of 3 GPUs on 8: two GPUs idle, 2 x 96 sequences in flight."""
    found = peer.run_peer.winner(AGG_ROW, 8)

    assert found["mode"] == "agg"
    assert (found["replicas"], found["idle_gpus"], found["concurrency"]) == (2, 2, 192)
    assert found["tokens_per_s_per_gpu"] == 858.346
    assert (found["attention_dp"], found["bs"], found["ctx_tokens"]) == (1, 96, 4000)


def test_a_disaggregated_winner_keeps_degrees_batch_and_workers_of_each_role(peer):
    found = peer.run_peer.winner(DISAGG_ROW, 32)

    assert found["mode"] == "disagg"
    assert (found["replicas"], found["concurrency"]) == (2, 1024)
    assert found["prefill"]["workers"] == 4
    assert found["prefill"]["attention_dp"] == 2
    assert (found["decode"]["bs"], found["decode"]["moe_ep"]) == (64, 8)


def test_rows_and_errors_are_read_from_the_log(peer):
    log = (
        "10:00 [aiconfigurator] [I] [main.py:1] Experiment agg completed with 193 results.\n"
        "10:00 [aiconfigurator] [E] [main.py:2] Error running experiment disagg: no room\n"
        "10:00 [aiconfigurator] [E] [main.py:2] Error running experiment disagg: no room\n"
    )

    found = peer.run_peer.read_log(log)

    assert found["rows"] == {"agg": 193}
    assert found["errors"] == ["Error running experiment disagg: no room"]


def test_a_run_without_a_table_has_no_winner(peer, tmp_path):
    assert peer.run_peer.read_outputs(tmp_path, 8) == {}


def test_a_model_that_the_peer_accepts_by_folder_gets_one_with_its_quantisation(peer, tmp_path):
    found = case(peer, "llama-3.1-405b-fp8-8xh200")
    shipped = tmp_path / "lib" / "python3.11" / "site-packages" / "core" / "model_configs"
    shipped.mkdir(parents=True)
    (shipped / "meta-llama--Meta-Llama-3.1-405B_config.json").write_text("{}", encoding="utf-8")

    folder = Path(peer.run_peer.model_path(found, tmp_path, tmp_path / "work"))

    assert (folder / "config.json").read_text(encoding="utf-8") == "{}"
    written = json.loads((folder / "hf_quant_config.json").read_text(encoding="utf-8"))
    assert written["quantization"]["quant_algo"] == "FP8"


def test_degrees_and_batch_of_ours_become_those_of_the_peer(peer):
    plan = peer.autopar_side.as_peer_plan(case(peer), document(batch=24), "MODEL")

    names = ("tp", "pp", "attention_dp", "moe_tp", "moe_ep", "replicas", "batch")
    assert [plan[name] for name in names] == [2, 2, 4, 2, 4, 4, 24]
    assert (plan["num_gpus"], plan["isl"], plan["ttft_ms"]) == (16, 4000, 2000)


def test_a_plan_without_batch_hands_over_its_concurrency(peer):
    plan = peer.autopar_side.as_peer_plan(
        case(peer), document(metrics={"concurrency": 768}), "MODEL"
    )

    assert plan["concurrency"] == 768
    assert "batch" not in plan


@pytest.mark.parametrize(
    "odd",
    [{"tp": None}, {"cp": 2}, {"spread": 2}],
    ids=["stages-differ", "context-parallel", "spread"],
)
def test_a_plan_that_the_peer_has_no_words_for_is_not_bent_into_one(peer, odd):
    degrees = {**OUR_DEGREES, **odd}

    with pytest.raises(peer.autopar_side.NoCounterpartError):
        peer.autopar_side.as_peer_plan(case(peer), document(batch=8, degrees=degrees), "MODEL")


def test_a_winner_of_the_peer_comes_back_unchanged_through_our_plan(peer):
    """Peer -> our plan file -> peer: the same degrees and batch."""
    row = {**AGG_ROW, "tp": "1", "dp": "4", "moe_tp": "2", "moe_ep": "2", "num_total_gpus": "4"}
    winner = peer.run_peer.winner(row, 16)

    plan = peer.autopar_side.winner_as_our_plan({"llm": "m", "cluster": "c"}, winner)
    back = peer.autopar_side.as_peer_plan(case(peer), {"status": "optimal", **plan}, "MODEL")

    there = peer.autopar_side.winner_as_peer_plan(case(peer), winner, "MODEL")
    names = ("tp", "pp", "attention_dp", "moe_tp", "moe_ep", "replicas", "batch")
    assert [back[name] for name in names] == [there[name] for name in names]


def test_a_recorded_answer_without_a_file_is_reported_not_invented(peer, tmp_path):
    with pytest.raises(peer.autopar_side.AutoparError, match="no recorded answer"):
        peer.autopar_side.recorded(case(peer), "agg", tmp_path)


def test_the_report_counts_only_plans_that_keep_the_limits(peer, tmp_path):
    """A plan that is faster and late is no share of the winner."""
    row = peer.side_by_side.Row(case(peer), "agg")
    score = {
        "status": "scored",
        "ttft_ms": 1.0,
        "tpot_ms": 1.0,
        "fits": True,
        "by_its_rules": True,
    }
    row.scores = {
        "autopar": {**score, "tokens_per_s_per_gpu": 200.0, "meets_limits": False},
        "peer": {**score, "tokens_per_s_per_gpu": 100.0, "meets_limits": True},
    }

    peer.report.write_report([row], tmp_path)

    text = (tmp_path / "side-by-side.md").read_text(encoding="utf-8")
    assert "200.0%" not in text
    assert "100.0" in text
    assert json.loads((tmp_path / "side-by-side.json").read_text(encoding="utf-8"))["rows"]


def test_every_target_is_told_met_or_missed_case_by_case(peer):
    """The peer took 101.5 s, 1.5 of them to start; we 2.03 s, of which 1 s to search."""
    answer = type("Answer", (), {"wall_s": 2.03, "solve_s": 1.0})()
    good = {"status": "scored", "fits": True, "meets_limits": True, "tokens_per_s_per_gpu": 96.0}
    late = {**good, "meets_limits": False, "tpot_ms": 43.9, "ttft_ms": 5.0}
    rows = []
    for score in (good, {**good, "tokens_per_s_per_gpu": 90.0}, late, None):
        row = peer.side_by_side.Row(case(peer), "agg", answer=answer)
        row.peer_run = {"wall_s": 101.5}
        row.scores = {"autopar": score} if score else {}
        row.oracle = {"agg": {"best": {"tokens_per_s_per_gpu": 100.0}}}
        rows.append(row)
    rows[3].peer_run = rows[3].answer = None

    text = "\n".join(peer.report.targets(rows, 1.5))

    start = "met: 50 | met: 100 | missed: 2.03 s"
    assert f"{start} | met: 96.0% |" in text
    assert f"{start} | missed: 90.0% |" in text
    assert f"{start} | missed: TPOT 43.9 of 40 ms |" in text
    assert "| - | - | - | - |" in text
    assert "Met: 3 of 3 by walls, 3 of 3 by searches, 0 of 3 in time, 1 of 3 within 5%" in text


def test_a_command_that_runs_over_its_limit_is_killed_and_said_to_be(peer, tmp_path):
    out, err = tmp_path / "out", tmp_path / "err"

    found = peer.timed.run_timed([sys.executable, "-c", "while True: pass"], out, err, limit_s=0.3)

    assert found.timed_out
    assert found.exit_code < 0
