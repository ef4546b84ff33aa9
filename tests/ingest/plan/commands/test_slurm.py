"""What #SBATCH lines say is known to the commands below them."""

import pytest

from autopar.catalog import load_llm
from autopar.errors import SpecError
from autopar.ingest.plan import Question, read_plan
from autopar.ingest.plan.commands.slurm import job_variables

HEAD = "#!/bin/bash\n#SBATCH --job-name=x\n"


def degrees(text: str) -> dict[str, int]:
    llm = load_llm("llama-3.1-8b")
    return read_plan(text, Question("text", "p", llm_name=llm.name, llm=llm)).document["degrees"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("--nodes=4", {"SLURM_NNODES": "4", "SLURM_JOB_NUM_NODES": "4"}),
        ("-N 4", {"SLURM_NNODES": "4", "SLURM_JOB_NUM_NODES": "4"}),
        ("-N4  # four", {"SLURM_NNODES": "4", "SLURM_JOB_NUM_NODES": "4"}),
        ("--nodes 4-4", {"SLURM_NNODES": "4", "SLURM_JOB_NUM_NODES": "4"}),
        ("--nodes=2-4", {}),
        ("--nodes=many", {}),
        ("", {}),
        ("--nodes", {}),
        ("--gpus-per-node=h100:8", {"SLURM_GPUS_PER_NODE": "h100:8", "SLURM_GPUS_ON_NODE": "8"}),
        ("--gres=gpu:h100:8", {"SLURM_GPUS_ON_NODE": "8"}),
        ("--gres=nvme:1,gpu:4", {"SLURM_GPUS_ON_NODE": "4"}),
        ("-n 32", {"SLURM_NTASKS": "32", "SLURM_NPROCS": "32"}),
        ("-G 32 -c 12", {"SLURM_GPUS": "32", "SLURM_CPUS_PER_TASK": "12"}),
        (
            "--nodes=4 --ntasks-per-node=8",
            {
                "SLURM_NNODES": "4", "SLURM_JOB_NUM_NODES": "4", "SLURM_NTASKS": "32",
                "SLURM_NPROCS": "32", "SLURM_NTASKS_PER_NODE": "8",
            },
        ),
        ("--nodes=2\n#SBATCH --nodes=4", {"SLURM_NNODES": "4", "SLURM_JOB_NUM_NODES": "4"}),
    ],
)  # fmt: skip
def test_variables_of_the_job(lines: str, expected: dict[str, str]) -> None:
    assert job_variables(f"{HEAD}#SBATCH {lines}\n") == expected


@pytest.mark.parametrize(
    "text",
    [
        "##SBATCH --nodes=4\n",
        "# SBATCH --nodes=4\n",
        "module load x\n#SBATCH --nodes=4\n",  # sbatch stops at the first command
        "#SBATCH hetjob\n#SBATCH --nodes=4\n",
        "vllm serve m\n",
        "",
    ],
)
def test_what_sbatch_does_not_read_sets_nothing(text: str) -> None:
    assert job_variables(text) == {}


TORCHRUN = (
    "srun torchrun --nnodes {} --nproc-per-node {} --rdzv-endpoint a:1 x.py "
    "--tensor-model-parallel-size 8\n"
)


@pytest.mark.parametrize(
    ("nodes", "per_node"),
    [
        ("$SLURM_NNODES", "8"),
        ("${SLURM_JOB_NUM_NODES}", "${SLURM_GPUS_ON_NODE:-1}"),
        ("${SLURM_NNODES:-1}", "$SLURM_GPUS_PER_NODE"),
        ("$((SLURM_NNODES))", "8"),
    ],
)
def test_commands_know_what_the_script_asks_slurm_for(nodes: str, per_node: str) -> None:
    head = f"{HEAD}#SBATCH --nodes=4\n#SBATCH --gpus-per-node=8\n\n"
    assert degrees(head + TORCHRUN.format(nodes, per_node))["replicas"] == 4
    with pytest.raises(SpecError, match="nothing that was read sets"):
        degrees(HEAD + TORCHRUN.format("$SLURM_NNODES", 8))


def test_what_the_script_sets_itself_goes_before() -> None:
    head = f"{HEAD}#SBATCH --nodes=4\nSLURM_NNODES=2\n"
    assert degrees(head + TORCHRUN.format("$SLURM_NNODES", 8))["replicas"] == 2


@pytest.mark.parametrize(
    ("step", "replicas"),
    [
        ("srun", 4),
        ("srun --nodes=2", 2),
        ("srun --ntasks=8", 1),
        ("srun --ntasks-per-node=4", 2),
        ("", 1),  # no step: the script runs it once
    ],
)
def test_a_step_of_srun_takes_the_tasks_of_its_job(step: str, replicas: int) -> None:
    """Hand-worked: 4 nodes with 8 tasks are 32 ranks, 4 copies of 8; 2 nodes are 16, 2 copies."""
    head = f"{HEAD}#SBATCH -N 4\n#SBATCH --ntasks-per-node=8\n"
    text = f"{step} python x.py --tensor-model-parallel-size 8\n"
    assert degrees(head + text)["replicas"] == replicas
