"""Processes of collectives: what they write is read, and what fails has a reason."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from autopar.calibration import torch_collectives
from autopar.calibration.cases import Case
from autopar.calibration.timer import NotTimedError

CASES = [Case("collectives", "all_reduce", (gpus, 4096)) for gpus in (4, 2)]


class Process:
    def __init__(self) -> None:
        self.killed = False

    def is_alive(self):
        return not self.killed

    def kill(self):
        self.killed = True

    def join(self):
        assert self.killed


def torch(join, write=lambda folder: None, has_nccl=True):
    """A torch that starts nothing; join: what its context does."""
    processes = [Process(), Process()]

    def start(work, args, nprocs, join, start_method):
        started.update(work=work, args=args, nprocs=nprocs, start_method=start_method)
        write(Path(args[1]))
        return SimpleNamespace(join=joined, processes=processes)

    joined, started = join, {}
    available = SimpleNamespace(is_available=lambda: True, is_nccl_available=lambda: has_nccl)
    return SimpleNamespace(
        distributed=available,
        multiprocessing=SimpleNamespace(start_processes=start),
        started=started,
        processes=processes,
    )


def test_times_are_those_of_the_cases_that_were_written():
    def write(folder):
        lines = [json.dumps({"case": 0, "us": 9.5, "spread": 0.1, "kernel": "NCCL"}), '{"case": 1']
        (folder / "times.jsonl").write_text("\n".join(lines))  # the last one was cut

    fake = torch(lambda timeout: True, write)
    times = torch_collectives.time_collectives(fake, CASES, 5.0)
    assert list(times) == [CASES[1]]  # small groups first
    assert times[CASES[1]].us == 9.5
    assert fake.started["nprocs"] == 4
    assert fake.started["start_method"] == "spawn"
    assert fake.started["args"][2] == [("all_reduce", 2, 4096), ("all_reduce", 4, 4096)]
    assert all(process.killed for process in fake.processes)


def test_the_last_line_of_a_failed_process_is_the_reason():
    def join(timeout):
        raise ChildProcessError("-- Process 1 terminated\nTraceback\nDistBackendError: NCCL error")

    fake = torch(join)
    with pytest.raises(NotTimedError, match=r"^DistBackendError: NCCL error$"):
        torch_collectives.time_collectives(fake, CASES, 5.0)
    assert all(process.killed for process in fake.processes)


def test_processes_that_hang_are_killed(monkeypatch):
    seconds = iter(range(0, 10_000, 50))
    monkeypatch.setattr(torch_collectives.time, "monotonic", lambda: next(seconds))
    fake = torch(lambda timeout: False)
    with pytest.raises(NotTimedError, match="no answer in 65 s"):
        torch_collectives.time_collectives(fake, CASES, 5.0)
    assert all(process.killed for process in fake.processes)


def test_without_nccl_nothing_is_started():
    fake = torch(lambda timeout: True, has_nccl=False)
    with pytest.raises(NotTimedError, match="no NCCL"):
        torch_collectives.time_collectives(fake, CASES, 5.0)
    assert not fake.started
