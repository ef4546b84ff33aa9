"""torchrun with Megatron's arguments: what they say about a plan: docs/engines/megatron.md."""

from collections.abc import Mapping, Sequence

from autopar.errors import SpecError, shorten
from autopar.ingest.plan.beside import Beside
from autopar.ingest.plan.flags import (
    NO_USE,
    Given,
    counted,
    given_flags,
    said_of,
    said_of_unknown,
    unset_in,
)
from autopar.ingest.plan.found import Bearing, Found, Nodes, Place, expert_degrees
from autopar.ingest.plan.megatron_model import refuse_another_model, takes_checkpoint
from autopar.ingest.plan.megatron_stages import layers_of_stages
from autopar.specs import LLM

_MARK = "--tensor-model-parallel-size"
# What starts the processes: torchrun, and srun or mpirun. Sources: torch 2.13, distributed/run.py;
# srun(1); mpirun(1) of Open MPI.
_LAUNCHERS = ("--nnodes", "--node-rank", "--nproc-per-node", "--master-addr", "--master-port",
              "--rdzv-endpoint", "--ntasks-per-node", "--ntasks", "--nodes", "-n", "-np",
              "-N")  # fmt: skip
BEARING = Bearing(
    refused={
        "--num-virtual-stages-per-pipeline-rank": "virtual stages: a stage of a plan holds "
        "consecutive layers",
        "--use-mp-args-from-checkpoint-args": "parallel sizes of a checkpoint, which is not read",
        "--use-megatron-fsdp": "weights are cut over data-parallel ranks, and a plan copies them",
    },
    told={
        "--fp8-format": "the plan's model says how weights are stored; see its precisions",
        "--mtp-num-layers": "the plan's workload says how many tokens are drafted",
    },
)


def starts(words: Sequence[str]) -> int | None:
    """Return 0 where Megatron's arguments are among the words: torchrun's count as well."""
    return 0 if any(word.partition("=")[0] == _MARK for word in words) else None


def read(
    words: Sequence[str],
    env: Mapping[str, str],
    llm: LLM | None,
    beside: Beside,  # noqa: ARG001  as for every engine; none of its arguments names a file of them
) -> Found:
    """Return what one command says.

    Raises SpecError for values that are none, and for what no plan can hold.
    """
    launcher, rest, beside_it = _launcher(words)
    given = given_flags("megatron", rest, {})
    nodes = counted("megatron: --nnodes", launcher.get("--nnodes", "1").rpartition(":")[2])
    tp, cp = given.number(_MARK), given.number("--context-parallel-size")
    pp = given.number("--pipeline-model-parallel-size")
    is_step = any(word.rpartition("/")[2] == "srun" for word in words)
    job = {name: value for name, value in env.items() if name.startswith("SLURM_")}
    world = _world(launcher, env, nodes, job if is_step else {})
    notes = [*BEARING.of(given), *said_of_unknown(given), *_said_of_no_experts(given, llm)]
    if world is None:
        world = tp * cp * pp * _least_groups(given, tp, cp)
        notes.append(
            f"the number of GPUs is not stated (torchrun --nnodes, --nproc-per-node): {world} is "
            "the least"
        )
    if world % (tp * cp * pp):
        raise SpecError(f"megatron: {world} GPUs do not divide by tp * cp * pp = {tp * cp * pp}")
    groups = world // (tp * cp * pp)
    attn_dp, ep, etp = _experts(given, llm, tp, cp, world // pp)
    replicas = groups // attn_dp
    place = _order(given, (tp * cp, attn_dp, replicas, pp))
    split = layers_of_stages(given, llm, pp)
    micro = given.optional("--micro-batch-size")
    own_ep, own_etp = expert_degrees(llm, ep, etp, tp)
    if llm is not None:
        refuse_another_model(given, llm)
    server = launcher.get("--rdzv-endpoint") or (
        f"{launcher.get('--master-addr', '')}:{launcher.get('--master-port', '')}"
    )
    notes += said_of(NO_USE, [*beside_it, *given.rest()])
    return Found(
        "megatron", "", "", tp, cp, attn_dp, own_ep, own_etp, pp, place,
        replicas=replicas,
        split=split,
        resident=None if micro is None else micro * pp,
        nodes=Nodes(server, nodes, _node_rank(launcher, nodes)),
        notes=tuple(notes),
    )  # fmt: skip


def _launcher(words: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Return flags of what starts the processes, the words after it, and its flags of no use.

    The script is the first word that ends in .py, or the last that -m names; without one, any word
    may be either's.
    """
    modules = [i + 1 for i, word in enumerate(words) if word == "-m"]
    scripts = [i for i, word in enumerate(words) if word.endswith(".py")]
    script = next(iter((*scripts, *modules[::-1])), None)
    before, rest = (words, list(words)) if script is None else (words[:script], [*words[script:]])
    found: dict[str, str] = {}
    for word, following in zip(before, [*before[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        if name in _LAUNCHERS:
            found[name] = value if equals else following
    if script is None:
        rest = [w for w in rest if w.partition("=")[0].replace("_", "-") not in _LAUNCHERS]
        return found, rest, []
    names = (word.partition("=")[0] for word in before if word.startswith("-"))
    others = [n for n in names if n.replace("_", "-") not in _LAUNCHERS and n not in ("-", "-m")]
    return found, rest, others


def _world(
    launcher: Mapping[str, str], env: Mapping[str, str], nodes: int, job: Mapping[str, str]
) -> int | None:
    """Return the number of processes; None where nothing says it.

    job: what the job of Slurm sets, of which a step of srun takes what it does not say itself.
    Raises SpecError where it is said and cannot be told, as by a variable that nothing sets.
    """
    if "--nproc-per-node" in launcher:
        return nodes * counted("megatron: --nproc-per-node", launcher["--nproc-per-node"])
    if "--nnodes" in launcher and nodes > 1:
        raise SpecError(
            f"megatron: --nnodes {nodes} without --nproc-per-node; expected how many GPUs of a "
            "node it starts"
        )
    for flag in ("-n", "-np", "--ntasks"):
        if flag in launcher:
            return counted(f"megatron: {flag}", launcher[flag])
    stated = launcher.get("--nodes") or launcher.get("-N")
    per_node = launcher.get("--ntasks-per-node") or job.get("SLURM_NTASKS_PER_NODE")
    if "--ntasks-per-node" in launcher or (stated and per_node):
        machines = stated or job.get("SLURM_NNODES") or "1"
        on_node = counted("megatron: --ntasks-per-node", per_node or "")
        return on_node * counted("megatron: --nodes", machines)
    if "SLURM_NTASKS" in job:
        return counted("megatron: SLURM_NTASKS", job["SLURM_NTASKS"])
    world = env.get("WORLD_SIZE", "")
    return counted("megatron: WORLD_SIZE", world) if world else None


def _node_rank(launcher: Mapping[str, str], nodes: int) -> int | None:
    """Return which node a command is for; None where nothing says it, as every node gets it.

    With --rdzv-endpoint torchrun finds it by itself.
    """
    text = launcher.get("--node-rank", "" if nodes > 1 else "0")
    if not text or unset_in(text):
        return None
    if not text.isdecimal() or int(text[:10]) >= nodes:
        raise SpecError(
            f"megatron: --node-rank: found {shorten(text)}, expected one of 0 to {nodes - 1}"
        )
    return int(text)


def _least_groups(given: Given, tp: int, cp: int) -> int:
    grid = given.number("--expert-model-parallel-size") * given.number(
        "--expert-tensor-parallel-size", tp
    )
    return max(1, -(-grid // (tp * cp)))


def _experts(given: Given, llm: LLM | None, tp: int, cp: int, stage: int) -> tuple[int, int, int]:
    """Return attention groups of one replica, ep and etp; stage: GPUs of a stage, of all replicas.

    Every grid of experts beyond the first is a copy, so that a replica is what one grid covers.
    """
    ep = given.number("--expert-model-parallel-size")
    etp = given.number("--expert-tensor-parallel-size", tp)
    if not _has_experts(given, llm, ep):
        return 1, 1, tp
    if stage % (ep * etp):
        raise SpecError(
            f"megatron: {stage} GPUs of a stage do not divide by ep * etp = {ep * etp}; Megatron "
            "takes the arguments and fails when it builds its groups"
        )
    if ep * etp % (tp * cp):
        raise SpecError(
            f"megatron: a grid of experts has ep * etp = {ep * etp} GPUs, an attention group tp * "
            f"cp = {tp * cp}: experts are copied inside of a replica, and a plan has them once"
        )
    return ep * etp // (tp * cp), ep, etp


def _has_experts(given: Given, llm: LLM | None, ep: int) -> bool:
    """Whether there are experts: in the plan's model, by the command where that is not known.

    Raises SpecError where Megatron refuses ep, as neither the command nor a checkpoint has experts.
    """
    stated = given.text("--num-experts") not in ("", "0")
    loaded = takes_checkpoint(given) and (llm is None or llm.is_moe)
    if ep > 1 and not stated and not loaded:
        known = "" if llm is None or llm.is_moe else f" (the model {llm.name!r} has none)"
        raise SpecError(
            f"megatron: --expert-model-parallel-size {ep} without --num-experts{known}: Megatron "
            "refuses it (num_experts must be non None to use expert model parallelism); state it, "
            "or --load with --use-checkpoint-args, which takes the model from its checkpoint"
        )
    return stated or ep > 1 if llm is None else llm.is_moe


def _said_of_no_experts(given: Given, llm: LLM | None) -> list[str]:
    """Return a note where Megatron builds a model without the experts of the plan's."""
    is_without = given.text("--num-experts") in ("", "0") and not takes_checkpoint(given)
    if llm is None or not llm.is_moe or not is_without:
        return []
    note = (
        "neither --num-experts nor a checkpoint (--load with --use-checkpoint-args) is stated: "
        f"Megatron builds a model without experts; the plan has the {llm.num_experts} of {llm.name}"
    )
    return [note]


def _order(given: Given, sizes: tuple[int, int, int, int]) -> "_Order":
    return _Order(*sizes, stages_inside=given.has("--use-tp-pp-dp-mapping"))


class _Order:
    """Rank -> replica, stage, our own rank; "tp-cp-ep-dp-pp", or "tp-cp-ep-pp-dp"."""

    def __init__(
        self, group: int, attn_dp: int, replicas: int, pp: int, *, stages_inside: bool
    ) -> None:
        self.group, self.attn_dp, self.replicas, self.pp = group, attn_dp, replicas, pp
        self.stages_inside = stages_inside

    def __call__(self, rank: int) -> Place:
        outer, own = divmod(rank, self.group)
        if self.stages_inside:
            data, stage = divmod(outer, self.pp)
        else:
            stage, data = divmod(outer, self.attn_dp * self.replicas)
        replica, part = divmod(data, self.attn_dp)
        return replica, stage, part * self.group + own
