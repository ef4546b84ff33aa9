"""The explicit plan of a pair: prefill from the first GPU on, decode after it."""

from autopar.disaggregated.task import PairTask
from autopar.problem import Candidate, DisaggregatedPlan, Problem
from autopar.unfold import unfold
from autopar.variables import PairChoice


def unfold_pair(task: PairTask, choice: PairChoice, *, name: str = "solved") -> DisaggregatedPlan:
    """Return the explicit plan of a pair.

    Decode takes the first GPUs after those of prefill that its containers leave usable, where its
    replicas straddle no nodes if such a place has room for all of them.
    """
    prefill = unfold(
        task.prefill.problem, choice.prefill.candidate, choice.prefill.split, name=name, after=0
    )
    after = 1 + max(gpu for replica in prefill.gpus for stage in replica for gpu in stage)
    decode = unfold(
        task.decode.problem,
        choice.decode.candidate,
        choice.decode.split,
        name=name,
        after=_start(task.decode.problem, choice.decode.candidate, after),
    )
    return DisaggregatedPlan(name, prefill, decode, choice.load)


def _start(problem: Problem, candidate: Candidate, after: int) -> int:
    """Return the first GPU of a role whose replicas straddle no nodes; `after` if none has room."""
    size = candidate.stage_gpus(1)
    node = problem.scenario.cluster.gpus_per_node
    start = place_of(after, size * candidate.pp, candidate.replicas, node)
    needs = problem.topology.footprint(candidate.tp, candidate.cp, candidate.etp, size)
    try:
        problem.topology.stage_gpus(needs, candidate.replicas * candidate.pp, start)
    except ValueError:
        return after
    return start


def place_of(after: int, replica: int, replicas: int, node: int) -> int:
    """Return the first GPU from which replicas in a row straddle no nodes; `after` if none is.

    Where the GPUs before are those of replicas that divide nodes or are whole ones, nothing that
    fits in a row is lost by it: what is left from the end on is a multiple of the step.
    """
    if replica % node == 0 or node % replica == 0:
        step = min(replica, node)
        return -(-after // step) * step
    if replica * replicas > node or after % node + replica * replicas <= node:
        return after
    return -(-after // node) * node
