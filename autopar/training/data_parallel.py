"""Collectives over the ranks that hold the same parameters: gradients, and weights that are spread.

Source: Rajbhandari et al. 2020, "ZeRO", arXiv:1910.02054, sec. 7.
"""

from autopar.training.layers import Clock
from autopar.training.parameters import Shard
from autopar.training.work import Work

WEIGHT_BYTES = 2.0  # bf16 also where products run in FP8: Megatron-LM without `fp8_param_gather`
GRADIENT_BYTES = (
    4.0  # where they are accumulated: Megatron-LM, `accumulate_allreduce_grads_in_fp32`
)


def gradients_us(clock: Clock, shard: Shard, work: Work) -> float:
    """Exposed time, once a step, to sum gradients and to hand out weights.

    All-reduce; with the optimizer spread a reduce-scatter, and an all-gather of the new weights.
    Beside it goes the backward of the last micro-batch, and the forward of the first. Where the
    pipeline is interleaved a chunk is done while others still work on their last ones:
    ((v - 1) pp + 1) / v micro-batches before the end for the first (arXiv:2104.04473, fig. 4).
    """
    run = clock.run
    if run.row.zero_stage == 3:
        return 0.0
    summed_us = gathered_us = 0.0
    for parameters, ranks, stride in _groups(clock, shard):
        size = parameters * run.gradient_bytes
        if run.row.zero_stage:
            summed_us += float(clock.network.reduce_scatter_us(size, ranks, stride))
            gathered = parameters * WEIGHT_BYTES
            gathered_us += float(clock.network.all_gather_us(gathered, ranks, stride))
        else:
            summed_us += float(clock.network.all_reduce_us(size, ranks, stride))
    if not run.row.overlaps:
        return summed_us + gathered_us
    chunks = run.row.virtual_stages
    beside = min(((chunks - 1) * run.row.pp + 1) / chunks, run.micro_batches)
    back_us, forward_us = work.total_us - work.forward_us, work.forward_us
    return clock.gpu.factors.beside_us(summed_us, beside * back_us) + clock.gpu.factors.beside_us(
        gathered_us, beside * forward_us
    )


def sharded_weights_us(clock: Clock, shard: Shard, work: Work) -> float:
    """Exposed time per micro-batch where weights are spread (ZeRO-3, FSDP).

    They are gathered for the forward and again for the backward; gradients are scattered.
    """
    time_us = 0.0
    for parameters, ranks, stride in _groups(clock, shard):
        gather_us = clock.network.all_gather_us(parameters * WEIGHT_BYTES, ranks, stride)
        scatter_us = clock.network.reduce_scatter_us(
            parameters * clock.run.gradient_bytes, ranks, stride
        )
        time_us += float(2 * gather_us + scatter_us)
    return (
        clock.gpu.factors.beside_us(time_us, work.total_us) if clock.run.row.overlaps else time_us
    )


def _groups(clock: Clock, shard: Shard) -> list[tuple[float, int, int]]:
    """Return parameters, ranks that hold them, and how far apart these are."""
    run = clock.run
    groups = [(shard.others, run.gradient_ranks, run.row.tp)]
    if shard.experts:
        groups.append((shard.experts, run.expert_ranks, run.row.ep * run.etp))
    return groups
