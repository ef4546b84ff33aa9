"""Fit collectives inside a node, and see them as the planner does."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopar.calibration.fitting import optimizer
from autopar.calibration.rows import Rows
from autopar.costs.operations.collectives import Network
from autopar.specs import Cluster, Gpu, Link, Links
from autopar.specs.kernels import Kernels

Floats = NDArray[np.float64]

FABRIC = Link(bandwidth_bytes_per_s=50e9, latency_us=4.0)  # of the H100 machines of DeepEP


def fit_collective(rows: Rows, ways: int = 1) -> list[dict[str, Any]]:
    """Return the constants of `CollectiveFit` for every size of a group, for each of 1 or 2 ways.

    Of two ways the faster counts: the first bends, the second is for small messages, in one step in
    which each GPU reads those of all others, so that it starts sooner and moves more.
    """
    optimize = optimizer()
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
