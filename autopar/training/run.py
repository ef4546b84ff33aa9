"""How a training run lies on its GPUs: ranks, micro-batches, and which layers each stage holds.

Ranks are numbered as Megatron-LM does: tensor shards innermost, then context, then data-parallel
ranks, stages outermost. An expert grid of ep x etp lies inside a stage, its shards innermost.
Source: Megatron-LM, `megatron/core/parallel_state.py`, order tp-cp-ep-dp-pp.
"""

from dataclasses import dataclass
from typing import Self

from autopar.errors import SpecError
from autopar.specs import LLM, Architecture, Precisions, TrainingRow


@dataclass(frozen=True, slots=True)
class Run:
    """One configuration, checked; counts are whole numbers.

    chunks: for each stage, for each chunk of it, the layers that it holds.
    """

    row: TrainingRow
    architecture: Architecture
    precisions: Precisions
    chunks: tuple[tuple[range, ...], ...]

    @classmethod
    def of(cls, llm: LLM, row: TrainingRow) -> Self:
        """Return the run of a model under a configuration.

        Raises SpecError if the two do not fit.
        """
        if llm.architecture is None:
            raise SpecError(
                f"llm.architecture: missing for model {llm.name!r}; expected the shapes of its "
                "layers, which the time of a training step needs"
            )
        run = cls(row, llm.architecture, llm.precisions, _chunks(llm.num_layers, row))
        wave = run.data_ranks * row.micro_batch_sequences
        if row.global_batch_sequences % wave:
            raise SpecError(
                f"row {row.id!r}: global_batch_sequences {row.global_batch_sequences} is not a "
                f"multiple of {wave}, data-parallel ranks x micro_batch_sequences"
            )
        if llm.is_moe and row.stage_gpus % row.ep:
            raise SpecError(
                f"row {row.id!r}: tp * cp * attn_dp {row.stage_gpus} is not a multiple of ep "
                f"{row.ep}"
            )
        if llm.is_moe and run.etp * row.ep != row.stage_gpus:
            raise SpecError(
                f"row {row.id!r}: ep * etp is {run.etp * row.ep}, but tp * cp * attn_dp is "
                f"{row.stage_gpus}; expected attn_dp to be the ranks that exchange tokens, and "
                "replicas the rest"
            )
        return run

    @property
    def data_ranks(self) -> int:
        """Ranks that work on sequences of their own."""
        return self.row.attn_dp * self.row.replicas

    @property
    def stage_gpus(self) -> int:
        """GPUs of one stage, all data-parallel ranks of it."""
        return self.row.stage_gpus * self.row.replicas

    @property
    def etp(self) -> int:
        """Tensor shards of an expert."""
        return self.row.etp or max(self.row.stage_gpus // self.row.ep, 1)

    @property
    def gradient_ranks(self) -> int:
        """GPUs that hold the same shard of what is not an expert: data and context ranks."""
        return self.data_ranks * self.row.cp

    @property
    def expert_ranks(self) -> int:
        """GPUs that hold the same shard of the same experts."""
        return self.stage_gpus // (self.row.ep * self.etp)

    @property
    def gradient_bytes(self) -> float:
        """Bytes in which a gradient is accumulated and summed over ranks.

        Source: Megatron-LM, `accumulate_allreduce_grads_in_fp32`.
        """
        return 2.0 if self.row.reduces_in_bf16 else 4.0

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one rank in a step."""
        row = self.row
        return row.global_batch_sequences // (self.data_ranks * row.micro_batch_sequences)

    @property
    def tokens(self) -> float:
        """Tokens of a micro-batch on one rank of context parallelism."""
        return self.row.micro_batch_sequences * self.row.sequence_tokens / self.row.cp

    @property
    def own_tokens(self) -> float:
        """Tokens that only this GPU works on outside products: with sequence parallelism, 1/tp."""
        return self.tokens / self.row.tp if self.row.sequence_parallel else self.tokens

    def layers_of(self, stage: int) -> tuple[int, ...]:
        """Return the layers of a stage."""
        return tuple(layer for chunk in self.chunks[stage] for layer in chunk)


def _chunks(num_layers: int, row: TrainingRow) -> tuple[tuple[range, ...], ...]:
    """Deal layers over chunks: equal ones, or ones that count the two ends as a layer each.

    Source: Megatron-LM, `account_for_embedding_in_pipeline_split` and `..._loss_...`, as the
    recipes of models with 126 and 94 layers set them; else the first chunks get one more.
    """
    count = row.pp * row.virtual_stages
    if count > num_layers + 2:
        raise SpecError(
            f"row {row.id!r}: pp * virtual_stages is {count}, more than the {num_layers} layers"
        )
    if num_layers % count and (num_layers + 2) % count == 0:
        each = (num_layers + 2) // count
        sizes = [each - 1, *[each] * (count - 2), each - 1]
    else:
        each, more = divmod(num_layers, count)
        sizes = [each + 1] * more + [each] * (count - more)
    first, ranges = 0, []
    for size in sizes:
        ranges.append(range(first, first + size))
        first += size
    return tuple(tuple(ranges[stage :: row.pp]) for stage in range(row.pp))
