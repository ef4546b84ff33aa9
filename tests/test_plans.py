import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.errors import SpecError
from autopar.plans import plan_from_spec, plan_parts, stated_numbers
from autopar.problem import Plan, Stage
from autopar.specs import PlanSpec

DOCUMENT = {"pp": 8, "tp": 2, "ep": 16, "etp": 2, "spread": 2}
LAX = {"requirements.coverage": "up_to"}
DENSE = {"llm.num_experts": 0, "requirements.coverage": "up_to", "rules": []}


def spec_of(degrees=None, **fields):
    document = {"name": "plan", "llm": "moe-16x16-10b", "degrees": degrees or DOCUMENT, **fields}
    return PlanSpec.model_validate(document)


def same(one: Plan, two: Plan) -> bool:
    keys = ("name", "llm", "cluster", "replicas", "pp", "stages", "gpus")
    equal = all(getattr(one, key) == getattr(two, key) for key in keys)
    return equal and np.array_equal(one.placement, two.placement)


def test_document_plan_is_laid_out_in_rank_order(document_scenario):
    """Layer 3 is the second of stage 1 (GPUs 64 to 127): grid 1, GPUs 96 to 127, 2 per expert."""
    plan = plan_from_spec(spec_of(), document_scenario())
    assert [stage.layers for stage in plan.stages] == [(2 * s, 2 * s + 1) for s in range(8)]
    assert plan.stages[0].attn_dp == 32
    assert plan.gpus == (tuple(tuple(range(64 * s, 64 * s + 64)) for s in range(8)),)
    assert plan.placement.shape == (512, 5)
    here = plan.placement[(plan.placement[:, 0] == 3) & (plan.placement[:, 1] == 5)]
    assert here.tolist() == [[3, 5, 0, 0, 106], [3, 5, 0, 1, 107]]


@pytest.mark.parametrize(
    ("degrees", "fields", "expected"),
    [
        ({"pp": 8, "tp": 2, "ep": 16, "etp": 2}, {}, {"attn_dp": 16, "spread": 1}),
        ({"pp": 8, "tp": 2, "ep": 16, "etp": 2, "attn_dp": 32}, {}, {"spread": 2}),
        ({"pp": 8, "tp": 2, "ep": 16, "etp": 2}, {"num_gpus": 512}, {"attn_dp": 32, "spread": 2}),
        ({"pp": 8, "tp": 2, "ep": 16, "etp": 2, "spread": 2}, {}, {"attn_dp": 32}),
        ({"pp": 8, "tp": 3, "ep": 16, "etp": 2, "spread": 2, "attn_dp": 5}, {},
         {"tp": 3, "attn_dp": 5, "spread": 2}),
    ],
)  # fmt: skip
def test_absent_degrees_follow_from_the_grid_identity(document_scenario, degrees, fields, expected):
    plan = plan_from_spec(spec_of(degrees, **fields), document_scenario())
    assert {key: plan.degree(key) for key in expected} == expected


def test_dense_feed_forward_is_cut_as_attention_is(document_scenario):
    plan = plan_from_spec(spec_of({"pp": 8, "tp": 4, "attn_dp": 2}), document_scenario(DENSE))
    assert [plan.degree(k) for k in ("attn_dp", "ep", "etp", "spread")] == [2, 1, 4, 2]
    assert len(plan.gpus[0][0]) == 8
    assert plan.placement.shape == (0, 5)


def test_stages_are_laid_out_inside_their_containers_where_they_fit(document_scenario):
    """Six-GPU stages of TP3 in nodes of eight leave two GPUs of each node over."""
    changes = {**LAX, "llm.num_experts": 6, "requirements.all_to_all_within": "node", "rules": []}
    degrees = {"replicas": 2, "pp": 2, "tp": 3, "ep": 2, "etp": 3}
    plan = plan_from_spec(spec_of(degrees), document_scenario(changes))
    assert [stage[0] for replica in plan.gpus for stage in replica] == [0, 8, 16, 24]


def test_stages_that_do_not_fit_are_laid_out_in_a_row(document_scenario):
    plan = plan_from_spec(spec_of(), document_scenario({"cluster.num_nodes": 8}))
    assert plan.gpus[0][7][-1] == 511


def test_unequal_stages_follow_each_other(document_scenario):
    degrees = {"pp": 2, "tp": 2, "ep": 8, "etp": 2}
    plan = plan_from_spec(spec_of(degrees, layers_per_stage=[10, 6]), document_scenario(LAX))
    assert [len(stage.layers) for stage in plan.stages] == [10, 6]
    assert plan.stages[1].layers[0] == 10


def test_what_is_written_out_is_taken_literally_even_when_it_is_wrong(document_scenario):
    stages = [
        {"index": 0, "layers": [3, 3, 99], "gpus": [5, 5, 600], "tp": 2},
        {"index": 7, "layers": [], "gpus": []},
    ]
    placement = [{"layer": 9, "expert": 99, "copy": 4, "shard": 7, "gpu": 3}]
    spec = spec_of(stages=stages, placement=placement)
    plan = plan_from_spec(spec, document_scenario())
    assert plan.pp == 8
    assert plan.gpus == (((5, 5, 600), ()),)
    assert [(s.index, s.layers) for s in plan.stages] == [(0, (3, 3, 99)), (7, ())]
    assert plan.placement.tolist() == [[9, 99, 4, 7, 3]]


def test_experts_that_find_no_gpu_are_left_out_for_verify_to_see(document_scenario):
    stages = [{"index": 0, "layers": list(range(16)), "gpus": list(range(31))}]
    degrees = {"pp": 1, "tp": 1, "ep": 16, "etp": 2, "spread": 1}
    plan = plan_from_spec(spec_of(degrees, stages=stages), document_scenario(LAX))
    assert len(plan.placement) == 16 * 31


def test_replicas_are_offsets_or_written_out(document_scenario):
    degrees = {"replicas": 3, "pp": 1, "tp": 2, "ep": 2, "etp": 2}
    replicas = [
        {"index": 0, "gpu_offset": 0},
        {"index": 1, "gpu_offset": 8},
        {"index": 2, "stages": [[20, 22, 21, 23]]},
    ]
    plan = plan_from_spec(spec_of(degrees, replicas=replicas), document_scenario(LAX))
    assert plan.gpus == (((0, 1, 2, 3),), ((8, 9, 10, 11),), ((20, 22, 21, 23),))
    assert plan.placement[plan.placement[:, 2] == 2][0].tolist() == [0, 0, 2, 0, 20]
    stages = [{"index": 0, "layers": list(range(16)), "gpus": [4, 5, 6, 7]}]
    plan = plan_from_spec(spec_of(degrees, stages=stages), document_scenario(LAX))
    assert [replica[0][0] for replica in plan.gpus] == [4, 8, 12]


@pytest.mark.parametrize(
    ("degrees", "fields", "says"),
    [
        (None, {"llm": "other"}, "llm: found 'other', expected 'moe-16x16-10b'"),
        (None, {"cluster": "other"}, "cluster: found 'other', expected 'document-cluster'"),
        ({"pp": 5}, {}, "layers_per_stage: not given, and 16 layers do not split evenly"),
        ({"pp": 5}, {"layers_per_stage": [8, 8]}, "found 2 numbers, expected 5"),
        ({"pp": 2}, {"layers_per_stage": 600}, "found 1,200 layers in all"),
        ({"pp": 10**9}, {}, "degrees.pp: found 1000000000"),
        ({"pp": 8, "tp": 3, "ep": 16, "etp": 2}, {}, "ep * etp * spread = 32 is not a multiple"),
        ({"pp": 8, "tp": 3, "attn_dp": 3, "ep": 2}, {}, "tp * cp * attn_dp = 9 is not a multiple"),
        ({"pp": 8, "tp": 10**9, "attn_dp": 1, "spread": 1}, {}, "GPUs in all, expected at most"),
        ({"replicas": 10**9, "pp": 8}, {}, "GPUs in all, expected at most"),
        ({"pp": 1, "etp": 2**20}, {"layers_per_stage": 1024},
         "expert shards, expected at most"),
        ({"pp": 1}, {"replicas": [{"index": 1, "gpu_offset": 0}]},
         "replicas[0].index: found 1, expected 0"),
        ({"pp": 2}, {"replicas": [{"index": 0, "stages": [[0]]}]},
         "replicas[0].stages: found GPUs of 1 stages, expected 2"),
        ({"pp": 1}, {"replicas": [{"index": 0, "gpu_offset": 10**30}]}, "gpu_offset: found id"),
        ({"pp": 1}, {"stages": [{"index": 0, "layers": [0], "gpus": [10**30]}]},
         "stages[0]: found id"),
        ({"pp": 1}, {"placement": [{"layer": 0, "expert": 10**30, "gpu": 0}]},
         "placement[0]: found id"),
    ],
)  # fmt: skip
def test_plan_that_cannot_be_laid_out_is_an_error_of_the_spec(
    document_scenario, degrees, fields, says
):
    with pytest.raises(SpecError, match=re.escape(says)):
        plan_from_spec(spec_of(degrees, **fields), document_scenario(LAX))


def through_json(plan, scenario):
    text = json.dumps(plan_parts(plan))
    return plan_from_spec(PlanSpec.model_validate(json.loads(text)), scenario)


@pytest.mark.parametrize(
    ("changes", "degrees", "fields"),
    [
        ({}, DOCUMENT, {}),
        (LAX, {"replicas": 3, "pp": 4, "tp": 1, "ep": 4, "etp": 2, "spread": 2}, {}),
        (LAX, {"pp": 2, "tp": 2, "ep": 8, "etp": 2}, {"layers_per_stage": [9, 7]}),
        (DENSE, {"replicas": 2, "pp": 8, "tp": 4, "attn_dp": 2}, {}),
    ],
)
def test_plan_comes_back_from_its_json_exactly(document_scenario, changes, degrees, fields):
    scenario = document_scenario(changes)
    plan = plan_from_spec(spec_of(degrees, **fields), scenario)
    assert same(through_json(plan, scenario), plan)
    parts = plan_parts(plan)
    assert parts["replicas"][0]["gpu_offset"] == 0
    assert all("gpu_offset" in replica for replica in parts["replicas"])


@given(st.data())
def test_any_plan_comes_back_from_its_json_exactly(document_scenario, data):
    """Layers, GPUs, degrees and placement at random, right or wrong."""
    scenario = document_scenario(LAX)
    ids = st.lists(st.integers(0, 600), max_size=4)
    num_stages = data.draw(st.integers(1, 3))
    shared = data.draw(st.tuples(*[st.integers(1, 4)] * 4))
    stages = tuple(
        Stage(
            data.draw(st.integers(0, 5)), tuple(data.draw(ids)), shared[0], shared[1],
            data.draw(st.integers(1, 4)), shared[2], shared[3], data.draw(st.integers(1, 4)),
        )
        for _ in range(num_stages)
    )  # fmt: skip
    replicas = data.draw(st.integers(1, 3))
    gpus = tuple(tuple(tuple(data.draw(ids)) for _ in stages) for _ in range(replicas))
    rows = data.draw(st.lists(st.tuples(*[st.integers(0, 700)] * 5), max_size=4))
    placement = np.array(rows, dtype=np.int64).reshape(-1, 5)
    plan = Plan(
        "plan", "moe-16x16-10b", "document-cluster", replicas, num_stages, stages, gpus, placement
    )
    assert same(through_json(plan, scenario), plan)


def test_differing_degrees_are_null_and_stand_with_the_stages(document_scenario):
    stages = [
        {"index": 0, "layers": list(range(8)), "gpus": list(range(4)), "spread": 1},
        {"index": 1, "layers": list(range(8, 16)), "gpus": list(range(4, 12)), "spread": 2},
    ]
    scenario = document_scenario(LAX)
    spec = spec_of({"pp": 2, "tp": 2, "ep": 2, "etp": 2}, stages=stages)
    plan = plan_from_spec(spec, scenario)
    parts = plan_parts(plan)
    assert parts["degrees"]["spread"] is None
    assert parts["degrees"]["attn_dp"] is None
    assert [stage["spread"] for stage in parts["stages"]] == [1, 2]
    assert same(through_json(plan, scenario), plan)


def test_stated_numbers_are_collected_for_verify():
    spec = spec_of(
        num_gpus=512, idle_gpus=0, metrics={"ttft_ms": 1600}, objective={"name": "throughput"},
        objectives=[{"name": "throughput"}], status="optimal",
    )  # fmt: skip
    assert stated_numbers(spec) == {
        "num_gpus": 512, "idle_gpus": 0, "ttft_ms": 1600, "objective": {"name": "throughput"},
        "objectives": [{"name": "throughput"}], "status": "optimal",
    }  # fmt: skip
    assert stated_numbers(spec_of()) == {}
