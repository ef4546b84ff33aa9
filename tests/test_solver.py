"""What the solver proves, when it cannot, and that a second run says the same."""

import signal
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar import oracle
from autopar.api import solve
from autopar.catalog import load_scenario
from autopar.errors import PluginError
from autopar.problem import Plan, Problem
from autopar.results import Progress
from autopar.search import make_task, prepare
from autopar.solver import Outcome, optimise
from autopar.spans import ill_placed
from autopar.specs import CpSatParameters, Scenario
from autopar.unfold import unfold
from autopar.variables import PlanVariables

Build = Callable[..., Scenario]

# 4 layers x 16 experts x 2 shards on 128 GPUs, one domain: small enough for exhaustive search.
SMALL = {"llm.num_layers": 4, "cluster.num_nodes": 16, "cluster.gpus_per_domain": 128}
EXPLICIT = {"recipe.cp_sat": {"symmetry": "explicit"}}


def run(scenario: Scenario, *, plugins: Any = (), uniqueness: bool = True) -> Outcome:
    task = make_task(scenario, plugins=plugins)
    return optimise(task, prepare(task), uniqueness=uniqueness)


def told_apart(plan: Plan) -> tuple[Any, ...]:
    """What uniqueness counts as different: degrees, and how many stages of which size."""
    stage = plan.stages[0]
    degrees = (plan.replicas, plan.pp, stage.tp, stage.cp, stage.ep, stage.etp)
    # with a grid per layer, attn_dp and spread follow from the sizes; with equal grids they do not
    return (*degrees, *sorted((len(s.layers), s.attn_dp, s.spread) for s in plan.stages))


@pytest.mark.parametrize(("domain", "pp"), [(32, 16), (64, 8), (128, 4), (256, 2), (512, 1)])
def test_the_domain_decides_the_pipeline_proven_optimal_and_unique(
    document_scenario: Build, domain: int, pp: int
) -> None:
    """A stage fills a domain: 32 GPUs per layer, so domain / 32 layers per stage."""
    outcome = run(document_scenario({"cluster.gpus_per_domain": domain}))
    assert outcome.status == "optimal"
    assert outcome.bounds == outcome.vector
    assert outcome.choice is not None
    candidate = outcome.choice.candidate
    assert (candidate.pp, candidate.tp, candidate.ep, candidate.etp) == (pp, 2, 16, 2)
    assert outcome.choice.split == (16 // pp,) * pp
    assert outcome.uniqueness is not None
    assert outcome.uniqueness.unique is True
    assert "CP-SAT proves" in outcome.uniqueness.method


def test_without_a_common_tensor_size_several_plans_tie_and_one_is_named(
    document_scenario: Build,
) -> None:
    """Declared costs do not tell attention's tp apart, so every tp of a node is as good."""
    outcome = run(document_scenario({"rules": []}))
    assert outcome.status == "optimal"
    assert outcome.choice is not None
    assert outcome.uniqueness is not None
    assert outcome.uniqueness.unique is False
    assert "pp 8," in outcome.uniqueness.other
    assert f" tp {outcome.choice.candidate.tp}," not in outcome.uniqueness.other
    others = [f" tp {tp}," for tp in (1, 2, 4, 8) if tp != outcome.choice.candidate.tp]
    assert any(other in outcome.uniqueness.other for other in others)


def test_plans_that_differ_in_stage_sizes_alone_are_not_unique(document_scenario: Build) -> None:
    """Two stages of 2 + 2 or of 3 + 1 layers tie in throughput and in TTFT."""
    two = {"name": "two", "require": "pp == 2 and tp == etp", "because": "a test"}
    tie = {"rules": [two], "recipe.objectives": ["throughput", "ttft"]}
    outcome = run(document_scenario(SMALL | tie))
    assert outcome.choice is not None
    assert outcome.uniqueness is not None
    assert outcome.uniqueness.unique is False
    sizes = sorted(outcome.choice.split)
    other = "[2, 2]" if sizes == [1, 3] else "[3, 1] or [1, 3]"
    found = outcome.uniqueness.other.split("layers per stage ")[1]
    assert found in other


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    layers, experts = draw(st.integers(1, 4)), draw(st.sampled_from([2, 3, 4]))
    shards = draw(st.integers(1, 2))
    orders = [["throughput", "ttft"], ["throughput", "memory"], ["memory", "traffic"]]
    return {
        "llm.num_layers": layers,
        "llm.num_experts": experts,
        "cluster.num_nodes": layers * shards,
        "cluster.gpus_per_node": experts,
        "cluster.gpus_per_domain": experts * draw(st.integers(1, layers * shards)),
        "requirements": {
            "coverage": draw(st.sampled_from(["partition", "every_gpu"])),
            "all_to_all_within": draw(st.sampled_from(["domain", "cluster"])),
        },
        "rules": draw(
            st.sampled_from(
                [
                    [],
                    [{"name": "one", "require": "tp == etp and ep == num_experts", "because": "x"}],
                ]
            )
        ),
        "recipe.objectives": draw(st.sampled_from(orders)),
    }


@settings(max_examples=30, deadline=None, derandomize=True)
@given(changes())
def test_unique_is_said_where_exhaustive_search_finds_one_optimum(
    document_scenario: Build, change: dict[str, Any]
) -> None:
    scenario = document_scenario(change)
    task = make_task(scenario)
    expected = oracle.best(task.problem, task.constraints, [o.name for o in task.objectives])
    outcome = optimise(task, prepare(task), uniqueness=True)
    assert (outcome.status == "infeasible") == (expected is None)
    if expected is None:
        assert outcome.uniqueness is None
        return
    assert outcome.uniqueness is not None
    kinds = {told_apart(plan) for plan in expected[1]}
    assert outcome.uniqueness.unique == (len(kinds) == 1)
    assert bool(outcome.uniqueness.other) == (len(kinds) > 1)


SIZES: list[dict[str, Any]] = [
    {},
    {"cluster.gpus_per_domain": 32},
    {"llm.num_layers": 10, "llm.num_experts": 6, "cluster.num_nodes": 30,
     "cluster.gpus_per_node": 6, "cluster.gpus_per_domain": 36},
]  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_explicit_and_canonical_symmetry_agree(
    document_scenario: Build, size: dict[str, Any]
) -> None:
    """The order of blocks and experts, taken as given or searched, has the same optimum."""
    canonical = run(document_scenario(size))
    explicit = run(document_scenario(size | EXPLICIT))
    assert explicit.status == canonical.status
    assert explicit.vector == canonical.vector
    assert explicit.bounds == canonical.bounds
    if explicit.choice is not None:
        assert canonical.choice is not None
        assert explicit.choice.candidate == canonical.choice.candidate
        assert sorted(explicit.choice.split) == sorted(canonical.choice.split)
        assert explicit.choice.layer_blocks is not None
        assert canonical.choice.layer_blocks is None


@pytest.mark.parametrize(("layers", "experts", "per_domain"), [(4, 3, 6), (6, 4, 6), (5, 6, 12)])
def test_explicit_and_canonical_symmetry_agree_where_links_are_charged(
    analytic_scenario: Build, layers: int, experts: int, per_domain: int
) -> None:
    """Nodes of 3 GPUs: stages inside a node or domain, over halves of two, over whole ones."""
    scenario = analytic_scenario(
        num_layers=layers, num_experts=experts, requirements={"coverage": "partition"}
    )
    nodes = {"num_nodes": layers * experts // 3, "gpus_per_node": 3, "gpus_per_domain": per_domain}
    cluster = scenario.cluster.model_copy(update=nodes)
    canonical = scenario.model_copy(update={"cluster": cluster})
    recipe = canonical.recipe.model_copy(update={"cp_sat": CpSatParameters(symmetry="explicit")})
    explicit = run(canonical.model_copy(update={"recipe": recipe}))
    assert explicit.status == "optimal"
    assert explicit.vector == run(canonical).vector
    assert explicit.choice is not None
    plan = unfold(
        make_task(canonical).problem, explicit.choice.candidate, explicit.choice.split,
        layer_blocks=explicit.choice.layer_blocks, expert_ranks=explicit.choice.expert_ranks,
    )  # fmt: skip
    assert list(ill_placed(plan, canonical)) == []


def test_no_plan_is_infeasible_in_explicit_symmetry_too(document_scenario: Build) -> None:
    """Grids of 6 GPUs in domains of 10: the second of 5 always lies in two of them."""
    size = {
        "llm.num_layers": 5, "llm.num_experts": 3, "cluster.num_nodes": 15,
        "cluster.gpus_per_node": 2, "cluster.gpus_per_domain": 10,
    }  # fmt: skip
    assert run(document_scenario(size)).status == "infeasible"
    assert run(document_scenario(size | EXPLICIT)).status == "infeasible"


@pytest.mark.parametrize(
    "change",
    [
        SMALL | EXPLICIT,
        SMALL | {"requirements.coverage": "up_to"},
        SMALL | {"recipe.cp_sat": {"num_workers": 2}},
        SMALL | {"recipe.cp_sat": {"seed": 7}},
    ],
)
def test_two_runs_give_the_same_plan_in_the_same_deterministic_time(
    document_scenario: Build, change: dict[str, Any]
) -> None:
    first, second = (run(document_scenario(change)) for _ in range(2))
    assert first.choice is not None
    assert second.choice is not None
    assert second.vector == first.vector
    assert second.deterministic_time == first.deterministic_time > 0
    assert second.choice.candidate == first.choice.candidate
    assert second.choice.split == first.choice.split
    assert second.choice.layer_blocks == first.choice.layer_blocks
    ranks = [o.choice.expert_ranks for o in (first, second) if o.choice is not None]
    assert str(ranks[0]) == str(ranks[1])


@pytest.mark.parametrize("layers", [8, 16])
def test_a_limit_too_short_for_a_proof_leaves_a_plan_with_bounds(
    document_scenario: Build, layers: int
) -> None:
    cp_sat = {"symmetry": "explicit", "deterministic_time_limit": 1e-6}
    size = {"llm.num_layers": layers, "cluster.num_nodes": 4 * layers, "recipe.cp_sat": cp_sat}
    scenario = document_scenario(size)
    task = make_task(scenario)
    outcome = optimise(task, prepare(task), uniqueness=True)
    assert outcome.status == "feasible"
    assert outcome.uniqueness is None
    assert not outcome.interrupted
    assert outcome.choice is not None
    assert outcome.vector is not None
    assert outcome.bounds is not None
    assert len(outcome.bounds) == len(outcome.vector) == len(task.objectives)
    plan = unfold(
        task.problem, outcome.choice.candidate, outcome.choice.split,
        layer_blocks=outcome.choice.layer_blocks, expert_ranks=outcome.choice.expert_ranks,
    )  # fmt: skip
    assert [text for c in task.constraints for text in c.check(plan, task.problem)] == []
    proven = run(document_scenario(size | EXPLICIT))
    assert proven.status == "optimal"
    assert proven.vector is not None
    # a bound is never worse than the value, and no bound promises less than what is possible
    for bound, value in zip(
        task.oriented(outcome.bounds), task.oriented(outcome.vector), strict=True
    ):
        assert bound <= value
    assert task.oriented(outcome.bounds) <= task.oriented(proven.vector)


class Hard:
    """Asks for a market split of 30 goods in 4 ways, beside the plan, which CP-SAT finds hard."""

    name = "market_split"

    def __init__(self, *, accepts: bool) -> None:
        self.accepts = accepts

    def post(self, model: Any, variables: PlanVariables, problem: Problem) -> None:
        half = [model.new_bool_var(f"half[{good}]") for good in range(30)]
        for row in np.random.default_rng(5).integers(0, 100, (4, 30)).tolist():
            model.add(sum(w * h for w, h in zip(row, half, strict=True)) == sum(row) // 2)

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        if not self.accepts:
            yield "it is not known whether the goods can be split"


def test_not_proven_is_unknown_and_not_infeasible(document_scenario: Build) -> None:
    limit = {"recipe.cp_sat": {"deterministic_time_limit": 1e-6}}
    outcome = run(document_scenario(SMALL | limit), plugins=[Hard(accepts=False)])
    assert outcome.status == "unknown"
    assert outcome.choice is None
    assert outcome.vector is None
    assert outcome.bounds is None
    assert outcome.uniqueness is None


def test_without_candidates_infeasible_is_said_before_any_model(document_scenario: Build) -> None:
    limit = {"recipe.cp_sat": {"deterministic_time_limit": 1e-6}}
    outcome = run(document_scenario({"cluster.gpus_per_domain": 16} | limit))
    assert outcome.status == "infeasible"
    assert outcome.deterministic_time == 0.0


class Refuses:
    """Its post forbids what its check accepts."""

    name = "refuses"

    def post(self, model: Any, variables: PlanVariables, problem: Problem) -> None:
        model.add_bool_or([])

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        return iter(())


def test_a_plugin_whose_post_refuses_what_its_check_accepts_is_an_error(
    document_scenario: Build,
) -> None:
    with pytest.raises(PluginError, match="post and check of plug-in 'refuses' disagree"):
        run(document_scenario(SMALL), plugins=[Refuses()])


def test_no_sum_of_times_is_left_to_cp_sat(analytic_scenario: Callable[..., Scenario]) -> None:
    """80 equal layers in 8 stages, counted in ns: which split saves the last one takes long."""
    document = analytic_scenario(
        phase="serving", input_tokens=1000, output_tokens=64, prefill_chunk_tokens=2000,
        max_batch_sequences=4, num_layers=80, num_experts=0, ffn_hidden_size=16000,
        num_nodes=4, bandwidth=1.37,
    ).document()  # fmt: skip
    document["rules"] = [{"name": "deep", "require": "pp == 8", "because": "a test"}]
    document["recipe"]["objectives"] = ["ttft", "throughput", "memory"]
    document["recipe"]["cp_sat"] = {"deterministic_time_limit": 0.01}
    seen: list[Progress] = []
    task = make_task(Scenario.model_validate(document))
    outcome = optimise(task, prepare(task), report=seen.append)
    assert outcome.status == "optimal"
    assert outcome.bounds == outcome.vector
    assert outcome.deterministic_time == 0.0
    assert [(step.objective, step.gap) for step in seen] == [
        ("ttft", 0.0), ("throughput", 0.0), ("memory", 0.0),
    ]  # fmt: skip


def test_progress_names_every_objective_and_bounds_never_pass_values(
    document_scenario: Build,
) -> None:
    seen: list[Progress] = []
    task = make_task(document_scenario(SMALL | EXPLICIT))
    outcome = optimise(task, prepare(task), report=seen.append)
    assert outcome.vector is not None
    assert [*dict.fromkeys(step.objective for step in seen)] == [o.name for o in task.objectives]
    for objective, integer in zip(task.objectives, outcome.vector, strict=True):
        last = [step for step in seen if step.objective == objective.name][-1]
        assert last.value == objective.value(integer)
        for step in seen:
            if step.objective == objective.name and step.value is not None:
                assert step.bound is not None
                slack = 1e-9 * abs(step.value)
                sign = 1 if objective.sense == "min" else -1
                assert sign * step.bound <= sign * step.value + slack
    assert all(a.wall_s <= b.wall_s for a, b in pairwise(seen))


def interrupted(scenario: Scenario, plugins: Any, level: str) -> tuple[Outcome, Any]:
    """Solve, and send SIGINT to the main thread at the first news of an objective's search."""
    sent: list[str] = []
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(step: Progress) -> None:
        if step.objective == level and not sent:
            sent.append(level)
            signal.pthread_kill(main, signal.SIGINT)

    task = make_task(scenario, plugins=plugins)
    prepared = prepare(task)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a shell
    try:
        outcome = optimise(task, prepared, report=interrupt, uniqueness=True)
    except KeyboardInterrupt:
        pytest.fail("Ctrl-C during the search lost the plan")
    finally:
        signal.signal(signal.SIGINT, before)
    assert sent
    return outcome, prepared


def test_ctrl_c_ends_a_search_that_would_go_on_with_the_plan_at_hand(
    document_scenario: Build,
) -> None:
    limit = {"recipe.cp_sat": {"deterministic_time_limit": 5.0}}
    scenario = document_scenario(SMALL | limit)
    outcome, prepared = interrupted(scenario, [Hard(accepts=True)], "throughput")
    assert outcome.interrupted
    assert outcome.status == "feasible"
    assert outcome.deterministic_time < 5.0
    assert outcome.uniqueness is None
    assert outcome.choice == prepared.incumbent
    assert outcome.bounds is not None


@pytest.mark.parametrize("level", ["throughput", "ttft"])
def test_ctrl_c_with_blocks_and_ranks_free_keeps_a_plan_that_checks(
    document_scenario: Build, level: str
) -> None:
    scenario = document_scenario(EXPLICIT)
    outcome, prepared = interrupted(scenario, (), level)
    assert outcome.interrupted
    assert outcome.status in ("feasible", "optimal")
    assert outcome.uniqueness is None
    assert outcome.choice is not None
    assert outcome.vector is not None
    assert outcome.bounds is not None
    task = make_task(scenario)
    assert task.oriented(outcome.vector) <= prepared.vector
    plan = unfold(
        task.problem, outcome.choice.candidate, outcome.choice.split,
        layer_blocks=outcome.choice.layer_blocks, expert_ranks=outcome.choice.expert_ranks,
    )  # fmt: skip
    assert [text for c in task.constraints for text in c.check(plan, task.problem)] == []


def test_outside_the_main_thread_the_answer_is_the_same(document_scenario: Build) -> None:
    task = make_task(document_scenario(SMALL))
    prepared = prepare(task)
    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(optimise(task, prepared)))
    thread.start()
    thread.join()
    assert found == [optimise(task, prepared)]


def test_an_error_in_the_progress_callback_reaches_the_caller(document_scenario: Build) -> None:
    def fail(step: Progress) -> None:
        raise ValueError("nobody listens")

    task = make_task(document_scenario(SMALL))
    with pytest.raises(ValueError, match="nobody listens"):
        optimise(task, prepare(task), report=fail)


def test_prompts_that_arrive_as_fast_as_steps_take_them_are_no_plan() -> None:
    """Short answers without a limit on TTFT: at the full rate the queue would have no end."""
    parts = {"llm": "llama-3.1-8b", "cluster": "1xhgx-h200", "workload": "chat-4k-1k"}
    scenario = load_scenario(parts=parts, overrides=["workload.output_tokens=8"])
    solution = solve(scenario, diagnose=False)
    assert solution.status == "optimal"
    assert solution.metrics is not None
    assert solution.metrics.ttft_us is not None
    assert solution.metrics.ttft_us < 60e6
