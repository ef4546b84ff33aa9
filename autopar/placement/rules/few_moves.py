"""At most so many replicas come to a GPU that did not have the expert."""

from collections.abc import Iterator

from autopar.placement.machine import IntArray, LayerTask
from autopar.placement.rules.base import Posting


class FewMoves:
    """A live service loads the weights of every expert that moves."""

    name = "few_moves"

    def post(self, posting: Posting) -> None:
        """Count the (expert, GPU) pairs that the current placement lacks."""
        task = posting.task
        if task.current is None or task.max_moves is None:
            return
        held = [set(row) for row in task.current.reshape(task.machine.num_gpus, -1).tolist()]
        come = [
            lie
            for expert in range(len(task.load))
            for gpu in range(task.machine.num_gpus)
            if expert not in held[gpu]
            for lie in posting.on(expert, gpu)
        ]
        posting.model.add(sum(come) <= task.max_moves)

    def check(self, task: LayerTask, slots: IntArray) -> Iterator[str]:
        """Compare GPU by GPU with the current placement."""
        if task.current is None or task.max_moves is None:
            return
        shape = (task.machine.num_gpus, -1)
        rows = zip(slots.reshape(shape).tolist(), task.current.reshape(shape).tolist(), strict=True)
        moves = sum(len(set(now) - set(before)) for now, before in rows)
        if moves > task.max_moves:
            yield f"{moves} replicas move; expected at most {task.max_moves}"
