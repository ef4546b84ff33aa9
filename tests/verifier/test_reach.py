"""What groups are charged is what they span: hand-placed plans against the network's own prices."""

from dataclasses import replace

import numpy as np
import pytest

from autopar.plans import plan_from_spec
from autopar.specs import PlanSpec
from autopar.verifier import verify_plan
from autopar.verifier.layout import layout_of
from autopar.verifier.metrics import measure
from autopar.verifier.question import question
from autopar.verifier.reach import Reach, reaches

TOKENS = 48  # sequences of one attention group in decode
WIDTH = 1000 * 2  # bytes of one token


def on_gpus(scenario, degrees, *replicas):
    """Return a plan of one stage of all 4 layers, and its tick in each replica, us."""
    spec = PlanSpec.model_validate({
        "name": "plan", "llm": "small-llm",
        "degrees": {"pp": 1, "replicas": len(replicas), **degrees},
        "stages": [{"index": 0, "layers": [0, 1, 2, 3], "gpus": list(replicas[0])}],
        "replicas": [{"index": i, "stages": [list(ids)]} for i, ids in enumerate(replicas)],
    })  # fmt: skip
    plan = plan_from_spec(spec, scenario)
    loads = measure(scenario, plan, layout_of(plan, 4)).loads
    return plan, loads.tick_us[:, 0]


def test_a_tensor_group_over_two_nodes_pays_the_links_between_them(analytic_scenario):
    """Nodes of 4 in domains of 8: two sums of every layer, and the gather of the logits, differ.

    In a node 4 GPUs take links of 400 GB/s and 1 us; over two nodes 200 GB/s and 2 us, over two
    domains the fabric. Twice 4 apart is 8 GPUs: a domain; twice 8 is two domains.
    """
    scenario = analytic_scenario(num_experts=0, requirements={"coverage": "up_to"})
    network = question(scenario).network
    (near,), (far,), (farthest,) = (
        on_gpus(scenario, {"tp": 2}, gpus)[1] for gpus in ([0, 1], [3, 4], [7, 8])
    )
    sizes = (TOKENS * WIDTH, TOKENS * 5003 * 2)
    near_us, far_us, farthest_us = (
        8 * network.all_reduce_us(sizes[0], 2, apart) + network.all_gather_us(sizes[1], 2, apart)
        for apart in (1, 4, 8)
    )
    assert near_us < far_us < farthest_us
    assert far - near == pytest.approx(float(far_us - near_us))
    assert farthest - near == pytest.approx(float(farthest_us - near_us))


def test_only_the_replica_that_straddles_is_slower(analytic_scenario):
    scenario = analytic_scenario(num_experts=0, requirements={"coverage": "up_to"})
    plan, ticks = on_gpus(scenario, {"tp": 2}, [0, 1], [7, 8], [4, 5])
    assert ticks[0] == ticks[2] < ticks[1]
    (note,) = verify_plan(scenario, plan).notes
    assert note.startswith("1 tp group in several domains, though one of 8 GPUs has room")


def test_a_replica_that_follows_the_first_is_charged_where_it_lies_itself(analytic_scenario):
    scenario = analytic_scenario(requirements={"coverage": "up_to"})
    degrees = {"tp": 1, "attn_dp": 2, "ep": 2, "etp": 1}
    plan, ticks = on_gpus(scenario, degrees, [0, 1], [7, 8])
    assert ticks[0] < ticks[1]
    following = replace(plan, placement=plan.placement[plan.placement[:, 2] == 0])
    loads = measure(scenario, following, layout_of(following, 4)).loads
    assert loads.tick_us[:, 0].tolist() == ticks.tolist()


@pytest.mark.parametrize(
    ("gpus", "domains"),
    [(range(6, 9), 2), ((0, 8, 16), 3), (range(3), 1)],
)
def test_an_exchange_of_a_stage_over_domains_crosses_the_fabric(gpus, domains, analytic_scenario):
    """Two exchanges in each of 4 layers: all that a stage of 3 GPUs spans is 1, 2 or 3 domains."""
    scenario = analytic_scenario(requirements={"coverage": "up_to"})
    degrees = {"tp": 1, "attn_dp": 3, "ep": 3, "etp": 1}
    network = question(scenario).network
    (base,), (tick,) = (on_gpus(scenario, degrees, ids)[1] for ids in ([0, 1, 2], gpus))
    spans = (3, domains * 8 if domains > 1 else 3)
    rows = 16 * 2  # a third of the sequences, with two experts each
    near_us, far_us = (2 * 4 * network.all_to_all_us(rows * WIDTH, 3, span, 2) for span in spans)
    assert tick - base == pytest.approx(float(far_us - near_us))


def test_shards_and_context_ranks_have_a_reach_of_their_own(analytic_scenario):
    scenario = analytic_scenario(requirements={"coverage": "up_to", "max_context_parallel_size": 2})
    degrees = {"tp": 1, "cp": 2, "attn_dp": 3, "ep": 3, "etp": 2}
    plan, _ = on_gpus(scenario, degrees, [0, 1, 2, 4, 5, 6])
    found, which = reaches(scenario.cluster, plan.stages[0], layout_of(plan, 4), 0)
    assert found == [Reach(tensor=1, context=7.5, shards=7.5, stage=6)]  # (2, 4): two nodes
    assert which.tolist() == [0]
    straight, _ = on_gpus(scenario, degrees, [0, 1, 2, 3, 4, 5])
    found, _ = reaches(scenario.cluster, straight.stages[0], layout_of(straight, 4), 0)
    assert found == [Reach.of(straight.stages[0])]


@pytest.mark.parametrize(
    "degrees",
    [
        {"tp": 1, "cp": 2, "attn_dp": 2, "ep": 2, "etp": 1, "spread": 2},
        {"tp": 1, "cp": 1, "attn_dp": 4, "ep": 2, "etp": 2, "spread": 1},
    ],
)
def test_context_ranks_and_shards_in_two_nodes_are_slower(degrees, analytic_scenario):
    """The same GPUs, two in each of two nodes: pairs that are whole and pairs that are torn."""
    scenario = analytic_scenario(requirements={"coverage": "up_to", "max_context_parallel_size": 2})
    (whole,), (torn,) = (
        on_gpus(scenario, degrees, gpus)[1] for gpus in ([0, 1, 4, 5], [0, 4, 1, 5])
    )
    assert whole < torn


def test_a_stage_that_lies_unevenly_over_domains_is_noted(analytic_scenario):
    scenario = analytic_scenario(requirements={"coverage": "up_to"})
    degrees = {"tp": 1, "attn_dp": 12, "ep": 6, "etp": 2}
    (note,) = verify_plan(scenario, on_gpus(scenario, degrees, range(12))[0]).notes
    assert note == "1 stage unevenly over 2 domains of 8 GPUs: equal parts are charged"
    even = (*range(6), *range(8, 14))
    assert verify_plan(scenario, on_gpus(scenario, degrees, even)[0]).notes == ()
    wide = (*range(4), *range(8, 12), *range(16, 20))
    notes = verify_plan(scenario, on_gpus(scenario, degrees, wide)[0]).notes
    assert notes == (
        "1 stage in more than 2 domains of 8 GPUs, which have room: all of them are charged",
    )
    assert np.all(on_gpus(scenario, degrees, wide)[1] > on_gpus(scenario, degrees, even)[1])
