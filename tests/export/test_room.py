"""Where an engine's smallest cache has no room beside what a plan keeps, nothing is written."""

import re

import pytest

from autopar.api import verify
from autopar.catalog import load_plan, load_scenario
from autopar.errors import InexpressibleError
from autopar.export.exporting import completed, export
from autopar.export.nearest import Nearest, nearest
from autopar.export.options import Engine, Options
from autopar.export.stage_room import StageRoom, TooFullError, refuse_where_too_full
from autopar.pairs import explicit_plan
from autopar.problem import Plan
from autopar.specs import Scenario

GB = 1e9


def laid(
    memory_bytes: float | None, *, llm: str, length: int, output: int, pp: int = 1, tp: int = 1
) -> tuple[Scenario, Plan]:
    own = [] if memory_bytes is None else [f"cluster.gpu.memory_bytes={memory_bytes}"]
    scenario = load_scenario(
        parts={"llm": llm, "cluster": "1xhgx-h100", "workload": "chat-1k-256"},
        overrides=["workload.phase=decode", f"workload.input_tokens={length}",
                   f"workload.output_tokens={output}", *own],
    )  # fmt: skip
    degrees = {"replicas": 1, "pp": pp, "tp": tp, "etp": tp}
    if scenario.llm.is_moe:
        degrees["ep"] = 1
    document = {"schema": 1, "kind": "plan", "name": "p", "llm": llm, "batch": 1}
    plan = explicit_plan(load_plan({**document, "degrees": degrees}), scenario)
    assert isinstance(plan, Plan)
    return scenario, plan


def filled(spare_bytes: float, **size: int | str) -> tuple[Scenario, Plan]:
    """A plan on GPUs that have that much more than what the plan takes of them."""
    scenario, plan = laid(None, **size)  # type: ignore[arg-type]
    metrics = verify(scenario, plan).metrics
    assert metrics is not None
    memory = int(metrics.peak_memory_bytes + spare_bytes)
    scenario, plan = laid(memory, **size)  # type: ignore[arg-type]
    assert verify(scenario, plan).ok
    return scenario, plan


def value(scenario: Scenario, plan: Plan, engine: Engine, flag: str) -> int:
    made = export(scenario, plan, engine, completed(Options(engine=engine), scenario))
    text = " ".join(made.launches[0].argv) + "".join(file.text for file in made.files)
    found = re.search(rf"{flag}:? (\d+)", text)
    assert found is not None
    return int(found.group(1))


def test_vllm_is_not_written_where_it_would_not_start() -> None:
    """gpt-oss: windows take 128 + 2 * 2048 tokens of blocks as wide as half of the model."""
    size = {"llm": "gpt-oss-120b", "length": 100_000, "output": 1000}
    scenario, plan = filled(2 * GB, **size)
    most = value(scenario, plan, "vllm", "--kv-cache-memory-bytes")
    metrics = verify(scenario, plan).metrics
    assert metrics is not None
    assert metrics.kv_cache_bytes is not None
    assert most < metrics.kv_cache_bytes + 2 * GB
    scenario, plan = filled(0, **size)
    with pytest.raises(TooFullError, match="vLLM would not start: for one request"):
        value(scenario, plan, "vllm", "--kv-cache-memory-bytes")


@pytest.mark.parametrize(
    ("engine", "flag", "least"),
    [("sglang", "--max-total-tokens", 128 * 3), ("trtllm", "max_tokens", 64 * 2)],
)
def test_smallest_caches_of_others_have_room_or_are_refused(
    engine: Engine, flag: str, least: int
) -> None:
    """A request of 17 tokens has 2 pages of 16 in the plan, and whole pages of these engines."""
    size = {"llm": "llama-3.1-8b", "length": 16, "output": 1}
    per_token = 32 * 8 * 128 * 2 * 2
    scenario, plan = filled((least - 32 + 1) * per_token, **size)
    assert value(scenario, plan, engine, flag) >= least
    scenario, plan = filled((least - 32 - 1) * per_token, **size)
    with pytest.raises(TooFullError, match="would take no request of full length"):
        value(scenario, plan, engine, flag)


@pytest.mark.parametrize(
    ("needed", "stage"), [((9.0, 4.0), None), ((11.0, 4.0), 0), ((9.0, 6.0), 1)]
)
def test_every_stage_has_room_of_its_own(needed: tuple[float, ...], stage: int | None) -> None:
    rooms = (StageRoom(3 * GB, 10 * GB), StageRoom(3 * GB, 5 * GB))
    bytes_ = [size * GB for size in needed]
    if stage is None:
        refuse_where_too_full(rooms, bytes_, "vLLM", "decode", "it ends")
        return
    with pytest.raises(TooFullError, match=f"decode: it ends: .* on a GPU of stage {stage}") as it:
        refuse_where_too_full(rooms, bytes_, "vLLM", "decode", "it ends")
    assert it.value.role == "decode"


def test_a_plan_that_is_too_full_itself_is_written_with_what_verify_says() -> None:
    scenario, plan = laid(60e9, llm="llama-3.1-70b", length=1000, output=100)
    made = export(scenario, plan, "vllm", completed(Options(engine="vllm"), scenario))
    assert any("breaks its scenario" in note for note in made.notes)


def test_the_nearest_plan_has_room() -> None:
    size = {"llm": "gpt-oss-120b", "length": 100_000, "output": 1000}
    scenario, plan = filled(0, **size)
    options = completed(Options(engine="vllm"), scenario)
    found = nearest(scenario, plan, options)
    assert isinstance(found, Nearest)
    export(found.scenario, found.plan, "vllm", options)
    with pytest.raises(InexpressibleError):
        export(scenario, plan, "vllm", options)


def test_the_nearest_plan_has_more_gpus_where_the_best_has_no_room() -> None:
    """One GPU is best for each replica: with no search but for the best, none would be found."""
    size = {"llm": "llama-3.1-8b", "length": 16, "output": 1}
    scenario, plan = filled(100 * 32 * 8 * 128 * 2 * 2, **size)
    own = scenario.recipe.model_copy(update={"objectives": ("gpus",)})
    asked = scenario.model_copy(update={"recipe": own})
    options = completed(Options(engine="sglang"), asked)
    found = nearest(asked, plan, options)
    assert isinstance(found, Nearest)
    assert isinstance(found.plan, Plan)
    assert found.plan.degree("tp") != 1 or found.plan.pp > 1
    assert not found.proved
    assert export(asked, found.plan, "sglang", options).launches
