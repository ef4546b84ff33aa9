"""A calibration of a device with known constants predicts what the device takes."""

from dataclasses import replace

import numpy as np
import pytest

from autopar.calibration.calibrated import calibrate, check_name
from autopar.calibration.cases import planned
from autopar.calibration.collectives import network
from autopar.calibration.measuring import measure
from autopar.calibration.timings import Timings
from autopar.catalog import load_gpu
from autopar.costs.operations import kernels
from autopar.costs.operations.device import Device
from autopar.documents import parse
from autopar.errors import SpecError
from autopar.specs import Gpu

H200 = "h200-sxm-141gb"
EVERYTHING = 1e9  # s


def measured(timer, **options) -> Timings:
    cases = planned(num_gpus=timer.machine.num_devices, **options)
    return measure(timer, cases, EVERYTHING)


@pytest.fixture(scope="module")
def found(fake_timer):
    """All operations of two of the four GPUs whose collectives are planted, with 3 % of noise."""
    return calibrate(measured(fake_timer(num_devices=4)), load_gpu(H200))


def ratios(new: Gpu, planted: Gpu) -> dict[str, np.ndarray]:
    """Predictions of the planner with a new GPU over those with the planted one.

    In sizes that no case has, between and beyond those that were measured.
    """
    rows = np.array([3, 24, 100, 700, 3000, 12000], dtype=float)
    out: dict[str, list[np.ndarray]] = {}
    for gpu in (new, planted):
        device = Device.of(gpu)
        for precision in ("bf16", "fp8"):
            us = kernels.gemm_us(rows, 6144, 5000, precision, device)
            out.setdefault(f"gemm {precision}", []).append(us)
        experts = {"hidden_size": 3072, "ffn_size": 1536, "num_matrices": 3, "precision": "bf16"}
        us = kernels.experts_us(rows * 8, 64, tokens=rows, device=device, **experts)
        out.setdefault("experts", []).append(us)
        heads = {"heads": 24, "kv_heads": 4, "qk_head_dim": 128, "v_head_dim": 128}
        common = {**heads, "kv_precision": "bf16", "device": device}
        us = kernels.prefill_attention_us(rows * 4, rows / 2, rows * 4, **common)
        out.setdefault("prefill", []).append(us)
        out.setdefault("decode", []).append(
            kernels.decode_attention_us(np.array([2, 10, 40, 100]), 5000, **common)
        )
        us = kernels.elementwise_us(np.array([5e6, 4e7, 3e8]), device)
        out.setdefault("elementwise", []).append(us)
    return {name: a / b for name, (a, b) in out.items()}


def test_predictions_are_those_of_the_planted_constants(found, fake_timer):
    """Within 8 %, from times that are off by 3 % each, in sizes that were not measured."""
    for name, ratio in ratios(found.gpu, fake_timer().gpu).items():
        assert np.all(np.abs(ratio - 1) < 0.08), (name, ratio)


def test_the_starting_constants_would_not_pass_for_the_planted_ones(fake_timer):
    apart = ratios(load_gpu(H200), fake_timer().gpu)
    assert all(np.max(np.abs(ratio - 1)) > 0.15 for ratio in apart.values()), apart


def test_collectives_of_the_planner_are_those_of_the_planted_links(found, fake_timer):
    size = np.array([2e4, 3e6, 4e8])
    nets = [
        network(gpu, {"collectives": gpu.kernels.collectives.model_dump()}, 450.0, 1, 8)
        for gpu in (found.gpu, fake_timer().gpu)
    ]
    for kind in ("all_gather_us", "reduce_scatter_us"):
        for gpus in (2, 4):
            ours, theirs = (getattr(net, kind)(size, gpus) for net in nets)
            assert np.all(np.abs(ours / theirs - 1) < 0.08), (kind, gpus)
    assert len(nets[0].exchange) == 3  # DeepEP's two of the start, and NCCL's
    ours, theirs = (replace(n, exchange=n.exchange[-1:]).all_to_all_us(size, 4, 4) for n in nets)
    assert np.all(np.abs(ours / theirs - 1) < 0.08)


def test_groups_that_are_too_large_for_the_machine_stay_those_of_the_start(found):
    start = load_gpu(H200).kernels.collectives.all_gather
    new = found.gpu.kernels.collectives.all_gather
    assert new.gpus == (2, 4, 8)
    assert new.bandwidth_bytes_per_s[2] == start.bandwidth_bytes_per_s[2]
    assert "8 GPUs: of h200-sxm-141gb" in found.text


def test_links_of_another_bandwidth_keep_no_groups_of_the_start(fake_timer):
    timings = measured(fake_timer(num_devices=2), operations=("collectives",))
    stated = timings.model_copy(update={"link_bandwidth_bytes_per_s": 300e9})
    new = calibrate(stated, load_gpu(H200)).gpu.kernels.collectives
    assert new.link_bandwidth_bytes_per_s == 300e9
    assert new.all_gather.gpus == (2,)
    assert new.all_reduce_small is None
    assert new.exchange[:2] == load_gpu(H200).kernels.collectives.exchange  # shares of any link
    assert 0.55 < new.exchange[2].link_fraction * 300 / 450 < 0.7


def test_a_copy_engine_is_no_kernel(fake_timer):
    timings = measured(fake_timer(), operations=("elementwise",))
    slow = [
        timed.model_copy(update={"us": timed.us * (9.0 if timed.name == "copy" else 1.0)})
        for timed in timings.timings
    ]
    fits = [
        calibrate(each, load_gpu(H200)).fits[0]
        for each in (timings, timings.model_copy(update={"timings": tuple(slow)}))
    ]
    assert fits[0].constants == fits[1].constants
    assert (fits[0].error.rows, fits[0].kernels) == (24, "scale, triad")


def test_a_few_timings_are_no_fit(fake_timer):
    timings = measured(fake_timer(), operations=("gemm", "elementwise"))
    few = [timed for timed in timings.timings if timed.operation == "elementwise"]
    few += [timed for timed in timings.timings if timed.name == "bf16"][:5]
    new = calibrate(timings.model_copy(update={"timings": tuple(few)}), load_gpu(H200))
    assert [fit.operation for fit in new.fits] == ["elementwise"]
    assert new.left_out[0].reason.startswith("5 timings are too few for a fit; expected 10")


def test_the_errors_are_those_of_the_noise(found):
    assert {(fit.operation, fit.path[1]) for fit in found.fits} == {
        *(("gemm", "bf16"), ("gemm", "fp8"), ("experts", "bf16"), ("elementwise", "")),
        *(("prefill_attention", "bf16"), ("decode_attention", "bf16")),
        *(("collectives", kind) for kind in ("all_reduce", "all_gather", "reduce_scatter")),
        ("collectives", "exchange"),
    }
    assert all(0.01 < fit.error.median < 0.04 for fit in found.fits)
    assert all(fit.before.median > 0.1 for fit in found.fits if fit.before)
    assert sum(fit.before is not None for fit in found.fits) == 6  # all but collectives


def test_what_was_not_measured_is_that_of_the_start_and_the_file_says_so(found):
    start = load_gpu(H200)
    kept = found.gpu.kernels
    assert kept.gemm["fp8_block"] == start.kernels.gemm["fp8_block"]
    assert kept.latent_decode_attention == start.kernels.latent_decode_attention
    assert kept.collectives.all_reduce_small == start.kernels.collectives.all_reduce_small
    assert found.gpu.sources[: len(start.sources)] == start.sources
    assert (
        "measured on NVIDIA H200 (driver 580.1, CUDA 13.0, torch 2.13.0, NCCL 2.29) on 20"
        in (found.gpu.sources[-2])
    )
    assert kept.experts["bf16"].uneven_rows == start.kernels.experts["bf16"].uneven_rows
    assert found.gpu.sources[-1].endswith("kernels that were not measured: h200-sxm-141gb")
    assert "    # of h200-sxm-141gb, not measured here\n    fp8_block:" in found.text
    assert kept.note.endswith("the others are those of h200-sxm-141gb")


def test_every_measured_line_has_its_errors_above_it(found):
    lines = found.text.splitlines()
    fits = [line for line in lines if " timings: " in line]
    assert len(fits) == len(found.fits)
    assert "    # mm, 169 timings: " in found.text
    assert any(line.startswith("# fitted: autopar calibrate, to NVIDIA H200") for line in lines)


def test_the_text_is_the_gpu(found):
    assert Gpu.model_validate(parse(found.text, "my.yaml")) == found.gpu
    assert found.gpu.name == "h200-sxm-141gb-measured"
    assert found.gpu.peak_flops_per_s == 989e12
    assert "memory_bytes: 143771 MiB" in found.text


def test_a_device_that_the_catalogue_lacks_has_the_peaks_that_were_measured(fake_timer):
    timer = fake_timer(noise=0.0, device_name="NVIDIA H300 XL")
    timings = measured(timer, operations=("gemm", "elementwise"))
    new = calibrate(timings, None)
    assert new.gpu.name == "nvidia-h300-xl-measured"
    assert 0.4 * 989e12 < new.gpu.peak_flops_per_s < 0.55 * 989e12
    assert new.gpu.memory_bandwidth_bytes_per_s == pytest.approx(0.85 * 4.8e12, rel=0.01)
    assert new.gpu.sources[-1].startswith("peak rates: the most that was measured")
    assert "is no GPU of the catalogue" in new.notes[0]
    ours, theirs = (
        kernels.gemm_us([8, 512, 4096], 8192, 4096, "bf16", Device.of(gpu))
        for gpu in (new.gpu, timer.gpu)
    )
    assert np.all(np.abs(ours / theirs - 1) < 0.05)


def test_without_products_such_a_device_has_no_peak(fake_timer):
    timings = measured(fake_timer(device_name="X"), operations=("elementwise",))
    with pytest.raises(SpecError, match=r"'X' is no GPU of the catalogue.*--gpu NAME starts"):
        calibrate(timings, None)


def test_a_formula_that_misses_the_timings_is_left_out(fake_timer):
    timings = measured(fake_timer(noise=1.5), operations=("gemm", "elementwise"))
    with pytest.raises(SpecError, match=r"nothing could be fitted: gemm bf16: the formula misses"):
        calibrate(timings, load_gpu(H200))


def test_fp8_times_without_an_fp8_rate_are_left_out(fake_timer):
    timings = measured(fake_timer(), operations=("gemm",))
    new = calibrate(timings, load_gpu(H200).model_copy(update={"fp8_flops_per_s": None}))
    assert [fit.name for fit in new.fits] == ["bf16"]
    assert new.left_out[-1].reason == "h200-sxm-141gb states no fp8_flops_per_s"


def test_a_device_with_other_memory_than_its_gpu_is_noted(fake_timer):
    timings = measured(fake_timer(), operations=("elementwise",))
    (note,) = calibrate(timings, load_gpu("h100-sxm-80gb")).notes
    assert "NVIDIA H200 has 140 GiB, h100-sxm-80gb 80 GiB: is it the same GPU?" in note


def test_collectives_without_a_known_link_are_left_out(fake_timer):
    timings = measured(fake_timer(num_devices=2), operations=("gemm", "collectives"))
    new = calibrate(timings, load_gpu("l40s-48gb"))
    assert new.gpu.kernels.collectives is None
    assert "--link-bandwidth states it" in new.left_out[-1].reason
    stated = timings.model_copy(update={"link_bandwidth_bytes_per_s": 450e9})
    assert calibrate(stated, load_gpu("l40s-48gb")).gpu.kernels.collectives is not None


def test_clocks_that_move_and_runs_that_spread_are_said(fake_timer):
    timings = measured(fake_timer(), operations=("elementwise",))
    loud = [timed.model_copy(update={"spread": 0.3}) for timed in timings.timings[:5]]
    update = {"reference_us": (100.0, 120.0), "timings": (*loud, *timings.timings[5:])}
    notes = calibrate(timings.model_copy(update=update), load_gpu(H200)).notes
    assert "one product took 100 us at first and 120 us at most" in notes[0]
    assert "5 of 36 timings spread by more than 10 %" in notes[1]


def test_a_name_is_checked():
    check_name("my-gpu_1.2", "--name")
    with pytest.raises(SpecError, match=r"--name: found 'my gpu', expected a name"):
        check_name("my gpu", "--name")
