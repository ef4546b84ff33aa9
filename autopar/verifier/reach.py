"""How far the groups of an explicit plan reach: the level of the network that carries them.

A collective is priced by the GPUs that its group spans, from the node up. Groups of consecutive
GPUs that lie in as few nodes and domains as can hold them span their own number of GPUs; one that
lies in more spans as much as a group that needs them.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopar.problem import Plan, Stage
from autopar.specs import Cluster, Scenario
from autopar.units import plural
from autopar.verifier.layout import IntArray, Layout
from autopar.verifier.work import FloatArray

# A span just below what its containers have, so that no rounding makes it reach the next one.
_INSIDE_GPUS = 0.5


@dataclass(frozen=True, slots=True)
class Reach:
    """GPUs that the widest-lying group of each kind of one stage spans.

    tensor, context, shards, stage: groups of tp, of tp * cp and of etp GPUs, and all of the stage.
    """

    tensor: float
    context: float
    shards: float
    stage: float

    @classmethod
    def of(cls, stage: Stage) -> "Reach":
        """Return the reach of a stage whose groups lie as close together as their size allows."""
        return cls(stage.tp, stage.tp * stage.cp, stage.etp, stage.num_gpus)


def reaches(
    cluster: Cluster, stage: Stage, layout: Layout, position: int
) -> tuple[list[Reach], IntArray]:
    """Return the distinct reaches of a stage, and which of them each replica has.

    Shape (replicas,); a replica that lists no GPU of the stage has the first.
    """
    widths = [stage.tp, stage.tp * stage.cp, stage.etp, stage.num_gpus]
    spans = np.tile(np.array(widths, dtype=np.float64), (len(layout.stage_gpus), 1))
    for copies, gpus in layout.blocks(position):
        for column, width in enumerate(widths):
            if width <= gpus.shape[1]:
                groups = gpus[:, : gpus.shape[1] // width * width].reshape(len(gpus), -1, width)
                spans[copies, column] = _span_gpus(groups, cluster).max(axis=1)
    distinct, which = np.unique(spans, axis=0, return_inverse=True)
    return [Reach(*row) for row in distinct.tolist()], which.reshape(-1)


def reach_notes(scenario: Scenario, plan: Plan, layout: Layout) -> Iterator[str]:
    """Yield groups that lie otherwise than their size allows, and what they are charged."""
    node, domain = _containers(scenario.cluster)
    # (kind of group, what is wrong) -> how many
    counts: Counter[tuple[str, str]] = Counter()
    for position, stage in enumerate(plan.stages):
        widths = {"tp": stage.tp, "etp": stage.etp, "stage": stage.num_gpus}
        if stage.cp > 1:
            widths["cp"] = stage.tp * stage.cp
        if not scenario.llm.is_moe:  # a dense stage has no exchange over all of it
            del widths["stage"], widths["etp"]
        for _, gpus in layout.blocks(position):
            for key, width in widths.items():
                groups = gpus[:, : gpus.shape[1] // width * width].reshape(-1, width)
                for problem, count in _ill_placed(groups, node, domain).items():
                    counts[key, problem] += count
    for (key, problem), count in counts.items():
        yield f"{plural(count, 'stage' if key == 'stage' else f'{key} group')} {problem}"


def _ill_placed(groups: IntArray, node: int, domain: int) -> Counter[str]:
    """Count groups, shape (groups, width), by what is wrong with where they lie."""
    width, found = groups.shape[1], Counter[str]()
    first, last = groups.min(axis=1), groups.max(axis=1)
    leaves_domain = first // domain < last // domain
    leaves_node = (first // node < last // node) & ~leaves_domain
    outer = "domain" if domain > node else "node"
    for level, size, leaves in (("node", node, leaves_node), (outer, domain, leaves_domain)):
        if width <= size:
            text = (
                f"in several {level}s, though one of {plural(size, 'GPU')} has room: the links "
                f"between {level}s are charged"
            )
            found[text] += int(leaves.sum())
    if width > domain:
        fewest = -(-width // domain)
        homes = np.sort(groups // domain, axis=1)
        more = _num_distinct(homes) > fewest
        where = f"{plural(fewest, 'domain')} of {plural(domain, 'GPU')}"
        found[f"in more than {where}, which have room: all of them are charged"] = int(more.sum())
        uneven = ~more & ~_are_even(homes, fewest)
        found[f"unevenly over {where}: equal parts are charged"] = int(uneven.sum())
    return +found


def _are_even(homes: IntArray, parts: int) -> NDArray[np.bool_]:
    """Whether sorted homes, shape (groups, width), are so many runs of equal length."""
    each, rest = divmod(homes.shape[1], parts)
    if rest:
        return np.zeros(len(homes), dtype=np.bool_)
    even: NDArray[np.bool_] = (homes[:, ::each] == homes[:, each - 1 :: each]).all(axis=1)
    return even


def _span_gpus(groups: IntArray, cluster: Cluster) -> FloatArray:
    """Return the GPUs that groups span, (replicas, groups, width) -> (replicas, groups)."""
    node, domain = _containers(cluster)
    width = groups.shape[-1]
    span = np.full(groups.shape[:2], float(width))
    in_several = groups.min(axis=-1) // node < groups.max(axis=-1) // node
    if width <= node < domain:
        span[in_several] = domain - _INSIDE_GPUS
    domains = _num_distinct(groups // domain)
    fewest = -(-width // domain)
    more = domains > fewest
    span[more] = domains[more] * domain - _INSIDE_GPUS
    return span


def _containers(cluster: Cluster) -> tuple[int, int]:
    """Return the GPUs of a node, and of a scale-up domain, which is no smaller."""
    return cluster.gpus_per_node, max(cluster.gpus_per_node, cluster.domain_gpus)


def _num_distinct(homes: IntArray) -> IntArray:
    """Count distinct numbers along the last axis."""
    ascending = np.sort(homes, axis=-1)
    found: IntArray = 1 + (np.diff(ascending, axis=-1) > 0).sum(axis=-1)
    return found
