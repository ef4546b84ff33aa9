"""The nearest plan is the same layout on other GPUs, idle ones too, where that can be started."""

from dataclasses import replace
from itertools import chain
from random import Random
from types import ModuleType

import pytest

from autopar.api import verify
from autopar.catalog import load_plan, load_scenario
from autopar.errors import InexpressibleError, SpecError
from autopar.export.closeness import differences
from autopar.export.exporting import completed, export, written
from autopar.export.layout import layouts_of
from autopar.export.moving import moved, moves_of
from autopar.export.nearest import Nearest, nearest
from autopar.export.options import ENGINES, Options
from autopar.pairs import explicit_plan
from autopar.problem import AnyPlan, DisaggregatedPlan, Plan
from autopar.report.export import nearest_words
from autopar.specs import Scenario

MOVED = ("its ranks on other GPUs",)


def scenario_of(llm: str, cluster: str = "2xhgx-h100", workload: str = "chat-1k-256") -> Scenario:
    return load_scenario(parts={"llm": llm, "cluster": cluster, "workload": workload})


def plan_of(scenario: Scenario, degrees: dict[str, int], **more: object) -> Plan:
    document = {
        "schema": 1, "kind": "plan", "name": "asked", "llm": scenario.llm.name, "batch": 8,
        "degrees": {"cp": 1, "attn_dp": 1, "ep": 1, "etp": degrees["tp"], **degrees},
    }  # fmt: skip
    plan = explicit_plan(load_plan(document | more), scenario)
    assert isinstance(plan, Plan)
    return plan


def nearest_to(scenario: Scenario, plan: AnyPlan, engine: str) -> Nearest:
    """The nearest plan, after the one asked for was refused; it must be started and hold."""
    options = completed(Options(engine=engine), scenario)
    with pytest.raises(InexpressibleError):
        export(scenario, plan, engine, options)
    found = nearest(scenario, plan, options)
    assert isinstance(found, Nearest)
    export(scenario, found.plan, engine, options)
    assert verify(scenario, found.plan).ok
    return found


def ids(plan: AnyPlan) -> list[int]:
    plans = plan.roles.values() if isinstance(plan, DisaggregatedPlan) else (plan,)
    return list(
        chain.from_iterable(chain.from_iterable(chain.from_iterable(p.gpus for p in plans)))
    )


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(("replicas", "tp"), [(4, 1), (2, 2)])
def test_a_server_on_two_nodes_moves_into_one(engine: str, replicas: int, tp: int) -> None:
    """Three stages in rank order: a server has the last GPUs of a node and the first of another."""
    scenario = scenario_of("qwen3-32b")
    degrees = {"replicas": replicas, "pp": 3, "tp": tp}
    plan = plan_of(scenario, degrees, layers_per_stage=[22, 21, 21], chunks=2)
    found = nearest_to(scenario, plan, engine)
    assert found.changes == MOVED
    assert isinstance(found.plan, Plan)
    assert found.plan.stages == plan.stages
    for replica in found.plan.gpus:
        assert len({gpu // 8 for stage in replica for gpu in stage}) == 1
    assert len(set(ids(found.plan))) == 12
    before = verify(scenario, plan).metrics
    assert before == verify(scenario, found.plan).metrics
    words = nearest_words(found, engine)
    assert "the same with its ranks on other GPUs (GPU ids 0-11 -> " in words
    assert "no figure is worse" in words


def test_servers_that_start_where_they_are_stay_there() -> None:
    scenario = scenario_of("qwen3-32b")
    offsets = [{"index": i, "gpu_offset": gpu} for i, gpu in enumerate((9, 6, 3, 12))]
    degrees = {"replicas": 4, "pp": 3, "tp": 1}
    plan = plan_of(scenario, degrees, replicas=offsets, layers_per_stage=[22, 21, 21])
    found = nearest_to(scenario, plan, "vllm")
    assert isinstance(found.plan, Plan)
    stays = [old == new for old, new in zip(plan.gpus, found.plan.gpus, strict=True)]
    assert stays == [True, False, True, True]


def test_tensorrt_llm_has_a_server_on_two_nodes_where_no_node_has_room() -> None:
    """Five servers of three GPUs on two nodes of eight: the last of them is 2 + 1."""
    scenario = scenario_of("qwen3-32b")
    plan = plan_of(scenario, {"replicas": 5, "pp": 3, "tp": 1}, layers_per_stage=[22, 21, 21])
    found = nearest_to(scenario, plan, "trtllm")
    assert found.changes == MOVED
    assert len(set(ids(found.plan))) == 15
    assert not any(figure.is_worse for figure in found.figures)


def test_one_world_takes_as_many_gpus_of_every_node() -> None:
    """Megatron has all replicas of a stage side by side: six ranks on each of two nodes."""
    scenario = scenario_of("llama-3.1-70b")
    plan = plan_of(scenario, {"replicas": 3, "pp": 2, "tp": 2}, batch=4)
    found = nearest_to(scenario, plan, "megatron")
    assert found.changes == MOVED
    assert isinstance(found.plan, Plan)
    assert found.plan.stages == plan.stages
    on_nodes = [sum(gpu // 8 == node for gpu in ids(found.plan)) for node in (0, 1)]
    assert on_nodes == [6, 6]
    assert verify(scenario, plan).metrics == verify(scenario, found.plan).metrics


def test_the_roles_of_a_pair_move_on_one_cluster() -> None:
    """Three prefill servers of three GPUs, and decode servers behind them."""
    scenario = load_scenario(
        parts={
            "llm": "qwen3-32b", "cluster": "2xhgx-h100", "workload": "chat-4k-1k-disaggregated",
        }
    )  # fmt: skip
    roles = {
        "prefill": {
            "degrees": {"replicas": 3, "pp": 3, "tp": 1, "cp": 1, "attn_dp": 1, "ep": 1, "etp": 1},
            "batch": 1,
            "layers_per_stage": [22, 21, 21],
        },
        "decode": {
            "degrees": {"replicas": 2, "pp": 1, "tp": 2, "cp": 1, "attn_dp": 1, "ep": 1, "etp": 2},
            "batch": 8,
        },
    }
    document = {"schema": 1, "kind": "plan", "name": "pair", "llm": "qwen3-32b", "roles": roles}
    plan = explicit_plan(load_plan(document), scenario)
    options = completed(Options(engine="sglang"), scenario)
    with pytest.raises(InexpressibleError):
        export(scenario, plan, "sglang", options)
    found = nearest(scenario, plan, options)
    assert isinstance(found, Nearest)
    assert found.changes[0] == MOVED[0]
    export(scenario, found.plan, "sglang", options)
    assert len(set(ids(found.plan))) == len(ids(plan)) == 13


@pytest.mark.parametrize("engine", ENGINES)
def test_moves_keep_every_rank_and_give_each_a_gpu_of_its_own(
    plans: ModuleType, engine: str
) -> None:
    """Random layouts on random GPUs; where a move is offered the engine starts it."""
    random, offered = Random(1), 0
    scenario = scenario_of("qwen3-32b", "4xhgx-h100")
    options = completed(Options(engine=engine), scenario)
    for _ in range(40):
        pp, tp = random.choice([1, 2, 3, 4, 6]), random.choice([1, 2, 4])
        replicas = random.randint(1, 32 // (pp * tp))
        gpus = random.sample(range(32), replicas * pp * tp)
        if random.random() < 0.7:
            gpus = list(range(random.randint(0, 32 - len(gpus)), 32))
        stages = [
            [[gpus.pop(0) for _ in range(tp)] for _ in range(pp)] for _ in range(replicas)
        ]  # fmt: skip
        listed = [{"index": i, "stages": each} for i, each in enumerate(stages)]
        plan = plan_of(
            scenario, {"replicas": replicas, "pp": pp, "tp": tp}, replicas=listed,
            layers_per_stage=[64 - 10 * (pp - 1), *[10] * (pp - 1)],
        )  # fmt: skip
        layouts, reasons = layouts_of(plan, scenario, {})
        assert not reasons
        for moves in moves_of(layouts, engine):
            other = moved(plan, moves)
            assert sorted(moves) == sorted(ids(plan))
            assert len(set(ids(other))) == len(ids(plan))
            assert max(ids(other)) < 32
            offered += 1
            written(plans.layouts(scenario, other), engine, options)  # by all but its rules
    assert offered > 10


def test_experts_move_with_their_ranks() -> None:
    scenario = scenario_of("qwen3-30b-a3b")
    degrees = {"replicas": 2, "pp": 3, "tp": 1, "attn_dp": 2, "ep": 2, "etp": 1}
    plan = plan_of(scenario, degrees)
    found = nearest_to(scenario, plan, "sglang")
    assert found.changes == MOVED
    assert isinstance(found.plan, Plan)
    assert differences(plan, found.plan) == ("GPU ids 0-11 -> 0-5,8-13",)
    assert {*found.plan.placement[:, 4].tolist()} <= {*ids(found.plan)}


def test_names_of_hosts_are_no_matter_of_the_nearest_plan() -> None:
    """It may lie on nodes for which no name was given; writing it then says so."""
    scenario = scenario_of("qwen3-32b", "4xhgx-h100")
    degrees = {"replicas": 5, "pp": 3, "tp": 1}
    plan = plan_of(scenario, degrees, layers_per_stage=[22, 21, 21])
    options = completed(Options(engine="vllm", hosts=("a", "b")), scenario)
    found = nearest(scenario, plan, options)
    assert isinstance(found, Nearest)
    assert found.changes == MOVED
    with pytest.raises(SpecError, match="--hosts: 2 names; the plan uses node 2"):
        export(scenario, found.plan, "vllm", options)
    export(scenario, found.plan, "vllm", replace(options, hosts=("a", "b", "c")))
