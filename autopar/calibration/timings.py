"""The raw timings as a document: written by `--raw`, fitted again by `--from`."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from autopar import documents
from autopar.calibration.cases import HEAD_DIMS, NAMES, PRECISIONS, SIZES, Operation
from autopar.calibration.rows import Rows
from autopar.calibration.timer import Machine
from autopar.errors import SpecError
from autopar.spec_errors import spec_error
from autopar.specs.base import Spec, Text
from autopar.units import BytesPerS

KIND = "kernel-timings"
SCHEMA = 1
MOST_TIMINGS = 100_000

Micros = Annotated[float, Field(gt=0, le=1e9)]
Size = Annotated[int, Field(ge=1, le=2**40, strict=True)]


class Timed(Spec):
    """One case and its time; fields as in `timer.Timing`."""

    operation: Operation
    name: str
    sizes: dict[str, Size]
    us: Micros
    spread: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    kernel: Text = ""

    @model_validator(mode="after")
    def _has_the_sizes_of_its_operation(self) -> Self:
        known = NAMES[self.operation]
        if self.name not in known:
            raise ValueError(
                f"{self.operation} of {self.name[:60]!r}; expected one of {', '.join(known)}"
            )
        expected = SIZES[self.operation]
        if set(self.sizes) != set(expected):
            raise ValueError(
                f"sizes {', '.join(sorted(self.sizes))[:200]}; expected {', '.join(expected)}"
            )
        if self.sizes.get("head_dim", HEAD_DIMS[0]) not in HEAD_DIMS:
            raise ValueError(
                f"head_dim {self.sizes['head_dim']}; expected one of "
                f"{', '.join(map(str, HEAD_DIMS))}"
            )
        if not 2 <= self.sizes.get("gpus", 2) <= 1024:
            raise ValueError(f"gpus {self.sizes['gpus']}; expected 2 to 1024")
        return self


class LeftOut(Spec):
    """Cases that were not timed, and why."""

    operation: Operation
    name: str
    cases: Size
    reason: Text


class MachineSpec(Spec):
    """`timer.Machine` in a file."""

    device_name: Annotated[str, Field(min_length=1, max_length=200)]
    num_devices: Size
    memory_bytes: Annotated[float, Field(gt=0, le=1e15)]
    l2_bytes: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    torch: Text = ""
    cuda: Text = ""
    driver: Text = ""
    nccl: Text = ""


class Timings(Spec):
    """Everything that one run measured.

    measured_on: ISO date. reference_us: the same product at the start, in the middle, at the end.
    """

    schema_version: int = Field(SCHEMA, alias="schema", strict=True, ge=SCHEMA, le=SCHEMA)
    kind: Literal["kernel-timings"] = "kernel-timings"
    autopar: Text = ""
    measured_on: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    seconds: Annotated[float, Field(ge=0, le=1e7)] = 0.0
    interrupted: bool = False
    machine: MachineSpec
    link_bandwidth_bytes_per_s: BytesPerS | None = None
    reference_us: tuple[Micros, ...] = ()
    timings: Annotated[tuple[Timed, ...], Field(min_length=1, max_length=MOST_TIMINGS)]
    left_out: tuple[LeftOut, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the timings as they stand in a file."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def only(self, operations: Collection[str], precisions: Collection[str]) -> Self:
        """Return what there is of these; operations without a precision are of any."""
        unwanted = set(PRECISIONS) - set(precisions)

        def wanted(each: Timed | LeftOut) -> bool:
            return each.operation in operations and each.name not in unwanted

        update = {
            "timings": tuple(filter(wanted, self.timings)),
            "left_out": tuple(filter(wanted, self.left_out)),
        }
        return self.model_copy(update=update)

    def rows(self, operation: str, *names: str) -> Rows | None:
        """Return the sizes and `us` of an operation as columns, or None where there are none."""
        found = [t for t in self.timings if t.operation == operation and t.name in names]
        if not found:
            return None
        columns = {size: [t.sizes[size] for t in found] for size in SIZES[operation]}
        return Rows.of({**columns, "us": [t.us for t in found]})


def machine_spec(machine: Machine) -> MachineSpec:
    """Return a machine as it stands in a file."""
    return MachineSpec(**{name: getattr(machine, name) for name in MachineSpec.model_fields})


def read_timings(source: str | Path) -> Timings:
    """Return the timings in a file that `--raw` wrote, or on standard input for `-`.

    Raises SpecError for everything that is wrong with it.
    """
    data, label = documents.read(source), documents.label_of(source)
    if data.get("kind") != KIND:
        error = documents.kind_error(label, KIND, data)
        raise SpecError(f"{error}; autopar calibrate --raw FILE writes one")
    try:
        return Timings.model_validate(data)
    except ValidationError as error:
        raise spec_error(error, Timings, data, lambda _: label) from None
