"""Nodes of a server whose commands are not in the text are taken to be alike, and that is said."""

import pytest

from autopar.catalog import load_llm
from autopar.ingest.plan import Question, Reading, read_plan

SGLANG = "python -m sglang.launch_server --tp 16 --nnodes 2 --dist-init-addr a:1 --node-rank {}\n"
VLLM = "vllm serve m --max-num-seqs 8 "
EXTERNAL = VLLM + "-dp 4 -ep --data-parallel-external-lb --data-parallel-rank {}\n"
LOCAL = VLLM + "-dp 16 -ep --data-parallel-size-local 8 "
ALIKE = "; the others are taken to be alike"


def read(text: str) -> Reading:
    llm = load_llm("qwen3-30b-a3b")
    return read_plan(text, Question("text", "p", llm_name=llm.name, llm=llm))


def said(text: str) -> list[str]:
    return [note for note in read(text).notes if "taken to be alike" in note]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (SGLANG.format(0), "of 2 nodes of the server at a:1 only the command of node 0 is here"),
        (SGLANG.format(1), "of 2 nodes of the server at a:1 only the command of node 1 is here"),
        (
            SGLANG.replace("16 --nnodes 2", "32 --nnodes 4").format(0)
            + SGLANG.replace("16 --nnodes 2", "32 --nnodes 4").format(2),
            "of 4 nodes of the server at a:1 only the commands of nodes 0, 2 are here",
        ),
        (
            VLLM + "-tp 16 --nnodes 2 --node-rank 0",
            "of 2 nodes only the command of node 0 is here",
        ),
        (
            VLLM + "-tp 16 --nnodes 2 --node-rank 0 --master-addr a",
            "of 2 nodes of the server at a only the command of node 0 is here",
        ),
        (LOCAL, "of 2 nodes only the command of node 0 is here"),
        (LOCAL + "--data-parallel-start-rank 8", "of 2 nodes only the command of node 1 is here"),
        (EXTERNAL.format(0), ("of 4 data-parallel ranks only the command of data-parallel rank 0 "
         "is here")),
        (("torchrun --nnodes 2 --node_rank 0 --nproc-per-node 8 x.py --micro-batch-size 1 "
         "--tensor-model-parallel-size 8"), "of 2 nodes only the command of node 0 is here"),
    ],
)  # fmt: skip
def test_commands_that_are_missing_are_said(text: str, note: str) -> None:
    assert said(text) == [note + ALIKE]


@pytest.mark.parametrize(
    "text",
    [
        "".join(map(SGLANG.format, range(2))),
        "".join(map(EXTERNAL.format, range(4))),
        SGLANG.format("$RANK"),
        LOCAL + "\n" + LOCAL + "--data-parallel-start-rank 8",
        LOCAL + "--data-parallel-backend ray",
        VLLM + "-tp 16 --distributed-executor-backend ray",
        "trtllm-serve m --tp_size 16 --gpus_per_node 8 --max_batch_size 8",
        (
            "torchrun --nnodes 2 --nproc-per-node 8 x.py --rdzv-endpoint a:1 --micro-batch-size 1 "
            "--tensor-model-parallel-size 8"
        ),
    ],
)
def test_whole_servers_lack_nothing(text: str) -> None:
    assert said(text) == []


def test_the_plan_is_that_of_all_nodes() -> None:
    whole = read("".join(map(SGLANG.format, range(2)))).document
    part = read(SGLANG.format(0)).document
    assert {**part, "notes": []} == {**whole, "notes": []}
