"""Output of nccl-tests (all_reduce_perf and its likes) -> the bandwidth that was measured.

Source of the format and of the bus bandwidth: NVIDIA/nccl-tests, doc/PERFORMANCE.md, src/common.cu.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from autopar.errors import SpecError, shorten
from autopar.ingest.cluster.text import Output, is_digits

Collective = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]

COMMAND = "the output of all_reduce_perf (or all_gather, reduce_scatter, alltoall)"
NAMES: Mapping[str, Collective] = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
}

_RANK = re.compile(
    r"#?\s*Rank\s+(\d+)\s+(?:Group\s+\d+\s+)?Pid\s+\d+\s+on\s+(\S+)\s+device\s+\d+\s+\[[^\]]*\]\s*(.*)"
)
_TEST = re.compile(r"\b([a-z_]+)_perf(?:_mpi)?\b")
_AVERAGE = re.compile(r"#?\s*Avg bus bandwidth\s*:\s*(\S+)")
_BAD_VALUES = re.compile(r"#?\s*Out of bounds values\s*:\s*(\d+)")
_TAG = re.compile(r"^(?:\[\d+(?:,\d+)?\](?:<std(?:out|err)>)?:?|\d+:)\s*")  # of mpirun and srun -l
_TYPES = ("float", "half", "double", "bfloat16", "int8", "uint8", "int32", "uint32", "int64",
          "uint64", "fp8_e4m3", "fp8_e5m2", "f8e4m3", "f8e5m2")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Test:
    """The fastest message size of one run.

    bus_bytes_per_s: as nccl-tests computes it, the better of in place and out of place.
    hosts: GPUs per host, empty where the output does not say where its ranks were.
    average_bytes_per_s: over all sizes, as the last line has it.
    """

    where: str
    collective: Collective
    size_bytes: float
    time_us: float
    bus_bytes_per_s: float
    num_gpus: int
    hosts: Mapping[str, int]
    gpu: str | None
    average_bytes_per_s: float | None


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    size_bytes: float
    time_us: float
    algorithm: float
    bus: float
    operation: str


def is_test(line: str) -> bool:
    """Whether a line is one of nccl-tests."""
    text = _plain(line)
    return bool(_RANK.match(text) or _AVERAGE.match(text) or "algbw" in text)


def read_test(output: Output) -> Test:
    """Return what a run of nccl-tests measured.

    Raises SpecError, which names the line, if it failed, is cut off or measures no collective.
    """
    lines = [(number, _plain(line)) for number, line in output.numbered()]
    if not any(is_test(line) for _, line in lines):
        raise SpecError(f"{output.label}: found no line of nccl-tests, expected {COMMAND}")
    for number, line in lines:
        match = _BAD_VALUES.match(line)
        if match is not None and int(match[1]):
            raise output.error(number, line.strip("# "), "a run with 0 out of bounds values")
    hosts, gpu = _ranks(output, lines)
    rows = [row for number, line in lines if (row := _row(output, number, line)) is not None]
    if not rows:
        raise SpecError(
            f"{output.label}: found no line with a size, its time and bandwidths, expected "
            f"{COMMAND}; is it cut off?"
        )
    best = max(rows, key=lambda row: row.bus)
    if best.bus <= 0:
        raise output.error(best.line, "a bus bandwidth of 0", "a run on two GPUs or more")
    num_gpus = sum(hosts.values()) or _num_gpus(output, best)
    averages = [m[1] for _, line in lines if (m := _AVERAGE.match(line))]
    return Test(
        where=output.at(best.line),
        collective=_collective(output, lines, best, num_gpus),
        size_bytes=best.size_bytes,
        time_us=best.time_us,
        bus_bytes_per_s=best.bus * 1e9,
        num_gpus=num_gpus,
        hosts=hosts,
        gpu=gpu,
        average_bytes_per_s=_rate(averages[0]) if averages else None,
    )


def _plain(line: str) -> str:
    """Return a line without what launchers put before it."""
    return _TAG.sub("", line.strip()).strip()


def _ranks(output: Output, lines: list[tuple[int, str]]) -> tuple[dict[str, int], str | None]:
    """Return the GPUs per host and the name of the first GPU."""
    hosts: dict[str, int] = {}
    ranks: dict[int, int] = {}
    gpu = None
    for number, line in lines:
        match = _RANK.match(line)
        if match is None:
            continue
        rank = int(match[1])
        if rank in ranks:
            raise output.error(
                number, f"rank {rank} again (line {ranks[rank]} has it)",
                "one run over all GPUs: a file of its own for each run, and nccl-tests built with "
                "MPI=1",
            )  # fmt: skip
        ranks[rank] = number
        hosts[match[2]] = hosts.get(match[2], 0) + 1
        gpu = gpu or match[3].strip() or None
    return hosts, gpu


def _row(output: Output, number: int, line: str) -> _Row | None:
    """Return a line of the table: size, count, type, operation, root, then twice the results."""
    words = line.split()
    if len(words) < 8 or not is_digits(words[0]) or words[2] not in _TYPES:
        return None
    # Old versions have no column for the root; the four results in place may be missing.
    tail = words[5:] if is_digits(words[4].lstrip("-")) and len(words) % 4 == 1 else words[4:]
    results = [tail[i : i + 4] for i in range(0, len(tail) - 2, 4)]
    best: _Row | None = None
    for result in results:
        time, algorithm, bus = (_rate(word) for word in result[:3])
        if time is None or algorithm is None or bus is None:
            raise output.error(number, shorten(line.strip()), "a time, algbw and busbw as numbers")
        if len(result) > 3 and result[3].isdecimal() and int(result[3]):
            raise output.error(number, f"#wrong {result[3]}", "0, a run with right results")
        if best is None or bus > best.bus:
            best = _Row(number, float(words[0]), time, algorithm, bus, words[3])
    return best


def _collective(
    output: Output, lines: list[tuple[int, str]], best: _Row, num_gpus: int
) -> Collective:
    """Return what was measured: by the name of the command, the file's name, or the numbers."""
    texts = [line for _, line in lines]
    started = [line for line in texts if "Collective test starting" in line]
    named = [name for line in started or texts for name in _TEST.findall(line)]
    file = PurePath(output.label).name.lower()
    known = [name for name in (*named, *(n for n in NAMES if n in file)) if name in NAMES]
    if known:
        return NAMES[known[0]]
    if named:
        raise SpecError(
            f"{output.label}: found the test {named[0]}_perf, expected one of "
            f"{', '.join(f'{n}_perf' for n in NAMES)}"
        )
    ratio = best.bus / best.algorithm if best.algorithm else 0.0
    share = (num_gpus - 1) / num_gpus
    if best.operation != "none" and abs(ratio - 2 * share) < 0.02:
        return "all_reduce"
    if best.operation != "none" and abs(ratio - share) < 0.02:
        return "reduce_scatter"
    raise SpecError(
        f"{output.label}: it does not say which test ran; name the file after it, such as "
        "all_gather_perf.txt or alltoall_perf.txt"
    )


def _num_gpus(output: Output, best: _Row) -> int:
    """Return the GPUs that the ratio of the two bandwidths of an all-reduce tells."""
    ratio = best.bus / best.algorithm if best.algorithm else 0.0
    if best.operation == "none" or not 1.0 <= ratio < 2.0:
        raise SpecError(
            f"{output.label}: found no line with '# Rank', expected the list of devices that "
            "nccl-tests prints first: it says on how many GPUs and hosts the test ran"
        )
    return max(2, round(2.0 / (2.0 - ratio)))


def _rate(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if word.isascii() and 0 <= value < 1e12 else None
