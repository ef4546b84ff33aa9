"""Export, then ingest, gives the same plan: for every engine, over random legal plans."""

import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from autopar.errors import InexpressibleError
from autopar.export.exporting import completed, written
from autopar.export.launch import Export, script_text
from autopar.export.options import ENGINES, Options
from autopar.ingest.plan import Question, read_plan
from autopar.ingest.plan.flags import NO_USE
from autopar.ingest.plan.reading import PASSED_OVER, models_in
from autopar.ingest.plan.sglang import OTHERWISE
from autopar.plans import plan_from_spec
from autopar.problem import Plan
from autopar.specs import PlanSpec, Scenario

MODEL = "org/a model's name"
LEAST = {"vllm": 0.6, "sglang": 0.6, "trtllm": 0.5, "megatron": 0.5}  # share that is expressible


def exported(plans: ModuleType, engine: str, scenario: Scenario, plan: Plan) -> Export | None:
    asked = Options(engine=engine, model_path=MODEL, expert_map="checkpoint")
    options = completed(asked, scenario)
    try:
        return written(plans.layouts(scenario, plan), engine, options)
    except InexpressibleError:
        return None


def asked_of(scenario: Scenario) -> Question:
    return Question(
        label="export",
        name="drawn",
        llm_name=scenario.llm.name,
        llm=scenario.llm,
        cluster=scenario.cluster.name,
        workload=scenario.workload,
        node_gpus=scenario.cluster.gpus_per_node,
    )


def read_back(
    export: Export, scenario: Scenario, folder: Path, *, places: bool
) -> tuple[Plan, tuple[str, ...]]:
    """The plan in the scripts; places: also read the table of ranks."""
    for file in export.files:
        (folder / file.name).write_text(file.text, encoding="utf-8")
    ranks: dict[int, list[int]] = {}
    for rank in sorted(export.ranks, key=lambda rank: rank.rank):
        ranks.setdefault(rank.server, []).append(rank.gpu)
    order = next((f.name for f in export.files if export.engine == "vllm"), "")
    reading = read_plan(
        "".join(script_text(launch, "a title") for launch in export.launches),
        replace(
            asked_of(scenario),
            folder=folder,
            ranks=ranks if places else None,
            expert_map=order,  # vLLM has none in its command: the checkpoint is permuted
        ),
    )
    if export.engine != "megatron":
        assert models_in("".join(script_text(x, "t") for x in export.launches)) == [MODEL]
    return plan_from_spec(PlanSpec.model_validate(reading.document), scenario), reading.notes


def round_trip(plans: ModuleType, engine: str, seeds: range, folder: Path, *, mixed: bool) -> int:
    done = tried = 0
    for seed in seeds:
        drawn = plans.draw(seed, engine)
        if drawn is None:
            continue
        scenario, plan = drawn
        if mixed:
            plan = plans.shuffled(seed, scenario, plan, one_map=engine == "vllm")
        tried += 1
        export = exported(plans, engine, scenario, plan)
        if engine == "megatron" and plan.batch and plan.chunks > scenario.workload.fewest_chunks:
            assert export is None, f"seed {seed}: prompts in {plan.chunks} parts"
            plan = plans.whole(scenario, plan)
            export = exported(plans, engine, scenario, plan)
        if export is None:
            continue
        back, notes = read_back(export, scenario, folder, places=mixed)
        if engine == "megatron" and not mixed:  # it counts stages before replicas, and so nodes
            nodes = [launch.node for launch in export.launches]
            plan = plans.with_nodes_in_order(scenario, plan, nodes)
        assert plans.same(plan, back), f"{engine}, seed {seed}"
        said = [n for n in notes if not n.startswith((NO_USE, OTHERWISE, PASSED_OVER))]
        assert not said, f"{engine}, seed {seed}: a flag of ours is not read"
        done += 1
    assert done >= (0.2 if mixed else LEAST[engine]) * tried
    return done


@pytest.mark.parametrize("engine", ENGINES)
def test_plans_come_back(plans: ModuleType, engine: str, tmp_path: Path) -> None:
    """Degrees, layers of stages, batch, parts of prompts, GPUs in rank order."""
    assert round_trip(plans, engine, range(30), tmp_path, mixed=False) >= 10


@pytest.mark.parametrize("engine", ENGINES)
def test_gpus_and_experts_in_another_order_come_back(
    plans: ModuleType, engine: str, tmp_path: Path
) -> None:
    assert round_trip(plans, engine, range(30, 38), tmp_path, mixed=True) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_many_plans_come_back(plans: ModuleType, engine: str, tmp_path: Path) -> None:
    """A hundred over all engines; `AUTOPAR_ROUND_TRIPS=10` has 300 of each, in five minutes."""
    times = int(os.environ.get("AUTOPAR_ROUND_TRIPS", "1"))
    plain = round_trip(plans, engine, range(1000, 1000 + 40 * times), tmp_path, mixed=False)
    mixed = round_trip(plans, engine, range(2000, 2000 + 20 * times), tmp_path, mixed=True)
    assert plain + mixed >= 30 * times


@pytest.mark.parametrize("engine", ["vllm", "sglang", "megatron"])
def test_manifests_come_back(plans: ModuleType, engine: str) -> None:
    """`--to lws`: leaders and workers of every group, and maps of experts in a ConfigMap."""
    done = 0
    for seed in range(40):
        drawn = plans.draw(seed, engine)
        if drawn is None:
            continue
        scenario, plan = drawn
        options = completed(
            Options(engine=engine, model_path="org/m", expert_map="always", image="i"), scenario
        )
        try:
            export = written(plans.layouts(scenario, plan), "lws", options)
        except InexpressibleError:
            continue
        (manifest,) = export.files
        reading = read_plan(manifest.text, asked_of(scenario))
        back = plan_from_spec(PlanSpec.model_validate(reading.document), scenario)
        assert (plan.stages, plan.replicas, plan.batch, plan.chunks) == (
            back.stages, back.replicas, back.batch, back.chunks,
        ), seed  # fmt: skip
        assert [plan.degree(k) for k in ("tp", "attn_dp", "ep", "etp")] == [
            back.degree(k) for k in ("tp", "attn_dp", "ep", "etp")
        ], seed
        done += 1
    assert done >= 5
