"""The same layout on other GPUs of its cluster, idle ones too, where an engine can start it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autopar.export import sglang, trtllm, vllm
from autopar.export.layout import Layout
from autopar.export.options import Engine
from autopar.export.ranks import Rank, megatron_ranks, sglang_ranks, trtllm_ranks, vllm_ranks
from autopar.problem import Plan
from autopar.specs import Cluster

_Ranks = Callable[[Layout, int], tuple[Rank, ...]]
_Placed = Callable[[Layout, tuple[Rank, ...]], tuple[object, str]]
_SERVERS: dict[Engine, tuple[_Ranks, _Placed]] = {
    "vllm": (vllm_ranks, vllm.placed),
    "sglang": (sglang_ranks, sglang.placed),
    "trtllm": (trtllm_ranks, trtllm.placed),
}
_MOST_SHAPES = 6  # of a server over its nodes that are tried first, one after another
_MOST_WORLDS = 4  # numbers of nodes that are tried for one world

Moves = dict[int, int]  # from the GPU of a rank to another one


@dataclass(frozen=True, slots=True)
class _Server:
    """One server of an engine: its layout, and its ranks in the engine's order."""

    layout: Layout
    ranks: tuple[Rank, ...]

    @property
    def gpus(self) -> tuple[int, ...]:
        return tuple(rank.gpu for rank in self.ranks)

    def at(self, gpus: Sequence[int]) -> tuple[Rank, ...]:
        """Return its ranks on other GPUs, in their order."""
        return tuple(replace(r, gpu=gpu) for r, gpu in zip(self.ranks, gpus, strict=True))


def moves_of(layouts: Sequence[Layout], engine: Engine) -> Iterator[Moves]:
    """Yield other GPUs for all ranks, with which servers lie as the engine starts them.

    Those that move the fewest servers come first. layouts: of all roles, which share the cluster.
    Nothing where servers lie so already, and where none of the ways that are tried has room.
    """
    found = _worlds(layouts[0]) if engine == "megatron" else _packings(layouts, engine)
    seen: list[Moves] = []
    for moves in found:
        if moves not in seen:
            seen.append(moves)
            yield moves


def moved(plan: Plan, moves: Moves) -> Plan:
    """Return a plan with its ranks, and the experts that they hold, on other GPUs."""
    gpus = tuple(
        tuple(tuple(moves[gpu] for gpu in stage) for stage in replica) for replica in plan.gpus
    )
    placement = plan.placement.copy()
    if len(placement):
        to = np.arange(1 + max(*moves, int(placement[:, 4].max())))
        to[list(moves)] = list(moves.values())
        placement[:, 4] = to[placement[:, 4]]
    return replace(plan, gpus=gpus, placement=placement)


def _packings(layouts: Sequence[Layout], engine: Engine) -> Iterator[Moves]:
    ranks_of, placed = _SERVERS[engine]
    servers = [
        _Server(layout, ranks_of(layout, replica))
        for layout in layouts
        for replica in range(layout.replicas)
    ]
    if all(not placed(server.layout, server.ranks)[1] for server in servers):
        return
    cluster = layouts[0].cluster
    sizes = {len(server.ranks) for server in servers}
    orders = [servers, sorted(servers, key=lambda server: -len(server.ranks))]
    # Servers of one node lie in one where there is room; only of larger ones all shapes are tried.
    most = _MOST_SHAPES if max(sizes) > cluster.gpus_per_node else 1
    for keep in (True, False):
        for preferred in range(most):
            for order in orders[: len(sizes)]:
                room = _Room(cluster, engine, placed)
                found = room.packed(order, preferred, keep=keep)
                if found is not None:
                    yield found


class _Room:
    """The GPUs of a cluster that no server has yet, by node, as numbers in the node."""

    def __init__(self, cluster: Cluster, engine: Engine, placed: _Placed) -> None:
        self.size = cluster.gpus_per_node
        self.free = [set(range(self.size)) for _ in range(cluster.num_nodes)]
        self.engine: Engine = engine
        self.placed = placed

    def packed(self, servers: Sequence[_Server], preferred: int, *, keep: bool) -> Moves | None:
        """Return GPUs for all servers; None where one has no room. keep: those that can, stay.

        preferred: which shape of a server over nodes is tried first.
        """
        moves: Moves = {}
        rest = []
        for server in servers:
            stays = next((g for g in self._here(server) if self._fits(server, g)), None)
            if keep and stays is not None:
                self._take(server, stays, moves)
            else:
                rest.append(server)
        for server in rest:
            shapes = _shapes(server.layout, self.size, len(self.free), self.engine)
            first = preferred % len(shapes) if shapes else 0
            for shape in (*shapes[first:], *shapes[:first]):
                gpus = self._find(shape)
                if gpus is not None and self._fits(server, gpus):
                    self._take(server, gpus, moves)
                    break
            else:
                return None
        return moves

    def _here(self, server: _Server) -> Iterator[tuple[int, ...]]:
        """Yield where a server lies, in its own order and in that of its GPUs."""
        yield server.gpus
        yield tuple(sorted(server.gpus))

    def _fits(self, server: _Server, gpus: Sequence[int]) -> bool:
        is_free = all(gpu % self.size in self.free[gpu // self.size] for gpu in gpus)
        return is_free and not self.placed(server.layout, server.at(gpus))[1]

    def _take(self, server: _Server, gpus: Sequence[int], moves: Moves) -> None:
        moves.update(zip(server.gpus, gpus, strict=True))
        for gpu in gpus:
            self.free[gpu // self.size].remove(gpu % self.size)

    def _find(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """Return free GPUs with as many on each of several nodes, in the order of ranks.

        One node is that which they fill best. On several they have the same numbers in each where
        that is possible.
        """
        most, last = shape[0], shape[-1]
        nodes = [node for node, free in enumerate(self.free) if len(free) >= most]
        if len(shape) == 1:
            node = min(nodes, key=lambda node: len(self.free[node]), default=None)
            return None if node is None else self._ids(node, sorted(self.free[node])[:most])
        for place, start in enumerate(nodes):
            chosen, common = [start], self.free[start]
            for node in nodes[place + 1 :]:
                if len(chosen) < len(shape) - 1 and len(common & self.free[node]) >= most:
                    chosen.append(node)
                    common = common & self.free[node]
            ends = (n for n, free in enumerate(self.free) if len(common & free) >= last)
            end = next((n for n in ends if n not in chosen), None)
            if end is not None and len(chosen) == len(shape) - 1:
                local = sorted(common, key=lambda gpu: (gpu not in self.free[end], gpu))[:most]
                whole = [gpu for node in chosen for gpu in self._ids(node, local)]
                return (*whole, *self._ids(end, local[:last]))
        if len(nodes) < len(shape) or last < most:
            return None
        return tuple(
            gpu for n in nodes[: len(shape)] for gpu in self._ids(n, sorted(self.free[n])[:most])
        )

    def _ids(self, node: int, local: Sequence[int]) -> tuple[int, ...]:
        return tuple(node * self.size + gpu for gpu in local)


def _shapes(layout: Layout, size: int, num_nodes: int, engine: Engine) -> list[tuple[int, ...]]:
    """Return how many ranks of a server may lie on each of its nodes, the best first.

    Those on which no stage is cut by the end of a node, and then those on few nodes. The last node
    has the rest, with TensorRT-LLM; else it has as many as the others.
    """
    total, stage = layout.pp * layout.stage_gpus, layout.stage_gpus
    found = []
    for most in range(min(size, total), 0, -1):
        count = -(-total // most)
        rest = total - (count - 1) * most
        if count <= num_nodes and (rest == most or engine == "trtllm"):
            is_cut = bool(count > 1 and most % stage and stage % most)
            found.append((is_cut, count, (most,) * (count - 1) + (rest,)))
    return [shape for _, _, shape in sorted(found, key=lambda each: each[:2])[:_MOST_SHAPES]]


def _worlds(layout: Layout) -> Iterator[Moves]:
    """Yield GPUs for one world of all replicas, as many on each node, in either order of ranks.

    Nodes and GPUs that the plan uses come first.
    """
    size, num_nodes = layout.cluster.gpus_per_node, layout.cluster.num_nodes
    orders = [megatron_ranks(layout)]
    if layout.pp > 1 and layout.attn_dp == 1:
        orders.append(megatron_ranks(layout, stages_inside=True))
    used = {rank.gpu for rank in orders[0]}
    nodes = sorted(range(num_nodes), key=lambda node: (not _on(node, used, size), node))
    counts = [n for n in range(-(-len(used) // size), num_nodes + 1) if len(used) % n == 0]
    for count in counts[:_MOST_WORLDS]:
        share = len(used) // count
        gpus = []
        for node in sorted(nodes[:count]):
            mine = range(node * size, (node + 1) * size)
            gpus += sorted(sorted(mine, key=lambda gpu: (gpu not in used, gpu))[:share])
        for ranks in orders:
            yield dict(zip((rank.gpu for rank in ranks), gpus, strict=True))


def _on(node: int, used: set[int], size: int) -> bool:
    return any(gpu in used for gpu in range(node * size, (node + 1) * size))
