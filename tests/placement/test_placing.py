"""The whole placement of a layer: lawful, proved, and no worse than the rule of EPLB."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autopar.errors import InfeasibleError
from autopar.placement import lawful
from autopar.placement.every import best_of_all, can_try_all
from autopar.placement.fold import can_fold, folded
from autopar.placement.greedy import greedy_rule
from autopar.placement.machine import LayerTask, Machine, Rules, gpu_loads
from autopar.placement.options import Options
from autopar.placement.placing import placed
from autopar.placement.starts import has_twins
from autopar.placement.synthetic import made_up

EXACT = Options(tolerance=0.0, rounds=5, exact_s=5.0)


def is_possible(task):
    """Whether the counts of slots alone rule nothing out; a request with others is refused."""
    most = task.rules.most_replicas(task.machine) * len(task.load)
    return len(task.load) <= task.machine.num_slots <= most


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_small_layer_gets_the_optimum_and_its_proof(
    small_layers, optimum, keeps, fullest_of, data
):
    task = data.draw(small_layers(speeds=data.draw(st.booleans())))
    (layer,) = placed(task.load[None], task.machine, task.rules, EXACT)
    best = optimum(task)
    assert keeps(layer.slots, task)
    board = layer.slots.reshape(task.machine.num_gpus, -1).tolist()
    assert layer.max_load == pytest.approx(fullest_of(board, task), rel=1e-12)
    assert layer.max_load == pytest.approx(best, rel=1e-5)
    assert layer.bound <= best * (1 + 1e-12)
    assert layer.bound == pytest.approx(best, rel=1e-5)


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_rules_are_kept_and_proved_and_impossible_ones_are_said_to_be(
    small_layers, optimum, keeps, data
):
    task = data.draw(small_layers(ruled=True, speeds=data.draw(st.booleans())))
    assume(is_possible(task))
    best = optimum(task)
    if best is None:
        with pytest.raises(InfeasibleError):
            placed(task.load[None], task.machine, task.rules, EXACT)
        return
    (layer,) = placed(task.load[None], task.machine, task.rules, EXACT)
    assert keeps(layer.slots, task)
    assert layer.max_load == pytest.approx(best, rel=1e-5)
    assert layer.bound <= best * (1 + 1e-12)


@given(st.data(), st.sampled_from(["quick", "normal"]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_bound_holds_at_every_effort(small_layers, optimum, data, effort):
    task = data.draw(small_layers())
    options = Options(rounds=2, effort=effort, seed=data.draw(st.integers(0, 3)))
    (layer,) = placed(task.load[None], task.machine, task.rules, options)
    best = optimum(task)
    assert layer.bound <= best * (1 + 1e-12)
    assert best <= layer.max_load * (1 + 1e-12)
    assert layer.bound <= layer.max_load


def proves_that_twins_were_needed(task, reached):
    """Whether no lawful placement has as little load as one with twins."""
    if can_try_all(task):
        slots = best_of_all(task)[None]
        return gpu_loads(task.load[None], slots, task.machine).max() > reached
    return can_fold(task) and folded(task)[1] > reached


@pytest.mark.parametrize("effort", ["quick", "normal"])
@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_it_is_never_worse_than_the_rule_of_eplb(small_layers, effort, data):
    task = data.draw(small_layers())
    options = Options(effort=effort)
    (layer,) = placed(task.load[None], task.machine, task.rules, options)
    rule = greedy_rule(task.load[None], task.machine)
    theirs = float(gpu_loads(task.load[None], rule, task.machine).max())
    if layer.max_load > theirs * (1 + 1e-12):
        assert has_twins(rule, task.machine).all()
        assert effort == "quick" or proves_that_twins_were_needed(task, theirs)


@pytest.mark.parametrize("kind", ["mild", "lognormal", "heavy", "zipf", "dirichlet"])
@pytest.mark.parametrize(
    ("experts", "gpus", "per_gpu"), [(32, 8, 4), (32, 8, 5), (32, 16, 3), (16, 8, 3), (24, 24, 2)]
)
def test_larger_layers_are_lawful_proved_and_no_worse_than_the_rule_of_eplb(
    kind, experts, gpus, per_gpu, keeps
):
    loads, machine = made_up(kind, 3, experts, 5), Machine(gpus, per_gpu)
    layers = placed(loads, machine, options=Options(effort="quick", rounds=3))
    rule = greedy_rule(loads, machine)
    theirs = gpu_loads(loads, rule, machine).max(axis=1)
    for load, layer, reached, twins in zip(
        loads, layers, theirs, has_twins(rule, machine), strict=True
    ):
        assert keeps(layer.slots, LayerTask(load, machine))
        again = gpu_loads(load[None], layer.slots[None], machine).max()
        assert layer.max_load == pytest.approx(again)
        assert load.sum() / gpus <= layer.bound * (1 + 1e-12)
        assert layer.bound <= layer.max_load
        assert twins or layer.max_load <= reached * (1 + 1e-12)


def test_the_same_seed_gives_the_same_placement():
    loads, machine = made_up("heavy", 2, 24, 1), Machine(8, 4)
    one, two = (placed(loads, machine, options=Options(rounds=5, seed=3)) for _ in range(2))
    assert [layer.slots.tolist() for layer in one] == [layer.slots.tolist() for layer in two]


def test_layers_do_not_depend_on_one_another():
    loads, machine = made_up("lognormal", 3, 12, 2), Machine(4, 4)
    quick = Options(effort="quick")
    together = placed(loads, machine, options=quick)
    alone = [placed(load[None], machine, options=quick)[0] for load in loads]
    for one, other in zip(together, alone, strict=True):
        assert one.slots.tolist() == other.slots.tolist()
        assert (one.max_load, one.bound, one.proof) == (other.max_load, other.bound, other.proof)


@pytest.mark.parametrize(
    ("rules", "machine", "conflict"),
    [
        (Rules(forbidden_pairs=((0, 1), (0, 2), (1, 2))), Machine(2, 2), "forbidden_pairs"),
        (Rules(True, ((0, 1), (0, 2), (0, 3))), Machine(4, 2, 2), "distinct_nodes"),
    ],
)
def test_rules_that_no_placement_keeps_are_named(rules, machine, conflict):
    with pytest.raises(InfeasibleError, match="no placement keeps the rules") as caught:
        placed(np.ones((1, 4)), machine, rules)
    assert conflict in caught.value.conflict


@pytest.mark.parametrize(
    ("load", "machine", "rules"),
    [
        ([12.0, 12.0, 13.0, 5.0, 14.0, 1.0], Machine(2, 3), Rules(True, ((2, 3), (1, 3), (4, 5)))),
        ([1.0, 2.0, 6.0, 1.0], Machine(2, 3), Rules(forbidden_pairs=((0, 1),))),  # other counts
    ],
)
def test_a_placement_that_packing_does_not_find_is_found_by_cp_sat(
    monkeypatch, keeps, optimum, load, machine, rules
):
    asked, inner = [], lawful.found_by_cp_sat
    monkeypatch.setattr(
        lawful, "found_by_cp_sat", lambda *given: asked.append(given) or inner(*given)
    )
    task = LayerTask(np.array(load), machine, rules)
    (layer,) = placed(task.load[None], machine, rules, EXACT)
    assert asked
    assert keeps(layer.slots, task)
    assert layer.max_load == pytest.approx(optimum(task), rel=1e-5)


def test_a_proof_says_what_it_rests_on():
    """Mean; 3 + 3 beside one another in two of three heavy experts; a rule."""
    even = placed(np.full((1, 4), 5.0), Machine(2, 2), options=EXACT)[0]
    assert (even.proof, even.gap) == ("mean or largest share", 0.0)
    rules = Rules(forbidden_pairs=((0, 3),))
    kept_apart = placed(np.array([[5.0, 4.0, 4.0, 1.0]]), Machine(2, 2), rules, EXACT)[0]
    assert kept_apart.proof == "cp-sat"
    assert kept_apart.max_load == 9.0
