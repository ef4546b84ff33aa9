"""Two kinds of blocks side by side: counted as they are laid out, and laid out whole."""

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.disaggregated.layout import unfold_pair
from autopar.disaggregated.program import optimise_pair
from autopar.disaggregated.search import prepare_pair
from autopar.disaggregated.task import make_pair
from autopar.specs import Scenario
from autopar.topology import Topology
from autopar.variables import PairChoice

Build = Callable[..., Scenario]


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    group = draw(st.integers(1, 8))
    stage = group * draw(st.integers(1, 3))
    num_gpus = draw(st.integers(1, 30))
    if draw(st.booleans()):
        return Topology(num_gpus, num_gpus, num_gpus)  # nothing is confined
    return Topology(num_gpus, group, stage)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(topologies(), st.data())
def test_two_kinds_fit_if_and_only_if_what_they_take_does_not_overlap(
    topology: Topology, data: st.DataObject
) -> None:
    kinds = []
    for _ in range(2):
        confined = topology.group_container < topology.num_gpus
        unit = data.draw(st.integers(1, 4)) if confined else 1
        block = unit * data.draw(st.integers(1, 4))
        most = int(topology.num_blocks(np.array([block]), np.array([unit]))[0])
        if most == 0:
            return
        kinds.append((block, unit, data.draw(st.integers(1, most))))
    first, last = (tuple(np.array([n]) for n in kind) for kind in kinds)
    from_first = int(topology.taken_from_the_first(*first)[0])
    from_last = int(topology.taken_from_the_last(*last)[0])
    blocks = topology.block_gpus(*kinds[0])
    assert from_first == 1 + max(gpu for block in blocks for gpu in block)
    try:
        others = topology.block_gpus(*kinds[1], after=from_first)
    except ValueError:
        assert from_first + from_last > topology.num_gpus
        return
    assert from_first + from_last <= topology.num_gpus
    gpus = [gpu for block in others for gpu in block]
    assert min(gpus) >= from_first
    assert len(set(gpus)) == kinds[1][0] * kinds[1][2]
    for block in others:
        assert len({gpu // topology.stage_container for gpu in block}) == 1


def test_decode_begins_in_a_whole_unit_after_prefill(pair_scenario: Build) -> None:
    """Nodes of 3 GPUs: groups of 2 cannot begin on the third one."""
    scenario = pair_scenario(
        num_nodes=2, gpus_per_node=3, rules=["tp == 2"],
        requirements={"tensor_parallel_within": "node"},
    )  # fmt: skip
    task = make_pair(scenario)
    outcome = optimise_pair(task, prepare_pair(task))
    assert isinstance(outcome.choice, PairChoice)
    plan = unfold_pair(task, outcome.choice, name="ours")
    assert plan.prefill.gpus == (((0, 1),),)
    assert plan.decode.gpus == (((3, 4),),)
    assert (plan.name, plan.num_gpus) == ("ours", 4)
