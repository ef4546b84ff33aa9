"""From a request to its answer: figures computed again from the map, and requests refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.errors import InfeasibleError, SpecError
from autopar.placement.answer import answer, place
from autopar.placement.files.maps import ExpertMap
from autopar.placement.files.measured import Measured
from autopar.placement.machine import LayerTask, Machine, Rules
from autopar.placement.options import Options
from autopar.placement.results import Request
from autopar.placement.synthetic import clustered_routing, made_up, windows

QUICK = Options(effort="quick", rounds=2)


def measured(counts, layers=None, **more):
    counts = np.asarray(counts, dtype=float)
    counts = counts[None] if counts.ndim == 2 else counts
    return Measured(counts, layers or tuple(range(counts.shape[1])), **more)


def gpu_loads(load, row, machine):
    """Load of each GPU over its speed, slot by slot."""
    row, found = [int(e) for e in row], []
    speeds = machine.speeds or (1.0,) * machine.num_gpus
    for gpu in range(machine.num_gpus):
        held = row[gpu * machine.slots_per_gpu : (gpu + 1) * machine.slots_per_gpu]
        work = sum(float(load[e]) / row.count(e) for e in held)
        found.append(work / speeds[gpu] * sum(speeds) / len(speeds))
    return found


@pytest.mark.parametrize("speeds", [None, (1.0, 2.0, 1.0, 0.5)])
@pytest.mark.parametrize("with_current", [False, True])
def test_every_figure_follows_from_the_map_and_the_loads(speeds, with_current):
    counts = windows(made_up("lognormal", 3, 8, 1), 6, 4000, 0.2, 2).astype(float)
    counts[1] = 0.0  # an empty window counts for nothing
    machine = Machine(4, 3, num_nodes=2, speeds=speeds)
    now = np.array([(np.arange(12) * 5 + i) % 8 for i in range(4)])
    current = ExpertMap(now, (6, 5, 4, 3)) if with_current else None
    given_ = measured(counts, (3, 5, 6))
    found = answer(Request(given_, machine, options=QUICK, current=current, hold_out=2))
    loads = counts[:4].sum(axis=0)
    before = [now[3], now[1], now[0]] if with_current else [np.arange(12) % 8] * 3
    tops, firsts, bounds, means = [], [], [], []
    for layer, load, number, old in zip(found.layers, loads, (3, 5, 6), before, strict=True):
        mean = load.sum() / 4
        top, first = (max(gpu_loads(load, row, machine)) for row in (layer.slots, old))
        assert layer.layer == number
        assert layer.max_over_mean == pytest.approx(top / mean)
        assert layer.before == pytest.approx(first / mean)
        assert 1 - 1e-12 <= layer.bound <= layer.max_over_mean * (1 + 1e-12)
        assert layer.gap == pytest.approx(layer.max_over_mean / layer.bound - 1)
        assert layer.replicas.tolist() == np.bincount(layer.slots, minlength=8).tolist()
        rows = zip(layer.slots.reshape(4, 3).tolist(), old.reshape(4, 3).tolist(), strict=True)
        moves = sum(len(set(new) - set(had)) for new, had in rows)
        assert layer.moves == (moves if with_current else None)
        tops.append(top), firsts.append(first)
        bounds.append(layer.bound * mean), means.append(mean)
    assert found.max_over_mean == pytest.approx(sum(tops) / sum(means))
    assert found.before == pytest.approx(sum(firsts) / sum(means))
    assert found.bound == pytest.approx(sum(bounds) / sum(means))
    assert found.gap == pytest.approx(sum(tops) / sum(bounds) - 1)
    assert found.moves == (sum(a.moves for a in found.layers) if with_current else None)

    def mean_of(rows, window_rows):
        means = []
        for window in window_rows:
            top = sum(max(gpu_loads(w, r, machine)) for w, r in zip(window, rows, strict=True))
            means.append(top / (window.sum() / 4))
        return sum(means) / len(means)

    slots = [layer.slots for layer in found.layers]
    assert (found.planned.num_windows, found.held_out.num_windows) == (3, 2)
    assert found.planned.after == pytest.approx(mean_of(slots, counts[[0, 2, 3]]))
    assert found.planned.before == pytest.approx(mean_of(before, counts[[0, 2, 3]]))
    assert found.held_out.after == pytest.approx(mean_of(slots, counts[4:]))
    assert found.held_out.before == pytest.approx(mean_of(before, counts[4:]))


@given(st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_with_few_moves_the_bound_is_never_above_what_so_many_moves_reach(
    small_layers, boards, optimum, fullest_of, data
):
    task = data.draw(small_layers())
    rows = data.draw(st.lists(st.sampled_from(list(boards(task))), min_size=1, max_size=2))
    most = data.draw(st.integers(0, 4))
    loads = [np.roll(task.load, i) for i in range(len(rows))]
    current = ExpertMap(np.array([np.array(row).ravel() for row in rows]), (0, 1)[: len(rows)])
    options = Options(tolerance=0.0, exact_s=5.0)
    request = Request(measured(loads), task.machine, task.rules, options, current, max_moves=most)
    found = answer(request)
    assert found.moves <= most
    mean = task.load.sum() / task.machine.num_gpus
    splits = [(n, most - n) for n in range(most + 1)] if len(rows) == 2 else [(most,)]
    best = min(
        sum(
            optimum(replace(task, load=load, current=np.array(row).ravel(), max_moves=moves))
            for load, row, moves in zip(loads, rows, split, strict=True)
        )
        for split in splits
    )
    assert found.bound * mean * len(rows) <= best * (1 + 1e-9)
    assert found.max_over_mean * mean * len(rows) >= best * (1 - 1e-9)
    for layer, load, row in zip(found.layers, loads, rows, strict=True):
        one = replace(task, load=load, current=np.array(row).ravel(), max_moves=most)
        assert layer.bound * mean <= optimum(one) * (1 + 1e-9)
        assert layer.max_over_mean * mean <= fullest_of(row, one) * (1 + 1e-9)
    if len(rows) == 1:
        assert found.max_over_mean * mean == pytest.approx(best, rel=1e-5)


def test_moves_that_the_search_left_over_are_open_to_cp_sat(optimum):
    """The bound is of as many moves as were asked for, not of those that the search made."""
    current = ExpertMap(np.array([[0, 1, 0, 2, 0, 3]]), (0,))
    load = np.array([3.0, 60.0, 31.0, 30.0])
    for most in range(7):
        task = LayerTask(load, Machine(3, 2), current=current.slots[0], max_moves=most)
        request = Request(
            measured([load]), task.machine, options=Options(tolerance=0.0, exact_s=5.0),
            current=current, max_moves=most,
        )  # fmt: skip
        found = answer(request)
        assert found.max_over_mean * 124 / 3 == pytest.approx(optimum(task), rel=1e-5)
        assert found.bound * 124 / 3 <= optimum(task) * (1 + 1e-9)


def test_no_moves_keep_the_placement_slot_by_slot():
    now = np.array([[0, 1, 2, 3, 1, 4, 5, 0]])
    request = Request(
        measured([[5, 9, 1, 1, 2, 3]]), Machine(4, 2), options=QUICK,
        current=ExpertMap(now, (0,)), max_moves=0,
    )  # fmt: skip
    found = answer(request)
    assert found.layers[0].slots.tolist() == now[0].tolist()
    assert found.moves == 0
    assert found.before == found.max_over_mean


def test_twins_of_the_current_placement_are_mended_and_counted():
    now = ExpertMap(np.array([[0, 0, 1, 2, 3, 1]]), (0,))
    request = Request(
        measured([[4, 4, 4, 4]]), Machine(3, 2), options=QUICK, current=now, max_moves=1
    )
    found = answer(request)
    assert found.moves == 1
    assert all(len(set(row)) == 2 for row in found.layers[0].slots.reshape(3, 2).tolist())
    assert any("an expert twice" in note for note in found.notes)
    with pytest.raises(InfeasibleError, match="0 moves are fewer than the 1"):
        answer(replace(request, max_moves=0))


def test_a_current_placement_that_breaks_a_rule_needs_free_moves():
    now = ExpertMap(np.array([[0, 1, 2, 3]]), (7,))
    request = Request(
        measured([[4, 4, 4, 4]], (7,)), Machine(2, 2), Rules(forbidden_pairs=((0, 1),)), QUICK,
        current=now, max_moves=4,
    )  # fmt: skip
    with pytest.raises(SpecError, match="layer 7: the current placement breaks forbidden_pairs"):
        answer(request)
    assert answer(replace(request, max_moves=None)).moves == 2


def test_a_tolerance_sends_tokens_to_fewer_nodes_and_stays_within_it():
    routing = clustered_routing(1500, 16, 3, 3, seed=1)[None]
    counts = np.bincount(routing.ravel(), minlength=16)[None]
    request = Request(measured(counts, routing=routing), Machine(4, 5, num_nodes=2), options=QUICK)
    plain, traded = answer(request), answer(replace(request, balance_tolerance=0.1))
    assert traded.max_over_mean <= plain.max_over_mean * 1.1 * (1 + 1e-9)
    assert traded.layers[0].nodes_per_token < plain.layers[0].nodes_per_token
    assert traded.layers[0].nodes_per_token_before == plain.layers[0].nodes_per_token_before
    assert traded.bound == plain.bound
    pairs = np.zeros((1, 16, 16))
    for token in routing[0].tolist():
        for one in token:
            for other in token:
                pairs[0, one, other] += one != other
    same = answer(
        replace(request, measured=measured(counts, coactivation=pairs), balance_tolerance=0.1)
    )
    assert same.layers[0].slots.tolist() == traded.layers[0].slots.tolist()
    assert same.layers[0].nodes_per_token is None


BASE = Request(measured(np.ones((2, 4)), (3, 4)), Machine(4, 2, num_nodes=2), options=QUICK)
NOW = ExpertMap(np.array([[0, 1, 2, 3, 3, 2, 1, 0]] * 2), (3, 4))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"machine": Machine(3, 1)}, "3 slots for 4 experts; expected at least 6 on 3 GPUs"),
        ({"machine": Machine(2, 5)}, "5 slots per GPU for 4 experts: .* at most 8 slots"),
        (
            {"machine": Machine(4, 3, num_nodes=2), "rules": Rules(distinct_nodes=True)},
            "12 slots: the rules allow at most 8, 2 per expert",
        ),
        ({"rules": Rules(num_groups=3)}, "3 groups: expected as many experts in each"),
        (
            {
                "measured": measured(np.ones((1, 6))),
                "machine": Machine(3, 2, num_nodes=3),
                "rules": Rules(num_groups=2),
            },
            "2 groups: .* as many groups on each of 3 nodes",
        ),
        ({"rules": Rules(forbidden_pairs=((1, 1),))}, "forbidden pair 1,1: .* of 0 to 3"),
        ({"rules": Rules(forbidden_pairs=((0, 4),))}, "forbidden pair 0,4"),
        ({"max_moves": 1}, "a limit on moves needs the current placement"),
        (
            {"current": NOW, "max_moves": 1, "rules": Rules(num_groups=2)},
            "a limit on moves and groups of experts",
        ),
        (
            {"current": NOW, "max_moves": 1, "balance_tolerance": 0.1},
            "a limit on moves and a balance tolerance",
        ),
        ({"current": ExpertMap(NOW.slots, (4, 5))}, "has no layer 3, which has loads"),
        ({"current": NOW, "machine": Machine(4, 1)}, "has 8 slots, but 4 are asked for"),
        ({"current": ExpertMap(NOW.slots % 3, (3, 4))}, "not every expert"),
        ({"current": ExpertMap(NOW.slots + 1, (3, 4))}, "an expert that there is not"),
        ({"hold_out": 1}, "1 of 1 window held out; expected at least one to plan on"),
        ({"balance_tolerance": 0.1}, "needs routing or coactivation"),
        (
            {
                "balance_tolerance": 0.1,
                "machine": Machine(4, 2),
                "measured": measured(np.ones((1, 4)), coactivation=np.ones((1, 4, 4))),
            },
            "needs several nodes",
        ),
        (
            {"measured": measured([[[1, 1], [0, 0]], [[1, 1], [1, 1]]]), "hold_out": 1,
             "machine": Machine(2, 1)},
            "layer 1: all loads of the windows that are planned on are 0",
        ),
        (
            {"measured": measured([[[1, 1]], [[0, 0]]]), "hold_out": 1, "machine": Machine(2, 1)},
            "all loads of the 1 window held out are 0",
        ),
    ],
)  # fmt: skip
def test_a_request_without_an_answer_is_refused(changes, said):
    with pytest.raises(SpecError, match=said):
        answer(replace(BASE, **changes))


def test_the_request_that_the_refused_ones_are_made_from_has_an_answer():
    assert answer(replace(BASE, current=NOW, max_moves=1)).is_proved


def test_place_takes_arrays_and_the_fewest_slots_that_hold_all_experts():
    found = place([[4, 1, 3, 2, 2]], num_gpus=2, options=QUICK)
    assert found.request.machine.num_slots == 6
    assert found.max_over_mean == pytest.approx(1.0)
    rules = Rules(forbidden_pairs=((0, 1),))
    now = found.expert_map.slots
    again = place(
        [[4, 1, 3, 2, 2]], num_gpus=2, num_slots=6, rules=rules, options=QUICK, current=now
    )
    assert again.moves is not None
    assert all(not {0, 1} <= set(row) for row in again.layers[0].slots.reshape(2, 3).tolist())
    assert place(np.ones((3, 2, 4)), num_gpus=2, num_slots=8, num_nodes=2).is_proved


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loads": [[1, -1, 1, 1]]}, "loads: layer 0, expert 1: found -1"),
        ({"loads": [[1, 1, 1, 1], [0, 0, 0, 0]]}, "layer 1: all loads are 0"),
        ({"num_gpus": 0}, "expected at least 1 of each"),
        ({"num_slots": 5}, "5 slots on 2 GPUs: expected as many on each"),
        ({"num_slots": -4}, "expected at least 1 of each"),
        ({"current": [0, 1, 2, 3]}, "current placement"),
        ({"current": [[0, 1, 2, 3]] * 2}, "current placement"),
        ({"current": [[0, 1, 2, -3]]}, "an expert that there is not"),
        ({"current": [[0, 1, 2, 4]]}, "an expert that there is not"),
        ({"current": [[0, 1, 2, 2]]}, "not every expert"),
        ({"max_moves": -1, "current": [[0, 1, 2, 3]]}, "moves"),
    ],
)
def test_place_refuses_arrays_that_do_not_fit(changes, said):
    with pytest.raises(SpecError, match=said):
        place(**{"loads": [[1, 1, 1, 1]], "num_gpus": 2, "options": QUICK, **changes})
