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


@pytest.mark.parametrize("load", ["--load c", "--pretrained-checkpoint c"])
@pytest.mark.parametrize(
    ("model", "stated"),
    [
        ("mixtral-8x7b", "--num-query-groups 4"),
        ("mixtral-8x7b", "--num-experts 16"),
        ("mixtral-8x7b", "--moe-router-topk 4"),
        ("mixtral-8x7b", "--moe-ffn-hidden-size 777"),
        ("mixtral-8x7b", "--ffn-hidden-size 777"),  # no layer is dense
        ("mixtral-8x7b", "--moe-layer-freq 2"),
        ("deepseek-v3", "--moe-layer-freq [0]*4+[1]*57"),
        ("deepseek-v3", "--moe-shared-expert-intermediate-size 4096"),
        ("deepseek-v3", "--mtp-num-layers 2"),
        ("qwen3-1.7b", "--untie-embeddings-and-output-weights"),
        ("nemotron-3-super-120b-a12b-fp8", "--moe-latent-size 777"),
    ],
)
def test_sizes_that_a_checkpoint_overrules_are_not_compared(
    load: str, model: str, stated: str
) -> None:
    """load_args_from_checkpoint sets these with force=True; without it they start another model."""
    assert read(f"{load} --use-checkpoint-args {stated}", model).engine == "megatron"
    for beside in (load, ""):
        with pytest.raises(SpecError, match="the command starts another model"):
            read(f"{beside} {stated}", model)


@pytest.mark.parametrize(
    ("model", "stated"),
    [
        ("mixtral-8x7b", "--num-layers 31"),
        ("mixtral-8x7b", "--hidden-size 4097"),
        ("mixtral-8x7b", "--num-attention-heads 16"),
        ("mixtral-8x7b", "--kv-channels 64"),
        ("mixtral-8x7b", "--multi-latent-attention"),
        ("mixtral-8x7b", "--vocab-size 1234"),
        ("llama-3.1-70b", "--ffn-hidden-size 14337"),
        ("deepseek-v3", "--kv-lora-rank 256"),
        # None in the checkpoint of a model without them, which sets nothing
        ("llama-3.1-70b", "--num-experts 8"),
        ("mixtral-8x7b", "--moe-shared-expert-intermediate-size 2048"),
        ("mixtral-8x7b", "--moe-latent-size 1024"),
    ],
)
def test_sizes_that_overrule_a_checkpoint_are_those_of_the_model(model: str, stated: str) -> None:
    with pytest.raises(SpecError, match="the command starts another model"):
        read(f"--load c --use-checkpoint-args {stated}", model)


def test_a_size_that_a_checkpoint_overrules_is_of_no_use() -> None:
    notes = read("--load c --use-checkpoint-args --moe-router-topk 4", "mixtral-8x7b").notes
    assert "of no use to a plan: --moe-router-topk" in notes
