"""Parameters on one GPU of each stage, counted from shapes."""

from dataclasses import dataclass

from autopar.specs import ExpertFeedForward, Layer
from autopar.specs.counting import (
    attention_parameters,
    expert_parameters,
    feed_forward_parameters,
)
from autopar.training.run import Run


@dataclass(frozen=True, slots=True)
class Shard:
    """Parameters that one GPU holds: in routed experts, and in all else."""

    experts: float
    others: float

    def __add__(self, more: "Shard") -> "Shard":
        return Shard(self.experts + more.experts, self.others + more.others)


def stage_shard(run: Run, stage: int) -> Shard:
    """Return what a GPU of a stage holds; a table at either end that both ends share counts twice.

    Matrices are cut over tp, experts over ep x etp; routers and small vectors are whole.
    """
    arch = run.architecture
    total = Shard(0.0, 0.0)
    for layer in run.layers_of(stage):
        total = total + _layer_shard(run, arch.layer_sequence[layer])
    table = arch.vocab_size * arch.hidden_size / run.row.tp
    last = stage == run.row.pp - 1
    if stage == 0:
        total = total + Shard(0.0, table)
    if last:
        one_copy = arch.shares_embeddings and stage == 0
        total = total + Shard(0.0, arch.other_parameters + (0.0 if one_copy else table))
    return total


def _layer_shard(run: Run, kind: Layer) -> Shard:
    arch, tp = run.architecture, run.row.tp
    experts, others = 0.0, float(kind.other_parameters)
    attention, feed_forward = arch.attention_of(kind), arch.feed_forward_of(kind)
    if attention is not None:
        small = attention.other_parameters
        others += (attention_parameters(arch.hidden_size, attention) - small) / tp + small
    if feed_forward is not None:
        matrices = feed_forward_parameters(arch.hidden_size, feed_forward)
        whole = float(feed_forward.other_parameters)
        if isinstance(feed_forward, ExpertFeedForward):
            routed = feed_forward.num_experts * expert_parameters(arch.hidden_size, feed_forward)
            whole += arch.hidden_size * feed_forward.num_experts
            experts = routed / (run.row.ep * run.etp)
            matrices -= routed
        others += (matrices - whole) / tp + whole
    return Shard(experts, others)
