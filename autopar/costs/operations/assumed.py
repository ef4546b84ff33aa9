"""Constants for GPUs whose kernels nobody measured: those of H100, and of B200 in 4 bits.

Fractions of peak carry over, times of starts are taken as they are. Tables of grouped GEMMs do not
carry over, so experts get a roofline. Sources: models/gpus/h100-sxm-80gb.yaml and
b200-sxm-180gb.yaml, section `kernels`, whose numbers these are.
"""

import numpy as np

from autopar.specs.architecture import Precision
from autopar.specs.kernels import (
    EXPERT_ROWS,
    DecodeFit,
    ElementwiseFit,
    ExchangeFit,
    ExpertsFit,
    GemmFit,
    Kernels,
    LinearFit,
    PrefillFit,
)

# Everything here is fitted: benchmarks/fit_kernels.py. GEMMs are the smooth fits: factors by rows
# are of the kernels of one GPU.
ASSUMED = Kernels(
    gemm={
        "bf16": GemmFit(
            start_us=2.82,
            inner_us=3.35e-4,
            compute_fraction=0.788,
            memory_fraction=0.873,
            activation_fraction=0.63,
            sharpness=4,
        ),
        "fp8": GemmFit(
            start_us=3.68,
            inner_us=2.51e-4,
            compute_fraction=0.765,
            memory_fraction=0.923,
            activation_fraction=0.861,
            sharpness=2,
        ),
        "fp8_block": GemmFit(
            start_us=4.03,
            inner_us=8.29e-4,
            compute_fraction=0.577,
            memory_fraction=1.0,
            activation_fraction=0.324,
            sharpness=2,
        ),
        "nvfp4": GemmFit(  # B200
            start_us=6.56,
            inner_us=3.9e-4,
            compute_fraction=0.49,
            memory_fraction=1.0,
            activation_fraction=0.472,
            sharpness=2,
        ),
    },
    prefill_attention={
        "bf16": PrefillFit(
            start_us=10.9,
            key_us=9.63e-05,
            extra_keys=252,
            extra_dim=51.1,
            compute_fraction=0.821,
            memory_fraction=0.53,
        ),
    },
    latent_prefill_attention={
        "bf16": PrefillFit(
            start_us=14.4,
            key_us=0.000125,
            extra_keys=85.6,
            extra_dim=21.7,
            compute_fraction=0.773,
            memory_fraction=0.877,
        ),
    },
    decode_attention={
        "bf16": DecodeFit(
            start_us=12,
            doubling_us=0.000912,
            compute_fraction=0.0498,
            memory_fraction=0.927,
            activation_fraction=0.331,
            bend_us=12,
            bend_bytes=96300000,
        ),
        "fp8": DecodeFit(
            start_us=4.33,
            doubling_us=0.938,
            compute_fraction=0.253,
            memory_fraction=0.949,
            activation_fraction=0.114,
            bend_us=4.89,
            bend_bytes=91700000,
        ),
    },
    latent_decode_attention={
        "bf16": DecodeFit(
            start_us=12.3,
            doubling_us=0.616,
            compute_fraction=0.644,
            memory_fraction=0.933,
            activation_fraction=0.402,
            bend_us=4.32,
            bend_bytes=131000000,
        ),
        "fp8": DecodeFit(
            start_us=11.8,
            doubling_us=0.71,
            compute_fraction=0.777,
            memory_fraction=0.863,
            activation_fraction=0.326,
            bend_us=4.01,
            bend_bytes=93100000,
        ),
    },
    linear_attention={
        "fp32": LinearFit(start_us=16, compute_fraction=0.0504, memory_fraction=0.613),
    },
    # Not fitted: AIC systems/h100_sxm.yaml, its constants per memory-bound kernel (ai-dynamo/
    # aiconfigurator at commit 095f58a5, Apache-2.0).
    elementwise=ElementwiseFit(start_us=3.0, memory_fraction=0.8),
)

# DeepEP on H100 nodes, low-latency and normal kernels. fitted: benchmarks/fit_kernels.py
ASSUMED_EXCHANGE = (
    ExchangeFit(
        start_us=13.1,
        link_fraction=0.496,
        fabric_fraction=0.925,
        fabric_steps=1.65,
        doubling_steps=0.667,
    ),
    ExchangeFit(
        start_us=41.2,
        link_fraction=0.631,
        fabric_fraction=0.761,
        fabric_steps=3.72,
        doubling_steps=5.46,
        sends_once=True,
    ),
)

# Of peak arithmetic, in grouped GEMMs of 2,048 rows per expert: what their tables end at, on H100,
# in fp4 on B200, and of narrow weights that are widened to bf16.
_EXPERTS_COMPUTE = {
    "fp32": 0.91,
    "bf16": 0.91,
    "fp16": 0.91,
    "fp8": 0.88,
    "int8": 0.88,
    "fp8_block": 0.45,
}
_EXPERTS_FP4 = 0.55
_EXPERTS_WIDENED = 0.57
_EXPERTS_MEMORY = 0.93  # of peak traffic, at one row per expert


def assumed_experts(
    precision: Precision, *, is_widened: bool, width: float, ridge: float
) -> ExpertsFit:
    """Return constants for experts without measurements.

    is_widened: narrow weights are computed with in bf16. width: bytes per parameter. ridge: peak
    FLOPs per byte of peak memory traffic.
    """
    fraction = _EXPERTS_COMPUTE.get(precision, _EXPERTS_FP4)
    if is_widened:
        fraction = _EXPERTS_WIDENED
    passes = 2.0 * np.array(EXPERT_ROWS) / (width * ridge * fraction)
    table = (passes**4 + _EXPERTS_MEMORY**-4) ** 0.25
    return ExpertsFit(
        start_us=20.4,
        inner_us=8.59e-4,
        expert_us=0.1,
        row_passes=7.4,
        token_passes=2.2,
        weight_passes=tuple(table.tolist()),
    )
