"""The rules as arrays, for the local search: which exchange of two replicas they refuse."""

import numpy as np

from autopar.placement.machine import BoolArray, IntArray, Machine, Rules


class Refusals:
    """What may not come where, beyond one replica of an expert per GPU.

    clash: experts that refuse one another on a GPU, themselves among them, shape (experts,
    experts). Groups are not looked at: they are placed first, and their nodes one by one.
    """

    __slots__ = ("by_node", "clash", "node_of")

    def __init__(self, machine: Machine, rules: Rules, num_experts: int) -> None:
        self.by_node = rules.distinct_nodes
        self.node_of = machine.node_of
        self.clash = np.eye(num_experts, dtype=np.int64)
        for one, other in rules.forbidden_pairs:
            self.clash[one, other] = self.clash[other, one] = 1

    def swapped(
        self, holds: BoolArray, experts: IntArray, gpu: int, *, outgoing: bool
    ) -> BoolArray:
        """Return which exchanges are refused, shape (slots of the GPU, GPUs, slots).

        outgoing: by the other GPU, which gets what this one holds; else by this one.
        """
        mine = experts[gpu][:, None, None]
        theirs = experts[None]
        if outgoing:
            against = self._against(holds, experts[gpu])[:, :, None]
            comes, goes = mine, theirs
        else:
            against = self._against(holds, experts)[:, :, gpu][None]
            comes, goes = theirs, mine
        count = against - self.clash[comes, goes]
        if self.by_node:
            same = (self.node_of == self.node_of[gpu])[None, :, None]
            twin = (
                self._on_node(holds, experts[gpu])[:, :, None]
                if outgoing
                else (self._on_node(holds, experts)[:, :, gpu][None])
            )
            # What comes leaves its own node, unless it stays on it.
            count = count + twin - same - (comes == goes)
        return np.asarray(count > 0)

    def replaced(self, holds: BoolArray, experts: IntArray, more: IntArray) -> BoolArray:
        """Return whether one more replica may not replace a slot, shape (n, GPUs, slots)."""
        count = self._against(holds, more)[:, :, None] - self.clash[more][:, experts]
        if self.by_node:
            count = count + self._on_node(holds, more)[:, :, None]
        return np.asarray(count > 0)

    def _against(self, holds: BoolArray, experts: IntArray) -> IntArray:
        """How many experts on each GPU refuse an expert, shape (*experts, GPUs)."""
        refusing = self.clash @ holds.astype(np.int64)
        return np.asarray(refusing[experts])

    def _on_node(self, holds: BoolArray, experts: IntArray) -> IntArray:
        """How many replicas an expert has on the node of each GPU, shape (*experts, GPUs)."""
        by_node = np.add.reduceat(
            holds.astype(np.int64), np.flatnonzero(np.diff(self.node_of, prepend=-1)), axis=1
        )
        return np.asarray(by_node[:, self.node_of][experts])
