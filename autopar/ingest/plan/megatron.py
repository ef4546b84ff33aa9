"""torchrun with Megatron's arguments: what they say about a plan: docs/engines/megatron.md."""

import re
from collections.abc import Mapping, Sequence

from autopar.errors import SpecError, shorten
from autopar.ingest.plan.flags import Given, given_flags, said_of_unknown
from autopar.ingest.plan.found import Bearing, Found, Place, expert_degrees
from autopar.specs import LLM
from autopar.specs.base import MAX_LAYERS

_MARK = "--tensor-model-parallel-size"
_OF_TORCHRUN = {
    "--nnodes": "--nnodes",
    "--node-rank": "--node-rank",
    "--node_rank": "--node-rank",
    "--nproc-per-node": "--nproc-per-node",
    "--nproc_per_node": "--nproc-per-node",
    "--master-addr": "--master-addr",
    "--master_addr": "--master-addr",
    "--master-port": "--master-port",
    "--master_port": "--master-port",
    "--rdzv-endpoint": "--rdzv-endpoint",
    "--rdzv_endpoint": "--rdzv-endpoint",
}
BEARING = Bearing(
    refused={
        "--num-layers-per-virtual-pipeline-stage": "virtual stages: a stage of a plan holds "
        "consecutive layers",
        "--num-virtual-stages-per-pipeline-rank": "virtual stages: a stage of a plan holds "
        "consecutive layers",
        "--use-megatron-fsdp": "weights are cut over data-parallel ranks, and a plan copies them",
    },
    told={
        "--fp8-format": "the plan's model says how weights are stored; see its precisions",
        "--mtp-num-layers": "the plan's workload says how many tokens are drafted",
        "--account-for-embedding-in-pipeline-split": "counts the embedding as a layer",
        "--account-for-loss-in-pipeline-split": "counts the loss as a layer",
    },
)


def starts(words: Sequence[str]) -> int | None:
    """Return 0 where Megatron's arguments are among the words: torchrun's count as well."""
    return 0 if any(word.partition("=")[0] == _MARK for word in words) else None


def read(words: Sequence[str], env: Mapping[str, str], llm: LLM | None) -> Found:
    """Return what one command says.

    Raises SpecError for values that are none, and for what no plan can hold.
    """
    launcher, rest = _launcher(words)
    given = given_flags("megatron", rest, {})
    tp, cp = given.number(_MARK), given.number("--context-parallel-size")
    pp = given.number("--pipeline-model-parallel-size")
    world, nodes = _world(launcher, env)
    notes = [*BEARING.of(given), *said_of_unknown(given)]
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
    split = _split(given, llm, pp)
    micro = given.optional("--micro-batch-size")
    own_ep, own_etp = expert_degrees(llm, ep, etp, tp)
    rank = launcher.get("--node-rank") or "0"
    return Found(
        "megatron", "", "", tp, cp, attn_dp, own_ep, own_etp, pp, place,
        replicas=replicas,
        split=split,
        resident=None if micro is None else micro * pp,
        server=launcher.get("--rdzv-endpoint")
        or f"{launcher.get('--master-addr', '')}:{launcher.get('--master-port', '')}",
        node_rank=int(rank) if rank.isdigit() else 0,
        nodes=nodes,
        notes=tuple(notes),
    )  # fmt: skip


def _launcher(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return torchrun's own flags, and the words that are left: a script and its arguments."""
    found: dict[str, str] = {}
    rest: list[str] = []
    place = 0
    while place < len(words):
        name, equals, value = words[place].partition("=")
        place += 1
        if name in _OF_TORCHRUN:
            if not equals and place < len(words):
                value = words[place]
                place += 1
            found[_OF_TORCHRUN[name]] = value
        else:
            rest.append(words[place - 1])
    return found, rest


def _world(launcher: Mapping[str, str], env: Mapping[str, str]) -> tuple[int | None, int]:
    """Return the number of processes, None where nothing says it, and the number of nodes."""
    nodes = launcher.get("--nnodes", "1").rpartition(":")[2]
    number = int(nodes) if nodes.isdigit() and int(nodes) else 1
    on_node = launcher.get("--nproc-per-node", "")
    if on_node.isdigit() and int(on_node):
        return number * int(on_node), number
    world = env.get("WORLD_SIZE", "")
    return (int(world) if world.isdigit() and int(world) else None), number


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
    given.text("--num-experts")
    if (llm is not None and not llm.is_moe) or "--num-experts" not in given.values:
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


def _split(given: Given, llm: LLM | None, pp: int) -> tuple[int, ...] | None:
    """Return layers of stages from a layout, from first and last, or equal ones.

    Raises SpecError for a layout of virtual stages, and for layers that do not divide.
    """
    text = given.text("--pipeline-model-parallel-layout")
    if text:
        return _of_layout(text, pp)
    first = given.optional("--decoder-first-pipeline-num-layers")
    last = given.optional("--decoder-last-pipeline-num-layers")
    layers = given.optional("--num-layers") or (None if llm is None else llm.num_layers)
    if pp == 1 or layers is None:
        return None
    middle = layers - (first or 0) - (last or 0)
    stages = pp - (first is not None) - (last is not None)
    if (stages and (middle < stages or middle % stages)) or (not stages and middle):
        raise SpecError(
            f"megatron: {layers} layers do not divide over {pp} stages; Megatron wants "
            "--pipeline-model-parallel-layout"
        )
    split = [middle // stages] * stages if stages else []
    return tuple(([first] if first else []) + split + ([last] if last else []))


def _of_layout(text: str, pp: int) -> tuple[int, ...]:
    """Return layers of stages in a text such as Et*2|(t|)*2tL, E and L being no layers."""
    wrong = f"megatron: --pipeline-model-parallel-layout {shorten(text)}"
    plain = text.replace(",", "").replace(" ", "")
    for _ in range(8):  # groups inside of groups
        replaced = re.sub(r"\(([^()]*)\)(?:\*(\d{1,4}))?", lambda m: m[1] * int(m[2] or 1), plain)
        if len(replaced) > 100 * MAX_LAYERS:
            raise SpecError(f"{wrong}: too long")
        if replaced == plain:
            break
        plain = replaced
    plain = re.sub(r"([A-Za-z|])\*(\d{1,5})", lambda m: m[1] * min(int(m[2]), MAX_LAYERS), plain)
    if re.fullmatch(r"[EtmL|]*", plain) is None:
        raise SpecError(f"{wrong}: expected stages of E, t, m and L between bars")
    stages = plain.split("|")
    if len(stages) != pp:
        raise SpecError(
            f"{wrong}: {len(stages)} stages for {pp} pipeline ranks; virtual stages have no place "
            "in a plan, whose stages hold consecutive layers"
        )
    return tuple(stage.count("t") for stage in stages)
