"""The shipped models, GPUs, clusters, workloads and scenarios of the analytic cost model."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from autopar.costs.analytic import AnalyticCosts
from autopar.problem import Candidate, Candidates
from autopar.specs import LLM, Cluster, Gpu, Recipe, Scenario, Workload

MODELS = Path(__file__).parent.parent / "models"
KINDS = {"gpus": Gpu, "llms": LLM, "clusters": Cluster, "workloads": Workload}
OURS = {
    "llms": ["llama-3.1-70b", "mixtral-8x7b", "qwen3-30b-a3b"],
    "gpus": ["a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm-180gb"],
    "clusters": ["1xhgx-h100", "2xhgx-h100", "4xhgx-h100"],
    "workloads": ["prefill-8k", "decode-256x4k"],
}
FILES = [(folder, name) for folder, names in OURS.items() for name in names]


def read(folder, name):
    """A file as a mapping, laid over its base."""
    document = yaml.safe_load((MODELS / folder / f"{name}.yaml").read_text(encoding="utf-8"))
    base = document.pop("base", None)
    return document if base is None else read(folder, base) | document


def load(folder, name):
    document = read(folder, name)
    if folder == "clusters":
        document["gpu"] = load("gpus", document["gpu"])
    if folder == "scenarios":
        recipe = Recipe(name=document.pop("recipe"))
        parts = {
            part: load(f"{part}s", document.pop(part)) for part in ("llm", "cluster", "workload")
        }
        return Scenario.model_validate(document | parts | {"recipe": recipe})
    return KINDS[folder].model_validate(document)


@pytest.mark.parametrize(("folder", "name"), FILES)
def test_a_file_is_valid_named_after_itself_and_says_where_it_is_from(folder, name):
    spec = load(folder, name)
    assert spec.name == name
    assert spec.sources
    assert spec.description


def num_parameters(llm):
    """Count every matrix and vector of the published architectures, bias-free and gated."""
    a = llm.architecture
    (kind,) = a.layer_kinds
    heads, part = a.attention_of(kind), a.feed_forward_of(kind)
    width, kv_width = heads.num_heads * heads.head_dim, heads.num_kv_heads * heads.head_dim
    attention = a.hidden_size * width + 2 * a.hidden_size * kv_width + width * a.hidden_size
    if llm.name.startswith("qwen3"):
        attention += 2 * heads.head_dim  # one norm for query heads, one for key heads
    feed_forward = 3 * a.hidden_size * (part.expert_size if llm.num_experts else part.ffn_size)
    if llm.num_experts:
        feed_forward = llm.num_experts * feed_forward + a.hidden_size * llm.num_experts
    layer = attention + feed_forward + 2 * a.hidden_size
    return llm.num_layers * layer + a.hidden_size + 2 * a.vocab_size * a.hidden_size


@pytest.mark.parametrize("name", OURS["llms"])
def test_parameters_are_the_sum_of_the_shapes_and_the_description_says_so(name):
    llm = load("llms", name)
    assert llm.num_parameters == num_parameters(llm)
    assert f"{num_parameters(llm):,}" in llm.description


@pytest.mark.parametrize("name", OURS["llms"])
def test_the_analytic_weights_of_one_gpu_are_the_whole_model(name):
    scenario = load("scenarios", "mixtral-8x7b-8xh100")
    llm = load("llms", name)
    model = AnalyticCosts(scenario.model_copy(update={"llm": llm}))
    row = Candidates.of([Candidate(1, 1, 1, 1, 1, 1, 1, 1)])
    costs = model.stage_costs(row, np.array([0]), np.array([llm.num_layers]))
    assert costs.weights_bytes[0] == pytest.approx(llm.weight_bytes, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "candidate"),
    [
        ("mixtral-8x7b-8xh100", Candidate(1, 1, 1, 1, 8, 8, 1, 1)),
        ("llama-3.1-70b-16xh100", Candidate(2, 1, 8, 1, 1, 1, 1, 8)),
    ],
)
def test_a_scenario_has_a_plan_within_its_requirements(name, candidate):
    scenario = load("scenarios", name)
    assert (scenario.name, scenario.cost_model) == (name, "analytic")
    row = Candidates.of([candidate])
    layers = scenario.llm.num_layers
    costs = AnalyticCosts(scenario).stage_costs(row, np.array([0]), np.array([layers]))
    needs, gpu = scenario.requirements, scenario.cluster.gpu
    assert row.gpus_used(layers)[0] == scenario.cluster.num_gpus
    assert costs.memory_bytes[0] <= needs.max_memory_fraction * gpu.memory_bytes
    if needs.max_ttft_us is not None:
        assert costs.time_us[0] <= needs.max_ttft_us
    if needs.max_tpot_us is not None:
        assert costs.tpot_us[0] <= needs.max_tpot_us


def test_a_decode_step_cannot_beat_the_memory_and_is_not_far_from_it():
    """Llama 3.1 70B, 256 x 4k, 8 H100: weights and cache are read once a step, at 3.35 TB/s."""
    scenario = load("scenarios", "llama-3.1-70b-16xh100")
    row = Candidates.of([Candidate(2, 1, 8, 1, 1, 1, 1, 8)])
    costs = AnalyticCosts(scenario).stage_costs(row, np.array([0]), np.array([80]))
    read = costs.weights_bytes[0] + costs.kv_cache_bytes[0]
    floor_us = read / 3.35e12 * 1e6
    assert floor_us < costs.tpot_us[0] < 2 * floor_us
