"""What is blamed is needed for the clash, what is offered repairs it, what binds costs."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from autopar import diagnose, load_scenario, oracle, overrides, solver
from autopar.diagnose import Question, binding, conflicts
from autopar.disaggregated.pairing import Pairing
from autopar.relaxed import Left
from autopar.repairs import in_vain, repairs
from autopar.results import Repair
from autopar.search import make_task, prepare
from autopar.solver import optimise
from autopar.specs import Scenario
from autopar.specs.change import changed

Build = Callable[[dict[str, Any]], Scenario]

# 4 layers x 4 experts x 2 shards on 32 GPUs: nodes of 4, domains of 8, 8 GPUs per layer.
SMALL = {
    "llm.num_layers": 4,
    "llm.num_experts": 4,
    "cluster.num_nodes": 8,
    "cluster.gpus_per_node": 4,
    "cluster.gpus_per_domain": 8,
}
SHALLOW = {"name": "shallow", "require": "pp <= 2", "because": "hops are slow"}
IMPOSSIBLE = {"name": "giant", "require": "tp > 1000", "because": "a test"}
ODD_NODES = {  # 6 layers x 4 experts x 2 shards on nodes of 3 GPUs: groups of 2 straddle
    "llm.num_layers": 6,
    "llm.num_experts": 4,
    "cluster.num_nodes": 16,
    "cluster.gpus_per_node": 3,
    "cluster.gpus_per_domain": 48,
}
CLASHES: list[tuple[dict[str, Any], list[set[str]]]] = [
    ({"cluster.gpus_per_domain": 16}, [{"coverage", "all_to_all_within"}]),  # the document's 512
    (SMALL | {"cluster.gpus_per_domain": 4}, [{"coverage", "all_to_all_within"}]),
    (SMALL | {"requirements.max_ttft_us": 399e3}, [{"ttft"}]),
    (SMALL | {"cluster.gpu.memory_bytes": 600e6}, [{"memory"}]),
    (SMALL | {"requirements.min_tokens_per_s_per_gpu": 200e3}, [{"throughput"}]),
    (SMALL | {"requirements.min_tokens_per_s": 5e6}, [{"throughput"}]),
    (SMALL | {"rules": [IMPOSSIBLE]}, [{"giant"}]),
    (
        SMALL | {"requirements.max_spread": 1, "rules": [SHALLOW]},
        [{"coverage", "max_spread", "shallow"}],
    ),
    (SMALL | {"cluster.num_nodes": 7}, [{"coverage"}]),
    (ODD_NODES, [{"coverage", "tensor_parallel_within"}]),
    (
        SMALL | {"cluster.gpus_per_domain": 4, "requirements.max_ttft_us": 399e3},
        [{"ttft"}, {"coverage", "all_to_all_within"}],
    ),
    (SMALL | {"cluster.num_nodes": 7, "rules": [IMPOSSIBLE]}, [{"coverage"}, {"giant"}]),
]


@pytest.mark.parametrize(("changes", "expected"), CLASHES)
def test_conflicts_are_minimal_and_independent(
    document_scenario: Build, changes: dict[str, Any], expected: list[set[str]]
) -> None:
    """A set alone admits no plan; without any one member, the rest of it does."""
    question = Question(document_scenario(changes), ())
    found, undecided = conflicts(question)
    assert undecided == []
    every = {c.name for c in make_task(question.scenario).constraints}
    structure = {"grid_identity", "layer_cover", "divisibility", "gpu_blocks"}
    members = [name for clash in found for name in clash]
    assert len(members) == len(set(members))
    for clash in found:
        others = sorted(every - structure - set(clash))
        assert question.feasible(others) is False
        for name in clash:
            assert question.feasible([*others, name]) is True
    assert question.feasible(members) is True
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


def test_a_feasible_scenario_has_no_conflict(document_scenario: Build) -> None:
    assert conflicts(Question(document_scenario(SMALL), ())) == ([], [])


def repaired(scenario: Scenario, repair: Repair) -> Scenario:
    """Apply a change as the command line does: `--set path=value [--set path=value]`."""
    document = scenario.document()
    overrides.apply(document, repair.change.split(" --set "), Scenario)
    return Scenario.model_validate(document)


@pytest.mark.parametrize("changes", [changes for changes, _ in CLASHES])
def test_every_repair_leaves_a_plan(document_scenario: Build, changes: dict[str, Any]) -> None:
    question = Question(document_scenario(changes), ())
    offered = repairs(question, conflicts(question)[0])
    assert offered
    for repair in offered:
        assert Question(repaired(question.scenario, repair), ()).feasible() is True, repair
    sizes = [repair.relative for repair in offered if repair.relative is not None]
    assert sizes == sorted(sizes)


def field(scenario: Scenario, path: str) -> float:
    value: Any = scenario
    for key in path.split("."):
        value = getattr(value, key)
    return float(value)


def closer(have: float, need: float, *, whole: bool) -> list[float | int]:
    """Values nearer to what the spec says now than the repair is."""
    if not whole:
        return [have, have + (need - have) * 0.5, have + (need - have) * 0.999]
    distance = int(abs(need - have))
    return [int(have) + sign * step for step in range(distance) for sign in (1, -1)]


@pytest.mark.parametrize("changes", [changes for changes, _ in CLASHES[1:-2]])
def test_no_smaller_change_of_the_same_number_repairs(
    document_scenario: Build, changes: dict[str, Any]
) -> None:
    question = Question(document_scenario(changes), ())
    tried = 0
    for repair in repairs(question, conflicts(question)[0]):
        if repair.relative is None:
            continue
        path, _, text = repair.change.partition("=")
        have, need = field(question.scenario, path), float(text)
        assert repair.relative == pytest.approx(abs(need - have) / have, rel=1e-4)
        whole = path.startswith(("cluster.", "requirements.max_spread")) and "_bytes" not in path
        for value in closer(have, need, whole=whole):
            try:
                less = changed(question.scenario, path, value)
            except ValidationError:  # domains that do not nest in nodes, no nodes at all
                continue
            tried += 1
            assert Question(less, ()).feasible() is False, (path, value)
    assert tried or "rules" in changes


@pytest.mark.parametrize("coverage", ["up_to", "every_gpu"])
def test_more_nodes_that_were_tried_in_vain_are_told(
    document_scenario: Build, coverage: str
) -> None:
    """Who reads of GPUs that nobody sells wants to know that more of these do not do either."""
    latency = {"requirements.max_ttft_us": 200e3, "requirements.coverage": coverage}
    question = Question(document_scenario(SMALL | latency), ())
    clashes, _ = conflicts(question)
    (said,) = in_vain(question, clashes, repairs(question, clashes))
    have = question.scenario.cluster.num_nodes
    words = said.removeprefix("no plan was found on more nodes either (").removesuffix(")")
    tried = [int(n.replace(",", "")) for n in words.removeprefix("up to ").split(", ")]
    assert (len(tried) == 1) == (coverage == "up_to")
    assert all(nodes > have for nodes in tried)
    for nodes in tried:
        assert question.changed("cluster.num_nodes", nodes).feasible() is False


@pytest.mark.parametrize(
    "rules", [("num_gpus % 3 == 0",), ("gpus_used == num_gpus", "pp == 3"), ("num_nodes == 3",)]
)
def test_rules_on_the_size_of_the_cluster_have_numbers_of_nodes_tried_one_by_one(
    rules: tuple[str, ...],
) -> None:
    """A plan on 3 nodes is none on 4 there: doubling missed it, and said there was none to 16."""
    named = {"llm": "llama-3.1-405b", "cluster": "1xhgx-h100", "workload": "chat-4k-1k"}
    scenario = load_scenario(None, parts=named)
    asked = [{"name": f"r{i}", "require": r, "because": "a test"} for i, r in enumerate(rules)]
    question = Question(changed(scenario, "rules", asked), ())
    clashes, _ = conflicts(question)
    offered = repairs(question, clashes)
    assert [r.change for r in offered if "num_nodes" in r.change] == ["cluster.num_nodes=3"]
    assert in_vain(question, clashes, offered) == ()
    never = changed(question.scenario, "rules", [{**asked[0], "require": "num_gpus < 0"}])
    (said,) = in_vain(Question(never, ()), [("r0",)], ())
    assert said.endswith("(2, 3, 4, 5, 6, 7, 8, 9)")


def test_leaving_a_partition_out_also_means_that_gpus_may_idle(document_scenario: Build) -> None:
    """Whatever its layout, a plan on every GPU has as many: only idle ones make a better plan."""
    scenario = document_scenario(TINY | {"recipe.objectives": ["gpus", "throughput"]})
    task = make_task(scenario)
    best = optimise(task, prepare(task))
    assert best.vector is not None
    names, _ = binding(Question(scenario, ()), task.oriented(best.vector), 10_000, task=task)
    assert "coverage" in names


def test_the_512_gpu_clash_is_repaired_by_domains_of_32(document_scenario: Build) -> None:
    """16 experts x 2 shards are 32 GPUs per layer; twice 16."""
    question = Question(document_scenario({"cluster.gpus_per_domain": 16}), ())
    offered = {r.change: r for r in repairs(question, conflicts(question)[0])}
    assert offered["cluster.gpus_per_domain=32"].relative == 1.0
    assert "requirements.all_to_all_within=cluster" in offered
    assert "requirements.coverage=every_gpu" in offered


def test_ttft_repair_states_the_time_of_all_layers(document_scenario: Build) -> None:
    """4 layers of 100 ms, asked for 200 ms: twice as much."""
    question = Question(document_scenario(SMALL | {"requirements.max_ttft_us": 200e3}), ())
    (repair,) = repairs(question, conflicts(question)[0])
    assert repair.requirement == "ttft"
    assert float(repair.change.removeprefix("requirements.max_ttft_us=")) == 400e3
    assert repair.relative == 1.0
    assert "200 ms" in repair.size
    assert "400 ms" in repair.size


def test_a_memory_repair_holds_where_only_a_fraction_may_be_used(document_scenario: Build) -> None:
    """39,062,500 bytes at 70 % are 55,803,571.43 bytes: the next byte is needed."""
    changes = {"requirements.max_memory_fraction": 0.7, "cluster.gpu.memory_bytes": 40e6}
    question = Question(document_scenario(changes), ())
    for repair in repairs(question, conflicts(question)[0]):
        assert Question(repaired(question.scenario, repair), ()).feasible() is True, repair


def test_a_throughput_repair_mends_both_rates(document_scenario: Build) -> None:
    changes = {
        "requirements.min_tokens_per_s": 5e6, "requirements.min_tokens_per_s_per_gpu": 200e3,
    }  # fmt: skip
    question = Question(document_scenario(SMALL | changes), ())
    for repair in repairs(question, conflicts(question)[0]):
        assert Question(repaired(question.scenario, repair), ()).feasible() is True, repair


def test_a_throughput_repair_does_not_round_the_rate_up(document_scenario: Build) -> None:
    """200,000 tokens/s x 0.61234995 are 122,469.99 per GPU, not 122,470."""
    changes = {
        "requirements.min_tokens_per_s_per_gpu": 200e3, "declared.compute_efficiency": 0.61234995,
    }  # fmt: skip
    question = Question(document_scenario(SMALL | changes), ())
    for repair in repairs(question, conflicts(question)[0]):
        assert Question(repaired(question.scenario, repair), ()).feasible() is True, repair


@pytest.mark.parametrize(
    ("parts", "changes", "nodes"),
    [
        (("llama-3.1-405b", "1xhgx-h100"), ["requirements.max_tpot_us=50ms"], 2),  # 811 of 640 GB
        (("kimi-k2", "1x8-rtx-4090"), ["requirements.max_tpot_us=50ms"], None),
        (("llama-3.1-70b", "1xhgx-h100"), ["requirements.min_tokens_per_s=20000"], None),
        (("deepseek-v3", "1xgb200-nvl72"), ["cluster.gpu.memory_bytes=12e9"], None),
    ],
)
def test_the_fewest_more_nodes_that_admit_a_plan_are_a_repair(
    parts: tuple[str, str], changes: list[str], nodes: int | None
) -> None:
    named = {"llm": parts[0], "cluster": parts[1], "workload": "chat-4k-1k"}
    scenario = load_scenario(None, parts=named, overrides=changes)
    question = Question(scenario, ())
    clashes, _ = conflicts(question)
    offered = repairs(question, clashes)
    assert in_vain(question, clashes, offered) == ()
    (repair,) = (r for r in offered if r.change.startswith("cluster.num_nodes="))
    found = int(repair.change.partition("=")[2])
    assert nodes in (None, found)
    assert Question(repaired(scenario, repair), ()).feasible() is True
    unit = scenario.cluster.domain_gpus // scenario.cluster.gpus_per_node  # a rack is whole
    assert found % unit == 0
    assert question.changed("cluster.num_nodes", found - unit).feasible() is False
    assert "over a fabric of " in repair.size


def test_more_nodes_are_no_repair_where_none_of_them_helps() -> None:
    named = {"llm": "deepseek-v3", "cluster": "1xhgx-h200", "workload": "chat-4k-1k"}
    for limit in ("requirements.max_tpot_us=2ms", "requirements.min_tokens_per_s_per_gpu=1e6"):
        question = Question(load_scenario(None, parts=named, overrides=[limit]), ())
        offered = repairs(question, conflicts(question)[0])
        assert offered
        assert not [r for r in offered if "num_nodes" in r.change]


def test_nodes_are_counted_one_after_another_where_none_may_idle() -> None:
    named = {"llm": "llama-3.1-405b", "cluster": "1xhgx-h100", "workload": "chat-4k-1k"}
    changes = ["requirements.coverage=every_gpu", "requirements.min_tokens_per_s=2000"]
    question = Question(load_scenario(None, parts=named, overrides=changes), ())
    offered = repairs(question, conflicts(question)[0])
    (repair,) = (r for r in offered if "num_nodes=" in r.change)
    found = int(repair.change.partition("num_nodes=")[2].partition(" ")[0])
    assert found > 2
    for nodes in range(1, found):
        assert question.changed("cluster.num_nodes", nodes).feasible() is False


# Small enough for exhaustive search without any one requirement: 2 layers x 2 experts on 8 GPUs.
TINY = {
    "llm.num_layers": 2,
    "llm.num_experts": 2,
    "cluster.num_nodes": 4,
    "cluster.gpus_per_node": 2,
    "cluster.gpus_per_domain": 4,
}
SAME = {"name": "same_tp", "require": "tp == etp", "because": "a test"}
DEEP = {"name": "deep", "require": "pp == 2", "because": "a test"}
FEW = {"name": "few", "sum": "gpus", "at_most": 6, "because": "a test"}


@pytest.mark.parametrize(
    ("changes", "binds"),
    [
        ({}, {"coverage", "all_to_all_within"}),
        ({"cluster.gpus_per_domain": 8, "rules": [SAME]}, set()),
        ({"cluster.gpus_per_domain": 8, "rules": [DEEP]}, {"deep"}),
        ({"rules": [FEW], "requirements.coverage": "up_to"}, {"few", "tensor_parallel_within"}),
        ({"requirements.max_ttft_us": 200e3, "rules": []}, None),
        ({"recipe.objectives": ["memory"]}, None),
        ({"recipe.objectives": ["gpus"], "requirements.coverage": "every_gpu"}, None),
    ],
)
def test_a_requirement_binds_where_leaving_it_out_improves_the_exhaustive_optimum(
    document_scenario: Build, changes: dict[str, Any], binds: set[str] | None
) -> None:
    scenario = document_scenario(TINY | changes)
    task = make_task(scenario)
    names = [o.name for o in task.objectives]
    best = oracle.best(task.problem, task.constraints, names)
    assert best is not None
    expected = set()
    for constraint in task.constraints[4:]:  # the first four are what a plan is
        if constraint.name == "coverage" and scenario.requirements.coverage == "partition":
            relaxed = make_task(changed(scenario, "requirements.coverage", "every_gpu"))
        else:
            relaxed = make_task(scenario, disabled=[constraint.name])
        other = oracle.best(relaxed.problem, relaxed.constraints, names)
        assert other is not None
        if other[0] < best[0]:
            expected.add(constraint.name)
    outcome = optimise(task, prepare(task))
    assert outcome.vector is not None
    bound, undecided = binding(Question(scenario, ()), task.oriented(outcome.vector), 10**6)
    assert set(bound) == expected
    assert undecided == []
    if binds is not None:
        assert binds == expected


def test_what_is_beyond_the_budget_is_reported_as_not_decided(document_scenario: Build) -> None:
    scenario = document_scenario(TINY)
    task = make_task(scenario)
    outcome = optimise(task, prepare(task))
    assert outcome.vector is not None
    bound, undecided = binding(Question(scenario, ()), task.oriented(outcome.vector), 0)
    assert bound == ()
    assert set(undecided) == {c.name for c in task.constraints[4:]}


def test_whether_a_pair_exists_is_asked_in_an_order_that_finds_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the rate per GPU, 2,984 layouts were solved first that nothing else had room beside."""
    solved = []
    solve = Pairing.solve

    def counted(self: Pairing, *arguments: Any) -> Any:
        solved.append(arguments)
        return solve(self, *arguments)

    monkeypatch.setattr(Pairing, "solve", counted)
    named = {"llm": "glm-4.5-air", "cluster": "1x8-rtx-4090", "workload": "chat-4k-1k"}
    changes = ["workload.phase=disaggregated", "workload.input_tokens=256", "cluster.num_nodes=4"]
    order = "recipe.objectives=[throughput_per_gpu,throughput,ttft]"
    scenario = load_scenario(None, parts=named, overrides=[*changes, order])
    assert Question(scenario, ()).feasible() is True
    assert 0 < len(solved) < 20


def test_whether_a_plan_keeps_ttft_needs_no_proof_of_what_is_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CP-SAT took 14 s to solve five objectives where the split of the least TTFT was enough."""

    def unasked(*_: Any, **__: Any) -> None:
        raise AssertionError("CP-SAT was asked")

    monkeypatch.setattr(solver, "run", unasked)
    named = {"llm": "qwen3-32b-fp8", "cluster": "1x8-ascend-910b", "workload": "rag-8k-512"}
    changes = ["requirements.max_ttft_us=536108.698", "recipe.objectives=[gpus,throughput,ttft]"]
    scenario = load_scenario(None, parts=named, rule_packs=["tensorrt-llm"], overrides=changes)
    assert Question(scenario, ()).feasible() is True
    less = changed(scenario, "requirements.max_ttft_us", 500e3)
    assert Question(less, ()).feasible() is False


@pytest.mark.parametrize(("stated", "left"), [(60.0, diagnose.MOST_TIME_FOR_BINDING), (0.25, 0.25)])
def test_cp_sat_has_little_time_for_what_binds(
    document_scenario: Build, monkeypatch: pytest.MonkeyPatch, stated: float, left: float
) -> None:
    """The answer stands, and "not decided" is one too: a proof of this took 20 s, all else 3."""
    limits = []
    monkeypatch.setattr(diagnose, "better_without", lambda *_: {"memory": Left(task, prepared)})

    def answered(task: Any, prepared: Any) -> Any:
        limits.append(task.problem.scenario.recipe.cp_sat.deterministic_time_limit)
        return optimise(task, prepared)

    monkeypatch.setattr(diagnose, "answered", answered)
    scenario = document_scenario({"recipe.cp_sat.deterministic_time_limit": stated})
    task = make_task(scenario)
    prepared = prepare(task)
    assert prepared.vector is not None
    names, undecided = binding(Question(scenario, ()), prepared.vector, 10, task=task)
    assert limits == [left]
    assert "memory" not in (*names, *undecided)
