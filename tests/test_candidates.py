"""The candidate table, against loops over all degrees written from the module's definition."""

from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from autopar import oracle
from autopar.candidates import divisors, generate, known_architecture
from autopar.costs.analytic import AnalyticCosts
from autopar.costs.steps import most_sequences
from autopar.errors import SolveLimitError
from autopar.problem import Candidate, Candidates
from autopar.search import make_task, prepare
from autopar.solver import optimise
from autopar.specs import LLM, Architecture, DenseFeedForward, Scenario
from autopar.specs.counting import parameters
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
    cut_by_tp, cut_by_etp = [12], []
    for kind in architecture.layer_kinds:
        part = architecture.feed_forward_of(kind)
        if isinstance(part, DenseFeedForward):
            cut_by_tp.append(part.ffn_size)
        elif part is not None:
            cut_by_tp += [part.shared_size] * bool(part.shared_size)
            cut_by_etp.append(part.expert_size)
    if any(size % row.tp for size in cut_by_tp):
        return False
    return not any(size % row.etp for size in cut_by_etp)


def chunkings(scenario: Scenario) -> list[int]:
    """Parts of a prompt: as few as a step can take, twice as many, four times as many."""
    work = scenario.workload
    if not work.is_open or work.phase == "decode":
        return [1]
    fewest = -(-work.input_tokens // work.prefill_chunk_tokens)
    counts = [fewest * 2**k for k in range(12)]
    return [c for c in counts if c == fewest or work.input_tokens // c >= 256]


def every_chunking(scenario: Scenario, row: Candidate) -> set[Row]:
    """The row for each number of parts of a prompt; batch 1 stands for all of them."""
    batch = int(scenario.workload.is_open)
    counts = chunkings(scenario)
    return {astuple(replace(row, batch=batch, chunks=count)) for count in counts}


def equal_stages(
    scenario: Scenario, coverage: str, topology: Topology, fewer_replicas: bool
) -> set[Row]:
    """every_gpu and up_to: loop over all degrees, keep what the definition admits."""
    llm, num_gpus = scenario.llm, scenario.cluster.num_gpus
    work, needs = scenario.workload, scenario.requirements
    found = set()
    grids = list(triples(topology.stage_container))
    for tp, cp, attn_dp in grids:
        for ep, etp, spread in grids:
            stage = tp * cp * attn_dp
            if stage != ep * etp * spread:
                continue
            if not llm.is_moe and (ep, etp) != (1, tp):
                continue  # a dense stage: the feed-forward is sharded as attention is
            if not llm.is_moe and work.is_open and attn_dp > 1:
                continue  # its groups are replicas
            if llm.is_moe and spread > (needs.max_spread or (1 if work.is_open else 99)):
                continue
            for pp in range(1, llm.num_layers + 1):
                if llm.is_moe and spread > 1 and spread * pp > len(llm.expert_layers):
                    continue
                fitting = [r for r in range(1, num_gpus + 1) if r * pp * stage <= num_gpus]
                if coverage == "every_gpu":
                    fitting = [r for r in fitting if r * pp * stage == num_gpus]
                else:
                    shape = Candidate(1, pp, tp, cp, attn_dp, ep, etp, spread)
                    held = most_replicas(topology, shape)
                    fitting = [r for r in fitting if r <= held]
                    fitting = fitting if fewer_replicas else fitting[-1:]
                for r in fitting:
                    row = Candidate(r, pp, tp, cp, attn_dp, ep, etp, spread)
                    if arithmetic_allows(scenario, topology, row):
                        found |= every_chunking(scenario, row)
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
                        found |= every_chunking(scenario, row)
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
    llm = model(draw, layers, experts)
    mixed = experts and not all_have_experts(llm)
    choices = ["every_gpu", "up_to"]
    coverage = "partition" if partition and not mixed else draw(st.sampled_from(choices))
    changed = {
        "llm": llm,
        "cluster.num_nodes": nodes,
        "cluster.gpus_per_node": per_node,
        "cluster.gpus_per_domain": per_node * draw(st.integers(1, 3)),
        "requirements": {
            "coverage": coverage,
            "max_context_parallel_size": draw(st.integers(1, 3)),
            "max_spread": draw(st.sampled_from([None, None, 1, 2])),
        },
        "rules": [],
        "cost_model": draw(st.sampled_from(["declared", "analytic"])),
    }
    if draw(st.booleans()):
        phase = draw(st.sampled_from(["prefill", "decode", "serving"]))
        changed["workload"] = {
            "name": "open",
            "phase": phase,
            "input_tokens": draw(st.sampled_from([1, 511, 512, 3000])),
            "output_tokens": None if phase == "prefill" else 8,
            "prefill_chunk_tokens": draw(st.sampled_from([1000, 8192])),
        }
    return changed


def model(draw: Callable[..., Any], layers: int, experts: int) -> dict[str, Any]:
    """A model with or without shapes; one layer may be dense among layers with experts."""
    llm = {"name": "m", "num_layers": layers, "num_experts": experts, "num_parameters": 1e6}
    if not draw(st.booleans()):
        return llm
    dense = {"kind": "dense", "ffn_size": draw(st.sampled_from([6, 10, 12]))}
    moe = {
        "kind": "moe", "num_experts": experts, "experts_per_token": 1,
        "expert_size": draw(st.sampled_from([6, 10, 12])),
        "shared_size": draw(st.sampled_from([0, 9])),
    }  # fmt: skip
    names = ["moe"] * layers if experts else ["dense"] * layers
    if layers > 1 and draw(st.integers(0, 2)) == 0:
        names[0] = "dense"
    architecture = {
        "hidden_size": 8,
        "vocab_size": 9,
        "attention": {"full": {"kind": "gqa", "num_heads": 12, "num_kv_heads": 2, "head_dim": 2}},
        "feed_forward": {"dense": dense} | ({"moe": moe} if experts else {}),
        "layers": [{"layers": [{"attention": "full", "feed_forward": name} for name in names]}],
    }
    counted = parameters(Architecture.model_validate(architecture))
    return llm | {"architecture": architecture, "num_parameters": counted}


def all_have_experts(llm: dict[str, Any]) -> bool:
    return len(LLM.model_validate(llm).expert_layers) == llm["num_layers"]


def most_replicas(topology: Topology, row: Candidate) -> int:
    """How many replicas the containers hold; `Topology` is tested against a packing by itself."""
    needs = topology.footprint(row.tp, row.cp, row.etp, row.stage_gpus(1))
    return int(topology.num_stages(needs)) // row.pp


@settings(max_examples=120, deadline=None, derandomize=True)
@given(changes(), st.sampled_from(LEVELS), st.sampled_from(LEVELS), *[st.booleans()] * 2)
def test_the_table_is_that_of_a_brute_force(
    document_scenario: Build,
    changed: dict[str, Any],
    tensor: str,
    stage: str,
    fewer: bool,
    charged: bool,
) -> None:
    scenario = document_scenario(changed)
    coverage = scenario.requirements.coverage
    topology = Topology.of(scenario.cluster, tensor, stage)
    topology = topology.charged(scenario) if charged else topology
    table = [astuple(row) for row in generate(scenario, coverage, topology, fewer_replicas=fewer)]
    assert len(table) == len(set(table))
    if coverage == "partition":
        assert set(table) == one_to_one(scenario, topology)
        return
    assert set(table) == equal_stages(scenario, coverage, topology, fewer)


def test_declared_costs_bind_no_heads_and_the_analytic_ones_do(document_scenario: Build) -> None:
    shapes = {
        "hidden_size": 8,
        "vocab_size": 9,
        "attention": {"full": {"kind": "gqa", "num_heads": 3, "num_kv_heads": 3, "head_dim": 2}},
        "feed_forward": {
            "moe": {"kind": "moe", "num_experts": 2, "experts_per_token": 1, "expert_size": 12}
        },
        "layers": [{"count": 2, "layers": [{"attention": "full", "feed_forward": "moe"}]}],
    }
    small = {
        "llm.architecture": shapes, "llm.num_layers": 2, "llm.num_experts": 2,
        "llm.num_parameters": parameters(Architecture.model_validate(shapes)),
        "cluster.num_nodes": 1, "requirements": {"coverage": "every_gpu"},
    }  # fmt: skip
    sizes = {}
    for cost_model in ("declared", "analytic"):
        scenario = document_scenario(small | {"cost_model": cost_model})
        free = Topology.of(scenario.cluster, "cluster", "cluster")
        rows = generate(scenario, "every_gpu", free, fewer_replicas=False)
        sizes[cost_model] = {row.tp for row in rows}
        assert (known_architecture(scenario) is None) == (cost_model == "declared")
    assert sizes == {"declared": {1, 2, 4, 8}, "analytic": {1}}


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data(), groups=st.integers(2, 4))
def test_groups_of_a_dense_model_with_an_open_batch_are_no_better_than_replicas(
    data: st.DataObject, groups: int,
    analytic_scenario: Build, architectures: Callable[..., Any], open_works: Any,
) -> None:  # fmt: skip
    """What the table leaves out: the same batch per group, on as many GPUs."""
    shapes = data.draw(architectures(4).filter(lambda a: len(a["feed_forward"]) == 1))
    scenario = analytic_scenario(architecture=shapes, **data.draw(open_works))
    work = scenario.workload
    assume(int(most_sequences(work, np.array([work.fewest_chunks]))[0]))
    chunks = 1 if work.phase == "decode" else work.fewest_chunks
    layers = scenario.llm.num_layers
    first = data.draw(st.integers(0, layers - 1))
    stop = data.draw(st.integers(first + 1, layers))
    pp, tp = data.draw(st.integers(1, layers)), data.draw(st.sampled_from([1, 2, 3]))
    in_groups, in_replicas = (
        AnalyticCosts(scenario).stage_costs(
            Candidates.of([Candidate(r, pp, tp, 1, dp, 1, tp, dp, 1, chunks)]),
            np.array([first]), np.array([stop]),
        )
        for r, dp in ((1, groups), (groups, 1))
    )  # fmt: skip
    assert in_replicas.time_us[0] <= in_groups.time_us[0]
    assert in_replicas.tokens_per_s[0] >= in_groups.tokens_per_s[0] * (1 - 1e-12)
    assert in_replicas.memory_bytes[0] == in_groups.memory_bytes[0]
    if work.phase != "prefill":
        assert in_replicas.tpot_us[0] <= in_groups.tpot_us[0]


def test_parts_of_a_prompt_are_doubled_down_to_256_tokens(analytic_scenario: Build) -> None:
    """3,000 tokens in steps of 1,000: 3 parts or 6; 12 would have 250 each."""
    scenario = analytic_scenario(
        phase="serving", input_tokens=3000, prefill_chunk_tokens=1000, num_nodes=1
    )
    rows = make_task(scenario).problem.candidates
    assert {(row.pp, row.chunks) for row in rows if row.pp < 3} == {(1, 3), (1, 6), (2, 3), (2, 6)}
    assert {row.batch for row in rows} == {1}


def test_a_space_that_is_too_large_is_refused(document_scenario: Build) -> None:
    scenario = document_scenario(
        {
            "llm": {"name": "m", "num_layers": 1000, "num_parameters": 1e9},
            "cluster.num_nodes": 2000,
            "requirements": {"coverage": "up_to", "max_context_parallel_size": 16_000},
            "rules": [],
        }
    )
    topology = Topology.of(scenario.cluster, "cluster", "cluster")
    message = r"^16,000 GPUs leave [\d,]+ layouts open, .* ask for coverage every_gpu$"
    with pytest.raises(SolveLimitError, match=message):
        generate(scenario, "up_to", topology, fewer_replicas=False)


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
