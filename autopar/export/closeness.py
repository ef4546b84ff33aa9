"""What another plan keeps of one, so that it lies near it, and in what the two differ."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from autopar.problem import AnyPlan, DisaggregatedPlan, Plan
from autopar.specs import RuleSpec, Scenario

_DEGREES = ("replicas", "pp", "tp", "cp", "attn_dp", "ep", "etp", "spread")


_Keep = Callable[[Plan], list[str]]  # predicates over the layouts of a plan


@dataclass(frozen=True, slots=True)
class Kept:
    """What other plans are held to; words: of it, empty for nothing."""

    words: str
    rules: tuple[RuleSpec, ...]


def kept_of(scenario: Scenario, plan: AnyPlan) -> Iterator[Kept]:
    """Yield what other plans may keep of one, the most first; nothing at the end.

    Sequences are those in flight, of which a near plan has no more: they decide the cache, and much
    of the rates. Where the workload gives the batch, no plan has another one.
    """
    has_batch = scenario.workload.is_open and all(own.batch for own in _roles(plan).values())
    too = " and at most its sequences" if has_batch else ""
    yield Kept(f"its replicas, its stages{too}", _rules(plan, _same_stages, has_batch=has_batch))
    yield Kept(f"its GPUs per replica{too}", _rules(plan, _same_gpus, has_batch=has_batch))
    if has_batch:
        yield Kept("at most its sequences", _rules(plan, _anything, has_batch=True))
    yield Kept("", ())


def differences(before: AnyPlan, after: AnyPlan) -> tuple[str, ...]:
    """Return the degrees in which two plans differ, and what follows of them: `tp 2 -> 8`.

    That is the batch, the sequences in flight and the GPUs. A degree that differs between the
    stages of a plan is `mixed`.
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
    return tuple(said)


def _number(value: int | None) -> str:
    return "mixed" if value is None else str(value)


def _roles(plan: AnyPlan) -> dict[str, Plan]:
    """Return the layouts of a plan by role; "" where there is one."""
    return dict(plan.roles) if isinstance(plan, DisaggregatedPlan) else {"": plan}


def _rules(plan: AnyPlan, keep: _Keep, *, has_batch: bool) -> tuple[RuleSpec, ...]:
    found = []
    for role, own in _roles(plan).items():
        parts = [*keep(own), *(_no_more_sequences(own) if has_batch else ())]
        if not parts:
            continue
        text = " and ".join(parts)
        if role:  # rules of layouts are asked of both roles
            text = f"is_prefill == {int(role != 'prefill')} or ({text})"
        found.append(
            RuleSpec(
                name=f"near_the_{role or 'plan'}", require=text, because="a near plan is looked for"
            )
        )
    return tuple(found)


def _same_stages(plan: Plan) -> list[str]:
    return [f"replicas == {plan.replicas}", f"pp == {plan.pp}"]


def _same_gpus(plan: Plan) -> list[str]:
    return [f"gpus * pp == {sum(stage.num_gpus for stage in plan.stages)}"]


def _anything(_: Plan) -> list[str]:
    return []


def _no_more_sequences(plan: Plan) -> list[str]:
    return [f"replicas * pp * attn_dp * batch <= {_sequences(plan)}"]


def _sequences(plan: Plan) -> int:
    """Return the sequences in flight; 0 where the workload gives the batch."""
    return plan.replicas * plan.pp * max(stage.attn_dp for stage in plan.stages) * plan.batch
