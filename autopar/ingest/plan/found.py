"""What one command of an engine says about a plan."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from autopar.errors import SpecError, shorten
from autopar.ingest.plan.flags import Given, counted, unset_in
from autopar.specs import LLM

ONE_COPY = "a plan holds every expert once in each replica"  # why redundant experts are refused
Place = tuple[int, int, int]  # replica of its server, stage, our own rank inside of the stage


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of one server, and which of them a command starts.

    server: what the commands of one server have in common. rank: None where one command starts, or
    stands for, all of them. ranks: of a node; None where all have as many. are_machines: whether no
    two of them are one machine.
    """

    server: str = ""
    count: int = 1
    rank: int | None = 0
    ranks: int | None = None
    are_machines: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """One server as one of its commands describes it.

    role: in a disaggregated service. connector: what hands caches over in a server that has either
    role and does not say which. replicas: of the model in this server. split: layers of each
    stage; None where nothing says. resident: sequences of one attention group in all micro-batches;
    step_tokens: that one step of a group may hold, running sequences among them if shares_step.
    experts: the file with the map; files: texts that came with the command, by name. place: rank ->
    where it stands. shown: numbers of the node's GPUs that the command sees, in order; None where
    nothing picks them. base, step: of which it takes the first, and every how manieth. port: that
    it listens on, None where that is not known; address: the one it listens at, empty where that is
    any of its machine's. hosts, enclosure: of the command.
    """

    engine: str
    model: str
    role: str
    tp: int
    cp: int
    attn_dp: int
    ep: int
    etp: int
    pp: int
    place: Callable[[int], Place]
    replicas: int = 1
    split: tuple[int, ...] | None = None
    resident: int | None = None
    step_tokens: int | None = None
    shares_step: bool = False
    experts: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    nodes: Nodes = field(default_factory=Nodes)
    shown: tuple[int, ...] | None = None
    base: int = 0
    step: int = 1
    port: int | None = None
    hosts: tuple[str, ...] = ()
    address: str = ""
    connector: str = ""
    enclosure: str = ""
    notes: tuple[str, ...] = ()

    @property
    def stage_gpus(self) -> int:
        """GPUs of one stage."""
        return self.tp * self.cp * self.attn_dp

    @property
    def num_ranks(self) -> int:
        """Processes of the whole server."""
        return self.replicas * self.pp * self.stage_gpus

    @property
    def is_in_order(self) -> bool:
        """Whether ranks go through replicas, stages and our own ranks of a stage, one by one."""
        per_replica = self.pp * self.stage_gpus
        return all(
            self.place(rank)
            == (rank // per_replica, rank % per_replica // self.stage_gpus, rank % self.stage_gpus)
            for rank in range(self.num_ranks)
        )

    def degrees(self) -> dict[str, int]:
        """Return what must be the same in all servers of a role."""
        return {
            key: getattr(self, key) for key in ("pp", "tp", "cp", "attn_dp", "ep", "etp")
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bearing:
    """What flags beyond the degrees mean for a plan.

    refused: flags that make another plan than can be written, if they are sizes above 1 or
    switches; counts: those of them that are counts above 0. told: flags that a plan does not hold
    and that change what it does.
    """

    refused: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)

    def of(self, given: Given) -> list[str]:
        """Return notes on the flags that were given.

        Raises SpecError for one that no plan can hold.
        """
        for flag, why in (*self.refused.items(), *self.counts.items()):
            harmless = ("0",) if flag in self.counts else ("0", "1", "false")
            if flag in given.values and given.text(flag) not in harmless:
                raise SpecError(f"{given.engine}: {flag} {given.text(flag)}: {why}".strip())
        return [
            f"{flag}{f' {given.text(flag)[:60]}' if given.text(flag) else ''}: {what}"
            for flag, what in self.told.items()
            if flag in given.values
        ]


def partition(text: str, pp: int, name: str) -> tuple[int, ...] | None:
    """Return the layers of stages in an environment variable; None where it is absent.

    Raises SpecError if they are no numbers, or not one per stage.
    """
    if not text:
        return None
    for part in text.split(",") if unset_in(text) else ():
        counted(name, part)
    try:
        split = tuple(int(part) for part in text.split(","))
    except ValueError:
        split = ()
    if len(split) != pp or any(count < 1 for count in split):
        raise SpecError(
            f"{name}: found {text[:60]!r}, expected {pp} numbers of layers, one a stage"
        )
    return split


def refuse_another_sum(found: Found, llm: LLM | None) -> None:
    """Raise SpecError for stages whose layers are not those of the model."""
    if found.split is None or llm is None or sum(found.split) == llm.num_layers:
        return
    listed = shorten(",".join(map(str, found.split)))
    raise SpecError(
        f"{found.engine}: layers of stages: found {listed}, {sum(found.split)} in all, but the "
        f"model {llm.name!r} has {llm.num_layers}; the engine refuses it when it loads the model"
    )


def refuse_several_models(servers: Sequence[Found], label: str) -> None:
    """Raise SpecError for servers whose models have different names; folders may be any."""
    models: dict[str, str] = {}
    for server in servers:
        name = server.model.rstrip("/").rpartition("/")[2].lower()
        if name and not unset_in(name):
            models.setdefault(name, server.model)
    if len(models) > 1:
        listed = " and ".join(map(shorten, list(models.values())[:3]))
        raise SpecError(
            f"{label}: the commands load {listed}; a plan is of one model: keep the commands of "
            "one, or name it alike in all if it is one"
        )


def shared_out(what: str, number: int, parts: int, among: str) -> tuple[int, list[str]]:
    """Return how many of a number each of several gets, at least 1, and a note if that is rounded.

    what, among: how the note names the number and those who share it.
    """
    each = max(1, number // parts)
    if each * parts == number:
        return each, []
    return each, [f"{what} {number} over {parts} {among}: {each} in each, {each * parts} in all"]


def expert_degrees(llm: LLM | None, ep: int, etp: int, tp: int) -> tuple[int, int]:
    """Return ep and etp as a plan states them: a dense model has one rank, cut as attention is."""
    if llm is not None and not llm.is_moe:
        return 1, tp
    return ep, etp
