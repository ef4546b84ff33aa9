"""What one GPU of a stage gets: the batch and the weights, divided by the degrees of the stage."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from autopar.costs.operations.arrays import real
from autopar.errors import SpecError
from autopar.problem import Candidates, FloatArray, IntArray
from autopar.specs import LLM, Architecture, Workload


def ceil_div(value: int | IntArray, parts: IntArray) -> IntArray:
    """Return value / parts, rounded up."""
    return -(-value // parts)


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model and of a batch that the analytic model needs, checked and flat."""

    num_layers: int
    num_experts: int
    experts_per_token: int
    bytes_per_parameter: float
    kv_bytes_per_element: float
    architecture: Architecture
    is_prefill: bool
    step_tokens: int  # of one batch of one replica
    num_sequences: int  # whole prompts, or running sequences
    sequence_tokens: int  # of one prompt in the batch, or of the context of one running sequence

    @classmethod
    def of(cls, llm: LLM, workload: Workload) -> Self:
        """Return the shape of a model under a workload.

        Raises SpecError if the model states no architecture, or has experts but no top-k.
        """
        if llm.architecture is None:
            raise SpecError(
                f"llm.architecture: missing for model {llm.name!r}; expected the shapes of a "
                "layer, which cost_model 'analytic' needs"
            )
        if llm.is_moe and llm.experts_per_token is None:
            raise SpecError(
                f"llm.experts_per_token: missing for model {llm.name!r} with {llm.num_experts} "
                "experts; expected how many of them one token takes, which cost_model 'analytic' "
                "needs"
            )
        is_prefill = workload.phase == "prefill"
        tokens = workload.tokens_per_step
        sequence = min(workload.sequence_tokens, tokens) if is_prefill else workload.sequence_tokens
        return cls(
            num_layers=llm.num_layers,
            num_experts=llm.num_experts,
            experts_per_token=llm.experts_per_token or 0,
            bytes_per_parameter=llm.bytes_per_parameter,
            kv_bytes_per_element=llm.kv_bytes_per_element,
            architecture=llm.architecture,
            is_prefill=is_prefill,
            step_tokens=tokens,
            num_sequences=-(-tokens // sequence) if is_prefill else tokens,
            sequence_tokens=sequence,
        )


@dataclass(frozen=True, slots=True)
class Shares:
    """Sizes on the busiest GPU of a stage; every array has shape (pairs,), whole unless said.

    A *group* is one data-parallel attention group: tp * cp GPUs. A *rank* is its context-parallel
    part: tp GPUs that hold the same tokens.
    """

    num_layers: FloatArray
    tp: FloatArray
    cp: FloatArray
    etp: FloatArray
    spread: FloatArray
    groups: FloatArray  # attn_dp
    stage_gpus: FloatArray
    step_tokens: FloatArray  # that a stage works on at once
    group_sequences: FloatArray  # of them, in the busiest group
    group_tokens: FloatArray
    rank_tokens: FloatArray
    context: FloatArray  # decode: keys of one sequence on one rank
    resident_tokens: FloatArray  # whose keys and values one rank keeps, per layer
    heads: FloatArray
    kv_heads: FloatArray
    ffn_size: FloatArray  # of a dense feed-forward, sharded by tp
    shared_size: FloatArray  # of the shared experts together, sharded by tp
    expert_size: FloatArray  # of one routed expert, sharded by etp
    vocab_size: FloatArray
    experts: FloatArray  # of one layer on the fullest expert rank
    expert_rows: FloatArray  # mean (token, expert) pairs of one layer on that rank
    dispatched_rows: FloatArray  # mean tokens of one layer that reach that rank, each counted once
    copies: FloatArray  # expert ranks that one token goes to

    @classmethod
    def of(cls, shape: Shape, rows: Candidates, num_layers: IntArray) -> Self:
        """Return the shares of stages of `num_layers[i]` layers under `rows[i]`."""
        group_gpus = rows.tp * rows.cp
        grown = np.maximum(rows.stage_gpus(num_layers) // group_gpus, 1)
        groups = np.where(rows.attn_dp == 0, grown, rows.attn_dp)
        batch = _Batch.of(shape, rows, groups)
        arch, is_moe = shape.architecture, shape.num_experts > 0
        experts = ceil_div(shape.num_experts, rows.ep)
        copies = np.minimum(shape.experts_per_token, rows.ep)
        routed = real(batch.step_tokens) * real(experts) / max(shape.num_experts, 1)
        return cls(
            num_layers=real(num_layers),
            tp=real(rows.tp),
            cp=real(rows.cp),
            etp=real(rows.etp),
            spread=real(rows.stage_spread(num_layers)),
            groups=real(groups),
            stage_gpus=real(group_gpus * groups),
            step_tokens=real(batch.step_tokens),
            group_sequences=real(batch.group_sequences),
            group_tokens=real(batch.group_tokens),
            rank_tokens=real(ceil_div(batch.group_tokens, rows.cp)),
            context=real(batch.context),
            resident_tokens=real(batch.resident_tokens),
            heads=real(ceil_div(arch.num_attention_heads, rows.tp)),
            kv_heads=real(ceil_div(arch.num_key_value_heads, rows.tp)),
            ffn_size=real(ceil_div(0 if is_moe else arch.ffn_hidden_size, rows.tp)),
            shared_size=real(ceil_div(arch.num_shared_experts * arch.ffn_hidden_size, rows.tp)),
            expert_size=real(ceil_div(arch.ffn_hidden_size if is_moe else 0, rows.etp)),
            vocab_size=real(ceil_div(arch.vocab_size, rows.tp)),
            experts=real(experts),
            expert_rows=routed * shape.experts_per_token,
            dispatched_rows=np.minimum(routed * real(copies), real(batch.step_tokens)),
            copies=real(copies),
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """How the batch of one replica is divided; fields as in `Shares`."""

    step_tokens: IntArray
    group_sequences: IntArray
    group_tokens: IntArray
    context: IntArray
    resident_tokens: IntArray

    @classmethod
    def of(cls, shape: Shape, rows: Candidates, groups: IntArray) -> Self:
        if shape.is_prefill:  # a prompt stays whole inside its group
            step_tokens = np.full_like(groups, shape.step_tokens)
            sequences = ceil_div(shape.num_sequences, groups)
            tokens = np.minimum(sequences * shape.sequence_tokens, step_tokens)
            context = np.zeros_like(groups)
            resident = rows.pp * ceil_div(tokens, rows.cp)
        else:  # the running sequences take turns in pp micro-batches
            step_tokens = ceil_div(shape.step_tokens, rows.pp)
            sequences = tokens = ceil_div(step_tokens, groups)
            context = ceil_div(shape.sequence_tokens, rows.cp)
            resident = ceil_div(shape.num_sequences, groups) * context
        return cls(step_tokens, sequences, tokens, context, resident)
