"""What sizes of the other role tell of a box is true of every pair, and proves the best."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from autopar.disaggregated import sizes
from autopar.disaggregated.boxes import Bounded
from autopar.disaggregated.program import optimise_pair
from autopar.disaggregated.search import prepare_pair, sides_of
from autopar.disaggregated.sizes import reach
from autopar.disaggregated.task import PairTask, make_pair
from autopar.disaggregated.variables import PairVariables
from autopar.ortools_loader import load_cp_model
from autopar.problem import IntArray
from autopar.search import Vector
from autopar.segments import group_segments, segment_table
from autopar.specs import Scenario

Build = Callable[..., Scenario]
ORDERS = [
    ("throughput_per_gpu", "ttft", "tpot"),
    ("cost", "throughput", "ttft", "memory"),
    ("gpus", "throughput", "ttft"),
]
LIMITS = {"max_ttft_us": 800.0, "min_tokens_per_s": 4_000.0}
NONE_IDLE = {**LIMITS, "coverage": "every_gpu"}
RULE = "prefill.tp <= decode.tp"


def task_of(pair_scenario: Build, objectives: tuple[str, ...], **arguments: object) -> PairTask:
    given = {"num_layers": 3, "num_nodes": 3, "requirements": LIMITS, **arguments}
    return make_pair(pair_scenario(objectives=objectives, **given))


def singles(task: PairTask) -> list[Bounded]:
    """All candidates of both roles, each in a box of its own, and none of them looked at."""
    found = []
    for side in sides_of(task):
        boxes = side.start().boxes
        while not boxes.single.all():
            boxes = boxes.cut()
        found.append(side.bounded(boxes))
    return found


def kinds_of(task: PairTask, both: list[Bounded]) -> list[IntArray] | None:
    if task.compatibility is None:
        return None
    kinds, roles = task.compatibility.kinds, sides_of(task)
    return [
        of_role.of_rows(side.rows)[found.boxes.layout]
        for of_role, side, found in zip(kinds, roles, both, strict=True)
    ]


def vectors_of(task: PairTask, both: list[Bounded]) -> dict[tuple[int, int], Vector]:
    """The vectors of all pairs that hold, at their best loads, by the places of the two boxes."""
    prefill, decode = both
    kinds, found = kinds_of(task, both), {}
    for p, d in product(range(len(prefill)), range(len(decode))):
        if prefill.taken[p] + decode.taken[d] > task.problem.num_gpus:
            continue
        rules = task.compatibility
        if rules is not None and kinds and not rules.together[kinds[0][p], kinds[1][d]]:
            continue
        pair = prefill.values.row(p), decode.values.row(d)
        if not task.allows_gpus(pair[0].gpus + pair[1].gpus)[0]:
            continue
        if all(bool(c.may_hold(*pair)[0]) for c in task.pair):
            load = task.load(*pair)
            found[p, d] = tuple(int(o.oriented(*pair, load)[0]) for o in task.objectives)
    return found


@pytest.mark.parametrize("rules", [(), (RULE,)])
@pytest.mark.parametrize("objectives", ORDERS, ids="-".join)
@pytest.mark.parametrize("most", [3_000, 1])
@pytest.mark.parametrize("limits", [LIMITS, NONE_IDLE], ids=["up_to", "every_gpu"])
def test_no_pair_as_good_as_the_known_one_is_lost(
    pair_scenario: Build,
    monkeypatch: pytest.MonkeyPatch,
    objectives: tuple[str, ...],
    rules: tuple[str, ...],
    most: int,
    limits: dict[str, object],
) -> None:
    """With pairs of every quality as the known one; sizes each for itself, and all of them as one.

    The best of all leaves boxes out.
    """
    monkeypatch.setattr(sizes, "_MOST_PAIRS", most)
    task = task_of(pair_scenario, objectives, rules=rules, requirements=limits)
    both = singles(task)
    vectors = vectors_of(task, both)
    known_ones = sorted(set(vectors.values()))
    for known, role in product(known_ones[:: max(1, len(known_ones) // 8)], (0, 1)):
        left = reach(task, role, both, kinds_of(task, both), known)
        as_good = {pair: v for pair, v in vectors.items() if v <= known}
        place = {box: i for i, box in enumerate(left.place.tolist())}
        assert {pair[role] for pair in as_good} <= place.keys()
        for pair, vector in as_good.items():
            index = place[pair[role]]
            assert tuple(left.vectors[index].tolist()) <= vector
        if known == known_ones[0]:
            assert len(left.place) < len(both[role])


def test_where_no_gpu_may_idle_only_boxes_with_a_partner_for_the_rest_are_left(
    pair_scenario: Build,
) -> None:
    """Of 6 GPUs, 2 leave 4 and 4 leave 2, but none of 1, 2 and 4 is what 1 leaves."""
    rules = ("pp == 1", "replicas == 1")
    free = task_of(pair_scenario, ORDERS[0], requirements={}, rules=rules)
    limits = {"coverage": "every_gpu"}
    task = task_of(pair_scenario, ORDERS[0], requirements=limits, rules=rules)
    vectors = vectors_of(task, singles(task))
    worst = max(vectors.values())
    for role in (0, 1):
        both = singles(task)
        with_partner = {pair[role] for pair in vectors}
        left = set(reach(task, role, both, None, worst).place.tolist())
        assert with_partner <= left < set(reach(free, role, both, None, worst).place.tolist())


def test_a_range_of_replicas_has_the_gpus_of_each_number_in_it(pair_scenario: Build) -> None:
    task = task_of(pair_scenario, ORDERS[0], requirements={"coverage": "every_gpu"})
    both = singles(task)
    vectors = vectors_of(task, both)
    for role in (0, 1):
        ranges = sides_of(task)[1 - role].start()
        assert (ranges.boxes.most > ranges.boxes.fewest).any()
        beside = [both[0], ranges] if role == 0 else [ranges, both[1]]
        left = reach(task, role, beside, None, max(vectors.values()))
        assert {pair[role] for pair in vectors} <= set(left.place.tolist())


def test_only_numbers_of_gpus_that_a_pair_may_have_are_told_apart(pair_scenario: Build) -> None:
    """Each is a literal for each segment of the model: 27 of them took CP-SAT three minutes."""
    counts = {}
    for coverage in ("up_to", "every_gpu"):
        task = task_of(pair_scenario, ORDERS[1], requirements={"coverage": coverage})
        both = singles(task)
        rows = [
            s.candidates(f.boxes, f.boxes.fewest) for s, f in zip(sides_of(task), both, strict=True)
        ]
        tables = [
            [segment_table(r.problem, own.take(np.array([i])), ()) for i in range(len(own))]
            for r, own in zip(task.roles, rows, strict=True)
        ]
        pair = PairVariables(
            load_cp_model().CpModel(),
            [role.problem for role in task.roles],
            rows,
            [group_segments(of_role) for of_role in tables],
            range(95, 96),
            task.allows_gpus,
        )
        counts[coverage] = [count for count, _ in pair.gpu_counts]
    num_gpus = task.problem.num_gpus
    assert counts == {"up_to": list(range(2, num_gpus + 1)), "every_gpu": [num_gpus]}


@pytest.mark.parametrize("objectives", ORDERS[:2], ids="-".join)
def test_the_bound_of_each_box_is_reached_in_the_first_objective(
    pair_scenario: Build, objectives: tuple[str, ...]
) -> None:
    """With one stage and no limit on TTFT, so that the largest load is the same for all."""
    task = task_of(pair_scenario, (objectives[0], "throughput"), requirements={})
    both = [f.take(f.values.boundaries == 0) for f in singles(task)]
    vectors = vectors_of(task, both)
    worst = max(vectors.values())
    for role in (0, 1):
        left = reach(task, role, both, None, worst)
        for box, vector in zip(left.place.tolist(), left.vectors.tolist(), strict=True):
            assert vector[0] == min(v[0] for pair, v in vectors.items() if pair[role] == box)


@pytest.mark.parametrize(
    "objectives",
    [*ORDERS[:2], ("tpot", "throughput", "ttft"), ("memory", "throughput", "ttft")],
    ids="-".join,
)
def test_the_search_proves_the_best_pair_of_many_nodes(
    pair_scenario: Build, objectives: tuple[str, ...]
) -> None:
    """On 96 GPUs, where the rate of the largest partner on the GPUs of the smallest proves none."""
    task = task_of(
        pair_scenario,
        objectives,
        num_nodes=12,
        gpus_per_node=8,
        requirements=LIMITS | {"max_tpot_us": 300.0},
        work={"max_batch_sequences": 60},
    )
    prepared = prepare_pair(task)
    assert prepared.is_proven(3)


@pytest.mark.parametrize(("num_nodes", "rate"), [(3, 1e4), (6, 4e3), (6, 2e4)])
def test_the_search_proves_the_leanest_pair_of_a_rate(
    pair_scenario: Build, num_nodes: int, rate: float
) -> None:
    """The leanest of all splits may be too slow, and the fastest is not lean: neither was best."""
    task = task_of(
        pair_scenario,
        ("memory", "throughput", "ttft"),
        num_layers=5,
        num_nodes=num_nodes,
        requirements={"min_tokens_per_s": rate},
        work={"max_batch_sequences": 60},
    )
    assert prepare_pair(task).is_proven(3)


@pytest.mark.parametrize("order", ["gpus", "cost", "throughput_per_gpu", "traffic-gpus"])
def test_ties_that_are_too_many_leave_the_best_pair_where_no_gpu_may_idle(
    pair_scenario: Build, order: str
) -> None:
    """Boxes of one role were left whose partners sizes had ruled out: an IndexError."""
    objectives = tuple(order.split("-"))
    task = task_of(
        pair_scenario,
        objectives,
        num_nodes=2,
        gpus_per_node=4,
        requirements={"coverage": "every_gpu"},
        work={"max_batch_sequences": 60},
    )
    prepared = prepare_pair(task)
    assert prepared.incumbent is not None
    outcome = optimise_pair(task, prepared)
    assert outcome.status == "optimal"
    assert prepared.vector is not None
    assert task.oriented(outcome.vector or ()) <= prepared.vector


def test_where_no_box_reaches_the_known_pair_none_is_left(pair_scenario: Build) -> None:
    task = task_of(pair_scenario, ORDERS[0])
    left = reach(task, 0, singles(task), None, (-(10**12), 0, 0))
    assert left.place.shape == (0,)
    assert left.vectors.shape == left.columns.shape == (0, 3)
    assert left.place.dtype == np.int64
