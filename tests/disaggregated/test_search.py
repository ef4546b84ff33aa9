"""What is left out cannot be optimal; what is asked for is found, and found again."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from autopar.costs.scaling import TIME_QUANTUM_US
from autopar.disaggregated import boxes, program, search
from autopar.disaggregated.boxes import Bounded, Boxes, Side
from autopar.disaggregated.pairing import Pairing
from autopar.disaggregated.program import interrupted_pair, optimise_pair
from autopar.disaggregated.search import State, look_for_pair, prepare_pair, sides_of
from autopar.disaggregated.task import PairTask, make_pair
from autopar.errors import SolveLimitError
from autopar.results import Progress
from autopar.specs import Scenario

Build = Callable[..., Scenario]


@pytest.fixture
def task(pair_scenario: Build) -> PairTask:
    return make_pair(pair_scenario(num_layers=3, num_nodes=3))


def side_of(task: PairTask, role: int) -> Side:
    part = task.roles[role]
    return Side(part, part.problem.candidates, task.exact_only)


@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize("uneven", [False, True])
def test_no_candidate_of_a_box_beats_the_bound_of_the_box(
    pair_scenario: Build, role: int, uneven: bool
) -> None:
    work = {"max_batch_sequences": 20}
    scenario = pair_scenario(num_layers=3, num_nodes=2, work=work, uneven=uneven)
    side = side_of(make_pair(scenario), role)
    boxes = side.start()
    assert (~boxes.boxes.single).any()
    for index in range(len(boxes)):
        one = boxes.take(np.array([index]))
        low, high = int(one.boxes.low[0]), int(one.boxes.high[0])
        for batch in range(low, high + 1):
            for count in range(1, int(one.boxes.most[0]) + 1):
                alone = Boxes(
                    one.boxes.layout, *(np.array([n]) for n in (batch, batch, count, count))
                )
                inside = side.bounded(alone)
                if not len(inside):
                    continue
                assert inside.values.rate[0] <= one.values.rate[0]
                for name in ("time", "handover", "tpot", "boundaries", "memory", "gpus"):
                    least = getattr(one.values, name)[0]
                    assert getattr(inside.values, name)[0] >= least, name
                assert inside.taken[0] >= one.taken[0]


def test_cutting_loses_no_candidate(task: PairTask) -> None:
    boxes = side_of(task, 1).start().boxes
    whole = {
        (layout, batch, count)
        for layout, low, high, fewest, most in zip(
            *(getattr(boxes, key).tolist() for key in ("layout", "low", "high", "fewest", "most")),
            strict=True,
        )
        for batch in range(low, high + 1)
        for count in range(fewest, most + 1)
    }
    while not boxes.single.all():
        boxes = boxes.cut()
    found = list(zip(boxes.layout.tolist(), boxes.low.tolist(), boxes.fewest.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == whole


def test_a_batch_of_one_that_is_refused_does_not_speak_for_larger_ones(
    pair_scenario: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With so many layouts that few batches are bounded at once."""
    task = make_pair(pair_scenario(rules=["batch >= 2"]))
    every = side_of(task, 1).start().boxes
    monkeypatch.setattr(boxes, "_AT_ONCE", 1)
    few = side_of(task, 1).start().boxes
    assert set(every.layout.tolist()) == set(range(len(side_of(task, 1).rows)))
    assert set(zip(few.layout.tolist(), few.low.tolist(), strict=True)) == set(
        zip(every.layout.tolist(), every.low.tolist(), strict=True)
    )


def test_batches_that_are_faster_than_smaller_ones_are_not_lost(pair_scenario: Build) -> None:
    """8 rows take less time than 1, so that TPOT forbids few sequences and allows more."""
    free = side_of(make_pair(pair_scenario(work={"max_batch_sequences": 40}, uneven=True)), 1)

    def alone(side: Side, batch: int) -> Bounded:
        layouts = np.arange(len(side.rows))
        one = np.ones_like(layouts)
        return side.bounded(Boxes(layouts, one * batch, one * batch, one, one))

    first, later = (int(alone(free, batch).values.tpot.min()) for batch in (1, 8))
    assert later < first
    limit_us = TIME_QUANTUM_US * (first + later) / 2
    work = {"max_batch_sequences": 40}
    needs = {"max_tpot_us": limit_us}
    side = side_of(make_pair(pair_scenario(work=work, uneven=True, requirements=needs)), 1)
    found = side.start().boxes
    ranges = list(
        zip(*(getattr(found, k).tolist() for k in ("layout", "low", "high")), strict=True)
    )
    passing = {(b, i) for b in range(1, 41) for i in alone(side, b).boxes.layout.tolist()}
    assert {b for b, _ in passing} & {1, 8} == {8}
    for batch, layout in passing:
        assert any(i == layout and low <= batch <= high for i, low, high in ranges)


def test_the_largest_batch_is_the_last_that_passes(pair_scenario: Build) -> None:
    scenario = pair_scenario(work={"max_batch_sequences": 300}, requirements={"max_tpot_us": 100.0})
    side = side_of(make_pair(scenario), 1)
    most = np.full(len(side.rows), 300)
    one = np.ones_like(most)
    whole = Boxes(np.arange(len(most)), one, most, one, side.rows.replicas)
    for layout, top in enumerate(side.largest(whole).tolist()):
        passes = [
            len(side.bounded(Boxes(*(np.array([n]) for n in (layout, b, b, 1, 1)))))
            for b in (top, min(top + 1, 300))
        ]
        if top > 1 or passes[0]:  # else not even the smallest passes
            assert passes == [1, int(top == 300)]


def test_the_same_question_has_the_same_answer(task: PairTask) -> None:
    answers = [optimise_pair(task, prepare_pair(task), uniqueness=True) for _ in range(2)]
    assert answers[0] == answers[1]


def test_ties_are_kept_only_where_they_matter(task: PairTask) -> None:
    kept, dropped = prepare_pair(task), prepare_pair(task, ties=False)
    assert kept.vector == dropped.vector
    assert kept.has_ties
    assert not dropped.has_ties
    assert dropped.num_in_model <= kept.num_in_model
    outcome = optimise_pair(task, dropped, uniqueness=True)
    assert outcome.uniqueness is not None
    assert outcome.uniqueness.unique is None
    assert outcome.vector == optimise_pair(task, kept).vector


def test_one_layout_of_each_role_is_enough_where_any_pair_will_do(task: PairTask) -> None:
    solved = {}
    for first in (False, True):
        sides = sides_of(task)
        found = [side.start() for side in sides]
        state = State(task, sides, Pairing(task), found, first=first, ties=False)
        look_for_pair(state)
        assert state.pairing.best is not None
        solved[first] = [len(alone) for alone in state.pairing.alone]
    assert solved[True] == [1, 1]
    assert min(solved[False]) > 1


def test_where_few_layouts_are_looked_at_first_the_answer_is_the_same(
    task: PairTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = optimise_pair(task, prepare_pair(task)).vector
    monkeypatch.setattr(search, "_TO_END", 1)
    assert optimise_pair(task, prepare_pair(task)).vector == vector


def test_too_many_candidates_are_a_limit_not_an_answer(
    task: PairTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MOST_SOLVED", 0)
    with pytest.raises(SolveLimitError, match="throughput"):
        prepare_pair(task)


def test_progress_and_interruption_tell_values_and_bounds(
    task: PairTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_is_closed", lambda *_: False)  # else CP-SAT is not asked
    seen: list[Progress] = []
    prepared = prepare_pair(task)
    outcome = optimise_pair(task, prepared, report=seen.append)
    assert {p.objective for p in seen} == {o.name for o in task.objectives}
    before = interrupted_pair(task, prepared)
    assert (before.status, before.interrupted) == ("feasible", True)
    assert before.vector is not None
    assert before.bounds is not None
    assert outcome.vector is not None
    assert before.vector[0] <= outcome.vector[0] <= before.bounds[0]
    nothing = replace(prepared, vector=None, incumbent=None)
    assert interrupted_pair(task, nothing).status == "unknown"
