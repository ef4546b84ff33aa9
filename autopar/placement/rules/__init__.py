"""What a placement must satisfy, one rule per file: `post` for CP-SAT, `check` in plain Python.

The local search asks a third statement, `refusals`, which is arrays; tests hold the three together.
"""

from autopar.placement.machine import IntArray, LayerTask
from autopar.placement.rules.base import PlacementRule, Posting
from autopar.placement.rules.distinct_gpus import DistinctGpus
from autopar.placement.rules.distinct_nodes import DistinctNodes
from autopar.placement.rules.every_expert import EveryExpert
from autopar.placement.rules.few_moves import FewMoves
from autopar.placement.rules.forbidden_pairs import ForbiddenPairs
from autopar.placement.rules.groups_on_nodes import GroupsOnNodes
from autopar.placement.rules.refusals import Refusals

RULES: tuple[PlacementRule, ...] = (
    EveryExpert(),
    DistinctGpus(),
    DistinctNodes(),
    ForbiddenPairs(),
    GroupsOnNodes(),
    FewMoves(),
)


def broken(task: LayerTask, slots: IntArray) -> list[str]:
    """Say what in a placement breaks which rule; empty where it keeps them all."""
    return [f"{rule.name}: {said}" for rule in RULES for said in rule.check(task, slots)]


__all__ = ["RULES", "PlacementRule", "Posting", "Refusals", "broken"]
