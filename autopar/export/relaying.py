"""The same layout with small changes after which an engine may start it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate
from math import ceil

from autopar.export.layout import layouts_of
from autopar.export.moving import moved, moves_of
from autopar.export.options import Engine, Options
from autopar.export.trtllm import PARTITION, own_split
from autopar.plans import with_experts_in_runs
from autopar.problem import AnyPlan, DisaggregatedPlan, Plan
from autopar.specs import Scenario

_MOST_FEWER = 16  # numbers of replicas that are tried, each of them laid out and verified
# Of the replicas that a plan has at least to be called near: a choice of ours.
LEAST_SHARE = 3 / 4
_MOVED = "its ranks on other GPUs"
_SPLIT = "its layers split as the engine does by itself"
_WHOLE = "its prompts in as few parts as the workload allows"
_IN_RUNS = "its experts in runs of consecutive ones on each rank"


def variants(
    scenario: Scenario, plan: AnyPlan | None, options: Options
) -> Iterator[tuple[Iterator[AnyPlan], tuple[str, ...]]]:
    """Yield plans with the same small changes, and what they are, least first."""
    if plan is None:
        return
    engine = options.engine
    whole = with_whole_prompts(scenario, plan) if engine == "megatron" else None
    plan, said = (plan, ()) if whole is None else (whole, (_WHOLE,))
    if said:
        yield iter((plan,)), said
    yield relaid(scenario, plan, engine), (_MOVED, *said)
    in_runs = with_runs(scenario, plan)
    if in_runs is not None:
        yield iter((in_runs,)), (_IN_RUNS, *said)
        yield relaid(scenario, in_runs, engine), (_MOVED, _IN_RUNS, *said)
    if engine == "trtllm" and not options.at_least(*PARTITION):
        resplit = _of_roles(plan, lambda own: _resplit(scenario, own))
        if resplit is not None:
            yield iter((resplit,)), (_SPLIT,)
            yield relaid(scenario, resplit, engine), (_MOVED, _SPLIT)


def with_fewer_replicas(plan: Plan) -> Iterator[Plan]:
    """Yield the plan with fewer and fewer replicas, the first ones."""
    fewest = max(ceil(LEAST_SHARE * plan.replicas), plan.replicas - _MOST_FEWER)
    for count in range(plan.replicas - 1, fewest - 1, -1):
        held = plan.placement
        yield replace(
            plan,
            replicas=count,
            gpus=plan.gpus[:count],
            placement=held[held[:, 2] < count] if len(held) else held,
        )


def with_whole_prompts(scenario: Scenario, plan: AnyPlan) -> Plan | None:
    """Return the plan with the fewest parts of a prompt; None where it has them, or has roles."""
    if isinstance(plan, DisaggregatedPlan) or plan.chunks <= scenario.workload.fewest_chunks:
        return None
    return replace(plan, chunks=scenario.workload.fewest_chunks)


def with_runs(scenario: Scenario, plan: AnyPlan) -> AnyPlan | None:
    """Return the plan with experts as engines deal them; None where they lie so already."""
    return _of_roles(plan, lambda own: _in_runs(scenario, own))


def _of_roles(plan: AnyPlan, change: Callable[[Plan], Plan | None]) -> AnyPlan | None:
    """Return the plan with each of its layouts changed; None where none of them is."""
    if not isinstance(plan, DisaggregatedPlan):
        return change(plan)
    prefill, decode = change(plan.prefill), change(plan.decode)
    if prefill is None and decode is None:
        return None
    return replace(plan, prefill=prefill or plan.prefill, decode=decode or plan.decode)


def _resplit(scenario: Scenario, plan: Plan) -> Plan | None:
    """Return the plan with the split of TensorRT-LLM's own, experts in runs; None if it has it."""
    split = own_split(scenario.llm.num_layers, plan.pp)
    if split == tuple(len(stage.layers) for stage in plan.stages):
        return None
    ends = list(accumulate(split))
    stages = tuple(
        replace(stage, layers=tuple(range(end - size, end)))
        for stage, end, size in zip(plan.stages, ends, split, strict=True)
    )
    return with_experts_in_runs(replace(plan, stages=stages), scenario.llm)


def _in_runs(scenario: Scenario, plan: Plan) -> Plan | None:
    if not scenario.llm.is_moe or not len(plan.placement):
        return None
    dealt = with_experts_in_runs(plan, scenario.llm)
    same = sorted(dealt.placement.tolist()) == sorted(plan.placement.tolist())
    return None if same else dealt


def batch_of(plan: AnyPlan) -> int:
    """Return the sequences of a group and micro-batch; of decode servers in a pair of roles."""
    return plan.decode.batch if isinstance(plan, DisaggregatedPlan) else plan.batch


def with_batch(plan: AnyPlan, batch: int) -> AnyPlan:
    """Return the plan with other batches, those of its decode servers in a pair of roles."""
    if isinstance(plan, DisaggregatedPlan):
        return replace(plan, decode=replace(plan.decode, batch=batch))
    return replace(plan, batch=batch)


def relaid(scenario: Scenario, plan: AnyPlan, engine: Engine) -> Iterator[AnyPlan]:
    """Yield the plan on other GPUs, where servers lie as an engine starts them (`moving`).

    Nothing where the plan has no layout that an engine could start, or lies so already.
    """
    layouts, reasons = layouts_of(plan, scenario, {})
    if reasons:
        return
    for moves in moves_of(layouts, engine):
        if isinstance(plan, DisaggregatedPlan):
            prefill, decode = moved(plan.prefill, moves), moved(plan.decode, moves)
            yield replace(plan, prefill=prefill, decode=decode)
        else:
            yield moved(plan, moves)
