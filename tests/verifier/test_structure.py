"""What is said of a plan's degrees, GPUs and rates: once, of what is there, in one unit."""

from autopar.plans import plan_from_spec
from autopar.specs import PlanSpec
from autopar.units import format_rate, plural
from autopar.verifier import verify_plan


def violations(scenario, **degrees):
    spec = PlanSpec(name="plan", llm=scenario.llm.name, degrees=degrees)
    return verify_plan(scenario, plan_from_spec(spec, scenario)).violations


def test_a_dense_plan_is_told_once_what_does_not_divide(analytic_scenario):
    """There are no expert columns in a dense model: tp cuts the feed-forward, and etp is tp."""
    scenario = analytic_scenario(num_experts=0)
    for key, degrees in (("tp", {"tp": 5, "etp": 5}), ("etp", {"attn_dp": 5, "etp": 5})):
        found = violations(scenario, **{"pp": 1, "tp": 1, "ep": 1} | degrees)
        said = [v.message for v in found if "divide" in v.message]
        assert len(said) == 1
        assert f"heads and dense columns do not divide by {key} = 5" in said[0]


def test_a_rate_and_its_target_are_in_one_unit(document_scenario):
    scenario = document_scenario({"requirements.min_tokens_per_s": 1e12})
    (violation,) = violations(scenario, pp=8, tp=2, ep=16, etp=2, spread=2)
    assert violation.message.startswith("61,440 tokens/ms (")
    assert "at least 1,000,000,000 tokens/ms are required" in violation.message
    assert format_rate(8053.0, beside=1e12) == "8,053 tokens/s"
    assert format_rate(1e12, beside=8053.0) == "1,000,000,000,000 tokens/s"


def test_one_gpu_is_no_plural(analytic_scenario):
    assert (plural(1, "GPU"), plural(1000, "GPU")) == ("1 GPU", "1,000 GPUs")
    scenario = analytic_scenario(requirements={"coverage": "every_gpu"})
    total = scenario.cluster.num_gpus
    found = violations(scenario, pp=1, tp=1, ep=1, replicas=total - 1)
    assert any(f"1 of {total} GPUs is in no stage" in v.message for v in found)
