"""Commands that people write, in the spellings that shells and engines take."""

from pathlib import Path
from typing import Any

import pytest

from autopar.catalog import load_llm
from autopar.errors import SpecError
from autopar.ingest.plan import Question, Reading, read_plan
from autopar.ingest.plan.flags import known_flags
from autopar.ingest.plan.sglang import default_split as sglang_split
from autopar.ingest.plan.trtllm import default_split as trtllm_split
from autopar.ingest.plan.vllm import default_split as vllm_split


def read(text: str, model: str = "deepseek-v3", **more: Any) -> Reading:
    llm = load_llm(model)
    return read_plan(text, Question("text", "p", llm_name=llm.name, llm=llm, **more))


def degrees(text: str, model: str = "deepseek-v3") -> dict[str, int]:
    return read(text, model).document["degrees"]


@pytest.mark.parametrize(
    "text",
    [
        "vllm serve m --tensor-parallel-size 8 --data-parallel-size 2 --enable-expert-parallel",
        "vllm serve m -tp 8 -dp=2 --enable-expert-parallel",
        "vllm serve m --tensor_parallel_size=8 --data-parallel-size 2 --enable-expert-parallel",
        "vllm serve --enable-expert-parallel m -tp 8 -dp 2",
        "NCCL_DEBUG=INFO vllm serve m -tp 8 \\\n  -dp 2 \\\n  --enable-expert-parallel",
        "export HF_HOME=/x\nexec env A=b vllm serve 'm' -tp \"8\" -dp 2 --enable-expert-parallel &",
        "# a comment with 'a quote\nvllm serve m -tp 8 -dp 2 --enable-expert-parallel # done",
        (
            "python -m vllm.entrypoints.openai.api_server --model m -tp 8 -dp 2 "
            "--enable-expert-parallel"
        ),
        "docker run --gpus all image vllm serve m -tp 8 -dp 2 --enable-expert-parallel",
    ],
)
def test_spellings_of_one_vllm_command(text: str) -> None:
    assert degrees(text) == {
        "replicas": 1, "pp": 1, "tp": 8, "cp": 1, "attn_dp": 2, "ep": 16, "etp": 1, "spread": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "python -m sglang.launch_server --model-path m --tp-size 16 --attn-dp-size 8 --ep-size 4",
        "python3 -m sglang.launch_server --model m --tp 16 --attn-dp-size 8 --ep 4",
        (
            "python -m sglang.launch_server --model-path m --tp 16 --dp-size 8 "
            "--enable-dp-attention --expert-parallel-size 4"
        ),
        "sglang serve --model-path m --tp-size 16 --attention-data-parallel-size 8 --ep-size 4",
    ],
)
def test_spellings_of_one_sglang_command(text: str) -> None:
    assert degrees(text) == {
        "replicas": 1, "pp": 1, "tp": 2, "cp": 1, "attn_dp": 8, "ep": 4, "etp": 4, "spread": 1,
    }  # fmt: skip


def test_a_backend_that_forces_expert_parallelism_is_known() -> None:
    reading = read(
        "python -m sglang.launch_server --tp 8 --attn-dp-size 8 --moe-a2a-backend deepep"
    )
    assert reading.document["degrees"]["ep"] == 8
    assert any("deepep" in note for note in reading.notes)


@pytest.mark.parametrize(
    "text",
    [
        "trtllm-serve m --tp_size 8 --ep_size 4 --pp_size 2",
        (
            "trtllm-serve serve m --tensor_parallel_size 8 --moe_expert_parallel_size 4 "
            "--pipeline_parallel_size=2"
        ),
        (
            "mpirun -n 16 --hostfile h trtllm-llmapi-launch trtllm-serve serve m --tp_size 8 "
            "--ep_size 4 --pp_size 2"
        ),
        "tensor_parallel_size: 8\nmoe_expert_parallel_size: 4\npipeline_parallel_size: 2\n",
        "tensor_parallel_size: 8\nmoe_tensor_parallel_size: 2\npipeline_parallel_size: 2\n",
    ],
)
def test_spellings_of_one_tensorrt_llm_server(text: str) -> None:
    assert degrees(text) == {
        "replicas": 1, "pp": 2, "tp": 8, "cp": 1, "attn_dp": 1, "ep": 4, "etp": 2, "spread": 1,
    }  # fmt: skip


def test_yaml_has_the_last_word_over_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("tensor_parallel_size: 4\npp_partition: [40, 21]\n")
    text = "trtllm-serve m --tp_size 8 --pp_size 2 --extra_llm_api_options c.yaml"
    document = read(text, folder=tmp_path).document
    assert document["degrees"]["tp"] == 4
    assert document["layers_per_stage"] == [40, 21]


@pytest.mark.parametrize(
    ("layout", "split"),
    [
        ("Et*30|t*31L", [30, 31]),
        ("E,t*30|t*31,L", [30, 31]),
        ("Ettt|(t*29|)*2L", None),
        ("E(t|)*1t*60L", [1, 60]),
        ("Et*30|t*31mL' --mtp-num-layers '1", [30, 31]),
    ],
)
def test_layouts_of_megatron(layout: str, split: list[int] | None) -> None:
    text = (
        "torchrun --nnodes 2 --nproc_per_node=8 pretrain_gpt.py --tensor-model-parallel-size 8 "
        "--pipeline-model-parallel-size 2 --num-experts 256 "
        f"--pipeline-model-parallel-layout '{layout}'"
    )
    if split is None:
        with pytest.raises(SpecError, match="stages"):
            read(text)
    else:
        assert read(text).document["layers_per_stage"] == split


def test_expert_tensor_parallelism_of_megatron_is_tensor_parallelism_unless_stated() -> None:
    text = (
        "torchrun --nnodes 2 --nproc-per-node 8 x.py --tensor-model-parallel-size 2 "
        "--expert-model-parallel-size 4 --num-experts 256"
    )
    found = degrees(text)
    assert (found["etp"], found["attn_dp"], found["replicas"]) == (2, 4, 2)
    found = degrees(text + " --expert-tensor-parallel-size 1")
    assert (found["etp"], found["attn_dp"], found["replicas"]) == (1, 2, 4)


def test_splits_that_engines_make_by_themselves() -> None:
    """Hand-worked: 61 layers over 4 stages are 15 each and one left over; 62, two left over.

    vLLM gives them to the stages before the last, SGLang to the last, TensorRT-LLM to the first.
    """
    assert vllm_split(61, 4) == (15, 15, 16, 15)
    assert vllm_split(62, 4) == (15, 16, 16, 15)
    assert sglang_split(61, 4) == (15, 15, 15, 16)
    assert sglang_split(62, 4) == (15, 15, 16, 16)
    assert trtllm_split(61, 4) == (16, 15, 15, 15)
    assert trtllm_split(62, 4) == (16, 16, 15, 15)
    reading = read("vllm serve m -tp 8 -pp 4")
    assert reading.document["layers_per_stage"] == [15, 15, 16, 15]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vllm serve m --tensor-paralel-size 8", "--tensor-parallel-size"),
        ("vllm serve m --no-such-thing a b c -tp 8", "unknown flag"),
        ("python -m sglang.launch_server --tp 8 --ep-sise 4", "--ep-size"),
        ("trtllm-serve m --tp_sise 4", "--tp_size"),
        ("tensor_parallel_size: 4\nmoe_paralel: 3\n", "moe_paralel"),
        (("torchrun x.py --tensor-model-parallel-size 1 --recompute-granularity full "
         "--num-expert 4"), "--num-experts"),
    ],
)  # fmt: skip
def test_unknown_flags_are_said(text: str, words: str) -> None:
    reading = read(text, "mixtral-8x7b")
    unknown = [note for note in reading.notes if note.startswith("unknown flag")]
    assert len(unknown) == 1
    assert words in unknown[0]
    assert any(words in note for note in reading.document["notes"])


def test_a_value_of_an_unknown_flag_is_no_model() -> None:
    assert degrees("vllm serve m --no-such-thing a b c -tp 8")["tp"] == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vllm serve m -tp 4 --enable-eplb", "--enable-eplb"),
        ("vllm serve m -tp 4 --kv-cache-dtype fp8", "--kv-cache-dtype fp8"),
        ("vllm serve m --enable-lora", "not read, as a plan holds nothing of it: --enable-lora"),
        ("python -m sglang.launch_server --tp 4 --mem-fraction-static 0.9", "--mem-fraction"),
        ("trtllm-serve m --tp_size 4 --max_beam_width 4", "max_beam_width"),
    ],
)
def test_what_a_plan_does_not_hold_is_said(text: str, words: str) -> None:
    assert any(words in note for note in read(text).notes)


def test_a_share_of_memory_is_told_only_where_the_size_of_the_cache_is_not_given() -> None:
    start = "python -m sglang.launch_server --tp 4 --max-running-requests 8"
    text = f"{start} --mem-fraction-static 0.9"
    assert len(read(text).notes) == 1
    assert not read(f"{text} --max-total-tokens 1000").notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vllm serve m -tp 8 --decode-context-parallel-size 2", "decode-context"),
        ("vllm serve m -tp zero", "whole number"),
        ("VLLM_PP_LAYER_PARTITION=30,30,1 vllm serve m -pp 2", "2 numbers"),
        ("python -m sglang.launch_server --tp-size 8 --ep-size 3", "computes with wrong shards"),
        ("python -m sglang.launch_server --tp-size 8 --attn-dp-size 3", "refuses"),
        ("python -m sglang.launch_server --tp 8 --moe-dp-size 2", "one grid"),
        ("python -m sglang.launch_server --tp 8 --ep 8 --ep-num-redundant-experts 8", "once"),
        ("trtllm-serve m --tp_size 8 --ep_size 3", "expert_parallel_size 3 does not divide 8"),
        ("trtllm-serve m --tp_size 4 --ep_size 8", "expert_parallel_size 8 does not divide 4"),
        ("tensor_parallel_size: 4\nmoe_tensor_parallel_size: 3\n", "_size 3 does not divide 4"),
        (("tensor_parallel_size: 8\nmoe_tensor_parallel_size: 2\nmoe_expert_parallel_size: 2\n"),
         r"2 \* moe_tensor_parallel_size 2 is not 8"),
        ("trtllm-serve m --cluster_size 2", "clusters"),
        ("pp_partition: [61]\npipeline_parallel_size: 2\n", "2 numbers"),
        (("torchrun --nnodes 3 --nproc-per-node 8 x.py --tensor-model-parallel-size 1 "
         "--pipeline-model-parallel-size 4 --expert-model-parallel-size 8 "
         "--expert-tensor-parallel-size 1 --num-experts 32"), "fails when it builds its groups"),
        (("torchrun --nproc-per-node 8 x.py --tensor-model-parallel-size 8 --num-experts 8 "
         "--expert-tensor-parallel-size 1"), "copied inside"),
        (("torchrun x.py --tensor-model-parallel-size 1 --pipeline-model-parallel-size 4 "
         "--num-virtual-stages-per-pipeline-rank 2"), "virtual stages"),
        ("echo hello", "no command"),
        ("vllm serve 'm", "not closed"),
        ("vllm serve m -tp 2\nvllm serve m -tp 4", "servers differ"),
        ("vllm serve a/M -tp 2\nvllm serve b/N -tp 4", "load 'a/M' and 'b/N'; a plan is of one"),
        ("vllm serve a/M -tp 2\nvllm serve b/N -tp 2", "load 'a/M' and 'b/N'; a plan is of one"),
        ("vllm serve m\npython -m sglang.launch_server --tp 1", "expected of one"),
    ],
)  # fmt: skip
def test_what_no_plan_can_hold_is_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read(text)


def test_folders_of_a_model_may_be_any_and_variables_are_none() -> None:
    text = "vllm serve {} -tp 2 --max-num-seqs 8\n"
    models = ("org/Model", "/data/model/", "$MODEL")
    assert degrees("".join(map(text.format, models)))["replicas"] == 3


def test_a_dense_model_has_copies_where_a_mixture_has_attention_groups() -> None:
    found = degrees("vllm serve m -tp 2 -dp 4", "llama-3.1-8b")
    assert found == {"replicas": 4, "pp": 1, "tp": 2, "cp": 1, "attn_dp": 1, "ep": 1, "etp": 2}
    assert degrees("vllm serve m -tp 2 -dp 4", "mixtral-8x7b")["etp"] == 8


def test_nodes_of_one_server_are_one_server() -> None:
    line = "python -m sglang.launch_server --tp 16 --nnodes 2 --node-rank {} --dist-init-addr a:1\n"
    assert degrees(line.format(0) + line.format(1))["replicas"] == 1
    assert degrees(line.format(0))["replicas"] == 1
    with pytest.raises(SpecError, match="node 0"):
        read(line.format(0) + line.format(0))
    with pytest.raises(SpecError, match="tp is 16 and 8"):
        read(line.format(0) + line.format(1).replace("--tp 16", "--tp 8"))


TORCHRUN = (
    "torchrun --nproc-per-node {} --nnodes {} x.py --tensor-model-parallel-size {} "
    "--pipeline-model-parallel-size 1 --num-experts 256 --expert-model-parallel-size 32 "
    "--expert-tensor-parallel-size 1"
)


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        (TORCHRUN.format("$GPUS_PER_NODE", 3, 1), "GPUS_PER_NODE"),
        (TORCHRUN.format("8", "${NNODES}", 1), "NNODES"),
        (TORCHRUN.format("8", "1:$MOST", 1), "MOST"),
        (TORCHRUN.format("8", 4, "${TP:?}"), "TP"),
        ("WORLD_SIZE=$N python x.py --tensor-model-parallel-size 8", "N"),
        ("srun --ntasks-per-node $PER python x.py --tensor-model-parallel-size 8", "PER"),
        ("vllm serve m -tp $TP", "TP"),
        ("vllm serve m --max-num-seqs=${SEQS}", "SEQS"),
        ("vllm serve m -tp 16 --nnodes $NNODES", "NNODES"),
        ("python -m sglang.launch_server --tp-size $(nproc)", "nproc"),
        ("python -m sglang.launch_server --tp 8 --nnodes $N", "N"),
        ("python -m sglang.launch_server --tp 8 --max-running-requests ${RUN}", "RUN"),
        ("trtllm-serve m --tp_size ${TP_SIZE}", "TP_SIZE"),
        ("trtllm-serve m --tp_size 4 --max_batch_size $B", "B"),
        ("tensor_parallel_size: $TP\n", "TP"),
        ("VLLM_PP_LAYER_PARTITION=$SPLIT vllm serve m -pp 2", "SPLIT"),
    ],
)
def test_a_number_that_is_a_variable_is_refused_by_its_name(text: str, variable: str) -> None:
    with pytest.raises(SpecError, match=rf"nothing that was read sets '\$?\(?{variable}\)?'"):
        read(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TORCHRUN.format("gpu", 3, 1), "--nproc-per-node: found 'gpu'"),
        ("torchrun --nnodes 3 x.py --tensor-model-parallel-size 1", "without --nproc-per-node"),
        (TORCHRUN.format("8 --node-rank 4", 4, 1), "expected one of 0 to 3"),
        ("vllm serve m -tp 16 --nnodes 2 --node-rank two", "expected one of 0 to 1"),
        ("python -m sglang.launch_server --tp 8 --nnodes 2 --node-rank 2", "expected one of 0"),
    ],
)
def test_numbers_of_a_launcher_are_read_or_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read(text)


@pytest.mark.parametrize(
    "text",
    [
        "vllm serve m -tp 16 --nnodes 2 --node-rank $NODE_RANK --master-addr $HEAD",
        (
            "vllm serve m -dp 16 -tp 1 -dpl 8 --data-parallel-start-rank $((RANK*8)) "
            "--enable-expert-parallel"
        ),
        "python -m sglang.launch_server --tp 16 --nnodes 2 --node-rank ${SLURM_NODEID}",
        TORCHRUN.format("8 --node_rank $RANK", 4, 1),
    ],
)
def test_a_node_rank_that_is_a_variable_stands_for_every_node(text: str) -> None:
    reading = read(text)
    assert reading.document["degrees"]["replicas"] == 1
    assert any("stands for all" in note for note in reading.notes)
    with pytest.raises(SpecError, match="two commands are node 0"):
        read(f"{text}\n{text}\n")


def test_a_world_comes_from_what_starts_it() -> None:
    arguments = "--tensor-model-parallel-size 8"
    assert degrees(f"srun -N 3 --ntasks-per-node=8 python x.py {arguments}")["replicas"] == 3
    assert degrees(f"mpirun -np 24 python x.py {arguments}")["replicas"] == 3
    assert degrees(f"WORLD_SIZE=24 python x.py {arguments}")["replicas"] == 3
    text = "torchrun --nproc_per_node=8 --nnodes=3 --rdzv_backend=c10d --rdzv_endpoint=h:1 x.py "
    reading = read(text + arguments)
    assert reading.document["degrees"]["replicas"] == 3
    assert not any(note.startswith("unknown flag") for note in reading.notes)


def test_nothing_of_a_text_is_run(tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    reading = read(f"vllm serve $(touch {target}) -tp 2; touch {target}")
    assert not target.exists()
    assert any("not read: the command" in note for note in reading.notes)


def test_every_flag_that_we_ask_for_is_one_of_the_engine() -> None:
    """A slip in a name that we read would make a flag be passed over."""
    folder = Path(__file__).parents[3] / "autopar" / "ingest" / "plan"
    for engine in ("vllm", "sglang"):
        text = (folder / f"{engine}.py").read_text("utf-8")
        found = {word for word in text.split('"') if word.startswith("--") and " " not in word}
        spelled = {"--tp", "--pp", "--dp"}  # argparse takes beginnings of names
        assert found - spelled <= set(known_flags(engine).flags)


@pytest.mark.parametrize(
    ("flag", "known"),
    [
        ("--num-layers 32", "61"),
        ("--num-experts 8", "256"),
        ("--hidden-size 1024", "7168"),
        ("--num-attention-heads 16", "128"),
    ],
)
def test_sizes_of_another_model_are_refused(flag: str, known: str) -> None:
    """A fresh reader's find: layers of 32 became stages of a model of 48, and verify passed it."""
    text = f"torchrun --nproc-per-node 8 x.py --tensor-model-parallel-size 8 {flag}"
    with pytest.raises(SpecError, match=f"{flag}, but the model 'deepseek-v3' has {known}: "):
        read(text)
    own = f"{flag.split(maxsplit=1)[0]} {known}"
    assert read(text.replace(flag, own)).document["degrees"]["tp"] == 8


def test_the_batch_of_a_command_goes_before_the_one_that_is_asked_for() -> None:
    stated = read("vllm serve m -tp 8 -pp 2 --max-num-seqs 64", batch=4)
    assert stated.document["batch"] == 32
    assert "--batch 4 is passed over: by the command it is 32" in stated.notes
    assert read("vllm serve m -tp 8", batch=4).document["batch"] == 4


def test_a_share_of_memory_of_trtllm_is_said() -> None:
    text = "trtllm-serve m --tp_size 8 --free_gpu_memory_fraction 0.7"
    assert any("a share of memory" in note for note in read(text).notes)


@pytest.mark.parametrize("flag", ["-dcp 2", "-pcp 2"])
def test_short_names_of_context_parallelism_are_refused_as_the_long_ones(flag: str) -> None:
    with pytest.raises(SpecError, match="context-parallel-size"):
        read(f"vllm serve m -tp 8 --max-num-seqs 8 {flag}")
