"""What a large language model is, as far as its layout over GPUs depends on it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autopar.specs.architecture import (
    Architecture,
    DenseFeedForward,
    ExpertFeedForward,
    Precision,
)
from autopar.specs.base import MAX_EXPERTS, MAX_LAYERS, Document, PositiveInt, Spec
from autopar.specs.counting import parameters
from autopar.units import Count

# A stated number of parameters may be rounded ("70 B" for 70.55 B), but not be another model's.
STATED_PARAMETERS_TOLERANCE = 0.02


class Precisions(Spec):
    """How the parts of a checkpoint, and the cache, are stored; activations are bf16."""

    attention: Precision = "bf16"  # its projections
    feed_forward: Precision = "bf16"  # dense feed-forwards and shared experts
    experts: Precision = "bf16"  # routed experts
    embeddings: Precision = "bf16"  # embedding, head, router, norms
    kv_cache: Precision = "bf16"


class LLM(Document):
    """A model: how many layers and experts, how many parameters, and what each layer is.

    num_layers, num_experts, experts_per_token and num_parameters stand beside the architecture so
    that a reader sees them and a slip in either is found; the architecture decides.
    """

    kind: Literal["llm"] = "llm"
    num_layers: Annotated[int, Field(ge=1, le=MAX_LAYERS, strict=True)]
    num_experts: Annotated[int, Field(ge=0, le=MAX_EXPERTS, strict=True)] = 0  # per layer
    experts_per_token: PositiveInt | None = None
    num_parameters: Count
    # Declared costs know no more of a weight than this; analytic ones go by `precisions`.
    bytes_per_parameter: Annotated[float, Field(gt=0, le=8)] = 2.0
    precisions: Precisions = Precisions()
    # Input and output of one request together; a workload with longer ones is refused.
    max_context_tokens: Annotated[int, Field(ge=1, le=10**9, strict=True)] | None = None
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

    @model_validator(mode="after")
    def _agrees_with_architecture(self) -> Self:
        if self.architecture is None:
            return self
        for key in ("num_layers", "num_experts", "experts_per_token"):
            stated, built = getattr(self, key), getattr(self.architecture, key)
            if stated is not None and stated != built:
                raise ValueError(f"{key} is {stated}, but the architecture has {built}")
        counted = parameters(self.architecture)
        if abs(counted - self.num_parameters) > STATED_PARAMETERS_TOLERANCE * counted:
            raise ValueError(
                f"num_parameters is {self.num_parameters:,.0f}, but the architecture has "
                f"{counted:,}"
            )
        return self

    @property
    def is_moe(self) -> bool:
        """Whether there are layers with experts."""
        return self.num_experts > 0

    @property
    def expert_layers(self) -> tuple[int, ...]:
        """The layers that have routed experts, ascending."""
        if self.architecture is None:
            return tuple(range(self.num_layers)) if self.is_moe else ()
        kinds = [
            isinstance(self.architecture.feed_forward_of(kind), ExpertFeedForward)
            for kind in self.architecture.layer_kinds
        ]
        return tuple(i for i, k in enumerate(self.architecture.kind_of_layer) if kinds[k])

    @property
    def has_dense_layers(self) -> bool:
        """Whether a layer has a feed-forward without experts, as far as the layers are known."""
        if self.architecture is None:
            return False
        kinds = map(self.architecture.feed_forward_of, self.architecture.layer_kinds)
        return any(isinstance(kind, DenseFeedForward) for kind in kinds)

    @property
    def weight_bytes(self) -> float:
        """Bytes of one full copy of the weights, as a document counts them."""
        return self.num_parameters * self.bytes_per_parameter
