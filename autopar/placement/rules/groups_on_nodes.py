"""Each group of experts lies on one node, as many groups on every node: node-limited routing."""

from collections.abc import Iterator

from autopar.placement.machine import IntArray, LayerTask
from autopar.placement.rules.base import Posting


class GroupsOnNodes:
    """A router that picks groups first then sends a token to as many nodes as it picks groups."""

    name = "groups_on_nodes"

    def post(self, posting: Posting) -> None:
        """A node per group, every replica of the group's experts on it."""
        task, groups = posting.task, posting.task.rules.num_groups
        if groups == 1:
            return
        nodes, wide = range(task.machine.num_nodes), task.machine.gpus_per_node
        size = len(task.load) // groups
        on = {
            (group, node): posting.model.new_bool_var(f"group_on[{group},{node}]")
            for group in range(groups)
            for node in nodes
        }
        for group in range(groups):
            posting.model.add_exactly_one(on[group, node] for node in nodes)
        for node in nodes:
            here = [on[group, node] for group in range(groups)]
            posting.model.add(sum(here) == groups // len(nodes))
        for expert in range(len(task.load)):
            for gpu in range(task.machine.num_gpus):
                for lie in posting.on(expert, gpu):
                    posting.model.add_implication(lie, on[expert // size, gpu // wide])

    def check(self, task: LayerTask, slots: IntArray) -> Iterator[str]:
        """Collect the nodes of each group and the groups of each node."""
        groups = task.rules.num_groups
        if groups == 1:
            return
        size = len(task.load) // groups
        by_node = [
            {expert // size for expert in held}
            for held in slots.reshape(task.machine.num_nodes, -1).tolist()
        ]
        for group in range(groups):
            nodes = [node for node, held in enumerate(by_node) if group in held]
            if len(nodes) > 1:
                yield f"group {group} lies on {len(nodes)} nodes; expected one"
        for node, held in enumerate(by_node):
            if len(held) != groups // len(by_node):
                yield f"node {node} has {len(held)} groups; expected {groups // len(by_node)}"
