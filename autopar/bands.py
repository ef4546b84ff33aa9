"""The error bands of a scenario's predictions: how far off figures like them have been.

The bands stand in the catalogue, kind `bands`; `benchmarks/fit_bands.py` fits them to published
measurements. Only the analytic cost model has any: `declared` says what a document says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from autopar.catalog import read_document
from autopar.problem import Metrics
from autopar.specs import CostFactors, ErrorBands, MetricBand, Scenario, Workload
from autopar.specs.bands import TimeBand
from autopar.unmeasured import Operation, Uses, assumed_operations

Metric = Literal["tokens_per_s", "ttft", "tpot"]
_DEFAULT = "default"
_TIMES: tuple[Literal["ttft", "tpot"], ...] = ("ttft", "tpot")


@dataclass(frozen=True, slots=True)
class Range:
    """Where a measured value is expected, as multiples of the predicted one, and on what grounds.

    share: of measured values that lie inside. basis: the band that it was taken from.
    """

    low: float
    high: float
    share: float
    basis: MetricBand

    @property
    def of_a_rate(self) -> "Range":
        """The range of the rate whose time has this one."""
        return Range(1 / self.high, 1 / self.low, self.share, self.basis)

    @property
    def is_biased(self) -> bool:
        """Whether measured values lie on one side of the predicted one."""
        return not self.low <= 1 <= self.high


@lru_cache(maxsize=1)
def default_bands() -> ErrorBands:
    """Return the shipped bands."""
    return ErrorBands.model_validate(read_document("bands", _DEFAULT))


def metric_range(metric: TimeBand, *, is_moe: bool, has_kernels: bool) -> Range | None:
    """Return the range of one time; None where nothing like it was measured."""
    bands = default_bands()
    for band in bands.metrics:
        kind = is_moe if band.is_moe is None else band.is_moe
        if (band.metric, kind, band.has_kernels) == (metric, is_moe, has_kernels):
            return Range(band.low, band.high, bands.share, band)
    return None


def bands_for(metric: Literal["ttft", "tpot"], workload: Workload) -> tuple[TimeBand, ...]:
    """Return which bands a time of an answer has, the nearest to it first.

    Prompts of a phase of their own wait for nobody's turn, as a lone request does. A given batch
    decodes as a static one, whose prompts were all there before.
    """
    if metric == "ttft":
        return ("prompt",) if workload.is_prefill else ("ttft",)
    return ("tpot",) if workload.is_open else ("static", "tpot")


def ranges(scenario: Scenario, uses: Uses) -> dict[Metric, Range]:
    """Return the ranges of the metrics of a plan of a scenario, those that are known.

    uses: which of its GPUs talk to each other.
    """
    if scenario.cost_model != "analytic":
        return {}
    kind = {"is_moe": scenario.llm.is_moe, "has_kernels": has_kernels(scenario, uses)}
    found: dict[Metric, Range] = {}
    for metric in _TIMES:
        if metric in (scenario.absent_time or ())[:1]:
            continue
        wanted = bands_for(metric, scenario.workload)
        known = (metric_range(band, **kind) for band in wanted)
        nearest = next((one for one in known if one is not None), None)
        if nearest is not None:
            found[metric] = nearest
    decides = found.get("ttft" if scenario.workload.is_prefill else "tpot")
    return found if decides is None else {"tokens_per_s": decides.of_a_rate, **found}


def cost_bands(scenario: Scenario) -> CostFactors:
    """Return by how much the times of operations may be off, as factors above 1.

    Each kind by itself: those that were measured on the GPU in the precision that the model has
    them in. The bands of what nobody measures are those of a GPU with or without kernels.
    """
    costs, kernels = default_bands().costs, scenario.cluster.gpu.kernels
    kinds = {one.kind for one in assumed(scenario)}
    if kernels is None or kernels.of is not None:
        kinds.update(CostFactors.model_fields)
    wider = {kind: getattr(costs.assumed, kind) for kind in kinds}
    return costs.measured.model_copy(update=wider)


def assumed(scenario: Scenario, uses: Uses | None = None) -> tuple[Operation, ...]:
    """Return the operations of a scenario's plans that nobody measured on its GPU.

    uses: those of one plan, of which GPUs talk to each other; all that there are where None.
    """
    phase, engine = scenario.workload.phase, scenario.engine
    gpu = scenario.cluster.gpu
    return assumed_operations(scenario.llm, gpu, engine, phase, uses or Uses())


def has_kernels(scenario: Scenario, uses: Uses) -> bool:
    """Whether every operation of a plan was measured on its GPU, not on another of its family."""
    return not assumed(scenario, uses)


def values_us(metrics: Metrics) -> Mapping[Metric, float | None]:
    """Return the metrics that may have a range, in their own units."""
    return {
        "tokens_per_s": metrics.tokens_per_s,
        "ttft": metrics.ttft_us,
        "tpot": metrics.tpot_us,
    }
