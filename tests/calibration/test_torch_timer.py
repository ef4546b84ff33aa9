"""What is asked of torch, on a torch whose clock is under control; real tensors need a GPU."""

import sys
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from autopar.calibration import torch_timer
from autopar.calibration.cases import Case
from autopar.calibration.timer import NotTimedError
from autopar.calibration.torch_timer import TorchTimer, measured, open_timer, reason_of
from autopar.errors import DeviceError

HELP = r"--dry-run shows what would run; --from RAW fits timings"


class Cuda:
    """`torch.cuda` with a clock in us that calls move on, and graphs that repeat calls."""

    OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})

    def __init__(self, devices: int = 1, capability: tuple[int, int] = (9, 0)) -> None:
        self.now = 0.0
        self.devices, self.capability = devices, capability
        self.recording: list[float] | None = None
        self.graphs: list[list[float]] = []
        cuda = self

        class Event:
            def __init__(self, enable_timing=False):
                assert enable_timing

            def record(self):
                self.at = cuda.now

            def elapsed_time(self, other):
                return (other.at - self.at) / 1e3

        class CUDAGraph:
            def replay(self):
                cuda.now += sum(self.calls)

            def reset(self):
                self.calls = []

        self.Event, self.CUDAGraph = Event, CUDAGraph
        self.nccl = SimpleNamespace(version=lambda: (2, 29, 2))

    def spend(self, us: float) -> None:
        """Do what a kernel does: take its time, or be recorded in a graph."""
        if self.recording is None:
            self.now += us
        else:
            self.recording.append(us)

    @contextmanager
    def graph(self, graph, capture_error_mode="global"):
        self.recording = []
        try:
            yield
        finally:
            graph.calls, self.recording = self.recording, None
            self.graphs.append(list(graph.calls))

    def is_available(self):
        return self.devices > 0

    def device_count(self):
        return self.devices

    def get_device_name(self, index):
        return "NVIDIA H200"

    def get_device_properties(self, index):
        return SimpleNamespace(total_memory=150e9, L2_cache_size=50_000_000)

    def get_device_capability(self, device):
        return self.capability

    def Stream(self):  # noqa: N802  as torch calls it
        return SimpleNamespace(wait_stream=lambda other: None)

    current_stream = Stream

    def stream(self, side):
        return nullcontext()

    def set_device(self, device):
        self.chosen = device

    def synchronize(self):
        pass

    def empty_cache(self):
        pass


class Torch:
    """As much of torch as timing needs."""

    __version__ = "2.13.0"
    bfloat16, float8_e4m3fn, float32 = "bfloat16", "float8_e4m3fn", "float32"

    def __init__(self, **options) -> None:
        self.cuda = Cuda(**options)
        self.version = SimpleNamespace(cuda="13.0", hip=None)

    def device(self, kind, index):
        return f"{kind}:{index}"

    def Generator(self, device):  # noqa: N802  as torch calls it
        return SimpleNamespace(manual_seed=lambda seed: None)

    def inference_mode(self):
        return nullcontext()


@pytest.fixture
def torch(monkeypatch):
    fake = Torch()
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setattr(torch_timer.shutil, "which", lambda name: None)
    return fake


def test_without_torch_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceError, match=rf"install the extra 'autopar\[calibrate\]'.*{HELP}"):
        open_timer(0)


@pytest.mark.parametrize(("built", "why"), [("13.0", "torch sees none"), (None, "built for CPUs")])
def test_without_a_gpu_the_message_says_why(torch, built, why):
    torch.cuda.devices, torch.version.cuda = 0, built
    with pytest.raises(DeviceError, match=rf"no GPU: .*{why} \(torch 2.13.0\).*{HELP}"):
        open_timer(0)


@pytest.mark.parametrize("index", [2, -1])
def test_a_gpu_that_is_not_there_is_refused(torch, index):
    torch.cuda.devices = 2
    with pytest.raises(DeviceError, match=f"--device {index}: no such GPU; torch sees 2"):
        open_timer(index)


def test_the_machine_is_described(torch):
    machine = open_timer(0).machine
    assert (machine.device_name, machine.memory_bytes) == ("NVIDIA H200", 150e9)
    assert (machine.l2_bytes, machine.cuda, machine.nccl) == (50e6, "13.0", "2.29.2")
    assert machine.driver == ""  # no nvidia-smi


def test_a_time_is_the_median_of_runs_over_the_calls_of_a_graph(torch):
    """Runs of 1, 2, ... ms with 10 calls each; the first two warm up."""
    runs = iter(range(1000, 100_000, 1000))
    timing = measured(torch, lambda: torch.cuda.spend(next(runs)), 10, "k", runs=5)
    assert timing.us == pytest.approx(500.0)  # runs 3 to 7
    assert timing.spread == pytest.approx((700 - 300) / 500)
    assert timing.kernel == "k"


def test_a_short_kernel_is_captured_many_times_and_goes_round_evenly(torch):
    timer = open_timer(0)
    calls = [lambda us=us: torch.cuda.spend(us) for us in (9.0, 10.0, 11.0)]
    timing = timer._timed(calls, "mm")
    assert timing.us == pytest.approx(10.0)
    (graph,) = torch.cuda.graphs
    assert len(graph) == 99  # 1 ms of kernels of 10 us, in whole rounds of three
    assert graph[:6] == [9.0, 10.0, 11.0, 9.0, 10.0, 11.0]


def test_a_long_kernel_is_captured_once(torch):
    timing = open_timer(0)._timed([lambda: torch.cuda.spend(30_000.0)], "mm")
    assert timing.us == pytest.approx(30_000.0)
    assert torch.cuda.graphs == [[30_000.0]]


@pytest.fixture
def attention(torch, monkeypatch):
    """Attention kernels with times in us, by the first word of their name; others do not run."""
    kernels = SimpleNamespace(us={"CUDNN": 30.0, "FLASH": 20.0}, chosen=[])

    @contextmanager
    def sdpa_kernel(backend):
        kernels.chosen.append(backend)
        yield

    def attend():
        if kernels.chosen[-1] not in kernels.us:
            raise RuntimeError("No available kernel.\nAborting")
        torch.cuda.spend(kernels.us[kernels.chosen[-1]])

    backends = SimpleNamespace(
        CUDNN_ATTENTION="CUDNN", FLASH_ATTENTION="FLASH", EFFICIENT_ATTENTION="EFFICIENT"
    )
    module = SimpleNamespace(SDPBackend=backends, sdpa_kernel=sdpa_kernel)
    monkeypatch.setitem(sys.modules, "torch.nn.attention", module)
    kernels.best = lambda timer: timer._best([attend], "decode_attention")
    return kernels


def test_of_attention_kernels_the_fastest_that_works_counts(attention):
    timing = attention.best(open_timer(0))
    assert (timing.kernel, timing.us) == ("flash_attention", pytest.approx(20.0))
    assert attention.chosen == ["CUDNN", "FLASH"]


def test_an_attention_kernel_that_never_wins_is_not_built_again(attention):
    timer = open_timer(0)
    for _ in range(torch_timer.TRIALS + 1):
        attention.best(timer)
    assert attention.chosen[-3:] == ["CUDNN", "FLASH", "FLASH"]


def test_a_gpu_without_the_usual_attention_kernels_has_another(attention):
    attention.us = {"EFFICIENT": 50.0}
    assert attention.best(open_timer(0)).kernel == "efficient_attention"
    attention.us = {}
    with pytest.raises(NotTimedError, match=r"no fused attention kernel: No available kernel\."):
        attention.best(open_timer(0))


def test_fp8_is_left_out_of_a_gpu_without_it(torch, monkeypatch):
    torch.cuda.capability = (8, 0)
    rows = SimpleNamespace(to=lambda kind: None)
    monkeypatch.setattr(TorchTimer, "_values", lambda self, *shape: rows)
    with pytest.raises(NotTimedError, match=r"needs compute capability 8.9, this GPU has 8.0"):
        open_timer(0).time(Case("gemm", "fp8", (8, 512, 512)))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("bad stride\n  at Blas.cpp"), "bad stride"),
        (TypeError("unexpected keyword 'scale_a'"), "unexpected keyword 'scale_a'"),
        (AttributeError("module 'torch' has no attribute 'mm'"), "no attribute 'mm'"),
        (Cuda.OutOfMemoryError("CUDA out of memory"), "out of the GPU's memory"),
    ],
)
def test_what_torch_refuses_is_a_reason_not_a_crash(torch, monkeypatch, error, reason):
    def fail(self, case):
        raise error

    monkeypatch.setattr(TorchTimer, "_gemm", fail)
    with pytest.raises(NotTimedError, match=reason):
        open_timer(0).time(Case("gemm", "bf16", (8, 512, 512)))


def test_a_reason_is_one_short_line():
    assert reason_of(RuntimeError("")) == "RuntimeError"
    assert len(reason_of(RuntimeError("x" * 1000))) == 200


def test_a_clock_that_stands_still_is_no_time(torch):
    with pytest.raises(NotTimedError, match="show no time"):
        measured(torch, lambda: None, 1, "k", runs=5)
