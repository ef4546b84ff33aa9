"""Time of one collective: a start, bytes over a bandwidth, and a bend between the two.

A group of n GPUs is n consecutive ones: inside a node, a scale-up domain, or over several; those
of a group with a stride lie so many GPUs apart. Every time is the best of a few ways to do the
collective, and each way has constants that depend on n alone, or on n and the stride; the former
are tabled once per cluster. A group of one GPU, and a message of no bytes, take no time; more bytes
never take less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from autopar.costs.operations.arrays import FloatArray, real
from autopar.costs.operations.assumed import ASSUMED_EXCHANGE
from autopar.costs.operations.device import AS_FITTED
from autopar.costs.operations.links import Collective, Fabric, Inside, Way
from autopar.errors import SpecError
from autopar.specs import Cluster, CostFactors, Engine
from autopar.specs.kernels import ExchangeFit


@dataclass(frozen=True, slots=True)
class Network:
    """The network of one cluster, as groups of GPUs see it."""

    inside: Inside
    fabric: Fabric
    exchange: tuple[ExchangeFit, ...]
    all_reduce: tuple[Way, ...]
    all_gather: tuple[Way, ...]
    reduce_scatter: tuple[Way, ...]
    factors: CostFactors = AS_FITTED
    slower_us: float = 0.0  # an all-reduce of the engine than the fastest one

    @classmethod
    def of(
        cls, cluster: Cluster, factors: CostFactors = AS_FITTED, engine: Engine | None = None
    ) -> Self:
        """Return the network of a cluster, with factors on its times, under an engine.

        Raises SpecError if the cluster states no links.
        """
        if cluster.links is None:
            raise SpecError(
                f"cluster.links: missing for cluster {cluster.name!r}; expected node, domain and "
                "fabric, which cost_model 'analytic' needs"
            )
        kernels = cluster.gpu.kernels
        fits = None if kernels is None else kernels.collectives
        inside = Inside.of(cluster, cluster.links, fits)
        fabric = Fabric(cluster.links.fabric, inside)
        return cls(
            inside=inside,
            fabric=fabric,
            exchange=(fits.exchange if fits is not None else ()) or ASSUMED_EXCHANGE,
            all_reduce=fabric.ways("all_reduce", cluster.num_gpus),
            all_gather=fabric.ways("all_gather", cluster.num_gpus),
            reduce_scatter=fabric.ways("reduce_scatter", cluster.num_gpus),
            factors=factors,
            slower_us=0.0 if engine is None else engine.all_reduce_us,
        )

    def all_reduce_us(
        self, size_bytes: ArrayLike, num_gpus: ArrayLike, stride: ArrayLike = 1
    ) -> FloatArray:
        """Time of an all-reduce; size_bytes: the tensor that every GPU holds before and after.

        stride: from one GPU of the group to the next, where they are not consecutive; as many
        groups lie between each other and work at once.

        Sources of the formulas: Thakur et al. 2005, "Optimization of Collective Communication
        Operations in MPICH", sec. 4; over several domains, reduce-scatter inside, all-reduce of
        the parts between them, all-gather inside.
        """
        if np.any(np.asarray(stride) > 1):
            time_us = self._apart_us("all_reduce", size_bytes, num_gpus, stride)
        else:
            time_us = _best_us(self.all_reduce, size_bytes, num_gpus)
        time_us = np.where(time_us > 0, time_us + self.slower_us, 0.0)
        return real(time_us * self._factor(self.factors.all_reduce, num_gpus, stride))

    def all_gather_us(
        self, size_bytes: ArrayLike, num_gpus: ArrayLike, stride: ArrayLike = 1
    ) -> FloatArray:
        """Time of an all-gather; size_bytes: the whole tensor that every GPU holds afterwards.

        stride: as for `all_reduce_us`.
        """
        if np.any(np.asarray(stride) > 1):
            time_us = self._apart_us("all_gather", size_bytes, num_gpus, stride)
        else:
            time_us = _best_us(self.all_gather, size_bytes, num_gpus)
        return real(time_us * self._factor(self.factors.gather, num_gpus, stride))

    def reduce_scatter_us(
        self, size_bytes: ArrayLike, num_gpus: ArrayLike, stride: ArrayLike = 1
    ) -> FloatArray:
        """Time of a reduce-scatter; size_bytes: the whole tensor that every GPU holds before.

        stride: as for `all_reduce_us`.
        """
        if np.any(np.asarray(stride) > 1):
            time_us = self._apart_us("reduce_scatter", size_bytes, num_gpus, stride)
        else:
            time_us = _best_us(self.reduce_scatter, size_bytes, num_gpus)
        return real(time_us * self._factor(self.factors.gather, num_gpus, stride))

    def all_to_all_us(
        self,
        size_bytes: ArrayLike,
        num_parts: ArrayLike,
        span_gpus: ArrayLike,
        copies: ArrayLike = 1.0,
    ) -> FloatArray:
        """Time of an all-to-all; size_bytes: what the busiest GPU sends or receives, own share too.

        num_parts: places that rows go to, spread evenly over span_gpus GPUs; 1/n of them stay at
        home. The part that leaves the scale-up domain goes over the fabric, while the rest moves
        inside. copies: rows of one token, which some ways send only once to each place.
        Source: DeepEP (github.com/deepseek-ai/DeepEP), normal and low-latency kernels.
        """
        size, parts, span = real(size_bytes), real(num_parts), real(span_gpus)
        domains = np.ceil(span / self.inside.unit_gpus)
        held = np.minimum(np.maximum(domains, 1.0), parts)  # domains with a place
        doublings = np.log2(held)
        leaving = size * (1.0 - 1.0 / held)
        staying = size * (1.0 / held - 1.0 / parts)
        link = self.inside.us_per_byte_of(span)
        best: FloatArray | None = None
        for way in self.exchange:
            out, near = leaving, staying
            if way.sends_once:
                out, near = out * _distinct(held, copies), near * _distinct(parts, copies)
            rounds = way.fabric_steps + way.doubling_steps * doublings
            start_us = way.start_us + np.where(held > 1, rounds * self.fabric.latency_us, 0.0)
            moved_us = np.maximum(
                near * (link / way.link_fraction),
                out * (self.fabric.us_per_byte / way.fabric_fraction),
            )
            time_us = start_us + moved_us
            best = time_us if best is None else np.minimum(best, time_us)
        assert best is not None  # there is always an assumed way
        return real(np.where((parts > 1) & (size > 0), best * self.factors.all_to_all, 0.0))

    def point_to_point_us(self, size_bytes: ArrayLike, span_gpus: ArrayLike) -> FloatArray:
        """Time of one message between two GPUs of a span of GPUs."""
        size, span = real(size_bytes), real(span_gpus)
        far = span > self.inside.unit_gpus
        start_us, per_byte = self.inside.message(span)
        far_start_us, far_per_byte = self.fabric.message()
        start_us = np.where(far, far_start_us, start_us)
        time_us = start_us + size * np.where(far, far_per_byte, per_byte)
        time_us = time_us * self.factors.point_to_point
        return real(np.where(size > 0, time_us, 0.0))

    def _factor(self, inside: float, num_gpus: ArrayLike, stride: ArrayLike) -> FloatArray:
        """Return the factor on collectives: another one where groups cross the fabric."""
        crosses = real(num_gpus) * real(stride) > self.inside.unit_gpus
        return real(np.where(crosses, self.factors.fabric_collectives, inside))

    def _apart_us(
        self, kind: Collective, size_bytes: ArrayLike, num_gpus: ArrayLike, stride: ArrayLike
    ) -> FloatArray:
        """Time of a collective in groups that are not consecutive, whose ways are not tabled."""
        arrays = np.broadcast_arrays(real(size_bytes), real(num_gpus), real(stride))
        size, group, step = (np.atleast_1d(array).ravel() for array in arrays)
        place = np.arange(len(size))
        times = [w.time_us(size, place) for w in self.fabric.apart(kind, group, step)]
        best = np.where((size > 0) & (group > 1), np.minimum.reduce(times), 0.0)
        return real(best.reshape(arrays[0].shape))


def _best_us(ways: Sequence[Way], size_bytes: ArrayLike, num_gpus: ArrayLike) -> FloatArray:
    size = real(size_bytes)
    group = np.asarray(num_gpus).astype(np.int64)
    best: FloatArray | None = None
    for way in ways:
        time_us = way.time_us(size, group)
        best = time_us if best is None else np.minimum(best, time_us)
    assert best is not None
    return real(np.where((size > 0) & (group > 1), best, 0.0))


def _distinct(places: FloatArray, copies: ArrayLike) -> FloatArray:
    """Return the share of `copies` rows of a token that go to different places of `places`."""
    c = np.maximum(real(copies), 1.0)
    return real(places * (1.0 - (1.0 - 1.0 / places) ** c) / c)
