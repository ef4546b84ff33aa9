"""Whether the groups of an explicit plan lie as their links are charged: by the size of a group.

A group that fits in a node lies in one, a group that fits in a scale-up domain lies in one, and a
larger one lies evenly over as few domains as can hold it. `autopar.topology` says the same of
candidates; nothing of it is used here.
"""

from collections.abc import Iterator

import numpy as np

from autopar.problem import BoolArray, IntArray, Plan, Stage
from autopar.specs import Scenario
from autopar.units import plural


def ill_placed(plan: Plan, scenario: Scenario) -> Iterator[str]:
    """Yield a sentence for every kind of group of a stage of which one lies otherwise."""
    if scenario.cost_model == "declared":  # no links are charged
        return
    for position, stage in enumerate(plan.stages):
        widths = _widths(stage, scenario)
        for length in {len(replica[position]) for replica in plan.gpus}:
            copies = [c for c, r in enumerate(plan.gpus) if len(r[position]) == length]
            gpus = np.array([plan.gpus[c][position] for c in copies], dtype=np.int64)
            for what, width in widths.items():
                groups = gpus[:, : length // width * width].reshape(-1, width)
                where = _first_ill_placed(groups, scenario)
                if where is not None:
                    index, why = where
                    copy = copies[index // max(length // width, 1)]
                    yield f"replica {copy} stage {position}: a {what} of {width} GPUs {why}"


def _widths(stage: Stage, scenario: Scenario) -> dict[str, int]:
    """Return the GPUs of every kind of group whose links are charged."""
    widths = {"tp group": stage.tp}
    if stage.cp > 1:
        widths["tp x cp group"] = stage.tp * stage.cp
    if scenario.llm.is_moe:
        widths |= {"etp group": stage.etp, "stage": stage.num_gpus}
    return widths


def _first_ill_placed(groups: IntArray, scenario: Scenario) -> tuple[int, str] | None:
    """Return the first group (rows of GPU ids) that lies otherwise, and how it should lie."""
    cluster, width = scenario.cluster, groups.shape[1]
    node, domain = cluster.gpus_per_node, max(cluster.gpus_per_node, cluster.domain_gpus)
    for level, size in (("node", node), ("domain", domain)):
        if width <= size:
            why = f"fits in a {level}, but lies in several"
            return _first(groups.min(axis=1) // size < groups.max(axis=1) // size, why)
    most = -(-width // domain)
    each, rest = divmod(width, most)
    homes = np.sort(groups // domain, axis=1)
    wrong: BoolArray = np.ones(len(homes), dtype=np.bool_)
    if not rest:  # every part in one domain: none has room for two, which are more than half each
        wrong = np.logical_or.reduce(homes[:, ::each] < homes[:, each - 1 :: each], axis=1)
    return _first(wrong, f"does not lie evenly over {plural(most, 'domain')} of {domain} GPUs")


def _first(wrong: BoolArray, why: str) -> tuple[int, str] | None:
    index = np.flatnonzero(wrong)
    return (int(index[0]), why) if len(index) else None
