"""Every expert has a replica, and every slot one expert."""

from collections.abc import Iterator

from autopar.placement.machine import IntArray, LayerTask
from autopar.placement.rules.base import Posting


class EveryExpert:
    """No expert is lost, no slot is empty."""

    name = "every_expert"

    def post(self, posting: Posting) -> None:
        """One count per expert, as many places as it says, full GPUs."""
        machine, experts = posting.task.machine, range(len(posting.task.load))
        for expert in experts:
            counts = [count for e, count in posting.counted if e == expert]
            posting.model.add_exactly_one(posting.counted[expert, count] for count in counts)
            for count in counts:
                lies = [posting.lies[expert, count, gpu] for gpu in range(machine.num_gpus)]
                chosen = posting.counted[expert, count]
                posting.model.add(sum(lies) == count * chosen)
                posting.model.add_bool_or(*(~lie for lie in lies), chosen)
                for lie in lies:
                    posting.model.add_implication(lie, chosen)
        for gpu in range(machine.num_gpus):
            held = [lie for expert in experts for lie in posting.on(expert, gpu)]
            posting.model.add(sum(held) == machine.slots_per_gpu)

    def check(self, task: LayerTask, slots: IntArray) -> Iterator[str]:
        """Look at every expert and every slot."""
        if len(slots) != task.machine.num_slots:
            yield f"{len(slots)} slots; expected {task.machine.num_slots}"
        strange = sorted({int(e) for e in slots} - set(range(len(task.load))))
        if strange:
            yield f"a slot holds {strange[0]}, which is no expert of the layer"
        lost = sorted(set(range(len(task.load))) - {int(e) for e in slots})
        if lost:
            yield f"expert {lost[0]} has no slot ({len(lost)} of {len(task.load)} have none)"
