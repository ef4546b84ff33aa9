"""Sizes that do not depend on the degrees: layers of each kind, pages, drafts."""

import numpy as np
import pytest

from autopar.costs.shape import Shape, ceil_div, whole_pages
from autopar.errors import SpecError
from autopar.specs import Workload

FULL = {"kind": "gqa", "num_heads": 12, "num_kv_heads": 4, "head_dim": 80}
MOE = {"kind": "moe", "num_experts": 6, "experts_per_token": 2, "expert_size": 1500}
HYBRID = {
    "hidden_size": 1000,
    "vocab_size": 5003,
    "attention": {"full": FULL},
    "feed_forward": {"moe": MOE},
    "layers": [
        {"layers": [{"attention": "full"}]},
        {"count": 2, "layers": [{"feed_forward": "moe"}, {"attention": "full"}]},
    ],
    "next_token_prediction": {"layer": {"attention": "full"}},
}


def test_ceil_div_rounds_up():
    assert ceil_div(7, np.array([1, 2, 3, 7, 8])).tolist() == [7, 4, 3, 1, 1]


@pytest.mark.parametrize(("tokens", "expected"), [(1, 16), (16, 16), (17, 32), (160, 160)])
def test_keys_are_kept_in_whole_pages(tokens, expected):
    assert whole_pages(tokens) == expected


def test_layers_of_each_kind_in_a_segment(analytic_scenario):
    """Attention alone, then twice (experts, attention): kinds 0 1 0 1 0."""
    scenario = analytic_scenario(architecture=HYBRID)
    shape = Shape.of(scenario.llm, scenario.workload)
    assert shape.num_layers == 5
    assert shape.num_experts == 6
    counts = shape.kind_counts(np.array([0, 1, 2, 4]), np.array([5, 2, 5, 5]))
    assert counts.tolist() == [[3, 0, 2, 1], [2, 1, 1, 0]]


def test_a_step_computes_the_last_token_and_its_drafts(analytic_scenario):
    """2 drafts, each right with probability 0.5 if the one before is: 1.75 of 3 tokens count."""
    drafts = {"draft_tokens": 2, "acceptance": 0.5}
    scenario = analytic_scenario(architecture=HYBRID, input_tokens=20, work={"speculation": drafts})
    shape = Shape.of(scenario.llm, scenario.workload)
    assert (shape.queries_per_sequence, shape.tokens_per_sequence) == (3, 1.75)
    plain = Shape.of(scenario.llm, analytic_scenario(input_tokens=20).workload)
    assert (plain.queries_per_sequence, plain.tokens_per_sequence) == (1, 1.0)


def test_a_model_without_shapes_is_refused(analytic_scenario):
    scenario = analytic_scenario()
    bare = scenario.llm.model_copy(update={"architecture": None})
    with pytest.raises(SpecError, match=r"^llm\.architecture: missing for model 'small-llm'"):
        Shape.of(bare, scenario.workload)


def test_a_model_that_drafts_no_tokens_is_refused_with_speculation(analytic_scenario):
    work = Workload(
        name="w", phase="decode", input_tokens=20, output_tokens=8,
        speculation={"draft_tokens": 1, "acceptance": 0.5},
    )  # fmt: skip
    message = r"^workload\.speculation: model 'small-llm' has no layers that draft tokens"
    with pytest.raises(SpecError, match=message):
        Shape.of(analytic_scenario().llm, work)
