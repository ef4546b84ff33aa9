"""One GPU as kernels see it: its peak rates, and how much of them each kernel reaches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, get_origin

import numpy as np

from autopar.costs.operations.arrays import FloatArray, real
from autopar.costs.operations.assumed import ASSUMED, assumed_experts
from autopar.costs.operations.precisions import (
    ComputePrecision,
    native_precision,
    precision_bytes,
)
from autopar.errors import SpecError
from autopar.specs import CostFactors, Engine, Gpu
from autopar.specs.architecture import Precision
from autopar.specs.kernels import (
    CachePrecision,
    DecodeFit,
    ElementwiseFit,
    ExpertsFit,
    GemmFit,
    Kernels,
    LinearFit,
    PrefillFit,
)

AS_FITTED = CostFactors()
_FLOPS_PER_US = 1e-6  # of 1 FLOP/s
# Whose kernels stand in where a GPU has none of its own for a precision, by arithmetic.
_KIN: Mapping[ComputePrecision, tuple[Precision, ...]] = {
    "bf16": ("bf16",),
    "fp8": ("fp8", "fp8_block"),
    "fp4": ("nvfp4", "mxfp4"),
}
# Fields of Kernels that have constants for each precision.
_BY_PRECISION = tuple(
    name for name, field in Kernels.model_fields.items() if get_origin(field.annotation) is dict
)
_TF32 = 0.5  # of the bf16 rate: NVIDIA A100 datasheet, 156 against 312 TFLOPS; as on later GPUs


@dataclass(frozen=True, slots=True)
class Device:
    """Peak rates of one GPU, per microsecond, and the constants of its kernels.

    factors: on the times of all kernels of a kind, whatever the constants. engine: whose host and
    whose decode kernels; none is the fastest.
    """

    name: str
    bytes_per_us: float
    flops_per_us: Mapping[ComputePrecision, float]
    kernels: Kernels
    is_calibrated: bool
    factors: CostFactors = AS_FITTED
    engine: Engine | None = None

    @classmethod
    def of(cls, gpu: Gpu, factors: CostFactors = AS_FITTED, engine: Engine | None = None) -> Self:
        """Return the device of a GPU spec, with factors on its times, under an engine.

        Raises SpecError if the spec does not state the memory bandwidth.
        """
        if gpu.memory_bandwidth_bytes_per_s is None:
            raise SpecError(
                f"cluster.gpu.memory_bandwidth_bytes_per_s: missing for GPU {gpu.name!r}; expected "
                "a rate such as '3.35 TB/s', which cost_model 'analytic' needs"
            )
        peaks: dict[ComputePrecision, float] = {"bf16": gpu.peak_flops_per_s * _FLOPS_PER_US}
        if gpu.fp8_flops_per_s is not None:
            peaks["fp8"] = gpu.fp8_flops_per_s * _FLOPS_PER_US
        if gpu.fp4_flops_per_s is not None:
            peaks["fp4"] = gpu.fp4_flops_per_s * _FLOPS_PER_US
        return cls(
            name=gpu.name,
            bytes_per_us=gpu.memory_bandwidth_bytes_per_s * _FLOPS_PER_US,
            flops_per_us=peaks,
            kernels=_kernels(gpu, engine),
            is_calibrated=gpu.kernels is not None and bool(gpu.kernels.gemm),
            factors=factors,
            engine=engine,
        )

    def notes(self) -> tuple[str, ...]:
        """Return what a reader of times on this GPU should know."""
        if not self.is_calibrated:
            return (f"GPU {self.name} has no measured kernels: efficiencies of H100 are assumed",)
        if self.kernels.of is not None:
            whose = f"those of {self.kernels.of}, of its family, are taken as shares of its rates"
            return (f"GPU {self.name} has no measured kernels: {whose}",)
        return (self.kernels.note,) if self.kernels.note else ()

    @property
    def is_smooth(self) -> bool:
        """Whether no time falls where a step has more to do."""
        return not any(fit.row_factors for fit in self.kernels.gemm.values())

    def peak_flops_per_us(self, precision: Precision) -> float:
        """Return the peak rate at which weights of `precision` are computed with."""
        rate = self.flops_per_us[compute_precision(precision, self)]
        return rate * _TF32 if precision == "fp32" else rate

    def gemm(self, precision: Precision) -> GemmFit:
        """Return the constants of a GEMM with such weights."""
        own = self.kernels.gemm
        for known in (precision, *_KIN[compute_precision(precision, self)]):
            if known in own:
                return own[known]
        return _assumed_gemm(precision, compute_precision(precision, self))

    def experts(self, precision: Precision) -> ExpertsFit:
        """Return the constants of the experts of one rank with such weights.

        Only a precision that was measured has a table of its own: tables do not carry over.
        """
        own = self.kernels.experts
        if precision in own:
            return own[precision]
        if precision == "fp16" and "bf16" in own:
            return own["bf16"]
        return assumed_experts(
            precision,
            is_widened=compute_precision(precision, self) != native_precision(precision)
            or precision == "int4",
            width=precision_bytes(precision),
            ridge=self.peak_flops_per_us(precision) / self.bytes_per_us,
        )

    def prefill(self, kv_precision: Precision, *, latent: bool = False) -> PrefillFit:
        """Return the constants of attention over prompts; latent: keys expanded from latents."""
        key = "latent_prefill_attention" if latent else "prefill_attention"
        cached, own = _cached(kv_precision), getattr(self.kernels, key)
        fit: PrefillFit = own.get(cached) or own.get("bf16") or getattr(ASSUMED, key)["bf16"]
        return fit

    def decode(self, kv_precision: Precision) -> DecodeFit:
        """Return the constants of attention of running sequences."""
        own, cached = self.kernels.decode_attention, _cached(kv_precision)
        return own.get(cached) or own.get("bf16") or ASSUMED.decode_attention[cached]

    def key_reads(self, sharing: FloatArray) -> FloatArray:
        """Return how often decode reads a key that `sharing` query heads share."""
        most = 1.0 if self.engine is None else self.engine.key_reads
        return real(np.clip(most, 1.0, np.maximum(sharing, 1.0)))

    def latent_decode(self, kv_precision: Precision) -> DecodeFit:
        """Return the constants of absorbed latent attention of running sequences."""
        own, cached = self.kernels.latent_decode_attention, _cached(kv_precision)
        return own.get(cached) or own.get("bf16") or ASSUMED.latent_decode_attention[cached]

    def linear(self) -> LinearFit:
        """Return the constants of the scan of a linear mixer."""
        return self.kernels.linear_attention.get("fp32") or ASSUMED.linear_attention["fp32"]

    def elementwise(self) -> ElementwiseFit:
        """Return the constants of kernels that only move data."""
        assert ASSUMED.elementwise is not None
        return self.kernels.elementwise or ASSUMED.elementwise


def _kernels(gpu: Gpu, engine: Engine | None) -> Kernels:
    """Return the kernels of a GPU, with those of the engine in their place where it has any."""
    own = ASSUMED if gpu.kernels is None else gpu.kernels
    named = {} if engine is None else engine.kernels
    other = named.get(gpu.name) or named.get(own.of or "")
    if other is None:
        return own
    changes = {
        name: {**getattr(own, name), **by_precision}
        for name in _BY_PRECISION
        if (by_precision := getattr(other, name))
    }
    return own.model_copy(update=changes)


def compute_precision(precision: Precision, device: Device) -> ComputePrecision:
    """Return whose peak rate applies: weights that the GPU has no arithmetic for work in bf16."""
    native = native_precision(precision)
    return native if native in device.flops_per_us else "bf16"


def _assumed_gemm(precision: Precision, compute: ComputePrecision) -> GemmFit:
    return next(
        ASSUMED.gemm[known] for known in (precision, *_KIN[compute]) if known in ASSUMED.gemm
    )


def _cached(kv_precision: Precision) -> CachePrecision:
    return "bf16" if kv_precision in ("bf16", "fp16", "fp32") else "fp8"
