"""Groups and stages in the containers that confine them, against every way to deal out ranks."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autopar.specs import Cluster, Gpu, Scenario
from autopar.topology import Topology


def cluster(num_nodes: int, per_node: int, per_domain: int | None) -> Cluster:
    return Cluster(
        name="c",
        gpu=Gpu(name="g", peak_flops_per_s=1e12, memory_bytes=1e9),
        num_nodes=num_nodes,
        gpus_per_node=per_node,
        gpus_per_domain=per_domain,
    )


LEVELS = ["node", "domain", "cluster"]


@dataclass(frozen=True)
class Case:
    """A cluster, what confines groups in it, and the degrees of a stage."""

    cluster: Cluster
    charged: bool
    exchanges: bool
    tensor: str
    stage: str
    tp: int
    cp: int
    etp: int
    stage_gpus: int

    @property
    def topology(self) -> Topology:
        topology = Topology.of(self.cluster, self.tensor, self.stage)
        topology = replace(topology, stage_exchanges=self.exchanges)
        if not self.charged:
            return topology
        most = self.cluster.num_gpus
        node, domain = self.cluster.gpus_per_node, self.cluster.domain_gpus
        return replace(topology, node=min(node, most), domain=min(max(node, domain), most))

    def is_right(self, gpus: tuple[int, ...]) -> bool:
        """Whether a stage of these GPUs, in rank order, lies as it should; read off the docs."""
        one = self.cluster
        within = {"node": one.gpus_per_node, "domain": one.domain_gpus, "cluster": one.num_gpus}
        groups = [(self.tp, self.tensor), (self.etp, self.tensor), (len(gpus), self.stage)]
        for width, level in groups:
            for group in runs(gpus, width):
                if len({gpu // within[level] for gpu in group}) > 1:
                    return False
        node, domain = one.gpus_per_node, max(one.gpus_per_node, one.domain_gpus)
        widths = [self.tp, self.tp * self.cp, self.etp] + [len(gpus)] * self.exchanges
        for width in widths if self.charged else []:
            for group in runs(gpus, width):
                homes = Counter(gpu // domain for gpu in group)
                if width <= node and len({gpu // node for gpu in group}) > 1:
                    return False
                if len(homes) > -(-width // domain) or len(set(homes.values())) > 1:
                    return False
        return True


def runs(gpus: tuple[int, ...], width: int) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(gpus), width):
        yield gpus[start : start + width]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Up to 18 GPUs; the last domain may be partial, and domains smaller than nodes."""
    per_node = draw(st.integers(1, 4))
    shapes = [d for d in range(1, 9) if d % per_node == 0 or per_node % d == 0]
    num_nodes = draw(st.integers(1, 5))
    made = cluster(num_nodes, per_node, draw(st.sampled_from(shapes)))
    tp, cp, dp = draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(1, 6))
    stage = tp * cp * dp
    assume(stage <= made.num_gpus <= 18)
    etp = draw(st.sampled_from([size for size in range(1, stage + 1) if stage % size == 0]))
    return Case(
        made, draw(st.integers(0, 3)) > 0, draw(st.booleans()), draw(st.sampled_from(LEVELS)),
        draw(st.sampled_from(LEVELS)), tp, cp, etp, stage,
    )  # fmt: skip


def most_stages(case: Case) -> int:
    """Deal ranks out to cells, the smallest containers, in every way; pack what is right."""
    cell = min(case.cluster.gpus_per_node, case.cluster.domain_gpus)
    cells = case.cluster.num_gpus // cell
    assume(cells**case.stage_gpus <= 5_000)
    shapes = set()
    for dealt in product(range(cells), repeat=case.stage_gpus):
        counts = Counter(dealt)
        if max(counts.values()) > cell:
            continue
        if case.is_right(tuple(home * cell for home in dealt)):
            shapes.add(tuple(counts[home] for home in range(cells)))

    @cache
    def most(free: tuple[int, ...]) -> int:
        rests = (tuple(np.subtract(free, shape).tolist()) for shape in shapes)
        return max((1 + most(rest) for rest in rests if min(rest) >= 0), default=0)

    return most((cell,) * cells)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases())
def test_as_many_stages_are_counted_and_laid_out_as_fit_in_any_way(case: Case) -> None:
    topology = case.topology
    needs = topology.footprint(case.tp, case.cp, case.etp, case.stage_gpus)
    count = int(topology.num_stages(needs))
    assert count == most_stages(case)
    stages = topology.stage_gpus(needs, count)
    used = [gpu for gpus in stages for gpu in gpus]
    assert len(stages) == count
    assert len(used) == len(set(used)) == count * case.stage_gpus
    assert all(0 <= gpu < topology.num_gpus for gpu in used)
    assert all(case.is_right(gpus) for gpus in stages)
    with pytest.raises(ValueError, match="do not fit"):
        topology.stage_gpus(needs, count + 1)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases(), st.data())
def test_what_stages_take_from_either_end_is_what_they_are_laid_out_on(
    case: Case, data: st.DataObject
) -> None:
    topology = case.topology
    needs = topology.footprint(case.tp, case.cp, case.etp, case.stage_gpus)
    most = int(topology.num_stages(needs))
    assume(most)
    count = data.draw(st.integers(1, most))
    first = int(topology.taken_from_the_first(needs, np.array(count)))
    assert first == 1 + max(max(gpus) for gpus in topology.stage_gpus(needs, count))
    begin = topology.num_gpus - int(topology.taken_from_the_last(needs, np.array(count)))
    for gpus in topology.stage_gpus(needs, count, after=begin):
        assert min(gpus) >= begin
        assert case.is_right(gpus)
    with pytest.raises(ValueError, match="do not fit"):
        topology.stage_gpus(needs, count, after=begin + 1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cases())
def test_groups_laid_out_in_a_row_tile_where_every_one_of_them_lies_right(case: Case) -> None:
    alone = replace(case, exchanges=False, tensor="cluster", stage="cluster", charged=True)
    groups = case.topology.of_groups() if case.charged else alone.topology
    needs = groups.footprint(case.tp, case.cp, case.etp, case.stage_gpus)
    every = case.cluster.num_gpus
    assume(every % case.stage_gpus == 0)
    assert bool(groups.tiles(needs)) == all(
        alone.is_right(gpus) for gpus in runs(tuple(range(every)), case.stage_gpus)
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cases(), st.data())
def test_a_row_of_gpus_is_charged_as_a_stage_where_it_lies_right(
    case: Case, data: st.DataObject
) -> None:
    whole = replace(case, charged=True, exchanges=True, tensor="cluster", stage="cluster")
    whole = replace(whole, tp=1, cp=1, etp=1)
    domain = whole.topology.domain
    assume(case.stage_gpus <= 2 * domain or case.stage_gpus % domain == 0)
    first = data.draw(st.integers(0, case.cluster.num_gpus - case.stage_gpus))
    answer = whole.topology.row_is_as_charged(np.array([first]), np.array([case.stage_gpus]))
    assert answer.tolist() == [whole.is_right(tuple(range(first, first + case.stage_gpus)))]
    free = replace(whole, exchanges=False).topology
    assert free.row_is_as_charged(np.array([first]), np.array([case.stage_gpus])).all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(cases(), st.lists(st.tuples(*[st.integers(1, 3)] * 3), min_size=1, max_size=5))
def test_many_candidates_need_what_each_needs_alone(
    case: Case, several: list[tuple[int, int, int]]
) -> None:
    topology = case.topology
    rows = [(tp, cp, etp, tp * cp * etp) for tp, cp, etp in several]
    together = topology.footprint(*np.array(rows).T)
    counts = topology.num_stages(together)
    for index, row in enumerate(rows):
        alone, taken = topology.footprint(*row), together.take(np.array([index]))
        assert counts[index] == topology.num_stages(alone) == topology.num_stages(taken)[0]


def test_groups_of_4_on_nodes_of_6_leave_2_gpus_idle_in_each() -> None:
    charged = replace(Topology.of(cluster(3, 6, 6), "cluster", "cluster"), node=6, domain=6)
    needs = charged.footprint(tp=4, cp=1, etp=4, stage_gpus=4)
    assert int(charged.num_stages(needs)) == 3  # 4 of them, in a row, if links were not charged
    assert charged.stage_gpus(needs, 2) == [(0, 1, 2, 3), (6, 7, 8, 9)]


def test_stages_of_16_gpus_fit_four_times_in_a_domain_of_72() -> None:
    charged = replace(Topology.of(cluster(36, 4, 72), "cluster", "cluster"), node=4, domain=72)
    needs = charged.footprint(tp=1, cp=1, etp=1, stage_gpus=np.array([16, 64, 128, 100, 90]))
    # 128 GPUs are 64 of each domain; 100 are 50 of each; 90 are 45
    assert charged.num_stages(needs).tolist() == [8, 2, 1, 1, 1]
    (stage,) = charged.stage_gpus(charged.footprint(1, 1, 1, 128), 1)
    assert stage == (*range(64), *range(72, 136))


def test_a_stage_that_cannot_be_halved_has_no_place_in_two_domains() -> None:
    """12 GPUs in groups of 4 over domains of 8 would be 8 and 4; 9 GPUs are no two halves."""
    charged = replace(Topology.of(cluster(4, 4, 8), "cluster", "cluster"), node=4, domain=8)
    assert int(charged.num_stages(charged.footprint(4, 1, 4, 12))) == 0
    assert int(charged.num_stages(charged.footprint(1, 1, 1, 9))) == 0
    assert int(charged.num_stages(charged.footprint(3, 1, 1, 12))) == 1  # 6 and 6


def test_groups_over_several_domains_take_as_much_of_each_as_their_stage() -> None:
    """Domains of 3: groups of 4 take 2 of each, a stage of 12 takes 3 of each."""
    charged = replace(Topology.of(cluster(6, 3, 3), "cluster", "cluster"), node=3, domain=3)
    assert int(charged.num_stages(charged.footprint(4, 1, 1, 4))) == 3
    assert int(charged.num_stages(charged.footprint(1, 1, 1, 12))) == 1
    assert int(charged.num_stages(charged.footprint(4, 1, 1, 12))) == 0
    assert int(charged.num_stages(charged.footprint(6, 1, 1, 12))) == 1


@pytest.mark.parametrize(
    ("tensor", "stage", "expected"),
    [
        ("node", "domain", (4, 12)),
        ("node", "cluster", (4, 40)),
        ("domain", "node", (4, 4)),  # a group lies in its stage's container too
        ("cluster", "domain", (12, 12)),
        ("cluster", "cluster", (40, 40)),
    ],
)
def test_requirements_give_the_containers(
    tensor: str, stage: str, expected: tuple[int, int]
) -> None:
    topology = Topology.of(cluster(10, 4, 12), tensor, stage)
    assert (topology.group_container, topology.stage_container) == expected
    assert not topology.charges_links


def test_a_domain_larger_than_the_cluster_is_the_cluster() -> None:
    assert Topology.of(cluster(2, 4, 64), "domain", "domain") == Topology(8, 8, 8, 8, 8)


def test_a_cluster_without_domains_confines_to_nodes() -> None:
    assert Topology.of(cluster(3, 4, None), "domain", "domain") == Topology(12, 4, 4, 12, 12)


def test_only_costs_that_charge_links_confine_groups(
    analytic_scenario: Callable[..., Scenario],
) -> None:
    """Nodes of 4 in domains of 8; a stage without experts is no group."""
    for num_experts in (0, 6):
        scenario = analytic_scenario(num_experts=num_experts)
        free = Topology.of(scenario.cluster, "cluster", "cluster")
        charged = free.charged(scenario)
        assert (charged.node, charged.domain, charged.charges_links) == (4, 8, True)
        assert charged.stage_exchanges == bool(num_experts)
        declared = scenario.model_copy(update={"cost_model": "declared"})
        assert free.charged(declared) == free


def test_two_gpus_lie_in_one_stage_container_where_no_edge_is_between() -> None:
    topology = Topology.of(cluster(10, 4, 12), "node", "domain")
    first, last = np.array([0, 0, 11, 36]), np.array([11, 12, 12, 39])
    assert topology.in_one_stage_container(first, last).tolist() == [True, False, False, True]
