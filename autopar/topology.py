"""Where groups and stages lie: in the containers (node, domain, cluster) that confine them.

Two things confine a group. A requirement may: tensor-parallel groups within a node, stages within
a domain. And where links are charged by the size of a group, the price has to be true: a group that
fits in a node lies in one, a group that fits in a domain lies in one, and a larger one lies evenly
over as few domains as can hold it. Groups are those of tp, of tp * cp and of etp GPUs, and a stage
with experts, whose all-to-all runs over all of it.

Groups of several sizes tile one stage, so a container hands out GPUs in multiples of all the sizes
that it confines: in *units* the inner containers, in *parts* of a stage the outer ones. A stage is
one part or several in a row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autopar.containers import Containers
from autopar.specs import Cluster, Scenario

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a stage needs of the containers: `parts` parts, cut from units; one entry per candidate.

    unit, part: in GPUs.
    """

    unit: IntArray
    part: IntArray
    parts: IntArray

    def take(self, index: IntArray) -> "Footprint":
        """Return the selected entries."""
        return Footprint(self.unit[index], self.part[index], self.parts[index])


@dataclass(frozen=True, slots=True)
class Topology:
    """Sizes of the containers that confine groups and stages, in GPUs.

    group_container, stage_container: those that requirements name.
    node, domain: those by whose size links are charged; the whole cluster where none are.
    stage_exchanges: whether a stage is a group too, that of the all-to-all of its experts.
    """

    num_gpus: int
    group_container: int
    stage_container: int
    node: int
    domain: int
    stage_exchanges: bool = True

    @classmethod
    def of(
        cls, cluster: Cluster, tensor_parallel_within: str, all_to_all_within: str
    ) -> "Topology":
        """Return the topology of a cluster under the two requirements (node, domain, cluster)."""
        stage, every = cluster.container_gpus(all_to_all_within), cluster.num_gpus
        group = min(cluster.container_gpus(tensor_parallel_within), stage)
        return cls(every, group, stage, node=every, domain=every)

    def charged(self, scenario: Scenario) -> "Topology":
        """Return the same with the containers by which the scenario's cost model charges links."""
        if scenario.cost_model == "declared":  # it knows no links
            return self
        cluster = scenario.cluster
        node = min(cluster.gpus_per_node, self.num_gpus)
        domain = min(max(cluster.gpus_per_node, cluster.domain_gpus), self.num_gpus)
        return replace(self, node=node, domain=domain, stage_exchanges=scenario.llm.is_moe)

    @property
    def charges_links(self) -> bool:
        """Whether links are charged by the size of a container that is not the whole cluster."""
        return self.node < self.num_gpus

    def of_groups(self) -> "Topology":
        """Return what prices alone demand of groups that are smaller than a stage."""
        every = self.num_gpus
        return replace(self, group_container=every, stage_container=every, stage_exchanges=False)

    def footprint(
        self, tp: ArrayLike, cp: ArrayLike, etp: ArrayLike, stage_gpus: ArrayLike
    ) -> Footprint:
        """Return what stages of `stage_gpus[i]` GPUs need, which groups of these degrees tile.

        What cannot lie as its price says gets a part that no container has room for.
        """
        stage = np.asarray(stage_gpus, dtype=np.int64)
        context = np.multiply(tp, cp, dtype=np.int64)
        within = self.stage_container
        confined = [
            (size, np.minimum(self._charged_as(size), self.group_container))
            for size in (np.asarray(tp, dtype=np.int64), np.asarray(etp, dtype=np.int64))
        ]
        confined.append((context, self._charged_as(context)))
        charged = [size for size, _ in confined]
        if self.stage_exchanges:
            charged.append(stage)
            confined.append((stage, np.minimum(self._charged_as(stage), within)))
        else:
            confined.append((stage, np.full_like(stage, within)))
        share, is_even = self._share(charged)
        confined.append((np.broadcast_to(share, stage.shape), np.full_like(stage, self.domain)))
        inner, outer = self._levels
        unit = self._multiple(confined, inner)
        part = stage if outer == self.num_gpus else self._multiple(confined, outer)
        part = np.where(is_even, part, self.num_gpus + 1)
        return Footprint(unit, part, np.maximum(stage // part, 1))

    def num_stages(self, needs: Footprint) -> IntArray:
        """Return how many stages the cluster has room for."""
        return self._containers.num_blocks(needs.part, needs.unit) // needs.parts

    def tiles(self, needs: Footprint) -> BoolArray:
        """Whether parts laid out in a row leave no GPU of any container over."""
        return self._containers.tiles(needs.part, needs.unit)

    def stage_gpus(self, needs: Footprint, count: int, after: int = 0) -> list[tuple[int, ...]]:
        """Return the GPU ids of the first `count` stages from GPU `after` on, in rank order.

        needs: of one candidate.
        Raises ValueError if the cluster does not hold that many.
        """
        part, unit, parts = int(needs.part), int(needs.unit), int(needs.parts)
        blocks = self._containers.block_gpus(part, unit, count * parts, after)
        if parts == 1:
            return blocks
        return [sum(blocks[i : i + parts], ()) for i in range(0, len(blocks), parts)]

    def taken_from_the_first(self, needs: Footprint, count: IntArray) -> IntArray:
        """GPUs from the first one of the cluster to the last of `count[i]` stages, in order.

        count: at least 1 and at most `num_stages`.
        """
        return self._containers.taken_from_the_first(needs.part, needs.unit, count * needs.parts)

    def taken_from_the_last(self, needs: Footprint, count: IntArray) -> IntArray:
        """GPUs from the last one of the cluster back to the first of `count[i]` stages."""
        return self._containers.taken_from_the_last(needs.part, needs.unit, count * needs.parts)

    def in_one_stage_container(self, first_gpu: IntArray, last_gpu: IntArray) -> BoolArray:
        """Whether two GPUs lie in one of the containers to which requirements confine stages."""
        return _in_one(self.stage_container, first_gpu, last_gpu)

    def row_is_as_charged(self, first_gpu: IntArray, stage_gpus: IntArray) -> BoolArray:
        """Whether stages of consecutive GPUs lie as their size is charged."""
        if not self.stage_exchanges:
            return np.ones(np.shape(first_gpu), dtype=np.bool_)
        last_gpu = first_gpu + stage_gpus - 1
        offset = self.row_offset(stage_gpus)
        whole = (offset >= 0) & ((first_gpu + offset) % self.domain == 0)
        in_domain = _in_one(self.domain, first_gpu, last_gpu)
        in_node = _in_one(self.node, first_gpu, last_gpu)
        far = np.where(stage_gpus <= self.domain, in_domain, whole)
        result: BoolArray = np.where(stage_gpus <= self.node, in_node, far)
        return result

    def row_offset(self, stage_gpus: IntArray) -> IntArray:
        """Return where in a row of GPUs over several domains a domain begins, if it is even.

        At its first GPU, where the row is whole domains; else at the half of two. -1: it cannot be.
        """
        is_whole = stage_gpus % self.domain == 0
        has_halves = (stage_gpus < 2 * self.domain) & (stage_gpus % 2 == 0)
        return np.where(is_whole, 0, np.where(has_halves, stage_gpus // 2, -1))

    @property
    def _levels(self) -> tuple[int, int]:
        """Sizes of the inner and of the outer containers: two at most are not the cluster."""
        sizes = {self.group_container, self.stage_container, self.node, self.domain}
        found = sorted(sizes - {self.num_gpus})
        assert len(found) <= 2, "node and domain are the only containers"
        inner, outer = (*found, self.num_gpus, self.num_gpus)[:2]
        return inner, outer

    @property
    def _containers(self) -> Containers:
        return Containers(self.num_gpus, *self._levels)

    def _charged_as(self, size: IntArray) -> IntArray:
        """Return the smallest container that a group fits in and that prices know."""
        larger = np.where(size <= self.domain, self.domain, self.num_gpus)
        return np.where(size <= self.node, self.node, larger)

    def _share(self, charged: Iterable[IntArray]) -> tuple[IntArray, BoolArray]:
        """Return the GPUs of each domain that groups over several take, 1 where there are none.

        And whether they are the same for all groups of a stage, and whole: else some lie unevenly.
        """
        share: IntArray = np.zeros((), dtype=np.int64)
        is_even: BoolArray = np.ones((), dtype=np.bool_)
        for size in charged:
            domains = -(-size // self.domain)
            each = size // domains
            same = (each * domains == size) & ((share == 0) | (share == each))
            is_even = is_even & ((domains == 1) | same)
            share = np.where(domains > 1, each, share)
        return np.maximum(share, 1), is_even

    def _multiple(self, confined: Sequence[tuple[IntArray, IntArray]], level: int) -> IntArray:
        """Return the least number of GPUs that all groups confined to a level tile together."""
        result = np.ones_like(confined[-1][0])
        if level < self.num_gpus:
            for size, within in confined:
                result = np.lcm(result, np.where(within <= level, size, 1))
        return result


def _in_one(size: int, first_gpu: IntArray, last_gpu: IntArray) -> BoolArray:
    same: BoolArray = first_gpu // size == last_gpu // size
    return same
