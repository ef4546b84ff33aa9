"""`nvidia-smi topo -m` -> the matrix of one node.

Source of the format: `nvidia-smi topo -h` and its legend. Columns are separated by blanks; the
names of the last three hold blanks themselves, so that a row is read by the number of devices.
"""

import re

from autopar.errors import SpecError, shorten, suggest
from autopar.ingest.cluster.findings import Matrix
from autopar.ingest.cluster.text import Output

# How two devices reach each other, the nearest first; from the legend of nvidia-smi topo -m.
PCIE = ("PIX", "PXB", "PHB", "NODE", "SYS")
SELF = "X"
EXPECTED = f"{SELF}, NV and a number, {', '.join(PCIE)}"

_HEADER = re.compile(r"GPU\d{1,3}|NIC\d{1,3}|mlx\S+|CPU", re.ASCII)
_GPU = re.compile(r"GPU(\d{1,3})", re.ASCII)
_NVLINK = re.compile(r"NV(?:L|\d{1,3})", re.ASCII)
_LEGEND_NIC = re.compile(r"\s*(NIC\d+):\s*(\S+)", re.ASCII)
# States of nvidia-smi topo -p2p, which may stand beside the matrix: its legend.
_PEER_ACCESS = ("OK", "CNS", "GNS", "TNS", "NS", "DR", "U")
_COMMAND = "the matrix of nvidia-smi topo -m"


def is_header(line: str) -> bool:
    """Whether a line starts the matrix."""
    words = line.split()
    return len(words) > 1 and all(map(_HEADER.fullmatch, words[:2]))


def read_matrix(output: Output) -> Matrix:
    """Return the matrix in an output, which may hold other things before and after it.

    Raises SpecError, which names the line, if it is cut off or contradicts itself.
    """
    headers = [number for number, line in output.numbered() if is_header(line)]
    headers = [number for number in headers if not _is_peer_access(output, number)] or headers
    if not headers:
        raise SpecError(f"{output.label}: found no line that starts with GPU0, expected {_COMMAND}")
    start = headers[0]
    if len(headers) > 1:
        raise output.error(
            headers[1], output.lines[headers[1] - 1].split()[0],
            "one matrix per file; put the output of each node into a file of its own",
        )  # fmt: skip
    devices = _devices(output.lines[start - 1])
    gpus = [name for name in devices if _GPU.fullmatch(name)]
    if len(set(devices)) != len(devices) or devices[: len(gpus)] != gpus:
        raise output.error(start, output.lines[start - 1], "the GPUs first, each device once")
    rows = {gpu: _row(output, start, gpu, devices) for gpu in gpus}
    lines = {gpu: number for gpu, (number, _) in rows.items()}
    cells = tuple(tuple(rows[gpu][1][: len(gpus)]) for gpu in gpus)
    _refuse_contradictions(output, gpus, cells, lines)
    names = _legend(output)
    nics = {
        names.get(nic, nic): tuple(rows[gpu][1][len(gpus) + i] for gpu in gpus)
        for i, nic in enumerate(devices[len(gpus) :])
    }
    return Matrix(output.at(start), tuple(int(gpu[3:]) for gpu in gpus), cells, nics)


def num_nvlinks(cell: str) -> int | None:
    """Return the NVLinks of a cell: 0 for PCIe, None if it says that there are some."""
    if not cell.startswith("NV"):
        return 0
    return None if cell == "NVL" else int(cell[2:])


def _is_peer_access(output: Output, header: int) -> bool:
    """Whether a matrix is one of nvidia-smi topo -p2p: the states of peer access below a header."""
    words = output.lines[header].split() if header < len(output.lines) else []
    return bool(words) and any(word in _PEER_ACCESS for word in words[1:])


def _devices(header: str) -> list[str]:
    """Return the devices of a header, which the affinities follow."""
    words = header.split()
    ends = [i for i, word in enumerate(words) if word in ("CPU", "NUMA", "GPU")]
    return words[: ends[0]] if ends else words


def _row(output: Output, start: int, gpu: str, devices: list[str]) -> tuple[int, list[str]]:
    """Return the line of a GPU and its cells, one per device."""
    for number, line in enumerate(output.lines[start:], start + 1):
        words = line.split()
        if not words or words[0] != gpu:
            continue
        cells = words[1:]
        for column, cell in enumerate(cells[: len(devices)]):
            if cell != SELF and cell not in PCIE and not _NVLINK.fullmatch(cell):
                near = suggest(cell, (SELF, *PCIE))
                raise output.error(
                    number, cell, f"{EXPECTED} in column {devices[column]} of {gpu}{near}"
                )
        if len(cells) < len(devices):
            raise output.error(
                number, f"{len(cells)} cells", f"{len(devices)}, one per device of the header"
            )
        return number, cells[: len(devices)]
    raise SpecError(
        f"{output.at(start)}: the header names {gpu}, and no row does; is the output cut off?"
    )


def _refuse_contradictions(
    output: Output, gpus: list[str], cells: tuple[tuple[str, ...], ...], lines: dict[str, int]
) -> None:
    for i, gpu in enumerate(gpus):
        if cells[i][i] != SELF:
            raise output.error(lines[gpu], cells[i][i], f"{SELF} from {gpu} to itself")
        for j in range(i):
            if SELF in (cells[i][j], cells[j][i]):
                raise output.error(lines[gpu], SELF, f"how {gpu} reaches {gpus[j]}")
            if cells[i][j] != cells[j][i]:
                raise output.error(
                    lines[gpu],
                    f"{cells[i][j]} from {gpu} to {gpus[j]}",
                    f"the same as back, which is {shorten(cells[j][i])} (line {lines[gpus[j]]})",
                )


def _legend(output: Output) -> dict[str, str]:
    """Return the names of the network cards, as the legend gives them."""
    matches = (_LEGEND_NIC.fullmatch(line) for line in output.lines)
    return {match[1]: match[2] for match in matches if match is not None}
