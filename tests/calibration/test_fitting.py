"""Fits find constants whose predictions are those of the device that made the times."""

import sys

import numpy as np
import pytest

from autopar.calibration import fitting, forms
from autopar.calibration.collectives import fit_collective, network
from autopar.calibration.rows import Rows, joined
from autopar.catalog import read_document
from autopar.costs.operations.device import Device
from autopar.errors import DeviceError
from autopar.specs import Gpu
from autopar.specs.kernels import ElementwiseFit, GemmFit

GPU = Gpu.model_validate({**read_document("gpus", "h200-sxm-141gb"), "kernels": None})
PLANTED = {
    "start_us": 5.0,
    "inner_us": 0.0006,
    "compute_fraction": 0.61,
    "memory_fraction": 0.7,
    "activation_fraction": 0.45,
    "sharpness": 2,
}
GEMM = forms.FORMS[0]


def gemm_rows() -> Rows:
    sizes = [
        (m, k, n) for m in 2 ** np.arange(13) for k in (1024, 4096, 8192) for n in (2048, 7168)
    ]
    m, k, n = np.array(sizes, dtype=np.float64).T
    return Rows({"m": m, "k": k, "n": n})


def planted_times() -> Rows:
    device = fitting.with_constants(Device.of(GPU), GEMM, "bf16", PLANTED)
    rows = gemm_rows()
    return Rows({**rows.columns, "us": GEMM.predict(rows, "bf16", device)})


def test_a_fit_predicts_what_the_planted_constants_predict():
    rows = planted_times()
    found = fitting.fit_constants(GEMM, rows, "bf16", Device.of(GPU))
    device = fitting.with_constants(Device.of(GPU), GEMM, "bf16", GemmFit(**found).model_dump())
    error = fitting.Error.of(GEMM.predict(rows, "bf16", device), rows.number("us"))
    assert found["sharpness"] == 2
    assert error.median < 0.01
    assert error.p90 < 0.02


def test_the_error_is_of_the_predictions_not_of_their_mean():
    error = fitting.Error.of(np.array([1.1, 2.0, 3.6]), np.array([1.0, 2.0, 3.0]))
    assert (error.rows, round(error.median, 3), round(error.ratio, 3)) == (3, 0.1, 1.1)
    assert error.text() == "10.0 % / 18 %"


def test_constants_have_three_digits_that_keep_time_growing():
    made = fitting.rounded(
        {"start_us": 1.23456, "weight_passes": [1.0044, 16.064, 16.1, 20, 30, 40, 50, 60]}
    )
    assert made["start_us"] == 1.23
    assert made["weight_passes"][1] <= 16 * made["weight_passes"][0]


def test_constants_of_moving_data_are_one_section_for_all_precisions():
    device = fitting.with_constants(
        Device.of(GPU), forms.ELEMENTWISE, "all", {"start_us": 1.0, "memory_fraction": 0.5}
    )
    assert device.elementwise() == ElementwiseFit(start_us=1.0, memory_fraction=0.5)
    # 2.4 MB at half of 4.8 TB/s take 1 us
    assert forms.ELEMENTWISE.predict(Rows({"bytes": np.array([2.4e6])}), "", device) == 2.0


def test_a_collective_is_fitted_for_each_size_of_a_group():
    size = 2.0 ** np.arange(12, 30)
    parts = [
        Rows({"gpus": np.full(18, gpus), "bytes": size, "us": start + size / rate})
        for gpus, start, rate in ((2, 8.0, 3e5), (4, 12.0, 2e5))
    ]
    (fit,) = fit_collective(joined(*parts))
    section = {"collectives": {"link_bandwidth_bytes_per_s": 450e9}}
    section["collectives"] |= dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter"), fit)
    net = network(GPU, section, 450.0, 1, 8)
    for part in parts:
        found = net.all_reduce_us(part.number("bytes"), part.number("gpus"))
        assert fitting.Error.of(found, part.number("us")).p90 < 0.02


def test_without_scipy_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(DeviceError, match=r"scipy >= 1\.11, or the extra 'autopar\[calibrate\]'"):
        fitting.fit_constants(GEMM, planted_times(), "bf16", Device.of(GPU))
