"""Leads and errors in words."""

from dataclasses import replace

import pytest

from autopar.report import certainty
from autopar.results import RunnerUp

DEGREES = {
    "replicas": 1, "pp": 2, "tp": 8, "cp": 1, "attn_dp": 1, "ep": 4, "etp": 2, "spread": 1,
}  # fmt: skip
FOUND = RunnerUp("throughput", "tokens/s", DEGREES, 500.0, 500.0, 0.1, 0.2, "throughput")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {},
            (
                "TP8 x PP2, experts EP4 x ETP2: 500 tokens/s; the plan leads by 10 %, within the "
                "error of such predictions (20 %): the two are not told apart"
            ),
        ),
        ({"band": 0.05}, "the plan leads by 10 %, more than the error of such predictions (5 %)"),
        ({"band": None}, "500 tokens/s; the plan leads by 10 %"),
        ({"lead": 0.0, "decides": "ttft"}, "500 tokens/s, as much as the plan; ttft decides"),
        ({"lead": 0.0, "decides": None}, "500 tokens/s; as good as the plan in every objective"),
        (
            {"degrees": None, "value": None, "band": None},
            "no other layout beats 500 tokens/s, proven; the plan leads by at least 10 %",
        ),
        (
            {"value": 400.0, "band": None},
            (
                "400 tokens/s, found; no other layout beats 500 tokens/s, proven; the plan leads by "
                "10 %"
            ),
        ),
        ({"bound": None}, "none: no other layout satisfies the spec"),
    ],
)
def test_a_runner_up_is_named_with_what_tells_it_apart(changes, said):
    assert certainty.runner_up(replace(FOUND, **changes), is_moe=True).endswith(said)


def test_a_pair_of_layouts_is_named_by_its_roles():
    pair = {"prefill": DEGREES, "decode": DEGREES | {"pp": 1}}
    said = certainty.layout(pair, is_moe=False)
    assert said == "prefill TP8 x PP2 + decode TP8 x PP1"
