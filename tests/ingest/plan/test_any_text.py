"""Whatever is pasted gives a plan or one clear error, in little time."""

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.catalog import load_llm
from autopar.errors import SpecError
from autopar.ingest.plan import Question, read_plan
from autopar.ingest.plan.reading import models_in

PIECES = (
    "vllm serve m",
    "-tp 8",
    "-tp",
    "--config",
    "x.yaml",
    "$A",
    "${A",
    "${A:-8}",
    "$((1+",
    "$((2*3))",
    "$(",
    "`",
    "'",
    '"',
    "\\\n",
    "\n",
    " ",
    "#",
    "<<EOF",
    "\nEOF\n",
    ">",
    "2>&1",
    "&",
    "(",
    ")",
    "A=(1 2)",
    "A=3\n",
    '"${A[@]}"',
    "docker run",
    "--gpus device=1",
    "bash -c",
    "--a.b",
    "=",
    "3",
    "'vllm serve m -tp 2'",
    "for i in 1;",
    "do",
    "done",
    "if",
    "fi",
    "sglang.launch_server",
    "--tp 4",
    "trtllm-serve m",
    "--tp_size 2",
    "torchrun",
    "vllm-router --port 1",
    "disaggregated",
    "--nproc-per-node 8",
    "x.py",
    "--nnodes 2",
    "--tensor-model-parallel-size 2",
    "CUDA_VISIBLE_DEVICES=1,0",
    "--node-rank",
    "{",
    "}",
    "[",
    "]",
    "apiVersion: v1\nkind: Pod\n",
    "kind: LeaderWorkerSet\n",
    "kubectl apply",
    "--base-gpu-id 1",
    "services:\n  a: {image: vllm-openai, command: --model m}\n",
    "tensor_parallel_size: 2\n",
    "spec: {containers: [{command: [vllm, serve, m]}]}\n",
    "kv_cache_config: {a: 1}\n",
    "spec: {template: {spec: {containers: 3}}, replicas: x}\n",
    "moe_config: {load_balancer: [1]}\n",
    "ssh a",
    "srun -w n1",
    "#SBATCH --nodes=4\n",
    "$SLURM_NNODES",
    "-O3",
    "-O",
    "--eplb-config.num_redundant_experts",
    "context_servers: {}\n",
    "VLLM_PP_LAYER_PARTITION=16,16",
)
LLM = load_llm("mixtral-8x7b")


@given(st.lists(st.sampled_from(PIECES), max_size=20), st.sampled_from(("", " ")))
@settings(max_examples=300, deadline=None)
def test_a_plan_or_one_clear_error(pieces: list[str], glue: str) -> None:
    text = glue.join(pieces)
    with suppress(SpecError):
        models_in(text)
    with suppress(SpecError):
        assert read_plan(text, Question("text", "p", llm_name=LLM.name, llm=LLM)).document


def test_arguments_of_megatron_without_a_launcher_are_read() -> None:
    reading = read_plan(
        "x.py --tensor-model-parallel-size 2", Question("text", "p", llm_name=LLM.name, llm=LLM)
    )
    assert reading.document["degrees"]["tp"] == 2


def test_a_key_with_a_dot_is_an_unknown_one() -> None:
    text = "tensor_parallel_size: 2\na.b: 1\n"
    reading = read_plan(text, Question("text", "p", llm_name=LLM.name, llm=LLM))
    assert any("unknown flag 'a.b'" in note for note in reading.notes)
