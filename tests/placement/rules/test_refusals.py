"""The arrays that the local search asks say what `check` says after the change."""

import numpy as np
import pytest

from autopar.placement.board import Board
from autopar.placement.machine import NO_RULES, LayerTask, Machine, Rules
from autopar.placement.rules import broken

CASES = {
    "none": (Machine(3, 2), NO_RULES),
    "forbidden pairs": (Machine(3, 2), Rules(forbidden_pairs=((0, 1), (2, 3)))),
    "distinct nodes": (Machine(4, 2, num_nodes=2), Rules(distinct_nodes=True)),
    "three nodes": (Machine(3, 2, num_nodes=3), Rules(distinct_nodes=True)),
    "both": (Machine(4, 2, num_nodes=2), Rules(True, ((0, 1), (2, 3)))),
}


@pytest.fixture(params=CASES)
def task(request):
    machine, rules = CASES[request.param]
    return LayerTask(np.array([5.0, 4.0, 3.0, 2.0, 1.0]), machine, rules)


@pytest.fixture
def lawful(task, boards):
    """Some of the placements that keep the rules: all of them where they are few."""
    found = [np.array(board).ravel() for board in boards(task)]
    assert found
    return found[:: max(1, len(found) // 30)]


def test_a_swap_is_refused_if_and_only_if_it_breaks_a_rule(task, lawful):
    kept = refused = 0
    for slots in lawful:
        board = Board(task.load, slots, task.machine, task.rules)
        num_gpus, per_gpu = board.experts.shape
        for gpu in range(num_gpus):
            no = board.refused_there(gpu) | board.refused_here(gpu)
            for place, other, spot in np.ndindex(per_gpu, num_gpus, per_gpu):
                if gpu == other or board.experts[gpu, place] == board.experts[other, spot]:
                    continue  # changes nothing
                then = slots.reshape(num_gpus, per_gpu).copy()
                then[gpu, place], then[other, spot] = then[other, spot], then[gpu, place]
                assert no[place, other, spot] == bool(broken(task, then.ravel()))
                refused += no[place, other, spot]
                kept += not no[place, other, spot]
    assert kept
    assert refused


def test_a_further_replica_is_refused_if_and_only_if_it_breaks_a_rule(task, lawful):
    kept = refused = 0
    for slots in lawful:
        board = Board(task.load, slots, task.machine, task.rules)
        no = board.refused_copies(np.arange(len(task.load)))
        for expert, gpu, place in np.ndindex(*no.shape):
            gone = board.experts[gpu, place]
            if gone == expert or board.counts[gone] == 1:
                continue
            then = board.experts.copy()
            then[gpu, place] = expert
            assert no[expert, gpu, place] == bool(broken(task, then.ravel()))
            refused += no[expert, gpu, place]
            kept += not no[expert, gpu, place]
    assert refused
    assert kept
