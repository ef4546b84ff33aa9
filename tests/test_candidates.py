"""The candidate table, against loops over all degrees written from the module's definition."""

from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar import oracle
from autopar.candidates import divisors, generate, known_architecture
from autopar.problem import Candidate
from autopar.search import make_task, prepare
from autopar.solver import optimise
from autopar.specs import Scenario
from autopar.topology import Topology

Build = Callable[..., Scenario]
Row = tuple[int, ...]
LEVELS = ("node", "domain", "cluster")


def triples(limit: int) -> Iterator[tuple[int, int, int]]:
    """Every three positive integers whose product is at most `limit`."""
    for a in range(1, limit + 1):
        for b in range(1, limit // a + 1):
            for c in range(1, limit // (a * b) + 1):
                yield a, b, c


def arithmetic_allows(scenario: Scenario, topology: Topology, row: Candidate) -> bool:
    """Divisibility and the sizes of groups, which hold under every coverage."""
    llm = scenario.llm
    if row.cp > scenario.requirements.max_context_parallel_size:
        return False
    if max(row.tp, row.etp) > topology.group_container:
        return False
    if llm.is_moe and llm.num_experts % row.ep:
        return False
    architecture = None if scenario.cost_model == "declared" else llm.architecture
    if architecture is None:
        return True
    if architecture.num_attention_heads % row.tp:
        return False
    return architecture.ffn_hidden_size % row.etp == 0


def equal_stages(
    scenario: Scenario, coverage: str, topology: Topology, fewer_replicas: bool
) -> set[Row]:
    """every_gpu and up_to: loop over all eight degrees, keep what the definition admits."""
    llm, num_gpus = scenario.llm, scenario.cluster.num_gpus
    found = set()
    grids = list(triples(topology.stage_container))
    for tp, cp, attn_dp in grids:
        for ep, etp, spread in grids:
            stage = tp * cp * attn_dp
            if stage != ep * etp * spread:
                continue
            if not llm.is_moe and (ep, etp) != (1, tp):
                continue  # a dense stage: the feed-forward is sharded as attention is
            for pp in range(1, llm.num_layers + 1):
                if llm.is_moe and spread * pp > llm.num_layers:
                    continue
                fitting = [r for r in range(1, num_gpus + 1) if r * pp * stage <= num_gpus]
                if coverage == "every_gpu":
                    fitting = [r for r in fitting if r * pp * stage == num_gpus]
                else:
                    shape = Candidate(1, pp, tp, cp, attn_dp, ep, etp, spread)
                    held = most_replicas(topology, shape)
                    fitting = [r for r in fitting if r <= held]
                    fitting = fitting if fewer_replicas else fitting[-1:]
                rows = [Candidate(r, pp, tp, cp, attn_dp, ep, etp, spread) for r in fitting]
                found |= {astuple(r) for r in rows if arithmetic_allows(scenario, topology, r)}
    return found


def one_to_one(scenario: Scenario, topology: Topology) -> set[Row]:
    """partition: loop over the sizes of shards and groups, one expert shard on every GPU."""
    llm, num_gpus = scenario.llm, scenario.cluster.num_gpus
    found = set()
    for etp in range(1, num_gpus + 1):
        if llm.num_layers * llm.num_experts * etp != num_gpus:
            continue
        for tp in range(1, num_gpus + 1):
            for cp in range(1, num_gpus + 1):
                if llm.num_experts * etp % (tp * cp):
                    continue
                for pp in range(1, llm.num_layers + 1):
                    row = Candidate(1, pp, tp, cp, 0, llm.num_experts, etp, 0)
                    if arithmetic_allows(scenario, topology, row):
                        found.add(astuple(row))
    return found


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """A small scenario, as changes of the document's."""
    moe = draw(st.booleans())
    partition = moe and draw(st.booleans())
    layers, experts = draw(st.integers(1, 4)), draw(st.integers(1, 4)) if moe else 0
    per_node = draw(st.integers(1, 6))
    nodes = draw(st.integers(1, 12 // per_node))
    if partition and draw(st.integers(0, 3)):  # counts that agree, most of the time
        num_gpus = layers * experts * draw(st.integers(1, 3))
        per_node = draw(st.sampled_from([d for d in range(1, 9) if num_gpus % d == 0]))
        nodes = num_gpus // per_node
    architecture = {
        "hidden_size": 8, "num_attention_heads": 12, "num_key_value_heads": 2, "head_dim": 2,
        "ffn_hidden_size": draw(st.sampled_from([6, 10, 12])), "vocab_size": 9,
    }  # fmt: skip
    llm = {"name": "m", "num_layers": layers, "num_experts": experts, "num_parameters": 1e6}
    if draw(st.booleans()):
        llm["architecture"] = architecture
    coverage = "partition" if partition else draw(st.sampled_from(["every_gpu", "up_to"]))
    return {
        "llm": llm,
        "cluster.num_nodes": nodes,
        "cluster.gpus_per_node": per_node,
        "cluster.gpus_per_domain": per_node * draw(st.integers(1, 3)),
        "requirements": {
            "coverage": coverage,
            "max_context_parallel_size": draw(st.integers(1, 3)),
        },
        "rules": [],
        "cost_model": draw(st.sampled_from(["declared", "analytic"])),
    }


def most_replicas(topology: Topology, row: Candidate) -> int:
    """How many replicas the containers hold; `Topology` is tested against a packing by itself."""
    unit = topology.unit(np.array([row.tp]), np.array([row.etp]))
    return int(topology.num_blocks(np.array([row.stage_gpus(1)]), unit)[0]) // row.pp


@settings(max_examples=200, deadline=None, derandomize=True)
@given(changes(), st.sampled_from(LEVELS), st.sampled_from(LEVELS), st.booleans())
def test_the_table_is_that_of_a_brute_force(
    document_scenario: Build, changed: dict[str, Any], tensor: str, stage: str, fewer: bool
) -> None:
    """Beside the legal rows, dense ones may stand there whose columns do not divide over tp.

    The divisibility constraint removes those.
    """
    scenario = document_scenario(changed)
    coverage = scenario.requirements.coverage
    topology = Topology.of(scenario.cluster, tensor, stage)
    table = list(generate(scenario, coverage, topology, fewer_replicas=fewer))
    assert len(table) == len(set(table))
    legal = {row for row in table if arithmetic_allows(scenario, topology, row)}
    assert legal == set(table) or not scenario.llm.is_moe
    if coverage == "partition":
        assert {astuple(row) for row in legal} == one_to_one(scenario, topology)
        return
    assert {astuple(row) for row in legal} == equal_stages(scenario, coverage, topology, fewer)


def test_declared_costs_bind_no_heads_and_the_analytic_ones_do(document_scenario: Build) -> None:
    shapes = {
        "hidden_size": 8, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 2,
        "ffn_hidden_size": 12, "vocab_size": 9,
    }  # fmt: skip
    small = {
        "llm.architecture": shapes, "llm.num_layers": 2, "llm.num_experts": 2,
        "cluster.num_nodes": 1, "requirements": {"coverage": "every_gpu"},
    }  # fmt: skip
    sizes = {}
    for model in ("declared", "analytic"):
        scenario = document_scenario(small | {"cost_model": model})
        free = Topology(8, 8, 8)
        rows = generate(scenario, "every_gpu", free, fewer_replicas=False)
        sizes[model] = {row.tp for row in rows}
        assert (known_architecture(scenario) is None) == (model == "declared")
    assert sizes == {"declared": {1, 2, 4, 8}, "analytic": {1}}


def test_divisors_are_those_of_trial_division() -> None:
    for number in range(1, 200):
        assert divisors(number) == tuple(d for d in range(1, number + 1) if number % d == 0)


# Each: (experts, nodes, GPUs per node, what the rule demands of a stage)
CONFINED = [(5, 2, 8, "ep == 5"), (3, 2, 8, "ep == 3 and etp == 1"), (3, 3, 4, "gpus == 3")]


def confined(build: Build, experts: int, nodes: int, per_node: int, rule: str) -> Scenario:
    return build(
        {
            "llm.num_layers": 1,
            "llm.num_experts": experts,
            "cluster.num_nodes": nodes,
            "cluster.gpus_per_node": per_node,
            "cluster.gpus_per_domain": per_node,
            "requirements": {"coverage": "up_to", "all_to_all_within": "node"},
            "rules": [{"name": "shape", "require": rule, "because": "a test"}],
        }
    )


@pytest.mark.parametrize("case", CONFINED)
def test_up_to_keeps_the_most_replicas_that_the_containers_hold(
    document_scenario: Build, case: tuple[int, int, int, str]
) -> None:
    """GPUs that no container can use do not count: 2 nodes of 8 hold 2 stages of 5, not 3."""
    scenario = confined(document_scenario, *case)
    task = make_task(scenario)
    every = generate(scenario, "up_to", task.problem.topology, fewer_replicas=True)
    names = [objective.name for objective in task.objectives]
    expected = oracle.best(replace(task.problem, candidates=every), task.constraints, names)
    assert expected is not None
    outcome = optimise(task, prepare(task))
    assert outcome.status == "optimal"
    assert outcome.vector is not None
    assert task.oriented(outcome.vector) == expected[0]
