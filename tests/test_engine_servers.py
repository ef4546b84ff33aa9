"""Rules of engines on whole servers: in which nodes they lie, and what a pair hands over."""

import pytest

from autopar.catalog import load_scenario
from autopar.rules import rule_constraint
from autopar.specs.roles import role_scenario

PACKS = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt-llm"}


def holds(engine: str, rule: str, **values: float) -> bool:
    """Whether a rule of an engine holds for values of its names."""
    pack = load_scenario("mixtral-8x7b-8xh100", overrides=[f"rule_packs=[{PACKS[engine]}]"])
    (found,) = [r for r in pack.rule_packs[0].rules if r.name == f"{engine}_{rule}"]
    expression = rule_constraint(found).expression
    assert values.keys() >= expression.names
    return bool(expression.evaluate(values))


@pytest.mark.parametrize("engine", PACKS)
@pytest.mark.parametrize(
    ("nodes", "gpus", "pp", "alone", "in_a_pair"),
    [
        (64, 1, 4, True, True),
        (64, 4, 4, True, True),
        (64, 16, 1, True, True),
        (64, 4, 3, False, False),  # 8 ranks on a node, 4 on the other
        (2, 1, 6, True, False),  # a server in each node, but the other role may begin at GPU 6
        (1, 1, 6, True, True),
        (3, 1, 6, False, False),  # 4 fit in a row: one of them begins in one node and ends in the
        (64, 3, 1, False, False),  # next
    ],
)
def test_servers_of_a_node_do_not_straddle_two(
    engine: str, nodes: int, gpus: int, pp: int, alone: bool, in_a_pair: bool
) -> None:
    sizes = {"gpus": gpus, "pp": pp, "gpus_per_node": 8, "num_nodes": nodes, "num_gpus": 8 * nodes}
    assert holds(engine, "servers_on_nodes", **sizes, is_role=0) == alone
    assert holds(engine, "servers_on_nodes", **sizes, is_role=1) == in_a_pair


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_caches_of_a_pair_reach_decode_servers_without_stages(engine: str) -> None:
    """vLLM's NIXL connector raises NotImplementedError for the others, SGLang's handshake fails."""
    for pp, is_role, is_decode, good in ((2, 1, 1, False), (2, 1, 0, True), (2, 0, 1, True)):
        values = {"pp": pp, "is_role": is_role, "is_decode": is_decode}
        assert holds(engine, "decode_without_stages", **values) == good


def test_prefill_servers_of_a_vllm_pair_have_one_stage() -> None:
    """A decode server asserts as many regions of cache as its own layers need."""
    for pp, is_role, is_prefill, good in ((2, 1, 1, False), (2, 1, 0, True), (2, 0, 1, True)):
        values = {"pp": pp, "is_role": is_role, "is_prefill": is_prefill}
        assert holds("vllm", "prefill_without_stages", **values) == good


def test_only_a_role_of_a_disaggregated_service_is_one() -> None:
    parts = {"llm": "llama-3.1-8b", "cluster": "1xhgx-h100", "workload": "chat-4k-1k-disaggregated"}
    scenario = load_scenario(parts=parts)
    assert not scenario.workload.is_role
    assert role_scenario(scenario, "prefill").workload.is_role
    assert role_scenario(scenario, "decode").workload.is_role


@pytest.mark.parametrize("cluster", ["2xhgx-h100", "3xhgx-h100"])
def test_replicas_of_three_quarters_of_a_node_lie_in_one_each(cluster: str) -> None:
    """Six stages of one GPU: the second replica began at GPU 6 and ended in the second node."""
    from autopar.api import solve  # noqa: PLC0415  the other tests need no solver

    rule = "rules=[{name: six, require: pp == 6 and tp == 1 and replicas == 2, because: a test}]"
    asked = {"llm": "llama-3.1-8b", "cluster": "2xhgx-h100", "workload": "chat-1k-256"}
    more = [rule, "cluster.num_nodes=3"] if cluster.startswith("3") else [rule]
    plan = solve(load_scenario(parts=asked, overrides=more), diagnose=False).require_plan()
    nodes = [{gpu // 8 for stage in replica for gpu in stage} for replica in plan.gpus]  # type: ignore[union-attr]
    assert nodes == [{0}, {1}]
