"""Sizes of the model that Megatron's arguments state must be those of the plan's model."""

import pytest

from autopar.catalog import load_llm
from autopar.errors import SpecError
from autopar.ingest.plan import Question, Reading, read_plan

TORCHRUN = "torchrun --nproc-per-node 8 x.py --tensor-model-parallel-size 2 --micro-batch-size 1 "


def read(arguments: str, model: str) -> Reading:
    llm = load_llm(model)
    return read_plan(TORCHRUN + arguments, Question("text", "p", llm_name=llm.name, llm=llm))


@pytest.mark.parametrize(
    ("model", "right", "wrong"),
    [
        ("mixtral-8x7b", "--num-query-groups 8", "4"),
        ("mixtral-8x7b", "--kv-channels 128", "64"),
        ("mixtral-8x7b", "--ffn-hidden-size 14336", "4096"),
        ("mixtral-8x7b", "--moe-router-topk 2", "4"),
        ("mixtral-8x7b", "--moe-ffn-hidden-size 14336", "777"),
        ("mixtral-8x7b", "--moe-shared-expert-intermediate-size 0", "2048"),
        ("mixtral-8x7b", "--vocab-size 32000", "1234"),
        ("mixtral-8x7b", "--moe-layer-freq 1", "2"),
        ("llama-3.1-8b", "--ffn-hidden-size 14336", "14337"),
        ("llama-3.1-8b", "--hidden-size 4096", "4097"),
        ("llama-3.1-8b", "--num-attention-heads 32", "16"),
        ("deepseek-v3", "--ffn-hidden-size 18432", "2048"),
        ("deepseek-v3", "--moe-ffn-hidden-size 2048", "18432"),
        ("deepseek-v3", "--moe-shared-expert-intermediate-size 2048", "4096"),
        ("deepseek-v3", "--mtp-num-layers 1", "2"),
        ("deepseek-v3", "--q-lora-rank 1536", "768"),
        ("deepseek-v3", "--kv-lora-rank 512", "256"),
        ("deepseek-v3", "--qk-head-dim 128", "192"),
        ("deepseek-v3", "--qk-pos-emb-head-dim 64", "32"),
        ("deepseek-v3", "--v-head-dim 128", "64"),
        ("deepseek-v3", "--moe-layer-freq [0]*3+[1]*58", "[0]*4+[1]*57"),
        ("deepseek-v3", "--moe-layer-freq 3*[0]+58*[1]", "4*[0]+57*[1]"),
        ("deepseek-v3", "--moe-layer-freq '([0]*3+[1]*58)'", "1"),
        ("deepseek-v3.2", "--dsa-indexer-topk 2048", "1024"),
        ("nemotron-h-56b", "--num-attention-heads 64", "256"),  # 256 of its Mamba layers
    ],
)
def test_a_size_that_is_stated_is_that_of_the_model(model: str, right: str, wrong: str) -> None:
    assert read(right, model).engine == "megatron"
    flag = right.partition(" ")[0]
    with pytest.raises(SpecError, match=rf"{flag} .*but the model '{model}' has"):
        read(f"{flag} {wrong}", model)


@pytest.mark.parametrize(
    ("model", "switch", "other"),
    [
        ("deepseek-v3", "--multi-latent-attention", "mixtral-8x7b"),
        ("mixtral-8x7b", "--untie-embeddings-and-output-weights", "qwen3-1.7b"),
    ],
)
def test_a_switch_that_is_given_is_that_of_the_model(model: str, switch: str, other: str) -> None:
    assert read(switch, model).engine == "megatron"
    with pytest.raises(SpecError, match=f"{switch}, but the model"):
        read(switch, other)


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        # no layer is dense, and experts have a width of their own
        ("qwen3-30b-a3b", "--ffn-hidden-size 6144 --moe-ffn-hidden-size 768"),
        # 151643 tokens, rounded up to the rows of the embedding
        ("qwen3-30b-a3b", "--vocab-size 151643 --make-vocab-size-divisible-by 1187"),
        ("llama-3.1-8b", "--moe-router-topk 2"),  # its default, of no account without experts
        ("deepseek-v3", "--kv-channels 64 --num-query-groups 8"),  # attention is latent
        ("deepseek-v3", "--mtp-num-layers 2 --mtp-use-repeated-layer"),
        ("mixtral-8x7b", "--mtp-num-layers 1"),  # its config.json would not say
    ],
)
def test_sizes_without_effect_are_not_compared(model: str, arguments: str) -> None:
    assert read(arguments, model).engine == "megatron"


def test_a_vocabulary_is_rounded_by_what_ranks_share() -> None:
    with pytest.raises(SpecError, match="--vocab-size 151643, but"):
        read("--vocab-size 151643", "qwen3-30b-a3b")


@pytest.mark.parametrize(
    "text",
    [
        "3*[0]+58*[1]",
        "[0]*(1+2)+2*29*[1]",
        "[0]+2*[0]+[1]*29*2",
        "3*[0]+2*([1]*20+9*[1])",
        "[0,0,1*0]+58*[0+1]",
        "999999999*[]+[0]*3+58*[1]",
    ],
)
def test_a_frequency_is_what_python_makes_of_it(text: str) -> None:
    """DeepSeek-V3: 3 dense layers, then 58 with experts."""
    assert read(f"--moe-layer-freq '{text}'", "deepseek-v3").engine == "megatron"


@pytest.mark.parametrize(
    "text",
    [
        "[0,1]", "[2]*61", "[0]*61*61", "x", "[0]*61-[1]", "1.5", "(" * 3000, "[1or 0]*61",
        "[0] * 3 + [1] * 58", " [0]*3+[1]*58", "[0]*[61]", "[[0]]*61", "61+[0]", "60+1",
        "[0]*999999999", "[0]*1024+[0]*1024", "1" + "+1" * 2000, "[0](61)", "(0,1)*[61]",
    ],
)  # fmt: skip
def test_a_frequency_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"--moe-layer-freq .*expected a number, or 61 of 0 and 1"):
        read(f"--moe-layer-freq '{text}'", "deepseek-v3")


def test_sizes_that_are_compared_are_not_of_no_use() -> None:
    notes = read("--vocab-size 32000 --kv-channels 128 --lr 1", "mixtral-8x7b").notes
    assert [note for note in notes if "of no use" in note] == ["of no use to a plan: --lr"]
