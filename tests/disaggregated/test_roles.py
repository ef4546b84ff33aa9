"""A role is a scenario of its own, with what it alone answers for."""

from collections.abc import Callable

import numpy as np
import pytest

from autopar.costs.operations.collectives import Network
from autopar.disaggregated.costs import Handover, RoleCosts
from autopar.disaggregated.objectives import _WAYS
from autopar.disaggregated.task import make_pair
from autopar.disaggregated.values import Values
from autopar.errors import SpecError
from autopar.problem import Candidate, Candidates
from autopar.specs import Scenario
from autopar.specs.roles import requests_per_token, role_scenario

Build = Callable[..., Scenario]

LIMITS = {
    "max_ttft_us": 700.0, "max_tpot_us": 90.0, "min_tokens_per_s": 10.0, "coverage": "every_gpu",
    "tensor_parallel_within": "node",
}  # fmt: skip


def rows(*candidates: Candidate) -> Candidates:
    return Candidates.of(list(candidates))


def test_each_role_keeps_the_limits_that_it_alone_answers_for(pair_scenario: Build) -> None:
    scenario = pair_scenario(requirements=LIMITS)
    prefill, decode = (role_scenario(scenario, role) for role in ("prefill", "decode"))
    assert (prefill.workload.phase, decode.workload.phase) == ("prefill", "decode")
    assert (prefill.workload.output_tokens, decode.workload.output_tokens) == (None, 9)
    assert prefill.workload.input_tokens == decode.workload.input_tokens == 40
    assert (prefill.requirements.max_ttft_us, decode.requirements.max_ttft_us) == (700.0, None)
    assert (prefill.requirements.max_tpot_us, decode.requirements.max_tpot_us) == (None, 90.0)
    for role in (prefill, decode):
        assert role.requirements.min_tokens_per_s is None
        assert role.requirements.coverage == "up_to"
        assert role.requirements.tensor_parallel_within == "node"


def test_only_decode_drafts_tokens(pair_scenario: Build) -> None:
    draft = {"draft_tokens": 1, "acceptance": 0.5}
    scenario = pair_scenario(work={"speculation": draft})
    assert role_scenario(scenario, "prefill").workload.speculation is None
    assert role_scenario(scenario, "decode").workload.speculation is not None


@pytest.mark.parametrize(("output", "decoded"), [(9, 8), (2, 1), (1, 1)])
def test_a_request_is_its_prompt_and_all_but_its_first_token(
    pair_scenario: Build, output: int, decoded: int
) -> None:
    work = pair_scenario(work={"output_tokens": output}).workload
    assert requests_per_token(work, "prefill") == 1 / 40
    assert requests_per_token(work, "decode") == 1 / decoded


def test_rates_of_both_roles_are_told_in_output_tokens_of_the_requests(
    pair_scenario: Build,
) -> None:
    """40 input tokens and 8 decoded ones are both one request, which has 9 output tokens."""
    scenario = pair_scenario()
    row = rows(Candidate(2, 1, 1, 1, 1, 1, 1, 1, 1))
    whole = (np.array([0]), np.array([2]))
    for role, tokens in (("prefill", 40), ("decode", 8)):
        costs = RoleCosts(scenario, role)
        own = costs._model.stage_costs(row, *whole).tokens_per_s
        assert costs.stage_costs(row, *whole).tokens_per_s == pytest.approx(own / tokens * 9)


def test_the_groups_of_all_replicas_share_the_rate_of_prompts(pair_scenario: Build) -> None:
    """2 replicas of 2 groups that compute 400 requests/s: each takes 4 / 400 s for one."""
    row = rows(Candidate(2, 1, 1, 1, 2, 1, 1, 2, 1))
    output_tokens_per_s = np.array([400.0 * 9])
    prefill, decode = (RoleCosts(pair_scenario(), role) for role in ("prefill", "decode"))
    assert prefill.service_us(row, output_tokens_per_s) == pytest.approx([10_000])
    assert decode.service_us(row, output_tokens_per_s) == [0]


def test_the_cache_of_a_prompt_is_handed_over_by_the_gpu_that_holds_most(
    pair_scenario: Build,
) -> None:
    """40 tokens take 3 pages of 16; 2 heads x 8 x (key, value) x 2 bytes = 64 bytes per token.

    A layer is 48 x 64 = 3,072 bytes, with tp 2 half of it; two layers of a stage, twice that.
    """
    scenario = pair_scenario(num_layers=3)
    network = Network.of(scenario.cluster)
    row = Candidate(1, 2, 1, 1, 1, 1, 1, 1, 3)
    half = Candidate(1, 2, 2, 1, 1, 1, 2, 1, 3)
    found = Handover(scenario).of_segments_us(
        rows(row, row, half), np.array([0, 1, 0]), np.array([1, 3, 1])
    )
    sizes = np.array([3072.0, 6144.0, 1536.0])
    assert found == pytest.approx(network.point_to_point_us(sizes, np.full(3, 4)))


def test_no_split_beats_the_bound_of_the_handover(pair_scenario: Build) -> None:
    handover = Handover(pair_scenario(num_layers=5))
    for pp in range(1, 6):
        row = rows(Candidate(1, pp, 1, 1, 1, 1, 1, 1, 1))
        least = handover.least_us(row)[0]
        longest = -(-5 // pp)
        best = handover.of_segments_us(row, np.array([0]), np.array([longest]))[0]
        assert least <= best
        assert least == pytest.approx(best)  # all layers are alike


def test_the_values_of_a_pair_are_sums_and_extremes_of_both_roles() -> None:
    """Rate 10 and 100, time 20 and 200, handover 30 and 300, and so on; prefill is half busy.

    So it serves 5, and a prompt waits 0.5 / (2 x 0.5) of the time of service, 80.
    """
    prefill, decode = (Values(*(np.array([s * n]) for n in range(1, 9))) for s in (10, 100))
    half = np.array([50])
    found = {name: combine(prefill, decode, half).item() for name, (combine, _) in _WAYS.items()}
    assert found == {
        "throughput": 5, "throughput_per_gpu": 5000 // 770, "ttft": 40 + 20 + 200 + 300,
        "tpot": 400, "traffic": 50 + 500, "memory": 600, "gpus": 70 + 700,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 2, "requirements": {"coverage": "partition"}}, "copy for each role"),
        ({"objectives": ["speed"]}, "unknown objective"),
    ],
)
def test_what_makes_no_sense_for_two_roles_is_refused(
    pair_scenario: Build, change: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        make_pair(pair_scenario(**change))


def test_a_rule_on_a_total_is_refused_by_name(pair_scenario: Build) -> None:
    rule = {"name": "total", "sum": "gpus", "at_most": 3, "because": "a test"}
    document = pair_scenario().document() | {"rules": [rule]}
    with pytest.raises(SpecError, match="rule 'total'"):
        make_pair(Scenario.model_validate(document))


def test_declared_costs_do_not_tell_the_roles_apart(pair_scenario: Build) -> None:
    declared = {
        "flops_per_token": 1e9, "compute_efficiency": 0.5, "utilisation": 0.5, "layer_time_us": 1.0,
    }  # fmt: skip
    document = pair_scenario().document() | {"cost_model": "declared", "declared": declared}
    with pytest.raises(SpecError, match="does not tell prefill from decode"):
        make_pair(Scenario.model_validate(document))
