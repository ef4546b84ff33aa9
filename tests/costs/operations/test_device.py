"""Peak rates, precisions, and whose kernels stand in for those that nobody measured."""

from dataclasses import replace

import pytest

from autopar.catalog import read_document
from autopar.costs.operations.assumed import ASSUMED, ASSUMED_EXCHANGE
from autopar.costs.operations.device import Device, compute_precision
from autopar.costs.operations.gemm import gemm_us
from autopar.costs.operations.precisions import precision_bytes
from autopar.errors import SpecError
from autopar.specs import Gpu
from autopar.specs.kernels import GemmFit, Kernels

HOPPER = {"fp8_flops_per_s": 2e15}
BLACKWELL = {"fp8_flops_per_s": 2e15, "fp4_flops_per_s": 4e15}


def device(**fields):
    given = {"name": "g", "memory_bytes": 1e9, "memory_bandwidth_bytes_per_s": 1e12}
    return Device.of(Gpu(**given, **({"peak_flops_per_s": 1e15} | fields)))


def fit(start_us):
    return GemmFit(
        start_us=start_us, compute_fraction=1.0, memory_fraction=1.0, activation_fraction=1.0
    )


@pytest.mark.parametrize(
    ("precision", "width"),
    [
        ("fp32", 4.0),
        ("bf16", 2.0),
        ("fp16", 2.0),
        ("fp8", 1.0),
        ("fp8_block", 1.000244140625),  # 4 bytes of scale for 16,384 weights
        ("int8", 1.0),
        ("int4", 0.51953125),  # 2.5 bytes of scale and zero for 128 weights
        ("mxfp4", 0.53125),  # 1 byte of scale for 32
        ("nvfp4", 0.5625),  # 1 byte of scale for 16
    ],
)
def test_a_parameter_takes_its_bits_and_its_share_of_scales(precision, width):
    assert precision_bytes(precision) == width


@pytest.mark.parametrize(
    ("fields", "rates"),
    [
        ({}, {"bf16": "bf16", "fp8": "bf16", "int8": "bf16", "nvfp4": "bf16"}),
        (HOPPER, {"fp8": "fp8", "fp8_block": "fp8", "int8": "fp8", "mxfp4": "bf16"}),
        (BLACKWELL, {"fp8": "fp8", "mxfp4": "fp4", "nvfp4": "fp4", "int4": "bf16"}),
    ],
)
def test_weights_without_arithmetic_of_their_own_are_computed_with_in_bf16(fields, rates):
    for precision, rate in rates.items():
        assert compute_precision(precision, device(**fields)) == rate


def test_fp32_runs_at_half_the_bf16_rate():
    assert device().peak_flops_per_us("fp32") == device().peak_flops_per_us("bf16") / 2


def test_a_precision_without_a_measurement_takes_its_kin_on_the_same_gpu():
    own = Kernels(gemm={"bf16": fit(1.0), "fp8_block": fit(2.0)})
    found = device(kernels=own, **BLACKWELL)
    assert found.gemm("bf16").start_us == found.gemm("fp16").start_us == 1.0
    assert found.gemm("int4").start_us == 1.0  # widened to bf16
    assert found.gemm("fp8").start_us == 2.0
    assert found.gemm("mxfp4") == ASSUMED.gemm["nvfp4"]  # nothing in fp4 was measured here


def test_an_fp8_cache_without_a_measurement_takes_the_constants_of_bf16():
    own = Kernels(prefill_attention=ASSUMED.prefill_attention, gemm={"bf16": fit(1.0)})
    assert device(kernels=own).prefill("fp8") == ASSUMED.prefill_attention["bf16"]


def test_a_gpu_says_whose_kernels_it_has():
    bare = device()
    assert not bare.is_calibrated
    assert bare.notes() == ("GPU g has no measured kernels: efficiencies of H100 are assumed",)
    known = device(kernels=Kernels(gemm={"bf16": fit(1.0)}))
    assert known.is_calibrated
    assert known.notes() == ()
    told = device(kernels=Kernels(gemm={"bf16": fit(1.0)}, note="those of another"))
    assert told.notes() == ("those of another",)


def test_collectives_alone_do_not_make_kernels_measured():
    assert not device(kernels=Kernels()).is_calibrated


def test_a_gpu_without_memory_bandwidth_is_refused_by_field_name():
    gpu = Gpu(name="g", peak_flops_per_s=1e15, memory_bytes=1e9)
    with pytest.raises(SpecError, match=r"cluster\.gpu\.memory_bandwidth_bytes_per_s.*'g'"):
        Device.of(gpu)


def test_what_is_assumed_is_what_was_fitted_to_h100_and_b200():
    hopper, blackwell = (
        Gpu.model_validate(read_document("gpus", name)).kernels
        for name in ("h100-sxm-80gb", "b200-sxm-180gb")
    )
    fitted = {**hopper.gemm, "nvfp4": blackwell.gemm["nvfp4"]}
    assert fitted.keys() == ASSUMED.gemm.keys()
    for name, fit in fitted.items():
        if not fit.row_factors:
            assert fit == ASSUMED.gemm[name]
            continue
        gpu = "b200-sxm-180gb" if name == "nvfp4" else "h100-sxm-80gb"
        own = Device.of(Gpu.model_validate(read_document("gpus", gpu)))
        smooth = {**own.kernels.gemm, name: ASSUMED.gemm[name]}
        assumed = replace(own, kernels=own.kernels.model_copy(update={"gemm": smooth}))
        for rows in (1, 8192):  # both are fitted to one table, which differs most in between
            found = [float(gemm_us(rows, 8192, 8192, name, device)) for device in (own, assumed)]
            assert found[0] == pytest.approx(found[1], rel=0.1), (name, rows)
    for key in (
        "prefill_attention",
        "latent_prefill_attention",
        "decode_attention",
        "latent_decode_attention",
        "linear_attention",
    ):
        assert getattr(ASSUMED, key).items() <= getattr(hopper, key).items()
    assert hopper.collectives.exchange == ASSUMED_EXCHANGE


@pytest.mark.parametrize(
    "name",
    [
        "a100-sxm-80gb",
        "h100-sxm-80gb",
        "h200-sxm-141gb",
        "b200-sxm-180gb",
        "b300-sxm-288gb",
        "gb200-186gb",
        "gb300-288gb",
        "l40s-48gb",
        "rtx-pro-6000-96gb",
    ],
)
def test_gpus_of_the_catalogue_that_were_measured(name):
    assert Device.of(Gpu.model_validate(read_document("gpus", name))).is_calibrated
