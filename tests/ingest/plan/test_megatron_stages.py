"""Layers of stages as Megatron-Core 0.19.2 has them: layouts, virtual stages, ends that count."""

import pytest

from autopar.catalog import load_llm
from autopar.errors import SpecError
from autopar.ingest.plan import Question, read_plan

MODEL = "qwen3-235b-a22b"  # 94 layers
TORCHRUN = "torchrun --nnodes 4 --nproc-per-node 8 x.py --tensor-model-parallel-size 4 "
NO_E_FIRST = "wants E first and L last, and each of them once"
NO_LAYERS = "a plan has some in every stage"


def split(arguments: str, model: str = MODEL) -> list[int] | None:
    llm = load_llm(model)
    asked = Question("text", "p", llm_name=llm.name, llm=llm)
    layers = read_plan(TORCHRUN + arguments, asked).document.get("layers_per_stage")
    return layers if isinstance(layers, list) else None


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("Et*47|t*47", NO_E_FIRST),
        ("t*47|t*47L", NO_E_FIRST),
        ("Et*47L|t*47", NO_E_FIRST),
        ("EEt*47|t*47L", NO_E_FIRST),
        ("Et*47L|t*47L", NO_E_FIRST),
        ("tEt*46|t*47L", NO_E_FIRST),
        ("Et*94|L", f"a stage has 'L' and no t.*{NO_LAYERS}"),
        ("E|t*94L", f"a stage has 'E' and no t.*{NO_LAYERS}"),
        ("Et*94||L", "3 stages for 2 pipeline ranks"),
        ("Et*47 | t*47L", "expected stages of E, t, m and L between bars"),
        ("E(t*47)|t*47L", "expected stages of E, t, m and L between bars"),
        ("E((t)*2t)*9|t*47L", "expected stages of E, t, m and L between bars"),
        ("Et*47|t*47mL", "1 m, but --mtp-num-layers is '0'; Megatron wants as many"),
        ("Et*47|mt*47L --mtp-num-layers 1", "wants m, layers that draft, behind all t"),
        ("Et*47|t*00000000000000047000000000L", "too long"),
        ("Et*47|t*9999999999L", "too long"),
        ("(" * 5000, "too long"),
    ],
)
def test_layouts_that_megatron_or_a_plan_has_not_are_refused(layout: str, words: str) -> None:
    text, _, more = layout.partition(" --")
    flags = f"--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout '{text}'"
    with pytest.raises(SpecError, match=words):
        split(f"{flags} --{more}" if more else flags)


def test_a_layout_may_be_written_with_zeros_commas_and_drafts() -> None:
    flags = "--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout "
    assert split(flags + "'E,t*047|(tt)*23,t,L'") == [47, 47]
    assert split(flags + "'Et*47|t*47mL' --mtp-num-layers 1") == [47, 47]
    assert split(flags + "'Et*47|t*47mL' --load c --use-checkpoint-args") == [47, 47]


def test_layers_of_a_virtual_stage_are_counted() -> None:
    """94 layers in 2 stages are 47 each: 47 virtual ones of a layer, or one of all."""
    flags = "--num-layers 94 --num-experts 128 --pipeline-model-parallel-size 2 "
    virtual = flags + "--num-layers-per-virtual-pipeline-stage "
    with pytest.raises(SpecError, match="stage 1 makes 47 virtual stages"):
        split(virtual + "1")
    with pytest.raises(SpecError, match="94 layers over 2 stages do not divide by it"):
        split(virtual + "10")
    assert split(virtual + "47") == [47, 47]
    assert split(flags + "--num-virtual-stages-per-pipeline-rank 1") == [47, 47]
    with pytest.raises(SpecError, match="stage 24 makes 2 virtual stages"):  # (94 + 2) / 2 / 24
        split(
            f"{virtual} 24 --account-for-embedding-in-pipeline-split "
            "--account-for-loss-in-pipeline-split"
        )


EMBEDDING, LOSS = (f"--account-for-{end}-in-pipeline-split " for end in ("embedding", "loss"))


@pytest.mark.parametrize(
    ("flags", "pp", "layers"),
    [
        (EMBEDDING + LOSS, 4, [23, 24, 24, 23]),  # (94 + 2) / 4 = 24
        (EMBEDDING, 5, [18, 19, 19, 19, 19]),  # (94 + 1) / 5 = 19
        (LOSS, 5, [19, 19, 19, 19, 18]),
        (EMBEDDING + LOSS, 1, None),
    ],
)
def test_ends_that_count_as_layers(flags: str, pp: int, layers: list[int] | None) -> None:
    nodes = f"torchrun --nproc-per-node {4 * pp} x.py --tensor-model-parallel-size 4 "
    llm = load_llm(MODEL)
    text = f"{nodes}{flags}--num-experts 128 --pipeline-model-parallel-size {pp}"
    reading = read_plan(text, Question("text", "p", llm_name=llm.name, llm=llm))
    assert reading.document.get("layers_per_stage") == layers
    assert not any("account-for" in note for note in reading.notes)


def test_ends_that_count_and_do_not_divide_are_refused() -> None:
    with pytest.raises(SpecError, match="94 layers and the loss, 95 in all, do not divide over 4"):
        split(f"{LOSS}--pipeline-model-parallel-size 4")
    with pytest.raises(SpecError, match=NO_LAYERS):  # 7 layers and the embedding in 8 stages
        split(f"{EMBEDDING}--num-layers 7 --pipeline-model-parallel-size 8")


@pytest.mark.parametrize(
    "flags",
    [
        f"--pipeline-model-parallel-layout Et*47|t*47L {LOSS}",
        "--pipeline-model-parallel-layout Et*47|t*47L --decoder-first-pipeline-num-layers 47",
        "--pipeline-model-parallel-layout Et*47|t*47L --num-virtual-stages-per-pipeline-rank 1",
        f"--decoder-last-pipeline-num-layers 47 {EMBEDDING}",
        "--decoder-last-pipeline-num-layers 47 --num-layers-per-virtual-pipeline-stage 47",
    ],
)
def test_two_ways_to_say_the_layers_of_stages_are_refused(flags: str) -> None:
    quoted = flags.replace("Et*47|t*47L", "'Et*47|t*47L'")
    with pytest.raises(SpecError, match="Megatron takes one of them"):
        split(f"--pipeline-model-parallel-size 2 {quoted}")
