"""Time collectives with torch.distributed and NCCL, in one process for each visible GPU.

Each collective is captured several times in a CUDA graph where NCCL allows it, else launched in a
row; the slowest rank counts, by the median of several runs. Processes write down each time as it
comes, and are killed when their budget is over, so that a collective that hangs costs no result.
"""

import gc
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from autopar.calibration.cases import Case
from autopar.calibration.timer import NotTimedError, Timing
from autopar.calibration.torch_timer import captured, load_torch, measured, reason_of

START_S = 60.0  # that processes and communicators may take beside the budget
MOST_CALLS = 50  # in a graph
GRAPH_US = 1_000.0
RUNS = 11  # the same on every rank: each run is a collective that all of them must enter
ELEMENT_BYTES = 2  # bf16
_TIMES = "times.jsonl"


def time_collectives(torch: Any, cases: Sequence[Case], seconds: float) -> dict[Case, Timing]:
    """Return the times of the cases that were reached in `seconds`.

    Raises NotTimedError if none was.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        raise NotTimedError("this torch has no NCCL")
    world = max(case["gpus"] for case in cases)
    # Small groups first: those that start at once.
    ordered = sorted(cases, key=lambda case: case["gpus"])
    with tempfile.TemporaryDirectory(prefix="autopar-") as folder:
        failure = _run(torch, world, Path(folder), ordered, seconds)
        found = _read(Path(folder) / _TIMES, ordered)
    if not found:
        raise NotTimedError(failure or f"no collective ended in {seconds:.0f} s")
    return found


def _run(torch: Any, world: int, folder: Path, cases: Sequence[Case], seconds: float) -> str:
    """Run the processes to their end, or to the end of their time; return why they failed."""
    listed = [(case.name, case["gpus"], case["bytes"]) for case in cases]
    context = torch.multiprocessing.start_processes(
        work, (world, str(folder), listed, seconds), nprocs=world, join=False, start_method="spawn"
    )
    deadline = time.monotonic() + seconds + START_S
    try:
        while time.monotonic() < deadline:
            if context.join(timeout=1.0):
                return ""
    except Exception as error:  # noqa: BLE001  torch's own errors of a process, of several types
        return reason_of(_root(error))
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
            process.join()
    return f"no answer in {seconds + START_S:.0f} s"


def _root(error: Exception) -> Exception:
    """Return the error of a process without its traceback, whose last line says what it is."""
    lines = str(error).strip().splitlines()
    return RuntimeError(lines[-1]) if lines else error


def _read(file: Path, cases: Sequence[Case]) -> dict[Case, Timing]:
    """Return the times that were written; the last line may be cut."""
    found: dict[Case, Timing] = {}
    if not file.exists():
        return found
    for line in file.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, KeyError, IndexError):
            entry = json.loads(line)
            timing = Timing(entry["us"], entry["spread"], entry["kernel"])
            found[cases[entry["case"]]] = timing
    return found


def work(
    rank: int,
    world: int,
    folder: str,
    cases: Sequence[tuple[str, int, int]],
    seconds: float,
) -> None:
    """Time the cases as one of `world` ranks; rank 0 writes."""
    torch = load_torch()
    dist = torch.distributed
    torch.cuda.set_device(rank)
    gc.freeze()  # as in `torch_timer.TorchTimer`
    dist.init_process_group(
        "nccl",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=START_S),
    )
    groups = {gpus: dist.new_group(list(range(gpus))) for gpus in sorted({c[1] for c in cases})}
    start = time.monotonic()
    with (Path(folder) / _TIMES).open("a", encoding="utf-8") if not rank else nullcontext() as out:
        for number, (kind, gpus, size) in enumerate(cases):
            if not _goes_on(torch, time.monotonic() - start < seconds):
                break
            if rank >= gpus:
                continue
            timing = _time(torch, kind, gpus, size, groups[gpus])
            if out is not None:
                entry = {"case": number, "us": timing.us, "spread": timing.spread}
                out.write(json.dumps({**entry, "kernel": timing.kernel}) + "\n")
                out.flush()
    dist.destroy_process_group()


def _goes_on(torch: Any, wish: bool) -> bool:
    """Return what rank 0 wants: ranks that stopped at different cases would wait for each other."""
    flag = torch.tensor([int(wish)], device="cuda")
    torch.distributed.broadcast(flag, 0)
    return bool(flag.item())


def _time(torch: Any, kind: str, gpus: int, size: int, group: Any) -> Timing:
    call = _call(torch, kind, gpus, size, group)
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    expected_us = _slowest(torch, group, measured(torch, call, 1, "", RUNS).us)
    calls = max(1, min(MOST_CALLS, math.ceil(GRAPH_US / expected_us)))
    try:
        with captured(torch, [call] * calls, "thread_local") as graph:
            works, timing = 1.0, measured(torch, graph.replay, calls, "NCCL", RUNS)
    except RuntimeError:
        works, timing = 0.0, None
    if -_slowest(torch, group, -works) < 1.0 or timing is None:  # on any rank: so on all
        row = lambda: [call() for _ in range(calls)]  # noqa: E731
        timing = measured(torch, row, calls, "NCCL, no graph", RUNS)
    return Timing(_slowest(torch, group, timing.us), timing.spread, timing.kernel)


def _slowest(torch: Any, group: Any, us: float) -> float:
    """Return the largest value of the ranks of a group, so that all of them do the same."""
    value = torch.tensor([us], device="cuda", dtype=torch.float64)
    torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX, group=group)
    return float(value.item())


def _call(torch: Any, kind: str, gpus: int, size: int, group: Any) -> Callable[[], Any]:
    """Return a call of a collective; size: bytes of the whole tensor, as the planner counts."""
    dist = torch.distributed
    part = max(1, size // ELEMENT_BYTES // gpus)
    whole, share = (
        torch.zeros(count, dtype=torch.bfloat16, device="cuda") for count in (part * gpus, part)
    )
    if kind == "all_reduce":
        return lambda: dist.all_reduce(whole, group=group)
    if kind == "all_gather":
        return lambda: dist.all_gather_into_tensor(whole, share, group=group)
    if kind == "reduce_scatter":
        return lambda: dist.reduce_scatter_tensor(share, whole, group=group)
    other = torch.empty_like(whole)
    return lambda: dist.all_to_all_single(other, whole, group=group)
