"""Two kinds of blocks side by side: counted as they are laid out, and laid out whole."""

import math
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
    node = draw(st.integers(1, 8))
    domain = node * draw(st.integers(1, 3))
    num_gpus = draw(st.integers(domain, 30))
    sizes = [node, domain, num_gpus]
    group, stage = sorted((draw(st.sampled_from(sizes)), draw(st.sampled_from(sizes))))
    if draw(st.booleans()):
        return Topology(num_gpus, group, stage, num_gpus, num_gpus)  # no links are charged
    return Topology(num_gpus, group, stage, node, domain, draw(st.booleans()))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(topologies(), st.data())
def test_two_kinds_fit_if_and_only_if_what_they_take_does_not_overlap(
    topology: Topology, data: st.DataObject
) -> None:
    kinds = []
    for _ in range(2):
        tp, etp, times = (data.draw(st.integers(1, 4)) for _ in range(3))
        size = math.lcm(tp, etp) * times
        needs = topology.footprint(tp, 1, etp, size)
        most = int(topology.num_stages(needs))
        if most == 0:
            return
        kinds.append((needs, data.draw(st.integers(1, most)), size))
    (first, num_first, _), (last, num_last, size) = kinds
    from_first = int(topology.taken_from_the_first(first, np.array(num_first)))
    from_last = int(topology.taken_from_the_last(last, np.array(num_last)))
    blocks = topology.stage_gpus(first, num_first)
    assert from_first == 1 + max(gpu for block in blocks for gpu in block)
    try:
        others = topology.stage_gpus(last, num_last, after=from_first)
    except ValueError:
        assert from_first + from_last > topology.num_gpus
        return
    assert from_first + from_last <= topology.num_gpus
    gpus = [gpu for block in others for gpu in block]
    assert min(gpus) >= from_first
    assert len(set(gpus)) == num_last * size
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
