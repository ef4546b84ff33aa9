"""Time of one training step: micro-batches through the pipeline, gradients, optimizer."""

from collections import Counter
from dataclasses import dataclass

from autopar.costs.operations.collectives import Network
from autopar.costs.operations.device import Device
from autopar.errors import SpecError
from autopar.specs import LLM, Cluster, TrainingRow
from autopar.training import kernels
from autopar.training.data_parallel import gradients_us, sharded_weights_us
from autopar.training.factors import FITTED, Factors
from autopar.training.layers import Clock
from autopar.training.parameters import Shard, stage_shard
from autopar.training.run import Run
from autopar.training.work import Work, total

# Adam, per parameter: parameter and two moments in fp32 are read and written, the weights written
# in 2; gradients, read once for their norm and once for the update, come on top.
OPTIMIZER_BYTES = 12.0 + 12.0 + 2.0


@dataclass(frozen=True, slots=True)
class StepTime:
    """Parts of the time of a step, us, which add up to it.

    forward_us to experts_us: all micro-batches on the stage that takes longest. bubble_us: idle
    while the pipeline fills and drains. data_us: exposed collectives over data-parallel ranks.
    """

    forward_us: float
    backward_us: float
    recompute_us: float
    tensor_us: float
    context_us: float
    experts_us: float
    bubble_us: float
    hops_us: float
    data_us: float
    optimizer_us: float

    @property
    def total_us(self) -> float:
        """Time of the step."""
        work_us = self.forward_us + self.backward_us + self.recompute_us
        exposed_us = self.tensor_us + self.context_us + self.experts_us + self.data_us
        return work_us + exposed_us + self.bubble_us + self.hops_us + self.optimizer_us


def step_us(llm: LLM, cluster: Cluster, row: TrainingRow, factors: Factors = FITTED) -> StepTime:
    """Return the time of one training step on a part of a cluster.

    Schedule: 1F1B, or interleaved 1F1B. The stage that takes longest works without a pause but for
    the bubble, in which a micro-batch passes the chunks of all others once:
    (pp - 1) / (micro-batches x virtual_stages) of the work where stages are equal.
    Source: Narayanan et al. 2021, arXiv:2104.04473, sec. 2.2.
    Raises SpecError if the row does not fit the model or the cluster.
    """
    run = Run.of(llm, row)
    if row.num_gpus > cluster.num_gpus:
        raise SpecError(
            f"row {row.id!r}: needs {row.num_gpus:,} GPUs; cluster {cluster.name!r} has "
            f"{cluster.num_gpus:,}"
        )
    gpu = kernels.Processor(Device.of(cluster.gpu), run.gradient_bytes, factors)
    clock = Clock(run, Network.of(cluster), gpu)
    works = stage_works(clock)
    shards = [stage_shard(run, stage) for stage in range(row.pp)]
    if row.zero_stage == 3:
        added_us = [sharded_weights_us(clock, *pair) for pair in zip(shards, works, strict=True)]
    else:
        added_us = [0.0] * row.pp
    times_us = [work.total_us + more for work, more in zip(works, added_us, strict=True)]
    slowest = max(range(row.pp), key=times_us.__getitem__)
    work, count = works[slowest], run.micro_batches
    both_us = 2 * clock.hop_us() if row.pp > 1 else 0.0
    # Sending runs beside work only where a GPU has another chunk to work on.
    seen_us = both_us * (
        factors.exposed_fraction if row.overlaps and row.virtual_stages > 1 else 1.0
    )
    return StepTime(
        forward_us=count * work.forward_us,
        backward_us=count * work.backward_us,
        recompute_us=count * work.recompute_us,
        tensor_us=count * work.tensor_us,
        context_us=count * work.context_us,
        experts_us=count * work.experts_us,
        bubble_us=(sum(times_us) - times_us[slowest]) / row.virtual_stages,
        hops_us=count * row.virtual_stages * seen_us + (row.pp - 1) * both_us,
        data_us=count * added_us[slowest]
        + max(gradients_us(clock, *pair) for pair in zip(shards, works, strict=True)),
        optimizer_us=gpu.moved_us(
            (OPTIMIZER_BYTES + 2 * run.gradient_bytes)
            * max(owned_parameters(run, shard) for shard in shards)
        ),
    )


def stage_works(clock: Clock) -> list[Work]:
    """Return the time of one micro-batch on each stage, its ends included."""
    arch, row = clock.run.architecture, clock.run.row
    kinds = [clock.layer(kind) for kind in arch.layer_kinds]
    held = [
        Counter(arch.kind_of_layer[layer] for layer in clock.run.layers_of(stage))
        for stage in range(row.pp)
    ]
    works = [total(kinds[kind] * count for kind, count in counts.items()) for counts in held]
    works[0] = works[0] + clock.embedding()
    works[-1] = works[-1] + clock.head()
    return works


def owned_parameters(run: Run, shard: Shard) -> float:
    """Parameters whose optimizer state one GPU keeps: its share, if the state is spread."""
    if not run.row.zero_stage:
        return shard.others + shard.experts
    return shard.others / run.gradient_ranks + shard.experts / run.expert_ranks
