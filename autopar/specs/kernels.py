"""How fast the kernels and collectives of one kind of GPU are: the constants of their formulas.

The formulas are in `autopar/costs/operations`; `docs/model.md` explains each. Constants of the
catalogue are fitted by `benchmarks/fit_kernels.py` to measured tables; whoever measured his own GPU
writes his own. A fraction is of the peak rate that the GPU's spec states; L2 caches make fractions
of memory bandwidth above 1 possible.
"""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autopar.specs.architecture import Precision
from autopar.specs.base import Name, Spec, Text
from autopar.units import BytesPerS

# At how many rows per expert the time of a grouped GEMM is tabled.
EXPERT_ROWS = (1, 16, 64, 128, 256, 512, 1024, 2048)
# At how many rows a GEMM may be told to take other than the smooth time: where tiles are full, and
# one row beyond, where one more begins.
GEMM_ROWS = (
    *(1, 8, 16, 17, 32, 33, 48, 49, 64, 65, 80, 81, 96, 97, 112, 113, 128, 129, 160, 161, 192, 193),
    *(224, 225, 256, 257, 512, 513, 768, 769, 1024, 1025, 1536, 1537, 2048, 2049, 3072, 3073),
    *(4096, 4097, 8192, 16384),
)

Fraction = Annotated[float, Field(gt=0, le=100)]
Micros = Annotated[float, Field(ge=0, le=1e6)]
Count = Annotated[float, Field(ge=0, le=1e6)]
# Storage of keys and values for which attention kernels are told apart.
CachePrecision = Literal["bf16", "fp8"]


class GemmFit(Spec):
    """start + inner_us per element of the inner dimension + the p-norm of arithmetic and traffic.

    sharpness: the p. activation_fraction: of memory bandwidth, for rows read and written.
    row_factors: times which the p-norm is to be taken at GEMM_ROWS rows, as libraries choose other
    kernels, with other tiles, by the number of rows; linear in between, and beyond as at the ends.
    None: the time is smooth.
    """

    start_us: Micros
    inner_us: Micros = 0.0
    compute_fraction: Fraction
    memory_fraction: Fraction
    activation_fraction: Fraction
    sharpness: Literal[1, 2, 4] = 4
    row_factors: tuple[Annotated[float, Field(ge=0.01, le=100)], ...] = ()

    @property
    def largest_fraction(self) -> float:
        """Of the peak rate that the arithmetic reaches with as many rows as any table has."""
        return self.compute_fraction / (self.row_factors[-1] if self.row_factors else 1.0)

    @model_validator(mode="after")
    def _one_for_each(self) -> Self:
        if self.row_factors and len(self.row_factors) != len(GEMM_ROWS):
            raise ValueError(
                f"row_factors has {len(self.row_factors)} numbers; expected none, or one for each "
                f"of {', '.join(map(str, GEMM_ROWS))} rows"
            )
        return self


class ExpertsFit(Spec):
    """The feed-forward of all experts of one rank: two grouped GEMMs and what is around them.

    inner_us: per element of hidden and ffn size. expert_us: per expert that is read. row_passes,
    token_passes: how often the activations of a routed row, or of a token, cross memory at peak.
    weight_passes: time over that of one pass over the weights at peak bandwidth, where each expert
    has EXPERT_ROWS rows; in between it is a power law, and beyond it grows with the rows.
    uneven_rows: by which each expert's rows are more than they are, where routing is uneven: its
    last tile is not full, while the table is of experts that fill theirs.
    """

    start_us: Micros
    inner_us: Micros = 0.0
    expert_us: Micros = 0.0
    row_passes: Count = 0.0
    token_passes: Count = 0.0
    weight_passes: tuple[Annotated[float, Field(gt=0, le=1e5)], ...]
    uneven_rows: Annotated[float, Field(ge=0, le=1024)] = 64.0

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if len(self.weight_passes) != len(EXPERT_ROWS):
            raise ValueError(
                f"weight_passes has {len(self.weight_passes)} numbers; expected one for each of "
                f"{', '.join(map(str, EXPERT_ROWS))} rows per expert"
            )
        for (rows, more), (passes, longer) in zip(
            pairwise(EXPERT_ROWS), pairwise(self.weight_passes), strict=True
        ):
            # More rows never take less time, and twice the experts never less than twice the rows.
            if not passes <= longer <= passes * more / rows:
                raise ValueError(
                    f"weight_passes from {rows} to {more} rows: {passes:g} and {longer:g}; "
                    "expected growth, and no faster than that of the rows"
                )
        return self


class PrefillFit(Spec):
    """Fused attention over prompts; the causal half counts, windows count.

    Time: start + (context + extra_keys) x (key_us x head size + 2 queries heads (head sizes + 2
    extra_dim) / compute rate) + bytes / memory rate. extra_dim: what softmax costs beside products.
    """

    start_us: Micros
    key_us: Micros = 0.0
    extra_keys: Count = 0.0
    extra_dim: Count = 0.0
    compute_fraction: Fraction
    memory_fraction: Fraction


class DecodeFit(Spec):
    """Fused attention of one query per sequence.

    Time: start + doubling_us x log2(1 + context / 64) + the longer of cache traffic and arithmetic
    + bend_us x min(1, cache bytes / bend_bytes) + queries and results over memory. The bend is what
    a cache that fills only part of the GPU costs more.
    """

    start_us: Micros
    doubling_us: Micros = 0.0
    compute_fraction: Fraction
    memory_fraction: Fraction
    activation_fraction: Fraction
    bend_us: Micros = 0.0
    bend_bytes: Annotated[float, Field(gt=0, le=1e12)] = 1e12


class LinearFit(Spec):
    """The scan of a linear mixer: start + the longer of arithmetic and traffic of the states."""

    start_us: Micros
    compute_fraction: Fraction
    memory_fraction: Fraction


class ElementwiseFit(Spec):
    """A kernel that only moves data."""

    start_us: Micros
    memory_fraction: Fraction


class CollectiveFit(Spec):
    """start + bytes / bandwidth + bend_us x min(1, bytes / bend_bytes), by the size of the group.

    bytes: of the whole tensor. Between sizes, times go with the logarithm of the size.
    """

    gpus: Annotated[
        tuple[Annotated[int, Field(ge=2, le=1024, strict=True)], ...], Field(min_length=1)
    ]
    start_us: tuple[Micros, ...]
    bandwidth_bytes_per_s: tuple[BytesPerS, ...]
    bend_us: tuple[Micros, ...] = ()
    bend_bytes: tuple[Annotated[float, Field(gt=0, le=1e12)], ...] = ()

    @model_validator(mode="after")
    def _one_for_each(self) -> Self:
        for key in ("start_us", "bandwidth_bytes_per_s", "bend_us", "bend_bytes"):
            found = len(getattr(self, key))
            if found != len(self.gpus) and not (key.startswith("bend") and not found):
                raise ValueError(f"{key} has {found} numbers for {len(self.gpus)} sizes in gpus")
        if list(self.gpus) != sorted(set(self.gpus)):
            raise ValueError("gpus: expected ascending sizes")
        if len(self.bend_us) != len(self.bend_bytes):
            raise ValueError("bend_us and bend_bytes: expected both or neither")
        return self


class ExchangeFit(Spec):
    """One way to send rows to the ranks of their experts and back (all-to-all).

    link_fraction, fabric_fraction: of the bandwidth inside and between scale-up domains, which work
    at the same time. fabric_steps, doubling_steps: latencies of the fabric that are waited for, and
    more for each doubling of the domains. sends_once: a token with several rows crosses once.
    """

    start_us: Micros
    link_fraction: Fraction
    fabric_fraction: Fraction
    fabric_steps: Count = 1.0
    doubling_steps: Count = 1.0
    sends_once: bool = False


class CollectivesFit(Spec):
    """Collectives inside a node or scale-up domain, measured on links of one bandwidth."""

    link_bandwidth_bytes_per_s: BytesPerS
    all_reduce: CollectiveFit
    all_reduce_small: CollectiveFit | None = None  # a way that is faster for small messages
    all_gather: CollectiveFit
    reduce_scatter: CollectiveFit
    exchange: tuple[ExchangeFit, ...] = ()


class Kernels(Spec):
    """All that was measured of one kind of GPU; what is missing is assumed.

    of: the GPU that they were measured on, where that is another one, of the same family. A file
    that states `of` alone takes over what that GPU's has; what it states beside comes on top.
    """

    of: Name | None = None
    note: Text = ""  # shown with every result
    gemm: dict[Precision, GemmFit] = Field(default_factory=dict)
    experts: dict[Precision, ExpertsFit] = Field(default_factory=dict)
    prefill_attention: dict[CachePrecision, PrefillFit] = Field(default_factory=dict)
    latent_prefill_attention: dict[CachePrecision, PrefillFit] = Field(default_factory=dict)
    decode_attention: dict[CachePrecision, DecodeFit] = Field(default_factory=dict)
    latent_decode_attention: dict[CachePrecision, DecodeFit] = Field(default_factory=dict)
    # One storage of states is told apart: fp32.
    linear_attention: dict[Literal["fp32"], LinearFit] = Field(default_factory=dict)
    elementwise: ElementwiseFit | None = None
    collectives: CollectivesFit | None = None
