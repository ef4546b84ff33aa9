"""What a matrix of `nvidia-smi topo -m` says about the links between the GPUs of a node."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autopar.ingest.cluster.findings import Matrix, Node
from autopar.ingest.cluster.topo import PCIE, num_nvlinks

_NEAR = ("PIX", "PXB")  # the same PCIe switch, or one next to it


@dataclass(frozen=True, slots=True)
class Wiring:
    """The links of one node.

    switched: all GPUs see each other over `nvlinks` NVLinks. mesh: all do, and the NVLinks of one
    GPU are dealt out to the others, `nvlinks` in sum. cube: they are dealt out to `reach` of the
    others, all of every GPU, and join all GPUs, as in the hybrid cube mesh of DGX-1. parts: NVLink
    joins groups of `part_gpus`. uneven: some GPUs have NVLink and some have not, or not to all.
    pcie: none has. alone: one GPU. worst: the longest way over PCIe between two GPUs, empty where
    all have NVLink. weak: the GPUs with fewer NVLinks than the others. num_nics: network cards
    near a GPU, or all where none is.
    """

    kind: Literal["switched", "mesh", "cube", "parts", "uneven", "pcie", "alone"]
    nvlinks: int | None = 0
    part_gpus: int = 0
    worst: str = ""
    weak: tuple[int, ...] = ()
    num_nics: int | None = None
    reach: int = 0


def wiring(node: Node, links_of_gpu: int | None) -> Wiring | None:
    """Return the wiring of a node, None if nothing was read.

    links_of_gpu: NVLinks of a whole GPU of this kind, None if that is not known.
    """
    matrix = node.matrix
    if matrix is None:
        return None
    chosen = [i for i, gpu in enumerate(matrix.gpus) if not node.indices or gpu in node.indices]
    cells = [[matrix.cells[i][j] for j in chosen] for i in chosen]
    gpus = [matrix.gpus[i] for i in chosen]
    nics = _num_nics(matrix, chosen)
    if len(gpus) == 1:
        return Wiring("alone", num_nics=nics)
    pairs = [cells[i][j] for i in range(len(gpus)) for j in range(i)]
    has_nvlink = [cell.startswith("NV") for cell in pairs]
    worst = max((cell for cell in pairs if cell in PCIE), key=PCIE.index, default="")
    if not any(has_nvlink):
        return Wiring("pcie", worst=worst, num_nics=nics)
    if all(has_nvlink):
        return _complete(cells, gpus, links_of_gpu, nics)
    parts = _parts(cells)
    size = len(parts[0])
    is_whole = all(
        len(part) == size
        and all(cells[i][j].startswith("NV") for i in part for j in part if i != j)
        for part in parts
    )
    if is_whole and size > 1:
        links = [num_nvlinks(cells[i][j]) for part in parts for i in part for j in part if i != j]
        fewest = None if None in links else min(n for n in links if n is not None)
        return Wiring("parts", fewest, size, worst, num_nics=nics)
    reached = [sum(cell.startswith("NV") for cell in row) for row in cells]
    weak = tuple(gpu for gpu, n in zip(gpus, reached, strict=True) if n < max(reached))
    sums = {sum(num_nvlinks(c) or 0 for c in row if c.startswith("NV")) for row in cells}
    shape: Literal["cube", "uneven"] = "uneven"
    if len(parts) == 1 and not weak and sums == {links_of_gpu}:
        shape = "cube"
    return Wiring(shape, min(sums), reach=max(reached), worst=worst, weak=weak, num_nics=nics)


def _complete(
    cells: Sequence[Sequence[str]],
    gpus: Sequence[int],
    links_of_gpu: int | None,
    nics: int | None,
) -> Wiring:
    """Return the wiring of GPUs that all have NVLink to all others."""
    counts = [
        [num_nvlinks(cell) for j, cell in enumerate(row) if j != i] for i, row in enumerate(cells)
    ]
    known = [[n for n in row if n is not None] for row in counts]
    if any(None in row for row in counts):
        return Wiring("switched", None, num_nics=nics)
    sums = [sum(row) for row in known]
    if len(gpus) > 2 and links_of_gpu is not None and max(sums) <= links_of_gpu:
        weak = tuple(gpu for gpu, n in zip(gpus, sums, strict=True) if n < max(sums))
        return Wiring("mesh", min(sums), weak=weak, num_nics=nics)
    # The links of a pair are those of the GPU that has fewer, so a GPU's own are its best pair's.
    best = [max(row) for row in known]
    weak = tuple(gpu for gpu, n in zip(gpus, best, strict=True) if n < max(best))
    return Wiring("switched", min(best), weak=weak, num_nics=nics)


def _parts(cells: Sequence[Sequence[str]]) -> list[list[int]]:
    """Return the GPUs that NVLink joins, directly or over others."""
    left = set(range(len(cells)))
    parts = []
    while left:
        part, front = set[int](), {min(left)}
        while front:
            part |= front
            front = {j for i in front for j in left - part if cells[i][j].startswith("NV")}
        left -= part
        parts.append(sorted(part))
    return parts


def _num_nics(matrix: Matrix, chosen: Sequence[int]) -> int | None:
    """Return the network cards that are near one of these GPUs; all of them where none is."""
    if not matrix.nics:
        return None
    near = sum(any(ways[i] in _NEAR for i in chosen) for ways in matrix.nics.values())
    return near or len(matrix.nics)
