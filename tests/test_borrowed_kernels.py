"""A GPU that nobody measured takes the kernels of one of its family, and says so."""

import json

import pytest

from autopar.bands import has_kernels
from autopar.catalog import load_scenario, names, read_document
from autopar.costs.operations.device import Device
from autopar.errors import SpecError
from autopar.unmeasured import Uses

PARTS = {"llm": "llama-3.1-8b", "workload": "chat-1k-256"}
BORROWERS = [
    name for name in names("gpu") if (read_document("gpu", name).get("kernels") or {}).get("of")
]


def scenario_of(gpu):
    cluster = {"base": "1xhgx-a100", "gpu": gpu}
    return load_scenario({"name": "s", "cluster": cluster, **PARTS})


@pytest.mark.parametrize("name", BORROWERS)
def test_shipped_families_lend_their_kernels(name):
    scenario = scenario_of(name)
    gpu = scenario.cluster.gpu
    lender = scenario_of(gpu.kernels.of).cluster.gpu
    assert gpu.kernels.gemm == lender.kernels.gemm
    assert gpu.name != lender.name
    assert not has_kernels(scenario, Uses(sums=False, exchanges=False))
    assert has_kernels(scenario_of(gpu.kernels.of), Uses(sums=False, exchanges=False))
    [note] = Device.of(gpu).notes()
    assert gpu.kernels.of in note
    assert "of its family" in note


def test_some_families_are_shipped():
    assert len(BORROWERS) >= 5


def test_what_a_file_states_beside_comes_on_top():
    gpu = {"base": "a100-pcie-80gb", "name": "mine"}
    assert scenario_of(gpu).cluster.gpu.kernels.collectives is None
    fit = {"start_us": 9.0, "memory_fraction": 0.5}
    gpu["kernels"] = {"of": "a100-sxm-80gb", "elementwise": fit}
    kernels = scenario_of(gpu).cluster.gpu.kernels
    assert kernels.elementwise.start_us == 9.0
    assert kernels.gemm


def test_an_answer_that_embeds_borrowed_kernels_is_read_as_it_stands():
    document = json.loads(json.dumps(scenario_of("a100-sxm-40gb").document()))
    document["cluster"]["gpu"]["kernels"]["gemm"]["bf16"]["start_us"] = 77.0
    assert load_scenario(document).cluster.gpu.kernels.gemm["bf16"].start_us == 77.0


def test_another_lender_can_be_set():
    changed = load_scenario(
        {"name": "s", "cluster": "8xl4", **PARTS},
        overrides=["cluster.gpu.kernels.of=h100-sxm-80gb"],
    )
    assert changed.cluster.gpu.kernels.gemm == scenario_of("h100-sxm-80gb").cluster.gpu.kernels.gemm


@pytest.mark.parametrize(
    ("lender", "says"),
    [
        ("a101", "unknown gpu 'a101'"),
        ("mi300x-192gb", "has no kernels of its own to lend"),
        ("doc-400t-64gb", "has no kernels of its own to lend"),
    ],
)
def test_a_lender_without_kernels_is_refused(lender, says):
    gpu = {"base": "a100-sxm-40gb", "name": "mine", "kernels": {"of": lender}}
    with pytest.raises(SpecError, match=says) as caught:
        scenario_of(gpu)
    assert "kernels.of" in str(caught.value)
