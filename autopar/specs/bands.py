"""How far predictions have been off: error bands of metrics, and of the costs behind them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autopar.specs.base import Document, Name, PositiveInt, Spec
from autopar.specs.factors import CostFactors
from autopar.units import Fraction

TimeBand = Literal["tpot", "static", "ttft", "prompt"]
_Ratio = Annotated[float, Field(gt=0, le=100)]


class MetricBand(Spec):
    """Where measured values of a metric lie, as multiples of the predicted one.

    metric: time per token at a concurrency (`tpot`) or of a given batch (`static`); time to the
    first token of two to four clients (`ttft`) or of prompts that wait for nobody (`prompt`).
    is_moe, has_kernels: which predictions it is for; a plan has kernels if all of its operations
    were measured on its GPU. is_moe absent: of models with experts and without. low, high: the
    `share` of the document lies between them. rows, cells, gpus: what they are from; a cell is one
    model on one kind of GPU from one source. coverage: of the rows of a cell that was left out, on
    average over all of them.
    """

    metric: TimeBand
    is_moe: bool | None = None
    has_kernels: bool
    low: _Ratio
    high: _Ratio
    rows: PositiveInt
    cells: PositiveInt
    gpus: Annotated[tuple[Name, ...], Field(min_length=1)]
    coverage: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class CostBands(Spec):
    """By how much, as factors, the times of operations may be off in either direction."""

    measured: CostFactors  # on a GPU whose kernels were measured
    assumed: CostFactors  # on any other


class ErrorBands(Document):
    """The error bands that every answer carries."""

    kind: Literal["bands"] = "bands"
    share: Fraction
    metrics: tuple[MetricBand, ...]
    costs: CostBands
