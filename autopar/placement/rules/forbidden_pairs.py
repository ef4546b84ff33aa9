"""Two experts that may not share a GPU do not."""

from collections.abc import Iterator

from autopar.placement.machine import IntArray, LayerTask
from autopar.placement.rules.base import Posting


class ForbiddenPairs:
    """Experts that are busy at the same time, say, are kept apart."""

    name = "forbidden_pairs"

    def post(self, posting: Posting) -> None:
        """At most one of a pair per GPU."""
        for one, other in posting.task.rules.forbidden_pairs:
            for gpu in range(posting.task.machine.num_gpus):
                posting.model.add_at_most_one([*posting.on(one, gpu), *posting.on(other, gpu)])

    def check(self, task: LayerTask, slots: IntArray) -> Iterator[str]:
        """Look for a pair on a GPU."""
        for gpu, held in enumerate(slots.reshape(task.machine.num_gpus, -1).tolist()):
            for one, other in task.rules.forbidden_pairs:
                if one in held and other in held:
                    yield f"GPU {gpu} holds both {one} and {other}, which may not share a GPU"
