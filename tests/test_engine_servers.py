"""Rules of engines on whole servers: in which nodes they lie, and what a pair hands over."""

import pytest

from autopar.catalog import load_scenario
from autopar.pair_rules import PairRule, constraint_of
from autopar.specs.roles import role_scenario

PACKS = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt-llm"}


def holds(engine: str, rule: str, **values: float) -> bool:
    """Whether a rule of an engine holds for values of its names."""
    pack = load_scenario("mixtral-8x7b-8xh100", overrides=[f"rule_packs=[{PACKS[engine]}]"])
    (found,) = [r for r in pack.rule_packs[0].rules if r.name == f"{engine}_{rule}"]
    expression = constraint_of(found).expression
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


def test_servers_of_a_vllm_pair_have_one_stage() -> None:
    """Decode raises NotImplementedError, or asserts as many regions of cache as it has layers."""
    for pp, is_role, is_mine, good in ((2, 1, 1, False), (2, 1, 0, True), (2, 0, 1, True)):
        values = {"pp": pp, "is_role": is_role}
        assert holds("vllm", "decode_without_stages", **values, is_decode=is_mine) == good
        assert holds("vllm", "prefill_without_stages", **values, is_prefill=is_mine) == good


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(
    ("prefill", "decode", "good"), [(2, 2, True), (2, 6, True), (6, 2, True), (4, 6, False)]
)
def test_tensor_ranks_of_a_pair_are_mapped_in_equal_groups(
    engine: str, prefill: int, decode: int, good: bool
) -> None:
    """vLLM asserts it (TransferTopology.tp_ratio), SGLang rounds down (_resolve_rank_mapping)."""
    values = {"prefill.tp": prefill, "decode.tp": decode}
    assert holds(engine, "tensor_ranks_of_a_pair", **values) == good


@pytest.mark.parametrize(
    ("prefill", "decode", "good"),
    [(4, 2, True), (8, 2, False), (8, 4, False), (8, 8, True), (2, 8, True), (8, 16, True)],
)
def test_a_vllm_decode_server_does_not_read_from_copies_of_heads(
    prefill: int, decode: int, good: bool
) -> None:
    """Of 4 key-value heads; is_kv_replicated: the tensor ranks of prefill are more than these."""
    values = {"prefill.tp": prefill, "decode.tp": decode, "kv_heads": 4}
    more = {"uses_mla": 0, "keeps_states": 0}
    assert holds("vllm", "kv_heads_of_a_pair", **values, **more) == good
    for name in more:
        assert holds("vllm", "kv_heads_of_a_pair", **values, **more | {name: 1})


def test_stages_of_a_sglang_pair_are_equal_or_those_of_prefill_alone() -> None:
    for pp, same, good in ((1, 0, True), (1, 1, True), (2, 1, True), (2, 0, False)):
        values = {"decode.pp": pp, "same_stages": same}
        assert holds("sglang", "stages_of_a_pair", **values) == good


def test_a_sglang_prefill_server_with_stages_does_not_cut_windows_by_heads() -> None:
    for full, pp, decode, good in (
        (1, 2, 2, True),
        (0, 1, 2, True),
        (0, 2, 4, True),
        (0, 2, 2, False),
    ):
        values = {"prefill.pp": pp, "prefill.tp": 4, "decode.tp": decode, "head_dim": 64}
        assert holds("sglang", "windows_of_a_pair", keeps_every_token=full, **values) == good


@pytest.mark.parametrize(
    ("llm", "engine", "tensor", "good"),
    [
        ("qwen3-235b-a22b", "vllm", (8, 4), False),  # 4 key-value heads
        ("qwen3-235b-a22b", "vllm", (8, 8), True),
        ("qwen3-235b-a22b", "vllm", (4, 2), True),
        ("qwen3-235b-a22b", "sglang", (8, 4), True),
        ("deepseek-v3", "vllm", (8, 4), True),  # MLA
        ("qwen3-next-80b-a3b", "vllm", (8, 4), True),  # 2 key-value heads, and linear attention
        ("gpt-oss-120b", "vllm", (8, 4), True),  # 8 key-value heads
    ],
)
def test_kv_heads_of_a_pair_are_those_of_the_model(
    llm: str, engine: str, tensor: tuple[int, int], good: bool
) -> None:
    parts = {"llm": llm, "cluster": "2xhgx-h100", "workload": "chat-4k-1k-disaggregated"}
    scenario = load_scenario(parts=parts, overrides=[f"rule_packs=[{PACKS[engine]}]"])
    values = {"prefill.tp": tensor[0], "decode.tp": tensor[1], "decode.pp": 1, "prefill.pp": 1}
    for rule in (r for r in scenario.all_rules if r.name.endswith("_of_a_pair")):
        constraint = constraint_of(rule)
        assert isinstance(constraint, PairRule)
        allowed = constraint.allows(scenario, values | {"same_stages": 1}, (1, 1)).all()
        assert allowed == (good or rule.name != "vllm_kv_heads_of_a_pair")


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
