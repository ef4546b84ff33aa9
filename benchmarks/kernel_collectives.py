"""Read measured collectives, and fit the exchange of routed rows over nodes."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from kernel_tables import Tables
from numpy.typing import NDArray

from autopar.calibration.rows import Rows, joined

Floats = NDArray[np.float64]

NCCL = {"all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter"}


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
