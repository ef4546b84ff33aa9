"""Measured bus bandwidth of a collective -> the link with which the cost model takes as long.

A link of a spec is what the wires can carry; the cost model reaches a share of it, which it knows
from measurements on other machines. Bus bandwidth is what one run reached. Put in the place of the
link it would be discounted twice, so the link is sought with which the model gives the measurement.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from autopar.costs.operations.arrays import FloatArray
from autopar.costs.operations.collectives import Network
from autopar.costs.operations.links import FABRIC_FRACTION
from autopar.specs import Cluster

Level = Literal["node", "domain", "fabric"]
Collective = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]

_TIMES: Mapping[Collective, Callable[[Network, float, int], FloatArray]] = {
    "all_reduce": lambda network, size, n: network.all_reduce_us(size, n),
    "all_gather": lambda network, size, n: network.all_gather_us(size, n),
    "reduce_scatter": lambda network, size, n: network.reduce_scatter_us(size, n),
    "all_to_all": lambda network, size, n: network.all_to_all_us(size, n, n),
}
_RANGE = 32.0  # times the link that is assumed, at most and at least
_STEPS = 40  # halvings: of 2 * log2(32) octaves to less than a millionth


def link_bandwidth(
    cluster: Cluster,
    level: Level,
    collective: Collective,
    size_bytes: float,
    num_gpus: int,
    time_us: float,
) -> float | None:
    """Return the bandwidth of a level, in bytes/s, that explains a measured time.

    Over the fabric a ring uses the ports of all GPUs of a node at once, and the share of them that
    the model reaches is a constant; everything else is sought. None if no link within 32 times
    the stated one gives that time: another level is what bounds it.
    """
    links = cluster.links
    if links is None:
        return None
    if level == "fabric" and collective != "all_to_all":
        return ring_bytes_per_s(collective, size_bytes, num_gpus, time_us) / (
            max(cluster.gpus_per_node, cluster.domain_gpus) * FABRIC_FRACTION
        )
    start = float(getattr(links, level).bandwidth_bytes_per_s)

    def takes_longer(bandwidth: float) -> bool:
        network = Network.of(with_bandwidth(cluster, level, bandwidth))
        return float(_TIMES[collective](network, size_bytes, num_gpus)) > time_us

    low, high = start / _RANGE, start * _RANGE
    if takes_longer(high) or not takes_longer(low):
        return None
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if takes_longer(middle) else (low, middle)
    return float((low * high) ** 0.5)


def ring_bytes_per_s(
    collective: Collective, size_bytes: float, num_gpus: int, time_us: float
) -> float:
    """Return the bus bandwidth of a collective: what every link of a ring carries.

    Source: NVIDIA/nccl-tests, doc/PERFORMANCE.md.
    """
    rounds = 2 if collective == "all_reduce" else 1
    return rounds * (num_gpus - 1) / num_gpus * size_bytes / (time_us * 1e-6)


def with_bandwidth(cluster: Cluster, level: Level, bandwidth: float) -> Cluster:
    """Return the cluster with another bandwidth of a level; a domain of one node has the node's."""
    assert cluster.links is not None
    levels: list[str] = [level]
    if level == "node" and cluster.domain_gpus <= cluster.gpus_per_node:
        levels.append("domain")
    links = {
        each: getattr(cluster.links, each).model_copy(update={"bandwidth_bytes_per_s": bandwidth})
        for each in levels
    }
    return cluster.model_copy(update={"links": cluster.links.model_copy(update=links)})
