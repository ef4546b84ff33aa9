"""The rule of EPLB, against the example that its authors publish."""

import numpy as np
import pytest

from autopar.placement.greedy import greedy_rule
from autopar.placement.machine import Machine, gpu_loads, replica_counts

# deepseek-ai/EPLB (MIT), README.md: two layers of 12 experts, 16 replicas on 8 GPUs of 2 nodes.
WEIGHT = np.array(
    [
        [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
        [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ],
    dtype=float,
)
# The same README: its answer with 4 groups on 2 nodes.
GROUPED = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]
GROUPS_OF_NODES = [[{1, 2}, {0, 3}], [{2, 3}, {0, 1}]]  # of three experts each, as GROUPED has them


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("node", [0, 1])
def test_it_loads_gpus_as_the_published_answer_does(layer, node):
    """EPLB's groups lie on nodes; inside a node its rule is the one without groups.

    Loads, not experts: of layer 1, experts 8 (twice 172/2) and 9 (86) are equal, and EPLB leaves
    their order to its sort.
    """
    experts = np.array([3 * g + i for g in sorted(GROUPS_OF_NODES[layer][node]) for i in range(3)])
    load = WEIGHT[layer, experts]
    slots = greedy_rule(load[None], Machine(4, 2))
    published = np.searchsorted(experts, GROUPED[layer][8 * node : 8 * node + 8])[None]
    ours, theirs = (gpu_loads(load[None], row, Machine(4, 2))[0] for row in (slots, published))
    assert sorted(ours) == pytest.approx(sorted(theirs))
    if (layer, node) != (1, 0):
        held = [sorted(map(sorted, row.reshape(4, 2).tolist())) for row in (slots, published)]
        assert held[0] == held[1]


def test_replicas_are_those_of_the_published_rule_without_groups():
    """By hand: the four largest of 183, 165, 132, 104 (layer 0) and 197, 187, 172, 157 (layer 1)
    get one replica more each; no half of them is above the next load, 90 and 107.

    Then heaviest first on the idlest of 8 GPUs. Layer 0: 90, 91.5 and 86 twice ... the fullest
    GPU follows in `gpu_loads` from the slots, and is compared with a walk over single replicas.
    """
    slots = greedy_rule(WEIGHT, Machine(8, 2))
    counts = replica_counts(slots, 12)
    more = [np.flatnonzero(row == 2).tolist() for row in counts]
    assert more == [[1, 4, 5, 10], [5, 6, 7, 8]]
    for load, count, row in zip(WEIGHT, counts, slots, strict=True):
        order = sorted(
            ((load[e] / count[e], -e) for e in range(12) for _ in range(count[e])), reverse=True
        )
        gpus = [[] for _ in range(8)]
        for share, _ in order:
            free = [gpu for gpu in gpus if len(gpu) < 2]
            min(free, key=sum).append(share)
        expected = [sum(gpu) for gpu in gpus]
        found = gpu_loads(load[None], row[None], Machine(8, 2))[0]
        assert found.tolist() == pytest.approx(expected)


def test_two_replicas_of_an_expert_may_meet_on_a_gpu():
    """EPLB issue 22: 9 and 1 in four slots of two GPUs are 3, 3, 3, 1: two of the threes meet."""
    slots = greedy_rule(np.array([[9.0, 1.0]]), Machine(2, 2))
    assert slots.tolist() == [[0, 0, 0, 1]]
