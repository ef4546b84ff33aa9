"""Fit collectives inside a node and the exchange of routed rows."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from kernel_tables import Rows, Tables, joined
from numpy.typing import NDArray

from autopar.costs.operations.collectives import Network
from autopar.specs import Cluster, Gpu, Link, Links
from autopar.specs.kernels import Kernels

Floats = NDArray[np.float64]

NCCL = {"all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter"}
FABRIC = Link(bandwidth_bytes_per_s=50e9, latency_us=4.0)  # of the H100 machines of DeepEP


@dataclass(frozen=True, slots=True)
class Exchanged:
    """Measured dispatches and combines: bytes of routed rows of one rank, copies, ranks, `us`."""

    rows: Rows
    sends_once: bool


def measured(tables: Tables, kind: str, custom: tuple[str, str], nccl: str) -> Rows | None:
    """Return the times of a collective; of an all-reduce the better of NCCL's and the custom."""
    rows = tables.collective(NCCL[kind], "nccl", nccl)
    own = tables.collective("custom", *custom) if kind == "all_reduce" else None
    if rows is None or own is None:
        return rows
    both = joined(rows, own)
    keys = both.number("gpus") * 1e15 + both.number("bytes")
    values, index = np.unique(keys, return_inverse=True)
    best = np.full(len(values), np.inf)
    np.minimum.at(best, index, both.number("us"))
    first = np.array([np.flatnonzero(index == i)[0] for i in range(len(values))])
    chosen = both.where(first)
    return Rows({**chosen.columns, "us": best})


def fit_collective(rows: Rows, ways: int = 1) -> list[dict[str, Any]]:
    """Return the constants of `CollectiveFit` for every size of a group, for each of 1 or 2 ways.

    Of two ways the faster counts: the first bends, the second is for small messages, in one step in
    which each GPU reads those of all others, so that it starts sooner and moves more.
    """
    optimize: Any = importlib.import_module("scipy.optimize")
    names = ("gpus", "start_us", "bandwidth_bytes_per_s", "bend_us", "bend_bytes")
    found: list[dict[str, Any]] = [{name: [] for name in names[: 5 - 2 * i]} for i in range(ways)]
    for gpus in np.unique(rows["gpus"]):
        part = rows.where(rows["gpus"] == gpus)
        size, logs = part.number("bytes"), np.log(part.number("us"))

        def misses(x: Floats, size: Floats = size, logs: Floats = logs) -> Floats:
            start, rate, bend, knee = np.exp(x[:4])
            modelled = start + size / rate + bend * np.minimum(1.0, size / knee)
            if ways == 2:
                modelled = np.minimum(modelled, np.exp(x[4]) + size / np.exp(x[5]))
            missed: Floats = np.log(modelled) - logs
            return missed

        done = min(
            (
                optimize.least_squares(
                    misses,
                    (start, np.log(2e5), 2.0, np.log(knee), 1.1, np.log(1e5))[: 4 + 2 * (ways - 1)],
                    loss="soft_l1",
                    f_scale=0.05,
                    bounds=(
                        (-2.0, 5.0, -4.0, 8.0, -2.0, 5.0)[: 4 + 2 * (ways - 1)],
                        (6.0, 16.0, 8.0, 20.0, 6.0, 16.0)[: 4 + 2 * (ways - 1)],
                    ),
                )
                for knee in (1e5, 1e6, 5e6)
                for start in (1.5, 2.5)[:ways]
            ),
            key=lambda found: found.cost,
        )
        start, rate, bend, knee, *small = np.exp(done.x).tolist()
        values = [(int(gpus), start, rate * 1e6, bend, knee)]
        if small:
            values.append((int(gpus), small[0], small[1] * 1e6, 0.0, 0.0))
        for constants, numbers in zip(found, values, strict=True):
            for name, number in zip(constants, numbers, strict=False):
                constants[name].append(number)
    return found


def exchanges(tables: Tables, version: str) -> list[Exchanged]:
    """Return the measured dispatches and combines of DeepEP, low-latency and normal.

    Normal kernels with 20 or 24 processors, as many as engines give them; FP8 on the way out, BF16
    on the way back. Normal kernels on 8 nodes are left out: there the way out takes longer than the
    way back with twice the bytes.
    """
    found = []
    low = tables.read("comm", "sglang", version, "wideep_deepep_ll_perf")
    if low is not None:
        parts = [
            _exchanged(low, low.number("dispatch_avg_t_us"), 1.0),
            _exchanged(low, low.number("combine_avg_t_us"), 2.0),
        ]
        found.append(Exchanged(joined(*parts), sends_once=False))
    normal = tables.read("comm", "sglang", version, "wideep_deepep_normal_perf")
    if normal is not None:
        normal = normal.where(np.isin(normal["dispatch_sms"], [20, 24]) & (normal["node_num"] < 8))
        out = normal.number("dispatch_transmit_us") + normal.number("dispatch_notify_us")
        back = normal.number("combine_transmit_us") + normal.number("combine_notify_us")
        parts = [_exchanged(normal, out, 1.0), _exchanged(normal, back, 2.0)]
        found.append(Exchanged(joined(*parts), sends_once=True))
    return found


def _exchanged(rows: Rows, us: Floats, width: float) -> Rows:
    size = rows.number("num_token") * rows.number("num_topk") * rows.number("hidden_size") * width
    found = Rows(
        {
            "bytes": size,
            "copies": rows.number("num_topk"),
            "nodes": rows.number("node_num"),
            "us": us,
        }
    )
    return found.where(rows.number("num_token") <= 16_384)


def network(
    gpu: Gpu, kernels: dict[str, Any], links_gb_per_s: float, nodes: int, gpus_per_node: int
) -> Network:
    """Return the network of nodes of a GPU with these collectives."""
    link = Link(bandwidth_bytes_per_s=links_gb_per_s * 1e9, latency_us=0.0)
    fitted = gpu.model_copy(update={"kernels": Kernels.model_validate(kernels)})
    return Network.of(
        Cluster(
            schema=1,
            name="measured",
            gpu=fitted,
            num_nodes=nodes,
            gpus_per_node=gpus_per_node,
            links=Links(node=link, domain=link, fabric=FABRIC),
        )
    )


def fit_exchange(
    measured_rows: Exchanged,
    gpus_per_node: int,
    predict: Callable[[dict[str, Any], Rows, int], Floats],
    fixed: dict[str, Any],
) -> dict[str, Any]:
    """Return the constants of one `ExchangeFit`; `fixed` are those that one node does not show."""
    optimize: Any = importlib.import_module("scipy.optimize")
    rows = measured_rows.rows
    logs = np.log(rows.number("us"))
    several = bool(np.any(rows["nodes"] > 1))

    def constants(x: Floats) -> dict[str, Any]:
        values = dict(zip(("start_us", "link_fraction"), np.exp(x[:2]).tolist(), strict=True))
        names = ("fabric_fraction", "fabric_steps", "doubling_steps")
        fabric = dict(zip(names, np.exp(x[2:]).tolist(), strict=True)) if several else fixed
        return {**values, **fabric, "sends_once": measured_rows.sends_once}

    def misses(x: Floats) -> Floats:
        return np.log(predict(constants(x), rows, gpus_per_node)) - logs

    start = (2.7, -0.6, -0.1, 0.7, 0.7) if several else (2.7, -0.6)
    done = optimize.least_squares(misses, start, loss="soft_l1", f_scale=0.1)
    return constants(done.x)
