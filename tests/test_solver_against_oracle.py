"""The solver equals exhaustive search: same status, same lexicographic value, a verified plan."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from autopar import oracle, overrides
from autopar.api import solve
from autopar.constraints.active import droppable
from autopar.costs.operations.parts import RUNTIME_RESERVE_BYTES
from autopar.diagnose import Question
from autopar.layouts import Layout
from autopar.runner_up import lead, next_best
from autopar.search import make_task, prepare
from autopar.solver import optimise
from autopar.specs import LLM, Architecture, Scenario
from autopar.specs.counting import parameters
from autopar.unfold import unfold
from autopar.variables import Choice
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
BATCH_RULES = ("batch >= 2", "batch % 2 == 0", "batch * pp <= 4")
LINK = {"bandwidth_bytes_per_s": 1e10, "latency_us": 3.0}
SLOW_LINK = {"bandwidth_bytes_per_s": 1e9, "latency_us": 20.0}
LEVELS = st.sampled_from(["node", "domain", "cluster"])
ORDERS = (
    ("throughput", "ttft", "tpot", "traffic", "memory"),
    ("memory", "throughput", "ttft", "tpot"),
    ("ttft", "tpot", "gpus", "memory"),
    ("traffic", "memory", "throughput", "gpus"),
    ("throughput_per_gpu", "tpot", "ttft", "gpus"),
    ("cost", "throughput", "memory"),
    ("tpot", "cost", "ttft"),
    ("gpus", "throughput_per_gpu"),
    ("ttft", "tpot"),
    ("memory",),
)
GIVEN = (
    {"phase": "prefill", "sequence_tokens": 64, "batch_tokens": 16},
    {"phase": "prefill", "sequence_tokens": 64, "batch_tokens": 1024},
    {"phase": "decode", "sequence_tokens": 64, "batch_sequences": 16},
    {"phase": "decode", "sequence_tokens": 64, "batch_sequences": 100},
)
DRAFTS = {"draft_tokens": 2, "acceptance": 0.7}
OPEN = (
    {"phase": "prefill", "input_tokens": 30, "prefill_chunk_tokens": 128},
    {"phase": "prefill", "input_tokens": 600, "prefill_chunk_tokens": 1024},
    {"phase": "prefill", "input_tokens": 1100, "prefill_chunk_tokens": 512, "prompts_ahead": 0.5},
    {"phase": "decode", "input_tokens": 90, "output_tokens": 40},
    {"phase": "decode", "input_tokens": 90, "output_tokens": 40, "speculation": DRAFTS},
    {"phase": "serving", "input_tokens": 30, "output_tokens": 20, "prefill_chunk_tokens": 64},
    {"phase": "serving", "input_tokens": 1100, "output_tokens": 9, "prefill_chunk_tokens": 512},
    {
        "phase": "serving", "input_tokens": 600, "output_tokens": 50, "speculation": DRAFTS,
        "expert_load": "power_law_1.2", "prompts_ahead": 1.0,
    },
)  # fmt: skip


@st.composite
def llms(draw: st.DrawFn, architectures: Callable[..., Any], most_layers: int) -> dict[str, Any]:
    """Models of a few layers of up to three kinds, with up to 6 experts, or dense."""
    document = draw(architectures(most_layers))
    built = Architecture.model_validate(document)
    return {
        "name": "m",
        "num_layers": built.num_layers,
        "num_experts": built.num_experts,
        "experts_per_token": built.experts_per_token,
        "num_parameters": parameters(built),
        "architecture": document,
    }


def has_experts_everywhere(llm: dict[str, Any]) -> bool:
    return len(LLM.model_validate(llm).expert_layers) == llm["num_layers"]


@st.composite
def clusters(
    draw: st.DrawFn, llm: dict[str, Any], coverage: str, most: int, kernels: dict[str, Any] | None
) -> dict[str, Any]:
    """Up to `most` GPUs, or as many as a partition of the model needs.

    Memory is scarce in some: a little more than what the runtime takes, or less.
    """
    gpus_per_node = draw(st.integers(1, 6))
    num_nodes = draw(st.integers(1, max(1, most // gpus_per_node)))
    if coverage == "partition" and draw(st.booleans()):  # else mostly hopeless
        num_gpus = llm["num_layers"] * llm["num_experts"] * draw(st.integers(1, 3))
        gpus_per_node = draw(st.sampled_from([d for d in range(1, 25) if num_gpus % d == 0]))
        num_nodes = num_gpus // gpus_per_node
    left_bytes = draw(st.sampled_from([3e5, 7e5, 1e6, 3e6, 2e7, 4e10, 4e10, 4e10]))
    reserve = draw(st.sampled_from([0.0, *[RUNTIME_RESERVE_BYTES] * 7]))
    return {
        "name": "c",
        "gpu": {
            "name": "g",
            "peak_flops_per_s": 1e11,
            "memory_bytes": left_bytes + reserve,
            "memory_bandwidth_bytes_per_s": 1e10,
            "usd_per_hour": draw(st.sampled_from([1e-7, 2.5])),
            "kernels": kernels,
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
        "max_spread": draw(st.sampled_from([None, None, 1, 2])),
    }
    limits = [300.0, 600.0, 1_000.0, 2_000.0, 5_000.0, 20_000.0]
    for key, without in (("max_ttft_us", "decode"), ("max_tpot_us", "prefill")):
        if phase != without and draw(st.integers(0, 2)) == 0:
            wanted[key] = draw(st.sampled_from(limits))
    for key in ("min_tokens_per_s", "min_tokens_per_s_per_gpu"):
        if draw(st.integers(0, 3)) == 0:
            wanted[key] = draw(st.sampled_from([1e2, 1e3, 1e4, 1e5, 1e6]))
    return wanted


@st.composite
def rules(draw: st.DrawFn, is_open: bool) -> list[dict[str, Any]]:
    """Up to two predicates and up to two totals."""
    texts = RULES + BATCH_RULES if is_open else RULES
    chosen = (
        draw(st.lists(st.sampled_from(texts), max_size=2, unique=True))
        if draw(st.booleans())
        else []
    )
    found: list[dict[str, Any]] = [
        {"name": f"r{i}", draw(st.sampled_from(["require", "forbid"])): text, "because": "a test"}
        for i, text in enumerate(chosen)
    ]
    if draw(st.integers(0, 3)) == 0:
        most = draw(st.integers(2, 12))
        found.append({"name": "total", "sum": "gpus", "at_most": most, "because": "a test"})
    if draw(st.integers(0, 5)) == 0:
        squares = "layers_per_stage * layers_per_stage"
        found.append({"name": "depth", "sum": squares, "at_most": 9, "because": "a test"})
    return found


@st.composite
def scenarios(
    draw: st.DrawFn, architectures: Callable[..., Any], uneven_kernels: Any, is_open: bool
) -> Scenario:
    """Small scenarios of every kind, feasible and not."""
    llm = draw(llms(architectures, 3 if is_open else 5))
    partition = ["partition"] * 2 if has_experts_everywhere(llm) else []
    coverage = draw(st.sampled_from(["every_gpu", "up_to", *partition]))
    workload: dict[str, Any] = {"name": "w", **draw(st.sampled_from(OPEN if is_open else GIVEN))}
    if is_open:
        workload["max_batch_sequences"] = draw(st.integers(1, 6))
    symmetries = ["canonical", "canonical", "explicit"]
    document = {
        "name": "random",
        "llm": llm,
        "cluster": draw(clusters(llm, coverage, 6 if is_open else 16, draw(uneven_kernels))),
        "workload": workload,
        "requirements": draw(requirements(coverage, workload["phase"])),
        "rules": draw(rules(is_open)),
        "cost_model": "analytic" if is_open else draw(st.sampled_from(["declared", "analytic"])),
        "declared": {
            "flops_per_token": 1e6,
            "compute_efficiency": 0.5,
            "utilisation": 0.5,
            "layer_time_us": 1000.0,
        },
        "recipe": {
            "name": "r",
            "objectives": draw(st.sampled_from(ORDERS)),
            "cp_sat": {"symmetry": draw(st.sampled_from(symmetries))},
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
        slack = objective.rounding_error(task.problem, ours)
        assert abs(ours - theirs) <= slack, objective.name
    return "optimal"


def many(count: int) -> Any:
    """Examples that are the same in every run."""
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(
        max_examples=count, deadline=None, derandomize=True, suppress_health_check=checks
    )


@many(40)
@given(data=st.data())
def test_the_solver_equals_exhaustive_search(
    data: st.DataObject, architectures: Callable[..., Any], uneven_kernels: Any
) -> None:
    """DESIGN 7.2: on small problems the optimum is the exhaustive one, or both find none."""
    compare_with_oracle(data.draw(scenarios(architectures, uneven_kernels, is_open=False)))


@many(40)
@given(data=st.data())
def test_with_an_open_batch_too(
    data: st.DataObject, architectures: Callable[..., Any], uneven_kernels: Any
) -> None:
    """The batch, and the parts in which prompts are computed, are found with the layout."""
    compare_with_oracle(data.draw(scenarios(architectures, uneven_kernels, is_open=True)))


def compare_runner_up(scenario: Scenario) -> str:
    """The next best layout, its value and its bound, against all plans with other degrees."""
    task = make_task(scenario)
    prepared = prepare(task)
    outcome = optimise(task, prepared)
    if outcome.choice is None or outcome.vector is None:
        return "infeasible"
    assert isinstance(outcome.choice, Choice)
    metrics = verify_plan(scenario, unfold(
        task.problem, outcome.choice.candidate, outcome.choice.split
    )).metrics  # fmt: skip
    assert metrics is not None
    found = next_best(task, prepared, outcome, metrics)
    assert found is not None
    own = Layout.of(outcome.choice.candidate).matches(task.problem.candidates)
    others = replace(task.problem, candidates=task.problem.candidates.take(~own))
    names = [objective.name for objective in task.objectives]
    best = oracle.best(others, task.constraints, names)
    first = task.objectives[0]
    sign = 1 if first.sense == "min" else -1
    if best is None:
        assert found.value is None
        return "alone"
    assert found.bound is not None
    bound = round(found.bound / first.quantum) * sign
    assert task.oriented(outcome.vector)[0] <= bound <= best[0][0]
    if found.value is None:
        return "bound"
    assert best[0][0] <= round(found.value / first.quantum) * sign
    if scenario.recipe.cp_sat.symmetry == "canonical" and not scenario.rules:
        assert found.value == found.bound
        assert found.lead == lead(task.oriented(outcome.vector)[0], best[0][0])
    return "exact" if found.value == found.bound else "found"


@many(60)
@given(data=st.data(), is_open=st.booleans())
def test_the_next_best_layout_is_that_of_exhaustive_search(
    data: st.DataObject, is_open: bool, architectures: Callable[..., Any], uneven_kernels: Any
) -> None:
    event(compare_runner_up(data.draw(scenarios(architectures, uneven_kernels, is_open=is_open))))


@pytest.mark.slow
@settings(many(150), derandomize=False)
@given(data=st.data(), is_open=st.booleans())
def test_on_many_more_scenarios(
    data: st.DataObject, is_open: bool, architectures: Callable[..., Any], uneven_kernels: Any
) -> None:
    """Others in every run."""
    compare_with_oracle(data.draw(scenarios(architectures, uneven_kernels, is_open)))


@many(20)
@given(data=st.data(), is_open=st.booleans())
def test_a_clash_is_minimal_and_every_repair_works_as_typed(
    data: st.DataObject, is_open: bool, architectures: Callable[..., Any], uneven_kernels: Any
) -> None:
    """Infeasible ones: the clash alone has no plan, less of it has, and each repair gives one."""
    scenario = data.draw(scenarios(architectures, uneven_kernels, is_open))
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


@pytest.mark.parametrize("is_open", [False, True])
def test_the_random_scenarios_are_feasible_and_infeasible_in_good_measure(
    is_open: bool, architectures: Callable[..., Any], uneven_kernels: Any
) -> None:
    seen: list[str] = []

    @settings(
        max_examples=50,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(scenarios(architectures, uneven_kernels, is_open))
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
    [(8, 6, 24, 6, 36), (8, 6, 16, 9, 18), (7, 5, 35, 3, 45), (8, 4, 32, 3, 24)],
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
