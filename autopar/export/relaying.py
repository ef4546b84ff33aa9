"""The same layout with its ranks on other GPUs: where the engine would put them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from autopar.export.layout import Layout, layouts_of
from autopar.export.options import Engine
from autopar.export.ranks import Rank, megatron_ranks, sglang_ranks, trtllm_ranks, vllm_ranks
from autopar.problem import AnyPlan, DisaggregatedPlan, Plan
from autopar.specs import Scenario

_Ranks = Callable[[Layout, int], tuple[Rank, ...]]
_ORDERS: dict[Engine, _Ranks] = {
    "vllm": vllm_ranks,
    "sglang": sglang_ranks,
    "trtllm": trtllm_ranks,
}


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
