"""Config fields -> one feed-forward: dense, or routed experts with shared ones."""

from dataclasses import dataclass

from autopar.ingest.aliases import (
    DENSE_SIZE,
    EXPERT_SIZE,
    EXPERTS,
    EXPERTS_PER_TOKEN,
    HIDDEN,
)
from autopar.ingest.fields import Fields, Names, Switch
from autopar.specs import DenseFeedForward, ExpertFeedForward
from autopar.specs.architecture import MAX_SIZE
from autopar.specs.base import MAX_EXPERTS


def numbered(pattern: str, *words: str) -> Names:
    """Return the names that a pattern gives with each word in place of its braces."""
    return tuple(pattern.format(word) for word in words)


_GATED = ("gate", "up", "down")
_DENSE_MODULES = numbered("mlp.{}_proj", *_GATED)
_EXPERT_MODULES = numbered("mlp.experts.0.{}_proj", *_GATED)
_SHARED_MODULES = numbered("mlp.shared_experts.{}_proj", *_GATED)
BLOCK_SPARSE = numbered("block_sparse_moe.experts.0.{}", "w1", "w2", "w3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A feed-forward that every token passes. other_parameters: of an activation that learns."""

    size: Names = DENSE_SIZE
    bias: Switch = False
    num_matrices: int = 3
    other_parameters: int = 0
    modules: Names = _DENSE_MODULES

    def build(self, fields: Fields) -> DenseFeedForward:
        """Return the feed-forward.

        Raises SpecError if a field is missing or wrong.
        """
        size, hidden = fields.integer(*self.size), fields.integer(*HIDDEN)
        biases = ((self.num_matrices - 1) * size + hidden) * fields.switch(self.bias)
        return DenseFeedForward(
            ffn_size=size,
            num_matrices=2 if self.num_matrices == 2 else 3,
            other_parameters=biases + self.other_parameters,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Routed experts, and what stands beside them.

    shared_count: fields for how many shared experts of the size of a routed one; shared_size:
    fields for the width of all of them; always_shared: one of a routed one's size, without a field.
    hidden_vectors: weights as wide as the hidden size, such as a gate on the shared expert.
    routing_bias: one number per expert that corrects the choice of experts, router_bias: one that
    belongs to the router's scores; both are stored in the checkpoint.
    """

    size: Names = EXPERT_SIZE
    shared_count: Names = ()
    shared_size: Names = ()
    always_shared: bool = False
    hidden_vectors: int = 0
    routing_bias: Switch = False
    router_bias: bool = False
    expert_bias: bool = False
    num_matrices: int = 3
    latent: Names = ()
    per_token: Names = EXPERTS_PER_TOKEN
    section: str | None = None  # the nested mapping that holds the fields
    modules: Names = _EXPERT_MODULES
    shared_modules: Names = _SHARED_MODULES

    @property
    def fields(self) -> Names:
        """The names of all fields that it reads."""
        return (*self.per_token, *EXPERTS, *self.size, *self.shared_count, *self.shared_size)

    def build(self, fields: Fields) -> ExpertFeedForward:
        """Return the feed-forward.

        Raises SpecError if a field is missing or wrong.
        """
        hidden = fields.integer(*HIDDEN)
        own = fields if self.section is None else fields.section(self.section)
        if own is None:
            raise fields.error(self.section or "", "found nothing, expected a mapping of fields")
        count = own.integer(*EXPERTS, high=MAX_EXPERTS)
        per_token = own.integer(*self.per_token, high=MAX_EXPERTS)
        if per_token > count:
            message = f"found {per_token}, expected at most the {count} experts"
            raise own.error(own.spelled(*self.per_token), message)
        groups = self._groups(own, count, per_token)
        size = own.integer(*self.size)
        routing = fields.switch(self.routing_bias) + self.router_bias
        biases = ((self.num_matrices - 1) * size + hidden) * self.expert_bias
        return ExpertFeedForward(
            num_experts=count,
            experts_per_token=per_token,
            expert_size=size,
            shared_size=self._shared(own, size),
            latent_size=own.optional(*self.latent) if self.latent else None,
            num_matrices=2 if self.num_matrices == 2 else 3,
            other_parameters_per_expert=biases,
            other_parameters=count * routing + hidden * self.hidden_vectors,
            router_groups=groups,
        )

    def _groups(self, fields: Fields, count: int, per_token: int) -> int:
        """Return among how many groups of experts the router picks first; 1 where it does not.

        Raises SpecError for groups that do not hold what a token is routed to.
        """
        groups = fields.optional("n_group", high=MAX_EXPERTS)
        chosen = fields.optional("topk_group", high=MAX_EXPERTS)
        if groups is None:
            return 1
        if count % groups:
            message = f"found {groups}, expected a divisor of the {count} experts"
            raise fields.error("n_group", message)
        if chosen is None:
            return groups
        if chosen > groups:
            message = f"found {chosen}, expected at most the {groups} groups of n_group"
            raise fields.error("topk_group", message)
        held = chosen * (count // groups)
        if per_token > held:
            message = f"found {per_token}, expected at most the {held} experts of {chosen} groups"
            raise fields.error(fields.spelled(*self.per_token), message)
        return groups

    def _shared(self, fields: Fields, size: int) -> int:
        if self.always_shared:
            return size
        if self.shared_size:
            return fields.stated(*self.shared_size)
        if not self.shared_count:
            return 0
        total = size * fields.stated(*self.shared_count, high=MAX_EXPERTS)
        if total > MAX_SIZE:
            message = (
                f"found {total // size}, expected shared experts of at most {MAX_SIZE:,} columns"
            )
            raise fields.error(fields.spelled(*self.shared_count), message)
        return total
