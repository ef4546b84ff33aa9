"""What a large language model is, as far as its layout over GPUs depends on it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autopar.specs.base import MAX_EXPERTS, MAX_LAYERS, Document, NonNegativeInt, PositiveInt, Spec
from autopar.units import Count


class Architecture(Spec):
    """Shapes of one transformer layer and of the two ends; every layer has the same shape.

    The analytic cost model needs it; the declared one does not.
    """

    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    ffn_hidden_size: PositiveInt  # of one expert, or of the dense feed-forward
    num_shared_experts: NonNegativeInt = 0
    vocab_size: PositiveInt
    shares_embeddings: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        return self


class LLM(Document):
    """A model: how many layers and experts, how many parameters, how many bytes each."""

    kind: Literal["llm"] = "llm"
    num_layers: Annotated[int, Field(ge=1, le=MAX_LAYERS, strict=True)]
    num_experts: Annotated[int, Field(ge=0, le=MAX_EXPERTS, strict=True)] = 0  # per layer
    experts_per_token: PositiveInt | None = None
    num_parameters: Count
    bytes_per_parameter: Annotated[float, Field(gt=0, le=8)] = 2.0
    kv_bytes_per_element: Annotated[float, Field(gt=0, le=8)] = 2.0
    architecture: Architecture | None = None

    @model_validator(mode="after")
    def _experts_fit(self) -> Self:
        if self.experts_per_token is not None:
            if not self.num_experts:
                raise ValueError("experts_per_token is set, but num_experts is 0 (a dense model)")
            if self.experts_per_token > self.num_experts:
                raise ValueError(
                    f"experts_per_token {self.experts_per_token} is more than "
                    f"num_experts {self.num_experts}"
                )
        return self

    @property
    def is_moe(self) -> bool:
        """Whether the layers have experts."""
        return self.num_experts > 0

    @property
    def weight_bytes(self) -> float:
        """Bytes of one full copy of the weights."""
        return self.num_parameters * self.bytes_per_parameter
