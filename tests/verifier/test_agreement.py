"""Two programs, one physics: the walk arrives at the numbers of the cost tables.

Random models of every kind of layer and precision, random work, random layouts.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopar.batches import with_batch
from autopar.constraints.gpu_blocks import GpuBlocks
from autopar.costs.steps import most_sequences
from autopar.problem import Candidate, Problem
from autopar.search import make_task
from autopar.segments import plan_costs
from autopar.specs import LLM, Architecture, CostFactors, Scenario, Workload
from autopar.specs.counting import parameters
from autopar.unfold import unfold
from autopar.verifier import verify_plan
from autopar.verifier.work import largest_batch

PRECISIONS = ["bf16", "fp8", "fp8_block", "int4", "mxfp4", "nvfp4"]
NUM_EXPERTS = 6
LINK = {"bandwidth_bytes_per_s": 4e11, "latency_us": 1.0}


def some(**options):
    """Return a mapping with each key drawn from its strategy, list of values, or constant."""

    def strategy(option):
        if isinstance(option, st.SearchStrategy):
            return option
        return st.sampled_from(option) if isinstance(option, list) else st.just(option)

    return st.fixed_dictionaries({key: strategy(option) for key, option in options.items()})


GROUPED = some(
    kind="gqa", num_heads=[12, 24], num_kv_heads=[1, 2, 4, 12], head_dim=[64, 80],
    window_tokens=[None, 5, 100, 3000], gates_output=[False, True],
    other_parameters=[0, 160],
)  # fmt: skip
LATENT = some(
    kind="mla", num_heads=[12, 24], q_lora_rank=[None, 96], kv_lora_rank=64, qk_nope_head_dim=48,
    qk_rope_head_dim=16, v_head_dim=40, other_parameters=[0, 160],
)  # fmt: skip
INDEXED = some(
    kind="mla", num_heads=12, q_lora_rank=[None, 96], kv_lora_rank=64, qk_nope_head_dim=48,
    qk_rope_head_dim=16, v_head_dim=40, index_heads=4, index_head_dim=32, index_tokens=[50, 1000],
)  # fmt: skip
LINEAR = some(
    kind="linear", num_heads=12, input_columns=[1200, 1201], output_rows=[600, 601],
    state_elements=[9600, 9601], other_parameters=[0, 50],
)  # fmt: skip
DENSE = some(kind="dense", ffn_size=[960, 1440], num_matrices=[2, 3], other_parameters=[0, 7])
# Experts of all layers are of one size: the tables take those of the largest for all.
EXPERTS = some(
    kind="moe", num_experts=NUM_EXPERTS, experts_per_token=2, expert_size=336,
    shared_size=[0, 240], latent_size=[None], num_matrices=[3], other_parameters=[0, 9],
    other_parameters_per_expert=[4],
)  # fmt: skip
LATENT_EXPERTS = some(
    kind="moe", num_experts=NUM_EXPERTS, experts_per_token=3, expert_size=336, shared_size=240,
    latent_size=100, num_matrices=2,
)  # fmt: skip


@st.composite
def architectures(draw, *, is_moe, only_experts=False):
    """Return an architecture of up to six layers with attention and feed-forwards of all kinds."""
    attention = draw(st.lists(st.one_of(GROUPED, LATENT, INDEXED, LINEAR), min_size=1, max_size=3))
    experts = draw(st.one_of(st.lists(EXPERTS, min_size=1, max_size=2), st.lists(
        LATENT_EXPERTS, min_size=1, max_size=1))) if is_moe else []  # fmt: skip
    dense = [] if only_experts else draw(st.lists(DENSE, min_size=not experts, max_size=2))
    shelves = {
        "attention": {f"a{i}": part for i, part in enumerate(attention)},
        "feed_forward": {f"f{i}": part for i, part in enumerate(experts + dense)},
    }
    names = {key: [None, *shelf] if not only_experts else list(shelf)
             for key, shelf in shelves.items()}  # fmt: skip
    layer = some(**names, other_parameters=[0, 512]).filter(
        lambda part: part["attention"] or part["feed_forward"]
    )
    first = {"attention": "a0", "feed_forward": "f0", "other_parameters": 512}
    layers = [first, *draw(st.lists(layer, min_size=1, max_size=5))]
    drafts = draw(some(layer=layer, count=[1, 2], other_parameters=[0, 1000]))
    return Architecture.model_validate({
        "hidden_size": draw(st.sampled_from([256, 384])), "vocab_size": 5003,
        "shares_embeddings": draw(st.booleans()), **shelves,
        "layers": [{"layers": draw(st.permutations(layers))}],
        "other_parameters": 256, "next_token_prediction": drafts,
    })  # fmt: skip


REQUEST = {"input_tokens": [1, 37, 1000, 20_000, 20_000], "prefill_chunk_tokens": [512, 3000, 8192]}
OUTPUT = {
    "output_tokens": [1, 2, 300], "max_batch_sequences": [7, 200],
    "speculation": st.one_of(st.none(), some(draft_tokens=[1, 3], acceptance=[0.1, 0.7])),
}  # fmt: skip
WORKLOADS = {
    "given prefill": some(phase="prefill", batch_tokens=[1, 130, 9000], sequence_tokens=[27, 700]),
    "given decode": some(phase="decode", batch_sequences=[1, 130, 1000], sequence_tokens=[20, 999]),
    "prefill": some(phase="prefill", prompts_ahead=[0.0, 2.5], **REQUEST),
    "decode": some(phase="decode", **REQUEST, **OUTPUT),
    "serving": some(phase="serving", prompts_ahead=[0.0, 1.0], **REQUEST, **OUTPUT),
}


ENGINES = st.one_of(st.none(), some(
    name="mixed-engine", step_us=[0, 250.0], sequence_us=[0, 12.5], layer_us=[0, 31.0],
    all_reduce_us=[0, 7.0], key_reads=[1, 3.5, 100], two_batch_overlap=[False, True],
))  # fmt: skip
FACTORS = st.dictionaries(
    st.sampled_from(sorted(CostFactors.model_fields)), st.sampled_from([0.5, 1.25]), max_size=3
)


def scenario_of(
    architecture,
    precisions,
    workload,
    coverage="up_to",
    cp=1,
    load="even",
    engine=None,
    factors=None,
):
    """Return a scenario on 12 GPUs in nodes of 6, or on as many as a partition needs."""
    num_nodes = 2 * architecture.num_layers if coverage == "partition" else 2
    llm = LLM(
        name="mixed-llm", num_layers=architecture.num_layers,
        num_experts=architecture.num_experts,
        experts_per_token=architecture.experts_per_token,
        num_parameters=parameters(architecture), precisions=precisions,
        architecture=architecture,
    )  # fmt: skip
    loads = {"expert_load": load if llm.is_moe or load != "measured" else "even"}
    if loads["expert_load"] == "measured":
        shape = len(llm.expert_layers), llm.num_experts
        loads["expert_counts"] = np.random.RandomState(0).lognormal(3, 2, shape).tolist()
    return Scenario.model_validate({
        "name": "mixed",
        "llm": llm,
        "cluster": {
            "name": "mixed-cluster", "num_nodes": num_nodes, "gpus_per_node": 6,
            "gpus_per_domain": 12 if coverage == "partition" else 6,
            "gpu": {
                "name": "mixed-gpu", "peak_flops_per_s": 1e15, "fp8_flops_per_s": 2e15,
                "memory_bytes": 80e9, "memory_bandwidth_bytes_per_s": 3e12,
            },
            "links": {"node": LINK, "domain": {**LINK, "latency_us": 2.0},
                      "fabric": {"bandwidth_bytes_per_s": 5e10, "latency_us": 4.0}},
        },
        "workload": {"name": "mixed-work", **loads, **workload},
        "requirements": {"coverage": coverage, "max_context_parallel_size": cp, "max_spread": 3},
        "recipe": {"name": "default"},
        "engine": engine,
        "cost_factors": factors or {},
    })  # fmt: skip


@st.composite
def layouts(draw, scenario):
    """Return a problem, a candidate of it with a batch, and a split."""
    problem = make_task(scenario).problem
    rows = problem.candidates
    rows = rows.take(np.flatnonzero(GpuBlocks().allowed_rows(problem, rows)))
    most = np.ones(len(rows), dtype=np.int64)
    if scenario.workload.is_open:
        most = most_sequences(scenario.workload, rows.chunks)
        rows, most = rows.take(most > 0), most[most > 0]
    if not len(rows):
        return None
    index = draw(st.integers(0, len(rows) - 1))
    if scenario.workload.is_open:
        rows = with_batch(rows, draw(st.integers(1, int(most[index]))))
    candidate = rows.row(index)
    cuts = st.integers(1, problem.num_layers - 1)
    cuts = draw(st.sets(cuts, min_size=candidate.pp - 1, max_size=candidate.pp - 1))
    return problem, candidate, np.diff([0, *sorted(cuts), problem.num_layers]).tolist()


def assert_agrees(problem: Problem, candidate: Candidate, split: list[int]) -> None:
    plan = unfold(problem, candidate, split)
    if list(GpuBlocks().check(plan, problem)):  # a stage of a partition that lies over an edge
        assert candidate.spread == 0
        return
    metrics, costs = verify_plan(problem.scenario, plan).metrics, plan_costs(plan, problem)
    where = f"{candidate} {split}"
    assert metrics is not None, where
    truth = {
        "tokens_per_s": costs.tokens_per_s.min(),
        "ttft_us": None if problem.scenario.workload.phase == "decode" else costs.time_us.sum(),
        "tpot_us": None if costs.tpot_us is None else costs.tpot_us.max(),
        "peak_memory_bytes": costs.memory_bytes.max(),
    }
    for name, value in truth.items():
        expected = None if value is None else pytest.approx(value, rel=1e-9)
        assert getattr(metrics, name) == expected, f"{name}: {where}"


@pytest.mark.parametrize("phase", WORKLOADS)
@settings(
    max_examples=20, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(data=st.data())
def test_walk_arrives_at_the_numbers_of_the_cost_tables(phase, data):
    coverage = data.draw(st.sampled_from(["up_to", "every_gpu", "partition"]), "coverage")
    partition = coverage == "partition"
    is_moe = partition or data.draw(st.booleans(), "is_moe")
    architecture = data.draw(architectures(is_moe=is_moe, only_experts=partition), "architecture")
    scenario = scenario_of(
        architecture,
        data.draw(some(
            attention=PRECISIONS, feed_forward=PRECISIONS, experts=PRECISIONS,
            embeddings=["bf16", "fp8"], kv_cache=["bf16", "fp8"],
        )),
        data.draw(WORKLOADS[phase], "workload"),
        coverage,
        data.draw(st.sampled_from([1, 4]), "cp"),
        data.draw(st.sampled_from(["even", "power_law_1.2", "measured"]), "load"),
        data.draw(ENGINES, "engine"),
        data.draw(FACTORS, "factors"),
    )  # fmt: skip
    for _ in range(3):
        layout = data.draw(layouts(scenario))
        if layout is not None:
            assert_agrees(*layout)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    phase=st.sampled_from(["prefill", "decode", "serving"]),
    length=st.integers(1, 40_000),
    output=st.integers(1, 5000),
    step=st.integers(16, 20_000),
    most=st.integers(1, 2000),
    chunks=st.integers(1, 300),
)
def test_verify_takes_the_batches_that_the_search_looks_at(
    phase, length, output, step, most, chunks
):
    work = Workload(
        name="work", phase=phase, input_tokens=length, prefill_chunk_tokens=step,
        max_batch_sequences=most, output_tokens=None if phase == "prefill" else output,
    )  # fmt: skip
    found, _ = largest_batch(work, chunks)
    assert found == most_sequences(work, np.array([chunks]))[0]
