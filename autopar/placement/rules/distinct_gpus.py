"""Replicas of an expert lie on GPUs of their own."""

from collections.abc import Iterator

from autopar.placement.machine import IntArray, LayerTask
from autopar.placement.rules.base import Posting


class DistinctGpus:
    """A second replica beside its twin takes no load off the GPU."""

    name = "distinct_gpus"

    def post(self, posting: Posting) -> None:
        """At most one replica of an expert per GPU: by the form of the variables, and said here."""
        for expert in range(len(posting.task.load)):
            for gpu in range(posting.task.machine.num_gpus):
                posting.model.add_at_most_one(posting.on(expert, gpu))

    def check(self, task: LayerTask, slots: IntArray) -> Iterator[str]:
        """Compare how many experts a GPU holds with how many are different."""
        per_gpu = task.machine.slots_per_gpu
        for gpu, held in enumerate(slots.reshape(-1, per_gpu).tolist()):
            twins = [expert for expert in sorted(set(held)) if held.count(expert) > 1]
            if twins:
                yield f"GPU {gpu} holds expert {twins[0]} {held.count(twins[0])} times"
