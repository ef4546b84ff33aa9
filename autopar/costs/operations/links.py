"""Constants of every way to do a collective, by the size of the group.

Inside a scale-up domain they are measured (`kernels.collectives` of the GPU) or follow from the
link's bandwidth and latency; over several domains they are built from those inside and the fabric.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from autopar.costs.operations.arrays import FloatArray, real
from autopar.specs import Cluster, Link, Links
from autopar.specs.kernels import CollectiveFit, CollectivesFit

Collective = Literal["all_reduce", "all_gather", "reduce_scatter"]

# AIC below is the repository ai-dynamo/aiconfigurator at commit 095f58a5 (Apache-2.0).
COLLECTIVE_START_US = 4.6  # AIC h100_sxm NCCL 2.29.2 all-reduce of 512 bytes: 6.18 us on 2 GPUs and
#                            15.59 on 8; a ring has 2(n-1) steps, so 0.78 a step and 4.6 at no step
ONE_SHOT_START_US = 2.4  # AIC h100_sxm trtllm custom all-reduce of 256 bytes: 3.2 us on 8 GPUs, of
#                          which one latency of 0.78
LINK_FRACTION = 0.70  # AIC h100_sxm NCCL 2.29.2 all-to-all, 8 GPUs, 1 GiB: 315 of 450 GB/s
FABRIC_FRACTION = 0.85  # NCCL all-reduce on 2 nodes of 8 H100 with 400 Gbit/s per GPU: 341 of 400
#                         GB/s bus bandwidth (nanotron bench, median of 151 jobs); DeepEP: 0.92

_US_PER_S = 1e6
# Rounds in which every GPU sends 1/n of the tensor: reduce-scatter, all-gather, or both.
_HALVES: Mapping[Collective, float] = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}


@dataclass(frozen=True, slots=True)
class Way:
    """start + bytes x us_per_byte + bend_us x min(1, bytes / bend_bytes); arrays by group size."""

    start_us: FloatArray
    us_per_byte: FloatArray
    bend_us: FloatArray | None = None
    per_bend_byte: FloatArray | None = None

    def time_us(self, size_bytes: FloatArray, num_gpus: NDArray[np.int64]) -> FloatArray:
        """Return the time for messages of `size_bytes` in groups of `num_gpus`."""
        group = np.minimum(num_gpus, len(self.start_us) - 1)
        time_us = self.start_us[group] + size_bytes * self.us_per_byte[group]
        if self.bend_us is not None and self.per_bend_byte is not None:
            reached = np.minimum(size_bytes * self.per_bend_byte[group], 1.0)
            time_us = time_us + self.bend_us[group] * reached
        return real(time_us)


@dataclass(frozen=True, slots=True)
class Inside:
    """Nodes and scale-up domains; unit_gpus: GPUs of the larger of the two."""

    node_gpus: int
    unit_gpus: int
    node: Link
    domain: Link
    fits: CollectivesFit | None

    @classmethod
    def of(cls, cluster: Cluster, links: Links, fits: CollectivesFit | None) -> Self:
        """Return what is inside the domains of a cluster."""
        unit = max(cluster.gpus_per_node, cluster.domain_gpus)
        return cls(cluster.gpus_per_node, unit, links.node, links.domain, fits)

    def us_per_byte_of(self, num_gpus: FloatArray) -> FloatArray:
        """Return the time of a byte at full bandwidth, by the size of the group.

        A group over several domains has inside each of them the links of a whole domain.
        """
        node, domain = (_US_PER_S / link.bandwidth_bytes_per_s for link in (self.node, self.domain))
        return real(np.where(self._is_near(num_gpus), node, domain))

    def latency_us_of(self, num_gpus: FloatArray) -> FloatArray:
        """Return the latency of one message, by the size of the group."""
        near = self._is_near(num_gpus)
        return real(np.where(near, self.node.latency_us, self.domain.latency_us))

    def _is_near(self, num_gpus: FloatArray) -> NDArray[np.bool_]:
        return np.minimum(num_gpus, self.unit_gpus) <= self.node_gpus

    def message(self, span_gpus: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return start and time per byte of one message."""
        start_us = COLLECTIVE_START_US + self.latency_us_of(span_gpus)
        return start_us, self.us_per_byte_of(span_gpus) / LINK_FRACTION

    def ways(
        self, kind: Collective, num_gpus: FloatArray, stride: FloatArray | float = 1.0
    ) -> tuple[Way, ...]:
        """Return the ways to do a collective in groups of these sizes, all inside a domain."""
        n = np.maximum(num_gpus, 1.0)
        span = n * stride
        if self.fits is not None:
            scale = self.us_per_byte_of(span) * (self.fits.link_bandwidth_bytes_per_s / _US_PER_S)
            way = _measured(getattr(self.fits, kind), n, scale)
            small = self.fits.all_reduce_small
            if kind != "all_reduce" or small is None:
                return (way,)
            # Its bytes grow with the group, so that it does not carry over to larger ones.
            return way, _shut(_measured(small, n, scale), n > small.gpus[-1])
        latency_us, per_byte = self.latency_us_of(span), self.us_per_byte_of(span) / LINK_FRACTION
        halves = _HALVES[kind]
        start_us = COLLECTIVE_START_US + halves * (n - 1) * latency_us
        ring = Way(start_us, halves * (n - 1) / n * per_byte)
        if kind != "all_reduce":
            return (ring,)
        # Every GPU reads the whole tensor of all others: one step, more bytes; inside a node.
        one_shot = Way(ONE_SHOT_START_US + latency_us, (n - 1) * per_byte)
        return ring, _shut(one_shot, span > self.node_gpus)


@dataclass(frozen=True, slots=True)
class Fabric:
    """The network between scale-up domains: each GPU has its own share of it."""

    link: Link
    inside: Inside

    @property
    def latency_us(self) -> float:
        """Latency of one message."""
        return self.link.latency_us

    @property
    def us_per_byte(self) -> float:
        """Time of a byte at full bandwidth."""
        return _US_PER_S / self.link.bandwidth_bytes_per_s

    def message(self) -> tuple[float, float]:
        """Return start and time per byte of one message."""
        return COLLECTIVE_START_US + self.latency_us, self.us_per_byte / FABRIC_FRACTION

    def ways(self, kind: Collective, num_gpus: int) -> tuple[Way, ...]:
        """Return the ways to do a collective in groups of 0 to `num_gpus` GPUs."""
        n = np.arange(num_gpus + 1, dtype=np.float64)
        inside = self.inside.ways(kind, n)
        if num_gpus <= self.inside.unit_gpus:
            return inside
        outside = (self._ring(kind, n), self._nested(kind, n))
        near = n <= self.inside.unit_gpus
        return tuple(_either(near, inside[min(i, len(inside) - 1)], outside[i]) for i in range(2))

    def apart(self, kind: Collective, n: FloatArray, stride: FloatArray) -> tuple[Way, ...]:
        """Return the ways to do a collective in groups whose n GPUs stand `stride` apart.

        So many groups lie side by side and work at once, each over the ports of its own GPUs.
        """
        inside = self.inside.ways(kind, n, stride)
        outside = (self._ring(kind, n, stride), self._nested(kind, n, stride))
        near = n * stride <= self.inside.unit_gpus
        return tuple(_either(near, inside[min(i, len(inside) - 1)], outside[i]) for i in range(2))

    def _ring(self, kind: Collective, n: FloatArray, stride: FloatArray | float = 1.0) -> Way:
        """All GPUs in rings that cross the fabric over every GPU's own port at once."""
        domains, members = self._shape(n, stride)
        halves = _HALVES[kind]
        hops_us = (n - domains) * self.inside.latency_us_of(n * stride) + domains * self.latency_us
        inner = self.inside.us_per_byte_of(n * stride) / LINK_FRACTION
        outer = self.us_per_byte / (FABRIC_FRACTION * members)
        share = halves * (n - 1) / np.maximum(n, 1.0)
        return Way(COLLECTIVE_START_US + halves * hops_us, share * np.maximum(inner, outer))

    def _nested(self, kind: Collective, n: FloatArray, stride: FloatArray | float = 1.0) -> Way:
        """Inside the domains, and between them each GPU with its likes, over its own port."""
        domains, members = self._shape(n, stride)
        halves, share = _HALVES[kind], (domains - 1) / domains
        start_us = COLLECTIVE_START_US + halves * np.ceil(np.log2(domains)) * self.latency_us
        per_byte = halves * share / members * (self.us_per_byte / FABRIC_FRACTION)
        way = Way(start_us, per_byte)
        kinds: tuple[Collective, ...] = (kind,)
        if kind == "all_reduce":
            kinds = ("reduce_scatter", "all_gather")
        for part in kinds:
            way = _both(way, self.inside.ways(part, members, stride)[0], members > 1)
        return way

    def _shape(self, n: FloatArray, stride: FloatArray | float) -> tuple[FloatArray, FloatArray]:
        """Return domains of a packed group, and its GPUs in each of them."""
        domains = np.maximum(np.minimum(np.ceil(n * stride / self.inside.unit_gpus), n), 1.0)
        return domains, np.maximum(np.ceil(n / domains), 1.0)


def _measured(fit: CollectiveFit, n: FloatArray, scale: FloatArray) -> Way:
    """Return a measured way; between sizes linear in log2 n, beyond the largest as a ring grows."""
    logs, x = np.log2(real(fit.gpus)), np.log2(n)
    largest = float(fit.gpus[-1])
    ring = np.where(n > largest, (n - 1) / n * (largest / (largest - 1)), 1.0)
    slowness = _US_PER_S / real(fit.bandwidth_bytes_per_s)
    per_byte = np.interp(x, logs, slowness) * ring * scale
    start_us = _extended(x, logs, real(fit.start_us))
    if not fit.bend_us:
        return Way(start_us, per_byte)
    bend_bytes = np.exp2(np.interp(x, logs, np.log2(real(fit.bend_bytes))))
    return Way(start_us, per_byte, _extended(x, logs, real(fit.bend_us)) * scale, 1.0 / bend_bytes)


def _shut(way: Way, where: NDArray[np.bool_]) -> Way:
    """Return a way that never is the best one in some groups."""
    return replace(way, start_us=np.where(where, np.inf, way.start_us))


def _extended(x: FloatArray, knots: FloatArray, values: FloatArray) -> FloatArray:
    """Interpolate, and go on beyond the last knot as between the last two, never downwards."""
    inside = np.interp(x, knots, values)
    if len(knots) == 1:
        return real(inside)
    slope = max(float(values[-1] - values[-2]), 0.0) / float(knots[-1] - knots[-2])
    return real(inside + slope * np.maximum(x - knots[-1], 0.0))


def _either(first: NDArray[np.bool_], one: Way, other: Way) -> Way:
    """Return `one` where `first` holds, else the other."""
    start_us = np.where(first, one.start_us, other.start_us)
    per_byte = np.where(first, one.us_per_byte, other.us_per_byte)
    if one.bend_us is None and other.bend_us is None:
        return Way(start_us, per_byte)
    (bend_us, rate), (other_bend_us, other_rate) = _bend(one), _bend(other)
    return Way(
        start_us,
        per_byte,
        np.where(first, bend_us, other_bend_us),
        np.where(first, rate, other_rate),
    )


def _both(one: Way, other: Way, applies: NDArray[np.bool_]) -> Way:
    """Return one way after the other, where it applies; of two bends the later counts for both."""
    start_us = one.start_us + np.where(applies, other.start_us, 0.0)
    per_byte = one.us_per_byte + np.where(applies, other.us_per_byte, 0.0)
    if one.bend_us is None and other.bend_us is None:
        return Way(start_us, per_byte)
    (bend_us, rate), (other_bend_us, other_rate) = _bend(one), _bend(other)
    rate = np.where(rate > 0, np.minimum(rate, other_rate), other_rate)
    return Way(start_us, per_byte, bend_us + np.where(applies, other_bend_us, 0.0), rate)


def _bend(way: Way) -> tuple[FloatArray, FloatArray]:
    """Return the bend of a way, of height 0 where it has none."""
    if way.bend_us is None or way.per_bend_byte is None:
        return np.zeros_like(way.start_us), np.zeros_like(way.start_us)
    return way.bend_us, way.per_bend_byte
