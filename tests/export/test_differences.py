"""What is said of two plans that differ, so that it is never nothing."""

from collections.abc import Callable
from dataclasses import replace

from autopar.catalog import load_plan, load_scenario
from autopar.export.closeness import differences, gpu_differences
from autopar.export.nearest import Nearest
from autopar.pairs import explicit_plan
from autopar.problem import DisaggregatedPlan, Metrics, Plan
from autopar.report.export import nearest_words


def plan_of(split: tuple[int, int], to: Callable[[int], int] = lambda gpu: gpu) -> Plan:
    """Two replicas of two stages of attention DP2, EP2; to: where the GPUs 0 to 7 lie."""
    parts = {"llm": "qwen3-30b-a3b", "cluster": "2xhgx-h100", "workload": "chat-1k-256"}
    scenario = load_scenario(parts=parts)
    stages = [[[to(g), to(g + 1)] for g in (first, first + 2)] for first in (0, 4)]
    document = {
        "schema": 1, "kind": "plan", "name": "asked", "llm": "qwen3-30b-a3b", "batch": 8,
        "degrees": {"replicas": 2, "pp": 2, "tp": 1, "attn_dp": 2, "ep": 2, "etp": 1},
        "layers_per_stage": list(split),
        "replicas": [{"index": index, "stages": each} for index, each in enumerate(stages)],
    }  # fmt: skip
    plan = explicit_plan(load_plan(document), scenario)
    assert isinstance(plan, Plan)
    return plan


def test_layers_gpus_and_experts_are_differences() -> None:
    plan, split = plan_of((24, 24)), plan_of((20, 28))
    assert differences(plan, plan) == ()
    assert differences(plan, split) == ("layers 24,24 -> 20,28",)
    first, second = plan.stages
    swapped = (replace(first, layers=second.layers), replace(second, layers=first.layers))
    assert differences(plan, replace(plan, stages=swapped)) == ("other layers in stages",)
    far = plan_of((24, 24), lambda gpu: gpu + 8)
    assert differences(plan, far) == gpu_differences(plan, far) == ("GPU ids 0-7 -> 8-15",)
    turned = plan_of((24, 24), lambda gpu: gpu ^ 1)
    assert differences(plan, turned) == ("ranks on its GPUs in another order",)
    every_second = plan_of((24, 24), lambda gpu: 2 * gpu)
    assert differences(plan, every_second) == ("GPU ids 0-7 -> 0,2,4,6,8,10,12,14",)
    rows = plan.placement.copy()
    rows[:, 1] = (rows[:, 1] + 1) % 128
    assert differences(plan, replace(plan, placement=rows)) == ("experts on other ranks",)
    as_first = plan.placement[plan.placement[:, 2] == 0]  # the second replica lies as the first
    assert differences(plan, replace(plan, placement=as_first)) == ()


def test_they_are_said_of_the_role_that_has_them() -> None:
    plan, far, split = plan_of((24, 24)), plan_of((24, 24), lambda g: g + 8), plan_of((20, 28))
    pair, other = DisaggregatedPlan("a", plan, far), DisaggregatedPlan("a", plan, split)
    assert differences(pair, other) == (
        "decode layers 24,24 -> 20,28",
        "decode GPU ids 8-15 -> 0-7",
    )


def test_the_offer_has_no_empty_brackets() -> None:
    plan, split = plan_of((24, 24)), plan_of((20, 28))
    scenario = load_scenario(
        parts={"llm": "qwen3-30b-a3b", "cluster": "2xhgx-h100", "workload": "chat-1k-256"}
    )
    metrics = Metrics(1.0, 1.0, 1.0, 1.0, 1, 1.0, 0, 2e9, 1e9, 1e9, 1e8, 1e8)
    near = Nearest(scenario, plan, split, (), (), metrics, metrics, kept="its stages")
    assert "the best that keeps its stages (layers 24,24 -> 20,28);" in nearest_words(near, "vllm")
    far = plan_of((24, 24), lambda gpu: gpu + 8)
    near = Nearest(scenario, plan, far, ("its ranks on other GPUs",), (), metrics, metrics)
    assert "the same with its ranks on other GPUs (GPU ids 0-7 -> 8-15);" in nearest_words(
        near, "vllm"
    )
    same = Nearest(scenario, plan, plan, (), (), metrics, metrics, kept="its stages")
    assert "()" not in nearest_words(same, "vllm")
