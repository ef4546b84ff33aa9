"""Commands of an engine, of all nodes and servers -> one plan file, and what it does not hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autopar.errors import SpecError, shorten
from autopar.ingest.plan import megatron, sglang, trtllm, vllm
from autopar.ingest.plan.beside import Beside
from autopar.ingest.plan.commands import Command, pasted_commands
from autopar.ingest.plan.commands.containers import env_among
from autopar.ingest.plan.commands.shell import LOOPS
from autopar.ingest.plan.environment import said_of_variables
from autopar.ingest.plan.flags import NOT_HELD
from autopar.ingest.plan.found import (
    Found,
    refuse_another_sum,
    refuse_several_models,
    shared_out,
)
from autopar.ingest.plan.maps import placement_rows
from autopar.ingest.plan.places import (
    Server,
    gpus_of_ranks,
    refuse_beyond,
    refuse_too_many,
    said_of_missing,
    shown_gpus,
)
from autopar.ingest.plan.roles import with_roles
from autopar.ingest.plan.routers import Routed, router_in
from autopar.specs import LLM, SCHEMA_VERSION, Workload

_Reader = Callable[[Sequence[str], Mapping[str, str], LLM | None, Beside], Found]
_ENGINES: dict[str, tuple[Callable[[Sequence[str]], int | None], _Reader]] = {
    "trtllm": (trtllm.starts, trtllm.read),
    "vllm": (vllm.starts, vllm.read),
    "sglang": (sglang.starts, sglang.read),
    "megatron": (megatron.starts, megatron.read),
}
_GIVEN = {"trtllm": trtllm.given, "vllm": vllm.given, "sglang": sglang.given}
_ROLES = ("prefill", "decode")
PASSED_OVER = "passed over, as "  # how a note on a batch that the workload gives itself begins


@dataclass(frozen=True, slots=True)
class Question:
    """What is known beside the text.

    label: how messages name the text; folder: where files that it names are looked for. llm: the
    model, if it is in a catalogue; llm_name and cluster: names for the plan file, and num_gpus and
    node_gpus: GPUs of that cluster and of a node of it. ranks: of each server, the GPU of every
    rank, as an export has them. expert_map: a file for commands that name none, such as the order
    of a checkpoint's experts. told: notes on these answers.
    """

    label: str
    name: str
    llm_name: str = ""
    llm: LLM | None = None
    cluster: str = ""
    workload: Workload | None = None
    folder: Path = field(default_factory=Path)
    ranks: Mapping[int, Sequence[int]] | None = None
    num_gpus: int | None = None
    node_gpus: int | None = None
    batch: int | None = None
    expert_map: str = ""
    told: tuple[str, ...] = ()


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
    found, notes, routed = _commands(text, question)
    engines = sorted({each.engine for each in found})
    if len(engines) > 1:
        raise SpecError(f"{question.label}: commands of {' and '.join(engines)}; expected of one")
    refuse_several_models(found, question.label)
    servers, more = with_roles(_servers(found, question.label), routed, question.label)
    notes += [*more, *said_of_missing(servers)]
    by_role = {role: [s for s in servers if s.found.role == role] for role in ("", *_ROLES)}
    document: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "kind": "plan",
        "name": question.name,
        "llm": question.llm_name,
        **({"cluster": question.cluster} if question.cluster else {}),
    }
    if by_role[""] and len(by_role[""]) < len(servers):
        raise SpecError(f"{question.label}: servers with a role and without; expected one kind")
    ordered = [server for role in by_role.values() for server in role]
    try:
        gpus, more = gpus_of_ranks(ordered, question.node_gpus)
        refuse_beyond(question.ranks or gpus, question.num_gpus)
    except SpecError as error:
        raise SpecError(f"{question.label}: {error}") from None
    if question.ranks is None:
        notes += more
    if by_role[""]:
        layout, more = _layout([s.found for s in ordered], question, gpus, first=0)
        document |= layout
    else:
        document["roles"], more = _pair(by_role, question, gpus)
    notes += more
    notes += [note for each in found for note in each.notes]
    kept = tuple(dict.fromkeys((*question.told, *notes)))
    document["notes"] = [f"read from {question.label}: {note}" for note in kept]
    return Reading(engines[0], document, kept)


def models_in(text: str, folder: Path = Path()) -> list[str]:
    """Return what the commands of a text load, as they name it; nothing where it is none.

    folder: where files that they name are looked for. Raises SpecError if no command is an
    engine's, and the text is no options of one.
    """
    label = "the commands"
    found = []
    commands = pasted_commands(text, label)
    others = [command for command in commands if not _engine_of(command.words)[0]]
    if len(others) == len(commands) and trtllm.config_in(text, label) is None:
        raise _no_command(label, [_not_read(command) for command in others])
    for command in commands:
        engine, place = _engine_of(command.words)
        if engine in _GIVEN:
            words = command.words[place:]
            flags = _GIVEN[engine](words, Beside(folder, command.files))
            named = flags.text("--model-path") or flags.text("--model")
            is_first = engine != "sglang" and words and not words[0].startswith("-")
            found.append(words[0] if is_first else named or "".join(flags.positional[:1]))
    return list(dict.fromkeys(model for model in found if model))


def _engine_of(words: Sequence[str]) -> tuple[str, int]:
    """Return the engine that words start, and where its arguments begin; no name for none."""
    for engine, (starts, _) in _ENGINES.items():
        place = starts(words)
        if place is not None:
            return engine, place
    return "", 0


def _commands(text: str, question: Question) -> tuple[list[Found], list[str], Routed]:
    """Return what commands say, what was passed over, and whom routers reach."""
    config = trtllm.config_in(text, question.label)
    if config is not None:
        one = trtllm.of_config(config, question.llm, question.label)
        refuse_another_sum(one, question.llm)
        return [one], [], Routed()
    found: list[Found] = []
    notes: list[str] = []
    routed = Routed()
    for command in pasted_commands(text, question.label):
        each, said = _read(command, question)
        found += each
        notes += said
        if not each:
            routed.add(command.words, Beside(question.folder, command.files))
    if not found:
        raise _no_command(question.label, notes)
    return found, notes, routed


def _read(command: Command, question: Question) -> tuple[list[Found], list[str]]:
    """Return what a command says, if it is an engine's, and what of it was passed over."""
    engine, place = _engine_of(command.words)
    if not engine:
        return [], [_not_read(command)]
    if command.inside in LOOPS:
        raise SpecError(
            f"{question.label}: {engine}: a command inside of `{command.inside}`, which may start "
            "several; write each of them out"
        )
    notes = []
    if command.inside:
        notes.append(f"a command inside of `{command.inside}` is taken to run")
    env = {**command.env, **env_among(command.words[:place])}
    beside = Beside(question.folder, command.files)
    try:
        one = _ENGINES[engine][1](command.words[place:], env, question.llm, beside)
        refuse_another_sum(one, question.llm)
        one = _completed(_of_command(one, command), env)
        return _copied(one, command.copies), notes
    except SpecError as error:
        raise SpecError(f"{question.label}: {error}") from None


def _not_read(command: Command) -> str:
    router = router_in(command.words)
    if router:
        return f"{NOT_HELD}: the router {router}"
    return f"not read: the command {shorten(' '.join(command.words), 80)}"


def _no_command(label: str, notes: Sequence[str]) -> SpecError:
    """Return the error of a text without a command of an engine; notes: on what is there."""
    return SpecError(
        f"{label}: no command of an engine; expected `vllm serve`, "
        "`python -m sglang.launch_server`, `trtllm-serve` (or its YAML) or torchrun with "
        "Megatron's arguments, in a script, a manifest of Kubernetes or a compose file"
        f"{'; ' * bool(notes)}{'; '.join(notes[:3])}"
    )


def _of_command(one: Found, command: Command) -> Found:
    return replace(one, files=command.files, hosts=command.hosts, enclosure=command.enclosure)


def _copied(one: Found, copies: int) -> list[Found]:
    """Return a server for each of the pods that are alike, or one whose nodes they are.

    Raises SpecError where they are neither.
    """
    count = one.nodes.count
    if count == 1 or copies == 1:
        return [one] * copies
    if copies == count and one.nodes.rank is None:
        return [one]
    raise SpecError(
        f"{one.engine}: {copies} copies of a command for one of {count} nodes; expected {count}, "
        "with the number of the node as a variable"
    )


def _completed(one: Found, env: Mapping[str, str]) -> Found:
    """Return what a command says together with the GPUs and the variables of its environment."""
    refuse_too_many(one)
    shown, notes = shown_gpus(env)
    if one.nodes.rank is None and one.nodes.count > 1:
        notes.append(
            f"no number says which node it is: the command stands for all {one.nodes.count} nodes"
        )
    notes += said_of_variables(env, one.engine)
    return replace(one, shown=shown, notes=(*one.notes, *notes))


def _servers(found: list[Found], label: str) -> list[Server]:
    """Return the servers that commands start; those of the nodes of one must agree."""
    servers: list[Server] = []
    leaders: dict[tuple[str, str], Server] = {}
    for each in found:
        numbers = range(each.nodes.count) if each.nodes.rank is None else (each.nodes.rank,)
        shown: dict[int, tuple[int, ...] | None] = dict.fromkeys(numbers, each.shown)
        is_one = each.nodes.count == 1 or each.nodes.rank is not None
        hosts = {}
        if len(each.hosts) > 1:  # of one command that reaches several machines itself
            hosts = dict(enumerate(each.hosts))
        elif each.hosts and is_one:
            hosts = dict.fromkeys(numbers, each.hosts[0])
        key = (each.role, each.nodes.server)
        if each.nodes.count == 1 or key not in leaders:
            servers.append(Server(each, shown, hosts))
            if each.nodes.count > 1:
                leaders[key] = servers[-1]
            continue
        leader, nodes = leaders[key].found, leaders[key].shown
        for name, here in {**each.degrees(), "nodes": each.nodes.count}.items():
            there = {**leader.degrees(), "nodes": leader.nodes.count}[name]
            if here != there:
                raise SpecError(
                    f"{label}: nodes of the server at {each.nodes.server}: {name} is {there} and "
                    f"{here}; expected the same on all"
                )
        twice = next((number for number in numbers if number in nodes), None)
        if twice is not None:
            raise SpecError(
                f"{label}: two commands are node {twice} of the server at {each.nodes.server}"
            )
        nodes.update(shown)
        leaders[key].hosts.update(hosts)
    return servers


def _pair(
    by_role: Mapping[str, list[Server]], question: Question, gpus: Mapping[int, Sequence[int]]
) -> tuple[dict[str, Any], list[str]]:
    roles: dict[str, Any] = {}
    notes: list[str] = []
    first = 0
    for role in _ROLES:
        if not by_role[role]:
            raise SpecError(
                f"{question.label}: servers for one role alone; expected prefill and decode"
            )
        roles[role], more = _layout([s.found for s in by_role[role]], question, gpus, first)
        first += len(by_role[role])
        notes += more
    return roles, notes


def _layout(
    servers: list[Found], question: Question, gpus: Mapping[int, Sequence[int]], first: int
) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of one layout.

    gpus: of the ranks of each server, as commands tell; first: number of the first one here.
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
    if question.expert_map:
        servers = [replace(s, experts=s.experts or question.expert_map) for s in servers]
    has_map = any(server.experts for server in servers)
    told = gpus if question.ranks is None else question.ranks
    is_usual = _is_usual(servers, gpus, first)
    if question.ranks is None and not is_usual and not any(s.shown for s in servers):
        notes.append(
            "rank r of a server is taken to run on its GPU r, servers one after another, in the "
            f"order in which {one.engine} counts ranks; --ranks says otherwise"
        )
    if question.ranks is not None or has_map or not is_usual:
        fields |= _explicit(servers, question, told, first)
    if has_map:
        fields |= placement_rows(servers, fields, question.llm, question.folder)
    return fields, notes


def _is_usual(servers: Sequence[Found], gpus: Mapping[int, Sequence[int]], first: int) -> bool:
    """Whether GPUs lie as a plan with degrees alone has them: one after another, in our order."""
    listed = [gpu for number in range(first, first + len(servers)) for gpu in gpus[number]]
    start = sum(len(gpus[number]) for number in range(first))
    return listed == list(range(start, start + len(listed))) and all(s.is_in_order for s in servers)


def _batch(one: Found, question: Question, fields: dict[str, Any]) -> list[str]:
    """Add batch and chunks where they can be told; return what could not."""
    work, notes = question.workload, list[str]()
    if one.resident is not None:
        fields["batch"], notes = shared_out(
            "sequences at once:", one.resident, one.pp, "micro-batches, one a stage"
        )
        if question.batch not in (None, fields["batch"]):
            notes.append(
                f"--batch {question.batch} is passed over: by the command it is {fields['batch']}"
            )
    elif question.batch is not None:
        fields["batch"] = question.batch
    elif work is None or work.is_open:
        return ["the most sequences at once are not stated, so the plan has no batch; see --batch"]
    if work is not None and not work.is_open:
        fields.pop("batch", None)
        return _passed_over(one, question.batch, work)
    if work is None or work.phase == "decode" or one.role == "decode":
        return notes
    if one.engine == "megatron" and work.fewest_chunks > 1:
        notes.append(
            f"Megatron computes sequences whole; steps of workload {work.name} have room for parts "
            f"of them, and the plan has the fewest, {work.fewest_chunks}"
        )
    if one.step_tokens is None:
        return notes
    serves = work.phase == "serving"
    running = fields["batch"] * work.queries_per_sequence if one.shares_step and serves else 0
    budget = one.step_tokens - running
    fields["chunks"] = max(1, -(-(work.input_tokens or 1) // max(1, budget)))
    return notes


def _passed_over(one: Found, batch: int | None, work: Workload) -> list[str]:
    """Return a note on what a workload that gives the batch itself makes idle, if anything.

    batch: that an option gives.
    """
    here = 0 if one.resident is None else one.resident * one.attn_dp
    there = work.num_sequences
    idle = [] if batch is None else [f"--batch {batch}"]
    if here and here != there:
        fewer = ", fewer than that" * (here < there)
        idle.append(f"{here:,} sequences at once in a replica{fewer}")
    if one.step_tokens is not None and work.is_prefill:
        idle.append(f"{one.step_tokens:,} tokens in a step")
    given = f"workload {work.name} gives the batch, {there:,.6g} sequences in a replica"
    return [f"{PASSED_OVER}{given}: {'; '.join(idle)}"] if idle else []


def _explicit(
    servers: list[Found], question: Question, told: Mapping[int, Sequence[int]], first: int
) -> dict[str, Any]:
    """Return stages and replicas on the GPUs of the ranks of each server.

    told: those GPUs, by the server's number. Raises SpecError where they are not as many as ranks.
    """
    one, gpus = servers[0], []
    for number, server in enumerate(servers, start=first):
        mine = told.get(number)
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
