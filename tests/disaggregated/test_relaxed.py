"""One search for all requirements says of each what leaving it out alone says of every pair."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import autopar
from autopar.constraints.active import droppable
from autopar.diagnose import Question, binding
from autopar.disaggregated import boxes, relaxed
from autopar.disaggregated.program import optimise_pair
from autopar.disaggregated.relaxed import better_pair, better_pairs_without
from autopar.disaggregated.search import prepare_pair
from autopar.disaggregated.task import PairTask, make_pair
from autopar.search import Vector
from autopar.specs import Scenario

Build = Callable[..., Scenario]
Best = Callable[[PairTask], tuple[float, ...] | None]

RULES = (
    "tp <= 1",
    "pp == 1",
    "replicas <= 1",  # looks at replicas, which a layout leaves open
    "layers_per_stage <= 2",  # no filter of candidates
    "batch <= 2",
    "batch >= 2",
    "tp == 1 or attn_dp == 1",
    "gpus <= 2",
    "prefill.tp == decode.tp",
    "prefill.tp < decode.tp",
    "decode.pp == 1 or same_stages",
)
ORDERS = (
    ("throughput", "ttft", "tpot", "memory"),
    ("throughput_per_gpu", "gpus", "ttft"),
    ("ttft", "tpot", "throughput"),
    ("gpus", "throughput"),
)


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    """Of the fixture `pair_scenario`, with rules of every kind."""
    num_nodes, gpus_per_node = draw(st.sampled_from([(1, 2), (1, 3), (2, 2), (3, 1)]))
    limits = {
        "coverage": draw(st.sampled_from(["up_to", "up_to", "every_gpu"])),
        "tensor_parallel_within": draw(st.sampled_from(["node", "cluster", "cluster"])),
    }
    return {
        "num_layers": draw(st.integers(1, 3)),
        "num_experts": draw(st.sampled_from([0, 0, 2])),
        "num_nodes": num_nodes,
        "gpus_per_node": gpus_per_node,
        "memory_bytes": draw(st.sampled_from([4.1694e9, 4.17e9, 4e10])),
        "objectives": draw(st.sampled_from(ORDERS)),
        "work": {"max_batch_sequences": draw(st.integers(1, 5))},
        "requirements": limits,
        "rules": draw(st.lists(st.sampled_from(RULES), unique=True, max_size=3)),
        "uneven": draw(st.booleans()),
    }


def with_limits(scenario: Scenario, shares: Mapping[str, float]) -> Scenario:
    """Limits at shares of what the optimum without them has."""
    reached = autopar.solve(scenario, diagnose=False).metrics
    assume(reached is not None)
    assert reached is not None
    free = {
        "max_ttft_us": reached.ttft_us,
        "max_tpot_us": reached.tpot_us,
        "min_tokens_per_s": reached.tokens_per_s,
    }
    limits = {name: share * (free[name] or 0.0) for name, share in shares.items()}
    requirements = scenario.requirements.model_copy(update=limits)
    return scenario.model_copy(update={"requirements": requirements})


def optimum_of(task: PairTask) -> Vector | None:
    vector = optimise_pair(task, prepare_pair(task)).vector
    return None if vector is None else task.oriented(vector)


def binds(scenario: Scenario, optimum: Vector, best: Best) -> list[str]:
    """What leaves a better pair when it alone is left out, by exhaustive search."""
    names = [c.name for c in droppable(make_pair(scenario).constraints)]
    if scenario.requirements.coverage == "up_to":
        names.remove("coverage")
    found = []
    for name in names:
        vector = best(make_pair(scenario, disabled=[name]))
        assert vector is not None
        if vector != pytest.approx(optimum, rel=1e-12, abs=1):  # a cost is rounded in another order
            assert vector < optimum
            found.append(name)
    return found


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    arguments=arguments(),
    shares=st.fixed_dictionaries(
        {},
        optional={
            "max_ttft_us": st.sampled_from([0.7, 0.9]),
            "max_tpot_us": st.sampled_from([0.7, 0.9]),
            "min_tokens_per_s": st.sampled_from([0.9, 1.2, 2.0]),
        },
    ),
)
def test_what_binds_is_what_each_relaxation_alone_improves_by_exhaustive_search(
    pair_scenario: Build,
    best_pair: Best,
    arguments: dict[str, Any],
    shares: dict[str, float],
) -> None:
    """Also where a first pair is looked for at once, or never."""
    scenario = with_limits(pair_scenario(**arguments), shares)
    optimum = optimum_of(make_pair(scenario))
    assume(optimum is not None)
    assert optimum is not None
    expected = tuple(binds(scenario, optimum, best_pair)), []
    for many in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relaxed, "_MANY", many)
            assert binding(Question(scenario, ()), optimum, 10**6) == expected


@pytest.fixture
def task(pair_scenario: Build) -> PairTask:
    rules = ["batch <= 2", "tp == 1", "pp <= 8"]
    return make_pair(pair_scenario(num_layers=3, num_nodes=3, rules=rules))


def test_a_better_pair_is_found_if_and_only_if_there_is_one(task: PairTask) -> None:
    optimum = optimum_of(task)
    assert optimum is not None
    assert better_pair(task, optimum, 10**6) is False
    assert better_pair(task, (optimum[0] + 1, *optimum[1:]), 10**6) is True
    assert better_pair(task, optimum, 0) is None


def test_a_rule_binds_where_a_layout_of_one_role_alone_breaks_it(
    pair_scenario: Build, best_pair: Best
) -> None:
    """Of three GPUs one role has one, the other two."""
    scenario = pair_scenario(
        num_nodes=1, gpus_per_node=3, objectives=("ttft", "throughput"),
        work={"max_batch_sequences": 2}, rules=["tp <= 1"],
    )  # fmt: skip
    task = make_pair(scenario)
    optimum = optimum_of(task)
    assert optimum is not None
    assert "r0" in binds(scenario, optimum, best_pair)
    assert better_pairs_without(task, ["r0"], optimum, 10**6) == {"r0": True}


def test_a_rule_that_no_layout_breaks_takes_no_look_at_any(
    task: PairTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimum = optimum_of(task)
    assert optimum is not None
    monkeypatch.setattr(relaxed, "State", None)
    assert better_pairs_without(task, ["r2"], optimum, 10**6) == {"r2": False}
    assert better_pairs_without(task, ["r2"], optimum, 0) == {"r2": None}


def test_the_question_with_most_boxes_is_given_up_where_there_are_too_many(
    task: PairTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimum = optimum_of(task)
    assert optimum is not None
    names = ["memory", "r0", "r1", "r2"]
    whole = better_pairs_without(task, names, optimum, 10**6)
    assert whole == {"memory": False, "r0": True, "r1": False, "r2": False}
    monkeypatch.setattr(boxes, "MOST_BOXES", 1)
    assert better_pairs_without(task, names, optimum, 10**6)["r0"] is None
