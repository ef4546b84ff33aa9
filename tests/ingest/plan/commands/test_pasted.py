"""What people paste: scripts with variables, containers, and manifests."""

import json
from typing import Any

import pytest

from autopar.catalog import load_llm
from autopar.errors import SpecError
from autopar.ingest.plan import Question, Reading, read_plan
from autopar.ingest.plan.commands.shell import commands_in
from autopar.ingest.plan.reading import models_in

VLLM = "vllm serve m --tensor-parallel-size 8 --max-num-seqs 64"
LWS = """
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata: {name: m}
spec:
  replicas: 2
  leaderWorkerTemplate:
    size: 2
    workerTemplate:
      spec:
        containers:
          - name: sglang
            image: lmsysorg/sglang:latest
            command: [sh, -c]
            args:
              - >-
                python3 -m sglang.launch_server --model-path m --tp $(TP) --nnodes $LWS_GROUP_SIZE
                --node-rank $(LWS_WORKER_INDEX) --dist-init-addr $(LWS_LEADER_ADDRESS):20000
                --max-running-requests 64
            env: [{name: TP, value: "16"}]
"""
DEPLOYMENT = """
apiVersion: v1
kind: ConfigMap
metadata: {name: options}
data:
  vllm.yaml: "tensor-parallel-size: 8\\nmax-num-seqs: 64\\n"
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: m}
spec:
  replicas: 3
  template:
    spec:
      volumes: [{name: files, configMap: {name: options}}]
      containers:
        - name: vllm
          image: vllm/vllm-openai:v0.33.0
          args: [--model, m, --config, /etc/vllm/vllm.yaml]
          volumeMounts: [{name: files, mountPath: /etc/vllm}]
"""
COMPOSE = """
services:
  vllm:
    image: vllm/vllm-openai:latest
    command: >
      --model m --tensor-parallel-size ${TP:-2}
      --max-num-seqs 64
    environment: ["CUDA_VISIBLE_DEVICES=1,0"]
    deploy:
      resources:
        reservations:
          devices: [{driver: nvidia, device_ids: ["4", "5"], capabilities: [gpu]}]
"""
MEGATRON = """
GPUS_PER_NODE=8
NUM_NODES=${NUM_NODES:-3}
WORLD_SIZE=$(($GPUS_PER_NODE*$NUM_NODES))
DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE
    --nnodes $NUM_NODES  # a comment
    --master_addr localhost
)
MODEL_ARGS="--tensor-model-parallel-size 8
    --micro-batch-size 1"
MODEL_ARGS+=" --num-layers 32"
torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py $MODEL_ARGS
"""


def read(text: str, model: str = "llama-3.1-8b", **more: Any) -> Reading:
    llm = load_llm(model)
    return read_plan(text, Question("text", "p", llm_name=llm.name, llm=llm, **more))


def degrees(reading: Reading) -> tuple[int, int]:
    found = reading.document["degrees"]
    return found["tp"], found["replicas"]


@pytest.mark.parametrize(
    "text",
    [
        VLLM,
        f"$ {VLLM}",
        f"env NCCL_DEBUG=INFO {VLLM}",
        f"TP=8\n{VLLM.replace('8', '$TP')}",
        f"export TP=8\n{VLLM.replace('8', '${TP}')} > log.txt 2>&1 &",
        "ARGS='--max-num-seqs 64 -tp 8'\nvllm serve m $ARGS",
        'ARGS=(--max-num-seqs 64\n  -tp 8) # two lines\nvllm serve m "${ARGS[@]}"',
        VLLM.replace("8", "$((2 * (1 + 3)))"),
        VLLM.replace("8", "${TP:-8}"),
        f"bash -c '{VLLM}'",
        f'ssh host "cd /srv && {VLLM}"',
        f'srun -N 1 --export=ALL,A=b --container-image i bash -lc "{VLLM}"',
        f"docker run --gpus all -v /a:/b -p 8000:8000 --ipc=host -it --rm img {VLLM}",
        (
            "docker run --runtime nvidia --gpus all --shm-size 32g vllm/vllm-openai:v0.33.0 "
            "--model m --tensor-parallel-size 8 --max-num-seqs 64"
        ),
        "podman run -d vllm/vllm-openai m --tensor-parallel-size 8 --max-num-seqs 64",
        "docker run --entrypoint vllm img serve m -tp 8 --max-num-seqs 64",
        f'docker run --entrypoint /bin/bash vllm/vllm-openai -c "{VLLM}"',
    ],
)
def test_one_server_in_many_wrappings(text: str) -> None:
    reading = read(text)
    assert degrees(reading) == (8, 1)
    assert reading.document["batch"] == 64
    assert models_in(text) == ["m"]
    assert not any(note.startswith("unknown") for note in reading.notes)


def test_docker_of_sglang_names_its_command() -> None:
    text = "docker run --gpus all lmsysorg/sglang:latest python3 -m sglang.launch_server --tp 8"
    assert degrees(read(text)) == (8, 1)


def test_variables_of_docker_are_those_of_the_engine() -> None:
    text = "docker run -e VLLM_PP_LAYER_PARTITION=20,12 -e A=b img vllm serve m -pp 2"
    assert read(text).document["layers_per_stage"] == [20, 12]


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        ("--gpus '\"device=4,5\"'", [4, 5]),
        ("--gpus=device=4,5", [4, 5]),
        ("-e NVIDIA_VISIBLE_DEVICES=4,5", [4, 5]),
        ("--gpus all -e CUDA_VISIBLE_DEVICES=7,6", [7, 6]),
        ("--gpus device=4,5 -e CUDA_VISIBLE_DEVICES=1,0", [5, 4]),
    ],
)
def test_a_container_counts_the_gpus_that_it_is_given_from_0(options: str, gpus: list[int]) -> None:
    reading = read(f"docker run {options} img vllm serve m -tp 2")
    assert reading.document["stages"][0]["gpus"] == gpus


def test_scripts_of_megatron_hold_their_arguments_in_variables() -> None:
    assert degrees(read(MEGATRON)) == (8, 3)


def test_flags_in_a_variable_that_nothing_sets_are_said() -> None:
    reading = read(f"{VLLM} $EXTRA_ARGS")
    assert any("unknown flags in '$EXTRA_ARGS'" in note for note in reading.notes)


@pytest.mark.parametrize("between", ["# a comment", "\\ \n", "\n"])
def test_a_command_that_is_cut_off_is_refused(between: str) -> None:
    text = f"vllm serve m \\\n  -tp 8 {between}\n  --max-num-seqs 8"
    with pytest.raises(SpecError, match=r"line \d: found '--max-num-seqs' where a command begins"):
        read(text)


def test_a_loop_may_start_several_servers_and_is_refused() -> None:
    text = "for i in 0 1; do CUDA_VISIBLE_DEVICES=$i vllm serve m --port 800$i & done"
    with pytest.raises(SpecError, match="inside of `for`"):
        read(text)


def test_a_branch_is_taken_to_run_and_that_is_said() -> None:
    reading = read(f"if [ -d x ]; then\n  {VLLM}\nfi")
    assert degrees(reading) == (8, 1)
    assert any("inside of `if`" in note for note in reading.notes)


def test_commands_substituted_and_backquoted_are_words() -> None:
    (command,) = commands_in("x $(a b $(c)) `d e` $((1 + f)) <(g) 'h'", "text")[:1]
    assert command.words[:4] == ("x", "$(a b $(c))", "`d e`", "$((1 + f))")


@pytest.mark.parametrize(
    "command",
    [
        "$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n1)",
        '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
        "`scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1`",
    ],
)
@pytest.mark.parametrize(
    "server",
    ["SERVER ${HEAD}:5000 -q", "bash -c 'SERVER '$HEAD':5000 -q'", 'SERVER "$HEAD:5000" -q'],
)
def test_what_a_variable_holds_of_a_command_stays_one_word(command: str, server: str) -> None:
    """The first node of a Slurm job, as its batch scripts have it."""
    (found,) = commands_in(f"HEAD={command}\nsrun {server}", "text")
    shown = command if command[0] == "`" else command.strip('"')
    assert found.words == ("srun", "SERVER", f"{shown}:5000", "-q")


def test_the_head_node_of_slurm_is_no_flag_of_the_server() -> None:
    text = (
        "head_node=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n1)\nsrun python3 -m "
        "sglang.launch_server --model-path m --tp 16 --nnodes 2 --node-rank $SLURM_NODEID "
        "--dist-init-addr ${head_node}:5000"
    )
    assert not [note for note in read(text).notes if "unknown" in note]


def test_which_word_of_a_command_an_array_has_is_not_known() -> None:
    text = "A=$(hosts)\nB=($A)\nC=($(hosts) x)\ny ${B[0]} ${B[1]}:5 ${C[1]} ${C[@]} -z"
    (found,) = commands_in(text, "text")
    assert found.words == ("y", "${B[0]}", "${B[1]}:5", "${C[1]}", "$(hosts)", "x", "-z")


def test_a_text_cannot_grow_without_bound() -> None:
    text = "A=aaaaaaaaaa\n" + "A=$A$A$A$A$A$A$A$A$A$A\n" * 30 + "x $A"
    (command,) = commands_in(text, "text")
    assert len(command.words[1]) <= 100_000


def test_a_here_document_is_the_file_that_a_command_names() -> None:
    text = (
        "cat > ./extra.yml <<EOF\nenable_attention_dp: true\nmax_batch_size: $BATCH\nEOF\n"
        "trtllm-serve m --tp_size 8 --ep_size 8 --extra_llm_api_options extra.yml"
    )
    reading = read(f"BATCH=16\n{text}", "mixtral-8x7b")
    assert reading.document["degrees"]["attn_dp"] == 8
    assert reading.document["batch"] == 16
    assert not any("not read: the command" in note for note in reading.notes)


def test_groups_of_a_leader_worker_set_are_servers() -> None:
    assert degrees(read(LWS)) == (16, 2)


def test_ranks_that_a_shell_computes_in_a_pod_are_known() -> None:
    """As the guides of llm-d do: the first data-parallel rank of a node from its number."""
    script = (
        "# START\nSTART=$(( ${LWS_WORKER_INDEX:-0} * LOCAL ))\n"
        "exec vllm serve m --enable-expert-parallel --data-parallel-size $((LWS_GROUP_SIZE*LOCAL)) "
        "--data-parallel-size-local $LOCAL --data-parallel-address ${LWS_LEADER_ADDRESS} "
        "--data-parallel-start-rank $START --max-num-seqs 8\n"
    )
    container = {
        "image": "i", "command": ["/bin/bash", "-c"], "args": [script],
        "env": [{"name": "LOCAL", "value": "8"}],
    }  # fmt: skip
    group = {"size": 2, "workerTemplate": {"spec": {"containers": [container]}}}
    manifest = {
        "apiVersion": "v1", "kind": "LeaderWorkerSet", "metadata": {"name": "m"},
        "spec": {"replicas": 1, "leaderWorkerTemplate": group},
    }  # fmt: skip
    found = read(json.dumps(manifest), "deepseek-v3").document["degrees"]
    assert (found["replicas"], found["attn_dp"], found["ep"]) == (1, 16, 16)


def test_a_manifest_in_a_here_document_is_read() -> None:
    text = f"NAMESPACE=a\nkubectl apply -n $NAMESPACE -f - <<'EOF'\n{DEPLOYMENT}\nEOF\n"
    assert degrees(read(text)) == (8, 3)


def test_replicas_of_a_deployment_are_servers_and_config_maps_files() -> None:
    assert degrees(read(DEPLOYMENT)) == (8, 3)
    assert models_in(DEPLOYMENT) == ["m"]


def test_services_of_compose_are_servers() -> None:
    reading = read(COMPOSE)
    assert degrees(reading) == (2, 1)
    assert reading.document["stages"][0]["gpus"] == [5, 4]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LWS.replace("replicas: 2", "replicas: 99999999"), "replicas: found"),
        (LWS.replace("replicas: 2", "replicas: 65000"), "pods, expected at most"),
        (LWS.replace('value: "16"', "valueFrom: {x: y}"), "'\\$TP'"),
        (COMPOSE.replace("vllm/vllm-openai", "redis"), "no command of an engine"),
        (DEPLOYMENT.replace("/etc/vllm/vllm.yaml", "/etc/other.yaml"), "no such file"),
        ("apiVersion: v1\nkind: *x\n", "alias"),
    ],
)
def test_manifests_that_say_nothing_certain_are_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read(text)
