"""Bytes that training keeps on the fullest GPU: parameters, gradients, optimizer, activations."""

from dataclasses import dataclass

from autopar.specs import LLM, TrainingRow
from autopar.training.activations import stage_activation_bytes
from autopar.training.data_parallel import WEIGHT_BYTES
from autopar.training.parameters import Shard, stage_shard
from autopar.training.run import Run

OPTIMIZER_BYTES = 12.0  # fp32 parameter and two moments


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes on the GPU that holds most."""

    parameters_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    activations_bytes: float

    @property
    def state_bytes(self) -> float:
        """Parameters, gradients and optimizer."""
        return self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes

    @property
    def total_bytes(self) -> float:
        """Everything but what the runtime keeps for itself."""
        return self.state_bytes + self.activations_bytes


def memory(llm: LLM, row: TrainingRow) -> TrainingMemory:
    """Return the memory of a training run on the fullest GPU of its fullest stage.

    2 + 4 + 12 bytes per parameter, 2 + 2 + 12 with gradients in bf16; stage 1 of ZeRO spreads the
    12 over the data-parallel ranks, stage 2 the gradients, stage 3 the 2.
    Source: Rajbhandari et al. 2020, arXiv:1910.02054, sec. 3.1 and 5.
    Raises SpecError if the row does not fit the model.
    """
    run = Run.of(llm, row)
    stages = [_of_stage(run, stage) for stage in range(row.pp)]
    return max(stages, key=lambda stage: stage.total_bytes)


def _of_stage(run: Run, stage: int) -> TrainingMemory:
    shard = stage_shard(run, stage)
    zero = run.row.zero_stage
    return TrainingMemory(
        parameters_bytes=_held(run, shard, WEIGHT_BYTES, spread=zero >= 3),
        gradients_bytes=_held(run, shard, run.gradient_bytes, spread=zero >= 2),
        optimizer_bytes=_held(run, shard, OPTIMIZER_BYTES, spread=zero >= 1),
        activations_bytes=stage_activation_bytes(run, stage),
    )


def _held(run: Run, shard: Shard, width: float, *, spread: bool) -> float:
    """Bytes of one number per parameter."""
    if not spread:
        return width * (shard.others + shard.experts)
    return width * (shard.others / run.gradient_ranks + shard.experts / run.expert_ranks)
