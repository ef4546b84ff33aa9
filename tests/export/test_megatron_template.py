"""Megatron's commands are a template: they say so first, and name arguments that Megatron has."""

import re
from types import ModuleType

import pytest
from rich.console import Console

from autopar.api import verify
from autopar.catalog import load_plan, load_scenario
from autopar.errors import InexpressibleError
from autopar.export.exporting import completed, export, written
from autopar.export.launch import Export, script_text
from autopar.export.megatron import TEMPLATE
from autopar.export.nearest import Nearest, nearest
from autopar.export.options import ENGINES, Options
from autopar.ingest.plan import Question, read_plan
from autopar.ingest.plan.flags import known_flags
from autopar.pairs import explicit_plan
from autopar.plans import plan_from_spec
from autopar.problem import AnyPlan, Plan
from autopar.report.export import export_document, nearest_words, print_export
from autopar.specs import PlanSpec, Scenario


def exported(llm: str, degrees: dict[str, int]) -> Export:
    scenario = load_scenario(parts={"llm": llm, "cluster": "1xhgx-h100", "workload": "chat-1k-256"})
    document = {"schema": 1, "kind": "plan", "name": "p", "llm": llm, "batch": 1,
                "degrees": degrees}  # fmt: skip
    plan = explicit_plan(load_plan(document), scenario)
    options = completed(Options(engine="megatron"), scenario)
    return export(scenario, plan, "megatron", options)


def test_what_is_to_be_added_stands_before_the_commands() -> None:
    made = exported("llama-3.1-8b", {"tp": 8, "etp": 8})
    console = Console(width=80, record=True, quiet=False)
    with console.capture() as captured:
        print_export(console, made, "")
    text = captured.get()
    assert text.index("# a template: add") < text.index("torchrun")
    assert export_document(made, "p")["lacks"] == TEMPLATE


def test_arguments_to_add_are_megatrons_and_none_that_is_written() -> None:
    named = set(re.findall(r"--[a-z-]+", TEMPLATE))
    assert len(named) >= 8
    assert named <= set(known_flags("megatron").flags)
    assert not named & set(exported("mixtral-8x7b", {"tp": 8, "ep": 8, "etp": 1}).launches[0].argv)


@pytest.mark.parametrize("engine", ENGINES)
def test_other_engines_lack_nothing(plans: ModuleType, engine: str) -> None:
    drawn = next(d for d in (plans.draw(seed, engine) for seed in range(20)) if d is not None)
    made = written(plans.layouts(*drawn), engine, completed(Options(engine=engine), drawn[0]))
    assert bool(made.lacks) == (engine == "megatron")


def test_bf16_is_written_where_the_plan_counts_it() -> None:
    whole = exported("llama-3.1-8b", {"tp": 8, "etp": 8})
    assert "--bf16" in whole.launches[0].argv
    assert not any("counts weights in" in note for note in whole.notes)
    cut = exported("qwen3-30b-a3b-fp8", {"tp": 1, "attn_dp": 8, "ep": 8, "etp": 1})
    assert "--bf16" not in cut.launches[0].argv
    assert any("counts weights in fp8_block" in note for note in cut.notes)


def chunked(chunks: int, workload: str = "rag-8k-512") -> tuple[Scenario, AnyPlan]:
    parts = {"llm": "mixtral-8x7b", "cluster": "1x8-a100-pcie", "workload": workload}
    scenario = load_scenario(parts=parts)
    document = {"schema": 1, "kind": "plan", "name": "p", "llm": "mixtral-8x7b", "batch": 8,
                "degrees": {"pp": 8, "ep": 1, "etp": 1}, "chunks": chunks}  # fmt: skip
    return scenario, explicit_plan(load_plan(document), scenario)


def test_prompts_in_parts_are_an_error_with_whole_ones_and_their_cost() -> None:
    """Megatron has no words for parts; its pipeline waits for whole prompts, which costs."""
    scenario, plan = chunked(16)
    options = completed(Options(engine="megatron"), scenario)
    with pytest.raises(InexpressibleError, match="no words for prompts in 16 parts"):
        export(scenario, plan, "megatron", options)
    found = nearest(scenario, plan, options)
    assert isinstance(found, Nearest)
    assert found.changes == ("its prompts in as few parts as the workload allows",)
    assert isinstance(found.plan, Plan)
    assert found.plan.chunks == 1
    report = verify(scenario, found.plan)
    assert report.ok
    assert found.before is not None
    assert report.metrics is not None
    assert found.after.tokens_per_s == report.metrics.tokens_per_s
    assert found.before.tokens_per_s > 2 * found.after.tokens_per_s
    words = nearest_words(found, "megatron")
    assert "worse: throughput " in words
    assert not any(
        "parts" in note for note in export(scenario, found.plan, "megatron", options).notes
    )


def test_the_fewest_parts_of_a_workload_are_told_in_both_directions() -> None:
    """Where steps have no room for a whole prompt, no plan of the workload has whole ones."""
    parts = {"llm": "mixtral-8x7b", "cluster": "1x8-a100-pcie", "workload": "rag-8k-512"}
    scenario = load_scenario(parts=parts)
    work = scenario.workload.model_copy(update={"prefill_chunk_tokens": 4096})
    scenario = scenario.model_copy(update={"workload": work})
    _, plan = chunked(2)
    options = completed(Options(engine="megatron"), scenario)
    made = export(scenario, plan, "megatron", options)
    assert any("not in 2 parts, the fewest" in note for note in made.notes)
    asked = Question("text", "p", llm_name="mixtral-8x7b", llm=scenario.llm, workload=work)
    reading = read_plan(script_text(made.launches[0], "title"), asked)
    assert any("the plan has the fewest, 2" in note for note in reading.notes)
    assert plan_from_spec(PlanSpec.model_validate(reading.document), scenario).chunks == 2
