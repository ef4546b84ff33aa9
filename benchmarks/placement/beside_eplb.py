"""Expert placement by autopar and by EPLB, on the same loads, with proofs, times and targets.

    python benchmarks/placement/beside_eplb.py --eplb EPLB --eplb-python ENV/bin/python

Writes results/placement.md and .json. One core: threads of numpy and torch are held to one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is imported

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np  # noqa: E402
from eplb_report import report  # noqa: E402
from expert_cases import SEED, Case, cases  # noqa: E402
from measure import RESULTS, describe_machine, machine, write  # noqa: E402

from autopar.placement.greedy import greedy_rule  # noqa: E402
from autopar.placement.machine import (  # noqa: E402
    IntArray,
    LayerTask,
    Machine,
    gpu_loads,
)
from autopar.placement.options import Options  # noqa: E402
from autopar.placement.placing import placed  # noqa: E402
from autopar.placement.replan import num_moves, replanned  # noqa: E402
from autopar.placement.starts import has_twins  # noqa: E402
from autopar.placement.synthetic import (  # noqa: E402
    clustered_routing,
    drifted,
    made_up,
    windows,
)
from autopar.placement.traffic import coactivation, gathered, nodes_per_token  # noqa: E402

Json = dict[str, Any]
_TOKENS = 16_384  # of routing that is planned on, and as many that are held out
_RUNS = 3  # of each timing that takes less than a second; the median counts


def main() -> int:
    """Run everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--eplb", type=Path, required=True, help="a checkout of deepseek-ai/EPLB")
    parser.add_argument("--eplb-python", type=Path, required=True, help="a Python with torch")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    listed = cases()
    routings = _routings()
    peers = _run_eplb(given.eplb, given.eplb_python, listed, routings)
    found: Json = {
        "facts": describe_machine(machine()),
        "eplb": _commit(given.eplb),
        "seed": SEED,
        "balance": [
            _balance(case, peer) for case, peer in zip(listed, peers[: len(listed)], strict=True)
        ],
        "traffic": [
            _traffic(*routing, peer[0])
            for routing, peer in zip(routings, peers[len(listed) :], strict=True)
        ],
        "replanning": [row for size in _REPLANNED for row in _replanning(*size)],
        "windows": [row for size in _REPLANNED[:2] for row in _windows(size[0], *size[2:])],
        "shell": _from_the_shell(),
    }
    write(given.out / "placement.md", report(found))
    (given.out / "placement.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def _run_eplb(
    folder: Path, python: Path, listed: list[Case], routings: list[tuple[Any, ...]]
) -> list[tuple[IntArray, float]]:
    """Return EPLB's map and seconds for every case and every routing."""
    arrays: dict[str, Any] = {}
    work = [(case.loads, case.machine, case.num_groups) for case in listed]
    work += [(_counts(routing), gpus, 1) for _, gpus, routing, _ in routings]
    for index, (loads, gpus, groups) in enumerate(work):
        nodes = gpus.num_nodes if groups > 1 else 1
        arrays[f"loads_{index}"] = loads
        arrays[f"shape_{index}"] = np.array([gpus.num_slots, gpus.num_gpus, groups, nodes])
    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(temporary, "in.npz"), Path(temporary, "out.npz")
        np.savez(source, **arrays)
        script = Path(__file__).with_name("run_eplb.py")
        subprocess.run(
            [str(python), str(script), str(folder), str(source), str(target)], check=True
        )
        out = np.load(target)
        return [(out[f"map_{i}"], float(out[f"seconds_{i}"])) for i in range(len(work))]


def _commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown commit"


def _timed(work: Any) -> tuple[Any, float]:
    """Return a result and the median of its times, s."""
    times, result = [], None
    for _ in range(_RUNS):
        started = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started)
        if times[-1] > 1:
            break
    return result, float(np.median(times))


def _balance(case: Case, peer: tuple[IntArray, float]) -> Json:
    print(case.name, file=sys.stderr)
    loads, machine = case.loads, case.machine
    theirs, peer_s = peer
    rule, rule_s = _timed(lambda: greedy_rule(loads, machine))
    quick, quick_s = _timed(lambda: placed(loads, machine, case.rules, Options(effort="quick")))
    started = time.perf_counter()
    layers = placed(loads, machine, case.rules)
    proved_s = time.perf_counter() - started
    top = np.array([layer.max_load for layer in layers])
    bound = np.array([layer.bound for layer in layers])
    peer_top = gpu_loads(loads, theirs, machine).max(axis=1)
    slots = np.array([layer.slots for layer in layers])
    twins = has_twins(theirs, machine)
    worse = top > peer_top * (1 + 1e-6)  # EPLB computes in single precision
    return {
        "case": case.name,
        "kind": case.kind,
        "model": case.model,
        "slots": machine.num_slots,
        "gpus": machine.num_gpus,
        "layers": case.num_layers,
        "has_room": case.has_room,
        "gap": float(top.sum() / bound.sum() - 1),
        "worst_gap": max(layer.gap for layer in layers),
        "quick_gap": float(sum(layer.max_load for layer in quick) / bound.sum() - 1),
        "eplb_gap": float(peer_top.sum() / bound.sum() - 1),
        "rule_gap": float(gpu_loads(loads, rule, machine).max(axis=1).sum() / bound.sum() - 1),
        "less_than_eplb": float(1 - top.sum() / peer_top.sum()),
        "proved_layers": int(sum(layer.gap <= 1e-9 for layer in layers)),
        "our_twins": int(has_twins(slots, machine).sum()),
        "eplb_twins": int(twins.sum()),
        "worse_layers": int(worse.sum()),
        "worse_without_twins": int((worse & ~twins).sum()),
        "worse_and_proved": int((worse & (bound > peer_top * (1 + 1e-6))).sum()),
        "quick_ms_per_layer": quick_s / case.num_layers * 1e3,
        "quick_s": quick_s,
        "ms_per_layer": proved_s / case.num_layers * 1e3,
        "eplb_ms_per_layer": peer_s / case.num_layers * 1e3,
        "rule_ms_per_layer": rule_s / case.num_layers * 1e3,
    }


def _routings() -> list[tuple[str, Machine, IntArray, IntArray]]:
    """Return clustered routing: a name, a machine, tokens planned on and tokens held out."""
    made = []
    for experts, per_token, gpus, nodes, slots, topics in (
        (128, 8, 32, 4, 128, 16),
        (256, 8, 32, 4, 256, 32),
        (256, 8, 64, 8, 256, 32),
        (256, 8, 32, 4, 288, 32),
    ):
        tokens = clustered_routing(2 * _TOKENS, experts, per_token, topics, SEED)
        name = (
            f"{experts} experts, {per_token} per token, {slots} slots, {gpus} GPUs, {nodes} nodes"
        )
        machine = Machine(gpus, slots // gpus, nodes)
        made.append((name, machine, tokens[:_TOKENS], tokens[_TOKENS:]))
    return made


def _counts(routing: IntArray) -> Any:
    num_experts = int(routing.max()) + 1
    return np.bincount(routing.ravel(), minlength=num_experts).astype(np.float64)[None]


def _traffic(
    name: str, machine: Machine, routing: IntArray, held_out: IntArray, theirs: IntArray
) -> Json:
    loads = _counts(routing)
    mean = loads.sum() / machine.num_gpus
    balanced = placed(loads, machine)[0]
    task = LayerTask(loads[0], machine)
    started = time.perf_counter()
    together = coactivation(routing, loads.shape[1])
    slots = gathered(task, balanced.slots, together, balanced.max_load * 1.01)
    seconds = time.perf_counter() - started
    plans = {"eplb": theirs[0], "balanced": balanced.slots, "gathered": slots}
    return {
        "case": name,
        "seconds": seconds,
        "max_over_mean": {
            key: float(gpu_loads(loads, plan[None], machine).max() / mean)
            for key, plan in plans.items()
        },
        "nodes_per_token": {
            key: nodes_per_token(plan, routing, machine) for key, plan in plans.items()
        },
        "held_out": {key: nodes_per_token(plan, held_out, machine) for key, plan in plans.items()},
    }


_REPLANNED = (("DeepSeek-V3", 16, 256, 288, 32), ("DeepSeek-V3", 16, 256, 320, 64))


def _replanning(model: str, layers: int, experts: int, slots: int, gpus: int) -> list[Json]:
    machine, rows = Machine(gpus, slots // gpus), []
    for kind in ("mild", "lognormal", "dirichlet"):
        loads = made_up(kind, layers, experts, SEED)
        current = np.array([layer.slots for layer in placed(loads, machine)])
        for drift in (0.05, 0.2, 0.5):
            later = drifted(loads, drift, SEED + 1)
            full = placed(later, machine, options=Options(effort="quick"))
            tasks = [
                LayerTask(load, machine, current=now)
                for load, now in zip(later, current, strict=True)
            ]
            most = int(0.05 * slots * layers)
            started = time.perf_counter()
            found = np.array(replanned(tasks, [layer.bound * 1.001 for layer in full], most))
            seconds = time.perf_counter() - started
            sums = [
                float(gpu_loads(later, place, machine).max(axis=1).sum())
                for place in (current, found, np.array([layer.slots for layer in full]))
            ]
            moves = sum(num_moves(a, b, gpus) for a, b in zip(found, current, strict=True))
            rows.append(
                {
                    "case": f"{model} {slots}/{gpus} {kind}",
                    "drift": drift,
                    "stale": sums[0] / later.sum() * gpus,
                    "replanned": sums[1] / later.sum() * gpus,
                    "free": sums[2] / later.sum() * gpus,
                    "recovered": (sums[0] - sums[1]) / (sums[0] - sums[2]),
                    "moved": moves / (slots * layers),
                    "ms_per_layer": seconds / layers * 1e3,
                }
            )
    return rows


def _windows(model: str, experts: int, slots: int, gpus: int) -> list[Json]:
    """Plans of eight layers from 16 windows, on these and on 16 later ones."""
    machine, rows = Machine(gpus, slots // gpus), []
    loads = made_up("lognormal", 8, experts, SEED)
    for drift, tokens in ((0.0, 4096), (0.0, 131_072), (0.05, 131_072), (0.2, 131_072)):
        counts = windows(loads, 32, tokens * 8, drift, SEED)
        planned = counts[:16].sum(axis=0).astype(np.float64)
        ours = np.array([layer.slots for layer in placed(planned, machine)])
        plans = {
            "trivial": np.broadcast_to(np.arange(slots) % experts, ours.shape),
            "rule": greedy_rule(planned, machine),
            "autopar": ours,
        }
        row: Json = {"case": f"{model} {slots}/{gpus}", "drift": drift, "tokens": tokens}
        for part, some in (("planned", counts[:16]), ("held_out", counts[16:])):
            row[part] = {
                key: float(
                    np.mean(
                        [
                            gpu_loads(window.astype(np.float64), plan, machine).max(axis=1).sum()
                            / window.sum()
                            * gpus
                            for window in some
                        ]
                    )
                )
                for key, plan in plans.items()
            }
        rows.append(row)
    return rows


def _from_the_shell() -> Json:
    """Whole DeepSeek-V3 as a user runs it: from a file, through to JSON."""
    loads = np.round(made_up("lognormal", 58, 256, SEED) * 100).astype(int).tolist()
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "loads.json")
        source.write_text(json.dumps(loads), encoding="utf-8")
        command = [sys.executable, "-m", "autopar", "place", str(source), "--gpus", "32"]
        command += ["--slots", "288", "--json", "-o", str(Path(temporary, "out.json"))]
        _, seconds = _timed(lambda: subprocess.run(command, check=True, capture_output=True))
        answer = json.loads(Path(temporary, "out.json").read_text(encoding="utf-8"))
    return {"wall_s": seconds, "place_s": answer["solver"]["wall_s"], "gap": answer["gap"]}


if __name__ == "__main__":
    sys.exit(main())
