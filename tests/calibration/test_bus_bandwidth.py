"""A measured bus bandwidth, and the link that explains it."""

import pytest

from autopar.calibration.bus_bandwidth import link_bandwidth, ring_bytes_per_s, with_bandwidth
from autopar.catalog import load_scenario
from autopar.costs.operations.collectives import Network

GIB = 2.0**30


@pytest.fixture(scope="module", params=["2xhgx-h100", "2x8-mi300x", "1xgb200-nvl72"])
def cluster(request):
    """One with measured collectives, one without, and one whose domain is several nodes."""
    parts = {"llm": "llama-3.1-8b", "cluster": request.param, "workload": "chat-4k-1k"}
    return load_scenario(parts=parts).cluster


def test_two_nodes_reach_what_their_ports_do():
    """2 x 15/16 of 8 GiB in 47.2 ms: 341 GB/s; 341 / 8 / 0.85 = 50.15 GB/s."""
    parts = {"llm": "llama-3.1-8b", "cluster": "2xhgx-h100", "workload": "chat-4k-1k"}
    cluster = load_scenario(parts=parts).cluster
    time_us = 2 * 15 / 16 * 8 * GIB / 341e9 * 1e6
    assert ring_bytes_per_s("all_reduce", 8 * GIB, 16, time_us) == pytest.approx(341e9)
    found = link_bandwidth(cluster, "fabric", "all_reduce", 8 * GIB, 16, time_us)
    assert found == pytest.approx(341e9 / 8 / 0.85)


@pytest.mark.parametrize("collective", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
@pytest.mark.parametrize("share", [0.4, 0.9, 1.3])
def test_the_link_gives_the_time_that_was_measured(cluster, collective, share):
    gpus = cluster.gpus_per_node
    truth = with_bandwidth(cluster, "node", share * cluster.links.node.bandwidth_bytes_per_s)
    network = Network.of(truth)
    if collective == "all_to_all":
        time_us = float(network.all_to_all_us(GIB, gpus, gpus))
    else:
        time_us = float(getattr(network, f"{collective}_us")(GIB, gpus))
    found = link_bandwidth(cluster, "node", collective, GIB, gpus, time_us)
    assert found == pytest.approx(truth.links.node.bandwidth_bytes_per_s, rel=1e-4)


def test_a_domain_of_one_node_has_the_link_of_the_node(cluster):
    changed = with_bandwidth(cluster, "node", 7e9).links
    is_one = cluster.domain_gpus <= cluster.gpus_per_node
    assert (changed.domain.bandwidth_bytes_per_s == 7e9) == is_one


def test_a_time_that_no_link_gives_has_none(cluster):
    assert link_bandwidth(cluster, "node", "all_reduce", 8.0, 4, 1e6) is None
    assert link_bandwidth(cluster, "node", "all_reduce", GIB, 4, 0.001) is None
    without = cluster.model_copy(update={"links": None})
    assert link_bandwidth(without, "node", "all_reduce", GIB, 4, 1e4) is None
