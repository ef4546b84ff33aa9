"""A plan file: what a person wrote or what `solve` printed, with claims that can be audited."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from autopar.specs.base import MAX_GPUS, Document, Name, NonNegativeInt, PositiveInt, Spec, Text
from autopar.specs.recipe import Expression

# Fields of a plan that belong to its layout; a plan with roles has them in each role.
_OF_A_LAYOUT = (
    "degrees", "batch", "chunks", "layers_per_stage", "stages", "replicas", "placement",
)  # fmt: skip


class DegreesSpec(Spec):
    """Parallel degrees; what is absent is 1, attn_dp and spread are derived where they can be.

    null stands where the stages differ, and each stage then says its own.
    """

    replicas: PositiveInt = 1
    pp: PositiveInt = 1
    tp: PositiveInt | None = 1
    cp: PositiveInt | None = 1
    attn_dp: PositiveInt | None = None
    ep: PositiveInt | None = 1
    etp: PositiveInt | None = 1
    spread: PositiveInt | None = None


class StageSpec(Spec):
    """One pipeline stage of the first replica."""

    index: NonNegativeInt
    layers: tuple[NonNegativeInt, ...]
    gpus: tuple[NonNegativeInt, ...]
    pool: str | None = None
    tp: PositiveInt | None = None
    cp: PositiveInt | None = None
    attn_dp: PositiveInt | None = None
    ep: PositiveInt | None = None
    etp: PositiveInt | None = None
    spread: PositiveInt | None = None


class ReplicaSpec(Spec):
    """The GPUs of every stage of one replica, stage by stage.

    `gpu_offset` is there when the replica is the first one moved by that many GPUs, else `stages`.
    """

    index: NonNegativeInt
    gpu_offset: NonNegativeInt | None = None
    stages: tuple[tuple[NonNegativeInt, ...], ...] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.gpu_offset is None) == (self.stages is None):
            raise ValueError("expected exactly one of gpu_offset and stages")
        return self


class PlacementSpec(Spec):
    """One tensor shard of one expert of one layer on one GPU; `copy` is the replica."""

    layer: NonNegativeInt
    expert: NonNegativeInt
    copy_index: NonNegativeInt = Field(0, alias="copy")
    shard: NonNegativeInt = 0
    gpu: NonNegativeInt


class Claim(Spec):
    """One statement of whoever wrote the plan: a value, its unit, and how it was derived."""

    name: Name
    metric: Name | None = None  # a quantity that verify recomputes
    derivation: Expression | None = None  # an expression over such quantities
    value: float | bool
    unit: Annotated[str, StringConstraints(max_length=40)] = ""
    approximate: bool = False  # the text says "about" or "~"
    says: Text = ""  # the statement in the author's words

    @model_validator(mode="after")
    def _auditable(self) -> Self:
        if self.metric is None and self.derivation is None:
            raise ValueError("a claim needs a metric, a derivation, or both")
        return self


class LayoutSpec(Spec):
    """How one model lies over GPUs; stages and placement left out are laid out in rank order."""

    degrees: DegreesSpec
    num_gpus: Annotated[int, Field(ge=1, le=MAX_GPUS, strict=True)] | None = None
    batch: PositiveInt | None = None
    chunks: PositiveInt | None = None
    layers_per_stage: PositiveInt | tuple[PositiveInt, ...] | None = None
    stages: tuple[StageSpec, ...] | None = None
    replicas: tuple[ReplicaSpec, ...] | None = None
    placement: tuple[PlacementSpec, ...] | None = None
    metrics: dict[str, Any] | None = None


class RolesSpec(Spec):
    """The layouts of a disaggregated service: of the GPUs for prompts, and of those for answers."""

    prefill: LayoutSpec
    decode: LayoutSpec


class PlanSpec(Document):
    """A plan; stages and placement may be left out, and are then laid out in rank order.

    A plan with `roles` has one layout for each of them and none of its own: `degrees` is null or
    absent then, and lists that belong to a layout are empty or absent.
    Fields that `solve --json` adds to the plan part (objective, metrics, solver, ...) are accepted
    and not trusted: verify recomputes them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["plan"] = "plan"
    llm: Name
    cluster: Name | None = None
    num_gpus: Annotated[int, Field(ge=1, le=MAX_GPUS, strict=True)] | None = None
    idle_gpus: NonNegativeInt | None = None
    degrees: DegreesSpec  # those of a plan with roles stand there
    roles: RolesSpec | None = None
    # Share of the time in which the replicas for prompts work, with roles; as much as decode takes,
    # if TTFT allows it, where it is absent.
    prefill_load_percent: Annotated[int, Field(ge=1, le=99, strict=True)] | None = None
    batch: PositiveInt | None = None  # sequences per attention group and micro-batch
    chunks: PositiveInt | None = None  # parts in which a prompt is computed; the fewest if absent
    layers_per_stage: PositiveInt | tuple[PositiveInt, ...] | None = None
    stages: tuple[StageSpec, ...] | None = None
    replicas: tuple[ReplicaSpec, ...] | None = None
    placement: tuple[PlacementSpec, ...] | None = None
    claims: tuple[Claim, ...] = ()
    # What an answer of ours carries beside the plan:
    status: Literal["optimal", "feasible", "infeasible", "unknown"] | None = None
    objective: dict[str, Any] | None = None
    objectives: list[dict[str, Any]] | None = None
    metrics: dict[str, Any] | None = None
    binding: list[str] | None = None
    undecided: list[str] | None = None
    conflict: list[str] | None = None
    repairs: list[dict[str, Any]] | None = None
    runner_up: dict[str, Any] | None = None
    uniqueness: dict[str, Any] | None = None
    robustness: dict[str, Any] | None = None
    notes: list[str] | None = None
    spec: dict[str, Any] | None = None  # the resolved scenario, for replay
    solver: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, data: Any) -> Any:
        """Take either degrees or roles; fields of a layout beside roles must be empty."""
        if not isinstance(data, dict) or data.get("roles") is None:
            return data
        stated = [key for key in _OF_A_LAYOUT if data.get(key)]
        if stated:
            raise ValueError(f"a plan with roles states {', '.join(stated)} for each role instead")
        beside = {key: value for key, value in data.items() if key not in _OF_A_LAYOUT}
        return {**beside, "degrees": {}}

    def role(self, name: str) -> "PlanSpec":
        """Return the plan of one role alone."""
        layout: LayoutSpec = getattr(self.roles, name)
        fields = {key: getattr(layout, key) for key in layout.model_fields_set}
        return PlanSpec.model_validate(
            {"name": self.name, "llm": self.llm, "cluster": self.cluster, **fields}
        )

    @model_validator(mode="after")
    def _claims_have_names(self) -> Self:
        seen: set[str] = set()
        for claim in self.claims:
            if claim.name in seen:
                raise ValueError(f"two claims have the name {claim.name!r}")
            seen.add(claim.name)
        return self
