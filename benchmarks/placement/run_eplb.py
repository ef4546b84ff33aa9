"""Run EPLB on loads: `python run_eplb.py EPLB_FOLDER IN.npz OUT.npz`, in an environment with torch.

IN has, per case i, loads_i of shape (layers, experts) and shape_i = (slots, GPUs, groups, nodes).
OUT has map_i of shape (layers, slots) and seconds_i, of one run after a first one for warming up.
"""

import sys
import time
from importlib import import_module
from typing import Any

import numpy as np


def main() -> int:
    """Place every case."""
    folder, source, target = sys.argv[1:]
    sys.path.insert(0, folder)
    eplb, torch = import_module("eplb"), import_module("torch")

    torch.set_num_threads(1)
    given = np.load(source)
    found: dict[str, Any] = {}
    for index in range(len(given.files) // 2):
        loads = torch.from_numpy(given[f"loads_{index}"])
        slots, gpus, groups, nodes = (int(n) for n in given[f"shape_{index}"])
        eplb.rebalance_experts(loads[:1], slots, groups, nodes, gpus)
        started = time.perf_counter()
        placed = eplb.rebalance_experts(loads, slots, groups, nodes, gpus)[0]
        found[f"seconds_{index}"] = np.array(time.perf_counter() - started)
        found[f"map_{index}"] = placed.numpy()
    np.savez(target, **found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
