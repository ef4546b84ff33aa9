"""Score plans with the peer's measured kernels; runs inside the peer's environment.

    ENV/bin/python benchmarks/peer/peer_score.py [PLANS.json] > scores.json

Reads a JSON list of plans (standard input without a file), writes a JSON list of scores in the same
order. What a plan holds and what a score means: benchmarks/peer/README.md.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from peer_sdk import Peer, Point, gpus_of, parallel_of, said

ROLES = ("prefill", "decode")


class PlanError(ValueError):
    """A plan lacks a field or contradicts itself."""


def peer_for(plan: dict[str, Any], peers: dict[tuple[Any, ...], Peer]) -> Peer:
    """Return the evaluator of a plan's model, system, backend and workload, made once."""
    key = tuple(plan[name] for name in ("model", "system", "backend", "isl", "osl"))
    if key not in peers:
        peers[key] = Peer(*key)
    return peers[key]


def degrees_of(plan: dict[str, Any], peer: Peer) -> tuple[int, ...]:
    """Return the peer's parallel choice of a plan or of one role of it.

    Raises PlanError where a dense model has attention groups: the peer has no such model and would
    price it as if the groups cost nothing.
    """
    parallel = parallel_of(plan)
    if peer.is_moe:
        return parallel
    if parallel[2] > 1:
        raise PlanError("data-parallel attention in a dense model: unknown to the peer")
    return (*parallel[:3], 1, 1, 1)


def batch_of(plan: dict[str, Any], slots: int) -> int:
    """Sequences per attention rank and pipeline slot: `batch`, or `concurrency` over the slots.

    Rounded down, at least 1: the peer knows whole sequences only, and fewer of them never need
    more memory or time than the plan claims to have.
    Raises PlanError where the plan has neither.
    """
    if "batch" in plan:
        return int(plan["batch"])
    if "concurrency" not in plan:
        raise PlanError("a plan needs `batch` or `concurrency`")
    return max(int(plan["concurrency"] / slots + 1e-9), 1)


def within(plan: dict[str, Any], ttft_ms: float, tpot_ms: float) -> bool:
    """Whether a plan's own limits, where it states them, hold."""
    limits = float(plan.get("ttft_ms", "inf")), float(plan.get("tpot_ms", "inf"))
    return ttft_ms <= limits[0] and tpot_ms <= limits[1]


def score_aggregated(plan: dict[str, Any], peer: Peer) -> dict[str, Any]:
    """Score one aggregated plan.

    Of the prompt tokens per mixed step that the peer's sweep tries, the best that meets the limits
    counts, the smallest where none does.
    """
    parallel = degrees_of(plan, peer)
    per_replica = gpus_of(parallel)
    replicas = int(plan.get("replicas") or plan["num_gpus"] // per_replica)
    if replicas < 1 or replicas * per_replica > plan["num_gpus"]:
        raise PlanError(f"{replicas} replicas of {per_replica} GPUs on {plan['num_gpus']}")
    batch = batch_of(plan, replicas * parallel[1] * parallel[2])
    asked = [int(plan["ctx_tokens"])] if "ctx_tokens" in plan else peer.ctx_choices()
    tried = [
        peer.aggregated(parallel, batch, tokens) for tokens in asked if peer.is_tried(batch, tokens)
    ]
    if not tried:
        raise PlanError(f"batch {batch}: the peer tries no prompt tokens per step with it")
    good = [p for p in tried if p.fits and within(plan, p.ttft_ms, p.tpot_ms)]
    point = max(good, key=lambda p: p.tokens_per_s) if good else tried[0]
    tokens_per_s = point.tokens_per_s * replicas
    return {
        "status": "scored",
        "mode": "agg",
        "batch": batch,
        "ctx_tokens": point.ctx_tokens,
        "replicas": replicas,
        "concurrency": point.concurrency * replicas,
        "idle_gpus": plan["num_gpus"] - replicas * per_replica,
        "ttft_ms": point.ttft_ms,
        "tpot_ms": point.tpot_ms,
        "mean_step_ms": point.mean_step_ms,
        "tokens_per_s": tokens_per_s,
        "tokens_per_s_per_gpu": tokens_per_s / plan["num_gpus"],
        "tokens_per_s_per_user": 1000 / point.tpot_ms if point.tpot_ms else None,
        "fits": point.fits,
        "meets_limits": point.fits and within(plan, point.ttft_ms, point.tpot_ms),
        **evidence(point, peer, parallel),
        **({"steps": point.steps, "operations_us": point.operations} if plan.get("detail") else {}),
    }


def score_disaggregated(plan: dict[str, Any], peer: Peer) -> dict[str, Any]:
    """Score one plan with prefill and decode workers, matched as the peer matches their rates."""
    replicas = int(plan.get("replicas") or 1)
    points: dict[str, Point] = {}
    gpus = 0
    for role in ROLES:
        part = plan[role]
        parallel = degrees_of(part, peer)
        workers = int(part["workers"])
        gpus += workers * gpus_of(parallel)
        slots = replicas * workers * parallel[1] * parallel[2]
        batch = int(part.get("batch", 1)) if role == "prefill" else batch_of(part, slots)
        points[role] = peer.worker(role, parallel, batch)
    if gpus * replicas > plan["num_gpus"]:
        raise PlanError(f"{replicas} x {gpus} GPUs on {plan['num_gpus']}")
    task = peer.disagg
    ttft_ms = points["prefill"].ttft_ms * task.autoscale_ttft_correction_factor
    tpot_ms = points["decode"].tpot_ms
    capacity = {
        "prefill": plan["prefill"]["workers"] * task.rate_match_prefill_degradation,
        "decode": plan["decode"]["workers"] * task.rate_match_decode_degradation,
    }
    rates = {role: points[role].requests_per_s * capacity[role] * replicas for role in ROLES}
    tokens_per_s = min(rates.values()) * plan["osl"]
    fits = all(point.fits for point in points.values())
    # Its search asks for less than the limit, ours for at most it.
    meets = fits and within(plan, ttft_ms, tpot_ms)
    return {
        "status": "scored",
        "mode": "disagg",
        "replicas": replicas,
        "idle_gpus": plan["num_gpus"] - gpus * replicas,
        "concurrency": points["decode"].concurrency * plan["decode"]["workers"] * replicas,
        "requests_per_s": rates,
        "ttft_ms": ttft_ms,
        "tpot_ms": tpot_ms,
        "tokens_per_s": tokens_per_s,
        "tokens_per_s_per_gpu": tokens_per_s / plan["num_gpus"],
        "tokens_per_s_per_user": 1000 / tpot_ms if tpot_ms else None,
        "fits": fits,
        "meets_limits": meets,
        "by_its_rules": all(peer.allows(degrees_of(plan[role], peer)) for role in ROLES),
        **{role: evidence(points[role], peer, degrees_of(plan[role], peer)) for role in ROLES},
    }


def evidence(point: Point, peer: Peer, parallel: tuple[int, ...]) -> dict[str, Any]:
    """Return memory per GPU and what the numbers rest on.

    crosses_nodes: a group of one stage is wider than a node, so its collectives are the one-node
    curve scaled by bandwidth (the peer still calls them measured). by_its_rules: its own search
    could have tried these degrees, given longer lists.
    """
    stage_gpus = gpus_of(parallel) // parallel[1]
    return {
        "memory_gib": point.memory,
        "capacity_gib": point.capacity_gib,
        "kv_budget_gib": point.kv_budget_gib,
        "does_not_fit": point.does_not_fit,
        "kv_does_not_fit": point.kv_does_not_fit,
        "crosses_nodes": stage_gpus > peer.gpus_per_node,
        "by_its_rules": peer.allows(parallel),
        "not_measured": point.not_measured,
        "moe_comm": point.moe_comm,
        "substitutes": point.substitutes,
        "engine_version": peer.version,
    }


def score(plan: dict[str, Any], peers: dict[tuple[Any, ...], Peer]) -> dict[str, Any]:
    """Score one plan; what the peer has no data for comes back as status `cannot`, not as 0."""
    label = {"name": plan["name"]} if "name" in plan else {}
    try:
        peer = peer_for(plan, peers)
        mode = plan.get("mode", "agg")
        found = (
            score_disaggregated(plan, peer) if mode == "disagg" else score_aggregated(plan, peer)
        )
    except PlanError as error:
        return {**label, "status": "bad plan", "error": str(error)}
    except Exception as error:  # noqa: BLE001 - the peer raises a dozen types for a data miss
        return {**label, "status": "cannot", "error": said(error)}
    return {**label, **found}


def main() -> int:
    """Score the plans of a file or of standard input."""
    parser = argparse.ArgumentParser(description="score plans with the peer's measured kernels")
    parser.add_argument("plans", nargs="?", type=Path, help="JSON list; standard input without it")
    options = parser.parse_args()
    text = options.plans.read_text(encoding="utf-8") if options.plans else sys.stdin.read()
    peers: dict[tuple[Any, ...], Peer] = {}
    json.dump([score(plan, peers) for plan in json.loads(text)], sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
