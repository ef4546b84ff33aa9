"""Where Megatron has its experts from: its arguments, or the checkpoint that it loads."""

import pytest

from autopar.catalog import load_llm
from autopar.errors import SpecError
from autopar.ingest.plan import Question, Reading, read_plan

TORCHRUN = "torchrun --nnodes 4 --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 4 "
GRID = "--expert-model-parallel-size 8 --expert-tensor-parallel-size 1 "
STAGES = "--pipeline-model-parallel-size 2 "
REFUSED = "num_experts must be non None to use expert model parallelism"


def read(arguments: str, model: str = "qwen3-235b-a22b") -> Reading:
    llm = load_llm(model) if model else None
    return read_plan(TORCHRUN + arguments, Question("text", "p", llm_name=model, llm=llm))


@pytest.mark.parametrize(
    "experts",
    [
        "--num-experts 128",
        "--load /ckpt --use-checkpoint-args",
        "--pretrained-checkpoint /ckpt --use-checkpoint-args",
    ],
)
def test_experts_of_a_checkpoint_are_laid_out_as_stated_ones(experts: str) -> None:
    """Hand-worked: 16 GPUs of a stage are 2 grids of 8, and a grid is 2 groups of 4."""
    reading = read(GRID + STAGES + experts)
    assert reading.document["degrees"].items() >= {
        "replicas": 2, "pp": 2, "tp": 4, "attn_dp": 2, "ep": 8, "etp": 1,
    }.items()  # fmt: skip
    assert not any("without experts" in note for note in reading.notes)
    assert not any("of no use" in note for note in reading.notes)
    unknown = read(GRID + experts, "").document["degrees"]
    assert (unknown["replicas"], unknown["attn_dp"], unknown["ep"]) == (4, 2, 8)


@pytest.mark.parametrize("beside", ["", "--load /ckpt", "--use-checkpoint-args", "--num-experts 0"])
@pytest.mark.parametrize("model", ["qwen3-235b-a22b", "", "llama-3.1-70b"])
def test_expert_parallelism_without_experts_is_refused(beside: str, model: str) -> None:
    with pytest.raises(SpecError, match=REFUSED):
        read(GRID + STAGES + beside, model)


def test_expert_parallelism_of_a_dense_model_is_refused_with_its_checkpoint() -> None:
    with pytest.raises(SpecError, match=f"'llama-3.1-70b' has none.*{REFUSED}"):
        read("--expert-model-parallel-size 2 --load c --use-checkpoint-args", "llama-3.1-70b")
    assert read("--load c --use-checkpoint-args", "llama-3.1-70b").document["degrees"]["ep"] == 1


def test_a_command_that_builds_no_experts_is_said() -> None:
    (note,) = [note for note in read(STAGES).notes if "without experts" in note]
    assert note.endswith("the plan has the 128 of qwen3-235b-a22b")
    with pytest.raises(SpecError, match="experts are copied inside of a replica"):
        read("--expert-tensor-parallel-size 1")


def test_parallel_sizes_of_a_checkpoint_are_not_known() -> None:
    with pytest.raises(SpecError, match="sizes of a checkpoint, which is not read"):
        read("--load c --use-checkpoint-args --use-mp-args-from-checkpoint-args")
