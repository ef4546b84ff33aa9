"""A whole question: which model on which cluster, for which work, under which requirements."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autopar.specs.base import Document, Name, PositiveInt, Spec
from autopar.specs.cluster import Cluster
from autopar.specs.engine import Engine
from autopar.specs.factors import CostFactors
from autopar.specs.llm import LLM
from autopar.specs.recipe import Recipe, RulePack, RuleSpec
from autopar.specs.workload import Workload
from autopar.units import Bytes, DurationUs, Flops, Fraction, TokensPerS

_ABSENT_TIMES = {
    "prefill": ("tpot", "time per output token"),
    "decode": ("ttft", "time to first token"),
}
Level = Literal["node", "domain", "cluster"]


class Requirements(Spec):
    """What a plan must satisfy; what is absent is not required."""

    coverage: Literal["partition", "every_gpu", "up_to"] = "up_to"
    min_tokens_per_s: TokensPerS | None = None
    min_tokens_per_s_per_gpu: TokensPerS | None = None
    max_ttft_us: DurationUs | None = None
    max_tpot_us: DurationUs | None = None
    max_memory_fraction: Fraction = 1.0
    tensor_parallel_within: Level = "cluster"
    all_to_all_within: Level = "cluster"
    max_context_parallel_size: PositiveInt = 1
    # Share of the time in which replicas for prompts of a disaggregated service may work at most:
    # at 1 their queue grows for ever. A limit on TTFT asks for less where that is needed.
    max_prefill_load: Annotated[float, Field(ge=0.01, le=0.99)] = 0.95
    # Disjoint expert grids of a stage; where absent, 1 as in every engine if the batch is open, and
    # no limit if it is given.
    max_spread: PositiveInt | None = None

    @property
    def most_prefill_percent(self) -> int:
        """The most that replicas for prompts may be busy, in whole percent."""
        return int(self.max_prefill_load * 100 + 1e-9)


class Declared(Spec):
    """The numbers that a document states about its own plan; the declared cost model is these."""

    flops_per_token: Flops
    compute_efficiency: Fraction
    utilisation: Fraction
    layer_time_us: DurationUs
    kv_cache_bytes_per_gpu: Bytes | None = None
    activation_bytes_per_gpu: Bytes | None = None
    reserved_bytes_per_gpu: Bytes | None = None


class Scenario(Document):
    """A question with all its parts resolved; the catalogue fills names in with specs."""

    kind: Literal["scenario"] = "scenario"
    llm: LLM
    cluster: Cluster
    workload: Workload
    requirements: Requirements = Requirements()
    rules: tuple[RuleSpec, ...] = ()
    rule_packs: tuple[RulePack, ...] = ()
    cost_model: Annotated[Name, Field()] = "analytic"
    declared: Declared | None = None
    engine: Engine | None = None  # whose host time is charged; none without it
    cost_factors: CostFactors = CostFactors()
    recipe: Recipe

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.cost_model == "declared" and self.declared is None:
            raise ValueError("cost_model 'declared' needs the section 'declared'")
        if self.requirements.coverage == "partition" and not self.llm.is_moe:
            raise ValueError(
                "coverage 'partition' means one expert shard on every GPU, but the model is dense; "
                "expected 'every_gpu' or 'up_to'"
            )
        if self.requirements.coverage == "partition" and len(self.llm.expert_layers) < (
            self.llm.num_layers
        ):
            raise ValueError(
                "coverage 'partition' means one expert shard on every GPU, but some layers have no "
                "experts; expected 'every_gpu' or 'up_to'"
            )
        seen: set[str] = set()
        for rule in self.all_rules:
            if rule.name in seen:
                raise ValueError(f"two rules have the name {rule.name!r}")
            seen.add(rule.name)
        return self

    @model_validator(mode="after")
    def _requests_fit_the_context(self) -> Self:
        most, work = self.llm.max_context_tokens, self.workload
        tokens = work.sequence_tokens or (work.input_tokens or 0) + (work.output_tokens or 0)
        if most is not None and tokens > most:
            raise ValueError(
                f"workload {work.name!r} has requests of {tokens:,} tokens, but llm "
                f"{self.llm.name!r} takes at most {most:,} of context; expected a shorter workload,"
                f" or --set llm.max_context_tokens={tokens} where the model is run with more"
            )
        return self

    @model_validator(mode="after")
    def _expert_counts_are_of_the_model(self) -> Self:
        counts = self.workload.expert_counts
        if counts is None:
            return self
        expected = len(self.llm.expert_layers), self.llm.num_experts
        found = len(counts), len(counts[0]) if counts else 0
        if found != expected:
            raise ValueError(
                f"workload.expert_counts has {found[0]} layers of {found[1]} experts, but llm "
                f"{self.llm.name!r} has {expected[0]} of {expected[1]}"
            )
        return self

    @property
    def absent_time(self) -> tuple[str, str] | None:
        """The time that the workload does not have: its key and its words."""
        return _ABSENT_TIMES.get(self.workload.phase)

    @property
    def assumptions_of_parts(self) -> tuple[str, ...]:
        """What the documents of model, cluster, GPU, workload and engine assume, with their names.

        The scenario's own assumptions are not among them.
        """
        parts = (self.llm, self.cluster, self.cluster.gpu, self.workload, self.engine)
        return tuple(
            f"assumed in {part.kind} {part.name}: {said}"
            for part in parts
            if part is not None
            for said in part.assumptions
        )

    @property
    def all_rules(self) -> tuple[RuleSpec, ...]:
        """Rules of the scenario, of its rule packs and of its recipe, in that order."""
        packs = tuple(rule for pack in self.rule_packs for rule in pack.rules)
        return self.rules + packs + self.recipe.rules

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of any answer must know of the question."""
        return self.assumptions_of_parts + self.notes_of_rules

    @property
    def notes_of_rules(self) -> tuple[str, ...]:
        """Which rules of the scenario or its recipe relate two roles that this work does not have.

        Those of an engine are meant for its pairs, and go without saying.
        """
        if self.workload.phase == "disaggregated":
            return ()
        return tuple(
            f"rule {rule.name} relates the roles prefill and decode; this work is "
            f"{self.workload.phase}, of which it says nothing"
            for rule in self.rules + self.recipe.rules
            if rule.is_of_pair
        )
