"""What somebody measured and published: configurations with their figures, and where they stand.

Figures are in the units that the sources print (ms, s, GiB), which end the names of their fields.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autopar.specs.base import Document, Name, NonNegativeInt, PositiveInt, Spec, Text
from autopar.specs.llm import Precisions
from autopar.specs.workload import ExpertLoad

Positive = Annotated[float, Field(gt=0, le=1e12)]


class Layout(Spec):
    """Degrees of a measured run. gpus: of all of them; tp * cp * attn_dp * pp * replicas."""

    tp: PositiveInt = 1
    pp: PositiveInt = 1
    cp: PositiveInt = 1
    attn_dp: PositiveInt = 1
    ep: PositiveInt = 1
    etp: PositiveInt | None = None  # where absent, what ep leaves of the GPUs of a stage
    replicas: PositiveInt = 1

    @property
    def stage_gpus(self) -> int:
        """GPUs of one stage."""
        return self.tp * self.cp * self.attn_dp

    @property
    def num_gpus(self) -> int:
        """GPUs of the whole run."""
        return self.stage_gpus * self.pp * self.replicas


class ServingRow(Layout):
    """One configuration of a serving engine and what it reached.

    concurrency: requests in flight of a closed loop, or the size of a static batch.
    step_tokens: prompt tokens of one GPU in a step (`prefill`).
    """

    id: Name
    input_tokens: PositiveInt
    output_tokens: PositiveInt = 1
    concurrency: PositiveInt = 1
    step_tokens: PositiveInt | None = None
    ttft_ms: Positive | None = None
    tpot_ms: Positive | None = None
    e2e_s: Positive | None = None
    tokens_per_s_per_gpu: Positive | None = None  # of what the mode produces
    note: Text = ""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        figures = (self.ttft_ms, self.tpot_ms, self.e2e_s, self.tokens_per_s_per_gpu)
        if all(figure is None for figure in figures):
            raise ValueError("a row needs a figure: ttft_ms, tpot_ms, e2e_s, tokens_per_s_per_gpu")
        return self


class TrainingRow(Layout):
    """One training run: its layout, its batch, and the time of a step or its memory.

    virtual_stages: chunks of layers that a GPU holds where the pipeline is interleaved.
    zero_stage: what is spread over the data-parallel ranks (Rajbhandari et al. 2020, sec. 5).
    materialises_scores: attention writes its scores to memory, with dropout on them and on the
    results of both halves of a layer, as Megatron-LM did before FlashAttention.
    sends_once: a token goes to the experts once for each node that holds some of them (DeepEP);
    else once for each expert.
    reduces_in_bf16: gradients are accumulated and summed over ranks in 2 bytes; else in 4.
    """

    id: Name
    sequence_tokens: PositiveInt
    global_batch_sequences: PositiveInt
    micro_batch_sequences: PositiveInt = 1
    virtual_stages: PositiveInt = 1
    sequence_parallel: bool = False
    recompute: Literal["none", "selective", "full"] = "none"
    zero_stage: Annotated[NonNegativeInt, Field(le=3)] = 0
    materialises_scores: bool = False
    sends_once: bool = False
    reduces_in_bf16: bool = False
    overlaps: bool = False  # whether collectives over data-parallel ranks run beside the backward
    overlaps_tensor: bool = False  # whether those over tensor shards run in pieces beside products
    overlaps_experts: bool = False  # whether all-to-alls run beside another micro-batch's work
    step_s: Positive | None = None
    state_gib: Positive | None = None  # parameters, gradients and optimizer of one GPU
    activation_gib: Positive | None = None
    out_of_memory: bool = False
    note: Text = ""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.step_s is self.state_gib is self.activation_gib is None and not self.out_of_memory:
            raise ValueError(
                "a row needs a figure: step_s, state_gib, activation_gib or out_of_memory"
            )
        return self


class _Case(Spec):
    """What the rows of a case share. cluster: catalogue name; rows may use a part of its GPUs."""

    llm: Name
    cluster: Name
    precisions: Precisions | None = None  # where the run stored the model otherwise
    engine: Name | None = None
    engine_version: Text = ""
    date: Text = ""
    source: Text  # where the figures stand: document, table, line
    note: Text = ""


class ServingCase(_Case):
    """Rows of one model on one kind of GPU with one engine.

    closed_loop: so many clients, each with one request at a time. static: one batch, prompts
    first, then all answers in step; a batch of 1 is a lone request. prefill, decode: that phase
    alone, on replicas of its own. expert_load: how tokens spread over experts; where nobody says,
    the law of measured experts that is nearest to random routing.
    """

    mode: Literal["closed_loop", "static", "prefill", "decode"]
    expert_load: ExpertLoad = "power_law_1.01"
    rows: Annotated[tuple[ServingRow, ...], Field(min_length=1)]


class TrainingCase(_Case):
    """Rows of one model on one kind of GPU with one framework."""

    mode: Literal["training"]
    rows: Annotated[tuple[TrainingRow, ...], Field(min_length=1)]


class Measurements(Document):
    """Published figures of one source."""

    kind: Literal["measurements"] = "measurements"
    cases: Annotated[
        tuple[Annotated[ServingCase | TrainingCase, Field(discriminator="mode")], ...],
        Field(min_length=1),
    ]

    @model_validator(mode="after")
    def _rows_have_names(self) -> Self:
        seen: set[str] = set()
        for case in self.cases:
            for row in case.rows:
                if row.id in seen:
                    raise ValueError(f"two rows have the id {row.id!r}")
                seen.add(row.id)
        return self
