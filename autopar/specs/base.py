"""The two bases of every spec: frozen, closed to unknown fields, versioned where it is a file."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

SCHEMA_VERSION = 1

Name = Annotated[
    str, StringConstraints(min_length=1, max_length=120, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
]
Text = Annotated[str, StringConstraints(max_length=4000)]

# Sizes of the world that bound a search: no cluster of today has more GPUs, no LLM more layers.
MAX_GPUS = 1_048_576
MAX_LAYERS = 1_024
MAX_EXPERTS = 4_096

PositiveInt = Annotated[int, Field(ge=1, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, strict=True)]


class Spec(BaseModel):
    """A part of a document: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class Document(Spec):
    """A file of the catalogue: a versioned, named spec that says where its numbers come from."""

    schema_version: int = Field(SCHEMA_VERSION, alias="schema", strict=True)
    name: Name
    description: Text = ""
    sources: tuple[Text, ...] = ()
    assumptions: tuple[Text, ...] = ()  # what nobody checked; told to all who plan with it

    @field_validator("schema_version")
    @classmethod
    def _known_version(cls, value: int) -> int:
        if value != SCHEMA_VERSION:
            raise ValueError(
                f"schema {value} is not supported; this version of autopar reads {SCHEMA_VERSION}"
            )
        return value

    def document(self) -> dict[str, Any]:
        """Return the spec as it would stand in a file, in SI units, without empty fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
