"""Host files: the nodes of each server in the order of its ranks, as mpirun and DeepSpeed read."""

from collections.abc import Sequence

from autopar.export.launch import Written
from autopar.export.options import Options
from autopar.export.ranks import Rank


def hostfiles(
    ranks: Sequence[Rank], roles: Sequence[str], options: Options, gpus_per_node: int
) -> list[Written]:
    """Return one file per server: `host slots=n`, with the GPUs of its ranks as a comment."""
    files = []
    for server, role in enumerate(roles):
        lines: list[str] = []
        node, gpus = -1, list[int]()
        for rank in [*(r for r in ranks if r.server == server), None]:
            here = -1 if rank is None else rank.gpu // gpus_per_node
            if rank is None or here != node:
                if gpus:
                    lines.append(_line(options.host(node), gpus))
                node, gpus = here, []
            if rank is not None:
                gpus.append(rank.gpu % gpus_per_node)
        name = f"{role}-hostfile-{server}.txt" if role else f"hostfile-{server}.txt"
        files.append(Written(name, "".join(lines)))
    return files


def _line(host: str, gpus: list[int]) -> str:
    return f"{host} slots={len(gpus)}  # CUDA_VISIBLE_DEVICES={','.join(map(str, gpus))}\n"
