"""Time kernels with PyTorch on one GPU. Nothing else in the package imports torch.

How a case is timed: its kernel is captured many times in one CUDA graph, so that what Python and
the driver take to launch a kernel is not charged; what the GPU takes from one kernel of a graph to
the next is. Weights, caches and streams go round over buffers of four times the L2 cache; rows that
the kernel before has just written stay in it, as they do in an engine. The graph is replayed twice
to warm up and then several times between CUDA events; the median counts. Values are random, because
what a GPU draws, and so its clock, depends on them.

On a machine with a GPU: pip install -e '.[calibrate]' && autopar calibrate -v --raw raw.json -o
my-gpu.yaml && autopar solve --model llama-3.1-70b --cluster 1xhgx-h200 --workload chat-4k-1k --set
cluster.gpu=my-gpu.yaml
"""

import gc
import importlib
import math
import shutil
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

from autopar.calibration.cases import ARRAYS, Case, copies, streamed_bytes
from autopar.calibration.measuring import rotation_bytes
from autopar.calibration.timer import Machine, NotTimedError, Timing
from autopar.errors import DeviceError

GRAPH_US = 1_000.0  # of one graph, beside which its own launch is little
MOST_CALLS = 512  # in a graph
TOTAL_US = 20_000.0  # of all runs of a graph
RUNS = (7, 40)  # at least and at most
SMALLEST_FP8 = (8, 9)  # compute capability with FP8 arithmetic (CUDA Programming Guide, 5.x)
SMALLEST_GROUPED = (9, 0)  # below, torch loops over the groups on the host

FALLBACK = "EFFICIENT_ATTENTION"  # for GPUs that the others do not run on
ATTENTION_KERNELS = ("CUDNN_ATTENTION", "FLASH_ATTENTION", FALLBACK)
TRIALS = 12  # cases of an operation that try every kernel

Call = Callable[[], Any]


def load_torch() -> Any:
    """Return torch, or one of its modules.

    Raises DeviceError if it is not installed, or broken.
    """
    try:
        return importlib.import_module("torch")
    except (ImportError, OSError) as error:
        raise DeviceError(
            f"calibrate: torch cannot be imported ({error}); install the extra 'autopar[calibrate]'"
            " where the GPU is. --dry-run shows what would run; --from RAW fits timings that "
            "another machine wrote with --raw RAW"
        ) from None


def open_timer(index: int) -> "TorchTimer":
    """Return the timer of a GPU.

    Raises DeviceError if there is no such GPU.
    """
    torch = load_torch()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        built = torch.version.cuda or torch.version.hip
        why = "torch sees none" if built else "this torch is built for CPUs"
        raise DeviceError(
            f"calibrate: no GPU: {why} (torch {torch.__version__}); run it where the GPU is. "
            "--dry-run shows what would run; --from RAW fits timings that another machine wrote "
            "with --raw RAW"
        )
    if not 0 <= index < count:
        raise DeviceError(
            f"calibrate: --device {index}: no such GPU; torch sees {count}, numbered from 0"
        )
    return TorchTimer(torch, index)


class TorchTimer:
    """A CUDA or ROCm device as `timer.Timer` wants it."""

    def __init__(self, torch: Any, index: int) -> None:
        self._torch = torch
        self._device = torch.device("cuda", index)
        torch.cuda.set_device(self._device)
        gc.freeze()  # a capture collects garbage, which is slow over all that importing torch made
        # Of its own: a capture that fails leaves the default generator unusable.
        self._random = torch.Generator(device=self._device)
        self._random.manual_seed(1)
        self._machine = _machine(torch, index)
        self._rotation = rotation_bytes(self._machine.l2_bytes)
        # Attention kernels: how many cases of an operation have tried all, and which ones won.
        self._tried: Counter[str] = Counter()
        self._won: set[tuple[str, str]] = set()

    @property
    def machine(self) -> Machine:
        """What is measured."""
        return self._machine

    def time(self, case: Case) -> Timing:
        """Time one kernel; see the module."""
        prepare = {
            "gemm": self._gemm,
            "experts": self._experts,
            "prefill_attention": self._prefill,
            "decode_attention": self._decode,
            "elementwise": self._elementwise,
        }[case.operation]
        torch = self._torch
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # why a backend does not apply is in its error
                return prepare(case)
        except torch.cuda.OutOfMemoryError:
            raise NotTimedError("out of the GPU's memory") from None
        except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError) as error:
            raise NotTimedError(reason_of(error)) from None
        finally:
            with suppress(RuntimeError):  # after an error that the device does not recover from
                torch.cuda.empty_cache()  # the next case has other sizes

    def time_together(self, cases: Sequence[Case], seconds: float) -> dict[Case, Timing]:
        """Time collectives, one process per visible GPU."""
        from autopar.calibration.torch_collectives import time_collectives  # noqa: PLC0415

        self._torch.cuda.empty_cache()
        return time_collectives(self._torch, cases, seconds)

    def _gemm(self, case: Case) -> Timing:
        m, k, n = case["m"], case["k"], case["n"]
        rounds = copies(case, self._rotation)
        rows = self._values(m, k)
        if case.name == "bf16":
            weights = [self._values(n, k).t() for _ in range(rounds)]
            out = self._values(m, n)
            return self._timed([_bound(self._torch.mm, rows, w, out=out) for w in weights], "mm")
        torch = self._torch
        if torch.version.hip is None:
            self._require(SMALLEST_FP8, "FP8 arithmetic")
        kind = torch.float8_e4m3fn
        rows, one = rows.to(kind), torch.ones((), dtype=torch.float32, device=self._device)
        weights = [self._values(n, k).to(kind).t() for _ in range(rounds)]
        options = {"out_dtype": torch.bfloat16, "use_fast_accum": True}
        multiply = torch._scaled_mm  # noqa: SLF001  the only FP8 product of torch 2.5 to 2.9
        calls = [_bound(multiply, rows, w, scale_a=one, scale_b=one, **options) for w in weights]
        return self._timed(calls, "_scaled_mm")

    def _experts(self, case: Case) -> Timing:
        """A gated feed-forward of experts: gather, grouped GEMM, gate, grouped GEMM, weighted sum.

        Pairs of a token and an expert are dealt out in turn, so that experts have equal rows; where
        some have none, each call takes the next ones.
        """
        torch = self._torch
        if torch.version.hip is None:
            self._require(SMALLEST_GROUPED, "a grouped GEMM without the host")
        hidden, ffn, held = case["hidden_size"], case["ffn"], case["held"]
        up = self._values(held, 2 * ffn, hidden).transpose(-2, -1)
        down = self._values(held, hidden, ffn).transpose(-2, -1)
        rows = self._values(case["num_tokens"], hidden)
        shares = self._values(case["num_tokens"], case["topk"], 1)
        turns = min(16, math.ceil(self._rotation / streamed_bytes(case)))
        calls = [
            _bound(_feed_forward, torch, rows, shares, up, down, *self._routing(case, turn))
            for turn in range(turns)
        ]
        return self._timed(calls, "_grouped_mm, unfused")

    def _routing(self, case: Case, turn: int) -> tuple[Any, Any, Any]:
        """Return the token of each sorted row, the sorted row of each pair, the ends of experts."""
        torch, device = self._torch, self._device
        pairs = case["num_tokens"] * case["topk"]
        expert = (torch.arange(pairs, device=device) + turn * pairs) % case["held"]
        order = torch.argsort(expert, stable=True)
        place = torch.argsort(order)
        ends = torch.bincount(expert, minlength=case["held"]).cumsum(0).to(torch.int32)
        return order // case["topk"], place, ends

    def _prefill(self, case: Case) -> Timing:
        batch, length, dim = case["batch"], case["length"], case["head_dim"]
        query = self._values(batch, length, case["heads"], dim).transpose(1, 2)
        key, value = (
            self._values(batch, length, case["kv_heads"], dim).transpose(1, 2) for _ in range(2)
        )
        options = {"is_causal": True, "enable_gqa": case["heads"] != case["kv_heads"]}
        attend = self._torch.nn.functional.scaled_dot_product_attention
        return self._best([_bound(attend, query, key, value, **options)], case.operation)

    def _decode(self, case: Case) -> Timing:
        """One query per sequence; the queries of a key stand where a kernel expects a prompt.

        With one query there is nothing to mask, so that this is the same sum, and every kernel
        reads a key once for all of its queries.
        """
        batch, keys, dim = case["batch_size"], case["context"], case["head_dim"]
        heads = case["num_key_value_heads"]
        query = self._values(batch, heads, case["num_heads"] // heads, dim)
        attend = self._torch.nn.functional.scaled_dot_product_attention
        calls = []
        for _ in range(copies(case, self._rotation)):
            key, value = (self._values(batch, keys, heads, dim).transpose(1, 2) for _ in range(2))
            calls.append(_bound(attend, query, key, value))
        return self._best(calls, case.operation)

    def _best(self, calls: Sequence[Call], operation: str) -> Timing:
        """Time attention by every fused kernel, and return the fastest, as an engine's choice is.

        Building a kernel takes longer than timing it, so that one which wins none of the first
        cases is not tried again. Raises NotTimedError if none works here: the unfused one is in no
        engine.
        """
        attention = importlib.import_module("torch.nn.attention")
        best: Timing | None = None
        failure = "torch has none"
        for name in self._kernels(operation, attention.SDPBackend):
            if name == FALLBACK and best is not None:
                break
            try:
                with attention.sdpa_kernel(getattr(attention.SDPBackend, name)):
                    timing = self._timed(calls, name.lower())
            except RuntimeError as error:
                failure = reason_of(error)  # not the error, whose frames hold the tensors
                continue
            if best is None or timing.us < best.us:
                best = timing
        if best is None:
            raise NotTimedError(f"no fused attention kernel: {failure}")
        self._tried[operation] += 1
        self._won.add((operation, best.kernel))
        return best

    def _kernels(self, operation: str, backends: Any) -> list[str]:
        """Return the names of the attention kernels to try."""
        known = [name for name in ATTENTION_KERNELS if hasattr(backends, name)]
        if self._tried[operation] < TRIALS:
            return known
        return [name for name in known if (operation, name.lower()) in self._won]

    def _elementwise(self, case: Case) -> Timing:
        torch, size = self._torch, case["bytes"] // ARRAYS[case.name] // 2
        calls = []
        for _ in range(copies(case, self._rotation)):
            *sources, target = (self._values(size) for _ in range(ARRAYS[case.name]))
            if case.name == "copy":
                calls.append(_bound(target.copy_, *sources))
            elif case.name == "scale":
                calls.append(_bound(torch.mul, *sources, 3.0, out=target))
            else:
                calls.append(_bound(torch.add, *sources, alpha=3.0, out=target))
        return self._timed(calls, case.name)

    def _values(self, *shape: int) -> Any:
        torch = self._torch
        return torch.randn(shape, generator=self._random, device=self._device, dtype=torch.bfloat16)

    def _require(self, smallest: tuple[int, int], what: str) -> None:
        found = self._torch.cuda.get_device_capability(self._device)
        if found < smallest:
            raise NotTimedError(
                f"{what} needs compute capability {smallest[0]}.{smallest[1]}, "
                f"this GPU has {found[0]}.{found[1]}"
            )

    def _timed(self, calls: Sequence[Call], kernel: str) -> Timing:
        """Return the time of one call, on average over the calls, as the median of several runs."""
        expected_us = self._warm_up(calls)
        each = max(1, min(MOST_CALLS, math.ceil(GRAPH_US / expected_us)) // len(calls))
        in_graph = [call for _ in range(each) for call in calls]
        if len(calls) > 1 and expected_us * len(calls) > TOTAL_US:
            in_graph = list(calls[: max(2, int(TOTAL_US / expected_us))])
        with captured(self._torch, in_graph) as graph:
            return measured(self._torch, graph.replay, len(in_graph), kernel)

    def _warm_up(self, calls: Sequence[Call]) -> float:
        """Run some calls, as a capture needs, and return about how long one takes, in us."""
        torch = self._torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for i in range(3):
                calls[i % len(calls)]()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for i in range(3):
            calls[i % len(calls)]()
        end.record()
        torch.cuda.synchronize()
        return max(float(start.elapsed_time(end)) * 1e3 / 3, 1.0)


@contextmanager
def captured(torch: Any, calls: Sequence[Call], mode: str = "global") -> Iterator[Any]:
    """Capture calls one after another in a CUDA graph, and free it at the end."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode=mode):
        for call in calls:
            call()
    try:
        yield graph
    finally:
        torch.cuda.synchronize()
        graph.reset()


def measured(torch: Any, run: Call, calls: int, kernel: str, runs: int = 0) -> Timing:
    """Return the time of one of the `calls` that a run holds: the median of several runs.

    runs: 0 for as many as its time suggests, which ranks of a collective would not agree on.
    """
    run()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    expected_us = max(float(start.elapsed_time(end)) * 1e3, 1.0)
    runs = runs or max(RUNS[0], min(RUNS[1], math.ceil(TOTAL_US / expected_us)))
    # Recorded ahead of the GPU, which then never waits for the host between two of them.
    events = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize()
    found = [float(before.elapsed_time(after)) * 1e3 / calls for before, after in pairwise(events)]
    return _median(found, kernel)


def _median(us: Sequence[float], kernel: str) -> Timing:
    ordered = sorted(us)
    last = len(ordered) - 1
    middle = ordered[last // 2]
    if middle <= 0:
        raise NotTimedError("the events of the GPU show no time")
    spread = (ordered[round(0.9 * last)] - ordered[round(0.1 * last)]) / middle
    return Timing(middle, round(spread, 4), kernel)


def reason_of(error: BaseException) -> str:
    """Return the first line of an error of torch, cut to what a report has room for."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _bound(function: Callable[..., Any], *values: Any, **options: Any) -> Call:
    """Return a call without arguments; functools.partial, but of a type that mypy can follow."""
    return lambda: function(*values, **options)


def _feed_forward(
    torch: Any,
    rows: Any,
    shares: Any,
    up: Any,
    down: Any,
    token: Any,
    place: Any,
    ends: Any,
) -> Any:
    """Return what all experts of a layer make of the rows of their tokens."""
    grouped = torch._grouped_mm if hasattr(torch, "_grouped_mm") else None  # noqa: SLF001
    if grouped is None:
        raise NotTimedError(f"torch {torch.__version__} has no grouped GEMM (2.8 or newer)")
    both = grouped(rows.index_select(0, token), up, offs=ends)
    gate, linear = both.chunk(2, dim=-1)
    inner = torch.nn.functional.silu(gate) * linear
    found = grouped(inner, down, offs=ends).index_select(0, place)
    return (found.view(*shares.shape[:2], -1) * shares).sum(1)


def _machine(torch: Any, index: int) -> Machine:
    found = torch.cuda.get_device_properties(index)
    nccl = ""
    try:
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
    except (RuntimeError, AttributeError, TypeError):
        nccl = ""  # a build without it
    hip = torch.version.hip
    return Machine(
        device_name=torch.cuda.get_device_name(index),
        num_devices=torch.cuda.device_count(),
        memory_bytes=float(found.total_memory),
        l2_bytes=float(getattr(found, "L2_cache_size", 0) or 0),
        torch=str(torch.__version__),
        cuda=f"ROCm {hip}" if hip else str(torch.version.cuda or ""),
        driver=_driver(),
        nccl=nccl,
    )


def _driver() -> str:
    """Return the version of NVIDIA's driver, or nothing: torch does not tell it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.split("\n") if done.returncode == 0 else [""]
    return lines[0].strip()[:40]
