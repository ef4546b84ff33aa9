"""Leads and errors in words."""

from dataclasses import replace

import pytest

from autopar.calibration.cases import NAMES
from autopar.report import certainty
from autopar.results import Doubt, Measurement, Move, Robustness, RunnerUp
from autopar.specs import CostFactors

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
                "400 tokens/s, found; no other layout beats 500 tokens/s, proven; the plan leads "
                "by 10 %"
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


STAYS = Move(0.8, "stays", 0.0)
WINS = Move(1.25, "changes", 0.02, 1.1, DEGREES, ("TPOT over limit",))


def robust(slower):
    doubts = (Doubt("gemm", 1.25, STAYS, slower),)
    settles = Measurement("gemm", 1.1, 0.427, ("matrix products of 8 rows",))
    skipped = {"host": "no engine is named"}
    return Robustness(doubts, skipped, settles if slower.flip is not None else None)


STAYS_SAID = "the layout stays the best wherever one of these costs alone is in its band, proven"


def test_ends_of_a_band_that_are_alike_share_a_row():
    found = robust(replace(STAYS, factor=1.25))
    assert certainty.robust_rows(found, is_moe=False) == [("gemm", "x 0.8 to x 1.25", "stays", "")]
    assert certainty.robust_notes(found, None) == [
        STAYS_SAID,
        "host was not moved: no engine is named",
    ]


def test_a_layout_that_stays_and_is_not_told_apart_is_one_sentence():
    verdict = certainty.robust_notes(robust(replace(STAYS, factor=1.25)), FOUND)[0]
    assert verdict.startswith(f"{STAYS_SAID}; yet it leads its runner-up by 10 %, within the error")
    assert verdict.endswith(
        "(20 %): several costs that are off together, which were not moved, "
        "can turn the two around, so that they are not told apart"
    )
    far = replace(FOUND, lead=0.5)
    verdict = certainty.robust_notes(robust(replace(STAYS, factor=1.25)), far)[0]
    assert verdict == (
        f"{STAYS_SAID}; it leads its runner-up by 50 %, more than the error of such predictions "
        "(20 %)"
    )
    alone = replace(FOUND, degrees=None, value=None, bound=None, lead=None)
    verdict = certainty.robust_notes(robust(replace(STAYS, factor=1.25)), alone)[0]
    assert verdict.endswith("no other layout satisfies the spec, so that none is to be told apart")
    assert certainty.robust_notes(robust(WINS), FOUND)[0].startswith(
        "the layout does not stay the best wherever one cost is in its band: gemm; and it leads"
    )


def test_a_lead_that_hangs_on_the_fabric_is_held_against_no_error():
    found = replace(FOUND, lead=0.58, band=None, over_fabric=True)
    said = certainty.runner_up(found, is_moe=True)
    assert "the plan leads by 58 %, which hangs on collectives over the fabric that nobody" in said
    verdict = certainty.robust_notes(robust(replace(STAYS, factor=1.25)), found)[0]
    assert verdict.startswith(f"{STAYS_SAID}; that it leads its runner-up by 58 % hangs on")


@pytest.mark.parametrize(
    ("overtakes", "lead", "said"),
    [(1.2, 0.1, "from x 1.2 on"), (None, 0.1, "not in the band"), (None, None, "")],
)
def test_where_the_runner_up_overtakes_is_a_column(overtakes, lead, said):
    found = robust(replace(STAYS, factor=1.25, lead=lead))
    doubts = (replace(found.doubts[0], overtakes=overtakes),)
    [row] = certainty.robust_rows(replace(found, doubts=doubts), is_moe=False)
    assert row[3] == said


def test_every_kind_of_cost_is_timed_or_known_not_to_be():
    """calibrate times products, experts, attention, copies and collectives inside one node."""
    untimed = {"point_to_point", "host", "fabric_collectives"}
    assert set(certainty._TIMED) | untimed == set(CostFactors.model_fields)
    operations = " ".join([*NAMES, *NAMES["collectives"]])
    for kind in certainty._TIMED:
        assert {"gather": "all_gather"}.get(kind, kind) in operations


@pytest.mark.parametrize(
    ("kind", "way"),
    [("gemm", "autopar calibrate times it on your GPUs; or --set"), ("host", "Then: --set")],
)
def test_where_no_cost_decides_the_one_that_takes_most_of_the_lead_is_named(kind, way):
    found = robust(replace(STAYS, factor=1.25))
    settles = Measurement(kind, None, None, ("something of 8 rows",), 1.25, 0.03)
    doubts = (replace(found.doubts[0], kind=kind),)
    notes = certainty.robust_notes(replace(found, doubts=doubts, settles=settles), None)
    assert notes[1] == (
        f"to be surer measure {kind}: something of 8 rows. No single cost decides, and this one "
        f"takes most of the lead over the runner-up: at x 1.25 3 % is left. {way} "
        f"cost_factors.{kind}=MEASURED/PREDICTED"
    )


def test_a_change_names_the_winner_the_loss_and_what_would_settle_it():
    rows = certainty.robust_rows(robust(WINS), is_moe=False)
    assert rows[1] == (
        "",
        "x 1.25",
        (
            "from x 1.1 on TP8 x PP2 wins; at x 1.25 the plan's layout loses 2 %; with the batch "
            "of the plan: TPOT over limit"
        ),
        "",
    )
    (_, settles, _) = certainty.robust_notes(robust(WINS), None)
    assert settles == (
        "to settle it measure gemm: matrix products of 8 rows. At 1.1 times what is predicted "
        "another layout wins, 42.7 % of the way to the x 1.25 that is possible. autopar "
        "calibrate times it on your GPUs; or --set cost_factors.gemm=MEASURED/PREDICTED"
    )


def test_a_layout_that_has_no_batch_left_is_named():
    rows = certainty.robust_rows(robust(replace(WINS, regret=None, breaks=())), is_moe=False)
    assert rows[1][2].endswith("at x 1.25 no batch of the plan's layout will do")
