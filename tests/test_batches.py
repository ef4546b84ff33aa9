"""Batches that are left out were never the optimum, and what the search of them rests on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from autopar import oracle
from autopar.batches import Intervals, Overview
from autopar.candidates import every_batch, with_batch
from autopar.costs.analytic import AnalyticCosts
from autopar.costs.steps import most_sequences
from autopar.problem import Candidate, Candidates, Plan
from autopar.search import make_task, prepare
from autopar.specs import Scenario

Build = Callable[..., Any]

few = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@st.composite
def intervals(draw: st.DrawFn) -> Intervals:
    ends = draw(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 300)), max_size=6))
    low = np.array([a for a, _ in ends], dtype=np.int64)
    width = np.array([b for _, b in ends], dtype=np.int64)
    return Intervals(np.arange(len(ends)), low, low + width)


@given(intervals())
def test_the_parts_of_an_interval_cover_it_exactly(work: Intervals) -> None:
    parts = work.cut()
    for layout, low, high in zip(work.layout, work.low, work.high, strict=True):
        mine = parts.layout == layout
        pieces = zip(parts.low[mine].tolist(), parts.high[mine].tolist(), strict=True)
        sizes = [range(a, b + 1) for a, b in pieces]
        assert [batch for size in sizes for batch in size] == list(range(low, high + 1))
        widths = [len(size) for size in sizes]
        assert max(widths) - min(widths) <= 1
        assert len(sizes) > 1 or low == high  # so that cutting comes to an end


def test_intervals_are_joined_in_order() -> None:
    one = Intervals(np.array([0]), np.array([1]), np.array([4]))
    two = Intervals(np.array([0, 3]), np.array([5, 1]), np.array([8, 1]))
    both = Intervals.joined([one, two])
    assert (both.layout.tolist(), both.low.tolist()) == ([0, 0, 3], [1, 5, 1])
    assert both.high.tolist() == [4, 8, 1]
    assert len(Intervals.joined([]).low) == 0


def pages(problem: Any, rows: Candidates, index: int) -> list[int]:
    table = every_batch(problem, rows.take(np.array([index])))
    return [row.batch for row in table]


def test_every_batch_lists_each_layout_once_for_every_batch(analytic_scenario: Build) -> None:
    """Prompts of 100 in parts of 50 or 25, one or 2 a step; 8 steps a request: 3 batches
    each, as with 4 every step would be full."""
    scenario = analytic_scenario(
        phase="serving", input_tokens=100, output_tokens=9, prefill_chunk_tokens=50,
        max_batch_sequences=500, num_nodes=1,
    )  # fmt: skip
    problem = make_task(scenario).problem
    rows = Candidates.of([Candidate(1, 1, 1, 1, 1, 1, 1, 1, 1, c) for c in (2, 4, 3)])
    assert [pages(problem, rows, i) for i in range(3)] == [[1, 2, 3], [1, 2, 3], [1, 2]]
    together = [(row.chunks, row.batch) for row in every_batch(problem, rows)]
    assert together == [
        (2, 1),
        (2, 2),
        (2, 3),
        (4, 1),
        (4, 2),
        (4, 3),
        (3, 1),
        (3, 2),
    ]


def test_a_given_batch_is_left_alone(analytic_scenario: Build) -> None:
    problem = make_task(analytic_scenario(num_nodes=1)).problem
    assert every_batch(problem, problem.candidates) is problem.candidates


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_needs_grow_with_the_batch_and_the_rate_no_faster_than_it(
    data: st.DataObject,
    analytic_scenario: Build,
    architectures: Build,
    open_works: Any,
    layouts: Build,
) -> None:
    """Under every layout and for every segment: memory, TTFT and TPOT; rate over batch falls."""
    hidden = data.draw(st.sampled_from([64, 1000]))
    scenario = analytic_scenario(
        architecture=data.draw(architectures(4, hidden)), **data.draw(open_works)
    )
    row = data.draw(layouts(scenario))
    most = int(most_sequences(scenario.workload, np.array([row.chunks]))[0])
    assume(most > 1)
    batches = np.arange(1, most + 1)
    rows = with_batch(Candidates.of([row] * most), batches)
    first = data.draw(st.integers(0, scenario.llm.num_layers - 1))
    stop = data.draw(st.integers(first + 1, scenario.llm.num_layers))
    model = AnalyticCosts(scenario)
    costs = model.stage_costs(rows, np.full(most, first), np.full(most, stop))
    bounds = model.bounds(rows)
    for found in (costs.time_us, costs.tpot_us, costs.memory_bytes,
                  bounds.ttft_us, bounds.tpot_us, bounds.memory_bytes):  # fmt: skip
        if found is not None:
            assert (np.diff(found) >= -1e-12 * found[1:]).all()
    for rate in (costs.tokens_per_s, bounds.tokens_per_s):
        share = rate / batches
        assert (np.diff(share) <= 1e-12 * share[1:]).all()


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_bounds_over_batches_hold_for_every_one_of_them(
    data: st.DataObject,
    analytic_scenario: Build,
    architectures: Build,
    open_works: Any,
    layouts: Build,
    uneven_kernels: Any,
) -> None:
    """TTFT, TPOT and memory are no less with any of them; the rate grows no faster than they do."""
    document = analytic_scenario(
        architecture=data.draw(architectures(4, 64)), **data.draw(open_works)
    ).document()
    document["cluster"]["gpu"]["kernels"] = data.draw(uneven_kernels)
    scenario = Scenario.model_validate(document)
    row = data.draw(layouts(scenario))
    most = int(most_sequences(scenario.workload, np.array([row.chunks]))[0])
    assume(most > 1)
    low = data.draw(st.integers(1, most - 1))
    high = data.draw(st.integers(low, most))
    model = AnalyticCosts(scenario)
    one = with_batch(Candidates.of([row]), low)
    least = model.over_batches(np.array([high / low])).bounds(one)
    batches = np.arange(low, high + 1)
    inside = model.bounds(with_batch(Candidates.of([row] * len(batches)), batches))
    for name in ("ttft_us", "tpot_us", "memory_bytes"):
        found, bound = getattr(inside, name), getattr(least, name)
        assert (found is None) == (bound is None)
        assert found is None or (found >= bound * (1 - 1e-12)).all(), name
    assert (inside.tokens_per_s <= least.tokens_per_s * batches / low * (1 + 1e-12)).all()
    if low == high:
        assert least.tokens_per_s == pytest.approx(inside.tokens_per_s)


HAIR = 1e-4
ORDERS = (
    ("throughput", "ttft", "tpot", "traffic", "memory"),
    ("throughput_per_gpu", "gpus", "ttft"),
    ("cost", "tpot"),
    ("memory", "throughput"),
    ("ttft", "tpot", "throughput"),
    ("tpot", "throughput"),
    ("gpus", "throughput_per_gpu"),
    ("traffic", "cost"),
)


@st.composite
def problems(draw: st.DrawFn, build: Build, architectures: Build, kernels: Any) -> Scenario:
    """A few layers on up to 6 GPUs, up to 9 batches; limits are set near what plans reach."""
    phase = draw(st.sampled_from(["prefill", "decode", "serving"]))
    base = build(
        architecture=draw(architectures(3)),
        phase=phase,
        input_tokens=draw(st.sampled_from([20, 100, 600])),
        output_tokens=draw(st.sampled_from([2, 9, 64])),
        prefill_chunk_tokens=draw(st.sampled_from([64, 256])),
        max_batch_sequences=draw(st.integers(1, 9)),
        num_nodes=1,
    )
    document = base.document()
    document["cluster"] |= {"gpus_per_node": draw(st.integers(1, 3)), "num_nodes": 2}
    document["cluster"]["gpus_per_domain"] = document["cluster"]["gpus_per_node"]
    document["cluster"]["gpu"]["kernels"] = draw(kernels)
    document["cluster"]["gpu"]["usd_per_hour"] = draw(st.sampled_from([1e-6, 2.5, 1e5]))
    wanted: dict[str, Any] = {"coverage": draw(st.sampled_from(["up_to", "every_gpu"]))}
    document["requirements"] = wanted
    document["recipe"]["objectives"] = draw(st.sampled_from(ORDERS))
    return Scenario.model_validate(document)


def with_limits(draw: Callable[..., Any], scenario: Scenario) -> Scenario:
    """Limits at quantiles of what the plans of the free problem reach, so that they bind.

    A hair looser: where a plan meets a limit to the last digit, filters round to the safe side.
    """
    task = make_task(scenario)
    reached = [costs for _, costs in oracle.feasible_plans(task.problem, task.constraints)]
    if not reached:
        return scenario
    document = scenario.document()

    def quantile(values: list[float]) -> float:
        values = sorted(values)
        return float(values[min(draw(st.integers(0, 9)) * len(values) // 10, len(values) - 1)])

    limits = document["requirements"]
    choice = draw(st.sets(st.sampled_from(["rate", "per_gpu", "ttft", "tpot", "memory"])))
    rates = [float(costs.tokens_per_s.min()) for costs in reached]
    if "rate" in choice:
        limits["min_tokens_per_s"] = quantile(rates) * (1 - HAIR)
    if "per_gpu" in choice:
        limits["min_tokens_per_s_per_gpu"] = (
            quantile(rates) * (1 - HAIR) / scenario.cluster.num_gpus
        )
    if "ttft" in choice and scenario.workload.phase != "decode":
        limits["max_ttft_us"] = quantile([float(c.time_us.sum()) for c in reached]) * (1 + HAIR)
    if "tpot" in choice and scenario.workload.phase != "prefill":
        limits["max_tpot_us"] = quantile([float(c.tpot_us.max()) for c in reached]) * (1 + HAIR)
    if "memory" in choice:
        peak = quantile([float(c.memory_bytes.max()) for c in reached])
        document["cluster"]["gpu"]["memory_bytes"] = peak * (1 + HAIR)
    return Scenario.model_validate(document)


def row_of(plan: Plan) -> Candidate:
    stage = plan.stages[0]
    degrees = (stage.tp, stage.cp, stage.attn_dp, stage.ep, stage.etp, stage.spread)
    return Candidate(plan.replicas, plan.pp, *degrees, plan.batch, plan.chunks)


@few
@given(data=st.data())
def test_every_optimum_is_worth_a_look(
    data: st.DataObject, analytic_scenario: Build, architectures: Build, uneven_kernels: Any
) -> None:
    """No plan of a candidate beats its optimistic vector; with no plan to prune by, all stay.

    With values to beat, all that reach them stay.
    """
    scenario = with_limits(
        data.draw, data.draw(problems(analytic_scenario, architectures, uneven_kernels))
    )
    task = make_task(scenario)
    names = [objective.name for objective in task.objectives]
    reached: dict[Candidate, tuple[int, ...]] = {}
    for plan, costs in oracle.feasible_plans(task.problem, task.constraints):
        vector = tuple(oracle.value(name, task.problem, plan, costs) for name in names)
        reached[row_of(plan)] = min(vector, reached.get(row_of(plan), vector))
    best = min(reached.values(), default=None)
    prepared = prepare(task)
    pruned = prepared.allowed, prepared.optimistic
    overview = Overview.of(task.problem, task.constraints, task.objectives)
    every = overview.worth_looking(lambda row: None)
    middle = sorted(reached.values())[len(reached) // 2] if reached else None
    known = overview.worth_looking(lambda row: None, better_than=middle)
    for (rows, matrix), wanted in (
        (pruned, {row for row, vector in reached.items() if vector == best}),
        (every, set(reached)),
        (known, {row for row, vector in reached.items() if middle is None or vector <= middle}),
    ):
        left = {row: tuple(values) for row, values in zip(rows, matrix.tolist(), strict=True)}
        assert len(left) == len(rows)
        assert wanted <= set(left)
        assert list(left.values()) == sorted(left.values())
        for row in wanted:
            assert all(a <= b for a, b in zip(left[row], reached[row], strict=True)), row


def test_a_rate_that_only_a_larger_batch_reaches_is_found(analytic_scenario: Build) -> None:
    """Too slow with 1 sequence is not too slow for ever: a layout must not be dropped for that."""
    scenario = analytic_scenario(input_tokens=20, max_batch_sequences=40, num_nodes=1)
    problem = make_task(scenario).problem
    rows = with_batch(problem.candidates, 1)
    one = float(problem.cost_model.bounds(rows).tokens_per_s.max())
    limits = scenario.requirements.model_copy(update={"min_tokens_per_s": 3 * one})
    task = make_task(scenario.model_copy(update={"requirements": limits}))
    left = prepare(task).allowed
    assert len(left)
    assert min(row.batch for row in left) > 3
