"""Nothing that a command says is passed over in silence, and nothing is rounded without a word."""

import re
from typing import Any

import pytest

from autopar.catalog import load_llm, read_document
from autopar.errors import SpecError
from autopar.ingest.plan import Question, Reading, read_plan
from autopar.ingest.plan.sglang import OTHERWISE
from autopar.specs import Workload

SGLANG = "python -m sglang.launch_server --tp 8 --attn-dp-size 8 "
TORCHRUN = "torchrun --nproc-per-node 16 x.py --tensor-model-parallel-size 8 "


def read(text: str, model: str = "deepseek-v3", **more: Any) -> Reading:
    llm = load_llm(model)
    return read_plan(text, Question("text", "p", llm_name=llm.name, llm=llm, **more))


@pytest.mark.parametrize(
    "flag",
    [
        """--eplb-config '{"num_redundant_experts": 32, "window_size": 100}'""",
        "--eplb-config.num_redundant_experts 32",
        "--eplb-config.num_redundant_experts=1",
    ],
)
def test_redundant_experts_of_vllm_are_refused_as_those_of_sglang(flag: str) -> None:
    with pytest.raises(SpecError, match=r"redundant_experts.*every expert once in each replica"):
        read(f"vllm serve m -tp 8 --enable-expert-parallel --enable-eplb {flag}")
    number = flag.rsplit(maxsplit=1)[-1] if "{" not in flag else "32"
    with pytest.raises(SpecError, match=r"redundant-experts.*every expert once in each replica"):
        read(
            "python -m sglang.launch_server --tp 8 --ep 8 --ep-num-redundant-experts "
            f"{number.rpartition('=')[2]}"
        )


def test_a_load_balancer_without_redundant_experts_is_a_note() -> None:
    notes = read("vllm serve m -tp 8 --enable-eplb --eplb-config.num_redundant_experts 0").notes
    assert any(note.startswith("--eplb-config") for note in notes)
    assert read("python -m sglang.launch_server --tp 8 --ep-num-redundant-experts 0").document


@pytest.mark.parametrize("value", ["[1]", "3", "{", "none"])
def test_a_configuration_that_is_no_object_is_refused(value: str) -> None:
    with pytest.raises(SpecError, match=r"--eplb-config: found .*expected a JSON object"):
        read(f"vllm serve m --eplb-config '{value}'")


@pytest.mark.parametrize("flag", ["-O3", "-O 3", "-O=3", "--optimization-level 3"])
def test_a_level_of_optimisation_is_a_known_flag_of_no_layout(flag: str) -> None:
    """Its value is no model: argparse of vLLM makes --optimization-level 3 of all of them."""
    notes = read(f"vllm serve m -tp 8 --max-num-seqs 8 {flag}").notes
    assert notes == ("not read, as a plan holds nothing of it: --optimization-level",)


def test_a_server_without_any_words_is_one() -> None:
    assert read("vllm serve", batch=1).document["degrees"]["tp"] == 1


@pytest.mark.parametrize("flag", ["-O.level=3", """-O '{"level": 3}'""", "-O.level 3"])
def test_what_older_versions_took_behind_o_is_unknown_and_its_successor_said(flag: str) -> None:
    (note,) = read(f"vllm serve m -tp 8 --max-num-seqs 8 {flag}").notes
    assert note.startswith("unknown flag '-O'")
    assert "--compilation-config (-cc)" in note


POD = (
    "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: vllm-openai, env: [{name: VLLM_X, "
    "value: secret}, {name: NCCL_DEBUG, value: INFO}, {name: MINE, value: a}], args: [m, -tp, '8', "
    "--max-num-seqs, '4']}]}\n"
)
SERVER = "vllm serve m -tp 8 --max-num-seqs 4"


@pytest.mark.parametrize(
    "text",
    [
        f"VLLM_X=secret NCCL_DEBUG=INFO MINE=a {SERVER}",
        f"export VLLM_X=secret MINE=a\nexport NCCL_DEBUG=INFO\n{SERVER}",
        f"srun env NCCL_DEBUG=INFO VLLM_X=secret {SERVER}",
        f"docker run -e VLLM_X=secret -e NCCL_DEBUG=INFO vllm-openai {SERVER[11:]}",
        POD,
    ],
)
def test_variables_of_engines_that_are_not_read_are_named_without_their_values(text: str) -> None:
    assert read(text).notes == (
        "not read, as a plan holds nothing of it: $VLLM_X",
        "of no use to a plan: $NCCL_DEBUG",
    )


def test_variables_that_are_read_are_not_said_to_be_unread() -> None:
    env = "CUDA_VISIBLE_DEVICES=0,1 VLLM_PP_LAYER_PARTITION=30,31 SGLANG_PP_LAYER_PARTITION=1,2"
    notes = read(f"{env} vllm serve m -pp 2 --max-num-seqs 4").notes
    assert notes == ("not read, as a plan holds nothing of it: $SGLANG_PP_LAYER_PARTITION",)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("vllm serve m -tp 8 --port 3 --host 0.0.0.0 --max-num-seqs 4", "--port, --host"),
        ("python -m sglang.launch_server --tp 8 --port 3 --max-running-requests 4", "--port"),
        ("trtllm-serve m --tp_size 8 --port 3 --max_batch_size 4", "port"),
        (
            TORCHRUN + "--micro-batch-size 1 --lr 3e-4 --train-iters 10 --bf16",
            "--lr, --train-iters, --bf16",
        ),
        (
            TORCHRUN.replace("x.py", "--rdzv-backend c10d x.py --micro-batch-size 1"),
            "--rdzv-backend",
        ),
    ],
)
def test_known_flags_that_bear_on_no_layout_are_said_in_one_line(text: str, flags: str) -> None:
    notes = [note for note in read(text).notes if note.startswith("of no use to a plan")]
    assert notes == [f"of no use to a plan: {flags}"]


def test_an_option_of_the_command_line_of_trtllm_alone_is_said() -> None:
    notes = read("trtllm-serve m --tp_size 8 --max_batch_size 4 --tool_parser x").notes
    assert notes == ("not read, as a plan holds nothing of it: tool_parser",)


@pytest.mark.parametrize(
    ("text", "batch", "words"),
    [
        ("vllm serve m -tp 8 -pp 2 --max-num-seqs 9", 4, "9 over 2 micro-batches"),
        ("vllm serve m -tp 8 -pp 2 --max-num-seqs 1", 1, "1 over 2 micro-batches"),
        ("vllm serve m -tp 8 -pp 2 --max-num-seqs 8", 4, ""),
        (
            SGLANG + "--max-running-requests 20",
            2,
            "--max-running-requests 20 over 8 attention groups: 2 in each, 16 in all",
        ),
        (
            SGLANG + "--chunked-prefill-size 9 --max-running-requests 8",
            1,
            "--chunked-prefill-size 9 over 8 attention groups: 1 in each, 8 in all",
        ),
    ],
)
def test_what_is_rounded_is_said(text: str, batch: int, words: str) -> None:
    """Hand-worked: 9 sequences in 2 micro-batches are 4 each, and one is left over."""
    reading = read(text)
    assert reading.document["batch"] == batch
    assert any(words in note for note in reading.notes) if words else not reading.notes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("VLLM_PP_LAYER_PARTITION=30,30 vllm serve m -tp 8 -pp 2", "'30,30', 60 in all"),
        ("VLLM_PP_LAYER_PARTITION=60 vllm serve m -tp 8", "'60', 60 in all"),
        (
            "SGLANG_PP_LAYER_PARTITION=31,31 python -m sglang.launch_server --tp 8 --pp 2",
            "'31,31', 62 in all",
        ),
        ("pp_partition: [1, 2]\npipeline_parallel_size: 2\n", "'1,2', 3 in all"),
        (
            TORCHRUN + "--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout "
            "'Et*10|t*10L'",
            "'10,10', 20 in all",
        ),
    ],
)
def test_stages_that_do_not_hold_the_layers_of_the_model_are_refused(text: str, found: str) -> None:
    with pytest.raises(SpecError, match=rf"layers of stages: found {found}.*has 61"):
        read(text)


@pytest.mark.parametrize(
    ("flags", "batch", "idle"),
    [
        ("--max-num-seqs 64", None, "64 sequences at once in a replica, fewer than that"),
        ("--max-num-seqs 256", None, ""),
        (
            "--max-num-seqs 512 --max-num-batched-tokens 2048",
            None,
            "512 sequences at once in a replica",
        ),
        ("", 4, "--batch 4"),
        ("", None, ""),
    ],
)
def test_a_batch_of_the_command_that_the_workload_makes_idle_is_said(
    flags: str, batch: int | None, idle: str
) -> None:
    work = Workload.model_validate(read_document("workload", "decode-256x4k"))
    reading = read(f"vllm serve m -tp 8 {flags}", workload=work, batch=batch)
    assert "batch" not in reading.document
    given = "workload decode-256x4k gives the batch, 256 sequences in a replica"
    assert reading.notes == ((f"passed over, as {given}: {idle}",) if idle else ())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        # attention over 1 rank: a plan keeps dense layers and head whole
        ("--attn-dp-size 8 --moe-dense-tp-size 1 --enable-dp-lm-head", []),
        ("--attn-dp-size 8 --enable-dp-lm-head", ["dense layers over 1, SGLang cuts over 8"]),
        ("--attn-dp-size 8 --moe-dense-tp-size 1", ["head over 1, SGLang cuts over 8"]),
        (
            "--dp-size 4 --enable-dp-attention",
            ["dense layers over 2, SGLang cuts over 8", "head over 2, SGLang cuts over 8"],
        ),
        ("", []),
        ("--enable-dp-lm-head", []),  # one attention group is all ranks
        ("--moe-dense-tp-size 1", ["dense layers over 8, SGLang cuts over 1"]),
    ],
)
def test_what_sglang_cuts_otherwise_than_a_plan_is_said(flags: str, said: list[str]) -> None:
    """DeepSeek-V3 has three dense layers; a plan cuts them, and the head, over its tp."""
    text = f"python -m sglang.launch_server --tp 8 --max-running-requests 64 {flags}"
    notes = [note for note in read(text).notes if note.startswith(OTHERWISE)]
    assert len(notes) == len(said)
    for note, words in zip(notes, said, strict=True):
        ours, theirs = words.split(", SGLang cuts over ")
        assert ours in note
        assert re.search(rf"SGLang cuts (it|them) over (all )?{theirs}\b", note)


def test_a_model_without_dense_layers_has_none_that_are_cut_otherwise() -> None:
    text = "python -m sglang.launch_server --tp 4 --moe-dense-tp-size 1 --max-running-requests 4"
    assert not [n for n in read(text, "qwen3-30b-a3b").notes if n.startswith(OTHERWISE)]
