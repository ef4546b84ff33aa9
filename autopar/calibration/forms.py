"""The formulas of `autopar/costs/operations` as functions of measured rows and free constants."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from autopar.calibration.rows import Rows
from autopar.costs.operations import kernels
from autopar.costs.operations.device import Device
from autopar.costs.operations.loads import Law
from autopar.specs import Precision, Spec
from autopar.specs.kernels import (
    EXPERT_ROWS,
    DecodeFit,
    ElementwiseFit,
    ExpertsFit,
    GemmFit,
    LinearFit,
    PrefillFit,
)

Floats = NDArray[np.float64]

Predict = Callable[[Rows, str, Device], Floats]


def gemm(rows: Rows, precision: str, device: Device) -> Floats:
    """Predict GEMMs."""
    sizes = (rows.number("m"), rows.number("k"), rows.number("n"))
    return kernels.gemm_us(*sizes, _precision(precision), device)


def experts(rows: Rows, precision: str, device: Device) -> Floats:
    """Predict grouped GEMMs; under even routing each row goes to another expert."""
    found = np.zeros(len(rows))
    for matrices in (2, 3):
        part = rows.where(rows["matrices"] == matrices)
        held = part.number("held")
        if len(part):
            found[rows["matrices"] == matrices] = kernels.experts_us(
                part.number("pairs"),
                held,
                hidden_size=part.number("hidden_size"),
                ffn_size=part.number("ffn"),
                num_matrices=matrices,
                precision=_precision(precision),
                device=device,
                read=np.where(
                    part["even"],
                    np.minimum(held, np.maximum(part.number("pairs"), 1.0)),
                    kernels.experts_read(part.number("pairs"), held),
                ),
                tokens=part.number("num_tokens"),
            )
    return found


def skewed_experts(rows: Rows, precision: str, device: Device, law: Law) -> Floats:
    """Predict grouped GEMMs of the busiest rank under a law of `autopar.costs.operations.loads`."""
    found = np.zeros(len(rows))
    names = ("num_experts", "topk", "matrices")
    keys = np.stack([rows.number(name) for name in names], axis=1)
    for num_experts, topk, matrices in {tuple(key) for key in keys.astype(int).tolist()}:
        mask = (keys == (num_experts, topk, matrices)).all(axis=1)
        part = rows.where(mask)
        found[mask] = kernels.routed_experts_us(
            part.number("num_tokens"),
            part.number("held"),
            num_experts=num_experts,
            experts_per_token=topk,
            law=law,
            hidden_size=part.number("hidden_size"),
            ffn_size=part.number("ffn"),
            num_matrices=matrices,
            precision=_precision(precision),
            device=device,
            sorted_tokens=part.number("num_tokens"),
        )
    return found


def prefill(rows: Rows, precision: str, device: Device) -> Floats:
    """Predict attention over prompts."""
    found = np.zeros(len(rows))
    for qk_dim in (64, 128, 192, 256):
        mask = rows["qk_dim"] == qk_dim
        part = rows.where(mask)
        if not len(part):
            continue
        tokens = part.number("batch") * part.number("length")
        found[mask] = kernels.prefill_attention_us(
            tokens,
            (part.number("length") + 1) / 2,
            tokens,
            heads=part.number("heads"),
            kv_heads=part.number("kv_heads"),
            qk_head_dim=qk_dim,
            v_head_dim=int(part["v_dim"][0]),
            kv_precision=_precision(precision),
            device=device,
        )
    return found


def decode(rows: Rows, precision: str, device: Device) -> Floats:
    """Predict attention of running sequences."""
    found = np.zeros(len(rows))
    for dim in (64, 128, 192, 256):
        mask = rows["head_dim"] == dim
        part = rows.where(mask)
        if len(part):
            found[mask] = kernels.decode_attention_us(
                part.number("batch_size"),
                part.number("context"),
                heads=part.number("num_heads"),
                kv_heads=part.number("num_key_value_heads"),
                qk_head_dim=dim,
                v_head_dim=dim,
                kv_precision=_precision(precision),
                device=device,
            )
    return found


def latent_decode(rows: Rows, precision: str, device: Device) -> Floats:
    """Predict absorbed latent attention of DeepSeek-V3's shape."""
    return kernels.latent_decode_attention_us(
        rows.number("batch_size"),
        rows.number("context"),
        heads=rows.number("num_heads"),
        latent_dim=512,
        rope_dim=64,
        kv_precision=_precision(precision),
        device=device,
    )


def linear(rows: Rows, precision: str, device: Device) -> Floats:  # noqa: ARG001
    """Predict the scans of gated delta nets."""
    return kernels.linear_attention_us(
        rows.number("num_tokens"),
        rows.number("batch_size"),
        state_elements=rows.number("state"),
        device=device,
    )


def elementwise(rows: Rows, precision: str, device: Device) -> Floats:  # noqa: ARG001
    """Predict kernels that only move data."""
    return kernels.elementwise_us(rows.number("bytes"), device)


@dataclass(frozen=True, slots=True)
class Form:
    """How one operation is fitted: start and bounds of its constants, and the formula."""

    operation: str
    predict: Predict
    make: Callable[[Floats], list[dict[str, Any]]]
    start: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    weigh: tuple[str, ...]  # each combination of these counts as much as any other


def _gemm_constants(x: Floats) -> list[dict[str, Any]]:
    names = ("start_us", "inner_us", "compute_fraction", "memory_fraction", "activation_fraction")
    constants = dict(zip(names, np.exp(x).tolist(), strict=True))
    return [{**constants, "sharpness": sharpness} for sharpness in (1, 2, 4)]


def _experts_constants(x: Floats) -> list[dict[str, Any]]:
    names = ("start_us", "inner_us", "expert_us", "row_passes", "token_passes")
    constants: dict[str, Any] = dict(zip(names, np.exp(x[:5]).tolist(), strict=True))
    slopes = 1.0 / (1.0 + np.exp(-x[6:]))  # of a power law between 0 and 1
    steps = np.concatenate([[0.0], np.cumsum(slopes * np.diff(np.log2(EXPERT_ROWS)))])
    return [{**constants, "weight_passes": np.exp2(x[5] + steps).tolist()}]


def _prefill_constants(x: Floats) -> list[dict[str, Any]]:
    names = (
        *("start_us", "key_us", "extra_keys", "extra_dim"),
        *("compute_fraction", "memory_fraction"),
    )
    return [dict(zip(names, np.exp(x).tolist(), strict=True))]


def _decode_constants(x: Floats) -> list[dict[str, Any]]:
    names = (
        *("start_us", "doubling_us", "compute_fraction"),
        *("memory_fraction", "activation_fraction", "bend_us", "bend_bytes"),
    )
    return [dict(zip(names, np.exp(x).tolist(), strict=True))]


def _linear_constants(x: Floats) -> list[dict[str, Any]]:
    names = ("start_us", "compute_fraction", "memory_fraction")
    return [dict(zip(names, np.exp(x).tolist(), strict=True))]


def _elementwise_constants(x: Floats) -> list[dict[str, Any]]:
    return [dict(zip(("start_us", "memory_fraction"), np.exp(x).tolist(), strict=True))]


_KNOTS = len(EXPERT_ROWS) - 1
_DECODE = {
    "make": _decode_constants,
    "start": (2.0, 0.0, -0.5, -0.2, -1.0, 2.0, 17.5),
    "low": (-2.0, -7.0, -3.0, -3.0, -5.0, -3.0, 12.0),
    "high": (4.0, 3.0, 0.0, 0.0, 2.0, 5.0, 22.0),
    "weigh": ("batch_size", "context"),
}
FORMS = (
    Form(
        "gemm",
        gemm,
        _gemm_constants,
        start=(1.2, -8.0, -0.4, -0.2, -0.2),
        low=(-1.0, -14.0, -2.5, -2.5, -3.0),
        high=(4.0, -4.0, 0.0, 0.0, 1.0),
        weigh=("m",),
    ),
    Form(
        "experts",
        experts,
        _experts_constants,
        start=(3.0, -6.5, -2.0, 1.5, 0.5, 0.1, *([0.0] * _KNOTS)),
        low=(0.0, -14.0, -6.0, -3.0, -3.0, -0.05, *([-9.0] * _KNOTS)),
        high=(5.0, -4.0, 2.0, 4.5, 4.5, 3.5, *([9.0] * _KNOTS)),
        weigh=("num_tokens",),
    ),
    Form(
        "prefill_attention",
        prefill,
        _prefill_constants,
        start=(2.5, -9.0, 5.5, 3.5, -0.3, -0.4),
        low=(0.0, -14.0, 0.0, 0.0, -2.5, -2.5),
        high=(4.0, -5.0, 8.0, 5.5, 0.7, 0.7),
        weigh=("length", "qk_dim"),
    ),
    Form(
        "latent_prefill_attention",
        prefill,
        _prefill_constants,
        start=(2.5, -9.0, 5.5, 3.5, -0.3, -0.4),
        low=(0.0, -14.0, 0.0, 0.0, -2.5, -2.5),
        high=(4.0, -5.0, 8.0, 5.5, 0.7, 0.7),
        weigh=("length", "heads"),
    ),
    Form("decode_attention", decode, **_DECODE),  # type: ignore[arg-type]
    Form("latent_decode_attention", latent_decode, **_DECODE),  # type: ignore[arg-type]
    Form(
        "linear_attention",
        linear,
        _linear_constants,
        start=(2.3, -1.6, -0.2),
        low=(0.0, -6.0, -2.5),
        high=(4.0, 0.0, 0.7),
        weigh=("num_tokens",),
    ),
)
# Not told apart by precision; the benchmark's tables have none.
ELEMENTWISE = Form(
    "elementwise",
    elementwise,
    _elementwise_constants,
    start=(1.0, -0.2),
    low=(-2.0, -3.0),
    high=(4.0, 0.7),
    weigh=("bytes",),
)
FIT_TYPES: dict[str, type[Spec]] = {
    "gemm": GemmFit,
    "experts": ExpertsFit,
    "prefill_attention": PrefillFit,
    "latent_prefill_attention": PrefillFit,
    "decode_attention": DecodeFit,
    "latent_decode_attention": DecodeFit,
    "linear_attention": LinearFit,
    "elementwise": ElementwiseFit,
}


def _precision(name: str) -> Precision:
    assert name in get_args(Precision)
    return cast("Precision", name)
