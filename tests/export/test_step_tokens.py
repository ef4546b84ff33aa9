"""The tokens of a step that vLLM is given hold the plan's step, and come back to the same plan."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from autopar.catalog import load_plan, load_scenario
from autopar.export.exporting import completed, written
from autopar.export.launch import Export, script_text
from autopar.export.options import Engine, Options
from autopar.ingest.plan import Question, read_plan
from autopar.pairs import explicit_plan
from autopar.plans import plan_from_spec
from autopar.problem import Plan
from autopar.specs import PlanSpec, Scenario

DECODE = [
    "workload.phase=decode", "workload.input_tokens=200", "workload.output_tokens=200",
    "workload.max_batch_sequences=4096",
]  # fmt: skip
DRAFTS = ["workload.speculation.draft_tokens=3", "workload.speculation.acceptance=0.7"]


def made_of(
    plans: ModuleType, engine: Engine, batch: int, overrides: list[str], *, pp: int = 1,
    workload: str = "chat-1k-256",
) -> tuple[Scenario, Plan, Export]:  # fmt: skip
    scenario = load_scenario(
        parts={"llm": "llama-3.1-8b", "cluster": "1xhgx-h100", "workload": workload},
        overrides=overrides,
    )
    document: dict[str, Any] = {
        "schema": 1, "kind": "plan", "name": "p", "llm": "llama-3.1-8b", "batch": batch,
        "degrees": {"replicas": 1, "pp": pp, "tp": 4, "etp": 4},
    }  # fmt: skip
    if not scenario.workload.is_open:
        del document["batch"]
    plan = explicit_plan(load_plan(document), scenario)
    assert isinstance(plan, Plan)
    options = completed(Options(engine=engine), scenario)
    return scenario, plan, written(plans.layouts(scenario, plan), engine, options)


def number(made: Export, flag: str) -> int:
    (launch,) = made.launches
    return int(launch.argv[launch.argv.index(flag) + 1])


def come_back(scenario: Scenario, made: Export, folder: Path) -> tuple[Plan, tuple[str, ...]]:
    for file in made.files:
        (folder / file.name).write_text(file.text, encoding="utf-8")
    asked = Question(
        label="p", name="p", llm_name=scenario.llm.name, llm=scenario.llm,
        cluster=scenario.cluster.name, workload=scenario.workload,
        node_gpus=scenario.cluster.gpus_per_node, folder=folder,
    )  # fmt: skip
    reading = read_plan("".join(script_text(launch, "t") for launch in made.launches), asked)
    return plan_from_spec(PlanSpec.model_validate(reading.document), scenario), reading.notes


@pytest.mark.parametrize(
    ("batch", "pp", "drafts", "tokens"),
    [
        (4096, 1, [], 4096),  # more than vLLM's 2048, which would refuse --max-num-seqs 4096
        (1500, 2, [], 3000),  # --max-num-seqs counts both micro-batches
        (1000, 1, DRAFTS, 4000),  # each sequence has its last token and 3 drafts
        (1000, 2, DRAFTS, 4000),
        (64, 1, [], 2048),  # a prompt that is computed again has room
        (2, 1, [], 800),  # no step can hold more than two requests of 400 tokens
    ],
)
def test_a_decode_step_of_vllm_holds_its_sequences(
    plans: ModuleType, tmp_path: Path, batch: int, pp: int, drafts: list[str], tokens: int
) -> None:
    scenario, plan, made = made_of(plans, "vllm", batch, [*DECODE, *drafts], pp=pp)
    assert number(made, "--max-num-batched-tokens") == tokens
    assert number(made, "--max-num-seqs") == batch * pp
    back, _ = come_back(scenario, made, tmp_path)
    assert plans.same(plan, back)


@pytest.mark.parametrize("engine", ["vllm", "trtllm"])
@pytest.mark.parametrize("chunks", [1024, 256])
@pytest.mark.parametrize("drafts", [[], DRAFTS])
def test_drafts_take_their_part_of_a_step_that_serves(
    plans: ModuleType, tmp_path: Path, engine: Engine, chunks: int, drafts: list[str]
) -> None:
    own = [f"workload.prefill_chunk_tokens={chunks}", *drafts]
    scenario, plan, made = made_of(plans, engine, 300, own)
    tokens = chunks + 300 * (4 if drafts else 1)
    if engine == "vllm":
        assert number(made, "--max-num-batched-tokens") == tokens
    else:
        assert any(f"max_num_tokens: {tokens}\n" in file.text for file in made.files)
    back, _ = come_back(scenario, made, tmp_path)
    assert plans.same(plan, back)
    assert back.chunks == plan.chunks


def test_a_given_batch_of_decode_comes_back_without_a_word(
    plans: ModuleType, tmp_path: Path
) -> None:
    scenario, plan, made = made_of(plans, "vllm", 0, [], workload="decode-256x4k")
    assert number(made, "--max-num-batched-tokens") == 2048
    back, notes = come_back(scenario, made, tmp_path)
    assert plans.same(plan, back)
    assert not [note for note in notes if "tokens in a step" in note]
