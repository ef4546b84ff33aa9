"""Time of one collective: a start, a latency per step, bytes over a bandwidth.

`size_bytes` is what one GPU holds, in the sense that each function states. A group of one GPU, and
a message of no bytes, take no time. The level of the network follows from the group's size alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from autopar.costs.operations.arrays import FloatArray, real
from autopar.errors import SpecError
from autopar.specs import Cluster

# AIC below is the repository ai-dynamo/aiconfigurator at commit 095f58a5 (Apache-2.0).
COLLECTIVE_START_US = 4.6  # AIC h100_sxm NCCL 2.29.2 all-reduce of 512 bytes: 6.18 us on 2 GPUs and
#                            15.59 on 8; a ring has 2(n-1) steps, so 0.78 a step and 4.6 at no step
LINK_FRACTION = 0.70  # AIC h100_sxm NCCL 2.29.2 all-to-all, 8 GPUs, 512 MiB: 315 of 450 GB/s

_US_PER_S = 1e6


@dataclass(frozen=True, slots=True)
class LinkRates:
    """Bandwidth per GPU and direction, latency of one message; arrays that broadcast."""

    bandwidth_bytes_per_s: FloatArray
    latency_us: FloatArray


def link_of(cluster: Cluster, group_gpus: ArrayLike) -> LinkRates:
    """Link that a group of `group_gpus` GPUs talks over, by its size alone.

    At most a node: the node link; at most a domain: the domain link; else the fabric. The whole
    message is charged to that level, also the part that stays inside.
    Raises SpecError if the cluster states no links.
    """
    links = cluster.links
    if links is None:
        raise SpecError(
            f"cluster.links: missing for cluster {cluster.name!r}; expected node, domain and "
            "fabric, which cost_model 'analytic' needs"
        )
    size = np.asarray(group_gpus)
    levels = (links.node, links.domain, links.fabric)
    level = np.where(size <= cluster.gpus_per_node, 0, np.where(size <= cluster.domain_gpus, 1, 2))
    bandwidth = np.array([link.bandwidth_bytes_per_s for link in levels])
    latency = np.array([link.latency_us for link in levels])
    return LinkRates(real(bandwidth[level]), real(latency[level]))


def all_reduce_us(size_bytes: ArrayLike, num_gpus: ArrayLike, link: LinkRates) -> FloatArray:
    """Time of a ring all-reduce; size_bytes: the tensor that every GPU holds before and after.

    2(n-1) steps of 1/n of the tensor each.
    Source: Thakur et al. 2005, "Optimization of Collective Communication Operations", sec. 4.
    """
    n = real(num_gpus)
    return _time_us(2.0 * (n - 1), 2.0 * (n - 1) / n, size_bytes, n, link)


def all_gather_us(size_bytes: ArrayLike, num_gpus: ArrayLike, link: LinkRates) -> FloatArray:
    """Time of a ring all-gather; size_bytes: the whole tensor that every GPU holds afterwards.

    n-1 steps of 1/n of the tensor each. Source: Thakur et al. 2005, sec. 4.
    """
    n = real(num_gpus)
    return _time_us(n - 1, (n - 1) / n, size_bytes, n, link)


def all_to_all_us(size_bytes: ArrayLike, num_parts: ArrayLike, link: LinkRates) -> FloatArray:
    """Time of an all-to-all; size_bytes: what the busiest GPU sends or receives, own share too.

    num_parts: places that rows go to; 1/n of them stay at home. The latency grows with log2(n), as
    measured (AIC h100_sxm: 7.4 us for 512 bytes on 8 GPUs with NCCL 2.29.2; 20, 26 and 28 us at no
    bytes on 16, 32 and 64 GPUs with DeepEP), the bytes as in pairwise exchange.
    Source: Thakur et al. 2005, sec. 4.
    """
    n = real(num_parts)
    return _time_us(np.ceil(np.log2(n)), (n - 1) / n, size_bytes, n, link)


def point_to_point_us(size_bytes: ArrayLike, link: LinkRates) -> FloatArray:
    """Time of one message from one GPU to another."""
    return _time_us(1.0, 1.0, size_bytes, 2.0, link)


def _time_us(
    steps: ArrayLike,
    share: ArrayLike,
    size_bytes: ArrayLike,
    num_gpus: ArrayLike,
    link: LinkRates,
) -> FloatArray:
    rate = LINK_FRACTION * link.bandwidth_bytes_per_s
    transfer_us = real(share) * real(size_bytes) / rate * _US_PER_S
    time_us = COLLECTIVE_START_US + real(steps) * link.latency_us + transfer_us
    return real(np.where((real(num_gpus) > 1) & (real(size_bytes) > 0), time_us, 0.0))
