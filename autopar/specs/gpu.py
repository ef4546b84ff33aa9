"""What one GPU can do."""

from typing import Annotated, Literal

from pydantic import Field

from autopar.specs.base import Document
from autopar.specs.kernels import Kernels
from autopar.units import Bytes, BytesPerS, FlopsPerS


class Gpu(Document):
    """One kind of GPU: dense peak rates (no sparsity), per direction where it matters.

    peak_flops_per_s: in bf16, or in the one precision that a document speaks of. fp8 and fp4: where
    the GPU computes in them; absent, such weights are computed with in bf16. kernels: how much of
    these rates its kernels reach; absent, as much as on an H100.
    """

    kind: Literal["gpu"] = "gpu"
    peak_flops_per_s: FlopsPerS
    fp8_flops_per_s: FlopsPerS | None = None
    fp4_flops_per_s: FlopsPerS | None = None
    memory_bytes: Annotated[Bytes, Field(gt=0)]
    memory_bandwidth_bytes_per_s: BytesPerS | None = None
    power_w: Annotated[float, Field(gt=0, le=100_000)] | None = None
    usd_per_hour: Annotated[float, Field(gt=0, le=100_000)] | None = None
    kernels: Kernels | None = None
