"""Each constraint alone: a plan it allows, a plan it forbids, and post = check on every plan."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from autopar.candidates import every_batch
from autopar.constraints import Constraint, PlugIn
from autopar.constraints.all_to_all_within import AllToAllWithin
from autopar.constraints.coverage import Coverage
from autopar.constraints.divisibility import Divisibility
from autopar.constraints.gpu_blocks import GpuBlocks
from autopar.constraints.grid_identity import GridIdentity
from autopar.constraints.latency import Tpot, Ttft
from autopar.constraints.layer_cover import LayerCover
from autopar.constraints.max_spread import MaxSpread
from autopar.constraints.memory import Memory
from autopar.constraints.tensor_parallel_within import TensorParallelWithin
from autopar.constraints.throughput import Throughput
from autopar.ortools_loader import load_cp_model
from autopar.problem import Candidate, Candidates, Plan, Problem
from autopar.rules import rule_constraint
from autopar.search import make_task
from autopar.segments import plan_costs, segment_table
from autopar.specs import CpSatParameters, Recipe, RuleSpec, Scenario
from autopar.testing import (
    assert_allows,
    assert_forbids,
    assert_post_matches_check,
    every_choice,
)
from autopar.unfold import unfold
from autopar.variables import Choice, PlanVariables

Build = Callable[[dict[str, Any]], Scenario]
SMALL = {
    "llm.num_layers": 4,
    "llm.num_experts": 2,
    "cluster.num_nodes": 6,
    "cluster.gpus_per_node": 4,
    "cluster.gpus_per_domain": 12,
    "rules": [],
}


def small_problem(build: Build, **changes: Any) -> Problem:
    """A problem of 4 layers x 2 experts on 24 GPUs: 6 nodes of 4, domains of 12."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    scenario = build(SMALL | dotted)
    problem = make_task(scenario).problem
    # candidates that a confinement forbids too: the generator leaves them out of a confined problem
    free = make_task(scenario, disabled=["all_to_all_within", "tensor_parallel_within"])
    problem = replace(problem, candidates=free.problem.candidates)
    if len(problem.candidates) > 60:  # a sample keeps the brute force short
        step = len(problem.candidates) // 60 + 1
        sample = problem.candidates.take(np.arange(0, len(problem.candidates), step))
        problem = replace(problem, candidates=sample)
    return problem


# One confinement at a time: with both, a plan may break one only because the other moved it.
FREE_TENSORS = {"requirements__tensor_parallel_within": "cluster"}
FREE_STAGES = {"requirements__all_to_all_within": "cluster"}
CASES: list[tuple[type[Constraint], dict[str, Any]]] = [
    (AllToAllWithin, FREE_TENSORS),
    (AllToAllWithin, FREE_TENSORS | {"requirements__coverage": "every_gpu"}),
    (
        AllToAllWithin,
        FREE_TENSORS | {"requirements__coverage": "up_to", "cluster__gpus_per_domain": 8},
    ),
    (TensorParallelWithin, FREE_STAGES),
    (TensorParallelWithin, FREE_STAGES | {"requirements__coverage": "every_gpu"}),
    (
        TensorParallelWithin,
        FREE_STAGES | {"cluster__gpus_per_node": 3, "cluster__num_nodes": 8},
    ),
    (Ttft, {"requirements__max_ttft_us": 350e3}),
    (Ttft, {"requirements__max_ttft_us": 450e3, "requirements__coverage": "every_gpu"}),
    (Memory, {"requirements__coverage": "every_gpu", "cluster__gpu.memory_bytes": 3e9}),
    (Memory, {"cluster__gpu.memory_bytes": 1e9}),
    (Throughput, {"requirements__min_tokens_per_s_per_gpu": 130e3}),
    (Throughput, {"requirements__min_tokens_per_s": 2e6, "requirements__coverage": "up_to"}),
    (Divisibility, {"requirements__coverage": "every_gpu"}),
    (GpuBlocks, FREE_STAGES | FREE_TENSORS | {"requirements__coverage": "up_to"}),
    (GridIdentity, {"requirements__coverage": "every_gpu"}),
    (LayerCover, {"requirements__coverage": "every_gpu"}),
    (Coverage, {"requirements__coverage": "up_to"}),
    (MaxSpread, {"requirements__max_spread": 1}),
    (MaxSpread, {"requirements__max_spread": 2}),
]


@pytest.mark.parametrize(("constraint", "changes"), CASES)
def test_post_matches_check_on_every_plan(
    document_scenario: Build, constraint: type[Constraint], changes: dict[str, Any]
) -> None:
    problem = small_problem(document_scenario, **changes)
    allowed, forbidden = assert_post_matches_check(constraint(), problem)
    assert allowed + forbidden > 0


def test_tpot_post_matches_check(document_scenario: Build) -> None:
    decode = {"name": "d", "phase": "decode", "batch_sequences": 8, "sequence_tokens": 16}
    problem = small_problem(
        document_scenario,
        workload=decode,
        requirements={"coverage": "every_gpu", "max_tpot_us": 600e3},
    )
    allowed, forbidden = assert_post_matches_check(Tpot(), problem)
    assert allowed
    assert forbidden


OPEN_LIMITS: list[tuple[Constraint, str]] = [
    (Tpot(), "max_tpot_us"),
    (Ttft(), "max_ttft_us"),
    (Throughput(), "min_tokens_per_s"),
    (Throughput(), "min_tokens_per_s_per_gpu"),
    (Memory(), "max_memory_fraction"),
]


def reached(problem: Problem, key: str) -> list[float]:
    """What every plan of a problem reaches in the quantity that a requirement limits."""
    values = []
    for choice in every_choice(problem):
        plan = unfold(problem, choice.candidate, choice.split)
        costs = plan_costs(plan, problem)
        rate = float(costs.tokens_per_s.min())
        assert costs.tpot_us is not None
        values.append(
            {
                "max_tpot_us": float(costs.tpot_us.max()),
                "max_ttft_us": float(costs.time_us.sum()),
                "min_tokens_per_s": rate,
                "min_tokens_per_s_per_gpu": rate / plan.num_gpus,
                "max_memory_fraction": float(costs.memory_bytes.max())
                / problem.scenario.cluster.gpu.memory_bytes,
            }[key]
        )
    return sorted(values)


@pytest.mark.parametrize(("constraint", "key"), OPEN_LIMITS)
def test_limits_of_a_service_post_what_they_check(
    analytic_scenario: Callable[..., Scenario], constraint: Constraint, key: str
) -> None:
    """Prompts mixed into running sequences; of all batches up to 6, half the plans pass."""
    scenario = analytic_scenario(
        num_layers=3, num_experts=2, phase="serving", input_tokens=20, num_nodes=1
    )
    problem = make_task(scenario).problem
    rows = every_batch(problem, problem.candidates)
    rows = rows.take(np.arange(0, len(rows), len(rows) // 50 + 1))
    problem = replace(problem, candidates=rows)
    values = reached(problem, key)
    lower = values[len(values) // 2]
    middle = (lower + next(v for v in values if v > lower * (1 + 1e-6))) / 2
    limits = scenario.requirements.model_copy(update={key: middle})
    limited = scenario.model_copy(update={"requirements": limits})
    allowed, forbidden = assert_post_matches_check(constraint, replace(problem, scenario=limited))
    assert allowed
    assert forbidden


def wrong_rows() -> Candidates:
    """Candidates that break one thing each, for a problem of 4 layers x 2 experts on 24 GPUs."""
    return Candidates.of(
        [
            Candidate(replicas=1, pp=2, tp=2, cp=1, attn_dp=6, ep=2, etp=3, spread=2),  # right
            Candidate(replicas=1, pp=2, tp=2, cp=1, attn_dp=5, ep=2, etp=3, spread=2),  # grids
            Candidate(replicas=1, pp=2, tp=2, cp=1, attn_dp=3, ep=3, etp=2, spread=1),  # experts
            Candidate(replicas=2, pp=2, tp=2, cp=1, attn_dp=6, ep=2, etp=3, spread=2),  # GPUs
            Candidate(replicas=1, pp=1, tp=2, cp=1, attn_dp=6, ep=2, etp=3, spread=2),  # idle
        ]
    )


def test_max_spread_counts_the_grids_of_stages_with_a_given_number_of_them(
    document_scenario: Build,
) -> None:
    """Rows of 2 and of 1 grids, which no generator would make under a limit of 1."""
    changes = FREE_STAGES | FREE_TENSORS | {"requirements__coverage": "up_to"}
    problem = small_problem(document_scenario, **changes, requirements__max_spread=1)
    one = Candidate(replicas=1, pp=2, tp=2, cp=1, attn_dp=3, ep=2, etp=3, spread=1)
    two = replace(one, attn_dp=6, spread=2)
    allowed, forbidden = assert_post_matches_check(MaxSpread(), problem, Candidates.of([one, two]))
    assert (allowed, forbidden) == (3, 3)  # splits of 4 layers in 2 stages


@pytest.mark.parametrize("constraint", [GridIdentity(), Divisibility(), Coverage(), GpuBlocks()])
def test_structure_forbids_candidates_that_no_generator_would_make(
    document_scenario: Build, constraint: PlugIn
) -> None:
    changes = FREE_STAGES | FREE_TENSORS | {"requirements__coverage": "every_gpu"}
    problem = small_problem(document_scenario, **changes)
    allowed, forbidden = assert_post_matches_check(constraint, problem, wrong_rows())
    assert allowed
    assert forbidden


def first_plan(problem: Problem) -> Plan:
    """The first candidate's first split, unfolded."""
    choice = next(every_choice(problem))
    return unfold(problem, choice.candidate, choice.split)


def plan_with(problem: Problem, split: tuple[int, ...], **degrees: int) -> Plan:
    """A plan of the first candidate that has these degrees."""
    for candidate in problem.candidates:
        if candidate.pp == len(split) and all(
            getattr(candidate, key) == value for key, value in degrees.items()
        ):
            return unfold(problem, candidate, split)
    raise AssertionError(f"no candidate with {degrees}")


def test_all_to_all_within_allows_a_stage_in_a_domain_and_forbids_one_across(
    document_scenario: Build,
) -> None:
    problem = small_problem(document_scenario)
    assert_allows(AllToAllWithin(), plan_with(problem, (2, 2), tp=1), problem)
    assert_forbids(AllToAllWithin(), plan_with(problem, (1, 3), tp=1), problem)


def test_tensor_parallel_within_forbids_a_group_that_crosses_a_node(
    document_scenario: Build,
) -> None:
    problem = small_problem(document_scenario, cluster__gpus_per_node=3, cluster__num_nodes=8)
    assert_allows(TensorParallelWithin(), plan_with(problem, (4,), tp=3), problem)
    assert_forbids(TensorParallelWithin(), plan_with(problem, (4,), tp=2), problem)


def test_coverage_partition_forbids_two_shards_on_a_gpu_and_an_idle_one(
    document_scenario: Build,
) -> None:
    problem = small_problem(document_scenario)
    plan = first_plan(problem)
    assert_allows(Coverage(), plan, problem)
    crowded = plan.placement.copy()
    crowded[0, 4] = crowded[1, 4]
    assert_forbids(Coverage(), replace(plan, placement=crowded), problem)
    shorter = tuple(tuple(stage[:-1] for stage in replica) for replica in plan.gpus)
    assert_forbids(Coverage(), replace(plan, gpus=shorter), problem)


def test_coverage_every_gpu_forbids_idle_gpus_and_up_to_allows_them(
    document_scenario: Build,
) -> None:
    idle = unfold(
        small_problem(document_scenario, requirements__coverage="up_to"),
        Candidate(replicas=1, pp=1, tp=1, cp=1, attn_dp=2, ep=2, etp=1, spread=1),
        (4,),
    )
    for coverage, assertion in (("up_to", assert_allows), ("every_gpu", assert_forbids)):
        problem = small_problem(document_scenario, requirements__coverage=coverage)
        assertion(Coverage(), idle, problem)


def test_gpu_blocks_forbids_a_gpu_in_two_stages_and_one_that_does_not_exist(
    document_scenario: Build,
) -> None:
    problem = small_problem(document_scenario)
    plan = plan_with(problem, (2, 2), tp=1)
    assert_allows(GpuBlocks(), plan, problem)
    ((one, _two),) = plan.gpus
    assert_forbids(GpuBlocks(), replace(plan, gpus=((one, one),)), problem)
    moved = tuple(gpu + 13 for gpu in one)
    assert_forbids(GpuBlocks(), replace(plan, gpus=((one, moved),)), problem)


def odd_cluster(scenario: Scenario, num_nodes: int, coverage: str) -> Scenario:
    """Nodes of 3 GPUs in domains of 6; the last one is half where nodes are odd in number."""
    nodes = {"num_nodes": num_nodes, "gpus_per_node": 3, "gpus_per_domain": 6}
    return scenario.model_copy(
        update={
            "cluster": scenario.cluster.model_copy(update=nodes),
            "requirements": scenario.requirements.model_copy(update={"coverage": coverage}),
        }
    )


@pytest.mark.parametrize(
    ("num_nodes", "num_experts", "coverage"),
    [
        (5, 6, "every_gpu"),
        (6, 0, "every_gpu"),
        (6, 6, "every_gpu"),
        (4, 2, "partition"),
        (8, 4, "partition"),
    ],
)
def test_gpu_blocks_forbids_groups_that_lie_otherwise_than_they_are_charged(
    num_nodes: int, num_experts: int, coverage: str,
    analytic_scenario: Callable[..., Scenario],
) -> None:  # fmt: skip
    layers = 6 if coverage == "partition" else 3
    scenario = analytic_scenario(num_layers=layers, num_experts=num_experts)
    problem = make_task(odd_cluster(scenario, num_nodes, coverage)).problem
    allowed, forbidden = assert_post_matches_check(GpuBlocks(), problem)
    assert allowed
    assert forbidden


@pytest.mark.parametrize("per_domain", [3, 6])
def test_gpu_blocks_as_variables_may_stand_wherever_a_stage_lies_as_it_is_charged(
    per_domain: int, analytic_scenario: Callable[..., Scenario]
) -> None:
    """4 layers of 3 GPUs: every order of blocks, for each of a few splits, against `check`.

    A stage larger than a domain takes its blocks in a row.
    """
    cp = load_cp_model()
    scenario = analytic_scenario(num_layers=4, num_experts=3)
    scenario = odd_cluster(scenario, 4, "partition")
    explicit = Recipe(name="r", cp_sat=CpSatParameters(symmetry="explicit"))
    cluster = scenario.cluster.model_copy(update={"gpus_per_domain": per_domain})
    scenario = scenario.model_copy(update={"recipe": explicit, "cluster": cluster})
    problem = make_task(scenario).problem
    counts = {True: 0, False: 0}
    for split in ((1, 1, 1, 1), (2, 2), (1, 2, 1), (4,)):
        index = np.flatnonzero((problem.candidates.pp == len(split)) & (problem.candidates.tp == 1))
        row = problem.candidates.take(index[:1])
        for order in permutations(range(4)):
            model = cp.CpModel()
            variables = PlanVariables(model, problem, row, [segment_table(problem, row, ())])
            GpuBlocks().post(model, variables, problem)
            choice = Choice(0, row.row(0), split)
            variables.fix(choice)
            for block, variable in zip(order, variables.layer_block, strict=True):
                model.add(variable == block)
            plan = unfold(problem, row.row(0), split, layer_blocks=order)
            large = [gpus for gpus in plan.gpus[0] if len(gpus) > per_domain]
            in_a_row = all(gpus == tuple(range(gpus[0], gpus[-1] + 1)) for gpus in large)
            expected = in_a_row and not list(GpuBlocks().check(plan, problem))
            solver = cp.CpSolver()
            solver.parameters.num_workers = 1
            found = solver.solve(model) in (cp.OPTIMAL, cp.FEASIBLE)
            assert found == expected, (split, order)
            counts[found] += 1
    assert counts[True]
    assert counts[False]


def test_layer_cover_forbids_lost_doubled_and_reordered_layers(document_scenario: Build) -> None:
    problem = small_problem(document_scenario)
    plan = plan_with(problem, (2, 2), tp=1)
    assert_allows(LayerCover(), plan, problem)
    a, b = plan.stages
    for broken in ((a, replace(b, layers=(2,))), (a, replace(b, layers=(1, 2, 3))), (b, a)):
        assert_forbids(LayerCover(), replace(plan, stages=broken), problem)
    assert_forbids(LayerCover(), replace(plan, pp=3), problem)


def test_layer_cover_forbids_a_grid_without_experts_where_dense_layers_fill_a_stage(
    analytic_scenario: Callable[..., Scenario],
) -> None:
    """Dense, experts, experts on 2 grids: one stage of 3 is right, any two stages are not.

    With one grid a stage may be without experts.
    """
    attention = {"kind": "gqa", "num_heads": 4, "num_kv_heads": 4, "head_dim": 8}
    dense, experts = ({"attention": "full", "feed_forward": f} for f in ("dense", "moe"))
    mixed = {
        "hidden_size": 32,
        "vocab_size": 50,
        "attention": {"full": attention},
        "feed_forward": {
            "dense": {"kind": "dense", "ffn_size": 64},
            "moe": {"kind": "moe", "num_experts": 2, "experts_per_token": 1, "expert_size": 64},
        },
        "layers": [{"layers": [dense, experts, experts]}],
    }
    problem = make_task(analytic_scenario(architecture=mixed, num_nodes=2)).problem
    row = Candidate(1, 1, 1, 1, 4, 2, 1, 2)
    assert_allows(LayerCover(), unfold(problem, row, (3,)), problem)
    pipe = Candidate(1, 2, 1, 1, 4, 2, 1, 2)
    assert_forbids(LayerCover(), unfold(problem, pipe, (2, 1)), problem)
    assert_forbids(LayerCover(), unfold(problem, pipe, (1, 2)), problem)  # a stage without any
    rows = Candidates.of([row, pipe, Candidate(1, 2, 1, 1, 2, 2, 1, 1)])
    allowed, forbidden = assert_post_matches_check(LayerCover(), problem, rows)
    assert allowed
    assert forbidden


def test_grid_identity_forbids_a_stage_whose_products_differ(document_scenario: Build) -> None:
    problem = small_problem(document_scenario)
    plan = first_plan(problem)
    assert_allows(GridIdentity(), plan, problem)
    wrong = tuple(replace(stage, attn_dp=stage.attn_dp + 1) for stage in plan.stages)
    assert_forbids(GridIdentity(), replace(plan, stages=wrong), problem)


def test_divisibility_forbids_three_ranks_for_two_experts(document_scenario: Build) -> None:
    problem = small_problem(document_scenario)
    plan = first_plan(problem)
    assert_allows(Divisibility(), plan, problem)
    wrong = tuple(replace(stage, ep=3) for stage in plan.stages)
    assert_forbids(Divisibility(), replace(plan, stages=wrong), problem)


def test_memory_ttft_and_throughput_follow_their_limits(document_scenario: Build) -> None:
    """Document numbers: 100 ms a layer, 120,000 tokens/s a GPU, 10 B x 2 / 24 = 0.83 GB a GPU."""
    for constraint, fits, breaks in (
        (Memory(), {"cluster.gpu.memory_bytes": 0.84e9}, {"cluster.gpu.memory_bytes": 0.83e9}),
        (Ttft(), {"requirements.max_ttft_us": 400e3}, {"requirements.max_ttft_us": 399e3}),
        (
            Throughput(),
            {"requirements.min_tokens_per_s_per_gpu": 120e3},
            {"requirements.min_tokens_per_s_per_gpu": 120.1e3},
        ),
    ):
        for changes, assertion in ((fits, assert_allows), (breaks, assert_forbids)):
            problem = small_problem(document_scenario, **changes)
            assertion(constraint, first_plan(problem), problem)


RULES = [
    {"require": "tp == etp"},
    {"forbid": "tp > 2 or pp == 3"},
    {"require": "layers_per_stage <= 2"},
    {"require": "gpus <= 6 * layers_per_stage and spread >= 1"},
    {"forbid": "attn_dp % 2 == 1"},
    {"sum": "gpus", "at_most": 12},
    {"sum": "gpus", "at_least": 13},
    {"sum": "layers_per_stage * layers_per_stage", "at_most": 8},
    {"sum": "0.1 * gpus / tp", "at_most": 1.7, "at_least": 0.3},
    {"sum": "power_w * gpus", "at_most": 5000},
]


@pytest.mark.parametrize("coverage", ["partition", "every_gpu", "up_to"])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_posts_what_it_checks(
    document_scenario: Build, rule: dict[str, Any], coverage: str
) -> None:
    problem = small_problem(
        document_scenario, requirements__coverage=coverage, cluster__gpu__power_w=400.0
    )
    constraint = rule_constraint(RuleSpec(name="a_rule", because="a test", **rule))
    allowed, forbidden = assert_post_matches_check(constraint, problem)
    assert allowed + forbidden > 0
