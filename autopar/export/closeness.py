"""What another plan keeps of one, so that it lies near it, and in what the two differ."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from autopar.export.relaying import LEAST_SHARE
from autopar.problem import AnyPlan, DisaggregatedPlan, Plan
from autopar.specs import RuleSpec, Scenario

_DEGREES = ("replicas", "pp", "tp", "cp", "attn_dp", "ep", "etp", "spread")
_MOST_RUNS = 8  # of GPU ids in a message


_Keep = Callable[[Plan], list[str]]  # predicates over the layouts of a plan


@dataclass(frozen=True, slots=True)
class Kept:
    """What other plans are held to; words: of it, empty for nothing.

    is_fewer: whether that is the layout of each replica, of which there are fewer.
    """

    words: str
    rules: tuple[RuleSpec, ...]
    is_fewer: bool = False


def kept_of(scenario: Scenario, plan: AnyPlan) -> Iterator[Kept]:
    """Yield what other plans may keep of one, the most first; nothing at the end.

    Sequences are those in flight, of which a near plan has no more: they decide the cache, and much
    of the rates. Where the workload gives the batch, no plan has another one.
    """
    has_batch = scenario.workload.is_open and all(own.batch for own in _roles(plan).values())
    too = " and at most its sequences" if has_batch else ""
    for words, keep in (
        ("its replicas, its stages, its GPUs", lambda own: _same_stages(own) + _same_gpus(own)),
        ("its replicas, its stages", _same_stages),
        ("the degrees of its replicas, which are fewer", _same_degrees),
        ("its GPUs per replica", _same_gpus),
    ):
        rules = _rules(plan, keep, has_batch=has_batch)
        yield Kept(f"{words}{too}", rules, is_fewer=keep is _same_degrees)
    if has_batch:
        yield Kept("at most its sequences", _rules(plan, _anything, has_batch=True))
    yield Kept("", ())


def differences(before: AnyPlan, after: AnyPlan) -> tuple[str, ...]:
    """Return the degrees in which two plans differ, and what follows of them: `tp 2 -> 8`.

    That is the batch, the sequences in flight and the GPUs. A degree that differs between the
    stages of a plan is `mixed`. Plans of as many stages differ in their layers too, and those of as
    many replicas, stages and ranks in the GPUs and in where experts lie: so nothing is said only
    of plans that are the same but for their names.
    """
    said, others = [], _roles(after)
    for role, own in _roles(before).items():
        other = others[role]
        pairs = [(key, own.degree(key), other.degree(key)) for key in _DEGREES]
        pairs += [
            ("batch", own.batch, other.batch),
            ("parts of a prompt", own.chunks, other.chunks),
            ("sequences", _sequences(own), _sequences(other)),
            ("GPUs", own.num_gpus, other.num_gpus),
        ]
        said += [
            f"{role} {key} {_number(old)} -> {_number(new)}".strip()
            for key, old, new in pairs
            if old != new
        ]
        if own.pp == other.pp:
            said += [f"{role} {text}".strip() for text in _of_layers(own, other)]
        if _shape(own) == _shape(other):
            said += [
                f"{role} {text}".strip()
                for text in (*_of_gpus(own, other), *_of_experts(own, other))
            ]
    return tuple(said)


def gpu_differences(before: AnyPlan, after: AnyPlan) -> tuple[str, ...]:
    """Return in which GPUs two plans differ whose replicas, stages and ranks are as many."""
    others = _roles(after)
    return tuple(
        f"{role} {text}".strip()
        for role, own in _roles(before).items()
        for text in _of_gpus(own, others[role])
    )


def _of_layers(own: Plan, other: Plan) -> list[str]:
    """Return the split of layers into stages, or that stages hold others."""
    layers = [tuple(stage.layers for stage in plan.stages) for plan in (own, other)]
    if layers[0] == layers[1]:
        return []
    old, new = (",".join(str(len(stage)) for stage in stages) for stages in layers)
    return [f"layers {old} -> {new}" if old != new else "other layers in stages"]


def _of_gpus(own: Plan, other: Plan) -> list[str]:
    """Return the GPUs of the replicas, or that ranks lie on them in another order."""
    if own.gpus == other.gpus:
        return []
    old, new = (sorted(chain.from_iterable(chain.from_iterable(p.gpus))) for p in (own, other))
    if old == new:
        return ["ranks on its GPUs in another order"]
    return [f"GPU ids {_runs(old)} -> {_runs(new)}"]


def _of_experts(own: Plan, other: Plan) -> list[str]:
    """Return that experts lie on other ranks; what follows of GPUs and layers is no such thing."""
    if [stage.layers for stage in own.stages] != [stage.layers for stage in other.stages]:
        return []
    return [] if _by_rank(own) == _by_rank(other) else ["experts on other ranks"]


def _by_rank(plan: Plan) -> set[tuple[int, ...]]:
    """Return where every shard lies: layer, expert, copy, shard, stage, rank of the stage.

    A replica of which nothing is listed has them where the first one does.
    """
    rank = {
        (copy, gpu): (number, place)
        for copy, replica in enumerate(plan.gpus)
        for number, stage in enumerate(replica)
        for place, gpu in enumerate(stage)
    }
    found = {
        (layer, expert, copy, shard, *rank.get((copy, gpu), (-1, gpu)))
        for layer, expert, copy, shard, gpu in plan.placement.tolist()
    }
    silent = set(range(plan.replicas)) - {row[2] for row in found}
    first = [row for row in found if row[2] == 0]
    return found | {(*row[:2], copy, *row[3:]) for copy in silent for row in first}


def _shape(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """Return how many ranks each stage of each replica has."""
    return tuple(tuple(map(len, replica)) for replica in plan.gpus)


def _runs(gpus: Sequence[int]) -> str:
    """Return numbers in runs, `0-5,8-13`: the first ones, and how many more runs there are."""
    runs: list[list[int]] = []
    for gpu in gpus:
        if runs and gpu == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], gpu]
        else:
            runs.append([gpu])
    listed = ",".join("-".join(map(str, run)) for run in runs[:_MOST_RUNS])
    more = len(runs) - _MOST_RUNS
    return f"{listed} and {more} more runs" if more > 0 else listed


def _number(value: int | None) -> str:
    return "mixed" if value is None else str(value)


def _roles(plan: AnyPlan) -> dict[str, Plan]:
    """Return the layouts of a plan by role; "" where there is one."""
    return dict(plan.roles) if isinstance(plan, DisaggregatedPlan) else {"": plan}


def _rules(plan: AnyPlan, keep: _Keep, *, has_batch: bool) -> tuple[RuleSpec, ...]:
    found = []
    for role, own in _roles(plan).items():
        # Apart, since of a rule that names the batch every batch of every layout is asked.
        for stem, parts in (
            ("near", keep(own)),
            ("as_few_sequences_as", _no_more_sequences(own) if has_batch else []),
        ):
            text = " and ".join(parts)
            if not text:
                continue
            if role:  # rules of layouts are asked of both roles
                text = f"is_prefill == {int(role != 'prefill')} or ({text})"
            name = f"{stem}_the_{role or 'plan'}"
            found.append(RuleSpec(name=name, require=text, because="a near plan is looked for"))
    return tuple(found)


def _same_stages(plan: Plan) -> list[str]:
    return [f"replicas == {plan.replicas}", f"pp == {plan.pp}"]


def _same_gpus(plan: Plan) -> list[str]:
    return [f"gpus * pp == {sum(stage.num_gpus for stage in plan.stages)}"]


def _same_degrees(plan: Plan) -> list[str]:
    sizes = ("tp", "cp", "attn_dp", "ep", "etp")
    same = [f"{key} == {plan.degree(key)}" for key in sizes if plan.degree(key) is not None]
    few = f"{LEAST_SHARE:g} * {plan.replicas} <= replicas < {plan.replicas}"
    return [few, f"pp == {plan.pp}", *same]


def _anything(_: Plan) -> list[str]:
    return []


def _no_more_sequences(plan: Plan) -> list[str]:
    return [f"replicas * pp * attn_dp * batch <= {_sequences(plan)}"]


def _sequences(plan: Plan) -> int:
    """Return the sequences in flight; 0 where the workload gives the batch."""
    return plan.replicas * plan.pp * max(stage.attn_dp for stage in plan.stages) * plan.batch
