"""What the service does with the model."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autopar.specs.base import Document

_Tokens = Annotated[int, Field(ge=1, le=10**9, strict=True)]


class Workload(Document):
    """A steady stream of equal batches through every replica.

    prefill: a batch is `batch_tokens` prompt tokens, in sequences of `sequence_tokens`.
    decode: a batch is `batch_sequences` running sequences per replica, each with `sequence_tokens`
    tokens of context; every step gives each of them one token.
    """

    kind: Literal["workload"] = "workload"
    phase: Literal["prefill", "decode"]
    batch_tokens: _Tokens | None = None
    batch_sequences: _Tokens | None = None
    sequence_tokens: _Tokens

    @model_validator(mode="after")
    def _batch_of_the_phase(self) -> Self:
        wanted, other = "batch_tokens", "batch_sequences"
        if self.phase == "decode":
            wanted, other = other, wanted
        if getattr(self, wanted) is None:
            raise ValueError(f"phase {self.phase!r} needs {wanted}")
        if getattr(self, other) is not None:
            raise ValueError(f"phase {self.phase!r} does not take {other}")
        return self

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one batch takes through the model in one step, per replica."""
        return self.batch_tokens or self.batch_sequences or 0

    @property
    def num_sequences(self) -> float:
        """Sequences of one batch, per replica; not whole where the last prompt is cut."""
        if self.batch_tokens is not None:
            return max(1.0, self.batch_tokens / self.sequence_tokens)
        return float(self.batch_sequences or 0)
