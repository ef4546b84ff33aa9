"""Commands of an engine, of all nodes and servers -> one plan file, and what it does not hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autopar.errors import SpecError, shorten
from autopar.ingest.plan import megatron, sglang, trtllm, vllm
from autopar.ingest.plan.flags import given_flags
from autopar.ingest.plan.found import Found
from autopar.ingest.plan.maps import placement_rows
from autopar.ingest.plan.shell import Command, commands_in
from autopar.specs import LLM, SCHEMA_VERSION, Workload

_Reader = Callable[[Sequence[str], Mapping[str, str], LLM | None], Found]
_ENGINES: dict[str, tuple[Callable[[Sequence[str]], int | None], _Reader]] = {
    "vllm": (vllm.starts, vllm.read),
    "sglang": (sglang.starts, sglang.read),
    "megatron": (megatron.starts, megatron.read),
}
_ROLES = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class Question:
    """What is known beside the text.

    label: how messages name the text; folder: where files that it names are looked for. llm: the
    model, if it is in a catalogue; llm_name and cluster: names for the plan file. ranks: of each
    server, the GPU of every rank, as an export has them. expert_map: a file for commands that name
    none, such as the order of a checkpoint's experts.
    """

    label: str
    name: str
    llm_name: str = ""
    llm: LLM | None = None
    cluster: str = ""
    workload: Workload | None = None
    folder: Path = field(default_factory=Path)
    ranks: Mapping[int, Sequence[int]] | None = None
    batch: int | None = None
    expert_map: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """A plan file, the engine that it is of, and what was read but is not in it."""

    engine: str
    document: dict[str, Any]
    notes: tuple[str, ...]


def read_plan(text: str, question: Question) -> Reading:
    """Return the plan that commands start.

    Raises SpecError if there is no command of a known engine, if servers differ in what a plan has
    once, or for what no plan can hold.
    """
    found, notes = _commands(text, question)
    engines = sorted({each.engine for each in found})
    if len(engines) > 1:
        raise SpecError(f"{question.label}: commands of {' and '.join(engines)}; expected of one")
    servers = _servers(found, question.label)
    by_role = {role: [s for s in servers if s.role == role] for role in ("", *_ROLES)}
    document: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "kind": "plan",
        "name": question.name,
        "llm": question.llm_name,
        **({"cluster": question.cluster} if question.cluster else {}),
    }
    if by_role[""]:
        if len(by_role[""]) < len(servers):
            raise SpecError(f"{question.label}: servers with a role and without; expected one kind")
        layout, more = _layout(by_role[""], question, first=0)
        document |= layout
        notes += more
    else:
        document["roles"], more = _pair(by_role, question)
        notes += more
    notes += [note for each in found for note in each.notes]
    kept = tuple(dict.fromkeys(notes))
    document["notes"] = [f"read from {question.label}: {note}" for note in kept]
    return Reading(engines[0], document, kept)


def models_in(text: str) -> list[str]:
    """Return what the commands of a text load, as they name it; nothing where it is none."""
    found = []
    for command in commands_in(text, "the commands"):
        for engine, starts in (("vllm", vllm.starts), ("sglang", sglang.starts),
                               ("trtllm", trtllm.starts)):  # fmt: skip
            place = starts(command.words)
            if place is not None:
                found.append(_model(engine, command.words[place:]))
                break
    return list(dict.fromkeys(model for model in found if model))


def _model(engine: str, words: Sequence[str]) -> str:
    """Return what one command loads."""
    aliases = {"vllm": vllm.ALIASES, "sglang": sglang.ALIASES, "trtllm": trtllm.ALIASES}[engine]
    given = given_flags(engine, words, aliases)
    named = given.text("--model-path") or given.text("--model")
    return named or ("" if engine == "sglang" else "".join(given.positional[:1]))


def _commands(text: str, question: Question) -> tuple[list[Found], list[str]]:
    config = trtllm.config_in(text, question.label)
    if config is not None:
        return [trtllm.of_config(config, question.llm, question.label)], []
    found: list[Found] = []
    notes: list[str] = []
    for command in commands_in(text, question.label):
        each, said = _read(command, question)
        found += each
        notes += said
    if not found:
        raise SpecError(
            f"{question.label}: no command of an engine; expected `vllm serve`, "
            "`python -m sglang.launch_server`, `trtllm-serve` (or its YAML) or torchrun with "
            "Megatron's arguments"
        )
    return found, notes


def _read(command: Command, question: Question) -> tuple[list[Found], list[str]]:
    """Return what a command says, if it is an engine's, and what of it was passed over."""
    words = command.words
    place = trtllm.starts(words)
    if place is not None:
        served = trtllm.read_command(words[place:], command.env, question.llm, question.folder)
        return [served], []
    for starts, read in _ENGINES.values():
        place = starts(words)
        if place is not None:
            try:
                one = read(words[place:], command.env, question.llm)
                return [replace(one, picks_gpus=_picks_gpus(command.env))], []
            except SpecError as error:
                raise SpecError(f"{question.label}: {error}") from None
    return [], [f"not read: the command {shorten(' '.join(words), 80)}"]


def _picks_gpus(env: Mapping[str, str]) -> bool:
    """Whether a process is shown its GPUs in another order than theirs."""
    shown = [name.strip() for name in env.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return not all(name.isdecimal() or not name for name in shown) or (
        [int(name) for name in shown if name] != sorted(int(name) for name in shown if name)
    )


def _servers(found: list[Found], label: str) -> list[Found]:
    """Return one of the commands of each server; those of its other nodes must agree."""
    servers: list[Found] = []
    leaders: dict[tuple[str, str], Found] = {}
    nodes: dict[tuple[str, str], list[int]] = {}
    for each in found:
        key = (each.role, each.server)
        if each.nodes == 1:
            servers.append(each)
            continue
        nodes.setdefault(key, []).append(each.node_rank)
        if key not in leaders:
            leaders[key] = each
            servers.append(each)
            continue
        for field_name, here in each.degrees().items():
            there = leaders[key].degrees()[field_name]
            if here != there:
                raise SpecError(
                    f"{label}: nodes of the server at {each.server}: {field_name} is {there} and "
                    f"{here}; expected the same on all"
                )
    for key, ranks in nodes.items():
        if len(set(ranks)) < len(ranks):
            raise SpecError(f"{label}: two commands are node {ranks[0]} of the server at {key[1]}")
    return servers


def _pair(
    by_role: Mapping[str, list[Found]], question: Question
) -> tuple[dict[str, Any], list[str]]:
    roles: dict[str, Any] = {}
    notes: list[str] = []
    first = base = 0
    for role in _ROLES:
        if not by_role[role]:
            raise SpecError(
                f"{question.label}: servers for one role alone; expected prefill and decode"
            )
        roles[role], more = _layout(by_role[role], question, first=first, base=base)
        first += len(by_role[role])
        base += sum(server.num_ranks for server in by_role[role])
        notes += more
    return roles, notes


def _layout(
    servers: list[Found], question: Question, first: int, base: int = 0
) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of one layout.

    first: number of its first server among all; base: of the first GPU.
    """
    one = servers[0]
    for other in servers[1:]:
        for name, value in {**one.degrees(), "split": one.split, "resident": one.resident}.items():
            here = getattr(other, name)
            if here != value:
                raise SpecError(
                    f"{question.label}: servers differ: {name} is {value} and {here}; a plan's "
                    "replicas are alike"
                )
    replicas = sum(server.replicas for server in servers)
    fields: dict[str, Any] = {"degrees": {"replicas": replicas, **one.degrees(), "spread": 1}}
    if question.llm is not None and not question.llm.is_moe:
        del fields["degrees"]["spread"]
    if one.split is not None and one.pp > 1:
        fields["layers_per_stage"] = list(one.split)
    notes = _batch(one, question, fields)
    # vLLM counts groups before stages, so that GPUs of a stage are not side by side; others count
    # stages first, and differ inside of them, where a plan's links do not.
    by_engine = one.engine == "vllm" and not all(
        server.is_in_order or server.picks_gpus for server in servers
    )
    if question.ranks is None and by_engine:
        question = replace(question, ranks=_in_order_of_ranks(servers, first, base))
        notes.append(
            "rank r of a server is taken to run on its GPU r, servers one after another, in the "
            f"order in which {one.engine} counts ranks; --ranks says otherwise"
        )
    if question.ranks is not None:
        fields |= _explicit(servers, question, first)
    if question.expert_map:
        servers = [replace(s, experts=s.experts or question.expert_map) for s in servers]
    if any(server.experts for server in servers):
        fields, more = placement_rows(servers, fields, question.llm, question.folder)
        notes += more
    return fields, notes


def _in_order_of_ranks(servers: Sequence[Found], first: int, base: int) -> dict[int, range]:
    """Return the GPU of each rank of each server where nothing but their order tells."""
    found = {}
    for number, server in enumerate(servers, start=first):
        found[number] = range(base, base + server.num_ranks)
        base += server.num_ranks
    return found


def _batch(one: Found, question: Question, fields: dict[str, Any]) -> list[str]:
    """Add batch and chunks where they can be told; return what could not."""
    work = question.workload
    if question.batch is not None:
        fields["batch"] = question.batch
    elif one.resident is not None:
        fields["batch"] = max(1, one.resident // one.pp)
    elif work is None or work.is_open:
        return ["the most sequences at once are not stated, so the plan has no batch; see --batch"]
    if work is not None and not work.is_open:
        fields.pop("batch", None)  # the workload gives it
        return []
    if one.step_tokens is None or work is None or work.phase == "decode" or one.role == "decode":
        return []
    serves = work.phase == "serving"
    budget = one.step_tokens - (fields["batch"] if one.shares_step and serves else 0)
    fields["chunks"] = max(1, -(-(work.input_tokens or 1) // max(1, budget)))
    return []


def _explicit(servers: list[Found], question: Question, first: int) -> dict[str, Any]:
    """Return stages and replicas on the GPUs that a table of ranks names."""
    one, gpus = servers[0], []
    for number, server in enumerate(servers, start=first):
        mine = (question.ranks or {}).get(number)
        if mine is None or len(mine) != server.num_ranks:
            raise SpecError(
                f"{question.label}: ranks of server {number}: found "
                f"{0 if mine is None else len(mine)}, expected {server.num_ranks}"
            )
        table = [[[-1] * one.stage_gpus for _ in range(one.pp)] for _ in range(server.replicas)]
        for rank, gpu in enumerate(mine):
            replica, stage, own = server.place(rank)
            table[replica][stage][own] = gpu
        gpus += table
    split = one.split or _whole(question, one.pp)
    starts = [sum(split[:stage]) for stage in range(one.pp)]
    return {
        "stages": [
            {
                "index": s,
                "layers": list(range(starts[s], starts[s] + split[s])),
                "gpus": [*gpus[0][s]],
            }
            for s in range(one.pp)
        ],
        "replicas": [{"index": r, "stages": stages} for r, stages in enumerate(gpus)],
    }


def _whole(question: Question, pp: int) -> tuple[int, ...]:
    if question.llm is None:
        raise SpecError(f"{question.label}: the layers of stages need the model; give --model")
    if question.llm.num_layers % pp:
        raise SpecError(f"{question.label}: {question.llm.num_layers} layers over {pp} stages")
    return (question.llm.num_layers // pp,) * pp
