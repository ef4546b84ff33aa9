"""The audit of the document's claims, by recomputation: change a claim and its verdict changes."""

import re
from dataclasses import replace

import pytest

from autopar.catalog import load_plan, load_scenario
from autopar.errors import SpecError
from autopar.plans import plan_from_spec
from autopar.specs import Claim, PlanSpec
from autopar.verifier import verify_plan
from autopar.verifier.reasons import times

DOCUMENT = load_plan("ep16-tp2-pp8").model_copy(update={"cluster": None})
CLAIMS = {claim.name: claim for claim in DOCUMENT.claims}
NOT_REPRODUCED = {
    "ep-tp-pp": "wrong",
    "peak-throughput": "wrong",
    "utilised-throughput": "wrong",
    "flops-per-token": "not derivable",
    "memory-per-gpu": "not derivable",
    "memory-share": "not derivable",
}
STATED = {
    "declared.kv_cache_bytes_per_gpu": 20e9,
    "declared.activation_bytes_per_gpu": 3e9,
    "declared.reserved_bytes_per_gpu": 4e9,
}


@pytest.fixture
def verdict(document_scenario):
    """Audit one claim against the document's plan; keywords change the claim."""

    def audit(claim, changes=None, degrees=None, **fields):
        scenario = document_scenario(changes)
        spec = DOCUMENT
        if degrees is not None:
            document = {"name": "plan", "llm": spec.llm, "degrees": degrees}
            spec = PlanSpec.model_validate(document)
        if isinstance(claim, str):
            claim = CLAIMS[claim]
        claim = Claim.model_validate({**claim.model_dump(), **fields})
        plan = plan_from_spec(spec, scenario)
        return verify_plan(scenario, plan, [claim]).verdicts[0]

    return audit


@pytest.mark.parametrize("name", CLAIMS)
def test_document_claim_has_its_verdict(verdict, name):
    found = verdict(name)
    assert found.name == name
    assert found.says == CLAIMS[name].says
    assert found.verdict == NOT_REPRODUCED.get(name, "reproduced")
    assert found.why


@pytest.mark.parametrize("name", CLAIMS)
def test_changed_claim_has_another_verdict(verdict, name):
    claim, before = CLAIMS[name], verdict(name)
    value = not claim.value if isinstance(claim.value, bool) else claim.value * 1.5 + 7
    after = verdict(name, value=value)
    assert after.verdict == "wrong"
    assert (before.verdict, before.factor, before.why) != (after.verdict, after.factor, after.why)


@pytest.mark.parametrize(
    ("name", "value", "right", "factor"),
    [("peak-throughput", 480_000, 480, 1000), ("utilised-throughput", 120_000, 120, 1000)],
)
def test_unit_slip_is_named_and_the_right_number_is_reproduced(verdict, name, value, right, factor):
    found = verdict(name)
    assert found.factor == pytest.approx(factor)
    assert f"{value:,} is right in tokens/s, not in tokens/ms" in found.why
    assert found.recomputed == f"{right} tokens/ms"
    assert verdict(name, value=right).verdict == "reproduced"
    assert verdict(name, unit="tokens/s").verdict == "reproduced"
    assert "unit slip" not in verdict(name, value=value * 1.1).why


def test_missing_factor_of_ep_tp_pp_is_the_spread(verdict):
    found = verdict("ep-tp-pp")
    assert found.recomputed == "256 GPUs"
    assert found.factor == 2
    assert "missing factor 2: spread = 2" in found.why
    assert verdict("ep-tp-pp", derivation="ep * tp * pp * spread").verdict == "reproduced"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("weights", 40, "off by a factor of 2"),
        ("ttft", 3.2, "off by a factor of 2"),
        ("parts", 256, "off by a factor of 1/2"),
        ("tensor-groups", 512, "off by a factor of 2"),
        ("stage-time", 800, "off by a factor of 4"),
        ("parts", 511.9, "off by a factor of 1/1.000195"),
        ("ttft", 3.2001, "off by a factor of about 2"),
    ],
)
def test_changed_number_is_off_by_a_factor_and_no_degree_is_blamed(verdict, name, value, why):
    assert verdict(name, value=value).why == why


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"metric": "num_gpus", "derivation": "ep * pp * spread", "value": 512},
         "missing factor 2: possibly etp = 2 or tp = 2 ("),
        ({"metric": "num_gpus", "derivation": "256", "value": 512},
         "missing factor 2: possibly etp = 2 or spread = 2 or tp = 2 ("),
        ({"metric": "num_gpus", "derivation": "gpus_per_expert * ep * pp", "value": 512},
         "missing factor 2: spread = 2 ("),
        ({"metric": "ttft_us", "derivation": "pp * stage_time_us / 2", "value": 1.6, "unit": "s"},
         "missing factor 2: layers_per_stage = 2 ("),
        ({"metric": "ttft_us", "derivation": "stage_time_us", "value": 1.6, "unit": "s"},
         "missing factor 8: pp = 8 ("),
        ({"metric": "weight_bytes", "derivation": "num_parameters", "value": 20, "unit": "GB"},
         "off by a factor of 2"),
        ({"metric": "max_ttft_us", "derivation": "max_ttft_us / 8", "value": 10, "unit": "s"},
         "off by a factor of 8"),
        ({"metric": "num_gpus", "derivation": "ep * tp * pp * spread * 2", "value": 512},
         "off by a factor of 1/2"),
        ({"metric": "idle_gpus", "derivation": "num_gpus", "value": 0}, "idle_gpus is 0"),
    ],
)  # fmt: skip
def test_degree_is_blamed_where_the_derivation_with_it_gives_the_metric(verdict, fields, why):
    found = verdict(Claim.model_validate({"name": "claim", **fields}))
    assert found.verdict == "wrong"
    assert found.why.startswith(f"{fields['derivation']} gives ")
    assert f"; {why}" in found.why


def test_derivation_without_a_metric_blames_no_degree(verdict):
    assert verdict("ep-tp-pp", metric=None).why == "off by a factor of 2"


@pytest.mark.parametrize(
    ("name", "value", "unit", "right"),
    [
        ("peak-throughput", 480_001, "tokens/ms", "tokens/s"),
        ("peak-throughput", 476_000, "tokens/ms", "tokens/s"),
        ("ttft", 1605, "s", "ms"),
    ],
)
def test_unit_slip_is_recognised_when_the_number_is_slightly_off(verdict, name, value, unit, right):
    why = verdict(name, value=value, unit=unit).why
    expected = f"{value:,} is about right in {right}, not in {unit}; wrong by about 1,000"
    assert why == f"unit slip: {expected}"
    assert "unit slip" not in verdict(name, value=value * 1.02, unit=unit).why


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (2.0, "2"), (0.5, "1/2"), (1 / 3, "1/3"), (1000.002, "about 1,000"),
        (1 / 1000.002, "about 1/1,000"), (1.5, "1.5"), (1.00019, "1.00019"), (-2.0, "-2"),
        (1234.56, "about 1,235"), (1e300, "1e+300"), (0.0, "0"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_factor_reads_sensibly(ratio, said):
    assert times(ratio) == said


def test_missing_factor_is_found_in_the_plan_at_hand(verdict):
    changes = {"requirements.coverage": "up_to"}
    degrees = {"replicas": 4, "pp": 4, "tp": 2, "ep": 16, "etp": 2}
    found = verdict("ep-tp-pp", changes, degrees)
    assert found.factor == 4
    assert "missing factor 4: replicas = 4" in found.why
    degrees = {"replicas": 2, "pp": 4, "tp": 2, "ep": 16, "etp": 2, "spread": 2}
    found = verdict("ep-tp-pp", changes, degrees)
    assert "missing factor 4: replicas = 2 x spread = 2" in found.why


@pytest.mark.parametrize("name", ["memory-per-gpu", "memory-share"])
def test_memory_claim_that_is_the_weights_is_not_derivable_and_says_what_is_missing(verdict, name):
    found = verdict(name)
    for part in ("weights only", "kv cache", "activations", "runtime reserve", "attention weights"):
        assert part in found.why
    some = verdict(name, {"declared.kv_cache_bytes_per_gpu": 1e5})
    assert "kv cache" not in some.why
    assert verdict(name, value=80.0).verdict == "wrong"


@pytest.mark.parametrize("name", ["memory-per-gpu", "memory-share"])
def test_memory_claim_that_is_the_weights_is_wrong_where_more_is_stated(verdict, name):
    found = verdict(name, STATED)
    assert found.verdict == "wrong"
    assert "weights alone" in found.why
    assert found.factor == pytest.approx(39_062_500 / 27_039_062_500, rel=0.03)


def test_memory_claim_is_reproduced_where_all_parts_are_stated_and_counted(verdict):
    claim = Claim(name="all", metric="peak_memory_bytes_per_gpu", value=27.04, unit="GB")
    assert verdict(claim, STATED).verdict == "reproduced"
    claim = Claim(name="weights", metric="weights_bytes_per_gpu", value=39.0625, unit="MB")
    assert verdict(claim, STATED).verdict == "reproduced"


def test_work_per_token_below_its_floor_is_contradicted(verdict):
    """10 B parameters in 16 experts: one expert of every layer is P / 16, a multiply-add each.

    2 * 10e9 / 16 = 1.25 GFLOP; with two experts per token 2.5 GFLOP.
    """
    found = verdict("flops-per-token")
    assert "taken as given" in found.why
    assert "at least 1.25 GFLOP, 2.5 times" in found.why
    assert "at least 2.5 GFLOP" in verdict("flops-per-token", {"llm.experts_per_token": 2}).why
    assert "at least 20 GFLOP" in verdict("flops-per-token", _dense(), {"pp": 8, "tp": 64}).why


def test_work_per_token_above_its_floor_is_as_stated(verdict):
    found = verdict("flops-per-token", {"declared.flops_per_token": 1.25e9}, value=1.25)
    assert (found.verdict, found.why) == ("reproduced", "as stated in the spec")
    assert verdict("flops-per-token", {"declared.flops_per_token": 1.25e9}).verdict == "wrong"


def _dense():
    return {"llm.num_experts": 0, "requirements.coverage": "every_gpu", "rules": []}


@pytest.mark.parametrize(
    ("fields", "expected", "says"),
    [
        ({"metric": "num_gpus", "value": 512.4}, "wrong", ""),
        ({"metric": "num_gpus", "value": 500}, "wrong", ""),
        ({"metric": "num_gpus", "value": 500, "approximate": True}, "reproduced", ""),
        ({"metric": "num_gpus", "value": 480, "approximate": True}, "wrong", ""),
        ({"metric": "num_gpus", "value": 0.512, "unit": "k GPUs"}, "reproduced", ""),
        ({"metric": "ttft_us", "value": 1600, "unit": "s"}, "wrong", "right in ms"),
        ({"metric": "ttft_us", "value": 1.64, "unit": "s"}, "wrong", ""),
        ({"metric": "ttft_us", "value": 2, "unit": "s"}, "reproduced", ""),
        ({"metric": "ttft_us", "value": 1.6, "unit": "GB"}, "wrong", "unit of a size"),
        ({"metric": "weight_bytes", "value": 18.63, "unit": "GB"}, "wrong", "right in GiB"),
        ({"metric": "tpot_us", "value": 3, "unit": "ms"}, "not derivable", "prefill"),
        ({"metric": "num_gpu", "value": 3}, "not derivable", "did you mean 'num_gpus'"),
        ({"metric": "experts_per_token", "value": 2}, "not derivable", "the spec has none"),
        ({"derivation": "weight_bytes / idle_gpus", "value": 2, "unit": "GB"}, "not derivable",
         "division by zero"),
        ({"derivation": "pp == 8", "value": False}, "wrong", "pp == 8 is true"),
        ({"derivation": "pp == 8", "value": 8}, "wrong", "a condition"),
        ({"derivation": "pp", "value": True}, "wrong", "a number"),
        ({"metric": "gpus_per_stage", "derivation": "num_gpus / ep", "value": 64}, "wrong",
         "num_gpus / ep gives 32"),
        ({"metric": "expert_instances", "value": 512}, "wrong", "off by a factor of 2"),
        ({"metric": "expert_parts", "value": 32}, "wrong", "off by a factor of 1/16"),
        ({"metric": "tokens_per_s_per_gpu", "value": 120, "unit": "tokens/ms per GPU"},
         "reproduced", ""),
    ],
)  # fmt: skip
def test_verdict_follows_from_the_numbers(verdict, fields, expected, says):
    found = verdict(Claim.model_validate({"name": "claim", **fields}))
    assert found.verdict == expected, found
    assert says in found.why


def test_batch_and_layers_with_experts_can_be_claimed(mixed_scenario):
    """A model of 6 layers, 4 of which have 6 experts; a plan of 2 x 3 groups of 5 sequences."""
    values = {"batch": 5, "chunks": 1, "expert_layers": 4, "expert_instances": 24,
              "experts_per_token": 2, "output_tokens": 101, "batch_per_gpu": 2.5}  # fmt: skip
    claims = [{"name": name, "metric": name, "value": value} for name, value in values.items()]
    derived = {"derivation": "batch * attn_dp * pp * replicas / num_gpus", "value": 2.5}
    spec = PlanSpec.model_validate({
        "name": "plan", "llm": "mixed-llm", "batch": 5,
        "degrees": {"pp": 2, "tp": 2, "ep": 3, "etp": 2},
        "claims": [*claims, {"name": "derived", "metric": "batch_per_gpu", **derived}],
    })  # fmt: skip
    scenario = mixed_scenario()
    verdicts = verify_plan(scenario, plan_from_spec(spec, scenario), spec.claims).verdicts
    assert {v.name: v.verdict for v in verdicts} == dict.fromkeys(
        [*values, "derived"], "reproduced"
    )


def test_batch_that_the_workload_gives_is_no_claim_of_the_plan(verdict):
    found = verdict(Claim(name="batch", metric="batch", value=8))
    assert (found.verdict, found.why) == (
        "not derivable", "batch: a given prefill workload has none",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"metric": "ttft_us", "unit": "sec"}, "claims: claim: unit: found 'sec'"),
        ({"derivation": "ep ** 2"}, "claims: claim: derivation: a power"),
        ({"derivation": "ep * ttp"}, "unknown name 'ttp'; did you mean"),
    ],
)
def test_claim_that_cannot_be_read_is_an_error_of_the_spec(verdict, fields, says):
    with pytest.raises(SpecError, match=re.escape(says)):
        verdict(Claim.model_validate({"name": "claim", "value": 1, **fields}))


def test_quantity_that_differs_between_stages_is_not_derivable(document_scenario):
    scenario = document_scenario({"requirements.coverage": "up_to"})
    spec = PlanSpec.model_validate({
        "name": "plan", "llm": "moe-16x16-10b", "layers_per_stage": [10, 6],
        "degrees": {"pp": 2, "tp": 2, "ep": 8, "etp": 2},
        "claims": [{"name": "layers", "metric": "layers_per_stage", "value": 8}],
    })  # fmt: skip
    report = verify_plan(scenario, plan_from_spec(spec, scenario), spec.claims)
    assert report.ok
    assert report.verdicts[0].verdict == "not derivable"
    assert "differs between stages: 6 to 10" in report.verdicts[0].why


def test_claims_of_a_broken_plan_are_still_counted(document_scenario):
    """With stage 7 on the GPUs of stage 0, 448 GPUs are used, not 512."""
    scenario = document_scenario()
    plan = plan_from_spec(DOCUMENT, scenario)
    broken = replace(plan, gpus=((*plan.gpus[0][:7], plan.gpus[0][0]),))
    verdicts = {v.name: v for v in verify_plan(scenario, broken, DOCUMENT.claims).verdicts}
    assert verdicts["stages-x-64"].verdict == "wrong"
    assert verdicts["idle"].recomputed == "64 GPUs"


def test_declared_rate_and_declared_times_are_compared(document_scenario):
    """10,240 tokens per 200 ms are 51,200 tokens/s, 100 per second and GPU, not 120,000."""
    scenario = document_scenario()
    (note,) = verify_plan(scenario, plan_from_spec(DOCUMENT, scenario)).notes
    assert "51,200 tokens/s" in note
    assert "0.1 tokens/ms per GPU" in note
    assert "1,200 times" in note
    scenario = document_scenario({"declared.layer_time_us": 100e3 / 1200})
    assert verify_plan(scenario, plan_from_spec(DOCUMENT, scenario)).notes == ()


def test_catalogue_plan_satisfies_the_catalogue_scenario():
    spec, scenario = load_plan("ep16-tp2-pp8"), load_scenario("moe-16x16-512gpu")
    report = verify_plan(scenario, plan_from_spec(spec, scenario), spec.claims)
    assert report.ok
    assert {v.name: v.verdict for v in report.verdicts if v.verdict != "reproduced"} == (
        NOT_REPRODUCED
    )
