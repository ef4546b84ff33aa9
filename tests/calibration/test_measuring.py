"""A measurement keeps its budget, survives what does not run, and says what it left out."""

import pytest

from autopar.calibration.cases import REFERENCE, planned
from autopar.calibration.measuring import measure
from autopar.calibration.timer import NotTimedError
from autopar.errors import DeviceError


class Clock:
    """Goes on by one second at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_every_case_is_timed_and_the_reference_three_times_after_a_warm_up(fake_timer):
    timer, cases = fake_timer(noise=0.0), planned(["gemm"])
    timings = measure(timer, cases, 1e9)
    assert len(timings.timings) == len(cases)
    assert len(timings.reference_us) == 3
    assert timer.asked.count(REFERENCE) == 4
    assert timings.machine.device_name == "NVIDIA H200"
    assert not timings.left_out


def test_cases_beyond_the_budget_are_counted(fake_timer):
    cases = planned(["gemm"])
    timings = measure(fake_timer(), cases, 100.0, clock=Clock())
    assert 45 <= len(timings.timings) <= 51  # two looks at the clock for each case
    left = {each.name: each for each in timings.left_out}
    assert left["bf16"].reason == "not reached in 100 s"
    assert sum(each.cases for each in timings.left_out) + len(timings.timings) == len(cases)


def test_a_kernel_that_does_not_run_is_tried_a_few_times_and_left_out_with_its_reason(fake_timer):
    timer = fake_timer()
    timer.broken["gemm", "fp8"] = "FP8 arithmetic needs compute capability 8.9"
    timings = measure(timer, planned(["gemm"]), 1e9)
    assert {timed.name for timed in timings.timings} == {"bf16"}
    assert sum(case.group == ("gemm", "fp8") for case in timer.asked) == 4
    counts = {each.reason: each.cases for each in timings.left_out}
    assert counts == {
        "FP8 arithmetic needs compute capability 8.9": 4,
        "left out after failures of the same kernel": 165,
    }


def test_single_sizes_may_fail_without_an_end(fake_timer):
    timer = fake_timer()
    time = timer.time

    def sometimes(case):
        if case != REFERENCE and case["m"] < 8:
            raise NotTimedError("too few rows")
        return time(case)

    timer.time = sometimes
    timings = measure(timer, planned(["gemm"], ["bf16"]), 1e9)
    assert [(each.cases, each.reason) for each in timings.left_out] == [(26, "too few rows")]


def test_what_does_not_fit_into_the_memory_is_not_tried(fake_timer):
    timer = fake_timer()
    timer.machine = type(timer.machine)("small", 1, 2e9, 4e6)
    timings = measure(timer, planned(["decode_attention", "elementwise"]), 1e9)
    assert {each.reason for each in timings.left_out} == {"needs more than the GPU's memory"}
    assert timings.timings


def test_nothing_timed_is_an_error_that_says_why(fake_timer):
    timer = fake_timer()
    timer.broken["gemm", "bf16"] = "no kernel image is available"
    with pytest.raises(
        DeviceError, match=r"nothing could be timed: gemm bf16: (no kernel|left out)"
    ):
        measure(timer, planned(["gemm"], ["bf16"]), 1e9)


def test_an_interrupt_keeps_what_was_timed(fake_timer):
    timer = fake_timer()
    time = timer.time

    def interrupted(case):
        if len(timer.asked) > 20:
            raise KeyboardInterrupt
        return time(case)

    timer.time = interrupted
    timings = measure(timer, planned(["gemm"]), 1e9)
    assert timings.interrupted
    assert len(timings.timings) == 19


def test_collectives_have_a_share_of_the_budget(fake_timer):
    timer, budgets = fake_timer(num_devices=4), []
    together = timer.time_together
    timer.time_together = lambda cases, seconds: budgets.append(seconds) or together(cases, seconds)
    measure(timer, planned(["gemm", "collectives"], num_gpus=4), 100.0, clock=Clock())
    measure(timer, planned(["collectives"], num_gpus=4), 100.0)
    assert budgets[0] == pytest.approx(35.0)
    assert budgets[1] == pytest.approx(100.0, abs=5.0)


def test_collectives_that_do_not_run_are_left_out(fake_timer):
    timer = fake_timer(num_devices=2)
    timer.broken["collectives", ""] = "this torch has no NCCL"
    timings = measure(timer, planned(["elementwise", "collectives"], num_gpus=2), 1e9)
    left = [(each.name, each.cases, each.reason) for each in timings.left_out]
    assert left[0] == ("all_reduce", 19, "this torch has no NCCL")
    assert len(left) == 4
    assert {timed.operation for timed in timings.timings} == {"elementwise"}


def test_progress_is_told_case_by_case(fake_timer):
    seen = []
    measure(fake_timer(), planned(["elementwise"]), 1e9, told=lambda *step: seen.append(step[:2]))
    assert seen == [(done, 36) for done in range(36)]
