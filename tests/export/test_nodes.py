"""How many ranks of a server lie on each of its nodes, as its engine counts them."""

import pytest

from autopar.catalog import load_plan, load_scenario
from autopar.errors import InexpressibleError
from autopar.export.exporting import completed, export
from autopar.export.launch import Export, script_text
from autopar.export.options import Options
from autopar.ingest.plan import Question, read_plan
from autopar.pairs import explicit_plan
from autopar.plans import plan_from_spec
from autopar.problem import Plan
from autopar.specs import PlanSpec, Scenario

NODES = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def plan_of(stages: list[list[int]]) -> tuple[Scenario, Plan]:
    """Three stages on the GPUs of each, cut by as many tensor ranks."""
    tp = len(stages[0])
    parts = {"llm": "qwen3-32b", "cluster": "4xhgx-h100", "workload": "chat-1k-256"}
    scenario = load_scenario(parts=parts)
    document = {
        "schema": 1, "kind": "plan", "name": "uneven", "llm": "qwen3-32b",
        "degrees": {"replicas": 1, "pp": 3, "tp": tp, "cp": 1, "attn_dp": 1, "ep": 1, "etp": tp},
        "batch": 8, "chunks": 1, "layers_per_stage": [22, 21, 21],
        "replicas": [{"index": 0, "stages": stages}],
    }  # fmt: skip
    plan = explicit_plan(load_plan(document), scenario)
    assert isinstance(plan, Plan)
    return scenario, plan


def exported(engine: str, stages: list[list[int]]) -> Export:
    scenario, plan = plan_of(stages)
    return export(scenario, plan, engine, completed(Options(engine=engine), scenario))


def test_the_last_node_of_tensorrt_llm_may_have_fewer_ranks(tmp_path) -> None:
    """mapping.py: node_rank = rank // gpus_per_node, which 8 + 4 meets."""
    made = exported("trtllm", NODES)
    (launch,) = made.launches
    assert launch.argv[:3] == ("mpirun", "-n", "12")
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "0,1,2,3,4,5,6,7"
    files = {file.name: file.text for file in made.files}
    assert files["hostfile-0.txt"] == "node-0 slots=8\nnode-1 slots=4\n"
    assert "gpus_per_node: 8\n" in files["trtllm.yaml"]
    per_node, shown = 8, launch.env["CUDA_VISIBLE_DEVICES"].split(",")
    for rank in made.ranks:  # by TensorRT-LLM's own rules: mapping.py, executor/base_worker.py
        node, local = rank.rank // per_node, int(shown[rank.rank % len(shown)])
        assert rank.gpu == node * 8 + local
    assert any("the last node of server 0 has 4 ranks" in note for note in made.notes)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    scenario, plan = plan_of(NODES)
    reading = read_plan(
        script_text(launch, "a title"),
        Question("export", "back", "qwen3-32b", scenario.llm, "4xhgx-h100", scenario.workload,
                 folder=tmp_path, num_gpus=32, node_gpus=8),
    )  # fmt: skip
    back = plan_from_spec(PlanSpec.model_validate(reading.document), scenario)
    assert (back.gpus, back.stages, back.batch) == (plan.gpus, plan.stages, plan.batch)


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        ([[0, 1, 2, 3], [8, 9, 10, 11], [12, 13, 14, 15]],
         r"4, 8 ranks, and TensorRT-LLM takes rank r to be on node r // gpus_per_node"),
        ([[0, 1, 2, 3], [4, 5, 8, 9], [10, 11, 16, 17]], "6, 4, 2 ranks, and TensorRT-LLM takes"),
        ([[0, 1, 2, 3], [4, 5, 6, 7], [12, 13, 14, 15]], "GPUs in different orders"),
    ],
)  # fmt: skip
def test_other_uneven_counts_are_refused_by_the_rule_of_tensorrt_llm(
    stages: list[list[int]], why: str
) -> None:
    with pytest.raises(InexpressibleError, match=why):
        exported("trtllm", stages)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "megatron"])
def test_other_engines_want_as_many_on_each_node(engine: str) -> None:
    with pytest.raises(InexpressibleError, match="2, 1 ranks, and the engine wants as many"):
        exported(engine, [[6], [7], [8]])
