"""One layer's placement as the local search moves it: who holds what, and what may change."""

import numpy as np

from autopar.placement.machine import NO_RULES, BoolArray, FloatArray, IntArray, Machine, Rules
from autopar.placement.rules import Refusals


class Board:
    """Slots of one layer with the loads that follow from them; changes keep all in step.

    experts: in each slot, shape (GPUs, slots per GPU). counts: replicas of each expert. share: load
    of one of its replicas. holds: whether a GPU has an expert, shape (experts, GPUs). work: of each
    GPU, not yet over its speed.
    """

    __slots__ = (
        "counts", "experts", "holds", "load", "machine", "most_replicas", "refusals", "share",
        "speed", "work",
    )  # fmt: skip

    def __init__(
        self, load: FloatArray, slots: IntArray, machine: Machine, rules: Rules = NO_RULES
    ) -> None:
        self.load = load
        self.machine = machine
        self.most_replicas = rules.most_replicas(machine)
        self.experts = slots.reshape(machine.num_gpus, machine.slots_per_gpu).copy()
        self.speed = machine.speed
        self.counts = np.bincount(slots, minlength=len(load))
        self.share = load / np.maximum(self.counts, 1)
        self.holds = np.zeros((len(load), machine.num_gpus), dtype=bool)
        self.holds[self.experts, np.arange(machine.num_gpus)[:, None]] = True
        self.work = self.share[self.experts].sum(axis=1)
        self.refusals = None if rules.are_none else Refusals(machine, rules, len(load))

    @property
    def pace(self) -> FloatArray:
        """Load of each GPU over its speed."""
        return np.asarray(self.work / self.speed)

    @property
    def slots(self) -> IntArray:
        """The expert in each slot, shape (slots,)."""
        return self.experts.ravel().copy()

    def refused_there(self, gpu: int) -> BoolArray:
        """Whether what a GPU holds may not take the place of what another one holds.

        Shape (slots of the GPU, GPUs, slots): by that GPU's other replicas, or by a rule.
        """
        mine = self.experts[gpu]
        if self.refusals is None:
            return np.broadcast_to(self.holds[mine][:, :, None], (len(mine), *self.experts.shape))
        return self.refusals.swapped(self.holds, self.experts, gpu, outgoing=True)

    def refused_here(self, gpu: int) -> BoolArray:
        """Whether what others hold may not take the place of what the GPU holds; same shape."""
        mine = self.experts[gpu]
        if self.refusals is None:
            kept = self.holds[self.experts, gpu]
            return np.broadcast_to(kept[None], (len(mine), *self.experts.shape))
        return self.refusals.swapped(self.holds, self.experts, gpu, outgoing=False)

    def refused_copies(self, experts: IntArray) -> BoolArray:
        """Whether one more replica may not replace what a slot holds.

        experts: shape (n,). Returns shape (n, GPUs, slots).
        """
        if self.refusals is None:
            return np.broadcast_to(
                self.holds[experts][:, :, None], (len(experts), *self.experts.shape)
            )
        return self.refusals.replaced(self.holds, self.experts, experts)

    def swap(self, gpu: int, place: int, other: int, spot: int) -> None:
        """Exchange what two slots hold."""
        x, y = self.experts[gpu, place], self.experts[other, spot]
        self.experts[gpu, place], self.experts[other, spot] = y, x
        self.holds[x, gpu] = self.holds[y, other] = False
        self.holds[x, other] = self.holds[y, gpu] = True
        moved = self.share[x] - self.share[y]
        self.work[gpu] -= moved
        self.work[other] += moved

    def replace(self, gpu: int, place: int, expert: int) -> None:
        """Give a slot to a replica of another expert, instead of one of several of its own."""
        gone = self.experts[gpu, place]
        self.experts[gpu, place] = expert
        self.holds[gone, gpu] = False
        self.holds[expert, gpu] = True
        self.counts[gone] -= 1
        self.counts[expert] += 1
        self.share[[gone, expert]] = self.load[[gone, expert]] / self.counts[[gone, expert]]
        self.work = self.share[self.experts].sum(axis=1)
