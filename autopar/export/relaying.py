"""The same layout with small changes after which an engine may start it."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from autopar.export.layout import Layout, layouts_of
from autopar.export.options import Engine
from autopar.export.ranks import Rank, megatron_ranks, sglang_ranks, trtllm_ranks, vllm_ranks
from autopar.problem import AnyPlan, DisaggregatedPlan, Plan
from autopar.specs import Scenario
from autopar.unfold import place_experts

_Ranks = Callable[[Layout, int], tuple[Rank, ...]]
_ORDERS: dict[Engine, _Ranks] = {
    "vllm": vllm_ranks,
    "sglang": sglang_ranks,
    "trtllm": trtllm_ranks,
}
_MOVED = "its ranks on other GPUs"
_IN_RUNS = "its experts in runs of consecutive ones on each rank"


def variants(
    scenario: Scenario, plan: AnyPlan | None, engine: Engine
) -> Iterator[tuple[AnyPlan, tuple[str, ...]]]:
    """Yield the plan with small changes and what they are, least first."""
    if plan is None:
        return
    moved, in_runs = relaid(scenario, plan, engine), with_runs(scenario, plan)
    if moved is not None:
        yield moved, (_MOVED,)
    if in_runs is not None:
        yield in_runs, (_IN_RUNS,)
        both = relaid(scenario, in_runs, engine)
        if both is not None:
            yield both, (_MOVED, _IN_RUNS)


def with_runs(scenario: Scenario, plan: AnyPlan) -> AnyPlan | None:
    """Return the plan with experts as engines deal them; None where they lie so already."""
    if isinstance(plan, DisaggregatedPlan):
        roles = {role: _in_runs(scenario, own) for role, own in plan.roles.items()}
        found = plan if roles["prefill"] is None else replace(plan, prefill=roles["prefill"])
        found = found if roles["decode"] is None else replace(found, decode=roles["decode"])
        return None if found is plan else found
    return _in_runs(scenario, plan)


def _in_runs(scenario: Scenario, plan: Plan) -> Plan | None:
    if not scenario.llm.is_moe or not len(plan.placement):
        return None
    placement = place_experts(plan.stages, plan.gpus, scenario.llm)
    same = _sorted(placement), _sorted(plan.placement)
    return None if np.array_equal(*same) else replace(plan, placement=placement)


def _sorted(rows: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> "list[list[int]]":
    return sorted(rows.tolist())


def batch_of(plan: AnyPlan) -> int:
    """Return the sequences of a group and micro-batch; of decode servers in a pair of roles."""
    return plan.decode.batch if isinstance(plan, DisaggregatedPlan) else plan.batch


def with_batch(plan: AnyPlan, batch: int) -> AnyPlan:
    """Return the plan with other batches, those of its decode servers in a pair of roles."""
    if isinstance(plan, DisaggregatedPlan):
        return replace(plan, decode=replace(plan.decode, batch=batch))
    return replace(plan, batch=batch)


def relaid(scenario: Scenario, plan: AnyPlan | None, engine: Engine) -> AnyPlan | None:
    """Return the plan with the GPUs of every server in the order of the engine's ranks.

    None where the plan has no layout that an engine could start, or lies so already.
    """
    if plan is None:
        return None
    layouts, reasons = layouts_of(plan, scenario, {})
    if reasons:
        return None
    if isinstance(plan, DisaggregatedPlan):
        moved = [
            _moved(layout, own, engine)
            for layout, own in zip(layouts, plan.roles.values(), strict=True)
        ]
        prefill, decode = moved
        if prefill is None or decode is None:
            return None
        return replace(plan, prefill=prefill, decode=decode)
    return _moved(layouts[0], plan, engine)


def _moved(layout: Layout, plan: Plan, engine: Engine) -> Plan | None:
    if layout.replicas != plan.replicas:  # attention groups of a dense model, which became replicas
        return None
    if engine == "megatron":
        worlds = [megatron_ranks(layout)]
    else:
        worlds = [_ORDERS[engine](layout, replica) for replica in range(layout.replicas)]
    to = np.arange(layout.cluster.num_gpus)
    for ranks in worlds:
        here = [rank.gpu for rank in ranks]
        to[here] = sorted(here)
    gpus = tuple(
        tuple(tuple(int(to[gpu]) for gpu in stage) for stage in replica) for replica in plan.gpus
    )
    if gpus == plan.gpus:
        return None
    placement = plan.placement.copy()
    if len(placement):
        placement[:, 4] = to[placement[:, 4]]
    return replace(plan, gpus=gpus, placement=placement)
