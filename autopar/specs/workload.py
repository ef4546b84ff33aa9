"""What the service does with the model."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autopar.specs.base import Document, Spec
from autopar.units import Fraction

# measured: as expert_counts say, with the placement that is found for them. measured_bound: as if
# every placement reached its lower bound, which none may do; it bounds what measured can give.
ExpertLoad = Literal["even", "power_law_1.01", "power_law_1.2", "measured", "measured_bound"]
_Count = Annotated[float, Field(ge=0, le=1e18)]
_Tokens = Annotated[int, Field(ge=1, le=10**9, strict=True)]

# Prompt tokens that a scheduler takes into one step: `--chunked-prefill-size` of SGLang,
# `--max-num-batched-tokens` of vLLM. 8,192 is what SGLang takes on GPUs of 80 GB and more.
PREFILL_CHUNK_TOKENS = 8192
# Sequences that one attention group runs at once at most: the largest CUDA graph that engines
# capture by default (vLLM, SGLang: 512 on 80 GB GPUs). Memory and TPOT usually bind before.
MAX_BATCH_SEQUENCES = 512
# Prompts are not cut finer: below that, a GPU reads weights longer than it computes with them.
LEAST_CHUNK_TOKENS = 256


class Speculation(Spec):
    """Draft tokens that the model itself proposes (multi-token prediction) and then checks.

    acceptance: probability that a draft token is right, given that those before it were.
    """

    draft_tokens: Annotated[int, Field(ge=1, le=16, strict=True)]
    acceptance: Fraction

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens that one sequence gains in one step: 1 + a + a^2 + ... + a^draft_tokens.

        Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding",
        equation 1.
        """
        return sum(self.acceptance**i for i in range(self.draft_tokens + 1))


class Workload(Document):
    """Steady work for every replica: with a batch that is given, or one that is to be found.

    Given: `prefill` with batch_tokens and sequence_tokens (prompts of that length fill a batch of
    so many tokens per replica), `decode` with batch_sequences and sequence_tokens (so many running
    sequences per replica, each with so many tokens of context).

    To be found, with input_tokens and, but for prefill, output_tokens per request:
    `prefill` and `decode`, each alone; `serving`, both on the same GPUs, prompts mixed into the
    steps of running sequences (continuous batching, chunked prefill); `disaggregated`, each on
    replicas of its own.
    """

    kind: Literal["workload"] = "workload"
    phase: Literal["prefill", "decode", "serving", "disaggregated"]
    batch_tokens: _Tokens | None = None
    batch_sequences: _Tokens | None = None
    sequence_tokens: _Tokens | None = None
    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    prefill_chunk_tokens: _Tokens = PREFILL_CHUNK_TOKENS
    chunked_prefill: bool = True  # whether a prompt may be computed in parts, one after another
    max_batch_sequences: Annotated[int, Field(ge=1, le=65_536, strict=True)] = MAX_BATCH_SEQUENCES
    # Prompts of its own group that a request finds waiting before it, where requests come in bursts
    prompts_ahead: Annotated[float, Field(ge=0, le=1000)] = 0.0
    # How tokens spread over experts: evenly, or by the power laws of measured expert kernels.
    expert_load: ExpertLoad = "even"
    # Tokens that each expert got, per layer with experts: shape (layers, experts).
    expert_counts: tuple[tuple[_Count, ...], ...] | None = None
    speculation: Speculation | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = ("batch_tokens", "batch_sequences", "sequence_tokens")
        wanted, refused = self._fields_of_the_form()
        for name in wanted:
            if getattr(self, name) is None:
                raise ValueError(f"phase {self.phase!r} needs {name}{self._hint(given)}")
        for name in refused:
            if getattr(self, name) is not None:
                raise ValueError(f"phase {self.phase!r} with {wanted[0]} does not take {name}")
        if self.phase == "prefill" and self.speculation is not None:
            raise ValueError("phase 'prefill' does not take speculation: it has no output tokens")
        if not self.chunked_prefill and (self.input_tokens or 1) > self.prefill_chunk_tokens:
            raise ValueError(
                f"chunked_prefill is false, so that a step must hold a whole prompt: "
                f"prefill_chunk_tokens is {self.prefill_chunk_tokens:,}, "
                f"input_tokens {self.input_tokens:,}"
            )
        return self

    @model_validator(mode="after")
    def _counts_are_measured(self) -> Self:
        is_measured = self.expert_load.startswith("measured")
        if is_measured != (self.expert_counts is not None):
            raise ValueError(
                f"expert_load {self.expert_load!r} "
                + (
                    "needs expert_counts (--expert-loads FILE)"
                    if is_measured
                    else "does not take expert_counts; expected 'measured'"
                )
            )
        rows = self.expert_counts or ()
        widths = {len(row) for row in rows}
        for number, row in enumerate(rows):
            if len(widths) > 1 or not any(row):
                raise ValueError(
                    f"expert_counts[{number}]: expected as many experts in each row, and not "
                    "all of them 0"
                )
        return self

    def _fields_of_the_form(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return which fields the phase needs in the form that was written, and refuses."""
        if self.is_open:
            length = ("input_tokens",)
            given = ("batch_tokens", "batch_sequences", "sequence_tokens")
            if self.phase == "prefill":
                return length, (*given, "output_tokens")
            return (*length, "output_tokens"), given
        open_fields = ("input_tokens", "output_tokens", "speculation")
        if self.phase == "prefill":
            return ("batch_tokens", "sequence_tokens"), ("batch_sequences", *open_fields)
        return ("batch_sequences", "sequence_tokens"), ("batch_tokens", *open_fields)

    def _hint(self, given: tuple[str, ...]) -> str:
        if self.phase in ("serving", "disaggregated"):
            return " (tokens of one request; the batch is found)"
        if self.is_open or any(getattr(self, name) is not None for name in given):
            return ""
        return " (a given batch), or input_tokens (the batch is found)"

    @property
    def is_open(self) -> bool:
        """Whether the batch is to be found."""
        return self.phase in ("serving", "disaggregated") or self.input_tokens is not None

    @property
    def is_role(self) -> bool:
        """Whether this is what one role of a disaggregated service does."""
        return False

    @property
    def is_prefill(self) -> bool:
        """Whether prompts alone are worked on."""
        return self.phase == "prefill"

    @property
    def fewest_chunks(self) -> int:
        """In how many parts a prompt must be computed at least; 1 where the batch is given."""
        return max(1, -(-(self.input_tokens or 1) // self.prefill_chunk_tokens))

    @property
    def chunk_counts(self) -> tuple[int, ...]:
        """The numbers of parts of a prompt that are searched: the fewest, and doubles of it.

        More parts fill a pipeline, and ride on steps of running sequences, which read the weights
        anyway. Engines take chunks of powers of two; parts are not cut below LEAST_CHUNK_TOKENS.
        """
        counts = [self.fewest_chunks]
        if self.is_open and self.phase != "decode" and self.chunked_prefill:
            while (self.input_tokens or 1) // (2 * counts[-1]) >= LEAST_CHUNK_TOKENS:
                counts.append(2 * counts[-1])
        return tuple(counts)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a given batch that one step takes through the model, per replica."""
        return self.batch_tokens or self.batch_sequences or 0

    @property
    def queries_per_sequence(self) -> int:
        """Tokens of one running sequence that one step works on: the last one and its drafts."""
        return 1 if self.speculation is None else 1 + self.speculation.draft_tokens

    @property
    def num_sequences(self) -> float:
        """Sequences of a given batch, per replica; not whole where the last prompt is cut."""
        if self.batch_tokens is not None:
            return max(1.0, self.batch_tokens / (self.sequence_tokens or 1))
        return float(self.batch_sequences or 0)


class RoleWorkload(Workload):
    """What one role of a disaggregated service does; no document states one by itself."""

    @property
    def is_role(self) -> bool:
        """Another role does the rest of every request."""
        return True
