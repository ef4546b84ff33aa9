"""The sizes of a model and of its work that the analytic model needs, checked and flat."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from autopar.costs.expert_law import law_of
from autopar.costs.operations.arrays import real
from autopar.costs.operations.loads import Law, RankFactors
from autopar.errors import SpecError
from autopar.problem import FloatArray, IntArray
from autopar.specs import LLM, Architecture, Layer, Precisions, Workload

KV_PAGE_TOKENS = 16  # vLLM `--block-size`; its default on CUDA GPUs


@dataclass(frozen=True, slots=True)
class Shape:
    """What is computed and on what, whatever the degrees.

    law: how tokens spread over experts. kinds: the different layers. counts: shape (kinds, layers +
    1), how many of the first i layers are of each kind.
    """

    architecture: Architecture
    precisions: Precisions
    workload: Workload
    law: Law | RankFactors
    kinds: tuple[Layer, ...]
    counts: IntArray

    @classmethod
    def of(cls, llm: LLM, workload: Workload) -> Self:
        """Return the shape of a model under a workload.

        Raises SpecError if the model states no architecture, or has no layers to draft tokens.
        """
        architecture = llm.architecture
        if architecture is None:
            raise SpecError(
                f"llm.architecture: missing for model {llm.name!r}; expected the shapes of its "
                "layers, which cost_model 'analytic' needs"
            )
        if workload.speculation is not None and architecture.next_token_prediction is None:
            raise SpecError(
                f"workload.speculation: model {llm.name!r} has no layers that draft tokens; "
                "expected a model with architecture.next_token_prediction, or no speculation"
            )
        kinds = np.array(architecture.kind_of_layer, dtype=np.int64)
        one_hot = kinds[None, :] == np.arange(len(architecture.layer_kinds))[:, None]
        counts = np.zeros((len(one_hot), len(kinds) + 1), dtype=np.int64)
        counts[:, 1:] = one_hot.cumsum(axis=1)
        return cls(
            architecture,
            llm.precisions,
            workload,
            law_of(workload),
            architecture.layer_kinds,
            counts,
        )

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return int(self.counts.shape[1]) - 1

    @property
    def num_experts(self) -> int:
        """Routed experts of a layer that has any."""
        return self.architecture.num_experts

    @property
    def tokens_per_sequence(self) -> float:
        """Tokens that one running sequence gains in one step."""
        speculation = self.workload.speculation
        return 1.0 if speculation is None else speculation.tokens_per_step

    @property
    def queries_per_sequence(self) -> int:
        """Tokens of one running sequence that one step works on: the last one and its drafts."""
        return self.workload.queries_per_sequence

    def kind_counts(self, first: IntArray, stop: IntArray) -> FloatArray:
        """Layers of each kind in segments `[first, stop)`, shape (kinds, segments)."""
        return real(self.counts[:, stop] - self.counts[:, first])


def whole_pages(tokens: int) -> int:
    """Return the tokens of the cache pages that `tokens` tokens of one sequence take."""
    return -(-tokens // KV_PAGE_TOKENS) * KV_PAGE_TOKENS


def ceil_div(value: int | IntArray, parts: IntArray) -> IntArray:
    """Return value / parts, rounded up."""
    return -(-value // parts)
