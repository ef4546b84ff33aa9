"""Where the groups of an explicit plan lie, against the sentence that says where they should."""

from collections import Counter
from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.problem import Plan, Stage
from autopar.spans import ill_placed
from autopar.specs import Scenario

Build = Callable[..., Scenario]


def plan_on(stage: Stage, *replicas: tuple[int, ...]) -> Plan:
    gpus = tuple((ids,) for ids in replicas)
    nothing = np.zeros((0, 5), dtype=np.int64)
    return Plan("p", "small-llm", "c", len(replicas), 1, (stage,), gpus, nothing, 0, 1)


def stage_of(tp: int, cp: int, attn_dp: int, etp: int) -> Stage:
    return Stage(0, (0, 1, 2, 3), tp, cp, attn_dp, tp * cp * attn_dp // etp, etp, 1)


def is_right(gpus: tuple[int, ...], width: int) -> bool:
    """Nodes of 4, domains of 8: inside the smallest that has room, else evenly over domains."""
    for start in range(0, len(gpus), width):
        group = gpus[start : start + width]
        homes = Counter(gpu // 8 for gpu in group)
        if width <= 4 and len({gpu // 4 for gpu in group}) > 1:
            return False
        if len(homes) > -(-width // 8) or len(set(homes.values())) > 1:
            return False
    return True


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(1, 2), st.integers(1, 5), st.booleans(), st.data())
def test_a_plan_is_ill_placed_where_one_of_its_groups_is(
    analytic_scenario: Build, tp: int, cp: int, attn_dp: int, is_moe: bool, data: st.DataObject
) -> None:
    scenario = analytic_scenario(num_experts=6 if is_moe else 0)
    size = tp * cp * attn_dp
    etp = data.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
    first = data.draw(st.integers(0, 63 - size))
    gpus = tuple(range(first, first + size))
    if data.draw(st.integers(0, 3)) == 0:
        gpus = tuple(data.draw(st.permutations(range(64)))[:size])
    widths = [tp] + [tp * cp] * (cp > 1) + [etp, size] * is_moe
    found = list(ill_placed(plan_on(stage_of(tp, cp, attn_dp, etp), gpus), scenario))
    assert bool(found) == (not all(is_right(gpus, width) for width in widths))


def test_the_first_group_is_named(analytic_scenario: Build) -> None:
    """Pairs (2, 3) and (4, 5) are whole, and a dense stage is no group; (3, 4) is torn."""
    scenario, stage = analytic_scenario(num_experts=0), stage_of(2, 1, 2, 2)
    assert list(ill_placed(plan_on(stage, (8, 9, 10, 11), (2, 3, 4, 5)), scenario)) == []
    (said,) = ill_placed(plan_on(stage, (8, 9, 10, 11), (1, 2, 3, 4)), scenario)
    assert said == ("replica 1 stage 0: a tp group of 2 GPUs fits in a node, but lies in several")


def test_a_stage_over_two_domains_has_half_of_it_in_each(analytic_scenario: Build) -> None:
    scenario, stage = analytic_scenario(), stage_of(1, 1, 12, 1)
    even, uneven = (*range(16, 22), *range(24, 30)), tuple(range(16, 28))
    assert list(ill_placed(plan_on(stage, even), scenario)) == []
    (said,) = ill_placed(plan_on(stage, even[:3], uneven), scenario)  # the first lists too few
    assert said == (
        "replica 1 stage 0: a stage of 12 GPUs does not lie evenly over 2 domains of 8 GPUs"
    )
    declared = scenario.model_copy(update={"cost_model": "declared"})  # charges no links
    assert list(ill_placed(plan_on(stage, uneven), declared)) == []
