"""What solve searches is said, and plans beyond it are told apart from plans that beat a bound."""

from collections.abc import Callable

import pytest

import autopar
from autopar import api
from autopar.errors import VerificationError
from autopar.plans import plan_from_spec
from autopar.search import make_task
from autopar.space import outside, searched
from autopar.specs import PlanSpec, Scenario
from autopar.testing import every_choice
from autopar.unfold import unfold

Build = Callable[..., Scenario]


def unequal(scenario: Scenario) -> PlanSpec:
    """One layer on GPU 0, the other two on GPUs 1 and 2 with their experts spread over both."""
    one = {"tp": 1, "cp": 1, "attn_dp": 1, "ep": 1, "etp": 1, "spread": 1}
    two = one | {"attn_dp": 2, "ep": 2}
    return PlanSpec.model_validate(
        {
            "name": "unequal",
            "llm": scenario.llm.name,
            "degrees": {"replicas": 1, "pp": 2},
            "stages": [
                {"index": 0, "layers": [0], "gpus": [0], **one},
                {"index": 1, "layers": [1, 2], "gpus": [1, 2], **two},
            ],
        }
    )


def three_gpus(build: Build, coverage: str) -> Scenario:
    scenario = build(num_layers=3, phase="prefill", num_nodes=1)
    cluster = scenario.cluster.model_copy(update={"gpus_per_node": 3, "gpus_per_domain": 3})
    requirements = scenario.requirements.model_copy(update={"coverage": coverage})
    return scenario.model_copy(update={"cluster": cluster, "requirements": requirements})


def test_a_plan_with_unequal_stages_is_right_but_not_covered(analytic_scenario: Build) -> None:
    scenario = three_gpus(analytic_scenario, "every_gpu")
    plan = unequal(scenario)
    assert autopar.verify(scenario, plan).ok
    comparison = autopar.compare(scenario, [plan])
    (column,) = [p for p in comparison.plans if p.name == "unequal"]
    assert column.gaps == {}
    assert any(
        note.startswith("the bounds do not cover unequal") and "ep, attn_dp" in note
        for note in comparison.notes
    )


def test_more_expert_grids_than_are_searched_are_right_but_not_covered(
    analytic_scenario: Build,
) -> None:
    """With an open batch one grid per stage is searched; verify takes two where none is stated."""
    scenario = analytic_scenario(num_layers=2, phase="serving", input_tokens=20, num_nodes=1)
    degrees = {"replicas": 1, "pp": 1, "tp": 1, "cp": 1, "attn_dp": 4, "ep": 2, "etp": 1}
    plan = PlanSpec.model_validate(
        {
            "name": "two-grids", "llm": scenario.llm.name, "layers_per_stage": 2, "batch": 1,
            "degrees": degrees | {"spread": 2},
        }
    )  # fmt: skip
    comparison = autopar.compare(scenario, [plan])
    (column,) = [p for p in comparison.plans if p.name == "two-grids"]
    assert column.report.ok
    assert column.gaps == {}
    assert any("spread 2 is more than is searched" in note for note in comparison.notes)
    stated = scenario.requirements.model_copy(update={"max_spread": 1})
    scenario = scenario.model_copy(update={"requirements": stated})
    (violation,) = autopar.verify(scenario, plan).violations
    assert violation.kind == "too many expert grids"
    off = scenario.recipe.model_copy(update={"disable": ("max_spread",)})
    assert autopar.verify(scenario.model_copy(update={"recipe": off}), plan).ok


@pytest.mark.parametrize("coverage", ["partition", "every_gpu", "up_to"])
def test_every_layout_that_solve_can_choose_is_inside(
    document_scenario: Build, coverage: str
) -> None:
    changes = {
        "llm.num_layers": 4,
        "llm.num_experts": 2,
        "cluster.num_nodes": 2,
        "cluster.gpus_per_domain": 8,
        "requirements.coverage": coverage,
        "rules": [],
    }
    scenario = document_scenario(changes)
    problem = make_task(scenario).problem
    count = 0
    for choice in every_choice(problem):
        plan = unfold(problem, choice.candidate, choice.split)
        assert outside(plan, scenario) == "", choice
        count += 1
    assert count > 10


def test_every_answer_names_what_was_searched(document_scenario: Build) -> None:
    for domain in (64, 16):
        scenario = document_scenario({"cluster.gpus_per_domain": domain})
        assert searched(scenario) in autopar.solve(scenario).notes
        assert "one expert grid per layer" in searched(scenario)


def test_a_dense_model_may_split_a_batch_over_attention_groups(analytic_scenario: Build) -> None:
    """More data parallelism inside a stage halves the batch per GPU; another replica does not."""
    scenario = analytic_scenario(num_layers=4, num_experts=0, num_nodes=1, phase="decode")
    candidates = make_task(scenario).problem.candidates
    assert {row.attn_dp for row in candidates} > {1}
    best = autopar.solve(
        scenario.model_copy(
            update={"recipe": scenario.recipe.model_copy(update={"objectives": ("tpot",)})}
        )
    )
    hand = {"replicas": 1, "pp": 1, "tp": 2, "cp": 1, "attn_dp": 2, "ep": 1, "etp": 2, "spread": 2}
    spec = {"name": "dp2", "llm": scenario.llm.name, "degrees": hand, "layers_per_stage": 4}
    report = autopar.verify(scenario, PlanSpec.model_validate(spec))
    assert report.ok
    assert report.metrics is not None
    assert best.metrics is not None
    assert best.metrics.tpot_us is not None
    assert report.metrics.tpot_us is not None
    assert best.metrics.tpot_us <= report.metrics.tpot_us


def test_a_plan_that_beats_its_bound_is_a_bug_and_not_a_result(
    document_scenario: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = document_scenario()
    plan = autopar.load_plan("ep16-tp2-pp8").model_copy(update={"cluster": None, "claims": ()})
    monkeypatch.setattr(api, "lone_bounds", lambda _question: {"traffic": 8.0})
    with pytest.raises(VerificationError, match="beats the bound of traffic"):
        autopar.compare(scenario, [plan])


def test_an_answer_without_proof_says_that_binding_is_not_determined(
    document_scenario: Build,
) -> None:
    limits = {"symmetry": "explicit", "deterministic_time_limit": 1e-6}
    solution = autopar.solve(document_scenario({"recipe.cp_sat": limits}))
    assert solution.status == "feasible"
    assert solution.binding is None


def test_a_plan_with_parts_that_are_not_searched_is_right_but_not_covered(
    analytic_scenario: Build,
) -> None:
    """600 tokens are searched in 1 or 2 parts; 3 parts of 200 are a plan, not one of them."""
    scenario = analytic_scenario(
        phase="serving", input_tokens=600, prefill_chunk_tokens=1000, num_experts=0
    )
    spec = {"name": "three", "llm": scenario.llm.name, "degrees": {"tp": 1}, "batch": 1}
    three, two = (PlanSpec.model_validate(spec | {"chunks": count}) for count in (3, 2))
    assert autopar.verify(scenario, three).ok
    assert outside(plan_from_spec(three, scenario), scenario) == (
        "its prompts are in 3 parts; searched are 1, 2"
    )
    assert not outside(plan_from_spec(two, scenario), scenario)
    assert searched(scenario).endswith("; prompts in 1 or 2 parts")
    whole = analytic_scenario(
        phase="serving", input_tokens=600, prefill_chunk_tokens=1000, num_experts=0,
        work={"chunked_prefill": False},
    )  # fmt: skip
    assert searched(whole).endswith("; prompts in 1 part")
    (broken,) = autopar.verify(whole, two).violations
    assert "expected 1 to 1: workload.chunked_prefill is false" in broken.message


def test_a_plan_whose_groups_straddle_is_right_but_not_covered(analytic_scenario: Build) -> None:
    """The bounds speak of groups inside what has room for them; verify charges others more."""
    scenario = analytic_scenario(num_experts=0, requirements={"coverage": "up_to"})
    spec = {"name": "torn", "llm": "small-llm", "degrees": {"pp": 1, "tp": 4}}
    stage = {"index": 0, "layers": [0, 1, 2, 3]}
    torn, whole = (
        PlanSpec.model_validate(spec | {"stages": [stage | {"gpus": gpus}]})
        for gpus in ([2, 3, 4, 5], [4, 5, 6, 7])
    )
    assert autopar.verify(scenario, torn).ok
    assert outside(plan_from_spec(whole, scenario), scenario) == ""
    assert outside(plan_from_spec(torn, scenario), scenario) == (
        "replica 0 stage 0: a tp group of 4 GPUs fits in a node, but lies in several"
    )
    assert "groups inside a node or domain that has room for them" in searched(scenario)
    declared = scenario.model_copy(update={"cost_model": "declared"})
    assert "groups inside" not in searched(declared)


@pytest.mark.parametrize("coverage", ["every_gpu", "up_to", "partition"])
def test_every_layout_that_passes_where_links_are_charged_is_inside(
    analytic_scenario: Build, coverage: str
) -> None:
    """Nodes of 3 GPUs in domains of 6, of which the last is half."""
    scenario = analytic_scenario(
        num_layers=4, num_experts=3 if coverage == "partition" else 6,
        requirements={"coverage": coverage, "max_context_parallel_size": 2},
    )  # fmt: skip
    nodes = {"num_nodes": 4 if coverage == "partition" else 5, "gpus_per_node": 3}
    cluster = scenario.cluster.model_copy(update={**nodes, "gpus_per_domain": 6})
    scenario = scenario.model_copy(update={"cluster": cluster})
    task = make_task(scenario)
    inside = outer = 0
    for choice in every_choice(task.problem):
        plan = unfold(task.problem, choice.candidate, choice.split)
        if any(True for c in task.constraints for _ in c.check(plan, task.problem)):
            outer += bool(outside(plan, scenario))
            continue
        assert outside(plan, scenario) == "", choice
        inside += 1
    assert inside > 5
    assert outer > 0 or coverage == "up_to"


def test_a_partition_over_parts_of_three_domains_is_not_covered(analytic_scenario: Build) -> None:
    """5 layers of 3 GPUs in domains of 5: four layers could take 4 of each, but not in a row."""
    scenario = analytic_scenario(
        num_layers=5, num_experts=3, requirements={"coverage": "partition"}
    )
    nodes = {"num_nodes": 15, "gpus_per_node": 1, "gpus_per_domain": 5}
    cluster = scenario.cluster.model_copy(update=nodes)
    four = {"index": 0, "layers": [0, 1, 2, 3], "spread": 4, "attn_dp": 12}
    one = {"index": 1, "layers": [4], "spread": 1, "attn_dp": 3}
    places = [*range(4), *range(5, 9), *range(10, 14)], [4, 9, 14]
    plan = PlanSpec.model_validate(
        {
            "name": "parts", "llm": "small-llm", "degrees": {"pp": 2, "tp": 1, "ep": 3, "etp": 1},
            "stages": [s | {"gpus": gpus} for s, gpus in zip((four, one), places, strict=True)],
        }
    )  # fmt: skip
    for domain, said in (
        (5, "stage 0 lies over three domains or more that are not whole"),
        (15, ""),
    ):
        cluster = cluster.model_copy(update={"gpus_per_domain": domain})
        wide = scenario.model_copy(update={"cluster": cluster})
        assert outside(plan_from_spec(plan, wide), wide) == said
