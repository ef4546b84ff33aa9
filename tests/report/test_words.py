"""Numbers and layouts in words."""

import numpy as np
import pytest

from autopar.problem import PLACEMENT_COLUMNS, Plan, Stage
from autopar.report import words


def plan_with(num_experts=0, replicas=1, pp=1, tp=1, cp=1, attn_dp=1, ep=1, etp=1, spread=1):
    """A plan of these degrees, as far as words go."""
    stages = tuple(Stage(i, (i,), tp, cp, attn_dp, ep, etp, spread) for i in range(pp))
    placement = np.zeros((num_experts, len(PLACEMENT_COLUMNS)), dtype=np.int64)
    return Plan("p", "l", "c", replicas, pp, stages, (), placement)


@pytest.mark.parametrize(
    ("degrees", "text"),
    [
        ({"num_experts": 4, "attn_dp": 6, "ep": 2, "etp": 3},
         "TP1 x PP1 x attention DP6, experts EP2 x ETP3"),
        ({"num_experts": 4, "tp": 2, "pp": 8, "attn_dp": 32, "ep": 16, "etp": 2, "spread": 2},
         "TP2 x PP8 x attention DP32, experts EP16 x ETP2 x spread 2"),
        ({"num_experts": 4, "cp": 2, "ep": 2, "replicas": 3},
         "TP1 x PP1 x CP2 x replicas 3, experts EP2"),
        ({"num_experts": 4}, "TP1 x PP1"),
        ({"tp": 8, "pp": 2, "etp": 8}, "TP8 x PP2"),
        ({"tp": 2, "attn_dp": 2, "etp": 4, "replicas": 2},
         "TP2 x PP1 x attention DP2 x replicas 2"),
    ],
)  # fmt: skip
def test_the_headline_has_every_degree_above_one(degrees, text):
    """All before the comma multiply to the GPUs, those of the experts to the GPUs of a stage."""
    assert words.layout(plan_with(**degrees)) == text


def test_a_degree_in_which_stages_differ_varies():
    one, other = plan_with(tp=2).stages[0], plan_with(attn_dp=2).stages[0]
    plan = Plan("p", "l", "c", 1, 2, (one, other), (), np.zeros((0, 5), dtype=np.int64))
    assert words.layout(plan) == "TP varies x PP2 x attention DP varies"


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0, "0 %"),
        (1e-9, "<0.01 %"),
        (-1e-9, "-<0.01 %"),
        (0.00061, "0.061 %"),
        (0.125, "12.5 %"),
        (-0.5, "-50 %"),
        (12.0, "1,200 %"),
    ],
)
def test_percent_tells_zero_from_small(fraction, text):
    assert words.percent(fraction) == text


def test_difference_is_relative_and_empty_where_equal():
    assert words.difference(1.0, 1.0 + 1e-12) == ""
    assert words.difference(1.25, 1.0) == "+25 %"
    assert words.difference(0.0, 7.0) == "-100 %"
    assert words.difference(7.0, 0.0) == "+7"


def test_ranges_join_neighbours_and_count_what_they_cut():
    assert words.ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert words.ranges([]) == ""
    assert words.ranges(range(0, 200, 2)) == "0, 2, 4, 6, 8, ... 198 (100 in all)"


def test_quantities_carry_their_unit():
    assert words.quantity(None, "us") == "not stated"
    assert words.quantity(1.6e6, "us") == "1.60 s"
    assert words.quantity(39062500.0, "bytes") == "39.1 MB"
    assert words.quantity(7.0, "stage boundaries") == "7 stage boundaries"
    assert words.quantity(123456789.0, "GPUs") == "123,456,789 GPUs"


def test_an_interval_names_a_common_unit_once():
    assert words.interval((40.5e3, 61.5e3), "us") == "40.5 to 61.5 ms"
    assert words.interval((917e3, 2.97e6), "us") == "917 ms to 2.97 s"
    assert words.interval((14026.0, 21277.0), "tokens/s") == "14,026 to 21,277 tokens/s"
    assert words.interval(None, "us") == "no measurement like it"
