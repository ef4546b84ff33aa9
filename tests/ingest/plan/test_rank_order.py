"""Without a table of ranks, GPUs follow the engine's order of ranks and what commands are shown."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from autopar.catalog import load_llm
from autopar.cli import main
from autopar.errors import SpecError
from autopar.ingest.plan import Question, Reading, read_plan

VLLM = (
    "{env}VLLM_PP_LAYER_PARTITION=24,24 vllm serve x -tp 2 -pp 2 -dp 2 --enable-expert-parallel "
    "--max-num-seqs 64\n"
)
TORCHRUN = (
    "torchrun --nnodes 1 --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 2 "
    "--pipeline-model-parallel-size 2 --num-layers 32 --micro-batch-size 1 "
)


def read(text: str, model: str = "qwen3-30b-a3b", **more: Any) -> Reading:
    llm = load_llm(model)
    return read_plan(text, Question("text", "p", llm_name=llm.name, llm=llm, batch=8, **more))


def stages(reading: Reading) -> list[list[int]]:
    """GPUs of each stage of the first replica; nothing where a plan leaves them to its degrees."""
    return [stage["gpus"] for stage in reading.document.get("stages", [])]


def replicas(reading: Reading) -> list[list[list[int]]]:
    return [replica["stages"] for replica in reading.document.get("replicas", [])]


def test_groups_come_before_stages_in_vllm() -> None:
    """DP x PP x TP: ranks 0, 1 and 4, 5 are stage 0 (vLLM 0.33.0, parallel_state.py)."""
    reading = read(VLLM.format(env=""))
    assert stages(reading) == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert any("--ranks" in note for note in reading.notes)


def test_expert_ranks_are_inside_of_shards_in_tensorrt_llm() -> None:
    """moe_ep_rank = rank % 4: rank 1 has expert group 1, which a plan counts at place 2."""
    reading = read("trtllm-serve m --tp_size 8 --ep_size 4 --pp_size 2 --max_batch_size 4")
    assert stages(reading) == [[0, 4, 1, 5, 2, 6, 3, 7], [8, 12, 9, 13, 10, 14, 11, 15]]
    assert any("trtllm counts ranks" in note for note in reading.notes)


@pytest.mark.parametrize("size", ["--ep_size 8", "--ep_size 1"])
def test_tensorrt_llm_with_one_kind_of_expert_cut_is_in_order(size: str) -> None:
    reading = read(f"trtllm-serve m --tp_size 8 {size} --pp_size 2")
    assert stages(reading) == []
    assert not any("--ranks" in note for note in reading.notes)


def test_megatron_has_all_replicas_of_a_stage_side_by_side() -> None:
    """tp-dp-pp: stage 0 is ranks 0 to 3, of two replicas (Megatron-Core 0.19.2, RankGenerator)."""
    reading = read(TORCHRUN, "llama-3.1-8b")
    assert replicas(reading) == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    assert any("megatron counts ranks" in note for note in reading.notes)


def test_megatron_with_stages_inside_of_data_parallelism_is_in_order() -> None:
    reading = read(TORCHRUN + "--use-tp-pp-dp-mapping", "llama-3.1-8b")
    assert replicas(reading) == []


def test_sglang_counts_as_a_plan_does() -> None:
    reading = read("python -m sglang.launch_server --tp 4 --pp 2 --ep 2 --attn-dp-size 2")
    assert stages(reading) == []
    assert not any("--ranks" in note for note in reading.notes)


def test_gpus_in_ascending_order_are_no_choice() -> None:
    reading = read(VLLM.format(env="CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 "))
    assert stages(reading) == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_rank_r_runs_on_the_rth_gpu_that_it_is_shown() -> None:
    reading = read(VLLM.format(env="CUDA_VISIBLE_DEVICES=7,6,5,4,3,2,1,0 "))
    assert stages(reading) == [[7, 6, 3, 2], [5, 4, 1, 0]]
    assert not any("--ranks" in note for note in reading.notes)


def test_a_part_of_a_node_is_that_part() -> None:
    text = "CUDA_VISIBLE_DEVICES=4,5 python -m sglang.launch_server --tp 2"
    assert replicas(read(text, "llama-3.1-8b")) == [[[4, 5]]]
    text = "HIP_VISIBLE_DEVICES=4,5 vllm serve m -tp 2"
    assert replicas(read(text, "llama-3.1-8b")) == [[[4, 5]]]
    text = "python -m sglang.launch_server --tp 2 --base-gpu-id 4 --gpu-id-step 2"
    assert replicas(read(text, "llama-3.1-8b")) == [[[4, 6]]]


def test_more_gpus_than_ranks_are_taken_from_the_first() -> None:
    text = "CUDA_VISIBLE_DEVICES=3,1,2 vllm serve m -tp 2"
    assert replicas(read(text, "llama-3.1-8b")) == [[[3, 1]]]


def test_commands_with_different_gpus_share_a_node() -> None:
    line = "CUDA_VISIBLE_DEVICES={} vllm serve m -tp 2\n"
    together = read(line.format("2,3") + line.format("0,1"), "llama-3.1-8b")
    assert replicas(together) == [[[2, 3]], [[0, 1]]]
    apart = read(line.format("0,1") + line.format("0,1"), "llama-3.1-8b", node_gpus=8)
    assert replicas(apart) == [[[0, 1]], [[8, 9]]]
    guessed = read(line.format("0,1") + line.format("0,1"), "llama-3.1-8b")
    assert replicas(guessed) == []
    assert any("taken to have 2 GPUs" in note for note in guessed.notes)


def test_nodes_of_a_server_are_other_nodes_though_their_gpus_differ() -> None:
    line = (
        "CUDA_VISIBLE_DEVICES={} python -m sglang.launch_server --tp 4 --nnodes 2 --node-rank {} "
        "--dist-init-addr a:1\n"
    )
    text = line.format("1,0", 0) + line.format("2,3", 1)
    assert replicas(read(text, "llama-3.1-8b", node_gpus=4)) == [[[1, 0, 6, 7]]]
    # without the command of the second node, it is taken to be like the first
    text = line.format("1,0", 0)
    assert replicas(read(text, "llama-3.1-8b", node_gpus=4)) == [[[1, 0, 5, 4]]]


def test_one_command_that_mpirun_brings_to_all_nodes_shows_each_the_same() -> None:
    text = (
        "CUDA_VISIBLE_DEVICES=1,0 mpirun -n 4 trtllm-llmapi-launch trtllm-serve m --tp_size 4 "
        "--max_batch_size 4"
    )
    assert replicas(read(text, "llama-3.1-8b", node_gpus=2)) == [[[1, 0, 3, 2]]]


def test_prefill_and_decode_share_a_node() -> None:
    line = (
        "CUDA_VISIBLE_DEVICES={} python -m sglang.launch_server --tp 2 --disaggregation-mode {}\n"
    )
    text = line.format("3,2", "decode") + line.format("1,0", "prefill")
    roles = read(text, "llama-3.1-8b").document["roles"]
    assert roles["prefill"]["stages"][0]["gpus"] == [1, 0]
    assert roles["decode"]["stages"][0]["gpus"] == [3, 2]


def test_data_parallel_ranks_with_commands_of_their_own_are_one_server() -> None:
    line = (
        "CUDA_VISIBLE_DEVICES={0} vllm serve m -dp 2 --data-parallel-rank {0} "
        "--data-parallel-address a --enable-expert-parallel --max-num-seqs 8\n"
    )
    reading = read(line.format(0) + line.format(1))
    assert reading.document["degrees"]["attn_dp"] == 2
    assert reading.document["degrees"]["replicas"] == 1
    assert stages(reading) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("CUDA_VISIBLE_DEVICES=0,1 vllm serve m -tp 8", "shows 2 GPUs, and 8 ranks"),
        ("CUDA_VISIBLE_DEVICES= vllm serve m -tp 1", "shows 0 GPUs"),
        ("CUDA_VISIBLE_DEVICES=0,1 python -m sglang.launch_server --tp 2 --base-gpu-id 1",
         "shows 2 GPUs"),
        ("CUDA_VISIBLE_DEVICES=0,0 vllm serve m -tp 2", "each GPU once"),
        ("CUDA_VISIBLE_DEVICES=6,8 vllm serve m -tp 2", "found GPU 8, expected some of the 8 of"),
        ("vllm serve m -tp 999999999", "ranks, expected at most"),
    ],
)  # fmt: skip
def test_gpus_that_cannot_be_are_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read(text, "llama-3.1-8b", node_gpus=8)


@pytest.mark.parametrize("value", ["GPU-8932f937,GPU-1234", "$GPUS", "MIG-1"])
def test_gpus_without_numbers_are_said_and_not_guessed(value: str) -> None:
    reading = read(f"CUDA_VISIBLE_DEVICES={value} vllm serve m -tp 2", "llama-3.1-8b")
    assert replicas(reading) == []
    assert any(value[:20] in note and "not known" in note for note in reading.notes)


def test_a_table_of_ranks_wins_over_what_commands_are_shown() -> None:
    text = "CUDA_VISIBLE_DEVICES=4,5 vllm serve m -tp 2"
    reading = read(text, "llama-3.1-8b", ranks={0: [2, 3]})
    assert replicas(reading) == [[[2, 3]]]


def test_a_map_of_experts_lies_on_the_gpus_that_are_shown(tmp_path: Path) -> None:
    order = [list(reversed(range(8)))] * 32
    (tmp_path / "map.json").write_text(f'{{"physical_to_logical_map": {order}}}')
    text = (
        "CUDA_VISIBLE_DEVICES=3,2,1,0 python -m sglang.launch_server --tp 4 --ep 4 "
        "--init-expert-location map.json"
    )
    rows = read(text, "mixtral-8x7b", folder=tmp_path).document["placement"]
    assert {row["expert"]: row["gpu"] for row in rows if row["layer"] == 0} == {
        7: 3, 6: 3, 5: 2, 4: 2, 3: 1, 2: 1, 1: 0, 0: 0,
    }  # fmt: skip


def test_the_cluster_says_how_many_gpus_a_node_has(tmp_path: Path) -> None:
    script, out = tmp_path / "run.sh", tmp_path / "plan.yaml"
    line = "CUDA_VISIBLE_DEVICES=0,1 vllm serve m -tp 2 --max-num-seqs 8\n"
    script.write_text(line * 2, encoding="utf-8")
    arguments = ["--model", "llama-3.1-8b", "--cluster", "2xhgx-h100", "-o", str(out)]
    result = CliRunner().invoke(main, ["ingest", "plan", str(script), *arguments])
    assert result.exit_code == 0, result.stderr
    plan = yaml.safe_load(out.read_text(encoding="utf-8"))
    assert plan["cluster"] == "2xhgx-h100"
    assert [replica["stages"] for replica in plan["replicas"]] == [[[0, 1]], [[8, 9]]]
