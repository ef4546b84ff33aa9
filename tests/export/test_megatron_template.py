"""Megatron's commands are a template: they say so first, and name arguments that Megatron has."""

import re
from types import ModuleType

import pytest
from rich.console import Console

from autopar.catalog import load_plan, load_scenario
from autopar.export.exporting import completed, export, written
from autopar.export.launch import Export
from autopar.export.megatron import TEMPLATE
from autopar.export.options import ENGINES, Options
from autopar.ingest.plan.flags import known_flags
from autopar.pairs import explicit_plan
from autopar.report.export import export_document, print_export


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
