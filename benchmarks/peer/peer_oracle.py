"""Enumerate what the peer could choose and find its best plan; runs inside the peer's environment.

    ENV/bin/python benchmarks/peer/peer_oracle.py CASE.json > oracle.json

CASE.json is what run_oracle.py writes. Tried are all sets of degrees that the peer's own rules
allow, pipelines up to 8 stages included (its command line tries none), with the peer's batches, and
near the best of them with every batch. The best must meet both limits and both memory checks and is
counted over the whole cluster, idle GPUs too.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from peer_sdk import Peer, Point, _sweep, gpus_of, said

MAX_STAGES = 8
MAX_DEGREE = 64  # its own widest list (large expert groups)
MAX_TENSOR = 16  # its own widest list
MAX_BATCH = 512  # sweep_agg's max_batch_size
NEAR = 0.95  # sets of degrees this near to the best get every batch


def degrees(num_gpus: int, limit: int) -> list[int]:
    """Powers of two and divisors of the cluster up to a limit."""
    powers = {1 << k for k in range(limit.bit_length())}
    divisors = {n for n in range(1, limit + 1) if num_gpus % n == 0}
    return sorted(n for n in powers | divisors if n <= min(limit, num_gpus))


def parallel_choices(peer: Peer, role: str, num_gpus: int) -> list[tuple[int, ...]]:
    """Every set of degrees that the peer's enumeration allows on this cluster."""
    task = peer.agg if role == "agg" else peer.disagg
    wide = degrees(num_gpus, MAX_DEGREE)
    tensor = [n for n in wide if n <= MAX_TENSOR]
    only_one = wide if peer.is_moe else [1]
    lists = {
        "num_gpu": list(range(1, num_gpus + 1)),
        "tp": tensor,
        "pp": degrees(num_gpus, MAX_STAGES),
        "dp": only_one,
        "moe_tp": [n for n in only_one if n <= MAX_TENSOR],
        "moe_ep": only_one,
        "cp": [1],
    }
    for name, values in lists.items():
        setattr(task, f"{role}_{name}_candidates", values)
    return [tuple(choice) for choice in task.iter_parallel(role)]


def per_gpu(point: Point, num_gpus: int) -> float:
    """Output tokens per second and GPU of the cluster, as many replicas as it holds."""
    return point.tokens_per_s * (num_gpus // point.gpus) / num_gpus


class Search:
    """Aggregated plans of one case."""

    def __init__(self, peer: Peer, case: dict[str, Any], *, every_step: bool = False) -> None:
        """Remember the case; points are counted as they are evaluated.

        every_step: whether the limit on TPOT holds the mean of all steps; the peer leaves out three
        with prompts in them.
        """
        self.peer, self.case, self.every_step = peer, case, every_step
        self.points = 0
        self.no_data: dict[str, str] = {}

    def at(self, parallel: tuple[int, ...], batch: int) -> tuple[Point | None, bool]:
        """Return the best allowed point at this batch, and whether larger batches are worth it."""
        best: Point | None = None
        more = False
        for tokens in self.peer.ctx_choices():
            if not self.peer.is_tried(batch, tokens):
                continue
            point = self.peer.aggregated(parallel, batch, tokens)
            self.points += 1
            if not point.fits:
                break
            tpot_ms = point.mean_step_ms if self.every_step else point.tpot_ms
            more |= tpot_ms <= 1.5 * self.case["tpot_ms"]
            meets = tpot_ms <= self.case["tpot_ms"] and point.ttft_ms <= self.case["ttft_ms"]
            if meets and (best is None or point.tokens_per_s > best.tokens_per_s):
                best = point
        return best, more

    def best_of(
        self, parallel: tuple[int, ...], batches: list[int]
    ) -> tuple[Point | None, int, bool]:
        """Return the best point over batches, its batch, and whether anything fitted."""
        best, at, fitted = None, 0, False
        for batch in batches:
            point, more = self.at(parallel, batch)
            fitted |= more or point is not None
            if point and (best is None or point.tokens_per_s > best.tokens_per_s):
                best, at = point, batch
            if not more and batch > 1:
                break
        return best, at, fitted

    def run(self) -> dict[str, Any]:
        """Search every set of degrees; the finest ones again with every batch."""
        num_gpus = self.case["num_gpus"]
        grid = [b for b in _sweep._DEFAULT_AGG_BATCH_SCHEDULE if b <= MAX_BATCH]  # noqa: SLF001
        found: list[tuple[float, tuple[int, ...], int, Point]] = []
        choices = parallel_choices(self.peer, "agg", num_gpus)
        fitting = 0
        for parallel in choices:
            try:
                point, batch, fitted = self.best_of(parallel, grid)
            except Exception as error:  # noqa: BLE001 - a dozen types of data miss
                self.no_data[_name(parallel)] = said(error)[:160]
                continue
            fitting += fitted
            if point:
                found.append((per_gpu(point, num_gpus), parallel, batch, point))
        found.sort(key=lambda item: -item[0])
        top = found[0][0] if found else 0.0
        finer = [
            self._refine(parallel, batch, grid)
            if score >= NEAR * top
            else (score, parallel, batch, p)
            for score, parallel, batch, p in found
        ]
        finer.sort(key=lambda item: -item[0])
        return {
            "degree_sets": len(choices),
            "without_data": self.no_data,
            "with_room_for_one": fitting,
            "points": self.points,
            "best_on_its_batches": _say(*found[0]) if found else None,
            "best": _say(*finer[0]) if finer else None,
            "ranked": [_say(*item) for item in finer[:12]],
        }

    def _refine(
        self, parallel: tuple[int, ...], batch: int, grid: list[int]
    ) -> tuple[float, tuple[int, ...], int, Point]:
        place = grid.index(batch)
        low = grid[place - 1] + 1 if place else 1
        high = grid[place + 1] if place + 1 < len(grid) else batch + 1
        point, at, _ = self.best_of(parallel, list(range(low, high)))
        if point is None:  # only where every batch below fails and `best_of` stopped early
            point, at = self.at(parallel, batch)[0], batch
        assert point is not None
        return per_gpu(point, self.case["num_gpus"]), parallel, at, point


def _name(parallel: tuple[int, ...]) -> str:
    names = ("tp", "pp", "dp", "etp", "ep")
    return "".join(f"{n}{v}" for n, v in zip(names, parallel[:5], strict=True) if v > 1) or "tp1"


def _degrees(parallel: tuple[int, ...]) -> dict[str, int]:
    names = ("tp", "pp", "attention_dp", "moe_tp", "moe_ep")
    return dict(zip(names, parallel[:5], strict=True))


def _say(score: float, parallel: tuple[int, ...], batch: int, point: Point) -> dict[str, Any]:
    return {
        "tokens_per_s_per_gpu": score,
        **_degrees(parallel),
        "batch": batch,
        "ctx_tokens": point.ctx_tokens,
        "ttft_ms": point.ttft_ms,
        "tpot_ms": point.tpot_ms,
        "mean_step_ms": point.mean_step_ms,
        "memory_gib": point.memory["total"],
        "kv_gib": point.memory["kvcache"],
        "kv_budget_gib": point.kv_budget_gib,
        "substitutes": len(point.substitutes),
    }


def disaggregated(peer: Peer, case: dict[str, Any]) -> dict[str, Any]:
    """Find the best pair of prefill and decode workers and their counts over the whole cluster.

    The counts are free (the peer builds equal replicas of at most 32 workers a role), so this is
    at least as good as its own answer.
    """
    task, num_gpus = peer.disagg, case["num_gpus"]
    no_data: dict[str, str] = {}
    found: dict[str, list[tuple[float, tuple[int, ...], int, Point]]] = {}
    points = 0
    for role in ("prefill", "decode"):
        found[role] = []
        for parallel in parallel_choices(peer, role, num_gpus):
            try:
                best, tried = best_worker(peer, case, role, parallel)
            except Exception as error:  # noqa: BLE001 - a dozen types of data miss
                no_data[f"{role} {_name(parallel)}"] = said(error)[:160]
                continue
            points += tried
            if best:
                found[role].append(best)
    best_pair = match(found, task, num_gpus)
    answer: dict[str, Any] = {"points": points, "without_data": no_data, "best": None}
    if best_pair:
        rate, prefill, decode, counts = best_pair
        answer["best"] = {
            "tokens_per_s_per_gpu": rate * case["osl"] / num_gpus,
            "ttft_ms": prefill[3].ttft_ms * task.autoscale_ttft_correction_factor,
            "tpot_ms": decode[3].tpot_ms,
            "prefill": {**_degrees(prefill[1]), "batch": prefill[2], "workers": counts[0]},
            "decode": {**_degrees(decode[1]), "batch": decode[2], "workers": counts[1]},
        }
    return answer


def best_worker(
    peer: Peer, case: dict[str, Any], role: str, parallel: tuple[int, ...]
) -> tuple[tuple[float, tuple[int, ...], int, Point] | None, int]:
    """Return the fastest worker of one set of degrees within its limit, and the points tried."""
    factor = peer.disagg.autoscale_ttft_correction_factor
    grid = [1] if role == "prefill" else list(_sweep._DEFAULT_DECODE_BATCH_SCHEDULE)  # noqa: SLF001
    best: tuple[float, tuple[int, ...], int, Point] | None = None
    tried = 0
    for finer in (False, True):
        if finer:  # every batch between the best one and the next of its list
            if best is None or best[2] == grid[-1]:
                break
            grid = list(range(best[2] + 1, grid[grid.index(best[2]) + 1]))
        for batch in grid:
            point = peer.worker(role, parallel, batch)
            tried += 1
            if role == "prefill":
                late = point.ttft_ms * factor >= case["ttft_ms"]
            else:
                late = point.tpot_ms >= case["tpot_ms"]
            if late or not point.fits:
                break
            if best is None or point.requests_per_s > best[0]:
                best = (point.requests_per_s, parallel, batch, point)
    return best, tried


def match(
    found: dict[str, list[tuple[float, tuple[int, ...], int, Point]]], task: Any, num_gpus: int
) -> tuple[float, Any, Any, tuple[int, int]] | None:
    """Return the pair of workers and counts with the highest matched rate."""
    best: tuple[float, Any, Any, tuple[int, int]] | None = None
    for prefill in found["prefill"]:
        for decode in found["decode"]:
            size, other = gpus_of(prefill[1]), gpus_of(decode[1])
            for count in range(1, (num_gpus - other) // size + 1):
                mates = (num_gpus - count * size) // other
                rate = min(
                    prefill[0] * count * task.rate_match_prefill_degradation,
                    decode[0] * mates * task.rate_match_decode_degradation,
                )
                if best is None or rate > best[0]:
                    best = (rate, prefill, decode, (count, mates))
    return best


def main() -> int:
    """Enumerate one case."""
    case = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    start = time.perf_counter()
    peer = Peer(case["model"], case["system"], case["backend"], case["isl"], case["osl"])
    loaded = time.perf_counter()
    answer = {"case": case["name"], "agg": Search(peer, case).run()}
    answer["agg"]["best_every_step"] = Search(peer, case, every_step=True).run()["best"]
    answer["agg"]["seconds"] = time.perf_counter() - loaded
    answer["load_seconds"] = loaded - start
    if case.get("disagg"):
        begun = time.perf_counter()
        answer["disagg"] = disaggregated(peer, case)
        answer["disagg"]["seconds"] = time.perf_counter() - begun
    json.dump(answer, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
