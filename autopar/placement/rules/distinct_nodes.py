"""Replicas of an expert lie on nodes of their own, where that is asked for."""

from collections.abc import Iterator

from autopar.placement.machine import IntArray, LayerTask
from autopar.placement.rules.base import Posting


class DistinctNodes:
    """A node that fails then takes one replica of an expert at most."""

    name = "distinct_nodes"

    def post(self, posting: Posting) -> None:
        """At most one replica of an expert per node."""
        task = posting.task
        if not task.rules.distinct_nodes:
            return
        wide = task.machine.gpus_per_node
        for expert in range(len(task.load)):
            for node in range(task.machine.num_nodes):
                gpus = range(node * wide, (node + 1) * wide)
                posting.model.add_at_most_one(v for gpu in gpus for v in posting.on(expert, gpu))

    def check(self, task: LayerTask, slots: IntArray) -> Iterator[str]:
        """Look for an expert twice on a node."""
        if not task.rules.distinct_nodes:
            return
        for node, held in enumerate(slots.reshape(task.machine.num_nodes, -1).tolist()):
            twins = [expert for expert in sorted(set(held)) if held.count(expert) > 1]
            if twins:
                yield f"node {node} holds expert {twins[0]} {held.count(twins[0])} times"
