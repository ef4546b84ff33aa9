"""The explicit plan of a pair: prefill from the first GPU on, decode after it."""

from autopar.disaggregated.task import PairTask
from autopar.problem import DisaggregatedPlan
from autopar.unfold import unfold
from autopar.variables import PairChoice


def unfold_pair(task: PairTask, choice: PairChoice, *, name: str = "solved") -> DisaggregatedPlan:
    """Return the explicit plan of a pair.

    Decode takes the first GPUs after those of prefill that its containers leave usable.
    """
    prefill = unfold(
        task.prefill.problem, choice.prefill.candidate, choice.prefill.split, name=name
    )
    after = 1 + max(gpu for replica in prefill.gpus for stage in replica for gpu in stage)
    decode = unfold(
        task.decode.problem, choice.decode.candidate, choice.decode.split, name=name, after=after
    )
    return DisaggregatedPlan(name, prefill, decode, choice.load)
