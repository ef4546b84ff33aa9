"""The solver equals exhaustive search: same status, same lexicographic value, a verified plan."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopar import oracle, overrides
from autopar.api import solve
from autopar.constraints.active import droppable
from autopar.diagnose import Question
from autopar.search import make_task, prepare
from autopar.solver import optimise
from autopar.specs import Scenario
from autopar.unfold import unfold
from autopar.verifier import verify_plan

RULES = (
    "tp == etp",
    "pp <= 2",
    "layers_per_stage % 2 == 0",
    "not (ep > 1 and tp > 1)",
    "gpus <= gpus_per_node",
    "attn_dp >= 2 or pp > 1",
    "replicas * pp >= 2",
    "expert_group_gpus <= scale_up_domain_gpus",
)


LINK = {"bandwidth_bytes_per_s": 1e10, "latency_us": 3.0}
SLOW_LINK = {"bandwidth_bytes_per_s": 1e9, "latency_us": 20.0}
LEVELS = st.sampled_from(["node", "domain", "cluster"])
ORDERS = (
    ("throughput", "ttft", "tpot", "traffic", "memory"),
    ("memory", "throughput", "ttft", "tpot"),
    ("ttft", "tpot", "gpus", "memory"),
    ("traffic", "memory", "throughput", "gpus"),
    ("ttft", "tpot"),
    ("memory",),
)


@st.composite
def llms(draw: st.DrawFn) -> dict[str, Any]:
    """Models of up to 5 layers and 4 experts, or dense."""
    is_moe = draw(st.sampled_from([True, True, False]))
    num_experts = draw(st.integers(1, 4)) if is_moe else 0
    return {
        "name": "m",
        "num_layers": draw(st.integers(1, 5)),
        "num_experts": num_experts,
        "experts_per_token": min(2, num_experts) if is_moe else None,
        "num_parameters": 1e6,
        "architecture": {
            "hidden_size": 64,
            "num_attention_heads": 12,
            "num_key_value_heads": draw(st.sampled_from([2, 4, 12])),
            "head_dim": 8,
            "ffn_hidden_size": 96,
            "num_shared_experts": draw(st.integers(0, 1)) if is_moe else 0,
            "vocab_size": 500,
            "shares_embeddings": draw(st.booleans()),
        },
    }


@st.composite
def clusters(draw: st.DrawFn, llm: dict[str, Any], coverage: str) -> dict[str, Any]:
    """Up to 16 GPUs, or as many as a partition of the model needs."""
    gpus_per_node = draw(st.integers(1, 6))
    num_nodes = draw(st.integers(1, max(1, 16 // gpus_per_node)))
    if coverage == "partition" and draw(st.booleans()):  # else mostly hopeless
        num_gpus = llm["num_layers"] * llm["num_experts"] * draw(st.integers(1, 3))
        gpus_per_node = draw(st.sampled_from([d for d in range(1, 25) if num_gpus % d == 0]))
        num_nodes = num_gpus // gpus_per_node
    return {
        "name": "c",
        "gpu": {
            "name": "g",
            "peak_flops_per_s": 1e11,
            "memory_bytes": draw(st.sampled_from([3e5, 1e6, 1e7, 4e10])),
            "memory_bandwidth_bytes_per_s": 1e10,
        },
        "num_nodes": num_nodes,
        "gpus_per_node": gpus_per_node,
        "gpus_per_domain": gpus_per_node * draw(st.integers(1, 3)),
        "links": {"node": LINK, "domain": LINK, "fabric": SLOW_LINK},
    }


@st.composite
def requirements(draw: st.DrawFn, coverage: str, phase: str) -> dict[str, Any]:
    """Confinement, and sometimes limits, tight and loose."""
    wanted: dict[str, Any] = {
        "coverage": coverage,
        "tensor_parallel_within": draw(LEVELS),
        "all_to_all_within": draw(LEVELS),
        "max_context_parallel_size": draw(st.integers(1, 2)),
    }
    if draw(st.booleans()):
        key = "max_ttft_us" if phase == "prefill" else "max_tpot_us"
        wanted[key] = draw(st.sampled_from([200.0, 2_000.0, 20_000.0, 500_000.0]))
    if draw(st.integers(0, 3)) == 0:
        wanted["min_tokens_per_s"] = draw(st.sampled_from([1e3, 1e5, 1e7]))
    return wanted


@st.composite
def rules(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Up to two predicates and up to two totals."""
    chosen = draw(st.lists(st.sampled_from(RULES), max_size=2, unique=True))
    found: list[dict[str, Any]] = [
        {"name": f"r{i}", draw(st.sampled_from(["require", "forbid"])): text, "because": "a test"}
        for i, text in enumerate(chosen)
    ]
    if draw(st.integers(0, 3)) == 0:
        most = draw(st.integers(1, 12))
        found.append({"name": "total", "sum": "gpus", "at_most": most, "because": "a test"})
    if draw(st.integers(0, 5)) == 0:
        squares = "layers_per_stage * layers_per_stage"
        found.append({"name": "depth", "sum": squares, "at_most": 9, "because": "a test"})
    return found


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Small scenarios of every kind, feasible and not."""
    llm = draw(llms())
    partition = ["partition"] * 2 if llm["num_experts"] else []
    coverage = draw(st.sampled_from(["every_gpu", "up_to", *partition]))
    phase = draw(st.sampled_from(["prefill", "decode"]))
    batch = {"prefill": "batch_tokens", "decode": "batch_sequences"}[phase]
    document = {
        "name": "random",
        "llm": llm,
        "cluster": draw(clusters(llm, coverage)),
        "workload": {
            "name": "w",
            "phase": phase,
            "sequence_tokens": 64,
            batch: draw(st.sampled_from([16, 100, 1024])),
        },
        "requirements": draw(requirements(coverage, phase)),
        "rules": draw(rules()),
        "cost_model": draw(st.sampled_from(["declared", "analytic"])),
        "declared": {
            "flops_per_token": 1e6,
            "compute_efficiency": 0.5,
            "utilisation": 0.5,
            "layer_time_us": 1000.0,
        },
        "recipe": {
            "name": "r",
            "objectives": draw(st.sampled_from(ORDERS)),
            "cp_sat": {"symmetry": draw(st.sampled_from(["canonical", "canonical", "explicit"]))},
        },
    }
    return Scenario.model_validate(document)


def compare_with_oracle(scenario: Scenario) -> str:
    """Solve both ways, compare, verify; return the status."""
    task = make_task(scenario)
    prepared = prepare(task)
    outcome = optimise(task, prepared)
    names = [objective.name for objective in task.objectives]
    small = scenario.llm.num_layers <= 4
    expected = oracle.best(
        task.problem, task.constraints, names,
        every_packing=small and scenario.requirements.coverage == "partition",
    )  # fmt: skip
    if expected is None:
        assert outcome.status == "infeasible"
        return "infeasible"
    assert outcome.status == "optimal"
    assert outcome.vector is not None
    assert task.oriented(outcome.vector) == expected[0]
    assert outcome.bounds == outcome.vector
    assert outcome.choice is not None
    plan = unfold(
        task.problem, outcome.choice.candidate, outcome.choice.split,
        layer_blocks=outcome.choice.layer_blocks, expert_ranks=outcome.choice.expert_ranks,
    )  # fmt: skip
    for constraint in task.constraints:
        assert list(constraint.check(plan, task.problem)) == []
    report = verify_plan(scenario, plan)
    assert report.violations == ()
    assert report.metrics is not None
    for objective, integer in zip(task.objectives, outcome.vector, strict=True):
        ours = objective.value(integer)
        theirs = objective.of_metrics(report.metrics)
        slack = objective.quantum * (objective.terms(task.problem) + 1) + 1e-9 * abs(ours)
        assert abs(ours - theirs) <= slack, objective.name
    return "optimal"


@settings(
    max_examples=240,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(scenarios())
def test_the_solver_equals_exhaustive_search(scenario: Scenario) -> None:
    """DESIGN 7.2: on small problems the optimum is the exhaustive one, or both find none."""
    compare_with_oracle(scenario)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(scenarios())
def test_a_clash_is_minimal_and_every_repair_works_as_typed(scenario: Scenario) -> None:
    """Infeasible ones: the clash alone has no plan, less of it has, and each repair gives one."""
    solution = solve(scenario)
    if solution.status != "infeasible":
        return
    assert solution.conflict
    question = Question(scenario, ())
    names = [c.name for c in droppable(question.task().constraints)]
    others = [name for name in names if name not in solution.conflict]
    assert question.feasible(others) is False
    for member in solution.conflict:
        assert question.feasible([*others, member]) is True, member
    assert solution.repairs
    for repair in solution.repairs:
        document = scenario.document()
        overrides.apply(document, repair.change.split(" --set "), Scenario)
        assert Question(Scenario.model_validate(document), ()).feasible() is True, repair


def test_the_random_scenarios_are_feasible_and_infeasible_in_good_measure() -> None:
    seen: list[str] = []

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(scenarios())
    def count(scenario: Scenario) -> None:
        seen.append(
            "infeasible" if not len(prepare(make_task(scenario)).rows) else "has candidates"
        )

    count()
    share = seen.count("infeasible") / len(seen)
    assert 0.1 < share < 0.9, f"{share:.0%} without candidates"


@pytest.mark.parametrize("symmetry", ["canonical", "explicit"])
@pytest.mark.parametrize(
    ("layers", "experts", "nodes", "per_node", "per_domain"),
    [(10, 6, 30, 6, 36), (10, 6, 20, 9, 18), (7, 5, 35, 3, 45), (9, 4, 36, 3, 24)],
)
def test_odd_sizes_come_out_right(
    document_scenario: Any,
    layers: int, experts: int, nodes: int, per_node: int, per_domain: int, symmetry: str,
) -> None:  # fmt: skip
    scenario = document_scenario(
        {
            "llm.num_layers": layers,
            "llm.num_experts": experts,
            "cluster.num_nodes": nodes,
            "cluster.gpus_per_node": per_node,
            "cluster.gpus_per_domain": per_domain,
            "recipe.cp_sat": {"symmetry": symmetry},
        }
    )
    compare_with_oracle(scenario)
